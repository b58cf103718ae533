"""Who gets in, with which error otherwise, and what happens to a session."""

import datetime as dt
import time
import uuid
from types import SimpleNamespace

import jwt
import pytest
import requests
import snowflake.connector
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from snowflake.connector.errors import DatabaseError, ProgrammingError

from astronomer.lab.snowflake import sessions
from tests.lab.conftest import ended, pem, query_id, until


def der(key) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def refused(lab, **over) -> int:
    with pytest.raises(DatabaseError) as refusal:
        snowflake.connector.connect(**lab.connect_args(**over))
    assert not lab.logins[-1].ok
    return refusal.value.errno


def test_a_password(lab, connect):
    assert connect().cursor().execute("select current_user()").fetchone() == ("LAB_USER",)
    assert refused(lab, password="wrong") == 390100
    assert refused(lab, user="nobody") == 390100
    assert lab.logins[-1].reason == "INCORRECT_USERNAME_PASSWORD"


def test_a_rotated_password(make_lab):
    other = make_lab()
    old = other.password
    other.rotate_password("new")
    assert refused(other, password=old) == 390100
    snowflake.connector.connect(**other.connect_args()).close()


def test_a_key_pair(lab, connect):
    key = load_pem_private_key(pem(lab.private_key_file), None)
    how = {"password": None, "authenticator": "SNOWFLAKE_JWT"}
    connect(**how, private_key=der(key))
    connect(**how, private_key_file=str(lab.encrypted_private_key_file), private_key_file_pwd=lab.passphrase)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert refused(lab, **how, private_key=der(stranger)) == 390144
    assert lab.logins[-1].reason == "JWT_TOKEN_INVALID_PUBLIC_KEY_FINGERPRINT_MISMATCH"
    assert refused(lab, **how, private_key=der(key), account="other") == 390144


def token(lab, *, age: int = 0, life: int = 3600, key=None, **claims) -> str:
    private = load_pem_private_key(pem(lab.private_key_file), None)
    [print_] = lab.account_state.credentials.users[lab.user].keys
    now = dt.datetime.now(dt.timezone.utc) - dt.timedelta(seconds=age)
    payload = {
        "iss": f"LAB.LAB_USER.SHA256:{print_}",
        "sub": "LAB.LAB_USER",
        "iat": now,
        "exp": now + dt.timedelta(seconds=life),
        **claims,
    }
    return jwt.encode(payload, key or private, algorithm="RS256")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"age": 4000}, "JWT_TOKEN_EXPIRED"),
        ({"life": 3700}, "JWT_TOKEN_INVALID_EXPIRATION_TIME"),
        ({"age": -600}, "JWT_TOKEN_NOT_YET_VALID"),
        ({"sub": "LAB.OTHER"}, "JWT_TOKEN_INVALID_FORMAT"),
        ({"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)}, "JWT_TOKEN_INVALID_FORMAT"),
    ],
)
def test_a_wrong_jwt_is_refused_without_telling_why(lab, wrong, reason):
    data = {"data": {"AUTHENTICATOR": "SNOWFLAKE_JWT", "LOGIN_NAME": lab.user, "TOKEN": token(lab, **wrong)}}
    url = f"{lab.url}/session/v1/login-request"
    reply = requests.post(url, json=data, verify=str(lab.ca_bundle), timeout=60).json()
    assert (reply["code"], reply["success"]) == ("390144", False)
    assert lab.logins[-1].reason == reason


def test_tokens(lab, connect):
    connect(password=None, authenticator="oauth", token=lab.oauth_token())
    connect(password=None, authenticator="PROGRAMMATIC_ACCESS_TOKEN", token=lab.programmatic_access_token)
    assert refused(lab, password=None, authenticator="oauth", token="x") == 390303
    assert refused(lab, password=None, authenticator="oauth", token=lab.oauth_token(-1)) == 390318
    assert refused(lab, password=None, authenticator="PROGRAMMATIC_ACCESS_TOKEN", token="x") == 394400


def test_a_role_that_is_not_granted(lab):
    assert refused_role(lab) == 390189


def refused_role(lab) -> int:
    with pytest.raises(DatabaseError) as refusal:
        snowflake.connector.connect(**lab.connect_args(role="NOPE"))
    return refusal.value.errno


def test_names_that_do_not_exist_leave_the_session_without(connect):
    cursor = connect(database="NOPE", warehouse="NOPE").cursor()
    assert cursor.execute("select current_database(), current_warehouse()").fetchone() == (None, None)
    with pytest.raises(ProgrammingError) as error:
        cursor.execute("select * from t")
    assert error.value.errno in (90105, 606)


def test_an_expired_session_is_renewed_without_the_user_noticing(lab, connect):
    cursor = connect().cursor()
    before = cursor.execute("select current_session()").fetchone()
    lab.expire_sessions()
    assert cursor.execute("select current_session()").fetchone() == before
    assert lab.requests.count("token-request") == 1
    assert lab.requests.logins == 1


def test_after_the_master_token_only_a_login_helps(lab, connect):
    connection = connect()
    running = query_id(connection.cursor(), "select system$wait(1)")
    connection.cursor().execute("begin")
    lab.expire_masters()
    with pytest.raises(ProgrammingError) as error:
        connection.cursor().execute("select 1")
    assert error.value.errno == 390114
    assert ended(lab, running).state == "SUCCESS"
    until(lambda: not lab.open_transactions())
    assert connect().cursor().execute("select 1").fetchone() == (1,)


def test_tokens_run_out_by_themselves(make_lab, monkeypatch):
    passed = 0
    monkeypatch.setattr(sessions, "time", SimpleNamespace(time=lambda: time.time() + passed))
    lab = make_lab(session_seconds=1000, master_seconds=10_000)
    with snowflake.connector.connect(**lab.connect_args()) as connection:
        cursor = connection.cursor()
        cursor.execute("begin")
        assert lab.requests.count("token-request") == 0
        passed = 1001
        cursor.execute("select 1")
        assert lab.requests.count("token-request") == 1
        passed += 10_001
        with pytest.raises(ProgrammingError) as error:
            cursor.execute("select 1")
        assert error.value.errno == 390114
        until(lambda: not lab.open_transactions())


def test_after_long_idleness_every_request_is_refused(lab, connect):
    connection = connect()
    lab.expire_masters(direct=True)
    with pytest.raises(TypeError):  # the connector's own mistake with an answer without data
        connection.get_query_status("01b2f3a4-0000-0000-0000-000000000000")
    with pytest.raises(ProgrammingError) as error:
        connection.cursor().execute("select 1")
    assert error.value.errno == 390114


def test_logging_out_cancels_what_runs_and_rolls_back(lab, connect):
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("create or replace table left_open (a int)")
    cursor.execute("begin")
    cursor.execute("insert into left_open values (1)")
    running = query_id(cursor, "select system$wait(600)")
    connection._async_sfqids.clear()  # the connector would keep the session while it knows of a running query
    connection.close()
    assert ended(lab, running).error_code == "000604"
    until(lambda: not lab.open_transactions())
    assert connect().cursor().execute("select count(*) from left_open").fetchone() == (0,)
    assert lab.requests.count(r"^/session$", method="POST") == 1


def test_a_session_kept_alive_outlives_its_client(lab, connect):
    connection = connect(server_session_keep_alive=True)
    running = query_id(connection.cursor(), "select system$wait(2)")
    connection.close()
    assert ended(lab, running).state == "SUCCESS"


def test_the_session_token_of_a_logged_out_session_is_dead(lab, connect):
    connection = connect()
    header = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}
    connection.close()
    url = f"{lab.url}/monitoring/queries/{uuid.uuid4()}"
    reply = requests.get(url, headers=header, verify=str(lab.ca_bundle), timeout=60).json()
    assert reply["code"] == "390111"
    for wrong, code in (({}, "390101"), ({"Authorization": 'Snowflake Token="x"'}, "390104")):
        reply = requests.get(url, headers=wrong, verify=str(lab.ca_bundle), timeout=60).json()
        assert reply["code"] == code


def test_a_heartbeat_keeps_a_session(lab, connect):
    connection = connect(client_session_keep_alive=True)
    connection._heartbeat_tick()
    assert lab.requests.count("/session/heartbeat", status=200) == 1


def test_two_labs_of_one_process_share_nothing(lab, connect, make_lab):
    other = make_lab()
    connect().cursor().execute("create or replace table mine as select 1 as a")
    with (
        snowflake.connector.connect(**other.connect_args()) as connection,
        pytest.raises(ProgrammingError, match="'MINE' does not exist"),
    ):
        connection.cursor().execute("select * from mine")
