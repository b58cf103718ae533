"""What a statement returned, and its two wire forms: the session API's and the SQL API's."""

from __future__ import annotations

import datetime as dt
import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
from fakesnow import statement_type
from fakesnow.arrow import to_sf
from fakesnow.rowtype import describe_as_rowtype

__all__ = ["MULTI_STATEMENT", "STATUS_ONLY", "Result"]

MULTI_STATEMENT = 0xA000
STATUS_ONLY = "Statement executed successfully."

_DUCK_TYPES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_integer, "BIGINT"),
    (pa.types.is_floating, "DOUBLE"),
    (pa.types.is_timestamp, "TIMESTAMP WITH TIME ZONE"),
    (pa.types.is_string, "VARCHAR"),
)
_EPOCH = dt.date(1970, 1, 1)


@dataclass
class Result:
    """Rows and their types.

    :param rowtype: one description per column, as the session API sends it.
    :param type_id: Snowflake's statementTypeId.
    :param total: rows in the result, or rows affected for a batch.
    :param data: the whole ``data`` of the answer instead, for PUT.
    """

    table: pa.Table
    rowtype: list[dict[str, Any]]
    type_id: int = statement_type.UNKNOWN
    total: int = 0
    children: list[tuple[str, int]] = field(default_factory=list)
    data: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, columns: Sequence[tuple[str, pa.DataType]], rows: Iterable[Sequence[Any]], type_id: int = 0
    ) -> Result:
        """Return a result built from Python rows."""
        schema = pa.schema(list(columns))
        listed = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
        arrays = [pa.array(values, type=kind) for values, (_, kind) in zip(listed, columns, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=schema)
        described = [(name, _duck_type(kind), None, None, None, None) for name, kind in columns]
        return cls(table, describe_as_rowtype(described), type_id, table.num_rows)  # type: ignore[arg-type]

    @classmethod
    def status(cls, text: str = STATUS_ONLY, type_id: int = 0, column: str = "status") -> Result:
        """Return the one-row result of a statement that only says how it went."""
        return cls.of([(column, pa.string())], [(text,)], type_id)

    def session_data(self, query_id: str, final: dict[str, Any]) -> dict[str, Any]:
        """Return the ``data`` of the session API's answer."""
        if self.data is not None:
            return {**self.data, "queryId": query_id}
        data: dict[str, Any] = {
            "parameters": [{"name": "TIMEZONE", "value": "Etc/UTC"}],
            "rowtype": self.rowtype,
            "total": self.total,
            "returned": self.table.num_rows,
            "queryId": query_id,
            "statementTypeId": self.type_id,
            "sqlState": "00000",
            **final,
            **self._rows(),
        }
        if self.children:
            data["resultIds"] = ",".join(child for child, _ in self.children)
            data["resultTypes"] = ",".join(str(type_id) for _, type_id in self.children)
        return data

    def _rows(self) -> dict[str, Any]:
        # Clients read affected row counts and the multi-statement marker from JSON rows only.
        if self.type_id in statement_type.DML_TYPE_IDS or self.type_id == MULTI_STATEMENT:
            rows = zip(*[column.to_pylist() for column in self.table.columns], strict=True)
            rowset = [[None if value is None else str(value) for value in row] for row in rows]
            return {"queryResultFormat": "json", "rowset": rowset}
        if self.table.num_columns == 0:
            return {"queryResultFormat": "arrow", "rowsetBase64": ""}
        wire = _keep_nulls(self.table, to_sf(self.table, self.rowtype))  # type: ignore[arg-type]
        return {"queryResultFormat": "arrow", "rowsetBase64": b64encode(_stream(wire)).decode()}

    def metadata(self, partition_rows: int) -> dict[str, Any]:
        """Return the SQL API's ``resultSetMetaData``."""
        rows = self.table.num_rows
        counts = [min(partition_rows, rows - start) for start in range(0, rows, partition_rows)] or [0]
        return {
            "numRows": rows,
            "format": "jsonv2",
            "partitionInfo": [{"rowCount": count, "uncompressedSize": count * 100} for count in counts],
            "rowType": self.rowtype,
        }

    def partition(self, number: int, partition_rows: int, *, nullable: bool) -> list[list[str | None]]:
        """Return one partition of the rows, every value as the string the SQL API sends."""
        part = self.table.slice(number * partition_rows, partition_rows)
        kinds = [column["type"] for column in self.rowtype]
        columns = [
            [text(value, kind, nullable=nullable) for value in column.to_pylist()]
            for column, kind in zip(part.columns, kinds, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _keep_nulls(table: pa.Table, wire: pa.Table) -> pa.Table:
    """Return ``wire`` with the NULL timestamps that fakesnow turns into the epoch."""
    for position, (before, after) in enumerate(zip(table.columns, wire.columns, strict=True)):
        if not (pa.types.is_struct(after.type) and before.null_count):
            continue
        whole = after.combine_chunks() if isinstance(after, pa.ChunkedArray) else after
        whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
        parts = [whole.field(number).fill_null(0) for number in range(whole.type.num_fields)]
        mask = before.combine_chunks().is_null()
        mask = mask.chunk(0) if isinstance(mask, pa.ChunkedArray) else mask
        masked = pa.StructArray.from_arrays(parts, fields=list(whole.type), mask=mask)
        wire = wire.set_column(position, wire.schema.field(position), masked)
    return wire


def _duck_type(kind: pa.DataType) -> str:
    return next(name for matches, name in _DUCK_TYPES if matches(kind))


def text(value: Any, kind: str, *, nullable: bool = True) -> str | None:
    """Return one value as the SQL API's ``jsonv2`` writes it: always a string, or null.

    Source: docs.snowflake.com/en/developer-guide/sql-api/handling-responses, "Getting the data from the results".
    """
    if value is None:
        return None if nullable else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return _instant(value, with_zone=kind == "timestamp_tz")
    if isinstance(value, dt.date):
        return str((value - _EPOCH).days)
    if isinstance(value, dt.time):
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        return f"{seconds}.{value.microsecond * 1000:09d}"
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, Decimal):
        return format(value, "f")
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _instant(value: dt.datetime, *, with_zone: bool) -> str:
    aware = value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)
    since = aware - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    seconds = since.days * 86400 + since.seconds
    whole = f"{seconds}.{since.microseconds * 1000:09d}"
    offset = aware.utcoffset() or dt.timedelta(0)
    return f"{whole} {1440 + int(offset.total_seconds() // 60)}" if with_zone else whole
