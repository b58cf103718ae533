"""Every message that a page quotes is the real one: each is provoked here.

A ``text`` block is marked ``<!-- test: message NAME -->``; ids, ports, line breaks and how much was done in time may differ.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

import pytest
from airflow.sdk.execution_time import task_runner
from structlog.testing import capture_logs

from astronomer.deferral import JobError
from astronomer.deferral._compat import AirflowException, AirflowSensorTimeout
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.operators import query
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.docs.pages import blocks
from tests.docs.world import Run, TaskInstance, new_context
from tests.integration.driving import until

QUOTED = [block for block in blocks() if block.language == "text" and "databricks" not in block.mark]
_UNIMPORTANT = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"localhost:\d+", "localhost:<port>"),
    (r"\b415\d{12}\b", "<run>"),
    (r"\b([34]\d|50) second", "<n> second"),
    (r"\d+ pokes", "<n> pokes"),
    (r"\s+", " "),
]


def load(**arguments):
    return SnowflakeOperator(task_id="load", **arguments)


def failed(lab, run):
    run(load(sql="SELECT * FROM ordres"))


def timed_out(lab, run):
    # The local Snowflake runs fast here, so its own limit would come first, if the session had none.
    unlimited = {"STATEMENT_TIMEOUT_IN_SECONDS": 600_000}
    with mock.patch.object(query, "statement_options", return_value=unlimited):
        run(load(sql="SELECT SYSTEM$WAIT(6000)", execution_timeout=timedelta(seconds=3)))


def statement_timeout(lab, run):
    run(load(sql="SELECT SYSTEM$WAIT(600)", execution_timeout=timedelta(seconds=20)))


def cancelled(lab, run):
    run(load(sql="SELECT SYSTEM$WAIT(6000)"), during=lambda job: lab.abort_by_admin(job["query_id"]))


def lost(lab, run):
    lab.faults.status(503, path="monitoring")
    try:
        run(load(sql="SELECT SYSTEM$WAIT(600)", outage_tolerance=3))
    finally:
        lab.faults.clear()


def refused(lab, run):
    before = lab.password
    lab.rotate_password("another-Passw0rd")
    try:
        run(load(sql="SELECT 1"))
    finally:
        lab.rotate_password(before)


def no_connection(lab, run):
    run(load(sql="SELECT 1", snowflake_conn_id="no_such"))


def no_warehouse(lab, run):
    run(load(sql="SELECT * FROM orders", warehouse="NO_SUCH"))


def empty(lab, run):
    load(sql="-- nothing yet")


def not_an_xcom(lab, run):
    run(load(sql="SELECT 1", handler=lambda cursor: cursor))


def result_gone(lab, run):
    run(load(sql="SELECT SYSTEM$WAIT(150)"), during=lambda job: _expire(lab, job["query_id"]))


def _expire(lab, query_id):
    while not lab.queries[query_id].finished:
        time.sleep(0.05)
    lab.expire_results()


def sensor_timeout(lab, run):
    for timeout in (2, 5, 20):
        sensor = SnowflakeSensor(task_id="wait_for_orders", sql="SELECT 0", poke_interval=1, timeout=timeout)
        with pytest.raises(AirflowSensorTimeout) as caught:
            run(sensor)
        if str(caught.value).endswith("until the timeout."):  # else a poke was cut off, and it says so
            break
    raise caught.value


def criterion(lab, run):
    SnowflakeSensor(task_id="wait_for_orders", sql="SELECT 0", success=1)


MESSAGES = {
    function.__name__: function
    for function in (
        failed, timed_out, statement_timeout, cancelled, lost, refused, no_connection, no_warehouse, empty,
        not_an_xcom, result_gone, sensor_timeout, criterion,
    )
}  # fmt: skip


def plain(text):
    for pattern, instead in _UNIMPORTANT:
        text = re.sub(pattern, instead, text)
    return text.strip()


@pytest.mark.parametrize("block", [one for one in QUOTED if one.kind == "message"], ids=lambda one: one.mark)
def test_the_message_is_the_real_one(block, lab, run):
    provoke = MESSAGES[block.mark.split(" ")[1]]
    with pytest.raises((JobError, AirflowException, ValueError)) as caught:
        provoke(lab, run)
    assert plain(str(caught.value)) == plain(block.body)


def test_no_text_is_quoted_untested():
    assert not [str(one) for one in QUOTED if one.kind not in ("message", "log")]


@pytest.fixture(scope="module")
def log_lines(lab):
    """What is logged when a task waits, when Snowflake is away, when a user ends a task, and when a file is moved."""
    told = Told()
    logging.getLogger("astronomer.deferral.hub").addHandler(told)
    with capture_logs() as lines:

        async def until_told(query, seconds):
            if seconds:
                await until(lambda: any("is active (RUNNING)" in str(line["event"]) for line in lines))

        with mock.patch.object(lab.account_state.pace, "spend", until_told):
            Run(new_context()).of(load(sql="SELECT SYSTEM$WAIT(120) AS answer"))
        with suppress(JobError):
            lost(lab, Run(new_context()).of)
        _end_by_user(load(sql="SELECT SYSTEM$WAIT(6000)"))
        with suppress(Exception):
            Run(new_context()).of(load(sql="PUT file:///no/such/file @~"))
    logging.getLogger("astronomer.deferral.hub").removeHandler(told)
    return {plain(line) for line in [*told.lines, *(str(line["event"]) for line in lines)]}


class Told(logging.Handler):
    """Keeps what a logger says."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def _end_by_user(operator):
    class Supervisor:
        async def asend(self, question):
            return SimpleNamespace(count=0)

    def end(job):
        trigger = operator.make_trigger(SnowflakeQuery.from_dict(job), None)
        trigger.task_instance = TaskInstance()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
            asyncio.run(trigger.on_kill())

    with pytest.raises(JobError):
        Run(new_context()).of(operator, during=end)


@pytest.mark.parametrize("block", [one for one in QUOTED if one.kind == "log"], ids=str)
def test_the_log_says_so(block, log_lines):
    assert not [line for line in map(plain, block.body.splitlines()) if line not in log_lines], log_lines
