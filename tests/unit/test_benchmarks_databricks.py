"""The arithmetic of the Databricks benchmark, and one tiny run for its shape. No test depends on how fast anything is."""

import json
from contextlib import contextmanager
from importlib.metadata import version

import pytest

from astronomer.lab.databricks import DatabricksLab, LabClient
from benchmarks import phase, place, program
from benchmarks.databricks import __main__ as benchmark
from benchmarks.databricks import measures, others, submit
from benchmarks.databricks.plan import many, restart, steady
from benchmarks.databricks.table import render
from benchmarks.databricks.workspace import DATABRICKS
from benchmarks.phase import Seen
from benchmarks.place import Place
from benchmarks.plan import Plan
from benchmarks.sides import OURS, STOCK

AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
LIST, GET = "/api/2.2/jobs/runs/list", "/api/2.2/jobs/runs/get"
WORKED = {"ended_at": 200.0, "error": None}
BROKE = {"ended_at": 201.0, "error": "FAILED"}
GOES_ON = {"ended_at": None, "error": "RUNNING"}


def ours(phase):
    return {"job": {}, "outcome": {"status": {"phase": phase}, "timed_out": False}}


def stock(result):
    return {"run_state": json.dumps({"life_cycle_state": "TERMINATED", "result_state": result})}


def fired(payload, at, wait):
    return {"wait": wait, "at": at, "payload": payload}


def request(at, path=GET, *, status=200, port=1, **query):
    return {"at": at, "path": path, "client_port": port, "status": status, "query": query}


def seen(**over):
    report = {
        "import_seconds": 0.5,
        "started_seconds": 1.0,
        "cpu_seconds": 0.4,
        "counted": 0,
        "stalls": [],
        "stall_between_collections": 0.0,
        "late_seconds": 0.0,
        "longest_collection": 0.01,
        "events": [fired(ours("succeeded"), 203.0, 1), fired(ours("failed"), 205.0, 2)],
    }
    given = {
        "plan": Plan(4, first=100.0, spread=600.0, poll_interval=30.0, watched=160.0),
        "start": 90.0,
        "started_at": 100.0,
        "stopped_at": 260.0,
        "remotes": [WORKED, BROKE, GOES_ON, GOES_ON],
        "requests": [],
        "report": report | over.pop("report", {}),
        "log_lines": 12,
        "questions": 4,
    }
    return Seen(**given | over)


@pytest.mark.parametrize(
    ("side", "payload", "run", "truth"),
    [
        (OURS, ours("succeeded"), WORKED, True),
        (OURS, ours("failed"), WORKED, False),
        (OURS, ours("lost"), BROKE, False),
        (OURS, ours("failed"), BROKE, True),
        (OURS, None, WORKED, False),
        (STOCK, stock("SUCCESS"), WORKED, True),
        (STOCK, stock("FAILED"), WORKED, False),
        (STOCK, stock("FAILED"), BROKE, True),
        (STOCK, stock("SUCCESS"), BROKE, False),
        (STOCK, {"run_state": "no JSON"}, WORKED, False),
        (STOCK, {}, WORKED, False),
    ],
)
def test_an_event_tells_the_truth_when_it_says_how_the_run_ended(side, payload, run, truth):
    assert measures.tells(side, payload, run) is truth


def test_a_poll_begins_with_the_first_page():
    requests = [
        request(131.0, LIST),
        request(132.0, LIST, page_token="lab25"),
        request(133.0),
        request(160.0, LIST),
        request(161.0, LIST, page_token="lab25"),
        request(192.0, LIST),
    ]
    found = measures.per_tick(seen(requests=[request(120.0, LIST), *requests, request(201.0)]))
    assert found == {"requests_per_tick": 2.5, "lists_per_tick": 2.0, "gets_per_tick": 0.5, "tick_s": 30.5}


def test_without_a_list_it_is_the_interval():
    # All have started at 100, the first run ends at 200: two ticks of 30 s from 130 on.
    requests = [request(at) for at in (129.0, 130.0, 140.0, 189.0, 190.0, 199.0)]
    found = measures.per_tick(seen(requests=requests))
    assert (found["requests_per_tick"], found["gets_per_tick"], found["tick_s"]) == (1.5, 1.5, 30.0)


def test_without_a_quiet_tick_there_is_no_such_number():
    assert measures.per_tick(seen(started_at=150.0))["requests_per_tick"] is None


def test_dead_is_a_trigger_that_failed_or_told_something_else():
    assert measures.dead(OURS, seen()) == set()
    assert measures.dead(OURS, seen(failures={3: "AirflowException: 429"})) == {3}
    assert measures.dead(OURS, seen(report={"events": [fired(ours("lost"), 203.0, 1)]})) == {1}
    assert measures.dead(OURS, seen(report={"events": [fired(ours("succeeded"), 199.0, 1)]})) == {1}


def test_unanswered_is_an_end_in_time_without_an_event():
    assert measures.unanswered(OURS, seen()) == set()
    assert measures.unanswered(OURS, seen(report={"events": []})) == {1, 2}
    assert measures.unanswered(OURS, seen(report={"events": []}, failures={1: "broken"})) == {2}
    too_late = WORKED | {"ended_at": 251.0}
    assert measures.unanswered(OURS, seen(remotes=[too_late], report={"events": []})) == set()


def test_the_numbers():
    requests = [
        request(100.0, "/oidc/v1/token"),
        request(131.0, LIST, port=2),
        request(161.0, LIST, port=2),
        request(162.0, status=429, port=2),
        request(203.0, port=2),
        request(205.0, port=2),
    ]
    found = measures.numbers(OURS, seen(requests=requests, failures={4: "AirflowException: 429"}))
    wanted = {
        "requests_per_tick": 1.0,
        "throttled": 1,
        "dead": 1,
        "unanswered": 0,
        "ended": 2,
        "gets_per_end": 1.0,
        "tokens": 1,
        "connections": 2,
        "cpu_ms_per_wait": 100.0,
        "loop_stall_ms": 0.0,
        "end_to_event_s": {"p50": 3.0, "p99": 4.0},
        "deaths": {"AirflowException: 429": 1},
    }
    assert {name: found[name] for name in wanted} == wanted
    assert "deaths" not in measures.numbers(OURS, seen())


@pytest.mark.parametrize("plan", [steady(1000, 1000, 30.0), restart(1000, 0, 30.0), many(10_000, 1000, 30.0)])
def test_two_ticks_pass_before_the_first_end_and_some_runs_end_in_time(plan):
    all_given = plan.waits / plan.per_sync
    assert plan.first - all_given >= 3 * plan.poll_interval
    in_time = [end for end in plan.ends() if end <= plan.watched]
    assert 100 <= len(in_time) < plan.waits / 2
    assert plan.over - plan.last >= 2 * plan.poll_interval


def test_the_waits_of_the_steady_phase_come_within_an_interval_and_after_a_restart_at_once():
    assert steady(1000, 0, 30.0).per_sync == 34
    assert steady(1000, 0, 30.0, own=5.0).poll_interval == 5.0
    assert restart(1000, 0, 30.0).per_sync == 1000


def test_runs_start_among_those_of_others_and_end_in_the_order_of_the_plan(tmp_path):
    plan = Plan(20, first=60.0, spread=600.0, poll_interval=30.0, others=10)
    # Its time all but stands still: the first of the others ends a second after it started.
    with DatabricksLab(directory=tmp_path, speed=1e-3) as lab:
        for side in (OURS, STOCK):
            submitted = submit.run(plan, side, LabClient(lab.url, lab.ca_file))
            waits = submitted["waits"][side]
            started = [
                run for run in lab.runs.values() if run.run_id in {int(one["remote_id"]) for one in waits}
            ]
            assert len(started) == 20
            assert waits[0]["classpath"] == DATABRICKS.sides[side].classpath
        assert lab.active == 60
        lab.advance(60.0 + 600.0 + 30.0)
        results = [lab.runs[int(one["remote_id"])].state.result for one in waits]
        assert (results.count("SUCCESS"), results.count("FAILED")) == (18, 2)
        by_id = sorted(range(20), key=lambda number: int(waits[number]["remote_id"]))
        ends = [plan.ends()[number] for number in by_id if results[number] == "SUCCESS"]
        assert ends == sorted(ends)


def test_others_start_runs_as_long_as_the_block_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(others, "_EVERY", 0.01)
    with DatabricksLab(directory=tmp_path) as lab:
        client = LabClient(lab.url, lab.ca_file)
        with others.coming(client, Plan(1, first=1.0, spread=1.0, others=100)):
            while lab.active < 3:
                continue
        before = len(lab.runs)
        assert len(lab.runs) == before


@pytest.fixture
def imagined(monkeypatch):
    """Phases that are over at once, with what was seen in them."""

    @contextmanager
    def started(module, directory):
        yield Place("https://localhost:1", 1, str(directory / "ca.pem"), "lab", {})

    def run(name, plan, vendor, sides, workspace, directory, env):
        return {side: seen(report={"events": []}) for side in sides}

    monkeypatch.setattr(place, "started", started)
    monkeypatch.setattr(phase, "run", run)
    monkeypatch.setattr(DATABRICKS, "control", lambda place: None, raising=False)


def test_one_object_with_all_phases_of_both_sides(imagined, capsys):
    assert benchmark.main(["--waits", "4", "--foreign", "0", "--scale", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["waits"], found["foreign"], found["poll_interval_s"], found["own_interval_s"]) == (
        4,
        0,
        30,
        5,
    )
    for numbers in (found[OURS], found[OURS]["restart"], found[STOCK], found[STOCK]["restart"]):
        assert numbers["unanswered"] == 2
    assert found[OURS]["default"]["ended"] == 2
    assert found[OURS]["scale"]["waits"] == 10_000
    assert {"default", "scale"}.isdisjoint(found[STOCK])


def test_one_side_and_no_more(imagined, capsys):
    assert benchmark.main(["--waits", "4", "--only", STOCK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert OURS not in found
    assert "restart" in found[STOCK]


def test_the_table_has_a_column_for_each_phase(imagined, capsys, monkeypatch, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- databricks numbers: here -->\n<!-- end of databricks numbers -->\n")
    monkeypatch.setattr(program, "README", page)
    assert benchmark.main(["--waits", "4", "--scale", "--update"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:-2]]
    heads = ["ours", "stock", "ours, restart", "stock, restart", "ours, default", "ours, 10000"]
    assert cells[0] == ["", *heads]
    assert ["ends not noticed", *["2"] * 6] in cells
    assert len({len(line) for line in lines[:-2]}) == 1
    assert lines[2] in page.read_text()


def test_a_side_that_was_not_measured_has_no_column():
    found = {"waits": 4, "foreign": 0, "poll_interval_s": 30.0, "own_interval_s": 5.0, "machine": {"cpus": 2}}
    head = render({**found, STOCK: measures.numbers(STOCK, seen())}).splitlines()[0]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["", "stock"]


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="the runner's frames are those of Airflow 3.3")
@pytest.mark.long
def test_a_tiny_run_of_both_sides(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/nowhere")
    plan = Plan(
        5, first=7.0, spread=10.0, poll_interval=0.5, watched=12.0, per_sync=5, others=3, patience=20.0
    )
    found = {side: benchmark._phase("tiny", side, plan, tmp_path) for side in (OURS, STOCK)}
    for numbers in found.values():
        assert (numbers["throttled"], numbers["dead"], numbers["unanswered"]) == (0, 0, 0)
        assert numbers["ended"] >= 2
        assert numbers["end_to_event_s"]["p50"] >= 0
        assert numbers["cpu_ms_per_wait"] > 0
        assert numbers["connections"] >= 1
    assert (found[OURS]["tokens"], found[STOCK]["tokens"]) == (1, 5)
    assert found[OURS]["lists_per_tick"] >= 1
    assert found[STOCK]["lists_per_tick"] == 0
