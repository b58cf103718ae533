"""The result of a statement, fetched part by part, as the rows and the cursor that databricks-sql-connector gives.

Source: docs.databricks.com/api/workspace/statementexecution/getstatement and .../getstatementresultchunkn; the types
of values and columns are those of the connector's Thrift results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import pyarrow as pa
from databricks.sql.types import Row

from astronomer.deferral.patience import insist
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.statement import STATEMENTS, open_client

if TYPE_CHECKING:
    from astronomer.deferral.in_triggerer import InTriggerer
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["Manifest", "ResultGone", "ResultReader", "StatementCursor", "reader"]

_AT_ONCE = 4
_STORAGE_TOLERANCE = 300.0
_OLD_NAMES = {"BYTE": "tinyint", "SHORT": "smallint", "LONG": "bigint", "USER_DEFINED_TYPE": "user_defined"}
_COUNTS_ROWS = "num_affected_rows"
# Types that have no NULL otherwise, so that a column's type does not depend on its rows.
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}


class ResultGone(Exception):
    """The statement succeeded, but its result is no longer there."""


class Manifest:
    """What an answer about a succeeded statement says of its result.

    :ivar description: the columns, as the connector's cursor describes them.
    :ivar chunks: how many parts there are.
    :ivar links: the links that the answer held, by part; each is good for some minutes.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        found = answer.get("manifest") or {}
        columns = (found.get("schema") or {}).get("columns") or []
        self.description = [_described(column) for column in columns]
        self.rows = int(found.get("total_row_count") or 0)
        self.bytes = int(found.get("total_byte_count") or 0)
        self.truncated = bool(found.get("truncated"))
        self.chunks = int(found.get("total_chunk_count") or 0) if self.rows else 0
        links = (answer.get("result") or {}).get("external_links") or []
        self.links = {int(link.get("chunk_index") or 0): link for link in links}


def _described(column: Mapping[str, Any]) -> tuple[Any, ...]:
    name = str(column.get("type_name") or "")
    kind = _OLD_NAMES.get(name, name.lower())
    if kind == "interval":
        unit = str(column.get("type_interval_type") or "").upper()
        kind = "interval_year_month" if "YEAR" in unit or "MONTH" in unit else "interval_day_time"
    size = (column.get("type_precision"), column.get("type_scale")) if kind == "decimal" else (None, None)
    return (str(column.get("name") or ""), kind, None, None, *size, None)


class ResultReader:
    """Fetches results over one client, in an event loop that is not this thread's.

    :param run: runs a coroutine there.
    :param tolerance: seconds for which bad weather is waited out.
    :param limit: told the bytes of each result before it is fetched.
    """

    def __init__(
        self,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        client: DatabricksClient,
        tolerance: float,
        limit: Callable[[int, str], None] | None = None,
    ) -> None:
        self._run = run
        self._client = client
        self._tolerance = tolerance
        self._limit = limit

    def cursor(self, statement_id: str) -> StatementCursor:
        """A cursor on the result of a statement that has succeeded.

        :raises ResultGone: Databricks no longer has it.
        :raises Transient: Databricks could not be asked.
        """
        answer = self._run(self._get(f"{STATEMENTS}/{statement_id}"))
        if (answer.get("status") or {}).get("state") != "SUCCEEDED" or "manifest" not in answer:
            raise ResultGone("the statement is closed")
        manifest = Manifest(answer)
        if self._limit is not None:
            self._limit(manifest.bytes, f"the result of {statement_id}")
        return StatementCursor(
            statement_id,
            manifest,
            lambda first, last: self._run(self._chunks(statement_id, manifest, first, last)),
        )

    async def _chunks(self, statement_id: str, manifest: Manifest, first: int, last: int) -> list[pa.Table]:
        """The parts from ``first`` up to ``last``, without that, in order."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int) -> pa.Table:
            async with gate:
                return await self._chunk(statement_id, manifest, index)

        parts = [asyncio.ensure_future(one(index)) for index in range(first, last)]
        try:
            return list(await asyncio.gather(*parts))
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _chunk(self, statement_id: str, manifest: Manifest, index: int) -> pa.Table:
        link = manifest.links.pop(index, None)
        if link is not None:
            try:
                return await self._download(link, manifest)
            except RequestRejected:
                pass  # the link came with the answer, and has expired since
        answer = await self._get(f"{STATEMENTS}/{statement_id}/result/chunks/{index}")
        for link in answer.get("external_links") or []:
            if link.get("chunk_index") == index:
                try:
                    return await self._download(link, manifest)
                except RequestRejected as refused:
                    raise ResultGone(str(refused)) from refused
        raise ResultGone(f"part {index} of the result has no link")

    async def _download(self, link: Mapping[str, Any], manifest: Manifest) -> pa.Table:
        url, headers = str(link["external_link"]), link.get("http_headers") or {}
        # A storage that is never in reach is behind a firewall, and not in bad weather.
        tolerance = min(self._tolerance, _STORAGE_TOLERANCE)
        content = await insist(lambda: self._client.fetch(url, headers), tolerance=tolerance)
        return _typed(pa.ipc.open_stream(content).read_all(), manifest.description)

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            return await insist(lambda: self._client.get(path), tolerance=self._tolerance)
        except RequestRejected as refused:
            raise ResultGone(str(refused)) from refused


@contextmanager
def reader(conn_id: str, tolerance: float, in_triggerer: InTriggerer | None = None) -> Iterator[ResultReader]:
    """A reader over the connection, for the block.

    :param in_triggerer: whose loop, and client, are used where there is no worker.
    """
    if in_triggerer is not None:

        def run(call: Coroutine[Any, Any, Any]) -> Any:
            return in_triggerer.run(lambda: call)

        client = run(open_client(conn_id, in_triggerer))
        try:
            yield ResultReader(run, client, tolerance, in_triggerer.no_more_than)
        finally:
            run(client.close())
        return
    loop = asyncio.new_event_loop()
    try:
        client = loop.run_until_complete(open_client(conn_id))
        try:
            yield ResultReader(loop.run_until_complete, client, tolerance)
        finally:
            loop.run_until_complete(client.close())
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _typed(table: pa.Table, description: Sequence[Sequence[Any]]) -> pa.Table:
    """The table with its decimals as such: they may come as text."""
    for place, column in enumerate(description):
        if column[1] == "decimal" and not pa.types.is_decimal(table.schema.field(place).type):
            values = table.column(place).cast(pa.decimal128(column[4], column[5]))
            table = table.set_column(place, table.schema.field(place).name, values)
    return table


class StatementCursor:
    """Reads a result as the connector's cursor does; parts are fetched when their rows are asked for.

    :ivar query_id: the statement's id.
    :ivar description: of the columns.
    :ivar truncated: whether Databricks has cut the result off, at 100 GiB.
    """

    arraysize = 100_000

    def __init__(
        self, query_id: str, manifest: Manifest, fetch: Callable[[int, int], list[pa.Table]]
    ) -> None:
        self.query_id = query_id
        self.description = manifest.description
        self.truncated = manifest.truncated
        self.rownumber = 0
        self._fetch = fetch
        self._chunks = manifest.chunks
        self._next = 0
        self._waiting: pa.Table | None = None

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def __enter__(self) -> StatementCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def rowcount(self) -> int:
        """How many rows a change has affected; -1 for a query."""
        if not self.description or self.description[0][0] != _COUNTS_ROWS or self.rownumber:
            return -1
        self._gather(1)
        if self._waiting is None or not self._waiting.num_rows:
            return -1
        return int(self._waiting.column(0)[0].as_py() or 0)

    def fetchone(self) -> Any:
        """The next row, or ``None``."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int) -> list[Any]:
        """The next ``size`` rows, or those that are left."""
        return self._rows(self.fetchmany_arrow(size))

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return self._rows(self.fetchall_arrow())

    def fetchmany_arrow(self, size: int) -> pa.Table:
        """The next ``size`` rows as an Arrow table."""
        if size < 0:
            raise ValueError(f"size argument for fetchmany is {size} but must be >= 0")
        self._gather(size)
        return self._take(size)

    def fetchall_arrow(self) -> pa.Table:
        """The rows that are left as an Arrow table."""
        self._keep(self._fetch(self._next, self._chunks))
        self._next = self._chunks
        return self._take(None)

    def close(self) -> None:
        """Give the rows up."""
        self._waiting, self._next = None, self._chunks

    def _gather(self, size: int) -> None:
        """Have at least ``size`` rows waiting, where there are so many."""
        while self._next < self._chunks and (self._waiting is None or self._waiting.num_rows < size):
            self._keep(self._fetch(self._next, self._next + 1))
            self._next += 1

    def _keep(self, tables: list[pa.Table]) -> None:
        if tables:
            kept = [] if self._waiting is None else [self._waiting]
            self._waiting = pa.concat_tables([*kept, *tables])

    def _take(self, size: int | None) -> pa.Table:
        if self._waiting is None:
            return pa.table(
                [pa.array([], pa.null())] * len(self.description), [one[0] for one in self.description]
            )
        taken = self._waiting.slice(0, size)
        self._waiting = self._waiting.slice(taken.num_rows)
        self.rownumber += taken.num_rows
        return taken

    def _rows(self, table: pa.Table) -> list[Any]:
        if not table.num_rows:
            return []
        row = Row(*(str(column[0]) for column in self.description))
        frame = table.rename_columns([str(place) for place in range(table.num_columns)]).to_pandas(
            types_mapper=_NULLABLE.get, date_as_object=True, timestamp_as_object=True
        )
        return [row(*values) for values in frame.to_numpy(na_value=None, dtype="object")]
