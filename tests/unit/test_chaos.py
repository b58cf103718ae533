"""The fault certificate's own rules: what counts as wrong, and that nothing counts as right which was not tried."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from tools.chaos import __main__ as chaos
from tools.chaos import campaign, world
from tools.chaos.books import GRACE, Wait, audit
from tools.chaos.campaign import FAULTS, plan
from tools.chaos.certificate import Certificate, OtherCampaignError, Row, markdown, render
from tools.chaos.jobs import Job, Remote
from tools.chaos.scene import STEPS, Scene
from tools.demo.alone import alone

FACTS = {"executor": "LocalExecutor", "airflow": "3.3.2", "astronomer-providers": "2.0.0"}
OWNER = ("chaos_ours", "run", "task", -1)


def job(name="a", started=0.0, ended=10.0, state="SUCCESS", *, cancelled=False):
    return Job(name, OWNER, state, started, ended, cancelled)


def wait(**more):
    return Wait("ours", "chaos_ours", "run", "task", **{"state": "success", "ended": 12.0, **more})


def measures(found):
    return [one.measure for one in found]


class TestBooks:
    def test_one_job_that_succeeds_is_right(self):
        assert audit(wait(), [job()], 20.0) == []

    def test_a_second_job_beside_a_running_one_is_a_duplicate(self):
        found = audit(wait(), [job("a"), job("b", started=5.0, ended=11.0)], 20.0)
        assert measures(found) == ["duplicates"]
        assert "b (SUCCESS)" in found[0].text
        assert "a (SUCCESS)" in found[0].text

    def test_a_second_job_after_one_that_succeeded_is_a_duplicate(self):
        assert measures(audit(wait(), [job("a"), job("b", 11.0, 12.0)], 20.0)) == ["duplicates"]

    @pytest.mark.parametrize("state", ["FAILED", "CANCELED", "DELETED"])
    def test_a_retry_after_a_job_that_failed_is_right(self, state):
        task = wait(ended_jobs={"a"})
        assert (
            audit(task, [job("a", state=state, cancelled=state == "CANCELED"), job("b", 11.0, 12.0)], 20.0)
            == []
        )

    def test_a_clear_starts_anew(self):
        task = wait(cleared=[5.0], ended=30.0)
        old = job("a", ended=6.0, state="FAILED", cancelled=True)
        assert audit(task, [old, job("b", started=7.0, ended=20.0)], 40.0) == []

    def test_what_a_clear_leaves_running_is_an_orphan(self):
        task = wait(cleared=[5.0], ended=200.0)
        found = audit(task, [job("a", ended=None, state="RUNNING"), job("b", 7.0, 20.0)], 5.0 + GRACE + 1)
        assert measures(found) == ["orphans"]
        assert "still outlives" in found[0].text

    def test_a_job_that_ends_soon_after_its_task_is_no_orphan(self):
        task = wait(state="failed", expected=frozenset({"failed"}), ended_by="marked failed", asked=12.0)
        assert audit(task, [job(ended=12.0 + GRACE, state="FAILED", cancelled=True)], 500.0) == []

    def test_a_job_that_outlives_its_task_is_an_orphan(self):
        found = audit(wait(), [job(ended=12.0 + GRACE + 1)], 500.0)
        assert measures(found) == ["orphans"]
        assert "has outlived" in found[0].text

    def test_the_user_decides_when_a_task_is_over(self):
        """Airflow keeps no end of a task whose run was deleted."""
        task = wait(state="deferred", ended=None, expected=frozenset(), over=3.0, ended_by="deleted")
        assert measures(audit(task, [job(ended=None, state="RUNNING")], 3.0 + GRACE + 1)) == ["orphans"]

    def test_a_cancel_that_nobody_asked_for_is_wrong(self):
        found = audit(wait(), [job(state="CANCELED", cancelled=True), job("b", 11.0, 12.0)], 20.0)
        assert measures(found) == ["wrong_cancels"]

    def test_a_cancel_before_anybody_asked_is_wrong(self):
        """What a row does to its tasks at last excuses nothing of what came before."""
        jobs = [
            job("a", 0.0, 100.0, "CANCELED", cancelled=True),
            job("b", 101.0, 402.0, "CANCELED", cancelled=True),
        ]
        marked = wait(
            state="failed", expected=frozenset({"failed"}), ended_by="marked failed", asked=400.0, ended=400.0
        )
        [found] = audit(marked, jobs, 500.0)
        assert (found.measure, found.text.startswith("a (CANCELED)")) == ("wrong_cancels", True)
        cleared = wait(cleared=[400.0], ended=600.0)
        again = job("c", 403.0, 600.0)
        [found] = audit(cleared, [*jobs, again], 700.0)
        assert (found.measure, found.text.startswith("a (CANCELED)")) == ("wrong_cancels", True)

    def test_a_try_that_nothing_was_done_to_must_not_fail(self):
        found = audit(wait(steady=True, tries=2, complaint="JobLost: no answer"), [job()], 20.0)
        assert measures(found) == ["lost"]
        assert "tried 2 times, and nothing had been done to it: JobLost: no answer" in found[0].text
        assert audit(wait(steady=False, tries=2), [job()], 20.0) == []
        assert audit(wait(steady=True, tries=1), [job()], 20.0) == []
        assert audit(wait(steady=True, tries=2, cleared=[11.0]), [job(), job("b", 11.5, 12.0)], 20.0) == []

    @pytest.mark.parametrize(("state", "text"), [("failed", "ended as failed"), ("deferred", "never ended")])
    def test_a_task_that_does_not_succeed_is_lost(self, state, text):
        found = audit(wait(state=state, ended=None, tries=3), [], 20.0)
        assert measures(found) == ["lost"]
        assert text in found[0].text
        assert "try 3" in found[0].text

    @pytest.mark.parametrize("jobs", [[], [job(state="FAILED")], [job(ended=None, state="RUNNING")]])
    def test_a_success_without_a_job_that_did_it_is_wrong(self, jobs):
        assert "lost" in measures(audit(wait(), jobs, 20.0))
        assert audit(wait(has_job=False), [], 20.0) == []

    def test_only_the_job_that_somebody_cancelled_may_be_cancelled(self):
        task = wait(ended_jobs={"a"})
        again = job("b", 11.0, 12.0, "CANCELED", cancelled=True)
        found = audit(task, [job("a", state="CANCELED", cancelled=True), again, job("c", 13.0, 14.0)], 20.0)
        assert measures(found) == ["wrong_cancels"]

    def test_the_earlier_end_counts(self):
        task = wait(state="failed", expected=frozenset({"failed"}), ended=12.0, over=100.0, ended_by="limit")
        assert measures(audit(task, [job(ended=12.0 + GRACE + 1)], 500.0)) == ["orphans"]

    @pytest.mark.parametrize(
        ("awaited", "right"),
        [
            ({"unsuccessful": 11.0, "succeeded": 12.0}, True),
            ({"unsuccessful": 12.1, "succeeded": 13.0}, False),
            ({"unsuccessful": 11.0, "state": "failed"}, False),
        ],
        ids=["before", "after", "never"],
    )
    def test_a_sensor_succeeds_after_what_it_waits_for(self, awaited, right):
        sensor = wait(has_job=False, succeeded=12.0)
        found = audit(sensor, [], 20.0, wait(**awaited))
        assert measures(found) == ([] if right else ["lost"])
        sensor.ended_by = "marked success"
        assert audit(sensor, [], 20.0, wait(**awaited)) == []

    def test_what_was_done_before_is_named(self):
        [found] = audit(wait(state="failed"), [], 20.0)
        assert found.because("SIGKILL triggerer 2.0 s").text.endswith("before: SIGKILL triggerer 2.0 s")


class TestCertificate:
    @pytest.fixture
    def certificate(self):
        return Certificate(complete=True, leaks=[])

    @staticmethod
    def row(**more):
        return Row(
            "Processes",
            "killed",
            **{
                "injected": Counter(ours=1, both=2),
                "kills": 3,
                "tasks": Counter(ours=2, stock=1),
                "jobs": Counter(ours=4, stock=1),
                "retries": Counter(ours=5),
                **more,
            },
        )

    def test_is_good_when_nothing_of_ours_went_wrong(self, certificate):
        found = audit(Wait("stock", "chaos_stock", "run", "task", state="failed"), [], 1.0)
        certificate.add(self.row(findings=found))
        assert certificate.good
        assert certificate.rows["Processes", "killed"].count("stock", "lost") == 1

    def test_is_bad_when_something_of_ours_did(self, certificate):
        certificate.add(self.row(findings=audit(wait(state="failed"), [], 1.0)))
        assert not certificate.good

    @pytest.mark.parametrize(
        "nothing",
        [{"injected": Counter()}, {"injected": Counter(stock=3, unknown=2)}, {"tasks": Counter(stock=1)}],
    )
    def test_what_was_not_tried_proves_nothing(self, certificate, nothing):
        assert not certificate.good
        certificate.add(self.row(**nothing))
        assert not certificate.good

    def test_neither_does_a_campaign_that_was_cut_short(self):
        certificate = Certificate()
        certificate.add(self.row())
        assert not certificate.good

    def test_nor_one_with_too_few_kills(self, certificate):
        certificate.wanted = 50
        certificate.add(self.row(kills=39))
        assert not certificate.good
        certificate.add(self.row(kills=1))
        assert certificate.good

    def test_adds_up_what_was_tried_more_than_once(self, certificate):
        certificate.add(self.row())
        certificate.add(self.row(findings=audit(wait(state="failed"), [], 1.0)))
        [row] = certificate.rows.values()
        assert (row.hits("ours"), row.hits("stock"), row.tasks["ours"]) == (6, 4, 4)
        assert (row.count("ours", "lost"), certificate.kills) == (1, 6)

    def test_is_written_and_shown(self, tmp_path):
        certificate = Certificate(wanted=7, facts=FACTS)
        certificate.add(self.row(findings=audit(wait(state="failed"), [], 1.0)))
        certificate.write(tmp_path / "chaos.json")
        read = json.loads((tmp_path / "chaos.json").read_text())
        assert read["rows"][0]["ours"]["lost"] == 1
        assert read["rows"][0]["ours"]["findings"][0]["text"].startswith("chaos_ours.task of run")
        again = Certificate.read(tmp_path / "chaos.json", FACTS)
        assert again.as_json() == certificate.as_json()
        line = "| processes: killed | 3 / 2 | 2 / 1 | 4 / 1 | 5 / 0 | 0 / 0 | 0 / 0 | 1 / 0 | 0 / 0 |"
        assert line in markdown(again)
        assert "| **all** | 3 / 2 | 2 / 1 |" in markdown(again)
        console = Console(width=150)
        with console.capture() as shown:
            console.print(render(certificate))
        assert re.search(
            r"killed\s+│\s+3 / 2\s+│\s+2 / 1\s+│\s+4 / 1\s+│\s+5 / 0\s+│\s+0 / 0\s+│\s+0 / 0\s+│\s+1 / 0",
            shown.get(),
        )

    def test_where_jobs_are_short_there_can_be_no_orphan(self, certificate):
        certificate.add(self.row(brief=True))
        assert "| 5 / 0 | 0 / 0 | – | 0 / 0 | 0 / 0 |\n" in markdown(certificate)
        certificate.add(Row("Processes", "other"))
        assert "| **all** | 3 / 2 | 2 / 1 | 4 / 1 | 5 / 0 | 0 / 0 | 0 / 0 | 0 / 0 | 0 / 0 |" in markdown(
            certificate
        )

    def test_a_credential_in_a_log_is_no_good(self, certificate):
        certificate.add(self.row())
        assert certificate.good
        certificate.leaks = ["logs/scheduler.log: Snowflake: password 1"]
        assert not certificate.good

    def test_what_was_not_searched_or_has_been_found_once_is_no_good(self, tmp_path):
        certificate = Certificate(complete=True, facts=FACTS)
        certificate.add(self.row())
        assert not certificate.good
        certificate.leaks = ["logs/scheduler.log: Snowflake: password 1"]
        certificate.write(tmp_path / "chaos.json")
        again = Certificate.read(tmp_path / "chaos.json", FACTS)
        assert again.leaks == certificate.leaks
        certificate.leaks = []
        certificate.write(tmp_path / "chaos.json")
        assert Certificate.read(tmp_path / "chaos.json", FACTS).leaks is None, "the rest is to be searched"

    def test_a_number_that_tells_no_side_proves_nothing(self, certificate, tmp_path):
        certificate.facts = FACTS
        certificate.add(self.row())
        old = certificate.as_json()
        old["rows"][0]["injected"] = 3
        (tmp_path / "chaos.json").write_text(json.dumps(old))
        again = Certificate.read(tmp_path / "chaos.json", FACTS)
        again.complete, again.leaks = True, []
        assert again.rows["Processes", "killed"].injected == Counter(unknown=3)
        assert (certificate.good, again.good) == (True, False)

    @pytest.mark.parametrize("fact", FACTS)
    def test_only_the_same_campaign_goes_on(self, tmp_path, fact):
        Certificate(facts={**FACTS, fact: "other", "seconds": 3}).write(tmp_path / "chaos.json")
        with pytest.raises(OtherCampaignError, match=f"{fact} other, not {FACTS[fact]}"):
            Certificate.read(tmp_path / "chaos.json", FACTS)


class TestCommand:
    """What is refused before anything is started."""

    @pytest.fixture
    def command(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(chaos, "Signals", FakeSignals)
        monkeypatch.setattr(chaos, "running", None)

        def run(*arguments):
            status = chaos.main(["--only", "task paused", "--folder", str(tmp_path), *arguments])
            return status, " ".join(capsys.readouterr().out.split())

        return run

    def test_one_campaign_at_a_time(self, command, tmp_path):
        (tmp_path / "processes.json").write_text("{}")
        with alone(tmp_path, "campaign"):
            status, told = command()
        assert (status, f"(process {os.getpid()})" in told) == (1, True)
        assert (tmp_path / "processes.json").exists(), "nothing of the first one is ended"

    def test_the_faults_are_listed(self, command, capsys):
        with pytest.raises(SystemExit) as ended:
            command("--list")
        assert (ended.value.code, capsys.readouterr().out) == (0, "Processes: task paused\n")

    @pytest.mark.parametrize(
        ("more", "name"), [([], "chaos.json"), (["--celery"], "chaos-celery.json")], ids=["local", "celery"]
    )
    def test_each_executor_has_a_certificate_of_its_own(self, command, tmp_path, more, name):
        Certificate(facts={"executor": "another"}).write(tmp_path / name)
        status, told = command("--resume", *more)
        assert status == 1
        assert told.startswith(f"{name} is of another campaign: executor another")


class FakeSignals:
    def watch(self):
        """No handlers."""


class TestPlan:
    @pytest.mark.parametrize("kills", [50, 1000])
    def test_kills_enough_in_scenes_of_a_bearable_size(self, kills):
        planned = list(plan(FAULTS, kills))
        assert sum(number for _, number in planned) >= kills
        assert all(number <= fault.at_once for fault, number in planned)
        assert {fault.name for fault, _ in planned} == {fault.name for fault in FAULTS}

    def test_some_faults_have_no_more_kills_than_they_would_have_among_all(self):
        people = [fault for fault in FAULTS if fault.group == "People"]
        among = {fault.name: number for fault, number in plan(FAULTS, 50) if fault in people}
        assert {fault.name: number for fault, number in plan(people, 50, of=FAULTS)} == among
        assert sum(number for _, number in plan(people, 50)) >= 50, (
            "a number that is asked for them alone is theirs"
        )

    def test_the_quick_faults_kill_enough_in_one_round(self):
        quick = [fault for fault in FAULTS if fault.quick]
        planned = list(plan(quick, 50))
        assert len(planned) == len(quick)
        assert sum(number for _, number in planned) >= 50

    def test_goes_on_where_it_was_interrupted(self):
        whole = list(plan(FAULTS, 300))
        before = Certificate()
        for fault, kills in whole[: len(whole) // 2]:
            before.add(Row(fault.group, fault.name, Counter(both=1), kills))
        rest = list(plan(FAULTS, 300, before))
        assert sum(kills for _, kills in rest) == sum(kills for _, kills in whole) - before.kills
        done = {(fault.group, fault.name) for fault, _ in rest} | set(before.rows)
        assert done == {(fault.group, fault.name) for fault in FAULTS}
        for fault, kills in rest:
            before.add(Row(fault.group, fault.name, Counter(both=1), kills))
        assert list(plan(FAULTS, 300, before)) == []

    def test_a_fault_that_can_do_few_kills_at_once_has_more_scenes(self):
        number = [kills for fault, kills in plan(FAULTS, 1000) if fault.at_once == 2]
        assert sum(number) > 10
        assert set(number) <= {1, 2}

    def test_what_was_wanted_and_seen_before_still_counts(self, monkeypatch):
        monkeypatch.setattr(campaign, "Remote", lambda *_: SimpleNamespace(look=lambda: None))
        place = SimpleNamespace(snowflake=None, databricks=None, fell=Counter())
        before = Certificate(wanted=1000, facts={"ended by themselves": {"triggerer": 1}})
        place.fell.update(["triggerer", "scheduler"])
        found = campaign.Campaign(place, Console(), [], 50, 0, certificate=before).run()
        assert found.wanted == 1000
        assert found.facts["ended by themselves"] == {"triggerer": 2, "scheduler": 1}

    def test_each_fault_has_a_name_of_its_own(self):
        assert len({fault.name for fault in FAULTS}) == len(FAULTS)


class Snowflake:
    def queries(self):
        one = {"parent_id": None, "error_code": None, "started_at": 1.0, "ended_at": 2.0}
        return [
            {**one, "id": "q1", "sql": "SELECT 1 /* chaos|chaos_ours|run|query| */", "state": "SUCCESS"},
            {
                **one,
                "id": "q2",
                "sql": "SELECT 1 /* chaos|chaos_many|run|wait|7 */",
                "state": "FAILED_WITH_ERROR",
            },
            {**one, "id": "q3", "sql": "ALTER SESSION SET x = 1", "state": "SUCCESS"},
        ]


class Databricks:
    def __init__(self):
        self.gone = False

    def runs(self):
        one = {"run_id": 5, "name": "chaos|chaos_ours|run|run|", "state": "RUNNING", "ended": False}
        return [] if self.gone else [{**one, "start_time": 1000, "end_time": 0}]

    def statements(self):
        one = {"id": "s1", "text": "SELECT 1 /* chaos|chaos_ours|run|statement| */", "state": "CANCELED"}
        return [{**one, "started_at": None, "submitted_at": 3.0, "ended": True, "ended_at": 4.0}]


class Mapping:
    """A run whose tasks are made when those before them have ended."""

    def __init__(self):
        self.answers = [
            [("numbers", -1, "success"), ("statements", -1, "running"), ("wait", -1, None)],
            [("numbers", -1, "success"), ("statements", -1, "success"), ("wait", -1, None)],
            [("wait", 0, "running"), ("wait", 1, "deferred")],
            [("wait", 0, "deferred"), ("wait", 1, "deferred")],
        ]

    def tasks(self, dag_id, run_id):
        for task_id, index, state in self.answers.pop(0):
            one = {"task_id": task_id, "map_index": index, "state": state, "try_number": 1}
            yield {"dag_id": dag_id, "dag_run_id": run_id, **one}


class TestScene:
    def test_waits_for_tasks_that_are_made_late(self):
        world = SimpleNamespace(airflow=Mapping(), until=lambda reached, _seconds: [*iter(reached, True)])
        scene = Scene(world, Remote(Snowflake(), Databricks()), random.Random(0))
        scene.started["chaos_many"] = {"run"}
        assert scene.until_deferred() == 2
        assert world.airflow.answers == []

    @pytest.mark.parametrize("awaited", ["deferred", "success"])
    def test_knows_what_a_sensor_waits_for(self, awaited):
        states = {"external_task": "success", "snowflake_sql_api": awaited}
        scene = Scene(SimpleNamespace(injections=[]), Remote(Snowflake(), Databricks()), random.Random(0))
        for task_id in ("snowflake_sql_api", "external_task", "snowflake_sql_api"):
            one = {"task_id": task_id, "map_index": -1, "state": states[task_id], "try_number": 1}
            scene._take({"dag_id": "chaos_ours", "dag_run_id": "run", **one})
        early = [one for one in scene.verdict() if "external_task" in one.text]
        assert len(early) == (awaited == "deferred")


class TestRemote:
    def test_knows_whose_each_job_is(self):
        remote = Remote(Snowflake(), Databricks())
        remote.look()
        [query] = remote.of("chaos_ours", "run", "query", -1)
        [mapped] = remote.of("chaos_many", "run", "wait", 7)
        [run] = remote.of("chaos_ours", "run", "run", -1)
        [statement] = remote.of("chaos_ours", "run", "statement", -1)
        assert (query.id, query.succeeded, mapped.succeeded) == ("q1", True, False)
        assert (run.id, run.started, run.ended) == ("run:5", 1.0, None)
        assert (statement.cancelled, statement.started) == (True, 3.0)
        assert len(remote.jobs) == 4

    @pytest.mark.parametrize(
        ("path", "query", "side"),
        [
            ("/api/2.2/jobs/runs/get", {"run_id": "5"}, "ours"),
            ("/api/2.0/sql/statements/s2", {}, "stock"),
            ("/queries/q1/result", {}, "ours"),
            ("/monitoring/queries", {}, "ours"),
            ("/api/2.2/jobs/runs/submit", {}, "unknown"),
        ],
    )
    def test_knows_whose_a_request_is(self, path, query, side):
        remote = Remote(Snowflake(), Databricks())
        remote.look()
        remote.jobs["statement:s2"] = Job("statement:s2", ("chaos_stock", "r", "t", -1), "", 0.0, None, False)
        assert remote.side({"path": path, "query": query}) == side

    def test_remembers_what_was_deleted(self):
        databricks = Databricks()
        remote = Remote(Snowflake(), databricks)
        remote.look()
        databricks.gone = True
        remote.look()
        [run] = remote.of("chaos_ours", "run", "run", -1)
        assert (run.state, run.ended is not None) == ("DELETED", True)


@pytest.mark.parametrize(
    ("step", "path"),
    [
        ("submit", "/queries/v1/query-request"),
        ("submit", "/api/v2/statements"),
        ("submit", "/api/2.2/jobs/runs/submit"),
        ("submit", "/api/2.0/sql/statements"),
        ("poll", "/monitoring/queries"),
        ("poll", "/api/2.2/jobs/runs/list"),
        ("poll", "/api/2.0/sql/history/queries"),
        ("poll", "/api/v2/statements/01c8"),
        ("cancel", "/queries/v1/abort-request"),
        ("cancel", "/api/2.0/sql/statements/s1/cancel"),
    ],
)
def test_each_step_knows_its_requests(step, path):
    assert re.search(STEPS[step][1], path)


def test_credentials_may_stand_where_airflow_keeps_them_and_nowhere_else(monkeypatch):
    places = ["connection.extra (id=2)", "connection.password (id=1)", "task_instance.next_kwargs (id=3)"]
    asked = {}

    def search(*_words, **how):
        asked.update(how)
        return [f"{one}: Airflow: connection a, password" for one in places]

    monkeypatch.setattr(world, "leaks", search)
    first = SimpleNamespace(environment={}, installation=SimpleNamespace(password="of-a-user"))
    services = SimpleNamespace(first=first, given={"AIRFLOW_CONN_A_0": "{}"})
    backend = SimpleNamespace(databases=lambda: ["postgresql://"], folders=list)
    found = world.World.leaks(
        SimpleNamespace(places=None, services=services, backend=backend, snowflake=None, databricks=None)
    )
    assert found == ["task_instance.next_kwargs (id=3): Airflow: connection a, password"]
    assert asked["databases"] == ["postgresql://"]
    assert list(asked["passwords"].values()) == ["of-a-user"]


@pytest.mark.parametrize("words", [[], ["--short"], ["--only", "People"]], ids=["all", "short", "some"])
def test_kills_are_shared_among_the_faults_of_the_form(words):
    options = chaos._parser().parse_args(words)
    form = chaos._form(options)
    chosen = chaos._chosen(options)
    assert {one.name for one in chosen} <= {one.name for one in form}
    assert any("Celery" in one.name for one in form) is False
    assert all(one.quick for one in form) is (words == ["--short"])
    assert {one.group for one in chosen} == ({"People"} if "People" in words else {one.group for one in form})


def test_a_process_that_has_ended_cannot_be_killed():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        found = psutil.Process(process.pid)
        while found.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        here = SimpleNamespace(
            task_processes=lambda: {process.pid: found}, processes=SimpleNamespace(programs=[])
        )
        assert world.World.of_task(here, process.pid) == []
        here.task_processes = lambda: {os.getpid(): psutil.Process()}
        assert psutil.Process() in world.World.of_task(here, os.getpid())
