"""What a task returns is what the stock operator returns over the connector, row for row and type for type."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from airflow.exceptions import AirflowException
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator as StockSqlOperator
from airflow.sdk import DAG
from databricks.sql.parameters.native import StringParameter

from astronomer.providers.databricks.operators.databricks_sql import (
    DatabricksSqlOperator,
    DatabricksSqlOperatorAsync,
)
from tests.integration.driving import Task, as_xcom

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

TYPES = """
select cast(1 as tinyint) as tiny, cast(2 as smallint) as small, 3 as whole, cast(4 as bigint) as big,
  cast(1.5 as float) as single, cast(0.1 as double) as double, cast('NaN' as double) as odd,
  cast(1.50 as decimal(10, 2)) as exact, cast(-0.25 as decimal(5, 2)) as negative, 'ü\\'"' as text, '' as empty,
  date'2024-02-29' as day, timestamp'2024-01-01 10:00:00.123456' as at, true as yes, false as no, null as nothing,
  cast(null as int) as no_number, cast(null as timestamp) as no_time, cast(null as boolean) as no_truth
"""
NESTED = "select array(1, 2) as list, named_struct('a', 1, 'b', 'x') as fields, map('k', 1) as pairs, 1 as n"
NUMBERS = "select n, concat('row ', n) as t from numbers order by n"


def columns_and_first(cursor: Any) -> Any:
    assert [column[0] for column in cursor.description] == ["n", "t"]
    return cursor.fetchmany(2)


def last_row(cursor: Any) -> Any:
    return list(cursor)[-1]


def with_headers(results: list[Any], descriptions: list[Any]) -> list[Any]:
    return [
        {"columns": [one[0] for one in found], "rows": rows}
        for rows, found in zip(results, descriptions, strict=True)
    ]


CASES: dict[str, dict[str, Any]] = {
    "types": {"sql": TYPES},
    "types of several": {"sql": f"select 1; {TYPES}", "return_last": False},
    "many rows": {"sql": "select id from range(3000) order by id"},
    "no rows": {"sql": "select * from numbers where n > 100"},
    "last of several": {"sql": f"select 1; {NUMBERS}"},
    "all of several": {"sql": f"select 1; {NUMBERS};\n\n", "return_last": False},
    "a list": {"sql": ["select 1", NUMBERS]},
    "a list of one": {"sql": [NUMBERS]},
    "split, all": {"sql": "select 1; select 2", "split_statements": True, "return_last": False},
    "not split": {"sql": f"{NUMBERS};", "split_statements": False},
    "not split, all": {"sql": NUMBERS, "split_statements": False, "return_last": False},
    "semicolons in strings": {"sql": "select 'a;b' as x; select \"c;d\" as y", "return_last": False},
    "comments": {"sql": "-- first; not\nselect 1 /* ; */ as a; select 2 -- ;", "return_last": False},
    "parameters by name": {"sql": "select :a as a, :b as b, :a as c", "parameters": {"a": 1, "b": "it's :a; -- \\"}},
    "parameters in the old way": {"sql": "select %(a)s as a", "parameters": {"a": 1.5}},
    "parameters of several": {"sql": "select :a as a; select :a + 1 as b", "parameters": {"a": 1}, "return_last": False},
    "parameters of all types": {
        "sql": "select :d as d, :day as day, :at as at, :yes as yes, :none as none",
        "parameters": {
            "d": Decimal("1.125"),
            "day": dt.date(2024, 2, 29),
            "at": dt.datetime(2024, 1, 1, 10, tzinfo=dt.timezone.utc),
            "yes": True,
            "none": None,
        },
    },
    "parameter objects": {"sql": "select :a as a", "parameters": [StringParameter("x", name="a")]},
    "templated": {"sql": "select '{{ params_of }}' as x, :y as y", "parameters": {"y": "{{ 40 + 2 }}"}},
    "a file": {"sql": "numbers.sql", "parameters": {"p": "x"}},
    "one row": {"sql": NUMBERS, "handler": fetch_one_handler},
    "one row of none": {"sql": "select 1 where 1 = 0", "handler": fetch_one_handler},
    "a handler of one's own": {"sql": NUMBERS, "handler": columns_and_first},
    "a handler that iterates": {"sql": ["select 1", NUMBERS], "handler": last_row},
    "no handler": {"sql": NUMBERS, "handler": None, "do_xcom_push": False},
    "nothing wanted": {"sql": f"select 1; {NUMBERS}", "do_xcom_push": False},
    "fetched but not wanted": {"sql": NUMBERS, "do_xcom_push": False, "requires_result_fetch": True},
    "insert": {"sql": "insert into numbers values (7), (8)"},
    "update none": {"sql": "update numbers set n = 9 where n = 100"},
    "changes": {
        "sql": "insert into numbers values (7); update numbers set n = n + 1; delete from numbers where n > 3; "
        "select count(*) as c from numbers",
        "return_last": False,
    },
    "ddl": {"sql": "create or replace table made (a int); drop table made", "return_last": False},
    "create as": {"sql": "create or replace table made as select 1 as a; select * from made"},
    "a schema": {"sql": "select n from numbers order by n", "catalog": "main", "schema": "side"},
    "a session": {"sql": "use schema side; select n from numbers order by n"},
    "parameters by position": {"sql": "select ? as a, ? as b", "parameters": [1, "x"]},
}  # fmt: skip
IN_THE_WORKER = {"a session", "parameters by position"}


@pytest.fixture(autouse=True)
def numbers(lab):
    lab.run_sql(
        "create schema if not exists main.side",
        "create or replace table numbers (n int)",
        "insert into numbers values (1), (2), (3)",
        "create or replace table main.side.numbers as select 42 as n",
    )


@pytest.fixture
def dag(tmp_path):
    (tmp_path / "numbers.sql").write_text(
        "select {{ 1 + 1 }} as two;\nselect :p as p from numbers where n = 1;\n"
    )
    macros = {"params_of": "a;b"}
    return lambda: DAG("dag", schedule=None, template_searchpath=str(tmp_path), user_defined_macros=macros)


def outcome(lab: Any, task: Task) -> dict[str, Any]:
    """Everything that a task leaves behind."""
    result = task.run()
    hook = task.op.get_db_hook()
    left = {
        "result": comparable(result),
        "types": typed(result),
        "xcom": comparable(as_xcom(result)),
        "queries": len(hook.query_ids),
        "descriptions": hook.descriptions,
        "numbers": lab.run_sql("select n from numbers order by n"),
    }
    lab.run_sql("create or replace table numbers (n int)", "insert into numbers values (1), (2), (3)")
    return left


def comparable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [comparable(one) for one in value]
    if isinstance(value, dict):
        return {key: comparable(one) for key, one in value.items()}
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def typed(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value).__name__, value._fields, [typed(one) for one in value]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(one) for one in value]
    zone = value.utcoffset() if isinstance(value, dt.datetime) else None
    return type(value), zone


def ours(kind: type[Any], path: str, **case: Any) -> Task:
    if case.get("sql") in [CASES[name]["sql"] for name in IN_THE_WORKER]:
        return Task(kind, databricks_conn_id="stock", **case)
    return Task(kind, http_path=path, **case)


@pytest.mark.parametrize("name", CASES)
def test_results(lab, stock, path, dag, name):
    case = CASES[name]
    expected = outcome(lab, Task(StockSqlOperator, databricks_conn_id=stock, dag=dag, **case))
    deferred = ours(DatabricksSqlOperatorAsync, path, dag=dag, **case)
    assert outcome(lab, deferred) == expected
    assert bool(deferred.events) is (name not in IN_THE_WORKER)


@pytest.mark.parametrize("name", ["types", "all of several", "changes"])
def test_results_in_the_worker(lab, stock, path, name):
    case = CASES[name]
    expected = outcome(lab, Task(StockSqlOperator, databricks_conn_id=stock, **case))
    assert outcome(lab, ours(DatabricksSqlOperator, path, deferrable=False, **case)) == expected


class TestNested:
    def test_rows_are_those_of_the_connector_in_a_handler(self, lab, stock, path):
        seen: list[Any] = []

        def note(cursor):
            seen.append((cursor.description, cursor.fetchall()))
            return []

        Task(StockSqlOperator, databricks_conn_id=stock, sql=NESTED, handler=note).run()
        Task(DatabricksSqlOperator, http_path=path, sql=NESTED, handler=note).run()
        (stock_description, (his,)), (description, (mine,)) = seen
        assert description == stock_description
        assert [type(one) for one in mine] == [type(one) for one in his]
        assert isinstance(mine.list, np.ndarray)
        assert list(mine.list) == list(his.list)
        assert mine[1:] == his[1:]

    def test_rows_can_be_xcoms(self, lab, path):
        description, (row,) = Task(DatabricksSqlOperator, http_path=path, sql=NESTED).run()
        assert (row.list, row.fields, row.pairs, row.n) == ([1, 2], {"a": 1, "b": "x"}, [("k", 1)], 1)
        assert as_xcom([description, list(row)])

    def test_bytes_cannot_and_say_so(self, lab, path):
        with pytest.raises(AirflowException, match=r"succeeded, but its output cannot become an XCom.*bytes"):
            Task(DatabricksSqlOperator, http_path=path, sql="select cast('a' as binary) as b").run()


class TestOutput:
    @pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
    @pytest.mark.parametrize("push", [True, False])
    def test_is_written_as_by_the_stock_operator(self, lab, stock, path, tmp_path, form, push):
        written = []
        for kind, where in (
            (StockSqlOperator, {"databricks_conn_id": stock}),
            (DatabricksSqlOperator, {"http_path": path}),
        ):
            file = tmp_path / kind.__module__
            result = Task(
                kind,
                sql=f"select 1; {NUMBERS}",
                output_path=str(file),
                output_format=form,
                do_xcom_push=push,
                **where,
            ).run()
            content = pd.read_parquet(file).to_dict() if form == "parquet" else file.read_text()
            written.append((content, result))
        assert written[0] == written[1]
        assert "row 3" in str(written[0][0])

    def test_takes_csv_parameters(self, lab, path, tmp_path):
        file = tmp_path / "out.csv"
        Task(
            DatabricksSqlOperator,
            http_path=path,
            sql=NUMBERS,
            output_path=str(file),
            csv_params={"header": False, "delimiter": ";"},
        ).run()
        assert file.read_text().splitlines()[0] == "1;row 1"

    def test_of_unknown_form_is_refused(self, lab, path, tmp_path):
        with pytest.raises(ValueError, match="Unsupported output format"):
            Task(
                DatabricksSqlOperator,
                http_path=path,
                sql=NUMBERS,
                output_path=str(tmp_path / "x"),
                output_format="xml",
            ).run()


class TestTags:
    def test_are_the_stock_ones_and_the_submit_key(self, lab, stock, path):
        tags = {"team": "sales", "none": None}
        found = []
        for kind, where in (
            (StockSqlOperator, {"databricks_conn_id": stock}),
            (DatabricksSqlOperator, {"http_path": path}),
        ):
            task = Task(kind, sql="select 1", query_tags=tags, **where)
            task.run()
            (query_id,) = task.op.get_db_hook().query_ids
            found.append(lab.statements[query_id].tags | {"airflow_run_id": ""})
        key = found[1].pop("airflow_submit_key")
        assert found[0] == found[1]
        assert len(key) == 64 + 2

    def test_may_be_ones_own_only(self, lab, path, started):
        Task(DatabricksSqlOperator, http_path=path, sql="select 1", include_airflow_query_tags=False).run()
        (statement,) = started("select 1")
        assert list(statement.tags) == ["airflow_submit_key"]


def test_template_fields_are_the_stock_ones():
    assert set(DatabricksSqlOperator.template_fields) == set(StockSqlOperator.template_fields)
    assert DatabricksSqlOperator.template_ext == StockSqlOperator.template_ext


def test_large_results_come_in_parts(lab, path):
    lab.sql.rows_per_chunk = 7
    task = Task(DatabricksSqlOperator, http_path=path, sql="select id from range(100) order by id")
    _, rows = task.run()
    assert [row.id for row in rows] == list(range(100))
    parts = [Path(entry.path).name for entry in lab.requests.select("^/lab-storage")]
    assert sorted(map(int, parts)) == list(range(15))
