"""Every example is imported as the Dag processor imports it, and is fit to be copied."""

from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag

from tools.demo.plan import PLANS

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def dag(request) -> DAG:
    bag = DagBag(request.param, load_op_links=False)
    assert bag.import_errors == {}
    assert list(bag.dags) == [request.param.stem], "the Dag is named after its file"
    return bag.dags[request.param.stem]


def test_waits_for_a_user_and_says_what_it_shows(dag):
    assert dag.schedule is None
    assert not dag.catchup
    assert dag.doc_md is not None
    assert f"{vendor(dag)}_default" in dag.doc_md


def vendor(dag):
    return dag.dag_id.partition("_")[0]


def test_asks_for_one_connection_only(dag):
    for operator in dag.tasks:
        arguments = operator.partial_kwargs if isinstance(operator, MappedOperator) else vars(operator)
        used = {name: value for name, value in arguments.items() if name.endswith("_conn_id") and value}
        used = {name: value for name, value in used.items() if "gcp" not in name}  # for results that go there
        assert set(used.values()) <= {f"{vendor(dag)}_default"}


def test_the_demo_knows_each_task(dag):
    plan = PLANS[dag.dag_id]
    assert set(plan.conf) <= set(dag.params)
    assert set(plan.failed) <= set(dag.task_ids)
    assert plan.cancel is None or plan.cancel in dag.task_ids
    assert plan.tasks == sum(plan.mapped.get(task_id, 1) for task_id in dag.task_ids)


def test_the_demo_runs_every_example():
    assert {path.stem for path in FILES} == set(PLANS)
