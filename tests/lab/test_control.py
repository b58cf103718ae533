"""The lab steered from another process."""

import urllib.error

import certifi
import pytest
import requests
from snowflake.connector.errors import DatabaseError, ProgrammingError

from astronomer.lab.snowflake import LabClient
from tests.lab.conftest import ended, query_id, until


@pytest.fixture
def client(lab):
    client = LabClient(lab.url, lab.ca_file)
    yield client
    client.clear_faults()


def test_health_and_requests(client, connect):
    assert client.health() == {"status": "ok", "service": "snowflake", "account": "lab", "user": "LAB_USER"}
    connect()
    assert (client.requests_summary()["logins"], client.requests_summary()["requests"]) == (1, 1)
    assert client.requests()[0]["path"] == "/session/v1/login-request"
    client.clear_requests()
    assert client.requests() == []


def test_faults(client, lab, cursor):
    client.add_fault("status", status=503, path="query-request", times=1)
    assert client.faults() == [
        {"path": "query-request", "method": None, "times": 1, "hits": 0, "effects": ["status 503"]}
    ]
    cursor.execute("select 1")
    assert lab.requests.count("query-request", status=503) == 1
    client.storm(60, rate=1.0, seed=1)
    assert client.faults()[0]["effects"] == ["status 429", "status 503", "reset"]
    client.clear_faults()
    assert client.faults() == []
    with pytest.raises(urllib.error.HTTPError, match=r"400: .*unknown kind of fault 'fire'"):
        client.add_fault("fire")


def test_expiry(client, lab, connection):
    cursor = connection.cursor()
    client.expire_sessions()
    cursor.execute("select 1")
    assert lab.requests.count("token-request") == 1
    client.expire_results()
    with pytest.raises(DatabaseError):
        connection.cursor().query_result(cursor.sfqid)
    client.expire_masters()
    with pytest.raises(ProgrammingError) as error:
        cursor.execute("select 1")
    assert error.value.errno == 390114


def test_queries_and_abort(client, lab, connect):
    cursor = connect(session_parameters={"QUERY_TAG": "from outside"}).cursor()
    running = query_id(cursor, "select system$wait(600)")
    [found] = client.queries(tag="from outside", state="RUNNING")
    assert (found["id"], found["sql"], found["user"]) == (running, "select system$wait(600)", "LAB_USER")
    assert client.abort_by_admin(running)
    assert ended(lab, running).error_code == "000604"
    assert not client.abort_by_admin(running)


def test_warehouses(client, lab, cursor):
    client.set_warehouse("COMPUTE_WH", concurrency=1)
    first, second = (query_id(cursor, "select system$wait(600)") for _ in range(2))
    until(lambda: lab.queries[second].state == "QUEUED")
    for one in (first, second):
        cursor.abort_query(one)
    client.set_warehouse("COMPUTE_WH", resuming=1)
    client.suspend_warehouse("COMPUTE_WH")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        client.suspend_warehouse("NOPE")


def test_transactions(client, cursor):
    cursor.execute("begin name outside")
    [found] = client.open_transactions()
    assert (found["name"], found["session_id"]) == ("outside", cursor.connection.session_id)
    cursor.execute("rollback")
    assert client.open_transactions() == []


def test_a_new_password(make_lab):
    lab = make_lab()
    LabClient(lab.url, lab.ca_file).rotate_password("new")
    assert lab.connect_args()["password"] == "new"


def test_no_proxy_is_on_the_way(lab, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert LabClient(lab.url, lab.ca_file).health()["status"] == "ok"


def test_only_https_and_only_a_trusted_lab(lab):
    with pytest.raises(ValueError, match="https"):
        LabClient("http://localhost", lab.ca_file)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{lab.url}/_lab/health", verify=certifi.where(), timeout=60)


def test_who_cannot_read_the_labs_key_cannot_steer_it(lab):
    for headers in ({}, {"authorization": "Bearer 0"}):
        answer = requests.get(
            f"{lab.url}/_lab/requests", headers=headers, verify=str(lab.ca_bundle), timeout=60
        )
        assert answer.status_code == 403
        assert lab.control_key not in answer.text


def test_tells_every_credential_it_has_given_out_or_accepted(client, lab, connect):
    before, known = lab.connect_args()["password"], client.secrets()
    connect().cursor().execute("select 1")
    token = lab.oauth_token()
    lab.revoke_tokens()
    lab.rotate_password("n3w p@ss")
    lab.rotate_password(before)
    client.expire_sessions()
    connect(authenticator="SNOWFLAKE_JWT", private_key_file=str(lab.private_key_file), password=None)
    old, known = known, client.secrets()
    assert known == lab.secrets()
    assert (known[before], known["n3w p@ss"], known[token]) == ("password", "password", "OAuth access token")
    assert known[lab.private_key_file.read_text()] == "private key of the user"
    assert known[lab.control_key] == "control key"
    kinds = [what for value, what in known.items() if value not in old]
    assert kinds.count("session token") == kinds.count("master token") == 2
    assert kinds.count("JSON web token") == 1
