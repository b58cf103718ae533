"""The connections and messages of the pages about Databricks."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.sdk import Connection

from astronomer.deferral import JobError
from astronomer.deferral._compat import plain_connection
from astronomer.providers.databricks.hooks.workspace import Mode, Workspace
from astronomer.providers.databricks.operators.databricks import (
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
)
from tests.docs.pages import blocks
from tests.docs.test_messages import plain

CONNECTIONS = [block for block in blocks() if block.kind == "databricks_connection"]
MESSAGES = [block for block in blocks() if block.mark.startswith("message databricks_")]
MODES = {"token": Mode.TOKEN, "oauth": Mode.OAUTH, "stock": Mode.STOCK, "unified": Mode.UNIFIED}


@pytest.mark.parametrize("block", CONNECTIONS, ids=str)
def test_a_connection_means_what_the_page_says(block):
    described = json.loads(block.body)
    extra = described.pop("extra")
    connection = Connection(conn_id="documented", **described, extra=json.dumps(extra))
    workspace = Workspace.of(plain_connection(connection))
    assert workspace.mode is MODES[block.argument("auth")]
    assert workspace.address == f"https://{described['host']}"
    assert workspace.proxies == extra.get("proxies", {})
    hook = DatabricksHook("documented")
    hook.__dict__["databricks_conn"] = connection
    assert hook.host == described["host"]


def waiting(seconds, **more):
    return {"notebook_path": "/lab/wait", "base_parameters": {"seconds": str(seconds), **more}}


def databricks_failed(run):
    tasks = [
        {"task_key": "extract", "notebook_task": waiting(0.1)},
        {
            "task_key": "load",
            "depends_on": [{"task_key": "extract"}],
            "notebook_task": waiting(0.1, fail="no such table: orders"),
        },
    ]
    run(DatabricksSubmitRunOperator(task_id="report", tasks=tasks))


def databricks_timed_out(run):
    limit = timedelta(seconds=2)
    run(DatabricksSubmitRunOperator(task_id="report", notebook_task=waiting(600), execution_timeout=limit))


def databricks_refused(run):
    run(DatabricksRunNowOperator(task_id="nightly", job_id=42))


@pytest.mark.parametrize("block", MESSAGES, ids=lambda one: one.mark)
def test_the_message_is_the_real_one(block, run):
    with pytest.raises(JobError) as caught:
        globals()[block.mark.split(" ")[1]](run)
    assert plain(str(caught.value)) == plain(block.body)
