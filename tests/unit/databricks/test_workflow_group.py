"""What the task group makes of its tasks."""

from __future__ import annotations

import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator as StockNotebookOperator,
)
from airflow.providers.databricks.operators.databricks_workflow import (
    DatabricksWorkflowTaskGroup as StockWorkflowTaskGroup,
)
from airflow.providers.databricks.operators.databricks_workflow import (
    WorkflowRunMetadata as StockWorkflowRunMetadata,
)
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.bases.operator import BaseOperator

from astronomer.deferral._compat import AirflowException
from astronomer.providers.databricks.operators.databricks import DatabricksNotebookOperator
from astronomer.providers.databricks.operators.databricks_workflow import (
    DatabricksWorkflowTaskGroup,
    WorkflowRunMetadata,
)
from tests.unit.databricks.workflows import NOTEBOOK, dag

OURS, STOCK = DatabricksNotebookOperator, StockNotebookOperator


@pytest.mark.parametrize("operator", [OURS, STOCK])
def test_has_the_dependencies_of_the_stock_group(operator):
    ours, stock = (
        relations(group, operator) for group in (DatabricksWorkflowTaskGroup, StockWorkflowTaskGroup)
    )
    assert ours == stock
    assert ours["wf.inner.d"] >= {"wf.launch"}


@pytest.mark.parametrize("operator", [OURS, STOCK])
@pytest.mark.parametrize("group", [DatabricksWorkflowTaskGroup, StockWorkflowTaskGroup])
def test_takes_the_tasks_of_both_packages(group, operator):
    """The job of all four is the same."""
    found = mixed(group, operator)
    launch = found.get_task("wf.launch")
    expected = mixed(StockWorkflowTaskGroup, STOCK).get_task("wf.launch")
    assert launch.create_workflow_json() == expected.create_workflow_json()
    assert isinstance(launch.task_group, StockWorkflowTaskGroup)


def test_takes_no_other_tasks():
    with pytest.raises(AirflowException, match=r"wf.other does not support conversion"):
        other()


def test_takes_no_mapped_tasks():
    """Databricks would run one task for all of them."""
    with pytest.raises(AirflowException, match=r"wf.m does not support conversion"):
        mapped()


def test_leaves_an_error_of_the_dag_file_as_it_is():
    with pytest.raises(ZeroDivisionError):
        broken()


def test_exports_what_stock_exports():
    assert WorkflowRunMetadata is StockWorkflowRunMetadata
    assert issubclass(DatabricksWorkflowTaskGroup, StockWorkflowTaskGroup)


def test_reaches_its_tasks_by_default_args():
    assert dag("a", operator=OURS).get_task("wf.launch").deferrable
    found = DAG("dag", schedule=None, default_args={"deferrable": False, "databricks_retry_args": {}})
    with found, DatabricksWorkflowTaskGroup(group_id="wf", databricks_conn_id="c"):
        OURS(task_id="a", **NOTEBOOK)
    assert not found.get_task("wf.launch").deferrable
    assert not found.get_task("wf.a").deferrable


def relations(group, operator):
    """What each task waits for, in a Dag with tasks before and after the group, and a group within."""
    with DAG("dag", schedule=None) as found:
        before, after, late = (BaseOperator(task_id=name) for name in ("before", "after", "late"))
        workflow = group(group_id="wf", databricks_conn_id="c")
        before >> workflow >> after
        with workflow:
            a, b, c = (operator(task_id=name, **NOTEBOOK) for name in "abc")
            a >> [b, c]
            with TaskGroup("inner") as inner:
                d = operator(task_id="d", **NOTEBOOK)
            b >> inner
            late >> d
    return {task.task_id: task.upstream_task_ids for task in found.tasks}


def mixed(group, operator):
    with (
        DAG("dag", schedule=None) as found,
        group(group_id="wf", databricks_conn_id="c", notebook_params={"x": "1"}),
    ):
        a = operator(task_id="a", notebook_params={"y": "2"}, **NOTEBOOK)
        a >> operator(task_id="b", trigger_rule="all_done", max_retries=2, **NOTEBOOK)
    return found


def other():
    with DAG("dag", schedule=None), DatabricksWorkflowTaskGroup(group_id="wf", databricks_conn_id="c"):
        BaseOperator(task_id="other")


def mapped():
    with DAG("dag", schedule=None), DatabricksWorkflowTaskGroup(group_id="wf", databricks_conn_id="c"):
        OURS.partial(task_id="m", **NOTEBOOK).expand(notebook_params=[{}, {}])


def broken():
    with DAG("dag", schedule=None), DatabricksWorkflowTaskGroup(group_id="wf", databricks_conn_id="c"):
        BaseOperator(task_id="other")  # which the group would refuse
        raise ZeroDivisionError
