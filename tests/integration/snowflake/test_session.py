"""One session, over the connector, where the connector has surprises."""

from __future__ import annotations

import uuid

import pytest
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral import Transient
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from tests.integration.snowflake.conftest import CONN_ID
from tests.integration.snowflake.driving import Task


def test_a_submit_on_an_expired_session_does_not_wait_for_the_query(lab):
    """The connector renews the session, and would then forget that the submit was asynchronous."""
    session = SnowflakeSession(SnowflakeHook(CONN_ID))
    session.open()
    lab.expire_sessions()
    query_id = session.submit("SELECT SYSTEM$WAIT(600)", None, request_id=str(uuid.uuid4()), options={})
    assert not lab.queries[query_id].finished
    assert lab.requests.logins == 1
    session.close(log_out=True)


def test_a_login_for_a_submit_outlives_bad_weather(lab, user_queries):
    """The connector itself gives up after two attempts."""
    fault = lab.faults.status(503, "/session/v1/login-request", times=4)
    assert Task(SnowflakeOperator, sql="select 1").run() == [(1,)]
    assert (fault.hits, len(user_queries())) == (4, 1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_gateways_word_at_the_login_is_weather(lab, status):
    """The connector has an error of another family for each."""
    lab.faults.status(status, "/session/v1/login-request")
    with pytest.raises(Transient, match=f"cannot reach Snowflake to log in: .*{status}") as caught:
        SnowflakeSession(SnowflakeHook(CONN_ID)).open()
    assert type(caught.value) is Transient
