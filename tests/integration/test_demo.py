"""The parts of `make demo` that need no Airflow; `.ci/run` runs the whole of it."""

import datetime as dt
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from tools.demo import summary, table
from tools.demo.board import Board
from tools.demo.demo import Run
from tools.demo.environment import Installation, Places, free_port
from tools.demo.plan import PLANS
from tools.demo.processes import ProcessEndedError, Processes, end_recorded
from tools.demo.remote import Databricks, Snowflake
from tools.demo.services import Services
from tools.demo.signals import Interrupted, Signals

ROOT = Path(__file__).parents[2]
START = 1_795_387_800.0
MOMENT = "2026-11-22T22:50:00Z"  # the same


def instance(task="snowflake_fan_out.query", state=None, index=-1, sql="SELECT 1", **more):
    """What Airflow 3.3.2 answers for a task instance, without what the demo does not read."""
    dag_id, task_id = task.split(".")
    return {
        "dag_id": dag_id,
        "task_id": task_id,
        "dag_run_id": "manual__2026",
        "map_index": index,
        "state": state,
        "end_date": None,
        "operator_name": "SnowflakeOperator",
        "rendered_fields": {"sql": sql},
        "trigger": {"created_date": MOMENT} if state == "deferred" else None,
        **more,
    }


def query(query_id, *, task="snowflake_fan_out.query", state="SUCCESS", ran=10.0, index=0, **more):
    """What the local Snowflake tells of a query."""
    dag_id, task_id = task.split(".")
    tag = {
        "submit_key": "k",
        "airflow_dag_id": dag_id,
        "airflow_task_id": task_id,
        "airflow_map_index": index,
    }
    return {
        "id": query_id,
        "state": state,
        "tag": json.dumps(tag),
        "parent_id": None,
        "error_code": None,
        "started_at": START,
        "ended_at": None if state == "RUNNING" else START + ran,
        **more,
    }


def run(run_id, *, name="orders", state="SUCCESS", ran=10.0):
    """What the local Databricks tells of a run."""
    return {
        "run_id": run_id,
        "name": name,
        "state": state,
        "ended": state != "RUNNING",
        "start_time": int(START * 1000),
        "end_time": 0 if state == "RUNNING" else int((START + ran) * 1000),
    }


class Client:
    """A stand-in's client with answers of its own."""

    url = "https://localhost:1"

    def __init__(self, *, queries=(), runs=(), requests=(), transactions=()):
        self._answers = {
            "queries": queries, "runs": runs, "requests": requests, "open_transactions": transactions
        }  # fmt: skip

    def __getattr__(self, name):
        return lambda: list(self._answers[name])


def jobs_of(*, queries=(), runs=()):
    return [*Snowflake(Client(queries=queries)).jobs(), *Databricks(Client(runs=runs)).jobs()]


def rendered(what, width=140):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def all_tasks():
    """Every task of every plan, ended as it should."""
    found = []
    for dag_id, plan in PLANS.items():
        names = {*plan.mapped, *plan.failed, *plan.skipped, *plan.worker_free}
        names |= {plan.cancel} if plan.cancel else set()
        single = plan.tasks - sum(plan.mapped.get(name, 1) for name in names)
        names |= {f"other_{number}" for number in range(single)}
        for name in names:
            indices = range(plan.mapped[name]) if name in plan.mapped else [-1]
            found += [
                instance(f"{dag_id}.{name}", plan.expected(name), index, end_date=MOMENT) for index in indices
            ]
    return found


def sensor(task="external_waiters.for_task", state="deferred", operator="ExternalTaskSensor", **fields):
    """What Airflow answers for a sensor on another Dag."""
    fields = {"external_dag_id": "external_producer", **fields}
    return instance(task, state, operator_name=operator, rendered_fields=fields)


class TestBoard:
    def test_seconds_waited_are_those_without_a_worker(self):
        board = Board()
        for at, state in [(0, "running"), (5, "deferred"), (30, "queued"), (50, "running")]:
            board.update([instance(state=state)], START + at)
        (task,) = board.tasks.values()
        assert task.seconds_waited(START + 60) == 30.0, (
            "from the trigger's own start, not from when it was seen"
        )

    def test_a_second_wait_adds_to_the_first(self):
        board = Board()
        for at, state in [(10, "deferred"), (20, "running")]:
            board.update([instance(state=state)], START + at)
        again = instance(state="deferred", trigger={"created_date": "2026-11-22T22:51:00Z"})
        board.update([again], START + 70)
        (task,) = board.tasks.values()
        assert task.seconds_waited(START + 75) == 20 + 15
        assert task.woke == START + 20

    def test_it_tells_once_that_a_task_has_ended(self):
        board = Board()
        assert board.update([instance(state="running")], START) == []
        assert [task.name for task in board.update([instance(state="success")], START)] == ["query"]
        assert board.update([instance(state="success")], START) == []

    def test_what_each_task_waits_for(self):
        board = Board()
        states = [None, "scheduled", "queued", "running", "deferred"]
        board.update([instance(state=state, index=n) for n, state in enumerate(states)], START)
        board.tasks["snowflake_fan_out", "query", 4].job = "01c8"
        board.see_jobs(jobs_of(queries=[query("01c8", state="RUNNING")]))
        waits = [task.waits_for for task in board.rows()]
        assert waits == ["the tasks before it", "a worker", "a worker", "", "RUNNING: SELECT 1"]

    def test_a_sensor_waits_for_an_answer(self):
        board = Board()
        board.update([instance(state="deferred", operator_name="SnowflakeSensor", sql="SELECT\n 2")], START)
        (task,) = board.tasks.values()
        assert task.service is None
        assert task.waits_for == "the answer to SELECT 2"

    def test_a_run_is_told_by_its_files(self):
        board = Board()
        tasks = [{"spark_python_task": {"python_file": "/Workspace/extract.py"}}]
        more = {"operator_name": "DatabricksSubmitRunOperator", "rendered_fields": {"tasks": tasks}}
        board.update([instance("databricks_job.orders", "deferred", **more)], START)
        (task,) = board.tasks.values()
        task.job = "415"
        board.see_jobs(jobs_of(runs=[run(415, state="RUNNING")]))
        assert task.service == "Databricks"
        assert task.waits_for == "RUNNING: extract.py"

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"external_task_id": "a", "external_task_ids": ["a"]}, "task a of external_producer"),
            ({"external_task_ids": ["a", "b"]}, "tasks a, b of external_producer"),
            ({"external_task_group_id": "clean"}, "group clean of external_producer"),
            ({"external_task_ids": None}, "a run of external_producer"),
            ({"external_run_id": "manual__1"}, "run manual__1 of external_producer"),
            ({"external_run_ids": ["r1", "r2"]}, "runs r1, r2 of external_producer"),
        ],
    )
    def test_a_sensor_on_another_dag_says_what_it_waits_for(self, fields, text):
        board = Board()
        board.update([sensor(**fields)], START)
        (task,) = board.tasks.values()
        assert (task.service, task.waits_for, task.waited_for) == (None, text, text)

    def test_and_in_which_airflow(self):
        board = Board()
        board.update([sensor(operator="ExternalDeploymentSensor")], START)
        (task,) = board.tasks.values()
        assert task.waits_for == "a run of external_producer, in the other Airflow"


class TestTable:
    def test_it_shows_state_job_and_seconds(self):
        board = Board()
        board.update([instance(state="deferred", index=3)], START + 12)
        board.tasks["snowflake_fan_out", "query", 3].job = "01c8"
        text = rendered(table.table(board, 75))
        assert "01:15  1 tasks: 0 on a worker, 1 waiting without one, 0 to come, 0 ended" in text
        assert "fan_out.query[3]" in text
        assert "01c8" in text
        assert "12 s" in text

    def test_markup_in_sql_is_text(self):
        board = Board()
        board.update([instance(state="deferred", sql="SELECT '[red]'")], START)
        assert "SELECT '[red]'" in rendered(table.table(board, 0))

    def test_what_is_under_way_is_shown_first_when_the_window_is_low(self):
        board = Board()
        states = ["success"] * 5 + ["deferred", "running", None]
        board.update([instance(state=state, index=n) for n, state in enumerate(states)], START)
        rows, hidden = table.fit(board.rows(), 3)
        assert [task.state for task in rows] == ["deferred", "running", "none"]
        assert hidden == 5
        assert "and 5 more" in rendered(table.table(board, 0, most=3))

    @pytest.mark.parametrize("height", [10, 24, 50])
    def test_it_fits_into_the_window(self, height):
        board = Board()
        board.update(all_tasks(), START)
        console = Console(width=140, height=height)
        found = table.table(board, 0, table.room(console, board))
        assert len(console.render_lines(found)) <= max(height, 22)

    @pytest.mark.parametrize("width", [80, 100, 130])
    def test_names_states_and_times_stay_whole_in_a_narrow_window(self, width):
        board = Board()
        tasks = [
            instance("snowflake_transaction.open_accounts", "deferred", sql="SELECT " + "x" * 80),
            instance("snowflake_fan_out.query", "scheduled", 23),
        ]
        board.update(tasks, START + 120)
        for task in board.tasks.values():
            task.job = "01c8975b-0003-cc0a-d2e9-ed7b5dffb64b"
        text = rendered(table.table(board, 0, width=width), width)
        for whole in (
            "transaction.open_accounts",
            "fan_out.query[23]",
            "deferred",
            "scheduled",
            "120 s",
            "Waited",
        ):
            assert whole in text
        assert "01c8975b-0003" in text
        assert max(map(len, text.splitlines())) <= width

    def test_the_line_for_an_ended_task(self):
        board = Board()
        board.update([instance(state="deferred")], START + 5)
        (task,) = board.update([instance(state="success")], START + 20)
        task.job = "01c8"
        assert table.ended_line(task, START + 60) == (
            "snowflake_fan_out.query: success after waiting 20 s for 01c8"
        )

    def test_the_line_for_a_sensor_on_another_dag(self):
        board = Board()
        board.update([sensor(external_task_id="a")], START)
        (task,) = board.update([sensor(state="skipped", external_task_id="a")], START + 20)
        assert table.ended_line(task, START + 60) == (
            "external_waiters.for_task: skipped after waiting 20 s for task a of external_producer"
        )

    def test_each_family_has_a_heading(self):
        board = Board()
        board.update(all_tasks(), START)
        text = rendered(table.table(board, 0))
        headings = ("Databricks", "External", "Snowflake")
        positions = [text.index(f"│{heading} ") for heading in headings]
        assert positions == sorted(positions)


def facts(*, queries=None, runs=None, transactions=(), **over):
    board = Board()
    board.update(all_tasks(), START)
    board.tasks["snowflake_cancel", "long_query", -1].job = "q9"
    board.tasks["databricks_cancel", "long_run", -1].job = "99"
    for task in board.tasks.values():
        task.woke = START
    if queries is None:
        queries = [query("q1", index=1), query("q2", index=2, ran=30.0), CANCELLED_QUERY]
    if runs is None:
        runs = [run(1, ran=20.0), CANCELLED_RUN]
    requests = [
        {"client_port": 1, "path": "/session/v1/login-request"},
        {"client_port": 2, "path": "/session/v1/login-request"},
        {"client_port": 2, "path": "/monitoring/queries"},
    ]
    snowflake = Snowflake(Client(queries=queries, requests=requests, transactions=transactions))
    databricks = Databricks(
        Client(runs=runs, requests=[{"client_port": 3, "path": "/api/2.2/jobs/runs/get"}])
    )
    services = (snowflake, databricks)
    known = {
        "board": board,
        "stints": [2.0, 3.0],
        "sides": [summary.Side(one.name, one.jobs(), one.requests(), one.login) for one in services],
        "triggerer_ports": {2, 3},
        "left_open": [what for one in services for what in one.left_open()],
        "seconds": 40.0,
        "cancelled": {"q9": 1.25, "99": 0.5},
        "elsewhere": {"external_deployment": summary.OtherRun("success", START - 2.5)},
    }
    return summary.Facts(**{**known, **over})


CANCELLED_QUERY = query(
    "q9", task="snowflake_cancel.long_query", state="FAILED_WITH_ERROR", error_code="000604"
)
CANCELLED_RUN = run(99, name="long_run", state="CANCELED")


def wrong(found):
    return [check.text for check in summary.checks(found) if not check.ok]


class TestSummary:
    def test_worker_time_is_read_from_the_schedulers_log(self):
        log = """\
            2026-11-22T22:50:47Z [info     ] Workload finished    [supervisor] duration=15.5 exit_code=0 final_state=success
            2026-11-22T22:50:48Z [info     ] Something else       [supervisor] duration=99.0
            2026-11-22T22:50:52Z [info     ] Workload finished    [supervisor] duration=4.25 final_state=deferred
        """
        assert summary.stints(log) == [15.5, 4.25]

    def test_waiting_counts_blocks_once_and_sensors_by_their_wait(self):
        queries = [
            query("parent", ran=10.0),
            query("child", ran=9.0, parent_id="parent"),
            query("poke", ran=1.0, tag=""),
        ]
        found = facts(queries=queries, runs=[])
        task = next(iter(found.board.tasks.values()))
        task.waited, task.job = 7.0, None
        assert summary.waiting_seconds(found) == 17.0

    def test_a_wait_for_another_dag_is_counted_apart(self):
        found = facts(queries=[], runs=[])
        found.board.update([sensor(state=state) for state in ("deferred", "success")], START + 30)
        found.board.tasks["external_waiters", "for_task", -1].waited = 30.0
        assert summary.waiting_seconds(found) == 0.0
        numbers = dict(summary.numbers(found))
        assert numbers["Waits for other Dags"] == "1, for 30 s in all, which do not count above"

    def test_the_numbers(self):
        numbers = dict(summary.numbers(facts()))
        assert numbers["Tasks"] == f"{sum(plan.tasks for plan in PLANS.values())} on 2 workers, in 40 s"
        assert numbers["Remote jobs at once"] == "up to 5"
        assert numbers["Worker time without deferral"].startswith("at least 80 s")
        assert numbers["Worker time taken"] == "5 s with everything (94% less), in 2 short stints"
        assert numbers["Duration without deferral"] == "at least 40 s on 2 workers"
        assert numbers["Requests to Snowflake"].startswith("3: 1 by workers, 2 by the triggerer")
        assert numbers["Logins to Snowflake"].startswith("2: 1 by workers, 1 by the triggerer")
        assert numbers["Requests to Databricks"].startswith("1: 0 by workers, 1 by the triggerer")
        assert "Logins to Databricks" not in numbers
        assert "94% less" in rendered(summary.render(facts()))

    def test_no_saving_is_claimed_when_there_was_none(self):
        assert "less" not in dict(summary.numbers(facts(stints=[90.0])))["Worker time taken"]

    def test_all_is_well(self):
        assert wrong(facts()) == []
        assert "long_query" in summary.checks(facts())[0].text
        assert "long_run" in summary.checks(facts())[0].text
        assert summary.checks(facts())[0].text.endswith(
            "; skipped, as intended: external_failure_waiters.is_skipped"
        )

    def test_a_task_that_ended_otherwise(self):
        found = facts()
        found.board.update([instance("snowflake_failure.load", "success")], START)
        assert wrong(found) == ["snowflake_failure.load is success, not failed"]

    def test_a_task_that_never_was(self):
        found = facts()
        found.board.tasks.pop(("snowflake_failure", "load", -1))
        assert wrong(found) == ["1 tasks never came to be"]

    def test_a_query_that_goes_on_after_its_cancel(self):
        still = query("q9", task="snowflake_cancel.long_query", state="RUNNING")
        texts = wrong(facts(queries=[still], cancelled={"99": 0.5}))
        assert texts == [
            "The job of snowflake_cancel.long_query is not gone: q9 is RUNNING",
            "1 x: job still runs on Snowflake: q9",
        ]

    def test_a_task_that_should_have_been_skipped(self):
        found = facts()
        found.board.update([instance("external_failure_waiters.is_skipped", "failed")], START)
        assert wrong(found) == ["external_failure_waiters.is_skipped is failed, not skipped"]

    @pytest.mark.parametrize(
        ("elsewhere", "ok", "text"),
        [
            (("success", START - 2.5), True, "the wait was over 2.5 s after the end of the run"),
            (("success", START + 2.5), False, "the wait was over 2.5 s before the end of the run"),
            (("running", None), False, "the run of external_producer in the other Airflow is running"),
            (None, False, "the run of external_producer in the other Airflow was never started"),
        ],
    )
    def test_a_wait_for_the_other_airflow_is_over_after_the_run_there(self, elsewhere, ok, text):
        runs = {} if elsewhere is None else {"external_deployment": summary.OtherRun(*elsewhere)}
        checks = summary.checks(facts(elsewhere=runs))
        (found,) = [check for check in checks if check.text.startswith("external_deployment: ")]
        assert found.ok is ok
        assert text in found.text

    def test_a_run_that_was_over_before_its_cancel(self):
        texts = wrong(facts(runs=[run(99, name="long_run")]))
        assert texts == ["The job of databricks_cancel.long_run is not gone: 99 is SUCCESS"]

    def test_a_transaction_left_open(self):
        assert wrong(facts(transactions=[{"id": 5}])) == ["1 x: transaction is left open: transaction 5"]

    def test_a_query_started_twice(self):
        queries = [query("q1", index=1), query("q2", index=2), CANCELLED_QUERY, query("q3", index=1)]
        assert wrong(facts(queries=queries)) == ["1 x: job was started twice: snowflake_fan_out query 1"]

    def test_a_run_started_twice(self):
        assert wrong(facts(runs=[run(1), run(2), CANCELLED_RUN])) == ["1 x: job was started twice: orders"]


class TestEnvironment:
    def test_nothing_of_the_callers_airflow_gets_in(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
        monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", "somewhere")
        monkeypatch.setenv("SNOWFLAKE_PASSWORD", "theirs")
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
        env = Installation(Places(tmp_path)).environment()
        assert env["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
        assert env["AIRFLOW__CORE__PARALLELISM"] == "2"
        assert env["HOME"].startswith(str(tmp_path))
        assert not {"AIRFLOW_CONN_SNOWFLAKE_DEFAULT", "SNOWFLAKE_PASSWORD", "HTTPS_PROXY"} & set(env)

    def test_the_password_is_for_its_owner_only(self, tmp_path):
        installation = Installation(Places(tmp_path))
        installation.prepare()
        assert Places(tmp_path).passwords.stat().st_mode & 0o777 == 0o600
        assert json.loads(Places(tmp_path).passwords.read_text()) == {"admin": installation.password}
        assert installation.password not in repr(installation)

    def test_a_port_is_free(self):
        assert free_port() in range(20_000, 30_000)


@dataclass
class Recorder(Processes):
    """Starts nothing, and remembers the names, environments and directories of what it was asked to start."""

    envs: dict[str, dict[str, str]] = field(default_factory=dict)
    cwds: dict[str, Path] = field(default_factory=dict)

    def start(self, name, command, env, cwd, **more):
        self.envs[name] = dict(env)
        self.cwds[name] = cwd


class TestDeployment:
    @pytest.fixture
    def services(self, tmp_path):
        """Two Airflows, of which nothing runs."""
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples" / "one.py").write_text("# a Dag")
        processes = Recorder(tmp_path / "logs", tmp_path / "processes.json")
        console = Console(file=io.StringIO())
        services = Services(Places(tmp_path), processes, console, elsewhere=["one"])
        services._clean()
        services._prepare()
        yield services
        services.close()

    @pytest.fixture
    def envs(self, services):
        services.first.start({"AIRFLOW_CONN_X": "x"})
        services.other.start({})
        return services.processes.envs

    def test_each_part_is_started_under_a_name_of_its_own(self, envs):
        assert list(envs) == [
            *("API server", "scheduler", "Dag processor", "triggerer"),
            *("other API server", "other scheduler", "other Dag processor"),
        ]

    def test_they_share_nothing_but_the_checkout(self, envs):
        first, other = envs["scheduler"], envs["other scheduler"]
        shared = {name for name in first if first[name] == other.get(name)}
        own = (
            *(
                "AIRFLOW_HOME",
                "AIRFLOW__API__PORT",
                "AIRFLOW__API_AUTH__JWT_SECRET",
                "AIRFLOW__CORE__DAGS_FOLDER",
            ),
            *("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__API__SECRET_KEY"),
            *("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", "AIRFLOW__LOGGING__BASE_LOG_FOLDER"),
        )
        assert not set(own) & shared
        assert set(own) <= set(first)
        assert first["AIRFLOW_CONN_X"] == "x"
        assert "AIRFLOW_CONN_X" not in other
        assert other["AIRFLOW__CORE__PARALLELISM"] == "1"

    def test_they_have_the_checkouts_code_but_by_a_path_that_can_be_changed(self, services, envs, tmp_path):
        assert {env["PYTHONPATH"] for env in envs.values()} == {str(tmp_path)}
        homes = {deployment.installation.places.home for deployment in services.deployments}
        assert set(services.processes.cwds.values()) == homes
        services.first.change({"PYTHONPATH": "elsewhere"})
        services.first.start_part("triggerer")
        assert services.processes.envs["triggerer"]["PYTHONPATH"] == "elsewhere"

    def test_all_outlast_an_api_server_that_waits_for_a_lock_of_its_own(self, envs):
        urls = {name: env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] for name, env in envs.items()}
        impatient = {name for name, url in urls.items() if not url.endswith("airflow.db?timeout=60")}
        assert impatient == {"API server", "other API server"}

    def test_a_database_server_is_named_as_it_was_given(self, services):
        url = "postgresql+psycopg2://demo@localhost/demo"
        services.first.start({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url})
        envs = services.processes.envs.values()
        assert {env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] for env in envs} == {url}

    def test_the_other_one_has_its_dags_only(self, services):
        folder = services.other.installation.places.dags
        assert [path.name for path in folder.iterdir()] == ["one.py"]

    def test_the_connection_names_its_user(self, services):
        installation = services.other.installation
        assert json.loads(installation.connection()) == {
            "conn_type": "Astro Cloud",
            "host": installation.url,
            "login": "admin",
            "password": installation.password,
        }
        assert installation.password != services.first.installation.password

    def test_a_new_database_is_copied(self, services):
        first, other = (one.installation.places.database for one in services.deployments)
        with closing(sqlite3.connect(first)) as database, database:
            database.execute("CREATE TABLE dag (id INTEGER)")
        services.other.copy_database(services.first)
        with closing(sqlite3.connect(other)) as database:
            assert database.execute("SELECT COUNT(*) FROM dag").fetchone() == (0,)

    def test_what_is_missing_is_named(self, services):
        assert services._missing() == ["api_server", "other api_server"]

    def test_without_dags_for_it_there_is_no_other_one(self, tmp_path):
        services = Services(Places(tmp_path), Recorder(tmp_path, tmp_path), Console(file=io.StringIO()))
        assert services.deployments == [services.first]
        services.close()


class Elsewhere:
    """The user of the other Airflow, who remembers what he did."""

    def __init__(self):
        self.did = []

    def unpause(self, dag_id):
        self.did.append(("unpause", dag_id))

    def trigger(self, dag_id, conf):
        self.did.append(("trigger", dag_id, conf))
        return "manual__1"

    def run(self, dag_id, run_id):
        self.did.append(("run", dag_id, run_id))
        return {"state": "success", "end_date": MOMENT}


class TestRun:
    @pytest.fixture
    def elsewhere(self):
        return Elsewhere()

    @pytest.fixture
    def run(self, elsewhere):
        """A run of the demo with another Airflow, and no processes."""
        services = SimpleNamespace(other=SimpleNamespace(user=elsewhere))
        return Run(services, [], None, Console(file=io.StringIO()), short=True)

    def wait(self, run, seconds, operator="ExternalDeploymentSensor", task="external_deployment.wait"):
        """Let a task have waited for so long."""
        since = dt.datetime.fromtimestamp(time.time() - seconds, dt.timezone.utc).isoformat()
        found = sensor(task, operator=operator)
        run.board.update([{**found, "trigger": {"created_date": since}}], time.time())

    def test_a_run_elsewhere_is_started_once_and_in_mid_wait(self, run, elsewhere):
        self.wait(run, 2.0)
        run._start_elsewhere()
        assert elsewhere.did == []
        run.board.tasks.clear()
        self.wait(run, 60.0)
        run._start_elsewhere()
        run._start_elsewhere()
        conf = PLANS["external_producer"].parameters(short=True)
        assert elsewhere.did == [("unpause", "external_producer"), ("trigger", "external_producer", conf)]
        assert run._other_runs() == {"external_deployment": summary.OtherRun("success", START)}

    def test_nothing_is_started_for_other_waits(self, run, elsewhere):
        self.wait(run, 60.0, "ExternalTaskSensor", "external_waiters.for_task")
        run._start_elsewhere()
        assert elsewhere.did == []
        assert run._other_runs() == {}


STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"], **%s)
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path / "logs", tmp_path / "processes.json")
    yield found
    found.stop(0.0)


def start(processes, tmp_path, code, name="some program", **options):
    env = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return processes.start(name, command, env, tmp_path, **options)


def printed(program, seconds=30.0):
    """The first line of a program's output."""
    until = time.monotonic() + seconds
    while not (text := program.log.read_text()).endswith("\n"):
        assert time.monotonic() < until, "it has printed nothing"
        time.sleep(0.02)
    return text.splitlines()[0]


def lives(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class TestProcesses:
    def test_what_ends_when_asked_is_not_killed(self, processes, tmp_path):
        program = start(processes, tmp_path, "print(1, flush=True); import time; time.sleep(600)")
        printed(program)
        assert processes.stop(20.0) == []
        assert not lives(program.process.pid)

    @pytest.mark.parametrize("child", ["{}", "dict(start_new_session=True)"])
    def test_a_child_that_ignores_sigterm_is_killed_in_whatever_group(self, processes, tmp_path, child):
        program = start(processes, tmp_path, STUBBORN % child)
        pid = int(printed(program))
        processes.look()
        killed = processes.stop(0.3)
        assert len(killed) == 2
        assert not lives(pid)
        assert not lives(program.process.pid)

    def test_a_program_that_ends_by_itself_is_told_with_its_log(self, processes, tmp_path):
        program = start(processes, tmp_path, "print('no disk'); raise SystemExit(3)", "data base")
        program.process.wait()
        with pytest.raises(ProcessEndedError) as caught:
            processes.check()
        assert "The data base ended with status 3." in str(caught.value)
        assert "no disk" in str(caught.value)
        assert str(tmp_path / "logs" / "data-base.log") in str(caught.value)

    def test_one_that_is_killed_is_told_so(self, processes, tmp_path):
        program = start(processes, tmp_path, "import time; time.sleep(600)")
        program.process.kill()
        program.process.wait()
        with pytest.raises(ProcessEndedError, match="ended by SIGKILL"):
            processes.check()

    def test_one_that_does_one_thing_may_end(self, processes, tmp_path):
        program = start(processes, tmp_path, "pass", once=True)
        program.process.wait()
        processes.check()
        assert program.done

    def test_what_a_killed_demo_left_behind_is_ended_by_the_next(self, processes, tmp_path):
        program = start(processes, tmp_path, "print(1, flush=True); import time; time.sleep(600)")
        printed(program)
        processes.look()
        assert len(end_recorded(processes.record)) == 1
        assert not lives(program.process.pid)
        assert end_recorded(processes.record) == []

    def test_a_stranger_with_the_same_number_is_left_alone(self, tmp_path):
        record = tmp_path / "processes.json"
        record.write_text(json.dumps({os.getpid(): 1.0}))
        assert end_recorded(record) == []


class TestSignals:
    CODE = """
        import os, sys, time
        sys.path.insert(0, sys.argv[1])
        from tools.demo.signals import Interrupted, Signals
        signals = Signals()
        signals.watch()
        try:
            with signals.hold():
                print("started", flush=True)
                time.sleep(0.3)
                print("finished", flush=True)
            time.sleep(60)
        except Interrupted as interrupted:
            os.kill(os.getpid(), 15)
            print("cleaned up", flush=True)
            sys.exit(interrupted.status)
    """

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_waits_for_a_start_and_comes_once(self, number):
        command = [sys.executable, "-c", textwrap.dedent(self.CODE), str(ROOT)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "started\n"
            child.send_signal(number)
            assert child.communicate(timeout=30)[0] == "finished\ncleaned up\n"
        assert child.returncode == 128 + number

    def test_no_handler_for_errors_swallows_it(self):
        assert not issubclass(Interrupted, Exception)
        assert Interrupted(signal.SIGTERM).status == 143
        assert Signals().hold() is not None
