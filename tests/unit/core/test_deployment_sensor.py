"""The sensor on another deployment: its arguments, its look in the worker, and the laws of a wait."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.standard.exceptions import (
    ExternalDagFailedError,
    ExternalDagNotFoundError,
    ExternalTaskFailedError,
    ExternalTaskGroupFailedError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)
from airflow.sdk import DAG, DagRunState, TaskInstanceState
from airflow.sdk.bases.operator import ExecutorSafeguard

from astronomer.deferral import Hub, JobLost, Phase
from astronomer.deferral._compat import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from astronomer.deferral.testing import FakeClock
from astronomer.providers.core.hooks import deployment as client_module
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.hooks.astro import AstroHook
from astronomer.providers.core.jobs.deployment import DeploymentWait
from astronomer.providers.core.links import ExternalDagLink
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger
from tests.unit.core.deployments import PASSWORD, TOKEN, URL, Deployment, date, reply, wait
from tests.unit.deferral.fakes import FakeTaskInstance, events_of, let, revived

VARIABLE = "AIRFLOW_CONN_ASTRO_CLOUD_DEFAULT"


class TaskInstance(FakeTaskInstance):
    def __init__(self):
        super().__init__()
        self.xcoms = {}
        self.rescheduled = None

    def xcom_push(self, key, value):
        self.xcoms[key] = value

    def get_first_reschedule_date(self, context):
        return self.rescheduled


@pytest.fixture
def deployment(monkeypatch):
    """What every client of this process asks."""
    deployment = Deployment()
    monkeypatch.setattr(client_module, "new_transport", lambda ca_file: deployment)
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    connect(monkeypatch, password=TOKEN)
    deployment_login._kept.clear()
    return deployment


def connect(monkeypatch, **fields):
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "Astro Cloud", "host": URL} | fields))


@pytest.fixture
def context():
    return {"ti": TaskInstance()}


def sensor(**arguments):
    return ExternalDeploymentSensor(**{"task_id": "wait", "external_dag_id": "orders"} | arguments)


def deferred(operator, context):
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    assert caught.value.method_name == "execute_complete"
    return revived(caught.value.trigger)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"external_task_id": "a", "external_task_ids": ["b"]}, "only one of `external_task_id`, `external_task_ids`"),
            ({"external_task_id": "a", "external_task_group_id": "g"}, "`external_task_group_id`"),
            ({"external_run_id": "a", "external_run_ids": ["b"]}, "only one of `external_run_id`, `external_run_ids`"),
            ({"external_run_id": "a", "run": "latest"}, "only one of `external_run_id`, `run`"),
            ({"external_logical_date": "2026-01-01", "external_run_id": "a"}, "`external_logical_date`"),
            ({"run": "first"}, "`run` takes"),
            ({"allowed_states": ["skipped"]}, "`allowed_states` takes a list of failed, queued, running, success"),
            ({"failed_states": "failed"}, "`failed_states` takes a list"),
            ({"external_task_id": "a", "skipped_states": ["paused"]}, "`skipped_states` takes a list"),
            ({"failed_states": ["success"]}, "The same state stands in two"),
            ({"poke_interval": -1}, "poke_interval"),
        ],
    )  # fmt: skip
    def test_that_contradict_each_other(self, arguments, said):
        with pytest.raises(ValueError, match=said):
            sensor(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"external_run_id": "None"}, "`external_run_id` names nothing"),
            ({"external_run_id": ""}, "`external_run_id` names nothing"),
            ({"external_dag_id": ""}, "`external_dag_id` names nothing"),
            ({"external_task_ids": []}, "`external_task_ids` names nothing"),
            ({"external_task_ids": ["a", "a"]}, "`external_task_ids` names something twice"),
            ({"external_run_ids": ["a", None, "None"]}, "`external_run_ids` names nothing"),
            (
                {"external_logical_date": "yesterday"},
                "`external_logical_date` is no ISO 8601 date: 'yesterday'",
            ),
            ({"external_logical_date": []}, "`external_logical_date` names nothing"),
        ],
    )
    def test_that_make_no_sense_once_they_are_rendered(self, deployment, context, arguments, said):
        with pytest.raises(ValueError, match=said):
            sensor(**arguments).execute(context)
        assert deployment.asked == []

    @pytest.mark.parametrize(
        "name", ["external_task_id", "external_task_ids", "external_run_id", "external_logical_date"]
    )
    def test_that_turn_out_to_be_nothing_are_no_wait_for_something_else(self, deployment, context, name):
        operator = sensor(**{name: ["{{ x }}"] if name.endswith("s") else "{{ x }}"})
        setattr(operator, name, None)  # rendered natively, or an XCom that was never pushed
        with pytest.raises(ValueError, match=f"`{name}` names nothing"):
            operator.execute(context)
        assert deployment.asked == []

    def test_that_are_no_text(self, deployment, context):
        with pytest.raises(TypeError, match="`external_task_id` must be a text"):
            sensor(external_task_id=123).execute(context)

    def test_states_that_cannot_come(self):
        with pytest.raises(ValueError, match="`allowed_states` is empty"):
            sensor(allowed_states=[])

    def test_a_day_is_a_date(self, deployment, context):
        operator = sensor(
            external_logical_date=datetime(2026, 1, 1, tzinfo=timezone.utc).date(), check_existence=False
        )
        assert deferred(operator, context).remote_job.logical_dates == ("2026-01-01T00:00:00.000000+00:00",)

    def test_a_text_is_no_list(self, deployment, context):
        with pytest.raises(TypeError, match="`external_run_ids` must be a list"):
            sensor(external_run_ids="r1").execute(context)

    @pytest.mark.parametrize(
        ("arguments", "fields"),
        [
            ({}, {"latest": True, "failed_states": ("failed",)}),
            ({"run": "latest"}, {"latest": True}),
            ({"external_run_id": "r1"}, {"run_ids": ("r1",), "latest": False, "as_of": None}),
            ({"external_run_ids": ["r1", "r2"]}, {"run_ids": ("r1", "r2")}),
            ({"external_logical_date": "2026-01-02"}, {"logical_dates": ("2026-01-02T00:00:00.000000+00:00",)}),
            (
                {"external_logical_date": datetime(2026, 1, 2, 2, tzinfo=timezone(timedelta(hours=2)))},
                {"logical_dates": ("2026-01-02T00:00:00.000000+00:00",)},
            ),
            ({"external_logical_date": ["2026-01-02 00:00:00+00:00"]}, {"logical_dates": ("2026-01-02T00:00:00.000000+00:00",)}),
            ({"external_task_id": "a"}, {"task_ids": ("a",), "failed_states": ("failed", "upstream_failed")}),
            ({"external_task_ids": ["a", "b"]}, {"task_ids": ("a", "b")}),
            ({"external_task_group_id": "g"}, {"group_id": "g", "task_ids": ()}),
            ({"allowed_states": [DagRunState.FAILED]}, {"allowed_states": ("failed",), "failed_states": ()}),
            ({"external_task_id": "a", "skipped_states": [TaskInstanceState.SKIPPED]}, {"skipped_states": ("skipped",)}),
            ({"failed_states": []}, {"failed_states": ()}),
            ({"silent_fail": True}, {"failed_states": ()}),
            ({"astro_cloud_conn_id": "another"}, {"conn_id": "another"}),
        ],
    )  # fmt: skip
    def test_what_they_come_to(self, deployment, context, monkeypatch, arguments, fields):
        monkeypatch.setenv(
            "AIRFLOW_CONN_ANOTHER", json.dumps({"conn_type": "Astro Cloud", "host": URL, "password": TOKEN})
        )
        job = sensor(**arguments).job(context)
        assert {name: getattr(job, name) for name in fields} == fields
        assert job.address == URL

    def test_templates_are_rendered(self, deployment):
        with DAG("waiting", schedule=None):
            operator = sensor(
                external_dag_id="{{ 'a' }}",
                external_task_ids=["{{ 'b' }}"],
                external_logical_date="{{ logical_date }}",
                astro_cloud_conn_id="{{ 'c' }}",
            )
        operator.render_template_fields({"logical_date": datetime(2026, 1, 2, tzinfo=timezone.utc)})
        found = (operator.external_dag_id, operator.external_task_ids, operator.astro_cloud_conn_id)
        assert found == ("a", ["b"], "c")
        assert operator._values("external_logical_date") == ("2026-01-02 00:00:00+00:00",)

    def test_a_connection_that_makes_no_sense(self, deployment, context, monkeypatch):
        connect(monkeypatch)
        for soft_fail in (False, True):
            with pytest.raises(AirflowException, match="neither an API token"):
                sensor(soft_fail=soft_fail).execute(context)


class TestTheLookInTheWorker:
    def test_that_is_enough(self, deployment, context):
        deployment.start(a="success")
        assert sensor(external_task_id="a", external_run_id="r1").execute(context) is None
        assert context["ti"].xcoms == {ExternalDagLink.xcom_key: f"{URL}/dags/orders/runs/r1"}

    @pytest.mark.parametrize(
        ("about", "error"),
        [
            ({}, ExternalDagFailedError),
            ({"external_task_id": "a"}, ExternalTaskFailedError),
            ({"external_task_group_id": "g"}, ExternalTaskGroupFailedError),
        ],
    )
    def test_that_sees_a_failure(self, deployment, context, about, error):
        deployment.groups["g"] = ("a",)
        deployment.start(state="failed", a="failed")
        with pytest.raises(error, match=f"failed, in r1.*{URL}/dags/orders/runs/r1"):
            sensor(external_run_id="r1", **about).execute(context)
        with pytest.raises(AirflowSkipException):
            sensor(external_run_id="r1", soft_fail=True, **about).execute(context)

    def test_stays_with_the_latest_run(self, deployment, context):
        deployment.start("r1", due=-1e9)
        trigger = deferred(sensor(), context)
        assert trigger.job["run_ids"] == ["r1"]
        assert trigger.job["as_of"] is None

    def test_remembers_of_which_moment_the_latest_run_is(self, deployment, context):
        deployment.start("r1", due=-1e9)
        deployment.script += [reply(), 503]
        trigger = deferred(sensor(), context)
        assert trigger.job["run_ids"] == []
        began = datetime.fromisoformat(trigger.job["as_of"])
        assert abs(began - datetime.now(timezone.utc)) < timedelta(seconds=20)

    def test_finds_no_run_yet(self, deployment, context):
        trigger = deferred(sensor(check_existence=False), context)
        assert trigger.job["as_of"]
        assert context["ti"].xcoms == {ExternalDagLink.xcom_key: f"{URL}/dags/orders"}

    @pytest.mark.parametrize(
        ("about", "error"),
        [
            ({"external_dag_id": "no_such"}, ExternalDagNotFoundError),
            ({"external_task_id": "no_such"}, ExternalTaskNotFoundError),
            ({"external_task_group_id": "no_such"}, ExternalTaskGroupNotFoundError),
        ],
    )
    def test_of_what_does_not_exist(self, deployment, context, about, error):
        deployment.start(a=None)
        with pytest.raises(error, match=f"no_such.*{URL}"):
            sensor(**about).execute(context)
        assert not [path for path in deployment.paths() if path.endswith("list")]

    def test_of_what_may_not_be_seen(self, deployment, context):
        deployment.script += [reply(403, {"detail": "Forbidden"})]
        with pytest.raises(AirflowException, match="Forbidden"):
            sensor().execute(context)

    def test_of_what_is_not_checked(self, deployment, context):
        deployment.start(a=None)
        deferred(sensor(external_task_id="no_such", check_existence=False), context)

    def test_with_a_wrong_password(self, deployment, context, monkeypatch):
        connect(monkeypatch, login="reader", password="another-secret")
        with pytest.raises(JobLost, match="'astro_cloud_default'") as caught:
            sensor().execute(context)
        assert "another-secret" not in str(caught.value)
        assert len(deployment.logins) == 1

    def test_at_a_wrong_address(self, deployment, context):
        deployment.script += [404]
        with pytest.raises(JobLost, match="no Airflow 3 answers"):
            sensor().execute(context)

    def test_closes_its_session(self, deployment, context):
        deployment.start()
        deferred(sensor(), context)
        assert deployment.closed == 1

    def test_tells_no_secret(self, deployment, context, monkeypatch, caplog):
        connect(monkeypatch, login="reader", password=PASSWORD)
        deployment.start()
        with caplog.at_level(logging.DEBUG):
            trigger = deferred(sensor(), context)
        told = (
            f"{caplog.text} {trigger.serialize()} {trigger.remote_job!r} {trigger.remote_job.connection_key}"
        )
        assert not [one for one in (PASSWORD, *deployment.alive) if one in told]


class TestInAWorker:
    def test_it_stays_with_the_latest_run(self, deployment, context):
        deployment.start("r1", due=-1e9)
        operator = sensor(deferrable=False)
        assert not operator.poke(context)
        deployment.start("r2", due=-1e8)
        deployment.end("r1")
        assert operator.poke(context)
        assert context["ti"].xcoms[ExternalDagLink.xcom_key].endswith("/r1")

    def test_it_stays_with_it_when_it_is_rescheduled(self, deployment, context):
        context["ti"].rescheduled = datetime(2026, 6, 1, tzinfo=timezone.utc)
        operator = sensor(deferrable=False, mode="reschedule")
        assert operator.job(context).as_of == "2026-06-01T00:00:00.000000+00:00"

    def test_it_waits_out_bad_weather(self, deployment, context):
        deployment.script += [503]
        assert not sensor(deferrable=False).poke(context)

    def test_it_checks_once_whether_it_exists(self, deployment, context):
        deployment.start()
        operator = sensor(deferrable=False)
        for _ in range(3):
            operator.poke(context)
        assert deployment.paths().count("dags/orders") == 1


def trigger_for(job, **arguments):
    given = {"deadline": None, "poll_interval": 5.0, "cancel_on_kill": False} | arguments
    return revived(AstroDeploymentTrigger(job=job.to_dict(), **given))


class TestLaws:
    """One event of plain JSON, a last look at the deadline, nothing cancelled, one answer for all."""

    def run(self, *triggers, meanwhile=None):
        async def main():
            async with Hub() as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in triggers]
                if meanwhile is not None:
                    await meanwhile()
                return await asyncio.gather(*waiting)

        return FakeClock().run(main)

    @pytest.mark.parametrize(
        "job",
        [
            wait(tasks="ab", run_ids=["r1", "r2"], failed_states=["failed"]),
            wait(group_id="g", logical_dates=[date(1)]),
            wait(latest=True, as_of="2026-01-01T00:00:00+00:00", conn_id="c"),
            wait(latest=True, run_ids=["r1"]),
        ],
    )
    def test_what_crosses_is_plain_json(self, job):
        again = DeploymentWait.from_dict(json.loads(json.dumps(job.to_dict())))
        assert again == job
        assert hash(again) == hash(job)
        assert again.keys == job.keys
        assert DeploymentWait.from_dict(job.to_dict() | {"of_a_later_release": 1}) == job

    def test_one_event(self, deployment):
        async def meanwhile():
            await let(30)
            deployment.end()

        deployment.start()
        ((event,),) = self.run(trigger_for(wait(run_ids=["r1"])), meanwhile=meanwhile)
        assert event["outcome"] == {
            "status": {"phase": "succeeded", "raw": "success", "url": f"{URL}/dags/orders/runs/r1"},
            "timed_out": False,
        }

    def test_a_last_look_at_the_deadline(self, deployment, context):
        start = FakeClock().start

        async def meanwhile():
            await let(98)
            deployment.end()

        deployment.start()
        triggers = [
            trigger_for(wait(run_ids=[run_id]), deadline=start + 100, poll_interval=3600)
            for run_id in ("r1", "later")
        ]
        (ended,), (late,) = self.run(*triggers, meanwhile=meanwhile)
        assert not ended["outcome"]["timed_out"]
        assert late["outcome"]["timed_out"]
        with pytest.raises(AirflowSensorTimeout, match="Dag orders, later"):
            sensor(external_run_id="later").execute_complete(context, late)

    def test_a_kill_cancels_nothing(self, deployment):
        async def meanwhile():
            await trigger.on_kill()
            deployment.end()

        trigger = trigger_for(wait(run_ids=["r1"]), cancel_on_kill=True)
        deployment.start()
        self.run(trigger, meanwhile=meanwhile)
        assert deployment.methods <= {"GET", "POST"}
        assert all(path.endswith("/list") or path == "dags/orders/dagRuns/r1" for path in deployment.paths())

    def test_identical_waits_share_an_answer(self, deployment):
        async def meanwhile():
            await let(60)
            deployment.asked.clear()
            await let(50)
            assert {len(body["dag_run_ids"]) for _, _, body in deployment.asked if "dag_run_ids" in body} == {
                1
            }
            assert 9 <= deployment.count()[1] <= 12
            deployment.set(a="success")

        deployment.start(a="running")
        events = self.run(
            *(trigger_for(wait(tasks="a", run_ids=["r1"])) for _ in range(100)), meanwhile=meanwhile
        )
        assert {event["outcome"]["status"]["phase"] for (event,) in events} == {Phase.SUCCEEDED.value}
        assert deployment.closed == 1

    def test_an_event_of_a_lost_wait(self, deployment, context):
        async def meanwhile():
            await let(1)
            deployment.script += [503] * 10_000

        deployment.start()
        trigger = trigger_for(wait(run_ids=["r1"]), outage_tolerance=600)
        ((event,),) = self.run(trigger, meanwhile=meanwhile)
        with pytest.raises(JobLost, match=r"No answer about Dag orders, r1, at https://airflow.* for 600 s"):
            sensor(external_run_id="r1").execute_complete(context, event)


class TestTheHook:
    def test_its_form(self):
        form = AstroHook.get_ui_field_behaviour()
        assert set(form) == {"hidden_fields", "relabeling", "placeholders"}
        assert AstroHook.conn_type == AstroHook.hook_name == "Astro Cloud"
        assert AstroHook().astro_cloud_conn_id == AstroHook.default_conn_name == "astro_cloud_default"

    def test_where_it_leads(self, deployment):
        assert AstroHook().get_conn() == (URL, TOKEN)

    def test_what_it_says_of_a_connection(self, deployment):
        assert AstroHook().test_connection() == (True, "Airflow 3.3.2 answers")
        deployment.alive.clear()
        works, said = AstroHook().test_connection()
        assert not works
        assert "API token" in said
        assert TOKEN not in said
