"""Every example is imported as the Dag processor imports it, and is fit to be copied."""

from pathlib import Path

import pytest
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag

from tools.demo.plan import PLANS

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
# A Dag of the family that needs none talks to its own Airflow.
CONNECTIONS = {
    "databricks": {"databricks_default"},
    "external": set(),
    "external_deployment": {"other_airflow"},
    "snowflake": {"snowflake_default"},
    "triggerer": {"databricks_default", "snowflake_default"},
}


def file_of(dag_id: str) -> Path:
    """Return the file with the longest name that the Dag's name begins with."""
    return max((path for path in FILES if dag_id.startswith(path.stem)), key=lambda path: len(path.stem))


@pytest.fixture(scope="module")
def dags():
    found = {}
    for path in FILES:
        bag = DagBag(path, load_op_links=False)
        assert bag.import_errors == {}
        assert path.stem in bag.dags, "the Dag is named after its file"
        assert {file_of(dag_id) for dag_id in bag.dags} == {path}, "and so are more of them"
        found |= bag.dags
    return found


@pytest.fixture(params=PLANS)
def dag(request, dags) -> DAG:
    return dags[request.param]


def test_waits_for_a_user_and_says_what_it_shows(dag):
    assert dag.schedule is None
    assert not dag.catchup
    assert dag.doc_md is not None
    assert dag.tags == {vendor(dag)}
    assert all(name in dag.doc_md for name in connections(dag) or {"Needs no connection."})


def vendor(dag):
    return dag.dag_id.partition("_")[0]


def connections(dag):
    return CONNECTIONS.get(dag.dag_id, CONNECTIONS[vendor(dag)])


def test_asks_for_the_connections_that_it_names_only(dag):
    for operator in dag.tasks:
        arguments = operator.partial_kwargs if isinstance(operator, MappedOperator) else vars(operator)
        used = {name: value for name, value in arguments.items() if name.endswith("_conn_id") and value}
        used = {name: value for name, value in used.items() if "gcp" not in name}  # for results that go there
        assert set(used.values()) <= connections(dag)


def test_waits_for_what_there_is(dag, dags):
    """What a sensor on another Dag names is in that Dag."""
    for operator in dag.tasks:
        fields = {
            name: getattr(operator, name, None) for name in ("external_task_ids", "external_task_group_id")
        }
        other = dags.get(getattr(operator, "external_dag_id", None))
        if other is None:
            assert not hasattr(operator, "external_dag_id")
            continue
        assert set(fields["external_task_ids"] or ()) <= set(other.task_ids)
        groups = other.task_group.get_task_group_dict()
        assert fields["external_task_group_id"] in {*groups, None}


def test_the_demo_knows_each_task(dag):
    plan = PLANS[dag.dag_id]
    assert set(plan.conf) == set(plan.short) <= set(dag.params)
    assert {*plan.failed, *plan.skipped, *plan.mapped} <= set(dag.task_ids)
    assert {task.task_id for task in dag.tasks if task.start_from_trigger} == set(plan.worker_free)
    assert plan.cancel is None or plan.cancel in dag.task_ids
    assert plan.tasks == sum(plan.mapped.get(task_id, 1) for task_id in dag.task_ids)
    assert plan.elsewhere is None or plan.elsewhere in PLANS


def test_the_demo_runs_every_example(dags):
    assert set(dags) == set(PLANS)


def test_each_dag_is_triggered_by_the_demo_or_by_another_one(dags):
    operators = [operator for dag in dags.values() for operator in dag.tasks]
    by_others = {
        operator.trigger_dag_id for operator in operators if isinstance(operator, TriggerDagRunOperator)
    }
    assert by_others == {dag_id for dag_id, plan in PLANS.items() if not plan.triggered}
