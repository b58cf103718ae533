"""Looks for secrets in all that a run has written: files, and every value of every row of a database."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import Engine, Select, create_engine, inspect, literal_column, select
from sqlalchemy import table as named_table
from sqlalchemy.pool import NullPool

from tools.demo.secret_forms import SHORTEST, forms

__all__ = ["Finding", "Search", "Secret"]

_PREFIX = 8  # bytes; needles that begin alike are told apart afterwards
_FERNET = b"gAAAAA"
_SQLITE = b"SQLite format 3\0"
_TOLD = re.compile(rb"^export AIRFLOW_CONN_.*$", re.MULTILINE)  # what `astronomer.lab up` is there to print


@dataclass(frozen=True)
class Secret:
    """What must be found nowhere.

    :param name: what findings call it.
    :param user: whose password it is.
    """

    name: str
    value: str
    user: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"


@dataclass(frozen=True)
class Finding:
    """A secret that was found, which is not shown.

    :param place: such as ``logs/scheduler.log:17`` or ``xcom.value (dag_id=…)``.
    """

    place: str
    secret: str
    form: str

    def __str__(self) -> str:
        return f"{self.place}: {self.secret} ({self.form})"


class Search:
    """A search for all forms of all secrets at once: about a second for ten megabytes.

    :param secrets: those shorter than four characters are left out.
    :param fernet_keys: open what Airflow has encrypted in its database, which is searched then.
    """

    def __init__(self, secrets: Iterable[Secret], fernet_keys: Collection[str] = ()) -> None:
        self._needles: dict[bytes, tuple[str, str]] = {}
        for secret in secrets:
            if len(secret.value) >= SHORTEST:
                for needle, form in forms(secret.value, secret.user).items():
                    self._needles.setdefault(needle, (secret.name, form))
        self._by_prefix: dict[bytes, list[bytes]] = {}
        for needle in self._needles:
            self._by_prefix.setdefault(needle[:_PREFIX], []).append(needle)
        self._pattern = re.compile(b"(?=(" + _alternatives(set(self._by_prefix)) + b"))", re.DOTALL)
        self._fernets = [Fernet(key) for key in fernet_keys]

    def hits(self, data: bytes) -> Iterator[tuple[int, str, str]]:
        """Yield where, which secret and in which form, for each that is in the data."""
        if not self._needles:
            return
        for match in self._pattern.finditer(data):
            start = match.start()
            for prefix in {match.group(1)[:length] for length in range(SHORTEST, _PREFIX + 1)}:
                for needle in self._by_prefix.get(prefix, ()):
                    if data.startswith(needle, start):
                        yield start, *self._needles[needle]

    def text(self, said: str, place: str) -> list[Finding]:
        """Return what is in a text."""
        return [Finding(place, name, form) for _, name, form in self.hits(said.encode(errors="replace"))]

    def files(self, folder: Path, but: Collection[Path] = (), told: Collection[Path] = ()) -> list[Finding]:
        """Return what is in the files of a folder, whatever they are; databases of SQLite also row by row.

        :param but: files that are the home of a credential: not looked into.
        :param told: output of ``astronomer.lab up``, whose connections are for the user.
        """
        found: list[Finding] = []
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and path not in but:
                content = path.read_bytes()
                content = _TOLD.sub(b"", content) if path in told else content
                found += self._file(content, str(path.relative_to(folder)))
                if content.startswith(_SQLITE):
                    found += self.database(f"sqlite:///file:{path}?mode=ro&uri=true", f"{path.name}: ")
        return found

    def database(self, where: str | Engine, called: str = "") -> list[Finding]:
        """Return what is in the rows of a database.

        :param where: a URL of SQLAlchemy's, or an engine.
        :param called: goes before the names of tables.
        """
        if isinstance(where, Engine):
            return list(self._tables(where, called))
        engine = create_engine(where, poolclass=NullPool)
        try:
            return list(self._tables(engine, called))
        finally:
            engine.dispose()

    def _file(self, content: bytes, place: str) -> Iterator[Finding]:
        for number, one in enumerate(self._readings(content)):
            for start, name, form in self.hits(one):
                line = one.count(b"\n", 0, start) + 1
                yield Finding(f"{place}:{line}" + (", unpacked" if number else ""), name, form)

    def _tables(self, engine: Engine, called: str) -> Iterator[Finding]:
        inspector = inspect(engine)
        with engine.connect() as connection:
            for table in inspector.get_table_names():
                keys = inspector.get_pk_constraint(table)["constrained_columns"]
                # Not of its columns: their types would not let a value through that does not fit.
                wanted: Select[Any] = select(literal_column("*")).select_from(named_table(table))
                rows = connection.execution_options(stream_results=True).execute(wanted)
                for row in rows.mappings():
                    yield from self._row(dict(row), keys, called + table)

    def _row(self, row: Mapping[str, Any], keys: Sequence[str], table: str) -> Iterator[Finding]:
        for column, value in row.items():
            for one in self._readings(_as_bytes(value)):
                for _, name, form in self.hits(one):
                    which = ", ".join(f"{key}={row[key]}" for key in keys if key != column)
                    shown = "…" if any(self.hits(which.encode())) else which
                    yield Finding(f"{table}.{column} ({shown})", name, form)

    def _readings(self, content: bytes) -> Iterator[bytes]:
        """A value as it is, and what is packed or encrypted in it."""
        yield content
        if content.startswith(_FERNET):
            for fernet in self._fernets:
                with suppress(InvalidToken):
                    yield from self._readings(fernet.decrypt(content))
        elif content.startswith(b"\x1f\x8b"):
            with suppress(OSError, EOFError, zlib.error):
                yield from self._readings(gzip.decompress(content))
        elif content.startswith(b"\x78"):
            with suppress(zlib.error):
                yield from self._readings(zlib.decompress(content))


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (dict, list)):  # a JSON column that the driver has read already
        value = json.dumps(value, default=str)
    return b"" if value is None else str(value).encode(errors="replace")


def _alternatives(words: set[bytes], depth: int = 0) -> bytes:
    """A pattern for any of the words that decides byte by byte, so that thousands of words cost no more than a few.

    Of two words that begin alike it takes the longer one; :meth:`Search.hits` looks for the shorter one itself.
    """
    following: dict[bytes, set[bytes]] = {}
    ends = False
    for word in words:
        if len(word) == depth:
            ends = True
        else:
            following.setdefault(word[depth : depth + 1], set()).add(word)
    parts = [re.escape(byte) + _alternatives(some, depth + 1) for byte, some in sorted(following.items())]
    if not parts:
        return b""
    joined = b"(?:" + b"|".join(parts) + b")" if len(parts) > 1 or ends else parts[0]
    return joined + (b"?" if ends else b"")
