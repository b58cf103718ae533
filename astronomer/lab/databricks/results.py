"""The result of a statement on the wire: its manifest, its chunks, inline or behind links that expire."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import hashlib
import hmac
import io
import json
import secrets
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from astronomer.lab.databricks.columns import Result
from astronomer.lab.databricks.errors import ApiError

if TYPE_CHECKING:
    from astronomer.lab.databricks.sql import SqlEngine
    from astronomer.lab.databricks.sql_statement import Statement

__all__ = ["STORAGE", "Results", "routes"]

STORAGE = "/lab-storage"
"""The path of the cloud storage that external links lead to."""

EXTERNAL, HYBRID = "EXTERNAL_LINKS", "INLINE_OR_EXTERNAL_LINKS"
_SIGNING_KEY = secrets.token_bytes(16)
_TYPES = {
    "JSON_ARRAY": "application/json",
    "ARROW_STREAM": "application/vnd.apache.arrow.stream",
    "CSV": "text/csv",
}


class Results:
    """The result of one statement that succeeded."""

    def __init__(self, engine: SqlEngine, statement: Statement, result: Result) -> None:
        self._engine = engine
        self._statement = statement
        self._result = result
        self._format: str = statement.shape["format"]
        self._disposition: str = statement.shape["disposition"]
        self._size = engine.rows_per_chunk
        self.chunks = -(-result.table.num_rows // self._size)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest."""
        columns = [column.described(position) for position, column in enumerate(self._result.columns)]
        body: dict[str, Any] = {
            "format": self._format,
            "schema": {"column_count": len(columns), "columns": columns} if columns else {"column_count": 0},
            "total_chunk_count": self.chunks,
            "total_row_count": self._result.table.num_rows,
            "truncated": self._statement.truncated,
        }
        if self.chunks:
            body["chunks"] = [self._described(number) for number in range(self.chunks)]
        if self._disposition != "INLINE":
            body["total_byte_count"] = self._result.table.nbytes
        if compression := self._statement.shape.get("result_compression"):
            body["result_compression"] = compression
        return body

    def chunk(self, number: int) -> dict[str, Any]:
        """Return one chunk, or the link to it.

        :raises ApiError: there is no such chunk.
        """
        if number == 0 and not self.chunks:
            return {}
        if not 0 <= number < self.chunks:
            message = f"Chunk index {number} is out of range: the result has {self.chunks} chunks."
            raise ApiError(400, "INVALID_PARAMETER_VALUE", message)
        described = {**self._described(number), **self._next(number)}
        if self._disposition == HYBRID and self.chunks == 1 and self._format == "ARROW_STREAM":
            return {**described, "attachment": base64.b64encode(self.content(number)).decode()}
        if self._disposition in {EXTERNAL, HYBRID}:
            return {"external_links": [{**described, **self._link(number)}]}
        return {**described, "data_array": self._result.strings(number * self._size, self._size)}

    def content(self, number: int) -> bytes:
        """Return what is stored behind the link to a chunk."""
        if self._format == "ARROW_STREAM":
            return self._compressed(_arrow(self._part(number)))
        rows = self._result.strings(number * self._size, self._size)
        if self._format == "CSV":
            header = [[column.name for column in self._result.columns]] if number == 0 else []
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(
                [["null" if value is None else value for value in row] for row in header + rows]
            )
            return text.getvalue().encode()
        return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()

    def _part(self, number: int) -> pa.Table:
        return self._result.table.slice(number * self._size, self._size)

    def _described(self, number: int) -> dict[str, Any]:
        part = self._part(number)
        body = {"chunk_index": number, "row_offset": number * self._size, "row_count": part.num_rows}
        return body if self._disposition == "INLINE" else {**body, "byte_count": part.nbytes}

    def _next(self, number: int) -> dict[str, Any]:
        if number + 1 >= self.chunks:
            return {}
        path = f"/api/2.0/sql/statements/{self._statement.id}/result/chunks/{number + 1}"
        return {
            "next_chunk_index": number + 1,
            "next_chunk_internal_link": f"{path}?row_offset={(number + 1) * self._size}",
        }

    def _link(self, number: int) -> dict[str, Any]:
        ends = self._engine.clock.now() + self._engine.link_seconds
        signature = _signature(self._statement.id, number, int(ends))
        self._engine.issued.note("signature of a storage link", signature)
        url = f"{self._engine.origin()}{STORAGE}/{self._statement.id}/{number}?Expires={int(ends)}&Signature={signature}"
        moment = dt.datetime.fromtimestamp(int(ends), dt.timezone.utc)
        return {
            "external_link": url,
            "expiration": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def _compressed(self, content: bytes) -> bytes:
        if self._statement.shape.get("result_compression") != "LZ4_FRAME":
            return content
        compressed: bytes = import_module("lz4.frame").compress(content)
        return compressed


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _signature(statement_id: str, number: int, expires: int) -> str:
    text = f"{statement_id}/{number}/{expires}".encode()
    return hmac.new(_SIGNING_KEY, text, hashlib.sha256).hexdigest()[:40]


def routes(engine: SqlEngine) -> list[Route]:
    """Return the cloud storage: it knows links, not credentials."""

    async def fetch(request: Request) -> Response:
        return _fetch(engine, request)

    return [Route(STORAGE + "/{id}/{number:int}", fetch, methods=["GET"])]


def _fetch(engine: SqlEngine, request: Request) -> Response:
    if request.headers.get("authorization"):
        return _refusal(
            400, "InvalidArgument", "Only one auth mechanism allowed; Authorization header was sent."
        )
    statement_id, number = request.path_params["id"], request.path_params["number"]
    expires = request.query_params.get("Expires", "")
    given = request.query_params.get("Signature", "")
    if not expires.isdigit() or not hmac.compare_digest(
        given, _signature(statement_id, number, int(expires))
    ):
        return _refusal(403, "SignatureDoesNotMatch", "The request signature does not match.")
    if engine.clock.now() >= int(expires):
        return _refusal(403, "AccessDenied", "Request has expired")
    statement = engine.statements.get(statement_id)
    if statement is None or statement.result is None:
        return _refusal(404, "NoSuchKey", "The specified key does not exist.")
    results = Results(engine, statement, statement.result)
    return Response(results.content(number), media_type=_TYPES[statement.shape["format"]])


def _refusal(status: int, code: str, message: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(body, status, media_type="application/xml")
