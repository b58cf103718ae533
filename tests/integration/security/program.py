"""Airflow in one process with everything that it may log switched on: ``python -m tests.integration.security.program``.

Runs every case in a worker's way, with a trigger's wait, and without a worker, on a real metadata database. Everything
that it sees on the way it writes into the folder of its Airflow, masked by nothing. The last lines of its output tell
which cases did not end as they should.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import structlog
from airflow.sdk.log import redact

from astronomer.lab.databricks import LabClient as Databricks
from astronomer.lab.snowflake import LabClient as Snowflake

HOME = Path(os.environ["AIRFLOW_HOME"])
DAG_FILE = "# airflow\nfrom tests.integration.security.cases import dag\nsecurity = dag()\n"

# Airflow shows at DEBUG what it sends to its masker, which is why it is masked there.
TO_THE_MASKER = {"MaskSecret"}


masking = False
"""Whether Airflow's masker is at work; only in cases that cannot do without, and where it knows the secret."""


def shown(text: str) -> str:
    """What is seen of a text."""
    return str(redact(text)) if masking else text


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def listen() -> None:
    """Let every logger say all it knows, unmasked, into one file."""
    handler = logging.FileHandler(HOME / "everything.log")
    handler.setFormatter(_Formatter("%(levelname)s %(name)s %(pathname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    named = [logging.getLogger(name) for name in list(root.manager.loggerDict)]
    for one in [root, *named]:
        one.setLevel(logging.DEBUG if one is root else logging.NOTSET)
        one.disabled, one.propagate = False, True
        if one is not root:
            one.handlers[:] = []
    logging.disable(logging.NOTSET)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # what is in the database is looked for there
    processors = structlog.get_config()["processors"]
    processors[:] = [_structured]


def _structured(_logger: Any, method: str, event: dict[str, Any]) -> Any:
    if type(event.get("msg")).__name__ in TO_THE_MASKER:
        raise structlog.DropEvent
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()[1]
    arguments = event.get("positional_args") or ()
    lines = [f"structlog {method} {event!r}", str(event["event"]) % arguments if arguments else ""]
    if isinstance(error, BaseException):
        lines += traceback.format_exception(error)
    with (HOME / "everything.log").open("a") as file:
        file.writelines(f"{shown(line)}\n" for line in lines)
    raise structlog.DropEvent


def note(what: str, *, into: str = "seen.log", **seen: Any) -> None:
    """Write down what was seen, each thing in the forms in which Airflow would."""
    with (HOME / into).open("a") as file:
        for name, value in seen.items():
            masked = redact(value) if masking else value  # before it is written down, as Airflow does
            file.write(f"{what} {name}: {masked!r}\n{json.dumps(masked, default=str)}\n")


class Runner:
    """Runs the cases one by one."""

    def __init__(self, airflow: Any) -> None:
        self.airflow = airflow
        listen()
        airflow.read(DAG_FILE, "security.py")
        ca = os.environ["LAB_CA"]
        from tests.integration.security import cases

        self.cases = cases
        self.labs = cases.Labs(
            Snowflake(os.environ["LAB_SNOWFLAKE"], ca), Databricks(os.environ["LAB_DATABRICKS"], ca)
        )
        self.wrong: list[str] = []

    def run(self) -> None:
        """Every case in every mode."""
        self._with_workers()
        for case in self.cases.CASES.values():
            if "free" in case.modes:
                self._before(case, "free")
                self._ended(case, "free", self._free(case))
        self.labs.calm()

    def _before(self, case: Any, mode: str) -> None:
        global masking  # noqa: PLW0603  # as it is of a process
        from astronomer.providers.core.hooks import deployment_login
        from astronomer.providers.databricks.hooks import credentials

        masking = case.masked
        listen()
        note(f"{mode}__{case.name}", begins=time.time())
        credentials._kept.clear()
        deployment_login._kept.clear()
        self.labs.calm()
        case.before(self.labs)

    def _ended(self, case: Any, mode: str, state: str) -> None:
        if state != case.ends:
            self.wrong.append(f"{mode} {case.name} is {state}")

    def _with_workers(self) -> None:
        from airflow.models.taskinstance import TaskInstance
        from airflow.sdk.definitions import dag as sdk_dag
        from airflow.utils.session import create_session
        from sqlalchemy import select

        sdk_dag._run_inline_trigger = self._triggerer  # type: ignore[attr-defined]
        self.airflow.run("r", None, self.cases.DAG_ID)
        parsed = self.cases.dag()
        with create_session() as session:
            found = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == self.cases.DAG_ID))
            instances = {ti.task_id: ti for ti in found}
            session.expunge_all()
        for case in self.cases.CASES.values():
            for mode in case.modes:
                if mode != "free":
                    self._before(case, mode)
                    ti, task = instances[f"{mode}__{case.name}"], parsed.task_dict[f"{mode}__{case.name}"]
                    ti.try_number = 1
                    result = sdk_dag._run_task(ti=ti, task=task, run_triggerer=True)
                    note(
                        ti.task_id,
                        message=result and result.msg and result.msg.model_dump(mode="json"),
                        error=result and repr(result.error),
                    )
                    if result is not None and result.error is not None:
                        note(ti.task_id, trace="".join(traceback.format_exception(result.error)))
                    self._ended(case, mode, getattr(ti.state, "value", str(ti.state)))

    def _triggerer(self, trigger: Any, ti: Any) -> Any:
        """Store the trigger as Airflow does, and run it to its event, in a process that knows no secret."""
        global masking  # noqa: PLW0603
        before, masking = masking, False
        try:
            return self._event(trigger, ti)
        finally:
            masking = before

    def _event(self, trigger: Any, ti: Any) -> Any:
        from airflow.models.trigger import Trigger
        from airflow.sdk.execution_time import supervisor
        from airflow.utils.session import create_session

        from tests.integration.driving import triggerer

        with create_session() as session:
            session.add(Trigger.from_object(trigger))
        note(ti.task_id, trigger=trigger.serialize())
        trigger.not_before, trigger.task_instance = 0.0, ti
        process = psutil.Process()
        running = supervisor.InProcessTestSupervisor(
            id=ti.id,
            pid=process.pid,
            process=process,
            process_log=structlog.get_logger(),
            client=supervisor.InProcessTestSupervisor._api_client(),
        )
        running.comms = supervisor.InProcessSupervisorComms(supervisor=running)

        async def wait() -> Any:
            async with triggerer():
                (event,) = [event async for event in trigger.run()]
                return event

        with supervisor.set_supervisor_comms(running.comms):
            event = asyncio.run(asyncio.wait_for(wait(), 100))
        into = "events-with-words.log" if "masked" in ti.task_id else "seen.log"
        note(ti.task_id, into=into, event=event.payload, shown=repr(event))
        return event

    def _free(self, case: Any) -> str:
        from tests.integration.without_worker import triggerer_in_place
        from tests.worker_free import WorkerFreeTask

        with triggerer_in_place() as free:
            task = WorkerFreeTask(free.airflow, lambda: case.task("free"))
            if not task.starts_in_triggerer:
                return "on the worker path"
            (ended,) = free.run(task)
            listen()
            note(f"free__{case.name}", everything=free.everything(task, ended=[ended]))
            return ended.state


def main() -> None:
    from tests.integration.core.airflow_db import RealAirflow

    with closing(RealAirflow()) as airflow:  # it has a thread, which would keep the process alive
        runner = Runner(airflow)
        runner.run()
    print("ENDED", *(runner.wrong or ["as they should"]), sep="\n")


if __name__ == "__main__":
    main()
