"""How a container starts, tells of its health and ends."""

import os
import subprocess
import time

import pytest

from tools.image.container import READ_ONLY
from tools.servers.owner import free_port
from tools.servers.postgres import started
from tools.servers.redis import Redis

SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


@pytest.fixture(scope="module")
def database():
    with started() as server:
        yield {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url.render_as_string(hide_password=False),
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__API__SECRET_KEY": "of-a-test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "of-a-test-of-a-test-of-a-test-of-a-test",
            "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": "/tmp/passwords.json",
        }


@pytest.fixture(scope="module")
def migrated(database, engine, release, images):
    from tools.image.__main__ import tag
    from tools.image.container import Container

    done = Container(engine, tag(release, "base")).run(
        "airflow", "db", "migrate", variables=database, options=READ_ONLY
    )
    assert done.returncode == 0, done.stdout
    return database


def test_the_database_is_made_with_a_read_only_root(migrated, container):
    done = container.run("airflow", "db", "check-migrations", variables=migrated, options=READ_ONLY)
    assert done.returncode == 0, done.stdout


def test_a_server_that_is_missing_is_waited_for_and_named(container):
    port = free_port()
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://user:hidden@127.0.0.1:{port}/airflow",
        "ASTRONOMER_WAIT_SECONDS": "2",
    }
    done = container.run("airflow", "scheduler", variables=variables)
    assert done.returncode == 1
    assert f"The database at 127.0.0.1:{port} cannot be reached" in done.stdout
    assert "hidden" not in done.stdout


def test_without_a_platform_the_api_server_does_not_start(container, migrated):
    variables = {**migrated}
    del variables["AIRFLOW__CORE__AUTH_MANAGER"]
    done = container.run("airflow", "api-server", variables=variables, options=READ_ONLY)
    assert done.returncode != 0
    assert "astronomer_runtime" in done.stdout


def test_sigterm_reaches_the_program(container):
    with container.running("sleep", "600", variables={}):
        began = time.monotonic()
        stop = container.engine.execute("stop", "--time", "60", container.names[-1])
        subprocess.run(stop, check=True, capture_output=True)
        assert time.monotonic() - began < 30  # tini passes it on; a shell as first process would not


def becomes_healthy(container, words, variables):
    with container.running("airflow", *words, variables=variables) as said:
        check = container.engine.execute("exec", container.names[-1], "/opt/runtime/bin/healthcheck")
        until = time.monotonic() + 120
        while subprocess.run(check, capture_output=True, check=False, env=os.environ).returncode:
            assert time.monotonic() < until, said()
            time.sleep(1)


@pytest.mark.parametrize("words", [["api-server"], ["scheduler"], ["triggerer"], ["dag-processor"]])
def test_each_server_tells_of_its_health(container, migrated, words):
    ports = {
        "AIRFLOW__API__PORT": str(free_port()),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__API__HOST": "127.0.0.1",
    }
    becomes_healthy(container, words, {**migrated, **ports})


@pytest.fixture(scope="module")
def celery(migrated):
    """What Celery's workers are told, beside what all are; Redis runs."""
    redis = Redis.new()
    database = migrated["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    with subprocess.Popen(redis.command, cwd=redis.directory, stdout=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 60
            while not redis.answers():
                assert time.monotonic() < until
                time.sleep(0.1)
            yield {
                **migrated,
                "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
                "AIRFLOW__CELERY__BROKER_URL": redis.url,
                "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
                "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
            }
        finally:
            server.terminate()
            server.wait(60)
            redis.remove()


@pytest.mark.parametrize("controlled", ["True", "False"])
def test_a_celery_worker_tells_of_its_health(container, celery, controlled):
    own = {
        "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": controlled,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
    }
    becomes_healthy(container, ["celery", "worker"], {**celery, **own})


def test_a_celery_worker_that_is_not_there_is_not_healthy(container, celery):
    variables = {**celery, "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False"}
    code = "import runpy; m = runpy.run_path('/opt/runtime/bin/healthcheck'); print(m['works'](['celery', 'worker']))"
    done = container.run("python", "-c", code, variables=variables, options=READ_ONLY)
    assert done.stdout.splitlines()[-1] == "False", done.stdout


def test_a_dag_is_read_with_a_read_only_root(container, migrated, tmp_path):
    (dag := tmp_path / "one.py").write_text("from airflow.sdk import DAG\n\ndag = DAG('read_only')\n")
    options = (*READ_ONLY, "--volume", f"{dag}:/usr/local/airflow/dags/one.py:ro")
    with container.running("airflow", "dag-processor", variables=migrated, options=options) as said:
        listing = container.engine.execute("exec", container.names[-1], "airflow", "dags", "list")
        until = time.monotonic() + 120
        while "read_only" not in subprocess.run(listing, capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < until, said()


def test_a_stopped_server_is_not_healthy(container, migrated):
    variables = {**migrated, "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(free_port())}
    with container.running("sleep", "600", variables=variables):
        code = "import runpy; m = runpy.run_path('/opt/runtime/bin/healthcheck'); m['works'](['scheduler'])"
        execute = container.engine.execute("exec", container.names[-1], "python", "-c", code)
        done = subprocess.run(execute, capture_output=True, text=True, check=False)
        assert "ConnectionRefusedError" in done.stderr
