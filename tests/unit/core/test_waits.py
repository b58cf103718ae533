"""What the sensors on other Dags have in common: links, words, and whether there is anything to wait for."""

from types import SimpleNamespace

import pytest
from airflow.providers.standard.exceptions import (
    ExternalDagFailedError,
    ExternalDagNotFoundError,
    ExternalTaskFailedError,
    ExternalTaskGroupFailedError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)
from structlog.testing import capture_logs

from astronomer.deferral import JobLost, Transient
from astronomer.deferral._compat import AirflowSensorTimeout, AirflowSkipException, BaseHook, TaskDeferred
from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor
from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger
from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger
from tests.unit.core.airflow_side import DAY, api_error, tells_of_dags
from tests.unit.core.waiting import Waiting
from tests.unit.deferral.fakes import START

TASK = {"external_task_id": "load"}
TASKS = {"external_task_ids": ["load", "check"]}
GROUP = {"external_task_group_id": "g"}
KINDS = [TASK, TASKS, GROUP, {}]
IDS = ["task", "tasks", "group", "dag"]


def make(**arguments):
    cls = ExternalDagRunSensor if "external_run_id" in arguments else ExternalTaskSensor
    return cls(**{"task_id": "wait", "external_dag_id": "orders"} | arguments)


@pytest.fixture
def waiting():
    with Waiting(make).in_place() as waiting:
        waiting.dag = waiting.airflow.dag("orders", g=["g.a", "g.b"])
        yield waiting


def a_run(waiting, state="success", run_id="mine"):
    """A run of which everything is in one state."""
    states = dict.fromkeys(("load", "check", "g__a", "g__b"), state)
    return waiting.dag.run(0, run_id, state=state, **states)


class TestTheEnd:
    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_is_success(self, waiting, which):
        a_run(waiting)
        assert waiting.live(**which) is None
        assert waiting.trigger is None

    @pytest.mark.parametrize(
        ("which", "error", "words"),
        [
            (
                TASK,
                ExternalTaskFailedError,
                "Some of the external tasks ['load'] in DAG orders failed. (load is failed, in mine). See ",
            ),
            (
                TASKS,
                ExternalTaskFailedError,
                "Some of the external tasks ['load', 'check'] in DAG orders failed. (load is failed",
            ),
            (
                GROUP,
                ExternalTaskGroupFailedError,
                "The external task_group 'g' in DAG 'orders' failed. (g.a is failed, in mine). See ",
            ),
            ({}, ExternalDagFailedError, "The external DAG orders failed. (it is failed, in 2026-01-01T"),
            (
                {"external_run_id": "mine"},
                ExternalDagFailedError,
                "The external DAG orders failed. (it is failed, in mine). See ",
            ),
        ],
        ids=[*IDS, "run"],
    )
    @pytest.mark.parametrize("deferrable", [True, False])
    def test_is_the_stock_sensor_s_error_and_says_what_and_where(
        self, waiting, which, error, words, deferrable
    ):
        a_run(waiting, "failed")
        with pytest.raises(error) as caught:
            waiting.live(failed_states=["failed"], deferrable=deferrable, **which)
        assert str(caught.value).startswith(words)

    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_is_soft_if_so_wished(self, waiting, which):
        a_run(waiting, "failed")
        for deferrable in (True, False):
            with pytest.raises(AirflowSkipException, match=r"failed\. Skipping due to soft_fail\. \("):
                waiting.live(failed_states=["failed"], soft_fail=True, deferrable=deferrable, **which)

    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_may_be_a_skip(self, waiting, which):
        a_run(waiting, "failed")
        with pytest.raises(AirflowSkipException, match=r"states-to-skip-on list\. Skipping\. \(.* is failed"):
            waiting.live(skipped_states=["failed"], **which)

    def test_of_a_group_that_is_not_there_has_airflow_s_words(self, waiting):
        with pytest.raises(ExternalTaskGroupNotFoundError) as caught:
            waiting.live(external_task_group_id="h")
        assert str(caught.value) == (
            "The external task group 'h' in DAG 'orders' does not exist "
            "(Task group h not found in DAG orders)."
        )

    def test_of_a_deleted_dag_is_an_end_for_a_group_in_the_triggerer(self, waiting):
        run = a_run(waiting, "running")
        waiting.execute(**GROUP)
        waiting.dag.delete(run)
        del waiting.airflow.dags["orders"]
        waiting.wait()
        with pytest.raises(ExternalTaskGroupNotFoundError, match="`orders` was not found"):
            waiting.resume(**GROUP)

    def test_of_an_outage_is_lost_and_a_retry_looks_again(self, waiting):
        a_run(waiting, "running")
        waiting.execute(**TASK, outage_tolerance=60)
        waiting.airflow.weather = [api_error(500)] * 200
        waiting.wait()
        with pytest.raises(JobLost, match="supervisor could not answer"):
            waiting.resume(**TASK)


class TestTheLink:
    def link(self, waiting):
        return waiting.ti.xcoms["external_dag_run"].partition("/dags/")[2]

    @pytest.mark.parametrize("which", [*KINDS, {"external_run_id": "mine"}], ids=[*IDS, "run"])
    def test_is_pushed_before_the_wait(self, waiting, which):
        a_run(waiting, "running")
        waiting.execute(**which)
        assert waiting.trigger is not None
        assert (self.link(waiting), waiting.ti.pushes) == ("orders/runs/mine", 1)

    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_is_the_dag_s_as_long_as_there_is_no_run(self, waiting, which):
        waiting.execute(**which)
        assert self.link(waiting) == "orders"
        a_run(waiting)
        waiting.wait()
        waiting.resume(**which)
        assert self.link(waiting) == "orders/runs/mine"

    def test_of_a_run_by_its_id_is_known_from_the_beginning(self, waiting):
        waiting.execute(external_run_id="soon")
        assert self.link(waiting) == "orders/runs/soon"

    def test_is_not_worth_a_wait(self, waiting):
        waiting.airflow.weather = [None, None, api_error(500)]
        waiting.execute()
        assert waiting.trigger is not None
        assert self.link(waiting) == "orders"

    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_is_pushed_at_a_bad_end_too(self, waiting, which):
        a_run(waiting, "failed")
        with pytest.raises(Exception, match="failed"):
            waiting.live(failed_states=["failed"], **which)
        assert self.link(waiting) == "orders/runs/mine"

    @pytest.mark.parametrize("which", KINDS, ids=IDS)
    def test_is_pushed_once_by_pokes(self, waiting, which):
        run = a_run(waiting, "running")
        states = dict.fromkeys(("load", "check", "g__a", "g__b"), "success")
        waiting.airflow.later(200, lambda: setattr(run.set(**states), "state", "success"))
        waiting.live(deferrable=False, **which)
        assert (self.link(waiting), waiting.ti.pushes) == ("orders/runs/mine", 1)


class TestCheckExistence:
    def check(self, waiting, **arguments):
        with capture_logs() as lines:
            waiting.execute(check_existence=True, **arguments)
        return [line["event"] for line in lines if line["log_level"] == "warning"]

    @pytest.mark.parametrize("which", [*KINDS, {"external_run_id": "mine"}], ids=[*IDS, "run"])
    def test_finds_what_is_there(self, waiting, which):
        a_run(waiting, "running")
        assert self.check(waiting, **which) == []
        assert waiting.trigger is not None

    @tells_of_dags
    @pytest.mark.parametrize("which", [*KINDS, {"external_run_id": "mine"}], ids=[*IDS, "run"])
    def test_of_a_dag_that_is_not_there(self, waiting, which):
        waiting.airflow.dags.clear()
        with pytest.raises(ExternalDagNotFoundError, match=r"^The external DAG orders does not exist\.$"):
            self.check(waiting, **which)
        assert waiting.airflow.asked == ["GetDag"]

    @pytest.mark.parametrize("deferrable", [True, False])
    @pytest.mark.parametrize(
        ("which", "error", "words"),
        [
            (
                {"external_task_group_id": "h"},
                ExternalTaskGroupNotFoundError,
                "The external task group 'h' in DAG 'orders' does not exist (Task group h not found in DAG orders).",
            ),
            (
                {"external_run_id": "your's"},
                ExternalDagNotFoundError,
                "The external DAG orders has no run your's.",
            ),
        ],
        ids=["group", "run"],
    )
    def test_of_something_of_it(self, waiting, which, error, words, deferrable):
        a_run(waiting, "running")
        with pytest.raises(error) as caught:
            self.check(waiting, deferrable=deferrable, **which)
        assert str(caught.value) == words

    @tells_of_dags
    def test_of_a_task_that_has_never_run_reads_the_file(self, waiting, tmp_path, monkeypatch):
        waiting.ti.bundle_instance = SimpleNamespace(name="dags-folder", path=tmp_path)
        monkeypatch.setattr(
            "astronomer.providers.core.sensors.waits.tasks_in_bundle",
            lambda ti, dag: {"load"} if ti is waiting.ti and dag.relative_fileloc == "external.py" else None,
        )
        assert self.check(waiting, **TASK) == []
        with pytest.raises(ExternalTaskNotFoundError, match="task check in DAG"):
            self.check(waiting, **TASKS)

    @pytest.mark.parametrize("ran", [False, True])
    def test_of_a_task_that_has_never_run_and_whose_file_is_elsewhere_is_in_vain(self, waiting, ran):
        """It may have been added since the last run."""
        if ran:
            a_run(waiting, "running")
        (said,) = self.check(waiting, external_task_ids=["load", "lode"])
        assert said.startswith(f"No run of Dag orders has had {'lode' if ran else 'load, lode'} yet, ")
        assert waiting.trigger is not None

    @tells_of_dags
    def test_is_done_once_in_a_process(self, waiting):
        run = a_run(waiting, "running")
        waiting.airflow.later(200, lambda: run.set(load="success"))
        waiting.execute(check_existence=True, deferrable=False, **TASK)
        assert waiting.airflow.asked.count("GetDag") == 1
        assert len(waiting.airflow.questions) > 4

    def test_is_not_repeated_after_the_wait(self, waiting):
        run = a_run(waiting, "running")
        waiting.execute(check_existence=True, **TASK)
        run.set(load="success")
        waiting.wait()
        waiting.airflow.forget()
        waiting.resume(check_existence=True, **TASK)
        assert waiting.airflow.asked == []

    def test_outlasts_bad_weather(self, waiting):
        a_run(waiting, "running")
        waiting.airflow.weather = [api_error(500), ConnectionResetError("gone")]
        assert self.check(waiting, **TASK) == []
        assert waiting.timeline.now == pytest.approx(START + 3)
        assert waiting.trigger is not None

    def test_but_not_for_ever(self, waiting):
        waiting.airflow.weather = [api_error(500)] * 100
        with pytest.raises(Transient):
            self.check(waiting, outage_tolerance=60, **TASK)

    def test_without_it_nothing_is_checked(self, waiting):
        waiting.airflow.dags.clear()
        waiting.execute(external_task_id="lode")
        assert waiting.trigger is not None
        assert "GetDag" not in waiting.airflow.asked


class TestTheTimeout:
    def test_is_of_the_sensor(self, waiting):
        a_run(waiting, "running")
        with pytest.raises(AirflowSensorTimeout) as caught:
            waiting.live(timeout=300, **TASK)
        assert str(caught.value) == (
            "wait has timed out while it waited for task load of Dag orders, 2026-01-01T00:00:00+00:00 (not yet)."
        )
        assert START + 300 <= waiting.timeline.now <= START + 303


class TestNothingNamed:
    """What a template or an XCom finds to be nothing is an error, and never a wait for something else."""

    @pytest.mark.parametrize("nothing", [None, "", "None", 7])
    @pytest.mark.parametrize(
        ("given", "attribute"),
        [
            ({"external_task_id": "{{ x }}"}, "external_task_ids"),
            ({"external_task_group_id": "{{ x }}"}, "external_task_group_id"),
            ({}, "external_dag_id"),
        ],
        ids=["task", "group", "dag"],
    )
    def test_is_told_with_the_argument(self, waiting, given, attribute, nothing):
        sensor = make(**given)
        setattr(sensor, attribute, [nothing] if attribute == "external_task_ids" else nothing)
        with pytest.raises(ValueError, match=f"`{attribute}` names nothing"):
            sensor.execute(waiting.context)
        assert waiting.airflow.asked == []

    @pytest.mark.parametrize("nothing", [None, []])
    def test_nor_is_a_list_without_tasks_a_wait_for_the_run(self, waiting, nothing):
        sensor = make(external_task_ids=["{{ x }}"])
        sensor.external_task_ids = nothing
        with pytest.raises(ValueError, match="`external_task_ids` names nothing"):
            sensor.execute(waiting.context)

    def test_the_argument_that_was_given_is_blamed(self, waiting):
        sensor = make(external_run_id="{{ x }}")
        sensor.external_run_id = None
        with pytest.raises(ValueError, match="`external_run_id` names no run"):
            sensor.execute(waiting.context)

    @pytest.mark.parametrize(
        "states", [{"external_run_id": "r", "allowed_states": []}, {"allowed_states": [None]}]
    )
    def test_states_that_cannot_come(self, states):
        with pytest.raises(ValueError, match="`allowed_states`"):
            make(**states)


class TestHandOver:
    def test_of_a_task_that_the_stock_sensor_has_deferred(self, waiting):
        waiting.event = {"status": "success"}
        assert waiting.resume(**TASK) is None
        waiting.event = {"status": "failed"}
        with pytest.raises(ExternalDagFailedError):
            waiting.resume(**TASK)

    def test_airflow_keeps_the_time_where_no_triggerer_does(self, waiting):
        a_run(waiting, "running")
        with pytest.raises(TaskDeferred) as deferral:
            make(timeout=300, **TASK).execute(waiting.context)
        assert deferral.value.timeout.total_seconds() == pytest.approx(420)


class TestOverTheApi:
    @pytest.fixture
    def configured(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__AIRFLOW_CONN_ID", "this_airflow")

    def trigger(self, waiting):
        a_run(waiting, "running")
        with pytest.raises(TaskDeferred) as deferral:
            make(**TASK).execute(waiting.context)
        return deferral.value.trigger

    def test_the_same_wait_goes_to_this_airflows_own_api(self, waiting, configured, monkeypatch):
        monkeypatch.setattr(BaseHook, "get_connection", lambda conn_id: {"this_airflow": conn_id}[conn_id])
        trigger = self.trigger(waiting)
        assert isinstance(trigger, AstroDeploymentTrigger)
        wait = trigger.remote_job
        assert (wait.conn_id, wait.dag_id, wait.task_ids) == ("this_airflow", "orders", ("load",))
        assert wait.logical_dates == (DAY.isoformat(),)
        waiting.event = {
            "job": trigger.job,
            "outcome": {
                "status": {"phase": "succeeded", "url": "/dags/orders/runs/mine"},
                "timed_out": False,
            },
        }
        assert waiting.resume(**TASK) is None
        assert waiting.ti.xcoms["external_dag_run"].endswith("/dags/orders/runs/mine")

    def test_a_connection_that_is_not_there_is_no_reason_to_fail(self, waiting, configured):
        with capture_logs() as lines:
            assert isinstance(self.trigger(waiting), ExternalTaskTrigger)
        assert any("no Airflow connection" in line["event"] for line in lines)
