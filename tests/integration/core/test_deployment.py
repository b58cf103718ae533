"""Sensors on another deployment against a real Airflow API server, in the worker and in a triggerer."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter

import pytest
from airflow.providers.standard.exceptions import (
    ExternalDagFailedError,
    ExternalDagNotFoundError,
    ExternalTaskFailedError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)
from airflow.sdk.bases.operator import ExecutorSafeguard

from astronomer.deferral import Hub, JobLost, Pacing
from astronomer.deferral._compat import AirflowSkipException, TaskDeferred
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.hooks.astro import AstroHook
from astronomer.providers.core.jobs import deployment_runs
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from tests.integration.core.deployments import Gateway, RealDeployment
from tests.integration.driving import until_now
from tests.unit.deferral.fakes import FakeTaskInstance, events_of, revived

pytestmark = pytest.mark.xdist_group("another-deployment")

BRISK = Pacing(spacing=0.05, gather=0.01, jitter=0.0, backoff=0.05, max_backoff=0.2, rejection=0.05)
VARIABLE = "AIRFLOW_CONN_ASTRO_CLOUD_DEFAULT"


class TaskInstance(FakeTaskInstance):
    def __init__(self):
        super().__init__()
        self.xcoms = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with RealDeployment(tmp_path_factory.mktemp("deployment")).running() as server:
        yield server


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    monkeypatch.setattr(deployment_runs, "_FEED_EVERY", 0.5)


@pytest.fixture
def deployment(_server, monkeypatch):
    """A deployment without runs, behind the connection ``astro_cloud_default`` with an API token."""
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    monkeypatch.setenv(VARIABLE, _server.connection(password=_server.token()))
    deployment_login._kept.clear()
    _server.delete_all()
    return _server


@pytest.fixture
def gateway(deployment, monkeypatch):
    """The same, through a gateway, for a user with a password."""
    with Gateway(deployment.url) as gateway:
        connection = {"conn_type": "Astro Cloud", "host": gateway.url, "login": "reader"}
        connection["password"] = deployment.passwords["reader"]
        monkeypatch.setenv(VARIABLE, json.dumps(connection))
        yield gateway


@pytest.fixture
def context():
    return {"ti": TaskInstance()}


def sensor(**arguments):
    given = {"task_id": "wait", "external_dag_id": "orders", "poke_interval": 0.1} | arguments
    return ExternalDeploymentSensor(**given)


def deferred(operator, context):
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    trigger = revived(caught.value.trigger)
    trigger.not_before = 0.0
    return trigger


def waited(*triggers, meanwhile=lambda: None):
    """The events of triggers in a triggerer, in which something else happens after a moment."""

    async def main():
        async with Hub(pacing=BRISK) as hub:
            Hub._of_loop[asyncio.get_running_loop()] = hub
            waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in triggers]
            await asyncio.sleep(0.4)
            assert not any(one.done() for one in waiting), [one.result() for one in waiting if one.done()]
            await asyncio.to_thread(meanwhile)
            events = await asyncio.wait_for(asyncio.gather(*waiting), 60)
            assert hub.connections == 1
            return [event for (event,) in events]

    return asyncio.run(main())


def settled(operator, context, meanwhile):
    (event,) = waited(deferred(operator, context), meanwhile=meanwhile)
    return operator.execute_complete(context, event)


class TestWhatIsWaitedFor:
    def test_a_task(self, deployment, context):
        deployment.run("r1")
        settled(
            sensor(external_task_id="a", external_run_id="r1"),
            context,
            lambda: deployment.set("r1", a="success"),
        )
        assert context["ti"].xcoms == {"external_dag_run": f"{deployment.url}/dags/orders/runs/r1"}

    def test_several_tasks(self, deployment, context):
        deployment.run("r1")
        deployment.set("r1", a="success", c="success")
        operator = sensor(external_task_ids=["a", "b"], external_run_id="r1")
        settled(operator, context, lambda: deployment.set("r1", b="success"))

    def test_all_instances_of_a_mapped_task(self, deployment, context):
        deployment.run("r1")
        deployment.set("r1", m_0="success", m_2="success")
        operator = sensor(external_task_id="m", external_run_id="r1")
        settled(operator, context, lambda: deployment.set("r1", m_1="success"))

    @pytest.mark.parametrize(("group", "tasks"), [("g", ("x", "y")), ("plain", ("z",))])
    def test_a_task_group(self, deployment, context, group, tasks):
        deployment.run("r1")
        *first, last = tasks
        deployment.set("r1", a="failed", **dict.fromkeys(first, "success"))
        operator = sensor(external_task_group_id=group, external_run_id="r1")
        settled(operator, context, lambda: deployment.set("r1", **{last: "success"}))

    def test_a_run(self, deployment, context):
        deployment.run("r1")
        settled(sensor(external_run_id="r1"), context, lambda: deployment.set("r1", _run="success"))

    def test_several_runs(self, deployment, context):
        deployment.run("r1")
        deployment.run("r2")
        deployment.set("r1", _run="success")
        settled(sensor(external_run_ids=["r1", "r2"]), context, lambda: deployment.set("r2", _run="success"))

    def test_a_logical_date(self, deployment, context):
        deployment.run("r1", date="2026-01-02T00:00:00Z")
        deployment.run("r2", date="2026-01-03T00:00:00Z")
        deployment.set("r1", _run="failed")
        operator = sensor(external_logical_date="2026-01-03 00:00:00+00:00", external_task_id="a")
        settled(operator, context, lambda: deployment.set("r2", a="success"))

    def test_the_latest_run(self, deployment, context):
        deployment.run("r1", after="2026-01-03T00:00:00Z")
        deployment.run("r0", after="2026-01-02T00:00:00Z")
        deployment.set("r0", _run="failed")
        trigger = deferred(sensor(), context)
        assert trigger.job["run_ids"] == ["r1"]
        deployment.run("r2")
        (event,) = waited(trigger, meanwhile=lambda: deployment.set("r1", _run="success"))
        sensor().execute_complete(context, event)
        assert context["ti"].xcoms["external_dag_run"].endswith("/runs/r1")

    def test_the_latest_run_when_it_has_ended(self, deployment, context):
        deployment.run("r1")
        deployment.set("r1", _run="success", a="success")
        assert sensor().execute(context) is None
        sensor(external_task_id="a", run="latest").execute(context)
        deployment.set("r1", _run="failed")
        with pytest.raises(ExternalDagFailedError, match="r1"):
            sensor().execute(context)

    @pytest.mark.parametrize(
        "which",
        [{}, {"external_run_id": "r1"}, {"external_logical_date": "2026-01-02T00:00:00Z"}],
        ids=["latest", "run id", "date"],
    )
    @pytest.mark.parametrize("about", [{}, {"external_task_id": "a"}], ids=["run", "task"])
    def test_a_run_that_does_not_exist_yet(self, deployment, context, which, about):
        operator = sensor(external_dag_id="never_ran", **which, **about)

        def meanwhile():
            deployment.run("r1", "never_ran", date="2026-01-02T00:00:00Z")
            deployment.set("r1", "never_ran", a="success", _run="running" if about else "success")

        settled(operator, context, meanwhile)

    def test_a_worker_pokes(self, deployment, context):
        deployment.run("r1")
        operator = sensor(external_task_id="a", deferrable=False, timeout=20)
        assert not operator.poke(context)
        deployment.run("r2")
        deployment.set("r1", a="success")
        operator.execute(context)


class TestBadEnds:
    def test_a_failed_task(self, deployment, context):
        deployment.run("r1")
        with pytest.raises(
            ExternalTaskFailedError, match=r"a is upstream_failed, in r1.*/dags/orders/runs/r1"
        ):
            settled(sensor(external_task_id="a"), context, lambda: deployment.set("r1", a="upstream_failed"))

    def test_a_skipped_task(self, deployment, context):
        deployment.run("r1")
        operator = sensor(external_task_id="a", skipped_states=["skipped"])
        with pytest.raises(AirflowSkipException):
            settled(operator, context, lambda: deployment.set("r1", a="skipped"))

    def test_a_deleted_run_is_waited_for_by_its_name(self, deployment, context):
        deployment.run("r1")

        def meanwhile():
            deployment.delete("r1")
            time.sleep(0.3)
            deployment.run("r1")
            deployment.set("r1", _run="success")

        settled(sensor(external_run_id="r1"), context, meanwhile)

    def test_the_latest_run_is_deleted(self, deployment, context):
        deployment.run("r1")
        with pytest.raises(ExternalDagFailedError, match=r"r1, which was the latest run .* has been deleted"):
            settled(sensor(), context, lambda: deployment.delete("r1"))

    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            ({"external_dag_id": "no_such"}, ExternalDagNotFoundError, "no_such"),
            ({"external_task_ids": ["a", "no_such"]}, ExternalTaskNotFoundError, "no_such"),
            ({"external_task_group_id": "no_such"}, ExternalTaskGroupNotFoundError, "no_such"),
        ],
    )
    def test_what_does_not_exist(self, deployment, context, arguments, error, said):
        with pytest.raises(error, match=said):
            sensor(**arguments).execute(context)

    def test_a_group_that_does_not_exist_and_is_not_checked(self, deployment, context):
        deployment.run("r1")
        with pytest.raises(ExternalTaskGroupNotFoundError):
            sensor(external_task_group_id="no_such", check_existence=False).execute(context)

    @pytest.mark.parametrize(
        "fields", [{"login": "reader", "password": "wr0ngwr0ng"}, {"password": "wr0ngwr0ng"}]
    )
    def test_a_wrong_password(self, deployment, context, monkeypatch, fields):
        monkeypatch.setenv(VARIABLE, deployment.connection(**fields))
        with pytest.raises(JobLost, match="refused the Airflow connection 'astro_cloud_default'") as caught:
            sensor().execute(context)
        assert "Check " in str(caught.value)
        assert "wr0ng" not in str(caught.value)

    @pytest.mark.parametrize("path", ["/nowhere", "/api/v2"])
    def test_a_wrong_address(self, deployment, context, monkeypatch, path):
        monkeypatch.setenv(
            VARIABLE, deployment.connection(host=deployment.url + path, password=deployment.token())
        )
        with pytest.raises(JobLost, match="without /api/v2"):
            sensor(check_existence=False).execute(context)


class TestWeather:
    def test_a_gateway_in_trouble(self, deployment, gateway, context):
        deployment.run("r1")
        operator = sensor(external_task_id="a")

        def meanwhile():
            gateway.script += [503, "reset", 404, 502, None, 503]
            until_now(lambda: gateway.script == [])
            deployment.set("r1", a="success")

        settled(operator, context, meanwhile)

    def test_bad_weather_at_the_first_look(self, deployment, gateway, context):
        deployment.run("r1")
        gateway.script += [503]
        trigger = deferred(sensor(external_task_id="a"), context)
        assert trigger.job["as_of"]
        deployment.run("r2", after="2099-01-01T00:00:00Z")
        waited(trigger, meanwhile=lambda: deployment.set("r1", a="success"))

    def test_a_token_that_ends_in_the_middle(self, deployment, gateway, context):
        deployment.run("r1")
        trigger = deferred(sensor(external_task_id="a"), context)
        before = gateway.logins()

        def meanwhile():
            deployment.revoke(gateway.tokens[-1])
            time.sleep(0.5)
            deployment.set("r1", a="success")

        waited(trigger, meanwhile=meanwhile)
        assert gateway.logins() == before + 1


def test_no_secret_is_told(deployment, gateway, context, caplog):
    deployment.run("r1")
    with caplog.at_level(logging.DEBUG):
        trigger = deferred(sensor(external_task_id="a"), context)
        (event,) = waited(trigger, meanwhile=lambda: deployment.set("r1", a="success"))
    told = f"{caplog.text} {trigger.serialize()} {event} {trigger!r} {trigger.remote_job!r}"
    secrets = {deployment.passwords["reader"], *gateway.tokens} - {""}
    assert not [one for one in secrets if one in told]


def test_60_waits_on_6_dags(deployment, gateway, context, monkeypatch):
    """One session, and one question for the runs and one for their tasks at each look."""
    monkeypatch.setattr(deployment_runs, "_FEED_EVERY", 4.0)
    for number in range(6):
        deployment.run("r1", f"many_{number}")
    job = deferred(sensor(external_dag_id="many_0", external_task_id="load"), context)
    triggers = []
    for number in range(60):
        trigger = revived(job)
        about = {"task_ids": ["load"]} if number % 2 else {"task_ids": []}
        name = {"run_ids": ["r1"] if number < 54 else [f"later-{number}"], "latest": False}
        trigger.job = trigger.job | {"dag_id": f"many_{number % 6}", **about, **name}
        trigger.poll_interval = 0.5
        triggers.append(trigger)
    logins = gateway.logins()
    runs, tasks = "/api/v2/dags/~/dagRuns/list", "/api/v2/dags/~/dagRuns/~/taskInstances/list"
    kinds = Counter()

    def looks(number):
        def seen():
            found = Counter(path for _, path in gateway.asked)
            return found if min(found[runs], found[tasks]) >= number else None

        return until_now(seen)

    def meanwhile():
        looks(2)
        gateway.asked.clear()
        began = time.monotonic()
        kinds.update(looks(4))
        assert kinds[tasks] <= (time.monotonic() - began) / 0.5 + 2
        for number in range(6):
            deployment.set("r1", f"many_{number}", load="success", _run="success")
        for number in range(54, 60):
            deployment.run(f"later-{number}", f"many_{number % 6}")
            deployment.set(f"later-{number}", f"many_{number % 6}", load="success", _run="success")

    events = waited(*triggers, meanwhile=meanwhile)
    assert {event["outcome"]["status"]["phase"] for event in events} == {"succeeded"}
    assert set(kinds) == {runs, tasks}
    assert abs(kinds[runs] - kinds[tasks]) <= 2  # one of them about what has ended
    assert gateway.logins() <= logins + 1


def test_the_hook(deployment):
    deployment.run("r1", after="2026-01-02T00:00:00Z")
    deployment.run("r2", after="2026-01-03T00:00:00Z")
    deployment.run("r3")
    deployment.set("r3", _run="success", a="success")
    hook = AstroHook()
    assert hook.get_conn()[0] == deployment.url
    assert [run["dag_run_id"] for run in hook.get_dag_runs("orders")] == ["r2", "r1"]
    assert hook.get_dag_run("orders", "r3")["state"] == "success"
    assert hook.get_dag_run("orders", "no_such") is None
    assert hook.get_task_instance("orders", "r3", "a")["state"] == "success"
    assert hook.get_task_instance("orders", "r3", "no_such") is None
    assert asyncio.run(hook.get_a_dag_run("orders", "r3"))["state"] == "success"
    assert asyncio.run(hook.get_a_task_instance("orders", "r3", "a"))["state"] == "success"
    assert hook.test_connection() == (True, "Airflow 3.3.2 answers")


def test_pages(deployment, context, monkeypatch):
    from astronomer.providers.core.hooks import deployment as client_module

    monkeypatch.setattr(client_module, "_ROWS", 2)
    monkeypatch.setattr(client_module, "_ROWS_BY_GET", 1)
    runs = [deployment.run(f"r{number}") for number in range(5)]
    for run in runs[:4]:
        deployment.set(run, x="success", y="success")
    operator = sensor(external_task_group_id="g", external_run_ids=runs)
    settled(operator, context, lambda: deployment.set("r4", x="success", y="success"))
