"""The lab as a whole: what it offers, how much it holds, and what it leaves behind."""

import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import certifi
import pytest
import snowflake.connector

from astronomer.lab.server import PortInUseError
from astronomer.lab.snowflake import SnowflakeLab
from tests.lab.conftest import ended, query_id, until
from tests.work import counted


def test_it_imports_neither_airflow_nor_the_product():
    program = (
        "import sys, astronomer.lab.__main__;"
        "print([m for m in sys.modules if m.split('.')[0] == 'airflow'"
        " or m.startswith(('astronomer.deferral', 'astronomer.providers', 'astronomer.runtime'))])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout == "[]\n"


def test_it_listens_on_loopback_only(lab):
    [listener] = lab._server._server.servers
    assert [one.getsockname()[0] for one in listener.sockets] == ["127.0.0.1"]


def test_the_bundle_trusts_the_public_authorities_too(lab):
    public = ssl.create_default_context(cafile=certifi.where()).cert_store_stats()["x509_ca"]
    both = ssl.create_default_context(cafile=lab.client_env()["SSL_CERT_FILE"]).cert_store_stats()["x509_ca"]
    assert both == public + 1
    assert lab.client_env()["REQUESTS_CA_BUNDLE"] == str(lab.ca_bundle)


def test_a_directory_keeps_keys_and_certificates(tmp_path):
    contents = []
    for _ in range(2):
        SnowflakeLab(directory=tmp_path).stop()
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    secret = [path for path in tmp_path.iterdir() if path.suffix in {".key", ".p8"}]
    assert len(secret) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_a_taken_port_is_said_so(lab, lab_directory):
    with pytest.raises(PortInUseError, match=f"port {lab.port} on 127.0.0.1 is already in use"):
        SnowflakeLab(directory=lab_directory, port=lab.port).start()


def test_unknown_authentication(lab):
    with pytest.raises(ValueError, match="use one of password, key_pair"):
        lab.airflow_connection(auth="wish")


@pytest.mark.usefixtures("patient_servers")
def test_stopping_ends_everything_and_leaves_nothing(monkeypatch):
    before = set(threading.enumerate())
    lab = SnowflakeLab()
    lab.start()
    directory = lab.directory
    for name, value in lab.client_env().items():
        monkeypatch.setenv(name, value)
    connection = snowflake.connector.connect(**lab.connect_args())
    running = query_id(connection.cursor(), "select system$wait(600)")
    started = time.monotonic()
    lab.stop()
    lab.stop()
    assert time.monotonic() - started < 30
    assert lab.queries[running].error_code == "000604"
    assert not directory.exists()
    connection._rest.close()
    connection._rest = None
    until(lambda: {t.name for t in set(threading.enumerate()) - before if "astronomer" in t.name} == set())


LEFT = """
import os, sys, time
{start}
print(lab.directory, flush=True)
if not os.fork():
    os.close(2)  # DuckDB complains of what the threads held that a fork does not have
    sys.exit()
os.wait()
assert lab.directory.is_dir()
{wait}
sys.exit(3)
"""
COMPUTING = {
    "snowflake": (
        """
from astronomer.lab.snowflake import SnowflakeLab
import snowflake.connector
lab = SnowflakeLab().start()
os.environ.update(lab.client_env())
cursor = snowflake.connector.connect(**lab.connect_args()).cursor()
cursor.execute_async("select count(*) from range(1000000) a, range(1000000) b")
""",
        "while lab.account_state.database.pool._unfinished == 0: time.sleep(0.01)",
    ),
    "databricks": (
        """
from astronomer.lab.databricks import DatabricksLab
lab = DatabricksLab().start()
statement = lab.sql.submit("SELECT count(*) FROM range(1000000000000)")
""",
        "while statement.cursor is None: time.sleep(0.01)",
    ),
}


@pytest.mark.parametrize("service", COMPUTING)
def test_a_program_that_forgets_to_stop_it_ends_all_the_same(service):
    """At once, though a statement computes; quietly, with its files; and no fork ends it."""
    beginning, wait = COMPUTING[service]
    program = LEFT.format(start=beginning, wait=wait)
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert not Path(done.stdout.strip()).exists()


def test_a_thousand_running_queries(lab, connect):
    connection = connect()
    mark = int(time.time() * 1000) - 1
    threads = threading.active_count()
    running = [query_id(connection.cursor(), f"select system$wait(60000) /* {n} */") for n in range(1000)]
    assert threading.active_count() <= threads + 2
    assert sum(query.state == "RUNNING" for query in lab.queries.values()) >= 1000
    path = f"/monitoring/queries?max=1000&user=LAB_USER&start={mark}"
    with counted(lab._server.do) as work:
        entries = connection.rest.request(path, method="get", client="rest")["data"]["queries"]
    assert {entry["id"] for entry in entries} == set(running)
    assert work.calls < 20 * len(entries)
    started = time.monotonic()
    connection._async_sfqids.clear()
    connection.close()
    assert ended(lab, running[-1]).error_code == "000604"
    until(lambda: all(lab.queries[one].finished for one in running))
    assert time.monotonic() - started < 30
