"""Lineage of runs; the stock operators tell nothing of them."""

from __future__ import annotations

import datetime as dt
import ssl

import aiohttp
import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksSubmitRunOperator as StockSubmitRunOperator,
)
from airflow.sdk import Asset

from astronomer.deferral.lineage import REMOTE_JOB
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
    DatabricksTaskOperator,
)
from astronomer.providers.databricks.operators.member import MemberOperator
from tests.integration.databricks.runs import notebook
from tests.integration.lineage.telling import finish, openlineage, superset, whole
from tests.integration.without_worker import triggerer_in_place

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

WORKSPACE = "databricks://localhost"
CLUSTER = {"spark_version": "15.4.x-scala2.12", "num_workers": 1}


@pytest.fixture(autouse=True)
def trust(lab, monkeypatch):
    """The stock hook asks with the TLS context that requests or aiohttp made when it was imported."""
    context = ssl.create_default_context(cafile=str(lab.ca_file))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", context)


@pytest.fixture
def events(tmp_path):
    with openlineage(tmp_path) as events:
        yield events


def work_of(kind, workspace, seconds=0.1, fail=""):
    """The arguments of a run that takes so long, and then fails if it is told how."""
    work = notebook(seconds, fail)
    if kind is DatabricksRunNowOperator:
        return {"job_id": workspace.job({"task_key": "wait", "notebook_task": work})}
    if kind is DatabricksTaskOperator:
        return {"task_config": {"notebook_task": work}, "new_cluster": CLUSTER}
    if kind is DatabricksNotebookOperator:
        return {
            "notebook_path": work["notebook_path"],
            "notebook_params": work["base_parameters"],
            "source": "WORKSPACE",
            "new_cluster": CLUSTER,
        }
    return {"notebook_task": work}


KINDS = [
    DatabricksSubmitRunOperator,
    DatabricksRunNowOperator,
    DatabricksNotebookOperator,
    DatabricksTaskOperator,
]


def check(event, run, ended):
    """The event is the end of the task of this run."""
    assert event["eventType"] == ended
    facets = event["run"]["facets"]
    assert facets["externalQuery"]["externalQueryId"] == str(run.run_id)
    assert facets["externalQuery"]["source"] == WORKSPACE
    assert facets[REMOTE_JOB]["name"] == f"Databricks run {run.run_id}"
    assert str(run.run_id) in facets[REMOTE_JOB]["url"]
    assert ("errorMessage" in facets) is (ended == "FAIL")


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fail", "ended"), [("", "COMPLETE"), ("no such luck", "FAIL")])
def test_the_run_and_its_page(workspace, events, kind, fail, ended, deferrable):
    finish(kind, deferrable=deferrable, **work_of(kind, workspace, fail=fail))
    written = events()
    check(whole(written), workspace.run, ended)
    assert workspace.lab.token not in str(written)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_timeout(workspace, events, deferrable):
    limit = dt.timedelta(seconds=1)
    finish(
        DatabricksSubmitRunOperator,
        deferrable=deferrable,
        execution_timeout=limit,
        **work_of(None, workspace, 300),
    )
    check(whole(events()), workspace.run, "FAIL")


def test_a_run_that_nobody_waits_for(workspace, events):
    finish(DatabricksSubmitRunOperator, wait_for_termination=False, **work_of(None, workspace))
    check(whole(events()), workspace.run, "COMPLETE")


def test_a_run_that_was_refused(workspace, events):
    finish(DatabricksRunNowOperator, job_id=17_000_000)
    told = whole(events())
    assert told["eventType"] == "FAIL"
    assert not {REMOTE_JOB, "externalQuery"} & set(told["run"]["facets"])


@pytest.mark.parametrize("declared", [{}, {"inlets": [Asset("file://host/orders")]}])
def test_no_less_than_stock(workspace, events, declared):
    finish(
        StockSubmitRunOperator,
        polling_period_seconds=0.1,
        durable=False,
        **work_of(None, workspace),
        **declared,
    )
    stock = events()
    finish(DatabricksSubmitRunOperator, **work_of(None, workspace), **declared)
    ours = events()
    more = superset(ours, stock)
    print(f"more than stock: {more}")
    assert more["COMPLETE of dag.task: run facets"] == {REMOTE_JOB, "externalQuery"}
    assert [one["name"] for one in whole(ours)["inputs"]] == (["/orders"] if declared else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fail", "ended"), [("", "COMPLETE"), ("no such luck", "FAIL")])
def test_without_a_worker(workspace, events, kind, fail, ended):
    with triggerer_in_place() as free:
        (end,) = free.run(free.task(kind, **work_of(kind, workspace, fail=fail)))
    assert end.state == {"COMPLETE": "success", "FAIL": "failed"}[ended]
    check(whole(events()), workspace.run, ended)


def test_of_a_member_the_run_of_its_own_task(monkeypatch):
    """A member does not know the workspace's address, and a task that is to come has no run yet."""
    from astronomer.providers.databricks.jobs.run import DatabricksRun

    monkeypatch.setattr(MemberOperator, "_host", lambda self: "example.com")
    operator = DatabricksTaskOperator(task_id="task", task_config={"notebook_task": {}})
    job = DatabricksRun(0, "databricks_default", parent_run_id=7, task_key="task")
    assert operator.external_query(job) == ("7", "databricks://example.com")
