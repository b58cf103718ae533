"""Workers' processes, forked as an executor forks them: ``python -m tests.integration.databricks.worker``.

Each line of its input is JSON and asks for one try of one task: the operator's arguments, the try, the file of the
task state store, the file for the trigger, and the step at which the process kills itself with SIGKILL, if it shall. The answer is two lines:
the process id, and how the process ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from airflow.sdk.bases.operator import ExecutorSafeguard

from astronomer.deferral._compat import TaskDeferred
from astronomer.deferral.transport import Transport
from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from tests.unit.deferral.fakes import FakeTaskInstance

SUBMIT = "/jobs/runs/submit"


class FileStore:
    """A task state store that survives its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str, default: Any = None) -> Any:
        return self._all().get(key, default)

    def set(self, key: str, value: Any) -> None:
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps({**self._all(), key: value}))
        written.replace(self._path)

    def _all(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


class TaskInstance(FakeTaskInstance):
    def xcom_push(self, key: str, value: Any) -> None:
        return None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_around_the_submit(step: str) -> None:
    """``before submit``, or ``after submit``: when the answer has arrived."""
    send = Transport.send

    async def mortal(self: Transport, method: str, url: str, **content: Any) -> Any:
        submits = url.endswith(SUBMIT)
        if submits and step == "before submit":
            die()
        answer = await send(self, method, url, **content)
        if submits and step == "after submit":
            die()
        return answer

    Transport.send = mortal  # type: ignore[method-assign]


def die_around_the_deferral(step: str, operator: Any) -> None:
    """``after the store``, ``before defer`` or ``after defer``."""
    announce, defer = operator.announce, operator.defer

    def mortal_announce(*arguments: Any) -> None:
        if step == "after the store":
            die()
        announce(*arguments)

    def mortal_defer(**arguments: Any) -> None:
        if step == "before defer":
            die()
        defer(**arguments)

    operator.announce, operator.defer = mortal_announce, mortal_defer


def execute(spec: dict[str, Any]) -> None:
    """One try, in a process of its own."""
    step = spec.get("dies", "")
    die_around_the_submit(step)
    operator = DatabricksSubmitRunOperator(
        task_id="task", quick_wait=0, poll_interval=0.2, **spec["arguments"]
    )
    die_around_the_deferral(step, operator)
    ti = TaskInstance(try_number=spec["try_number"], run_id=spec["run_id"])
    context = {"ti": ti, "task_instance": ti, "task_state_store": FileStore(Path(spec["store"]))}
    try:
        operator.execute(context)
    except TaskDeferred as deferred:
        Path(spec["trigger"]).write_text(json.dumps(deferred.trigger.serialize()))
        if step == "after defer":
            die()


def main() -> None:
    """Fork for each line, until the input ends."""
    ExecutorSafeguard.test_mode = True
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                execute(json.loads(line))
            except BaseException:  # noqa: BLE001 - told, and then the process ends
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
