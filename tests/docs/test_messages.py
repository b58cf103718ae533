"""Every message that a page quotes is the real one: each is provoked here.

A ``text`` block is marked ``<!-- test: message NAME -->``; ids, ports and line breaks may differ.
"""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from astronomer.deferral import JobError
from astronomer.deferral._compat import AirflowException
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.docs.pages import blocks

QUOTED = [block for block in blocks() if block.language == "text"]
_UNIMPORTANT = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"localhost:\d+", "localhost:<port>"),
    (r"\s+", " "),
]


def load(**arguments):
    return SnowflakeOperator(task_id="load", **arguments)


def failed(lab, run):
    run(load(sql="SELECT * FROM ordres"))


def timed_out(lab, run):
    # The local Snowflake runs fast here, so its own limit would come first.
    operator = load(sql="SELECT SYSTEM$WAIT(600)", execution_timeout=timedelta(seconds=3))
    operator._options = lambda *_: {}
    run(operator)


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
    import time

    while not lab.queries[query_id].finished:
        time.sleep(0.05)
    lab.expire_results()


def sensor_timeout(lab, run):
    run(SnowflakeSensor(task_id="wait_for_orders", sql="SELECT 0", poke_interval=1, timeout=2))


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
    unmarked = [str(one) for one in QUOTED if one.kind not in ("message", "log", "layout")]
    assert not unmarked
