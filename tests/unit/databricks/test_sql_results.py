"""Rows and descriptions are what databricks-sql-connector makes of the same result."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from databricks.sql.backend.sea.backend import SeaDatabricksClient
from databricks.sql.result_set import ResultSet
from databricks.sql.types import Row

from astronomer.providers.databricks.sql.results import Manifest, StatementCursor

UTC = "Etc/UTC"
AT = dt.datetime(2024, 1, 1, 10, 0, 0, 123456)  # noqa: DTZ001  # a TIMESTAMP_NTZ has no zone
COLUMNS = {
    "tiny": (pa.int8(), [1, None, -128], "BYTE"),
    "small": (pa.int16(), [1, None, 3], "SHORT"),
    "whole": (pa.int32(), [1, None, 3], "INT"),
    "big": (pa.int64(), [2**60 + 1, None, 3], "LONG"),
    "single": (pa.float32(), [1.5, None, float("nan")], "FLOAT"),
    "double": (pa.float64(), [0.1, None, 3.0], "DOUBLE"),
    "yes": (pa.bool_(), [True, None, False], "BOOLEAN"),
    "text": (pa.string(), ["ü'\n", None, ""], "STRING"),
    "raw": (pa.binary(), [b"\x00\xff", None, b""], "BINARY"),
    "day": (pa.date32(), [dt.date(2024, 2, 29), None, dt.date(1, 1, 1)], "DATE"),
    "at": (pa.timestamp("us", UTC), [AT, None, AT], "TIMESTAMP"),
    "local": (pa.timestamp("us"), [AT, None, AT], "TIMESTAMP"),
    "exact": (pa.decimal128(10, 2), [Decimal("1.50"), None, Decimal("-0.25")], "DECIMAL"),
    "nothing": (pa.null(), [None, None, None], "NULL"),
    "list": (pa.list_(pa.int32()), [[1, 2], None, []], "ARRAY"),
    "fields": (pa.struct({"a": pa.int32(), "b": pa.string()}), [{"a": 1, "b": "x"}, None, {"a": None, "b": None}], "STRUCT"),
    "map": (pa.map_(pa.string(), pa.int32()), [[("k", 1)], None, []], "MAP"),
}  # fmt: skip


def columns_of(names=COLUMNS):
    described = [
        {"name": name, "position": place, "type_name": COLUMNS[name][2]} for place, name in enumerate(names)
    ]
    for one in described:
        if one["type_name"] == "DECIMAL":
            one |= {"type_precision": 10, "type_scale": 2}
    return described


def table_of(names=COLUMNS):
    return pa.table({name: pa.array(COLUMNS[name][1], COLUMNS[name][0]) for name in names})


def answer(columns, *tables):
    manifest = {
        "schema": {"columns": columns},
        "total_chunk_count": len(tables),
        "total_row_count": sum(table.num_rows for table in tables),
    }
    return {"status": {"state": "SUCCEEDED"}, "manifest": manifest}


def cursor(columns, *tables):
    asked = []

    def fetch(first, last):
        asked.extend(range(first, last))
        return list(tables[first:last])

    found = StatementCursor("id", Manifest(answer(columns, *tables)), fetch)
    found.asked = asked
    return found


def connectors_rows(table, description):
    connection = SimpleNamespace(disable_pandas=False)
    return ResultSet._convert_arrow_table(
        SimpleNamespace(description=description, connection=connection), table
    )


def same(one, other):
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and list(one) == list(other)
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def test_rows():
    ours, table = cursor(columns_of(), table_of()), table_of()
    rows = ours.fetchall()
    theirs = connectors_rows(table, ours.description)
    assert len(rows) == len(theirs) == 3
    for mine, his in zip(rows, theirs, strict=True):
        assert isinstance(mine, Row)
        assert list(mine.__fields__) == list(his.__fields__) == list(COLUMNS)
        for name, one, other in zip(COLUMNS, mine, his, strict=True):
            assert same(one, other), f"{name}: {one!r} and {other!r}"


def test_description():
    columns = [
        *columns_of(),
        {"name": "gap", "type_name": "INTERVAL", "type_interval_type": "YEAR TO MONTH"},
        {"name": "span", "type_name": "INTERVAL", "type_interval_type": "DAY TO SECOND"},
        {"name": "shape", "type_name": "USER_DEFINED_TYPE"},
    ]
    manifest = SimpleNamespace(schema={"columns": columns})
    theirs = SeaDatabricksClient._extract_description_from_manifest(None, manifest)
    assert Manifest(answer(columns)).description == theirs
    assert theirs[-2][1] == "interval_day_time"


def test_decimals_that_come_as_text():
    from astronomer.providers.databricks.sql.results import _typed

    text = pa.table({"exact": pa.array(["1.50", None, "-0.25"])})
    assert _typed(text, Manifest(answer(columns_of(["exact"]))).description).equals(table_of(["exact"]))


class TestCursor:
    parts = tuple(table_of(["whole"]) for _ in range(3))

    def cursor(self):
        return cursor(columns_of(["whole"]), *self.parts)

    def test_fetches_only_the_parts_that_are_asked_for(self):
        ours = self.cursor()
        assert ours.asked == []
        assert ours.fetchone() == (1,)
        assert ours.asked == [0]
        assert ours.fetchmany(3) == [(None,), (3,), (1,)]
        assert ours.asked == [0, 1]
        assert ours.rownumber == 4
        assert len(ours.fetchall()) == 5
        assert ours.asked == [0, 1, 2]
        assert ours.fetchall() == []
        assert ours.fetchone() is None

    def test_iterates(self):
        assert [row.whole for row in self.cursor()] == [1, None, 3] * 3

    def test_gives_arrow(self):
        ours = self.cursor()
        assert ours.fetchmany_arrow(2).column(0).to_pylist() == [1, None]
        assert ours.fetchall_arrow().num_rows == 7

    def test_is_empty(self):
        for empty in (cursor(columns_of(["whole"])), cursor([])):
            assert empty.fetchall() == []
            assert empty.fetchone() is None
            assert list(empty) == []
            assert empty.rowcount == -1
        assert cursor([]).description == []

    def test_ends(self):
        with self.cursor() as ours:
            ours.fetchone()
        assert ours.fetchall() == []
        assert ours.asked == [0]

    def test_refuses_a_negative_size(self):
        with pytest.raises(ValueError, match="must be >= 0"):
            self.cursor().fetchmany(-1)

    def test_counts_the_rows_of_a_change(self):
        change = pa.table({"num_affected_rows": pa.array([3], pa.int64())})
        column = {"name": "num_affected_rows", "type_name": "LONG"}
        ours = cursor([column], change)
        assert ours.rowcount == 3
        assert ours.fetchall() == [(3,)]
        assert self.cursor().rowcount == -1

    def test_keeps_columns_of_one_name_apart(self):
        twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
        columns = [{"name": "a", "type_name": "LONG"}] * 2
        assert cursor(columns, twice, twice).fetchall() == [(1, 2), (1, 2)]
