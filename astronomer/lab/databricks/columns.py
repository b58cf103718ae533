"""The rows of a statement, in the types of Databricks and in the strings its API writes."""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["Column", "Result", "text_of"]

UTC = "Etc/UTC"
_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
}
_SIMPLE = {
    pa.bool_(): ("BOOLEAN", "BOOLEAN"),
    pa.int8(): ("BYTE", "TINYINT"),
    pa.int16(): ("SHORT", "SMALLINT"),
    pa.int32(): ("INT", "INT"),
    pa.int64(): ("LONG", "BIGINT"),
    pa.float32(): ("FLOAT", "FLOAT"),
    pa.float64(): ("DOUBLE", "DOUBLE"),
    pa.string(): ("STRING", "STRING"),
    pa.binary(): ("BINARY", "BINARY"),
    pa.date32(): ("DATE", "DATE"),
    pa.null(): ("NULL", "VOID"),
    pa.timestamp("us", UTC): ("TIMESTAMP", "TIMESTAMP"),
    pa.timestamp("us"): ("TIMESTAMP", "TIMESTAMP_NTZ"),
}


@dataclass(frozen=True)
class Column:
    """One column.

    :param type_name: the API's name of its type, such as ``LONG``.
    :param type_text: the SQL type, such as ``BIGINT`` or ``ARRAY<INT>``.
    """

    name: str
    kind: pa.DataType
    type_name: str
    type_text: str
    precision: int | None = None
    scale: int | None = None

    @classmethod
    def of(cls, field: pa.Field) -> Column:
        """Return the description of an Arrow column."""
        kind = field.type
        name, text = _names(kind)
        if pa.types.is_decimal(kind):
            return cls(field.name, kind, name, text, kind.precision, kind.scale)
        return cls(field.name, kind, name, text)

    def described(self, position: int) -> dict[str, Any]:
        """Return the column as the manifest of a result describes it."""
        body: dict[str, Any] = {"name": self.name, "position": position}
        body |= {"type_name": self.type_name, "type_text": self.type_text}
        if self.precision is not None:
            body |= {"type_precision": self.precision, "type_scale": self.scale}
        return body


@dataclass(frozen=True)
class Result:
    """What a statement returned.

    :param affected: how many rows it changed, for statements that change rows.
    """

    table: pa.Table
    columns: tuple[Column, ...]
    affected: int | None = None

    @classmethod
    def of(cls, table: pa.Table, duck_types: Sequence[str] = (), affected: int | None = None) -> Result:
        """Return a result with every column in a type that Databricks has.

        :param duck_types: the columns' types in DuckDB, where they are known.
        """
        for position, column in enumerate(table.columns):
            whole = position < len(duck_types) and duck_types[position] == "HUGEINT"
            name = table.schema.field(position).name
            table = table.set_column(position, name, _fitting(column, whole=whole))
        return cls(table, tuple(Column.of(field) for field in table.schema), affected)

    @classmethod
    def rows(cls, schema: Sequence[tuple[str, pa.DataType]], rows: Iterable[Sequence[Any]] = ()) -> Result:
        """Return a result built from Python rows."""
        fields = pa.schema(list(schema))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]
        return cls.of(pa.Table.from_arrays(arrays, schema=fields))

    @classmethod
    def nothing(cls) -> Result:
        """Return the result of a statement that only has an effect."""
        return cls(pa.table({}), ())

    def strings(self, start: int, count: int) -> list[list[str | None]]:
        """Return rows with every value as the string the API writes."""
        part = self.table.slice(start, count)
        columns = [
            [text_of(value, c.kind) for value in values.to_pylist()]
            for values, c in zip(part.columns, self.columns, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]


def _names(kind: pa.DataType) -> tuple[str, str]:
    if found := _SIMPLE.get(kind):
        return found
    if pa.types.is_decimal(kind):
        return "DECIMAL", f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_map(kind):
        return "MAP", f"MAP<{_names(kind.key_type)[1]}, {_names(kind.item_type)[1]}>"
    if pa.types.is_list(kind):
        return "ARRAY", f"ARRAY<{_names(kind.value_type)[1]}>"
    if pa.types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        return "STRUCT", f"STRUCT<{', '.join(f'{field.name}: {_names(field.type)[1]}' for field in fields)}>"
    return "STRING", "STRING"


def _fitting(column: pa.ChunkedArray, *, whole: bool) -> pa.ChunkedArray:
    """Return the column in a type that Databricks has."""
    kind = column.type
    if whole:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column
    if kind in _WIDER:
        return column.cast(_WIDER[kind])
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", UTC if kind.tz else None), safe=False)
    if pa.types.is_nested(kind) or pa.types.is_decimal(kind) or kind in _SIMPLE:
        return column
    return pa.chunked_array([pa.array([_plain(value) for value in column.to_pylist()], pa.string())])


def _plain(value: Any) -> str | None:
    """Return the text of a value whose type has no counterpart: a time, an interval, an enumeration."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):  # months, days, nanoseconds
        months, days, nanoseconds = value
        if months:
            return f"{months // 12}-{months % 12}"
        seconds = nanoseconds // 1_000_000_000
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return f"{days} {clock}.{nanoseconds % 1_000_000_000:09d}"
    return str(value)


def text_of(value: Any, kind: pa.DataType) -> str | None:
    """Return one value as the API writes it in JSON and CSV."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _double(_shortest(value) if pa.types.is_float32(kind) else value)
    if isinstance(value, dt.datetime):
        moment = value.replace(tzinfo=None).isoformat(
            timespec="milliseconds" if value.microsecond % 1000 == 0 else "microseconds"
        )
        return f"{moment}Z" if value.tzinfo else moment
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (list, dict)):
        return json.dumps(_nested(value, kind), separators=(",", ":"), ensure_ascii=False)
    return str(value)


def _nested(value: Any, kind: pa.DataType) -> Any:
    """Return a value inside an array, map or struct: scalars are strings there too."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {str(text_of(key, kind.key_type)): _nested(item, kind.item_type) for key, item in value}
    if pa.types.is_list(kind):
        return [_nested(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {name: _nested(item, kind.field(name).type) for name, item in value.items()}
    return text_of(value, kind)


def _shortest(value: float) -> float:
    for digits in range(6, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.unpack("f", struct.pack("f", candidate))[0] == value:
            return candidate
    return value


def _double(value: float) -> str:
    """Return a number as Java writes it."""
    if value != value:  # noqa: PLR0124 - only NaN differs from itself
        return "NaN"
    if value in {float("inf"), float("-inf")}:
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    mantissa, _, exponent = f"{Decimal(repr(value)):E}".partition("E")
    digits = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{digits if '.' in digits else digits + '.0'}E{int(exponent)}"
