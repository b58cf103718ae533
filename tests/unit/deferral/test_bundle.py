"""Which tasks a Dag has, as its file says; read by Airflow's own reader."""

import sys
from types import SimpleNamespace

import pytest

from astronomer.deferral._compat import tasks_in_bundle

DAGS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup

with DAG("orders", schedule=None):
    EmptyOperator(task_id="load")
    with TaskGroup("publish"):
        EmptyOperator(task_id="mail")

with DAG("other", schedule=None):
    EmptyOperator(task_id="elsewhere")
"""


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle with one file of two Dags."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    tmp_path.joinpath("sales").mkdir()
    tmp_path.joinpath("sales", "orders.py").write_text(DAGS)
    yield SimpleNamespace(name="sales-bundle", path=tmp_path)
    sys.modules.pop("made_elsewhere", None)


def found(bundle, **dag):
    """What is found by a task in that bundle, of a Dag that Airflow describes like this."""
    usual = {"dag_id": "orders", "bundle_name": "sales-bundle", "relative_fileloc": "sales/orders.py"}
    ti = SimpleNamespace() if bundle is None else SimpleNamespace(bundle_instance=bundle)
    return tasks_in_bundle(ti, SimpleNamespace(**usual | dag))


def test_the_file_names_them_all(bundle):
    assert found(bundle) == {"load", "publish.mail"}
    assert found(bundle, dag_id="other") == {"elsewhere"}


def test_the_file_is_read_as_it_is_now(bundle):
    assert found(bundle) == {"load", "publish.mail"}
    path = bundle.path / "sales" / "orders.py"
    path.write_text(DAGS.replace("mail", "print"))
    assert found(bundle) == {"load", "publish.print"}


def test_a_file_that_does_not_look_like_one_is_read_too(bundle):
    """Airflow's guess by two words in the text may be switched off, and then such a file has Dags."""
    bundle.path.joinpath("made_elsewhere.py").write_text(DAGS)
    bundle.path.joinpath("sales", "orders.py").write_text("from made_elsewhere import *")
    assert found(bundle) == {"load", "publish.mail"}


def test_a_dag_that_the_file_no_longer_has_is_not_known(bundle):
    assert found(bundle, dag_id="gone") is None


def test_nor_is_one_of_a_file_that_is_broken(bundle):
    bundle.path.joinpath("sales", "orders.py").write_text("raise KeyError('broken')")
    assert found(bundle) is None


@pytest.mark.parametrize(
    "dag",
    [
        {"bundle_name": "another-bundle"},
        {"bundle_name": None},
        {"relative_fileloc": None},
        {"relative_fileloc": ""},
        {"relative_fileloc": "sales/moved.py"},
    ],
)
def test_nor_is_one_whose_file_is_not_here(bundle, dag):
    assert found(bundle, **dag) is None


def test_nor_is_any_without_a_bundle(bundle):
    assert found(None) is None
    assert tasks_in_bundle(SimpleNamespace(bundle_instance=None), SimpleNamespace()) is None


def test_nor_is_one_that_this_airflow_does_not_describe(bundle):
    """Before Airflow 3.3, a worker cannot ask for it."""
    assert tasks_in_bundle(SimpleNamespace(bundle_instance=bundle), None) is None
