"""What a task returns is what the stock operator returns, row for row and type for type."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeOperatorAsync
from tests.integration.snowflake.driving import Task, as_xcom

TYPES = """
select 1::int as i, 123456789012345678::number(38, 0) as big, 1.50::number(10, 2) as d, 1.5::float as f,
  -0.25::number(5, 2) as negative, 'ü''"\n%' as s, '2024-02-29'::date as day, '10:20:30.123456'::time as clock,
  '2024-01-01 10:00:00.123456'::timestamp_ntz as ntz, '2024-01-01 10:00:00.5'::timestamp_ltz as ltz,
  '2024-01-01 10:00:00 +02:00'::timestamp_tz as tz, to_binary('C0FFEE', 'HEX') as b, true as yes, false as no,
  parse_json('{"a": [1, null]}') as v, parse_json('[1, 2]') as a, object_construct('k', 1) as o, null as n,
  null::int as ni, null::timestamp_ntz as nt, '' as empty
"""
NUMBERS = "select n, 'row ' || n as t from numbers order by n"


def first_names(cursor: Any) -> list[Any]:
    return [[column.name for column in cursor.description], cursor.fetchone(), cursor.rowcount]


def one_by_one(cursor: Any) -> list[Any]:
    return [list(row) for row in cursor]


def with_headers(results: list[Any], descriptions: list[Any]) -> list[Any]:
    return [
        {"columns": [column[0] for column in description], "rows": rows}
        for rows, description in zip(results, descriptions, strict=True)
    ]


CASES: dict[str, dict[str, Any]] = {
    "types": {"sql": TYPES},
    "types of a block": {"sql": f"select 1; {TYPES}", "return_last": False},
    "many rows": {"sql": "select seq4() as n from table(generator(rowcount => 3000)) order by n"},
    "no rows": {"sql": "select * from numbers where n > 100"},
    "no rows in a block": {"sql": ["select * from numbers where n > 100"] * 2},
    "last of several": {"sql": f"select 1; {NUMBERS}"},
    "all of several": {"sql": f"select 1; {NUMBERS};\n\n", "return_last": False},
    "a list": {"sql": ["select 1", NUMBERS]},
    "a list of one": {"sql": [NUMBERS]},
    "a list, last only": {"sql": ["select 1", NUMBERS], "return_last": True},
    "split": {"sql": "select 1; select 2", "split_statements": True},
    "split, all": {"sql": "select 1; select 2", "split_statements": True, "return_last": False},
    "not split": {"sql": "select 1; select 2", "split_statements": False},
    "not split, all": {"sql": "select 1; select 2", "split_statements": False, "return_last": False},
    "not split, one": {"sql": "select 7;", "split_statements": False},
    "semicolons in strings": {"sql": "select 'a;b' as x; select $$c;d$$ as y", "return_last": False},
    "comments": {"sql": "-- first; not\nselect 1 /* ; */; // last\nselect 2 -- ;", "return_last": False},
    "a trailing comment": {"sql": "select 3; -- done"},
    "parameters by name": {"sql": "select %(a)s, %(b)s, %(a)s", "parameters": {"a": 1, "b": "it's %s; -- \\"}},
    "parameters in order": {"sql": "select %s, %s, %s", "parameters": (1, "x", None)},
    "parameters as a list": {"sql": "select %s, %s", "parameters": [1.5, dt.date(2024, 2, 29)]},
    "parameters of a block": {"sql": "select %(a)s; select %(a)s + 1", "parameters": {"a": 1}, "return_last": False},
    "a list as parameter": {"sql": f"select n from ({NUMBERS}) where n in (%(some)s)", "parameters": {"some": [1, 3]}},
    "per cent without parameters": {"sql": "select '100%' like '%0%' as x; select 5 % 3"},
    "decimal parameter": {"sql": "select %(d)s::number(10, 3)", "parameters": {"d": Decimal("1.125")}},
    "bytes and times": {
        "sql": "select %(b)s, %(t)s",
        "parameters": {"b": b"\x01\xff", "t": dt.datetime(2024, 1, 1, 10, tzinfo=dt.timezone.utc)},
    },
    "templated": {"sql": "select '{{ params_of }}' as x, %(y)s", "parameters": {"y": "{{ 40 + 2 }}"}},
    "a file": {"sql": "numbers.sql"},
    "one row": {"sql": NUMBERS, "handler": fetch_one_handler},
    "one row of none": {"sql": "select 1 where 1 = 0", "handler": fetch_one_handler},
    "a handler of one's own": {"sql": NUMBERS, "handler": first_names},
    "a handler that iterates": {"sql": ["select 1", NUMBERS], "handler": one_by_one},
    "no handler": {"sql": NUMBERS, "handler": None},
    "an output processor": {"sql": NUMBERS, "output_processor": with_headers},
    "an output processor of several": {"sql": f"select 1 as a; {NUMBERS}", "return_last": False, "output_processor": with_headers},
    "nothing wanted": {"sql": f"select 1; {NUMBERS}", "do_xcom_push": False},
    "fetched but not wanted": {"sql": NUMBERS, "do_xcom_push": False, "requires_result_fetch": True},
    "shown in the log": {"sql": NUMBERS, "show_return_value_in_logs": True},
    "insert": {"sql": "insert into numbers values (7), (8)"},
    "insert with commit": {"sql": "insert into numbers values (7), (8)", "autocommit": True},
    "update none": {"sql": "update numbers set n = 9 where n = 100", "autocommit": True},
    "dml of several": {
        "sql": "insert into numbers values (7); update numbers set n = n + 1; delete from numbers where n > 3; "
        "select count(*) from numbers",
        "return_last": False,
    },
    "merge": {
        "sql": "merge into numbers using other on numbers.n = other.m when matched then update set n = 20",
        "autocommit": True,
    },
    "ddl": {"sql": "create or replace table made (a int); drop table made", "return_last": False},
    "create as": {"sql": "create or replace table made as select 1 as a; select * from made", "autocommit": True},
    "show": {"sql": "show parameters like 'TIMEZONE'"},
    "describe": {"sql": "describe table numbers"},
    "set and use": {"sql": "alter session set timezone = 'Europe/Berlin'; use schema public; select 1", "return_last": False},
    "a transaction of one's own": {
        "sql": "begin; insert into numbers values (50); commit; select max(n) from numbers",
        "autocommit": True,
        "return_last": False,
    },
    "a scripting block": {"sql": "execute immediate $$begin insert into numbers values (60); return 1; end$$"},
    "call": {"sql": "call system$wait(0)"},
    "a common table expression": {"sql": "with a as (select 1 as x) select * from a"},
    "in parentheses": {"sql": "(select 1 as x)"},
}  # fmt: skip

CONTEXT: dict[str, dict[str, Any]] = {
    "hook_params": {"hook_params": {"warehouse": "other_wh", "role": "PUBLIC"}},
    "arguments": {"warehouse": "other_wh", "role": "PUBLIC", "schema": "side"},
    "session_parameters": {"session_parameters": {"QUERY_TAG": "mine", "TIMEZONE": "Europe/Berlin"}},
    "hook params win": {"hook_params": {"warehouse": "other_wh"}, "warehouse": "compute_wh"},
}


@pytest.fixture(autouse=True)
def numbers(sql):
    sql("create or replace table numbers (n int)", "insert into numbers values (1), (2), (3)")
    sql("create or replace table other as select 2 as m")


@pytest.fixture
def dag(tmp_path):
    (tmp_path / "numbers.sql").write_text(
        "select {{ 1 + 1 }} as two;\nselect %(p)s as p from numbers where n = 1;\n"
    )
    macros = {"params_of": "a;b"}
    return lambda: DAG("dag", schedule=None, template_searchpath=str(tmp_path), user_defined_macros=macros)


def outcome(task: Task, sql: Any) -> dict[str, Any]:
    """Everything that a task leaves behind."""
    result = task.run()
    hook = task.op.get_db_hook()
    left = {
        "result": result,
        "types": typed(result),
        "xcom": xcom_of(result),
        "queries": len(hook.query_ids),
        "distinct": len(set(hook.query_ids)),
        "descriptions": hook.descriptions,
        "numbers": sql("select n from numbers order by n"),
    }
    sql("create or replace table numbers (n int)", "insert into numbers values (1), (2), (3)")
    return left


def xcom_of(result: Any) -> Any:
    """What another task reads of it, or why it cannot be one: Airflow takes no ``bytearray``."""
    try:
        return as_xcom(result)
    except TypeError as error:
        return str(error)


def typed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [typed(one) for one in value]
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    zone = value.utcoffset() if isinstance(value, dt.datetime) else None
    return type(value), zone


@pytest.mark.parametrize("name", CASES)
def test_results(lab, sql, dag, name):
    case = dict(CASES[name])
    if name == "a file":
        case["parameters"] = {"p": "x"}
    stock = outcome(Task(SQLExecuteQueryOperator, conn_id="snowflake_default", dag=dag, **case), sql)
    worker = outcome(Task(SnowflakeOperator, dag=dag, deferrable=False, **case), sql)
    assert worker == stock
    deferred = Task(SnowflakeOperatorAsync, dag=dag, **case)
    assert outcome(deferred, sql) == stock
    assert deferred.events, "nothing was deferred"


@pytest.mark.parametrize("name", CONTEXT)
def test_context(lab, sql, name):
    sql("create schema if not exists side", "create warehouse if not exists other_wh")
    text = "select current_warehouse(), current_role(), current_schema(), current_database(), current_user()"
    case = CONTEXT[name]
    merged = {key: value for key, value in case.items() if key != "hook_params"} | case.get("hook_params", {})
    stock = Task(SQLExecuteQueryOperator, conn_id="snowflake_default", sql=text, hook_params=merged)
    expected = stock.run()
    for deferrable in (False, True):
        task = Task(SnowflakeOperator, sql=text, deferrable=deferrable, **case)
        assert task.run() == expected
        (query,) = [lab.queries[query_id] for query_id in task.op.get_db_hook().query_ids]
        if name == "session_parameters":
            assert (query.tag, query.parameters["TIMEZONE"]) == ("mine", "Europe/Berlin")
        else:
            assert '"submit_key"' in query.tag


def test_a_list_whose_element_has_several_statements_is_refused_as_by_the_stock_operator(lab, sql):
    from airflow.exceptions import AirflowException
    from snowflake.connector.errors import ProgrammingError

    text = ["insert into numbers values (4); insert into numbers values (5)", "select 1"]
    with pytest.raises(ProgrammingError, match="000008"):
        Task(SQLExecuteQueryOperator, conn_id="snowflake_default", sql=text).run()
    with pytest.raises(AirflowException, match="000008"):
        Task(SnowflakeOperator, sql=text).run()
    assert sql("select max(n) from numbers") == [(3,)]


def test_query_ids_are_of_the_statements_in_order(lab):
    task = Task(SnowflakeOperator, sql="select 1; select 2; select 3", autocommit=True)
    task.run()
    ids = task.op.get_db_hook().query_ids
    assert [lab.queries[query_id].sql for query_id in ids] == ["select 1", "select 2", "select 3"]
    assert task.query_id not in ids
