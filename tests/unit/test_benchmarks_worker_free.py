"""The arithmetic of the benchmark on tasks without a worker. What it measures takes minutes and no test."""

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState
from sqlalchemy import URL, create_engine, text

from benchmarks.program import README
from benchmarks.sides import OURS, STOCK
from benchmarks.table import with_numbers
from benchmarks.worker_free import __main__ as program
from benchmarks.worker_free import cpu, executor, measures, phase
from benchmarks.worker_free.database import Databases, unfinished
from benchmarks.worker_free.executor import PodExecutor
from benchmarks.worker_free.phase import Pair, Seen, Used, paired
from benchmarks.worker_free.plan import DEFERRABLE, SIDES, Load
from benchmarks.worker_free.table import render
from benchmarks.worker_free.workers import Worked, worked
from tools.demo.remote import Job

NAME = "worker free"
DAG = Path(phase.__file__).with_name("dags") / "worker_free.py"
BURN = """
import os, sys, time
def burn():
    until = time.process_time() + 0.6
    while time.process_time() < until: pass
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        burn()
        os._exit(0)
    os.waitpid(grandchild, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.waitpid(child, 0)
"""


@dataclass
class Workload:
    """What Airflow hands to an executor."""

    key: TaskInstanceKey
    json: str

    def model_dump_json(self):
        return self.json


def seen(*pairs, starts=0, used=None, idle=None):
    """Ten seconds without a task, and then a hundred with."""
    return Seen(
        Used(10.0, idle or {"scheduler": 0.5}),
        Used(100.0, used or {"scheduler": 6.0, "workers": 14.0}),
        list(pairs) or [Pair("success", 50.0, 51.5)] * 10,
        Worked(starts, 2.5 * starts),
        10,
    )


def job(owner, ended):
    return Job("1", "SUCCESS", owner, 10.0, ended, ended is None, cancelled=False)


def instance(task_id, state="success", start="1970-01-01T00:01:00Z"):
    return {"dag_run_id": "manual__1", "task_id": task_id, "state": state, "start_date": start}


def test_tasks_come_in_runs_of_the_dag_and_take_different_times():
    load = Load(tasks=200)
    assert load.runs == 20
    assert load.seconds == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0]
    assert load.settings()["per_run"] == len(load.seconds)


@pytest.mark.parametrize("number", ["0", "5", "25"])
def test_only_whole_runs_of_the_dag_can_be_measured(number, capsys):
    with pytest.raises(SystemExit):
        program.main(["--tasks", number])
    assert "a multiple of that" in capsys.readouterr().err


@pytest.mark.parametrize("side", SIDES)
def test_the_sides_have_the_same_dag_but_for_the_operator_and_how_it_waits(side, monkeypatch):
    for name, value in Load(interval=1).for_dag(side).items():
        monkeypatch.setenv(name, value)
    last = runpy.run_path(str(DAG))["run"]
    task = last.dag.get_task("run_3")
    assert len(last.dag.tasks) == 20
    assert task.downstream_task_ids == {"next_3"}
    assert task.json["tasks"][0]["notebook_task"]["base_parameters"] == {"seconds": "8.0"}
    assert task.polling_period_seconds == 1
    assert type(task).__module__.startswith("astronomer.") is (side == OURS)
    assert bool(getattr(task, "start_from_trigger", False)) is (side == OURS)
    if side != OURS:
        assert task.deferrable is (side == DEFERRABLE)


def test_a_worker_is_what_the_executor_says_has_ended():
    assert worked(
        [
            "2026 [info     ] Workload finished [supervisor] duration=8.25 exit_code=0 loc=s.py:1",
            "2026 [\x1b[32minfo\x1b[0m] Workload finished \x1b[36mduration\x1b[0m=\x1b[35m1.5\x1b[0m exit_code=0",
            '{"duration":2.5,"event":"Workload finished","workload_type":"ExecuteTask"}',
            '{"event": "Workload finished", "duration": 1}',
            "2026 [info     ] Process exited [supervisor] duration=4",
        ]
    ) == Worked(4, 13.25)
    assert worked([]) == Worked(0, 0)


def test_a_worker_that_airflow_sent_away_was_started_all_the_same():
    lines = ["2026 [error    ] Workload execution failed.     [executor] workload_type=ExecuteTask"]
    assert worked(lines) == Worked(1, 0)


def test_each_worker_of_a_pod_is_a_process_and_its_end_is_told(monkeypatch):
    monkeypatch.setattr(
        executor, "_COMMAND", (sys.executable, "-c", "import sys; sys.exit(int(sys.argv[1]))")
    )
    one = PodExecutor()
    one.start()
    done, failed = (
        TaskInstanceKey(dag_id="worker_free", task_id=name, run_id="manual__1") for name in ("done", "failed")
    )
    one._process_workloads([Workload(done, "0"), Workload(failed, "1")])
    assert one.running == {done, failed}
    one.end()
    one.sync()
    assert not one.running
    assert {key: state for key, (state, _) in one.get_event_buffer().items()} == {
        done: TaskInstanceState.SUCCESS,
        failed: TaskInstanceState.FAILED,
    }


def test_a_task_is_followed_from_the_end_of_its_run_to_the_start_of_the_next():
    instances = [
        instance("run_1"),
        instance("next_1"),
        instance("run_2", "failed"),
        instance("next_2", start=None),
    ]
    assert paired(instances, {"manual__1/run_1": job("manual__1/run_1", 58.5)}) == [
        Pair("success", 58.5, 60.0),
        Pair("failed", None, None),
    ]


def test_processes_that_have_ended_count_through_their_parents_though_these_still_run():
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        first, below = cpu.tree(process.pid)
        process.stdin.write("\n")
    assert first < 0.5 <= below


def test_only_what_has_been_used_since_counts():
    assert cpu.less({"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == {"a": 2.0, "b": 0.0}
    assert cpu.of_database(None) == {}


def test_the_numbers_of_one_side():
    assert measures.numbers(seen(starts=20)) == {
        "worker_starts": 20,
        "worker_seconds": 50.0,
        "cpu_s_per_task": 2.0,
        "cpu_s_per_task_net": 1.5,
        "end_to_next_s": {"p50": 1.5, "p99": 1.5},
        "seconds": 100.0,
        "cpu_cores": 0.2,
        "cpu_cores_idle": 0.05,
        "cpu_s_per_task_by_part": {"scheduler": 0.6, "workers": 1.4},
        "cpu_cores_idle_by_part": {"scheduler": 0.05},
        "submitted": 10,
        "succeeded": 10,
    }


def test_a_task_that_failed_or_has_no_next_has_no_delay():
    pairs = [Pair("success", 1.0, 2.0), Pair("failed", 1.0, 9.0), Pair("success", 1.0, None)]
    found = measures.numbers(seen(*pairs, Pair("success", None, 9.0)))
    assert found["succeeded"] == 1
    assert found["end_to_next_s"] == {"p50": 1.0, "p99": 1.0}


def test_what_is_to_be_reached_is_said_and_not_demanded():
    ours = measures.numbers(seen(used={"scheduler": 4.0}))
    stock = measures.numbers(seen(starts=20))
    assert measures.targets({OURS: ours, DEFERRABLE: stock}) == {
        "worker_starts": {"wanted": 0, "measured": 0, "reached": True},
        "times_less_cpu_than_stock_deferrable": {"wanted": 5.0, "measured": 5.0, "reached": True},
        "end_to_next_s_p99": {"wanted": 2.0, "measured": 1.5, "reached": True},
    }
    late = measures.numbers(seen(Pair("success", 1.0, 3.0), starts=1))
    found = measures.targets({OURS: late, DEFERRABLE: stock})
    assert [one["reached"] for one in found.values()] == [False, False, False]


def test_what_was_not_measured_is_neither_reached_nor_missed():
    found = measures.targets({STOCK: measures.numbers(seen())})
    assert {one["reached"] for one in found.values()} == {None}


def test_a_table_shows_all_sides():
    found = {"settings": Load().settings(), "machine": {"cpus": 2}}
    found |= {side: measures.numbers(seen(starts=20)) for side in (STOCK, DEFERRABLE)}
    found[OURS] = measures.numbers(seen(used={"scheduler": 4.0, "database": 1.0}))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in render(found).splitlines()[:-2]]
    assert cells[0] == ["", OURS, "stock, deferred", "stock, worker", "ours / deferred"]
    assert ["worker starts", "0", "20", "20", "0"] in cells
    assert ["CPU of all of Airflow per task, s", "0.5", "2", "2", "0.25"] in cells
    assert ["- of the database, s", "0.1", "-", "-", "-"] in cells
    assert render(found).endswith("looks every 1 s; cpus 2.")
    assert len({len(line) for line in render(found).splitlines()[:-2]}) == 1


def test_new_numbers_replace_the_old_ones_in_the_page():
    page = README.read_text(encoding="utf-8")
    assert f"\n\n| new |\n\n<!-- end of {NAME} numbers -->\n" in with_numbers(page, NAME, "| new |")


def test_each_side_gets_a_database_of_its_own_and_runs_are_counted_in_it(tmp_path):
    url = Databases(None).new(OURS, tmp_path)
    assert url == URL.create("sqlite", database=str(tmp_path / "ours.db"))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE dag_run (dag_id TEXT, state TEXT)"))
        for dag_id, state in (("worker_free", "running"), ("worker_free", "success"), ("other", "queued")):
            connection.execute(text("INSERT INTO dag_run VALUES (:d, :s)"), {"d": dag_id, "s": state})
    engine.dispose()
    with unfinished(url) as left:
        assert left() == 1


def test_an_airflow_gets_the_dag_the_database_and_the_workers_of_the_side():
    url = URL.create("postgresql+psycopg2", "bench", "secret", "127.0.0.1", 5432, "ours")
    found = phase.settings(Load(workers=3, executor="pod"), OURS, url)
    assert found["AIRFLOW__CORE__EXECUTOR"] == f"{PodExecutor.__module__}.{PodExecutor.__qualname__}"
    assert (
        found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        == "postgresql+psycopg2://bench:secret@127.0.0.1:5432/ours"
    )
    assert found["AIRFLOW__CORE__PARALLELISM"] == "3"
    assert json.loads(found["BENCHMARK_WORKER_FREE"])["side"] == OURS
