"""The workspace steered from another process."""

import urllib.error

import pytest

from astronomer.lab.databricks import LabClient
from astronomer.lab.databricks.sql_errors import SqlError
from tests.lab.conftest import until
from tests.lab.databricks.conftest import Refused, wait


@pytest.fixture
def client(lab):
    return LabClient(lab.url, lab.ca_file)


def test_health_and_requests(client, lab, api):
    assert (client.health()["service"], client.active) == ("databricks", lab.active)
    api.get("2.2/jobs/list")
    lab.quotas.factor = 0.001
    with pytest.raises(Refused):
        [api.get("2.2/jobs/list") for _ in range(3)]
    summary = client.requests_summary()
    assert summary["throttled"] >= 1
    assert summary["by_path"]["GET /api/2.2/jobs/list"] == len(client.requests())
    client.set_quotas(0)
    client.clear_requests()
    summary = client.requests_summary()
    assert (client.requests(), summary["throttled"], summary["tokens"]) == ([], 0, 0)


def test_faults(client, lab, api):
    client.add_fault("status", status=503, path="jobs/list", times=1)
    with pytest.raises(Refused, match="503"):
        api.get("2.2/jobs/list")
    client.clear_faults()
    assert client.faults() == []


def test_seeds_and_time(client, lab):
    before = client.advance(0)
    ids = client.seed(5, seconds=1000, spread=1000, tasks=2, name="seeded", creator="someone@example.com")
    assert [run["run_id"] for run in client.runs(active=True)] == ids
    assert client.active == 5
    assert client.advance(1600) - before == pytest.approx(1600, abs=100)
    assert [run["state"] for run in client.runs()[-5:]] == ["SUCCESS"] * 3 + ["RUNNING"] * 2
    assert {run["creator"] for run in client.runs(state="RUNNING")} == {"someone@example.com"}
    client.set_speed(10_000)
    until(lambda: not client.active)
    client.set_speed(1)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        client.seed(1, color="red")


def test_runs_end_as_a_user_wants(client, lab, api):
    first, second = api.submit(wait(seconds=600), idempotency_token="seen"), api.submit(wait(seconds=600))
    assert client.runs(active=True)[0]["token"] == "seen"
    client.cancel_by_user(first)
    assert api.ended(first)["state"]["result_state"] == "CANCELED"
    client.delete_run(second)
    assert (second in lab.runs, lab.active) == (False, 0)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        client.delete_run(second)


def test_statements(client, lab):
    known = len(client.statements())
    lab.run_sql("SELECT 1")
    waits = lab.sql.submit("SELECT lab_wait(600)", tags={"team": "a", "lone": None})
    done, waiting = client.statements()[known:]
    assert (done["text"], done["state"], done["tags"], done["ended"]) == ("SELECT 1", "SUCCEEDED", {}, True)
    assert done["submitted_at"] <= done["started_at"] <= done["ended_at"]
    assert client.statements(active=True) == client.statements(state="RUNNING") == [waiting]
    assert (waiting["id"], waiting["tags"]) == (waits.id, {"team": "a", "lone": None})
    assert (waiting["ended"], waiting["ended_at"], waiting["error"]) == (False, None, None)
    assert client.cancel_statement_by_user(waits.id)
    assert not client.cancel_statement_by_user(waits.id)
    assert (waits.state, client.statements()[-1]["cancelled_by"]) == ("CANCELED", "user")
    with pytest.raises(urllib.error.HTTPError, match=r"400: .*there is no 'nothing'"):
        client.cancel_statement_by_user("nothing")


def test_a_failed_statement(client, lab):
    with pytest.raises(SqlError):
        lab.run_sql("SELECT * FROM nothing")
    [failed] = client.statements(state="FAILED")
    assert "TABLE_OR_VIEW_NOT_FOUND" in failed["error"]


def test_credentials(make_lab):
    lab = make_lab()
    client = LabClient(lab.url, lab.ca_file)
    assert client.rotate_token() == lab.token
    assert client.rotate_secret() == lab.client_secret
    client.expire_tokens()


def test_tells_every_credential_it_has_given_out(client, lab, api):
    old, secret = lab.token, lab.client_secret
    form = {"grant_type": "client_credentials", "client_id": lab.client_id, "client_secret": secret}
    token = api.session.post(f"{lab.url}/oidc/v1/token", data=form, timeout=60).json()["access_token"]
    client.rotate_token()
    client.rotate_secret()
    asked = {"statement": "select 1", "disposition": "EXTERNAL_LINKS", "format": "ARROW_STREAM"}
    answer = api.post(
        "2.0/sql/statements", warehouse_id=lab.warehouses.default.id, wait_timeout="10s", **asked
    )
    link = answer["result"]["external_links"][0]["external_link"]
    known = client.secrets()
    assert [known[one] for one in (old, lab.token)] == ["personal access token"] * 2
    assert [known[one] for one in (secret, lab.client_secret)] == ["client secret"] * 2
    assert known[token] == "OAuth access token"
    assert known[link.partition("Signature=")[2]] == "signature of a storage link"
    lab.expire_tokens()
    assert token in client.secrets()
