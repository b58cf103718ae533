"""Nothing that an Airflow writes holds a credential: not its logs, its database, its events nor its errors."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.integration.security.conftest import VARIABLE_NAME
from tools.demo.leaks import airflow_secrets
from tools.demo.secrets import Search, Secret

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("security"), pytest.mark.timeout(360)]


@pytest.fixture(scope="session")
def search(ran):
    known = [Secret(name, value) for name, value in ran.secrets.items()]
    return Search([*airflow_secrets(ran.environment), *known], [ran.environment["AIRFLOW__CORE__FERNET_KEY"]])


WORDS = ("events-with-words.log:",)
FREED = (
    *(f"airflow.db:{digit}" for digit in range(10)),
    "airflow.db-wal:",
    "airflow.db-shm:",
)  # what was in rows; those that are there are looked at


@pytest.fixture(scope="session")
def found(ran, search):
    return search.files(ran.home)


def test_every_case_ends_as_it_should(ran):
    assert ran.wrong == ["as they should"], ran.output[-3000:]


def test_no_credential_is_written_anywhere(ran, found):
    leaked = {str(one) for one in found if one.secret != VARIABLE_NAME}
    assert not leaked, "\n".join(sorted(leaked)[:60])


def test_what_the_masker_knows_is_seen_in_the_words_of_an_event_only(found):
    """They go to the worker, which masks them, and from the database when it has them."""
    quoting = {one.place for one in found if one.secret == VARIABLE_NAME}
    rest = {one for one in quoting if not one.startswith((*WORDS, *FREED))}
    assert not rest, "\n".join(sorted(rest)[:60])


def test_all_that_there_is_was_looked_at(ran, search):
    """A credential in each of the places would have been found."""
    names = {path.name for path in ran.home.rglob("*")}
    assert {"airflow.db", "everything.log", "seen.log", "output.log", "events-with-words.log"} <= names
    everything = (ran.home / "everything.log").read_text()
    for said in (" snowflake.connector.", " airflow.", " asyncio", "Executing: select", "started: https://"):
        assert said in everything, said
    tables = {name.partition(".")[0] for name in _rows(ran.home / "airflow.db")}
    assert {"trigger", "xcom", "rendered_task_instance_fields", "serialized_dag", "task_instance"} <= tables
    for name, value in ran.secrets.items():
        line = next(one for one in value.splitlines()[-2:] if not one.startswith("-----"))
        assert search.text(f"a line with {line}", "here") or len(line) < 48, name


def _rows(path):
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [name for name in names if database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]]
