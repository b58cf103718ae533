"""A fault counts where it hit, and only when it did."""

import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tools.chaos.faults import people, processes
from tools.chaos.hits import Hits
from tools.chaos.jobs import Job, Remote
from tools.chaos.scene import Scene

OURS, STOCK = "chaos_ours", "chaos_stock"
RESULT = "/api/v2/statements/{}"
SUBMIT = "/queries/v1/query-request"
ABORT = "/queries/v1/abort-request"


class Lab:
    """A service whose log is written by the test."""

    def __init__(self):
        self.log, self.faults = [], []

    def requests(self, _since):
        return self.log

    def add_fault(self, kind, **fault):
        self.faults.append((kind, fault))

    def clear_faults(self):
        self.faults.clear()


class Airflow:
    """Tasks, each in the state and with the process that the test gives it."""

    def __init__(self):
        self.instances = {}

    def put(self, dag_id, task_id, state="running", pid=None):
        key = {"dag_id": dag_id, "dag_run_id": "run", "task_id": task_id, "map_index": -1}
        self.instances[dag_id, task_id] = {**key, "state": state, "pid": pid, "try_number": 1}

    def tasks(self, dag_id, run_id):
        return [one for (dag, _), one in self.instances.items() if dag == dag_id]

    def mark(self, instance, state):
        instance["state"] = state


class World:
    """Processes that are only numbers: a port is the id of the process that asks from it."""

    def __init__(self):
        self.airflow, self.snowflake, self.databricks = Airflow(), Lab(), Lab()
        self.triggerers, self.killed, self.paused_parts, self.alive = {}, [], [], set()

    def ask(self, question, *arguments):
        return question(*arguments)

    def until(self, condition, _seconds):
        return condition()

    def tend(self):
        """Nothing dies by itself."""

    def note(self, _what):
        """Nobody asks what was before."""

    def names(self, _part):
        return sorted(set(self.triggerers.values()))

    def sender(self, port):
        return SimpleNamespace(pid=port)

    def triggerer_of(self, process):
        return self.triggerers.get(process.pid)

    def kill_task(self, pid, *, machine=False):
        self.killed.append(pid)
        return True

    def end(self, name, number):
        assert number == signal.SIGKILL
        self.killed.append(name)
        return True

    def of_task(self, pid):
        return [pid] if pid in self.alive else []

    @contextmanager
    def stopped(self, members, _what):
        yield len(members)

    @contextmanager
    def paused(self, name):
        self.paused_parts.append(name)
        yield


@pytest.fixture
def world():
    return World()


@pytest.fixture
def scene(world, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(Remote, "look", lambda _remote: None)
    scene = Scene(world, Remote(None, None), random.Random(0), dags=())
    scene.started = {OURS: {"run"}, STOCK: {"run"}}
    return scene


def asked(path, port, *, at=50.0, method="GET", status=0):
    return {
        "path": path,
        "query": {},
        "client_port": port,
        "at": at,
        "method": method,
        "status": status,
        "fault": "late",
    }


def job(name, task_id, ended=None, dag_id=OURS):
    return Job(name, (dag_id, "run", task_id, -1), "SUCCESS" if ended else "RUNNING", 1.0, ended, False)


class TestHits:
    def test_a_process_is_told_once_airflow_knows_it(self):
        hits = Hits()
        hits.process(7)
        assert hits.total() == Counter(unknown=1)
        hits.tasks[7] = "ours"
        assert hits.total() == Counter(ours=1)

    @pytest.mark.parametrize(
        ("going", "hit"), [({"ours", "stock"}, "both"), ({"stock"}, "stock"), (set(), "unknown")]
    )
    def test_what_hits_everything_hits_what_goes_on(self, going, hit):
        hits = Hits()
        hits.all(going, 2)
        assert hits.total() == Counter({hit: 2})

    def test_a_run_that_nobody_has_seen_yet_goes_on(self, scene, world):
        assert scene.going() == {"ours", "stock"}
        world.airflow.put(OURS, "query", "success")
        scene.watch()
        assert scene.going() == {"stock"}


class TestBeforeSubmit:
    def kill(self, scene, world, jobs=()):
        scene.remote.jobs = {one.id: one for one in jobs}
        world.airflow.put(OURS, "query", pid=1)
        world.airflow.put(OURS, "external_task", pid=2)
        world.airflow.put(STOCK, "query", pid=3)
        processes.kill_before_submit(scene, 2)

    def test_hits_each_process_that_has_begun_a_job_to_come(self, scene, world):
        self.kill(scene, world)
        assert world.killed == [1, 3], "a sensor submits nothing"
        assert scene.hits.total() == Counter(ours=1, stock=1)

    def test_spares_a_task_that_has_its_job(self, scene, world, monkeypatch):
        monkeypatch.setattr(processes, "EACH", 0.05)
        self.kill(scene, world, [job("q1", "query")])
        assert world.killed == [3]

    def test_a_job_that_began_before_the_kill_makes_it_another_fault(self, scene, world, monkeypatch):
        monkeypatch.setattr(processes, "EACH", 0.05)
        monkeypatch.setattr(
            world, "kill_task", lambda pid: scene.remote.jobs.update(q=job("q", "query")) is None
        )
        self.kill(scene, world)
        assert (scene.kills, scene.hits.total()) == (1, Counter(stock=1)), "only stock's had none of its own"


class TestSenders:
    def killed(self, scene, step, whose):
        processes.sender_killer(scene, 9, step=step, whose=whose)()
        return scene.world.killed

    def test_a_worker_and_a_triggerer_may_submit(self, scene, world):
        world.airflow.put(STOCK, "query", pid=1)
        world.triggerers[2] = "triggerer"
        world.snowflake.log = [asked(SUBMIT, port, method="POST", at=float(port)) for port in (1, 2)]
        assert self.killed(scene, "submit", "task") == [1]
        assert self.killed(scene, "submit", "triggerer") == [1, "triggerer"]
        assert scene.hits.total() == Counter(stock=1, ours=1)

    def test_who_has_its_answer_is_no_longer_in_the_step(self, scene, world):
        world.snowflake.log = [asked(SUBMIT, 1, method="POST", status=200)]
        assert self.killed(scene, "submit", "task") == []

    def test_a_result_is_read_from_a_job_that_has_ended(self, scene, world):
        scene.remote.jobs = {
            one.id: one for one in (job("q1", "a", 40.0), job("q2", "b"), job("q3", "c", 60.0))
        }
        world.snowflake.log = [
            asked(RESULT.format(f"q{number}"), number, at=50.0 + number) for number in (1, 2, 3)
        ]
        assert self.killed(scene, "result", "task") == [1]

    def test_a_triggerer_is_killed_in_the_midst_of_a_cancel(self, scene, world, monkeypatch):
        monkeypatch.setattr(people, "EACH", 0.0)
        monkeypatch.setattr(people, "_spared", lambda _scene: set())
        monkeypatch.setattr(people, "_end_others", lambda _scene: None)
        world.airflow.put(OURS, "query", "deferred")
        world.triggerers[2] = "triggerer"
        cancelled = asked(ABORT, 2, method="POST")
        monkeypatch.setattr(world.airflow, "mark", lambda *_: world.snowflake.log.append(cancelled))
        people.kill_cancelling(scene, 2)
        assert world.killed == ["triggerer"]
        assert scene.hits.total() == Counter(ours=1), "a mark is no kill"


class TestPauses:
    def test_count_the_processes_that_were_stopped(self, scene, world, monkeypatch):
        monkeypatch.setattr(Scene, "go_on", lambda *_, **__: None)
        for pid in (1, 2):
            world.airflow.put(OURS, f"query{pid}", pid=pid)
        world.alive = {2}
        processes.pause_tasks(scene, 0)
        assert scene.hits.total() == Counter(ours=1)

    def test_wait_for_a_task_of_ours(self, scene, world, monkeypatch):
        monkeypatch.setattr(Scene, "go_on", lambda *_, **__: None)
        for pid in range(1, 5):
            world.airflow.put(STOCK, f"query{pid}", pid=pid)
        world.alive = set(range(1, 6))

        def until(running, _seconds):
            assert not running(), "there are tasks of stock only"
            world.airflow.put(OURS, "query", pid=5)
            return running()

        monkeypatch.setattr(world, "until", until)
        processes.pause_tasks(scene, 0)
        assert scene.hits.total() == Counter(ours=1, stock=2)

    def test_stop_who_submits(self, scene, world, monkeypatch):
        monkeypatch.setattr(Scene, "go_on", lambda *_, **__: None)
        monkeypatch.setattr(processes, "EACH", 0.1)
        world.airflow.put(STOCK, "query", pid=1)
        world.alive, world.triggerers = {1}, {2: "triggerer"}
        world.snowflake.log = [asked(SUBMIT, port, method="POST", at=float(port)) for port in (1, 2)]
        processes.pause_senders(scene, 0, step="submit")
        assert world.paused_parts == ["triggerer"]
        assert scene.hits.total() == Counter(stock=1, ours=1)


def test_of_two_triggerers_one_goes_on(scene, world, monkeypatch):
    monkeypatch.setattr(Scene, "go_on", lambda *_, **__: None)
    monkeypatch.setattr(processes, "EACH", 0.1)
    world.triggerers = {1: "triggerer", 2: "triggerer 2", 3: "triggerer"}
    world.snowflake.log = [asked(SUBMIT, port, method="POST", at=float(port)) for port in (1, 2, 3)]
    processes.pause_senders(scene, 0, step="submit")
    assert world.paused_parts == ["triggerer"]


def test_a_triggerer_is_stopped_in_the_midst_of_a_cancel(scene, world, monkeypatch):
    """Its cancel may have been answered when all tasks are marked."""
    monkeypatch.setattr(Scene, "go_on", lambda *_, **__: None)
    monkeypatch.setattr(processes, "EACH", 0.0)
    monkeypatch.setattr(people, "_spared", lambda _scene: set())
    monkeypatch.setattr(people, "_end_others", lambda _scene: None)
    for task in ("query", "other"):
        world.airflow.put(OURS, task, "deferred")
    world.triggerers = {2: "triggerer", 3: "triggerer 2"}
    waiting = [asked(ABORT, port, method="POST", at=float(port)) for port in (3, 2)]
    monkeypatch.setattr(world.airflow, "mark", lambda *_: world.snowflake.log.append(waiting.pop()))
    people.pause_cancelling(scene, 0)
    assert world.paused_parts == ["triggerer"]
    assert scene.hits.total() == Counter(ours=1)


def test_a_task_is_marked_while_its_worker_has_it_once_its_job_has_begun(scene, world, monkeypatch):
    for task in ("query", "other"):
        world.airflow.put(OURS, task, "running")
    world.airflow.put(STOCK, "query", "deferred")
    scene.remote.jobs = {one.id: one for one in (job("q1", "query"), job("q2", "query", dag_id=STOCK))}
    late = []
    monkeypatch.setattr(people, "_mark", lambda scene, state: late.extend(scene.watch()))
    people.mark_at_begin(scene, 0)
    assert scene.hits.total() == Counter(ours=1)
    assert world.airflow.instances[OURS, "query"]["state"] == "failed"
    assert [(one["dag_id"], one["task_id"]) for one in late] == [(OURS, "other"), (STOCK, "query")]


class TestLimit:
    """What ended by its execution_timeout says so, and which job it was."""

    def judged(self, scene, world, monkeypatch, told):
        world.airflow.put(OURS, "query", "failed")
        world.airflow.put(OURS, "too_late", "failed")
        world.airflow.put(OURS, "external_task", "failed")
        world.airflow.put(STOCK, "query", "failed")
        scene.watch()
        scene.remote.jobs = {one.id: one for one in (job("q1", "query"), job("q2", "query", dag_id=STOCK))}
        monkeypatch.setattr(Scene, "complaint", lambda _scene, wait: told.get(wait.task_id, ""))
        found = people.names_its_limit(scene)
        assert scene.hits.total() == Counter(ours=2, stock=1), "one had no job yet"
        return [(one.measure, one.text) for one in found]

    def test_is_named_with_the_job(self, scene, world, monkeypatch):
        told = {
            "query": "JobTimedOut: Query q1 did not end before the task's execution_timeout",
            "external_task": "JobTimedOut: external_task has timed out while it waited for task snowflake_sql_api",
        }
        assert self.judged(scene, world, monkeypatch, told) == []

    @pytest.mark.parametrize(
        "said", ["", "Login failed", "Query q9 did not end before the execution_timeout"]
    )
    def test_another_cause_is_no_cause(self, scene, world, monkeypatch, said):
        told = {"query": said, "external_task": "timed out while it waited for task snowflake_sql_api"}
        [(measure, text)] = self.judged(scene, world, monkeypatch, told)
        assert measure == "lost"
        assert text.endswith(f"does not say what has not ended in time: {said or 'it says nothing'}")


def test_a_retry_tells_the_last_error_of_the_try_before(scene, world):
    world.airflow.put(OURS, "query", "success")
    world.airflow.instances[OURS, "query"]["try_number"] = 3
    lines = ["Submitting", '{"exc_type": "JobLost", "exc_value": "no answer"}', "Post Execute"]
    world.airflow.log = lambda *words: lines if words[-1] == 2 else []
    events = {"running", "failed"}
    world.airflow.events = lambda *_words: events
    world.injections = []
    scene.watch()
    scene.remote.jobs = {"q1": job("q1", "query", 9.0)}
    [found] = scene.verdict(steady=True)
    assert (found.measure, "tried 3 times" in found.text, "JobLost" in found.text) == ("lost", True, True)


@pytest.mark.parametrize(("said", "measures"), [("heartbeat timeout", []), ("state mismatch", ["lost"])])
def test_what_airflow_itself_has_given_up_is_no_fault_of_ours(scene, world, said, measures):
    world.airflow.put(OURS, "query", "success")
    world.airflow.instances[OURS, "query"]["try_number"] = 2
    world.airflow.events = lambda *_words: {"running", said}
    world.airflow.log = lambda *_words: []
    world.injections = []
    scene.watch()
    scene.remote.jobs = {"q1": job("q1", "query", 9.0)}
    assert [one.measure for one in scene.verdict(steady=True)] == measures
