"""The SQL API v2, spoken directly."""

import time
import uuid

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.held import held
from tests.lab.conftest import ended, until
from tests.lab.test_login import token

STATEMENTS = "/api/v2/statements"


class Api:
    def __init__(self, lab, session):
        self.lab, self.session = lab, session
        self.headers = {
            "Authorization": f"Bearer {token(lab)}",
            "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT",
        }

    def post(self, statement, *, params=None, **body):
        body = {"statement": statement, "database": "LAB", "schema": "PUBLIC", **body}
        return self.call("post", STATEMENTS, params=params, json=body)

    def get(self, handle, **params):
        return self.call("get", f"{STATEMENTS}/{handle}", params=params)

    def cancel(self, handle):
        return self.call("post", f"{STATEMENTS}/{handle}/cancel")

    def call(self, method, path, **how):
        return self.session.request(
            method, self.lab.url + path, **{"headers": self.headers, "timeout": 60, **how}
        )


@pytest.fixture
def api(lab):
    with requests.Session() as session:
        session.verify = str(lab.ca_bundle)
        yield Api(lab, session)


def test_a_statement_that_ends_soon_is_answered_with_its_rows(api):
    reply = api.post("select 1 as n, 'x' as s")
    assert reply.status_code == 200
    body = reply.json()
    assert (body["code"], body["sqlState"], body["data"]) == ("090001", "00000", [["1", "x"]])
    meta = body["resultSetMetaData"]
    assert (meta["numRows"], meta["format"], meta["partitionInfo"][0]["rowCount"]) == (1, "jsonv2", 1)
    assert [(column["name"], column["type"]) for column in meta["rowType"]] == [("N", "fixed"), ("S", "text")]
    assert api.call("get", body["statementStatusUrl"]).json()["data"] == [["1", "x"]]


def test_every_value_is_a_string(api):
    sql = (
        "select 1.50::number(10,2) as d, 2.5::float as f, true as b, null as n, '2020-02-03'::date as day,"
        " '04:05:06'::time as t, '2020-02-03 04:05:06.5'::timestamp_ntz as ntz,"
        " '2020-02-03 04:05:06+00:00'::timestamp_tz as tz, parse_json('{\"a\":1}') as v"
    )
    assert api.post(sql).json()["data"] == [
        [
            "1.50",
            "2.5",
            "true",
            None,
            "18295",
            "14706.000000000",
            "1580702706.500000000",
            "1580702706.000000000 1440",
            '{"a":1}',
        ]
    ]
    assert api.post("select null as n", params={"nullable": "false"}).json()["data"] == [["null"]]


def test_asynchronously(api, lab):
    with held(lab):
        started = time.monotonic()
        reply = api.post("select system$wait(4)", params={"async": "true"})
        assert time.monotonic() - started < 30
        assert (reply.status_code, reply.json()["code"]) == (202, "333334")
        handle = reply.json()["statementHandle"]
        assert api.get(handle).status_code == 202
    ended(lab, handle)
    assert api.get(handle).json()["data"] == [["waited 4 seconds"]]


def test_a_long_statement_turns_asynchronous_by_itself(make_lab):
    lab = make_lab(detach_after=0.05)
    with requests.Session() as session:
        session.verify = str(lab.ca_bundle)
        api = Api(lab, session)
        reply = api.post("select system$wait(60)")
        assert reply.status_code == 202
        assert api.cancel(reply.json()["statementHandle"]).status_code == 200


def test_a_failed_statement(api):
    reply = api.post("select * from nope")
    body = reply.json()
    assert (reply.status_code, body["code"], body["sqlState"]) == (422, "002003", "42S02")
    assert api.get(body["statementHandle"]).status_code == 422


def test_a_timeout(api):
    reply = api.post("select system$wait(60)", timeout=1)
    assert (reply.status_code, reply.json()["code"]) == (408, "000630")


def test_cancel(api, lab):
    handle = api.post("select system$wait(600)", params={"async": "true"}).json()["statementHandle"]
    reply = api.cancel(handle)
    assert (reply.status_code, reply.json()["statementHandle"]) == (200, handle)
    assert api.get(handle).json()["code"] == "000604"
    assert api.cancel(handle).status_code == 422


def test_several_statements(api, lab):
    sql = "create or replace table many (a int); insert into many values (1); select * from many"
    body = api.post(sql, parameters={"MULTI_STATEMENT_COUNT": "3", "query_tag": "mine"}).json()
    assert body["data"] == [["Multiple statements executed successfully."]]
    assert [api.get(handle).json()["data"] for handle in body["statementHandles"]] == [
        [["Table MANY successfully created."]],
        [["1"]],
        [["1"]],
    ]
    assert {lab.queries[handle].tag for handle in body["statementHandles"]} == {"mine"}
    assert api.post(sql).json()["code"] == "000008"


def test_a_transaction_ends_with_its_request(api, lab):
    api.post("create or replace table gone (a int)")
    parameters = {"MULTI_STATEMENT_COUNT": 0}
    sql = "begin; select system$wait(4); commit"
    with held(lab):
        running = api.post(sql, params={"async": "true"}, parameters=parameters)
        until(lambda: len(lab.open_transactions()) == 1)
    ended(lab, running.json()["statementHandle"])
    assert (
        api.post("begin; insert into gone values (1); select * from nope", parameters=parameters).status_code
        == 422
    )
    until(lambda: not lab.open_transactions())
    assert api.post("select count(*) from gone").json()["data"] == [["0"]]


def test_bindings(api):
    bindings = {"1": {"type": "FIXED", "value": "7"}, "2": {"type": "TEXT", "value": "it's"}}
    assert api.post("select ? as a, ? as b", bindings=bindings).json()["data"] == [["7", "it's"]]


def test_context(api):
    body = api.post(
        "select current_role(), current_warehouse(), current_database(), current_schema()",
        role="SYSADMIN",
        warehouse="compute_wh",
    ).json()
    assert body["data"] == [["SYSADMIN", "COMPUTE_WH", "LAB", "PUBLIC"]]
    assert api.post("select 1", warehouse="NOPE").json()["code"] == "390201"


def test_partitions(make_lab):
    lab = make_lab(partition_rows=4)
    with requests.Session() as session:
        session.verify = str(lab.ca_bundle)
        api = Api(lab, session)
        body = api.post("select seq4() as n from table(generator(rowcount => 10)) order by n").json()
        counts = [part["rowCount"] for part in body["resultSetMetaData"]["partitionInfo"]]
        assert counts == [4, 4, 2]
        rows = body["data"]
        for number in (1, 2):
            reply = api.get(body["statementHandle"], partition=number)
            assert set(reply.json()) == {"data"}
            assert reply.headers["content-encoding"] == "gzip"
            rows += reply.json()["data"]
        assert rows == [[str(n)] for n in range(10)]


def test_a_retry_of_the_same_request_is_the_same_statement(api):
    params = {"requestId": str(uuid.uuid4()), "async": "true"}
    first = api.post("select 1", params=params).json()["statementHandle"]
    assert api.post("select 1", params={**params, "retry": "true"}).json()["statementHandle"] == first
    assert api.post("select 1", params=params).json()["statementHandle"] != first


def test_who_may_ask(api, lab):
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = [
        {"Authorization": f"Bearer {lab.oauth_token()}"},
        {
            "Authorization": f"Bearer {lab.oauth_token()}",
            "X-Snowflake-Authorization-Token-Type": "OAUTH",
        },
        {
            "Authorization": f"Bearer {lab.programmatic_access_token}",
            "X-Snowflake-Authorization-Token-Type": "PROGRAMMATIC_ACCESS_TOKEN",
        },
    ]
    bad = {
        "390101": {},
        "390303": {"Authorization": "Bearer x"},
        "390318": {"Authorization": f"Bearer {lab.oauth_token(-1)}"},
        "394400": {
            "Authorization": "Bearer x",
            "X-Snowflake-Authorization-Token-Type": "PROGRAMMATIC_ACCESS_TOKEN",
        },
        "390144": {**api.headers, "Authorization": f"Bearer {token(lab, key=stranger)}"},
    }
    for headers in good:
        assert (
            api.call("post", STATEMENTS, headers=headers, json={"statement": "select 1"}).status_code == 200
        )
    for code, headers in bad.items():
        reply = api.call("post", STATEMENTS, headers=headers, json={"statement": "select 1"})
        assert (reply.status_code, reply.json()["code"]) == (401, code)
    expired = {**api.headers, "Authorization": f"Bearer {token(lab, age=4000)}"}
    assert api.call("get", f"{STATEMENTS}/{uuid.uuid4()}", headers=expired).status_code == 401


def test_an_unknown_handle_and_a_wrong_body(api, lab):
    assert api.get(uuid.uuid4()).status_code == 404
    lab.add_user("reader", "secret")
    handle = api.post("select 1").json()["statementHandle"]
    theirs = lab.account_state.credentials.new_oauth_token("reader", 60)
    other = {"Authorization": f"Bearer {theirs}"}
    assert api.call("get", f"{STATEMENTS}/{handle}", headers=other).status_code == 404
    assert api.call("post", STATEMENTS, data=b"{").status_code == 400
    assert api.call("post", STATEMENTS, json={}).status_code == 400


def test_faults(api, lab):
    lab.faults.expired(STATEMENTS, times=1)
    assert api.post("select 1").status_code == 401
    lab.faults.status(429, STATEMENTS, times=1, retry_after=2)
    assert api.post("select 1").headers["retry-after"] == "2"
    assert api.post("select 1").status_code == 200


def test_expired_results(api, lab):
    handle = api.post("select 1").json()["statementHandle"]
    lab.expire_results()
    assert (api.get(handle).status_code, api.get(handle).json()["code"]) == (422, "000612")
