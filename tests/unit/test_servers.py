"""The servers of a distributed Airflow: new ones on loopback, or a word on what is missing."""

import os
import stat
import sys
import time

import psutil
import pytest
import redis as redis_client
from sqlalchemy import create_engine, text

from tools import leftovers
from tools.demo.backend import OneMachine, Servers
from tools.demo.environment import Places
from tools.demo.patience import Patience
from tools.demo.processes import Processes
from tools.demo.secrets import Search, Secret
from tools.servers import MissingServerError, kubernetes, postgres, redis
from tools.servers.postgres import Cluster
from tools.servers.redis import Redis

needs_postgres = pytest.mark.skipif(postgres.binaries() is None, reason="needs a PostgreSQL server")
needs_redis = pytest.mark.skipif(redis.binary() is None, reason="needs a Redis server")
TAG = "the-servers-of-a-test"
LOOPBACK = {"127.0.0.1", "::1"}


class Said:
    """A console that nobody reads."""

    is_terminal = False

    def print(self, *_words, **_how):
        """Nothing."""


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path / "logs", tmp_path / "processes.json")
    yield found
    found.stop(10.0)


@pytest.fixture
def patience(processes):
    return Patience(processes, Said())


def listening(processes):
    found = set()
    for program in processes.programs:
        for one in psutil.Process(program.process.pid).net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                found.add(one.laddr.ip)
    return found


@needs_postgres
@needs_redis
class TestServers:
    @pytest.fixture
    def servers(self, processes, patience, monkeypatch):
        monkeypatch.setenv(leftovers.VARIABLE, TAG)
        servers = Servers()
        servers.start(processes, patience)
        yield servers
        processes.stop(10.0)
        servers.close()

    def test_listen_on_loopback_only(self, servers, processes):
        assert listening(processes) <= LOOPBACK
        assert len(listening(processes)) >= 1

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_are_found_when_they_are_left_behind(self, servers, processes):
        found = {pid for pid, _ in leftovers.tagged(TAG)}
        assert {one.name for one in processes.programs if one.process.pid in found} == {"PostgreSQL", "Redis"}

    def test_airflow_is_told_where_they_are(self, servers):
        settings = servers.settings()
        assert settings["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
        with create_engine(settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).connect() as connection:
            assert connection.execute(text("SELECT current_database()")).scalar() == servers.database.database
        assert settings["AIRFLOW__CELERY__BROKER_URL"].startswith("redis://:")

    def test_the_database_keeps_what_it_had_when_it_is_started_again(
        self, servers, processes, patience, tmp_path
    ):
        engine = create_engine(servers.database)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE kept AS SELECT 1 AS n"))
        engine.dispose()
        [program] = [one for one in processes.programs if one.name == "PostgreSQL"]
        processes.lose(program, 3, group=False)
        # Some parts of Airflow end when their database goes away; whoever restarts it starts them again later.
        fallen = processes.start(
            "triggerer", [sys.executable, "-c", "raise SystemExit(1)"], os.environ, tmp_path
        )
        fallen.process.wait()
        servers.start_servers(processes, patience)
        with create_engine(servers.database).connect() as connection:
            assert connection.execute(text("SELECT n FROM kept")).scalar() == 1

    def test_a_server_of_the_users_gets_a_database_that_is_dropped(self, servers, processes, patience):
        url = servers.database.set(database="postgres").render_as_string(hide_password=False)
        broker = servers.settings()["AIRFLOW__CELERY__BROKER_URL"]
        users = Servers(database_url=url.replace("+psycopg2", ""), redis_url=broker)
        before = len(processes.programs)
        users.start(processes, patience)
        assert len(processes.programs) == before, "nothing was started beside it"
        assert users.database.database != servers.database.database
        assert users.settings()["AIRFLOW__CELERY__BROKER_URL"] == broker
        users.close()
        with create_engine(servers.database).connect() as connection:
            names = set(connection.execute(text("SELECT datname FROM pg_database")).scalars())
        assert users.database.database not in names
        assert servers.database.database in names

    def test_what_passed_through_redis_can_be_searched(self, servers):
        client = redis_client.from_url(servers.settings()["AIRFLOW__CELERY__BROKER_URL"])
        client.lpush("default", "a message")
        client.close()
        until = time.monotonic() + 60  # it writes every second
        [folder] = servers.folders()
        search = Search([Secret("it", "a message")])
        while not (found := search.files(folder)):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert found[0].secret == "it"
        assert OneMachine().folders() == []

    def test_nothing_is_left_of_them(self, processes, patience):
        servers = Servers()
        servers.start(processes, patience)
        folders = [servers._cluster.directory, servers._redis.directory]
        assert all(folder.exists() for folder in folders)
        processes.stop(10.0)
        servers.close()
        assert not any(folder.exists() for folder in folders)


@needs_redis
def test_the_password_of_redis_is_not_in_the_list_of_processes():
    server = Redis.new()
    try:
        password = server.url.partition(":@")[0].partition("://:")[2].partition("@")[0]
        assert len(password) > 10
        assert not any(password in word for word in server.command)
        assert stat.S_IMODE((server.directory / "redis.conf").stat().st_mode) == 0o600
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("make", "module", "name", "package"),
    [(Cluster.new, postgres, "binaries", "postgresql"), (Redis.new, redis, "binary", "redis-server")],
)
def test_a_missing_server_is_named_with_the_way_to_get_it(monkeypatch, make, module, name, package):
    monkeypatch.setattr(module, name, lambda: None)
    with pytest.raises(MissingServerError, match=f"apt-get install {package}"):
        make()


def test_parts():
    assert list(OneMachine().parts.values()) == ["API server", "scheduler", "Dag processor", "triggerer"]
    assert Servers(triggerers=3).parts["triggerer 3"] == "triggerer"
    assert "Celery worker" in Servers().parts
    assert "Celery worker" not in Servers(celery=False).parts


def test_the_demo_stands_on_one_machine_unless_it_is_told_otherwise(tmp_path):
    assert OneMachine().settings() == {}
    assert Places(tmp_path).database.name == "airflow.db"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A machine that has the programs of a Kubernetes, as far as names go."""
    (folder := tmp_path / "bin").mkdir()
    for name in (*kubernetes.OWN, *kubernetes.OTHERS):
        (folder / name).write_text("#!/bin/sh\necho Kubernetes v1.34.0\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("KUBERNETES_BINARIES", str(folder))
    return folder


def test_kubernetes_names_what_it_lacks(programs, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (programs / "kubelet").unlink()
    assert kubernetes.lacking().startswith("no Kubernetes: kubelet cannot be found")
    with pytest.raises(MissingServerError, match="kubelet"), kubernetes.started("pause"):
        pass


@pytest.mark.parametrize("name", ["kubepods", "kubepods.slice"])
def test_kubernetes_leaves_a_machine_alone_that_runs_pods(programs, tmp_path, monkeypatch, name):
    monkeypatch.setattr(kubernetes, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (group := tmp_path / "cpu" / name / "besteffort" / "pod1").mkdir(parents=True)
    for one in (group, *group.parents[:2]):
        (one / "cgroup.procs").touch()
    assert kubernetes.lacking() is None
    (group / "cgroup.procs").write_text("4711\n")
    assert kubernetes.lacking() == kubernetes.BUSY


def test_kubernetes_listens_on_loopback_and_tells_no_token(programs, tmp_path):
    cluster = kubernetes.Cluster(
        tmp_path, {kubernetes.ADMIN: "token-of-a-test", "scheduler": "another-token"}
    )
    commands = cluster.commands("pause")
    for name, words in commands.items():
        addresses = {word.partition("=")[2] for word in words if word.startswith("--bind-address")}
        urls = {word for word in words if "http" in word and "-urls" not in word and "issuer" not in word}
        assert addresses <= LOOPBACK, name
        assert all("://127.0.0.1:" in url for url in urls), name
        assert not any("token-of-a-test" in word or "another-token" in word for word in words)
    assert '"address": "127.0.0.1"' in (tmp_path / "kubelet.json").read_text()
    secret = {path.name for path in tmp_path.iterdir() if path.is_file() and "-token" in path.read_text()}
    secret |= {path.name for path in tmp_path.iterdir() if path.is_file() and "token-of" in path.read_text()}
    assert secret == {"tokens.csv", "admin.kubeconfig"}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in secret} == {0o600}
    assert "--container-runtime=remote" not in commands["kubelet"]
