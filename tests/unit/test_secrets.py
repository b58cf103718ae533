"""The search for secrets finds them however they were written, and never shows them."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import secrets as random
import sqlite3
import time
import zlib
from contextlib import closing
from urllib.parse import quote, quote_plus, urlencode

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from tools.demo.environment import OtherPlaces, Places
from tools.demo.leaks import airflow_secrets, lab_secrets, leaks
from tools.demo.secrets import Search, Secret

HARD = "p@ss w/ö\"'%+\\"
VALUES = st.text(min_size=6, max_size=40).filter(
    lambda text: (
        len(set(text)) > 3 and "-----BEGIN" not in text
    )  # what begins so is a key, of which the lines count
)
AROUND = st.binary(max_size=7)

WRITTEN = {
    "plain": str,
    "JSON": json.dumps,
    "JSON as it is": lambda value: json.dumps({"a": value}, ensure_ascii=False),
    "JSON in JSON": lambda value: json.dumps({"a": json.dumps([value])}),
    "JSON in JSON in JSON": lambda value: json.dumps(json.dumps(json.dumps(value))),
    "repr": lambda value: repr({"a": value}),
    "repr of bytes": lambda value: repr(value.encode()),
    "ascii": ascii,
    "repr of JSON": lambda value: repr(json.dumps(value)),
    "a part of a URL": lambda value: quote(value, safe=""),
    "lower hexadecimals in a URL": lambda value: re.sub(
        "%..", lambda one: one.group().lower(), quote(value, safe="")
    ),
    "a path": quote,
    "a query": lambda value: urlencode({"a": value}),
    "a URL in a URL": lambda value: quote(quote(value, safe=""), safe=""),
    "HTML": html.escape,
    "hexadecimal": lambda value: value.encode().hex(),
    "a login": lambda value: base64.b64encode(b"me:" + value.encode()).decode(),
    "a login, quoted": lambda value: base64.b64encode(f"me:{quote_plus(value)}".encode()).decode(),
    "base64 of JSON": lambda value: base64.b64encode(json.dumps({"a": value}).encode()).decode(),
    "base64 of JSON as it is": lambda value: base64.b64encode(
        json.dumps({"a": value}, ensure_ascii=False).encode()
    ).decode(),
    "base64 of JSON in JSON": lambda value: base64.urlsafe_b64encode(
        json.dumps({"a": json.dumps([value])}).encode()
    ).decode(),
    "base64 of base64": lambda value: base64.b64encode(base64.b64encode(value.encode())).decode(),
    "SQL": lambda value: "CREATE USER me PASSWORD='{}'".format(value.replace("'", "''")),
}


def found(value: str, said: str | bytes, user: str = "") -> list[str]:
    search = Search([Secret("it", value, user)])
    data = said.encode(errors="replace") if isinstance(said, str) else said
    return sorted({form for _, _, form in search.hits(b"before " + data + b" after")})


KNOWN = {"hard": HARD, "plain": "lab-Passw0rd", "token": random.token_urlsafe(32), "base64": "+/" * 8 + "=="}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("value", KNOWN.values(), ids=KNOWN)
def test_every_form_is_found(how, value):
    assert found(value, WRITTEN[how](value), user="me")


@given(VALUES, AROUND, AROUND, st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_it_is_found_within_a_longer_base64_text(value, before, after, encode):
    if len(value.encode()) >= 9:
        assert found(value, encode(before + value.encode(errors="replace") + after))


@given(VALUES, st.sampled_from(["JSON in JSON", "repr", "a query", "a part of a URL", "HTML", "ascii"]))
def test_any_text_is_found(value, how):
    assert found(value, WRITTEN[how](value))


def test_a_form_is_named():
    assert found("secret-of-mine", "x secret-of-mine x") == ["plain"]
    assert "URL-encoded" in found("a/b c?d", "a%2Fb+c%3Fd")
    assert found("secret", base64.b64encode(b"me:secret"), user="me")[0] == "HTTP basic"


def test_a_half_of_a_token_counts():
    token = "ver:1-" + random.token_urlsafe(32)
    assert found(token, token[: len(token) // 2 + 2] + "…") == ["a half of it"]


def test_of_a_json_web_token_the_signature_counts():
    signature = random.token_urlsafe(64)
    assert found(f"eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.{signature}", signature) == ["its signature"]
    assert not found(
        f"eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.{signature}", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9"
    )


def test_each_line_of_a_private_key_counts():
    def pem() -> str:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()

    key = pem()
    for line in key.splitlines()[1:-2]:
        assert found(key, line), line
    assert found(key, json.dumps({"key": key}))
    assert found(key, base64.b64encode(key.encode()))
    assert not found(key, pem())


def test_what_is_no_secret_is_not_found():
    text = random.token_bytes(200_000) + random.token_urlsafe(200_000).encode()
    search = Search([Secret(str(number), random.token_urlsafe(24)) for number in range(200)])
    assert not list(search.hits(text))
    assert not list(Search([Secret("short", "abc"), Secret("none", "")]).hits(b"abc abc"))


def test_thousands_of_forms_cost_little_more_than_one():
    search = Search([Secret(str(number), random.token_urlsafe(48)) for number in range(300)])
    text = (
        b"2026-01-01 12:00:00 INFO - a line as logs have them, with ids " + b"a1b2c3d4-" * 4 + b"\n"
    ) * 10_000
    # Measured against the plain way in the same breath: it takes 60 times as long.
    plain = re.compile(b"|".join(re.escape(needle) for needle in search._needles))
    assert cost(lambda: search.hits(text)) < cost(lambda: plain.finditer(text[: len(text) // 10]))


def cost(matches):
    began = time.process_time()
    assert not list(matches())
    return time.process_time() - began


class TestPlaces:
    def test_files_with_the_line(self, tmp_path):
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "a.log").write_text(f"one\ntwo {HARD}\n")
        (tmp_path / "packed.gz").write_bytes(gzip.compress(b"\n\n" + HARD.encode()))
        (tmp_path / "home.json").write_text(HARD)
        (tmp_path / "up.log").write_text(f"export AIRFLOW_CONN_A='{HARD}'\nelse\n")
        search = Search([Secret("it", HARD)])
        but, told = {tmp_path / "home.json"}, {tmp_path / "up.log"}
        assert [str(one) for one in search.files(tmp_path, but, told)] == [
            "logs/a.log:2: it (plain)",
            "packed.gz:3, unpacked: it (plain)",
        ]

    @pytest.fixture
    def file(self, tmp_path):
        key = Fernet.generate_key().decode()
        with closing(sqlite3.connect(tmp_path / "airflow.db")) as database, database:
            database.execute(
                "CREATE TABLE trigger (id INTEGER PRIMARY KEY, encrypted_kwargs TEXT, note TEXT)"
            )
            database.execute("CREATE TABLE dag (id TEXT PRIMARY KEY, packed BLOB, number INT, at DATETIME)")
            kwargs = Fernet(key).encrypt(json.dumps({"a": json.dumps(HARD)}).encode()).decode()
            database.execute("INSERT INTO trigger VALUES (7, ?, NULL)", [kwargs])
            packed = zlib.compress(json.dumps(HARD).encode())
            database.execute("INSERT INTO dag VALUES (?, ?, 1, 'no date')", ["d", packed])
            database.execute("INSERT INTO dag VALUES (?, NULL, 1, NULL)", [HARD])
        return tmp_path / "airflow.db", key

    def test_rows_also_encrypted_and_packed(self, file):
        path, key = file
        search = Search([Secret("it", HARD)], [key])
        told = {str(one) for one in search.database(f"sqlite:///{path}")}
        assert told >= {
            "trigger.encrypted_kwargs (id=7): it (escaped)",
            "dag.packed (id=d): it (escaped)",
            "dag.id (): it (plain)",
        }
        assert not any(HARD in one or "p@ss" in one for one in told)
        assert {str(one) for one in search.database(create_engine(f"sqlite:///{path}"))} == told
        assert {str(one).partition("airflow.db: ")[2] for one in search.files(path.parent)} >= told

    def test_without_the_key_what_is_encrypted_is_safe(self, file):
        path, _ = file
        search = Search([Secret("it", HARD)], [Fernet.generate_key().decode()])
        assert "trigger" not in {str(one).partition(".")[0] for one in search.database(f"sqlite:///{path}")}


class _Lab:
    def secrets(self):
        return {"dapi0123456789": "personal access token", "ver:1-abcdefgh": "session token"}


class TestDemo:
    def test_what_is_secret_in_an_environment(self):
        connection = {
            "login": "me",
            "password": HARD,
            "extra": {"private_key_content": "k3y-t3xt", "role": "R"},
        }
        variables = {
            "AIRFLOW__CORE__FERNET_KEY": "fernet-fernet",
            "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://bench:pg-word@127.0.0.1/airflow",
            "AIRFLOW__CELERY__BROKER_URL": "redis://:r3dis@127.0.0.1:1/0",
            "AIRFLOW_CONN_A": json.dumps(connection),
            "AIRFLOW_CONN_B": "http://you:p%40ss@host",
        }
        assert {one.value for one in airflow_secrets(variables)} == {
            *("fernet-fernet", "pg-word", "r3dis", HARD, "k3y-t3xt", "p@ss")
        }
        assert HARD not in repr(airflow_secrets(variables))

    def test_what_a_lab_knows(self):
        assert [(one.name, one.value) for one in lab_secrets({"Lab": _Lab()})] == [
            ("Lab: personal access token 1", "dapi0123456789"),
            ("Lab: session token 2", "ver:1-abcdefgh"),
        ]

    def test_all_of_a_demo(self, tmp_path):
        places = Places(tmp_path)
        other = OtherPlaces(tmp_path)
        for folder in (places.home, other.home, places.logs, places.lab):
            folder.mkdir(parents=True)
        for home in (places.passwords, other.passwords, places.lab / "rsa_key.p8"):
            home.write_text("dapi0123456789")
        (places.logs / "local-services.log").write_text("export AIRFLOW_CONN_A=dapi0123456789\nwell\n")
        variables = {"AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode()}
        outside = tmp_path / "redis"
        outside.mkdir()
        more = {"passwords": {"admin": "p@ssw0rd"}, "folders": [outside]}
        look = lambda: leaks(places, {"Airflow": variables}, {"Lab": _Lab()}, **more)  # noqa: E731
        assert look() == []
        (places.logs / "scheduler.log").write_text("with p@ssw0rd\nand dapi0123456789")
        assert look() == [
            "logs/scheduler.log:1: admin (plain)",
            "logs/scheduler.log:2: Lab: personal access token 1 (plain)",
        ]
        (outside / "appendonly.aof").write_text("ver:1-abcdefgh")
        assert "appendonly.aof:1: Lab: session token 2 (plain)" in look()
