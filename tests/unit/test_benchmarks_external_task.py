"""The arithmetic of the benchmark on other Dags, and one tiny run of it all. No test depends on how fast anything is."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise

import pytest

from benchmarks.external_task import __main__ as program
from benchmarks.external_task import measures
from benchmarks.external_task.database import Resumed
from benchmarks.external_task.phase import Ended, Quiet, Seen
from benchmarks.external_task.plan import DAG, GROUP, MIXED, OURS_API, PER_RUN, TASK, Crowd
from benchmarks.external_task.questions import questions
from benchmarks.external_task.table import render
from benchmarks.external_task.triggerer import Cpu
from benchmarks.program import README
from benchmarks.sides import OURS, STOCK
from benchmarks.table import with_numbers
from tools.servers import postgres

AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
NAME = "external task"
BARE = {"sql_per_s": 10.0}

# As pg_stat_statements shows them, shortened where it says "…".
COUNT_TASKS = "SELECT count(*) AS count_1 \nFROM task_instance \nWHERE task_instance.dag_id = $1 AND task_instance.task_id IN ($2)"
COUNT_RUNS = (
    "SELECT count(*) AS count_1 \nFROM dag_run \nWHERE dag_run.dag_id = $1 AND dag_run.state IN ($2, $3)"
)
RUN_STATE = "SELECT dag_run.state \nFROM dag_run \nWHERE dag_run.dag_id = $1 AND dag_run.run_id = $2"
INSTANCES = (
    "SELECT task_instance.id, task_instance.task_id, … \nFROM task_instance JOIN dag_run AS dag_run_1 ON … \n"
    "WHERE task_instance.dag_id = $1 AND "
)
STATES = f"{INSTANCES}task_instance.task_id IN ($2, $3) AND (EXISTS (…))"
BEFORE_GROUP = f"{INSTANCES}(EXISTS (…))"
OTHERS = (
    "BEGIN",
    "SELECT count(trigger.id) AS count_1 \nFROM trigger \nWHERE trigger.triggerer_id = $1",
    "SELECT task_instance.id, … \nFROM task_instance JOIN dag_run AS … \nWHERE task_instance.trigger_id IN ($1)",
    "UPDATE task_instance SET updated_at=$1::timestamptz, trigger_id=$2 WHERE task_instance.state != $3",
    "SELECT dag_run.state, … \nFROM dag_run \nWHERE dag_run.dag_id = $1",
)


def ours(phase, *, timed_out=False):
    return {"job": {}, "outcome": {"status": {"phase": phase}, "timed_out": timed_out}}


def stock(status):
    return {"status": status}


def seen(crowd, *, told=(), ends=None, statements=None):
    """Two seconds of quiet; then every target has ended well at 100, and some sensors have been told."""
    cpu = Cpu(supervisor=1.0, runner=0.5, database=0.25)
    if ends is None:
        ends = dict.fromkeys(crowd.targets, Ended(100.0, "success"))
    resumed = {
        number: Resumed(*crowd.sensor(number), at, "execute_complete", {"event": payload})
        for number, at, payload in told
    }
    return Seen(crowd, 3.04, Quiet(2.0, Counter(statements or {"BEGIN": 30}), cpu), ends, resumed)


def test_neighbours_wait_for_different_dags_and_each_task_is_waited_for_once():
    crowd = Crowd(sensors=1000, dags=50)
    assert [target.dag_id for target in crowd.waits[:51]] == [
        *(f"external_{n}" for n in range(50)),
        "external_0",
    ]
    assert len(crowd.targets) == 1000
    assert crowd.names(TASK)["external_49"] == [f"t{n}" for n in range(20)]
    assert not crowd.names(GROUP)["external_49"]
    assert len(crowd.external_dates) == 1


def test_waits_can_be_spread_over_dates():
    crowd = Crowd(sensors=40, dags=2, dates=5)
    assert crowd.names(TASK) == {f"external_{n}": ["t0", "t1", "t2", "t3"] for n in range(2)}
    assert [
        target.date for target in crowd.waits if target.dag_id == "external_0"
    ] == crowd.external_dates * 4
    assert {b - a for a, b in pairwise(crowd.external_dates)} == {timedelta(days=1)}
    assert len(crowd.targets) == 40


def test_sensors_on_whole_dags_share_their_runs():
    assert len(Crowd(sensors=40, dags=2, dates=5, kind=DAG).targets) == 10
    assert len(Crowd(sensors=40, dags=2, kind=DAG).targets) == 2


def test_a_third_of_a_mixture_is_of_each_kind():
    crowd = Crowd(sensors=60, dags=2, kind=MIXED)
    assert Counter(target.kind for target in crowd.waits) == {TASK: 20, GROUP: 20, DAG: 20}
    assert len(crowd.names(GROUP)["external_1"]) == 10
    task, group, dag = (next(one for one in crowd.targets if one.kind == kind) for kind in (TASK, GROUP, DAG))
    assert (task.task_ids, group.task_ids, dag.task_ids) == (["t0"], ["g0.a", "g0.b"], [])


def test_targets_end_evenly_and_every_tenth_fails():
    ends = Crowd(sensors=100, dags=4, spread=99.0).ends()
    moments = [at for at, _, _ in ends]
    assert moments == sorted(moments)
    assert (moments[0], moments[-1]) == (0.0, pytest.approx(99.0))
    assert sum(failed for _, _, failed in ends) == 10
    assert ends == Crowd(sensors=100, dags=4, spread=99.0).ends()


def test_of_a_large_crowd_only_so_many_end():
    crowd = Crowd(sensors=10_000, dags=50)
    assert len(crowd.ends()) == 1000
    assert crowd.settings()["ending"] == 1000
    assert Crowd(sensors=20, dags=4).settings()["ending"] == 20


def test_the_sensors_are_tasks_of_many_runs():
    crowd = Crowd(sensors=2 * PER_RUN + 1, dags=4)
    assert len(crowd.waiting_dates) == 3
    assert len({crowd.sensor(number) for number in range(crowd.sensors)}) == crowd.sensors
    assert crowd.sensor(PER_RUN + 2)[1] == "wait_2"


def test_a_statement_stands_for_one_question_of_the_runner():
    assert questions(Counter({COUNT_TASKS: 5, COUNT_RUNS: 4, STATES: 3, RUN_STATE: 2})) == 14
    assert questions(Counter(dict.fromkeys(OTHERS, 1))) == 0


def test_a_question_about_a_group_is_one_though_it_takes_two_statements():
    assert questions(Counter({BEFORE_GROUP: 3, STATES: 3})) == 3


@pytest.mark.parametrize(
    ("side", "payload", "state", "truth"),
    [
        (OURS, ours("succeeded"), "success", True),
        (OURS, ours("failed"), "failed", True),
        (OURS, ours("failed"), "success", False),
        (OURS, ours("succeeded"), "failed", False),
        (OURS, ours("lost"), "failed", False),
        (OURS, ours("succeeded", timed_out=True), "success", False),
        (OURS, {"outcome": None}, "success", False),
        (OURS_API, ours("succeeded"), "success", True),
        (OURS_API, ours("failed"), "success", False),
        (STOCK, stock("success"), "success", True),
        (STOCK, stock("failed"), "failed", True),
        (STOCK, stock("success"), "failed", False),
        (STOCK, stock("skipped"), "failed", False),
        (STOCK, "success", "success", False),
    ],
)
def test_an_event_tells_the_truth_when_it_says_how_the_target_ended(side, payload, state, truth):
    assert measures.tells(side, payload, state) is truth


def test_the_numbers_of_a_triggerer_that_waits():
    crowd = Crowd(sensors=2, dags=1, interval=4.0)
    told = [(0, 101.0, stock("success")), (1, 104.0, stock("success"))]
    found = measures.numbers(STOCK, seen(crowd, told=told, statements={"BEGIN": 30, COUNT_TASKS: 10}), BARE)
    assert found == {
        "calls_per_tick": 20.0,
        "poll_to_poll_s": 0.8,
        "sql_per_s": 20.0,
        "cpu_supervisor": 0.5,
        "cpu_runner": 0.25,
        "cpu_database": 0.125,
        "cpu_api_server": None,
        "sql_times_idle": 2.0,
        "end_to_event_s": {"p50": 1.0, "p99": 4.0},
        "lost": 0,
        "wrong": 0,
        "ended": 2,
        "all_started_s": 3.0,
    }


def test_only_of_stock_it_is_known_how_many_questions_a_poll_is():
    found = measures.numbers(OURS, seen(Crowd(2, 1), statements={STATES: 1}), BARE)
    assert (found["calls_per_tick"], found["poll_to_poll_s"]) == (2.5, None)
    assert measures.numbers(STOCK, seen(Crowd(2, 1)), BARE)["poll_to_poll_s"] is None


def test_over_the_api_requests_are_counted_and_what_its_server_uses():
    crowd = Crowd(sensors=2, dags=1, interval=5.0)
    quiet = Quiet(10.0, Counter({"BEGIN": 100, STATES: 7}), Cpu(1.0, 0.5, 0.25, 3.0), requests=4)
    found = measures.numbers(OURS_API, replace(seen(crowd), quiet=quiet), BARE)
    assert (found["calls_per_tick"], found["sql_per_s"], found["cpu_api_server"]) == (2.0, 10.7, 0.3)


def test_who_is_told_nothing_is_lost_and_who_is_told_something_else_is_wrong():
    crowd = Crowd(sensors=5, dags=5)
    ends = dict.fromkeys(crowd.targets[:4], Ended(100.0, "success"))
    told = [
        (0, 99.0, ours("succeeded")),  # a guess
        (1, 101.0, ours("failed")),  # not so
        (2, 101.0, None),  # the trigger died
        (4, 101.0, ours("succeeded")),  # not ended at all
    ]
    found = measures.numbers(OURS, seen(crowd, told=told, ends=ends), BARE)
    assert (found["lost"], found["wrong"], found["ended"]) == (2, 3, 4)
    assert found["end_to_event_s"] == {"p50": None, "p99": None}


def test_the_cpu_of_somebody_elses_database_is_not_known():
    before, after = Cpu(1.0, 2.0, None), Cpu(2.0, 4.0, None)
    assert after.since(before) == Cpu(1.0, 2.0, None, None)
    assert Cpu(1.0, 2.0, 3.5, 4.0).since(Cpu(0.5, 1.0, 3.0, 1.0)) == Cpu(0.5, 1.0, 0.5, 3.0)


def test_a_table_shows_all_sides():
    crowd = Crowd(2, 1)
    both = measures.numbers(STOCK, seen(crowd, statements={"BEGIN": 30, COUNT_TASKS: 10}), BARE)
    found = {
        "settings": crowd.settings(),
        "machine": {"cpus": 2},
        OURS: {**both, "calls_per_tick": 1.0, "scale": {"sensors": 10_000, **both}},
        OURS_API: {**both, "cpu_api_server": 0.3, "scale": {"sensors": 10_000, **both}},
        STOCK: both,
        "idle": BARE,
    }
    lines = render(found).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:-2]]
    heads = ["ours", "ours, over the API", "stock", "ours / stock", "idle triggerer"]
    assert cells[0] == ["", *heads, "ours, 10000", "ours, over the API, 10000"]
    assert cells[2] == ["questions per poll interval, nothing ends", "1", "25", "25", "0.04", "-", "25", "25"]
    assert ["SQL statements per second", "20", "20", "20", "1", "10", "20", "20"] in cells
    assert ["CPU of the API server, cores", "-", "0.3", "-", "-", "-", "-", "-"] in cells
    assert len({len(line) for line in lines[1:-2]}) == 1  # two of the heads are wider than their columns
    assert "-" in render({name: value for name, value in found.items() if name != STOCK}).splitlines()[2]


def test_new_numbers_replace_the_old_ones_in_the_page():
    page = README.read_text(encoding="utf-8")
    once = with_numbers(page, NAME, "| new |")
    assert f"\n\n| new |\n\n<!-- end of {NAME} numbers -->\n" in once
    assert once.startswith(page.partition(f"<!-- {NAME} numbers")[0])
    assert once.endswith(page.partition(f"<!-- end of {NAME} numbers -->")[2])


def test_the_server_on_path_is_taken_if_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "postgres").touch(0o755)
    assert postgres.binaries() != tmp_path
    (tmp_path / "initdb").touch(0o755)
    assert postgres.binaries() == tmp_path


def test_without_a_server_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(postgres, "binaries", lambda: None)
    assert program.main(["--sensors", "1", "--dags", "1"]) == 1
    assert "apt-get install postgresql" in capsys.readouterr().err


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="the statements are those of Airflow 3.3")
@pytest.mark.skipif(postgres.binaries() is None, reason=postgres.MISSING)
@pytest.mark.skipif(
    find_spec("psycopg2") is None, reason="no driver for PostgreSQL: pip install psycopg2-binary"
)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_tiny_run_prints_one_object_of_the_promised_shape(capsys):
    crowd = ["--sensors", "20", "--dags", "4", "--kind", MIXED, "--interval", "1", "--json"]
    for quiet in ("2", "20"):  # a busy machine may let two seconds pass without a question
        assert program.main([*crowd, "--quiet-for", quiet, "--spread", "2", "--patience", "60"]) == 0
        found = json.loads(capsys.readouterr().out)
        sides = [found[side] for side in (OURS, OURS_API, STOCK)]
        if all(one["calls_per_tick"] > 0 and one["sql_times_idle"] > 1 for one in sides):
            break
    assert set(found) == {OURS, OURS_API, STOCK, "idle", "settings", "machine"}
    assert found["settings"]["sensors"] == 20
    assert found["machine"]["postgresql"]
    for side in (OURS, OURS_API, STOCK):
        assert (found[side]["ended"], found[side]["lost"], found[side]["wrong"]) == (20, 0, 0)
        assert 0 < found[side]["end_to_event_s"]["p50"] <= found[side]["end_to_event_s"]["p99"]
        assert found[side]["calls_per_tick"] > 0
        assert found[side]["sql_times_idle"] > 1
        assert all(found[side][name] >= 0 for name in ("cpu_supervisor", "cpu_runner", "cpu_database"))
        assert (found[side]["cpu_api_server"] is not None) is (side == OURS_API)
    assert found["idle"]["sql_per_s"] > 0
