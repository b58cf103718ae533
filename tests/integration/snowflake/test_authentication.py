"""Every way to authenticate that the stock hook knows, through worker, triggerer and worker."""

from __future__ import annotations

import base64

import pytest

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.integration.snowflake.driving import Task

WAYS = {
    "password": "SNOWFLAKE",
    "key_pair": "SNOWFLAKE_JWT",
    "key_pair_encrypted": "SNOWFLAKE_JWT",
    "key_pair_content": "SNOWFLAKE_JWT",
    "key_pair_base64": "SNOWFLAKE_JWT",
    "oauth": "OAUTH",
    "oauth_refresh": "OAUTH",
    "pat": "PROGRAMMATIC_ACCESS_TOKEN",
}


@pytest.fixture(params=WAYS)
def way(request, lab, connect_as):
    name = request.param
    if name in ("key_pair_content", "key_pair_base64"):
        content = lab.private_key_file.read_text()
        if name == "key_pair_base64":
            content = base64.b64encode(content.encode()).decode()
        connection = lab.airflow_connection()
        extra = {**connection["extra"], "private_key_content": content}
        connect_as(fields={"extra": extra, "password": None})
    elif name == "oauth_refresh":
        extra = lab.airflow_connection(auth="oauth")["extra"] | {"refresh_token": "lab-refresh-token"}
        del extra["grant_type"]
        connect_as(auth="oauth", fields={"extra": extra})
    else:
        connect_as(auth=name)
    return name


def test_operator(lab, way, user_queries):
    before = len(lab.logins)
    task = Task(SnowflakeOperator, sql="select current_user()")
    task.deferred()
    task.wait()
    assert task.resume() == (False, [("LAB_USER",)])
    logins = lab.logins[before:]
    assert [(login.authenticator, login.ok) for login in logins] == [(WAYS[way], True)] * 3
    assert len(user_queries("current_user")) == 1
    assert "lab-" not in str(task.trigger.serialize())


def test_sensor(lab, connect_as):
    connect_as(auth="pat")
    Task(SnowflakeSensor, sql="select 1", poke_interval=0.1).run()
    assert lab.logins[-1].authenticator == "PROGRAMMATIC_ACCESS_TOKEN"


def test_no_secret_leaves_the_worker(lab):
    task = Task(SnowflakeOperator, sql="select 1")
    task.run()
    for told in (task.trigger.serialize(), task.events, task.store.values, task.ti.xcoms):
        assert lab.password not in str(told)
