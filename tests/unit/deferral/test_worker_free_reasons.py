"""What only a worker can do for a task, which is known when the Dag is parsed."""

import sys

import pytest
from airflow.sdk import DAG, Asset, Param, task_group
from airflow.triggers.base import BaseTrigger
from jinja2 import Undefined

from tests.unit.deferral.free import FreeOperator


def nothing(*args):
    """A callback."""


class TestOnlyInAWorker:
    TASKS = (
        ("`outlets`", {"outlets": [Asset("a")]}),
        ("`inlets`", {"inlets": [Asset("a")]}),
        ("`on_execute_callback`", {"on_execute_callback": nothing}),
        ("`on_success_callback`", {"on_success_callback": nothing}),
        ("`on_skipped_callback`", {"on_skipped_callback": nothing}),
        ("`email`", {"email": "a@example.org"}),
        ("`email`", {"email": "a@example.org", "email_on_failure": False, "email_on_retry": True}),
        ("`pre_execute`", {"pre_execute": nothing}),
        ("`post_execute`", {"post_execute": nothing}),
        ("pool 'small'", {"pool": "small"}),
        ("`max_active_tis_per_dag`", {"max_active_tis_per_dag": 1}),
        ("`max_active_tis_per_dagrun`", {"max_active_tis_per_dagrun": 1}),
        ("deferrable=False", {"deferrable": False}),
    )
    DAGS = (
        ("`fail_fast`", {"fail_fast": True}),
        ("`user_defined_macros`", {"user_defined_macros": {"a": 1}}),
        ("`user_defined_filters`", {"user_defined_filters": {"a": nothing}}),
        ("`jinja_environment_kwargs`", {"jinja_environment_kwargs": {"trim_blocks": True}}),
        ("`template_undefined`", {"template_undefined": Undefined}),
    )
    ANY = pytest.mark.parametrize(
        ("words", "dag", "task"),
        [(words, {}, task) for words, task in TASKS] + [(words, dag, {}) for words, dag in DAGS],
        ids=lambda value: value if isinstance(value, str) else "",
    )

    @pytest.mark.filterwarnings("ignore:.*email:DeprecationWarning")
    @ANY
    def test_is_said_once_and_the_dag_is_fine(self, free, why, words, dag, task):
        made = free.task(dag=dag, **task)
        assert made.task.start_from_trigger is False
        assert made.task.start_trigger_args is None
        assert made.parsed.start_trigger_args is None
        (said,) = why()
        assert words in said

    @pytest.mark.filterwarnings("ignore:.*email:DeprecationWarning")
    @ANY
    def test_counts_for_mapped_tasks_too(self, free, why, words, dag, task):
        made = free.mapped({"what": ["a", "b"]}, dag=dag, **task)
        assert made.task.start_from_trigger is False
        assert made.task.start_trigger_args is None
        (said,) = why()
        assert words in said

    @pytest.mark.filterwarnings("ignore:.*email:DeprecationWarning")
    def test_nobody_is_written_to_where_no_mail_is_sent(self, free):
        silent = {"email": "a@example.org", "email_on_failure": False, "email_on_retry": False}
        assert free.task(**silent).starts_in_triggerer

    def test_a_retry_policy(self, free, why, monkeypatch):
        monkeypatch.setattr(FreeOperator, "has_retry_policy", True)
        assert not free.task().starts_in_triggerer
        assert "`retry_policy`" in why()[0]

    def test_a_map_index_template(self, free, why):
        made = free.mapped({"what": ["a"]}, map_index_template="{{ task.what }}")
        assert not made.starts_in_triggerer
        assert "`map_index_template`" in why()[0]

    @pytest.mark.parametrize("expand", [{"params": [{"a": 1}]}, [{"what": "a", "params": {"a": 1}}]])
    def test_mapped_arguments_of_airflow(self, free, why, expand):
        assert not free.mapped(expand).starts_in_triggerer
        assert why() == ["workers are told what `params` is mapped to"]

    @pytest.mark.parametrize("of_dag", [True, False])
    def test_params_without_a_default(self, free, why, of_dag):
        for value, starts in ((Param(type="string"), False), (Param(None), True), (Param("a"), True)):
            params = {"params": {"a": 1, "b": value}}
            made = free.task(dag=params) if of_dag else free.task(**params)
            assert made.starts_in_triggerer is starts
        assert why() == ["only workers can start with `params` that have no default"]

    def test_values_of_a_mapped_task_group(self, free, why):
        made = []

        @task_group
        def group(given):
            made.append(FreeOperator(**free.given(FreeOperator, {"what": given})))

        def make():
            group.expand(given=["a", "b"])
            return made[0]

        assert not free.dag(make).starts_in_triggerer
        assert "mapped task group" in why()[0]

    def test_queues_of_triggerers(self, free, why, monkeypatch):
        monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
        assert not free.task().starts_in_triggerer
        assert "queues" in why()[0]

    def test_an_airflow_before_3_3(self, free, why, monkeypatch):
        monkeypatch.delattr(BaseTrigger, "on_kill")
        assert not free.task().starts_in_triggerer
        assert "needs Airflow 3.3" in why()[0]

    def test_a_class_with_hooks_of_its_own(self, free, why, monkeypatch):
        monkeypatch.setattr(FreeOperator, "post_execute", lambda self, context, result=None: None)
        assert not free.task().starts_in_triggerer
        assert not free.mapped({"what": ["a"]}).starts_in_triggerer
        assert all("`post_execute`" in one for one in why())

    def test_a_task_is_looked_at_once_it_is_part_of_a_dag(self, free, why):
        made = FreeOperator(**free.given(FreeOperator, {}))
        assert made.start_from_trigger is False
        made.dag = DAG("dag", schedule=None)
        assert made.start_from_trigger is True
        assert why() == []

    def test_a_mapped_task_when_it_is_made(self, free, why):
        made = FreeOperator.partial(**free.given(FreeOperator, {})).expand(what=["a"])
        assert made.start_from_trigger is False
        assert why() == ["it is not yet part of a Dag"]

    def test_a_family_has_reasons_of_its_own(self, free, why, monkeypatch):
        reasons = classmethod(lambda cls, arguments, task: f"{arguments['what']} of {task.task_id}")
        monkeypatch.setattr(FreeOperator, "needs_worker", reasons)
        free.task(what="a")
        free.mapped([{"more": 1}], what="b")
        assert why() == ["a of task", "b of task"]


class TestLineage:
    @pytest.fixture
    def lineage(self):
        return pytest.importorskip("airflow.providers.openlineage.conf")

    def test_that_forks_needs_a_worker(self, free, why, monkeypatch, lineage):
        monkeypatch.setattr(lineage, "is_disabled", lambda: False)
        monkeypatch.setattr(lineage, "execute_in_thread", lambda: False)
        assert not free.task().starts_in_triggerer
        assert "[openlineage] execute_in_thread" in why()[0]

    def test_that_does_not_needs_none(self, free, monkeypatch, lineage):
        monkeypatch.setattr(lineage, "is_disabled", lambda: False)
        monkeypatch.setattr(lineage, "execute_in_thread", lambda: True)
        assert free.task().starts_in_triggerer

    def test_of_an_old_release_forks(self, free, monkeypatch, lineage):
        monkeypatch.setattr(lineage, "is_disabled", lambda: False)
        monkeypatch.delattr(lineage, "execute_in_thread")
        assert not free.task().starts_in_triggerer

    def test_that_is_disabled_or_not_there_counts_not(self, free, monkeypatch, lineage):
        monkeypatch.setattr(lineage, "is_disabled", lambda: True)
        monkeypatch.setattr(lineage, "execute_in_thread", lambda: False)
        assert free.task().starts_in_triggerer
        monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", None)
        assert free.task().starts_in_triggerer
