"""One task as a run of its own."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator as StockNotebookOperator,
)

from astronomer.deferral import JobFailed, JobTimedOut
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksNotebookOperatorAsync,
    DatabricksTaskOperator,
    DatabricksTaskOperatorAsync,
)
from tests.unit.databricks.airflow_side import Task
from tests.unit.databricks.workflows import FAILED, NOTEBOOK, WorkflowWorkspace
from tests.unit.databricks.workspace import SUBMIT, Lost


def alone(operator=DatabricksNotebookOperator, **arguments):
    """A task without a workflow."""
    given = {"task_id": "task", **(NOTEBOOK if operator is not DatabricksTaskOperator else {})}
    return Task(lambda: operator(**given, **{"quick_wait": 0, **arguments}), WorkflowWorkspace())


@pytest.fixture
def task():
    with (one := alone()).in_place():
        yield one


def test_is_submitted_once_as_the_stock_operator_describes_it(task):
    task.workspace.script = [{"runs_for": 60.0}]
    assert task.live() is None
    (body,) = task.workspace.asked(SUBMIT)
    token = body.pop("idempotency_token")
    assert len(token) == 64
    assert body == StockNotebookOperator(task_id="task", **NOTEBOOK)._get_run_json() | {
        "run_name": body["run_name"]
    }
    assert task.ti.xcoms == {"run_id": 101, "run_page_url": "https://workspace/run/101"}


def test_the_run_of_a_dead_worker_is_found_again(task):
    task.workspace.weather[SUBMIT] = [Lost()]
    task.execute()
    task.retry()
    task.execute()
    assert len(task.workspace.runs) == 1


def test_a_retry_after_a_failure_starts_a_new_run(task):
    task.workspace.script = [{"runs_for": 5.0, "code": FAILED, "message": "boom"}, {"runs_for": 5.0}]
    with pytest.raises(JobFailed, match="boom"):
        task.live()
    task.retry()
    task.live()
    assert len(task.workspace.runs) == 2


@pytest.mark.parametrize(
    ("operator", "arguments", "limit"),
    [
        (DatabricksNotebookOperator, {}, 0),
        (DatabricksNotebookOperator, {"execution_timeout": timedelta(minutes=2)}, 150),
        (DatabricksTaskOperator, {"task_config": {}}, None),
        (
            DatabricksTaskOperator,
            {"task_config": {}, "execution_timeout": timedelta(minutes=2)},
            150,
        ),
        (
            DatabricksTaskOperator,
            {"task_config": {"timeout_seconds": 9}, "execution_timeout": timedelta(minutes=2)},
            9,
        ),
    ],
)
def test_the_server_ends_it_after_the_deadline(operator, arguments, limit):
    cluster = {"existing_cluster_id": "c1"} if operator is DatabricksTaskOperator else {}
    with alone(operator, **arguments, **cluster).in_place() as task:
        task.execute()
        (body,) = task.workspace.asked(SUBMIT)
        assert body.get("timeout_seconds") == limit


def test_the_deadline_ends_the_run():
    with alone(execution_timeout=timedelta(minutes=2)).in_place() as task:
        with pytest.raises(JobTimedOut):
            task.live()
        assert task.workspace.cancelled == [101]


def test_retries_by_databricks_are_part_of_the_run():
    with alone(max_retries=2, retry_on_timeout=True).in_place() as task:
        task.workspace.script = [{"runs_for": 60.0}]
        task.live()
        (body,) = task.workspace.asked(SUBMIT)
        (spec,) = body["tasks"]
        assert (spec["max_retries"], spec["retry_on_timeout"]) == (2, True)


def test_may_return_at_once():
    with alone(wait_for_termination=False).in_place() as task:
        assert task.execute() is None
        assert task.trigger is None
        assert task.ti.xcoms["run_id"] == 101
        assert task.workspace.active == [101]


@pytest.mark.parametrize("cluster", [{}, {"existing_cluster_id": "c", "new_cluster": {"num_workers": 1}}])
def test_needs_exactly_one_cluster(cluster):
    with alone(DatabricksTaskOperator, task_config={}, **cluster).in_place() as task:
        with pytest.raises(ValueError, match="cluster"):
            task.execute()
        assert task.workspace.runs == {}


@pytest.mark.parametrize(
    ("operator", "base"),
    [
        (DatabricksNotebookOperatorAsync, DatabricksNotebookOperator),
        (DatabricksTaskOperatorAsync, DatabricksTaskOperator),
    ],
)
def test_has_its_other_name(operator, base):
    assert issubclass(operator, base)
