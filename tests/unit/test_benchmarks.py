"""The benchmark's arithmetic, and one tiny run for its shape. No test here depends on how fast anything is."""

import json
from importlib.metadata import version
from itertools import pairwise

import pytest

from benchmarks import measures as common
from benchmarks.phase import Seen
from benchmarks.plan import Plan
from benchmarks.program import README
from benchmarks.sides import OURS, STOCK
from benchmarks.snowflake import __main__ as program
from benchmarks.snowflake import measures
from benchmarks.snowflake.plan import POLL_INTERVAL, sql
from benchmarks.snowflake.table import render
from benchmarks.table import with_numbers

AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
WORKED = {"ended_at": 100.0, "error": None}
BROKE = {"ended_at": 100.0, "error": "002003"}


def fired(payload, at=101.0, wait=1):
    return {"wait": wait, "at": at, "payload": payload}


def ours(phase, code=None):
    return {
        "job": {},
        "outcome": {"status": {"phase": phase} | ({"code": code} if code else {}), "timed_out": False},
    }


def stock(status, message=""):
    return {"status": status, "message": message}


def seen(side=OURS, **over):
    report = {
        "import_seconds": 0.5,
        "started_seconds": 1.0,
        "cpu_seconds": 0.4,
        "counted": 2,
        "stalls": [
            {"seconds": 0.15, "collecting": 0.11, "cpu": 0.03, "after": 0.1},
            {"seconds": 0.05, "collecting": 0.0, "cpu": 0.0, "after": 3.0},
        ],
        "stall_between_collections": 0.05,
        "late_seconds": 0.2,
        "longest_collection": 0.01,
        "events": [fired(ours("succeeded")), fired(ours("failed", "002003"), at=104.0, wait=2)],
    }
    given = {
        "plan": Plan(2, first=10.0, spread=5.0),
        "start": 80.0,
        "started_at": 80.0,
        "stopped_at": 110.0,
        "remotes": [WORKED, BROKE],
        "requests": [],
        "report": report | over.pop("report", {}),
        "log_lines": 10,
        "questions": 4,
    }
    return Seen(**given | over)


def request(at, path="/monitoring/queries", port=1, fault=None):
    return {"at": at, "path": path, "client_port": port, "fault": fault}


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 101)], 0.5, 50.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentile_is_a_value_that_was_seen(values, share, expected):
    assert common.percentile(values, share) == expected


@pytest.mark.parametrize(
    ("side", "payload", "query", "truth"),
    [
        (OURS, ours("succeeded"), WORKED, True),
        (OURS, ours("failed", "002003"), WORKED, False),
        (OURS, ours("lost"), WORKED, False),
        (OURS, ours("failed", "002003"), BROKE, True),
        (OURS, ours("failed", "000604"), BROKE, False),
        (OURS, ours("succeeded"), BROKE, False),
        (STOCK, stock("success"), WORKED, True),
        (STOCK, stock("error", "503, message='Service Unavailable'"), WORKED, False),
        (STOCK, stock("error", "Object does not exist (Code: 002003, SQL State: 42S02)"), BROKE, True),
        (STOCK, stock("error", "503, message='Service Unavailable'"), BROKE, False),
        (STOCK, stock("success"), BROKE, False),
        (STOCK, None, WORKED, False),
    ],
)
def test_an_event_tells_the_truth_when_it_says_how_the_query_ended(side, payload, query, truth):
    assert measures.tells(side, payload, query) is truth


def test_an_event_before_the_end_is_a_guess():
    def right(at, remote):
        events = [fired(ours("succeeded"), at=at)]
        return common.right(seen(remotes=[remote], report={"events": events}), lambda *_: True)

    assert set(right(100.0, WORKED)) == {1}
    assert not right(99.9, WORKED)
    assert not right(101.0, WORKED | {"ended_at": None})


def test_a_wait_without_an_event_or_with_a_wrong_one_is_lost():
    assert measures.lost(OURS, seen()) == 0
    assert measures.lost(OURS, seen(report={"events": [fired(ours("succeeded"))]})) == 1
    twice = [fired(ours("lost")), fired(ours("succeeded"), at=105.0)]
    assert measures.lost(OURS, seen(report={"events": twice})) == 2


def test_requests_are_counted_between_the_start_and_the_first_end():
    # All have started at 80, the first query ends at 100: three ticks of 5 s from 85 on.
    requests = [request(at) for at in (81.0, 84.9, 85.0, 90.0, 90.1, 95.0, 99.9, 100.0, 105.0)]
    assert measures.requests_per_tick(seen(requests=requests)) == pytest.approx(5 / 3)


def test_without_a_quiet_tick_there_is_no_such_number():
    assert measures.requests_per_tick(seen(started_at=100.0 - 1.9 * POLL_INTERVAL)) is None


def test_the_steady_numbers():
    requests = [
        request(80.0, "/session/v1/login-request"),
        request(86.0, port=1),
        request(91.0, port=2),
        request(96.0, port=2),
    ]
    found = measures.steady(OURS, seen(requests=requests))
    assert found == {
        "logins": 1,
        "connections": 2,
        "requests_per_tick": 1.0,
        "loop_stall_ms": 150.0,
        "cpu_ms_per_wait": 200.0,
        "end_to_event_s": {"p50": 1.0, "p99": 4.0},
        "lost": 0,
        "loop_stall_cpu_ms": 30.0,
        "loop_stall_but_gc_ms": 50.0,
        "loop_late_s": 0.2,
        "longest_gc_ms": 10.0,
        "stalls_over_100_ms": 1,
        "import_ms": 500.0,
        "all_started_s": 1.0,
        "requests_per_wait": 2.0,
        "supervisor_messages_per_wait": 2.0,
        "log_lines_per_wait": 5.0,
    }


def test_who_does_not_log_in_is_counted_by_the_tokens_it_signs():
    assert measures.steady(STOCK, seen(requests=[request(90.0, "/api/v2/statements/x")]))["logins"] == 2


def test_a_loop_that_never_stalled():
    found = measures.steady(OURS, seen(report={"stalls": [], "late_seconds": 0.0}))
    assert (found["loop_stall_ms"], found["stalls_over_100_ms"]) == (0.0, 0)


def test_the_first_wait_of_a_process():
    assert measures.cold(seen()) == {
        "loop_stall_ms": 150.0,
        "loop_stall_cpu_ms": 30.0,
        "loop_stall_but_gc_ms": 50.0,
        "longest_gc_ms": 10.0,
        "cpu_ms": 400.0,
    }


def test_the_numbers_of_a_storm():
    plan = Plan(2, first=5.0, spread=10.0, storm_at=10.0, storm=10.0)
    requests = [request(89.0), request(90.0, fault="reset"), request(95.0), request(100.0, fault="reset")]
    found = measures.storm(OURS, seen(plan=plan, requests=requests))
    assert found == {"lost": 0, "requests": 2, "disturbed": 1, "last_event_after_storm_s": 4.0}
    nothing = measures.storm(STOCK, seen(plan=plan, report={"events": []}))
    assert nothing == {"lost": 2, "requests": 0, "disturbed": 0, "last_event_after_storm_s": None}


def test_the_ends_of_a_plan_are_spread_evenly_and_the_same_each_time():
    plan = Plan(200, first=10.0, spread=20.0)
    assert plan.ends() == plan.ends()
    ends = sorted(plan.ends())
    assert (ends[0], ends[-1]) == (10.0, pytest.approx(30.0))
    assert {round(b - a, 6) for a, b in pairwise(ends)} == {round(20 / 199, 6)}
    assert Plan(1, first=10.0, spread=20.0).ends() == [10.0]


def test_a_plan_is_over_when_patience_is():
    assert Plan(1, 10.0, 20.0, patience=30.0).over == 60.0
    assert Plan(1, 10.0, 20.0, storm_at=20.0, storm=60.0, patience=5.0).over == 85.0


def test_every_tenth_query_fails():
    failing = [number for number in range(40) if "no_such_table" in sql(number, 1.0)]
    assert failing == [9, 19, 29, 39]
    assert "running=12.500 " in sql(0, 12.5)
    assert "running=0.000 " in sql(0, -1.0)


def test_a_table_shows_both_sides_and_their_ratio():
    machine = {"cpus": 2}
    both = measures.steady(OURS, seen())
    found = {
        "waits": 2,
        "poll_interval_s": 5.0,
        "machine": machine,
        OURS: both,
        STOCK: {**both, "logins": 200},
    }
    lines = render({**found, OURS: {**both, "logins": 1, "scale": {"waits": 1000, **both}}}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:-2]]
    assert cells[0] == ["", "ours", "stock", "ours / stock", "ours, 1000 waits"]
    assert cells[2] == ["logins, or tokens signed", "1", "200", "0.005", "2"]
    assert len({len(line) for line in lines[:-2]}) == 1
    assert "-" in render({name: value for name, value in found.items() if name != STOCK}).splitlines()[2]


@pytest.mark.parametrize("name", ["snowflake", "databricks"])
def test_new_numbers_replace_the_old_ones_in_the_page(name):
    page = README.read_text(encoding="utf-8")
    once = with_numbers(page, name, "| new |")
    assert f"\n\n| new |\n\n<!-- end of {name} numbers -->\n" in once
    assert with_numbers(once, name, "| newer |") == once.replace("| new |", "| newer |")
    assert once.startswith(page.partition(f"<!-- {name} numbers")[0])
    assert once.endswith(page.partition(f"<!-- end of {name} numbers -->")[2])


def test_a_page_without_a_place_for_the_numbers_is_refused():
    with pytest.raises(ValueError, match="no marks for the numbers of snowflake"):
        with_numbers("# Benchmarks", "snowflake", "| new |")


NUMBERS = {
    field for field in measures.steady(OURS, seen()) if field not in {"end_to_event_s", "requests_per_tick"}
}


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="the runner's frames are those of Airflow 3.3")
@pytest.mark.long
def test_a_tiny_run_prints_one_object_of_the_promised_shape(capsys, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", "/nowhere")
    assert program.main(["--waits", "5", "--storm", "0", "--quiet-for", "1", "--spread", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["waits"] == 5
    assert found["machine"]["cpus"] >= 1
    for side in (OURS, STOCK):
        assert all(isinstance(found[side][name], int | float) for name in NUMBERS)
        assert set(found[side]["end_to_event_s"]) == {"p50", "p99"}
        assert found[side]["connections"] >= 1
        assert found[side]["cold"]["cpu_ms"] > 0
        assert "storm" not in found[side]
        assert found[side]["lost"] == 0
    assert (found[OURS]["logins"], found[STOCK]["logins"]) == (1, 5)
