"""Statements on DuckDB: what Databricks SQL means, states, waits, cancellation, limits of time."""

import asyncio
import time

import pytest

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.databricks.spark import kind_of
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_errors import SqlError
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_sessions import SqlSession, tags_of

LONG = "SELECT count(*) FROM range(1000000000000)"


@pytest.fixture
async def engine():
    """An engine whose clock belongs to the test's loop."""
    clock = Clock()
    clock.attach(asyncio.get_running_loop())
    engine = SqlEngine(clock)
    yield engine
    await asyncio.to_thread(engine.shut_down)
    clock.detach()


async def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.005)
    return value


@pytest.fixture
def run(engine):
    """Run a statement to its end and return its rows as strings."""

    async def run(text, **submitted):
        return await asyncio.to_thread(engine.run, text, **submitted)

    return run


async def ended(statement):
    await until(lambda: statement.ended)
    return statement


class TestDialect:
    async def test_a_table_lives_in_a_catalog_and_a_schema(self, run):
        await run(
            "CREATE TABLE `main`.`default`.`t` (a INT, d STRING) USING DELTA PARTITIONED BY (d) COMMENT 'x'"
        )
        assert await run("INSERT INTO main.default.t VALUES (1, 'x'), (2, 'y')") == [["2", "2"]]
        assert await run("SELECT a FROM t WHERE d = :d", parameters=[Parameter("d", "y")]) == [["2"]]
        assert await run("INSERT OVERWRITE t SELECT 5, 'z'") == [["1", "1"]]
        assert await run("SELECT * FROM default.t") == [["5", "z"]]
        assert await run("UPDATE t SET a = 6") == [["1"]]
        assert await run("DELETE FROM t") == [["1"]]

    async def test_merge(self, run):
        await run("CREATE TABLE t AS SELECT 1 AS a, 'x' AS d")
        source = "(SELECT 1 AS a, 'q' AS d UNION ALL SELECT 2, 'r') AS u"
        await run(
            f"MERGE INTO t USING {source} ON t.a = u.a WHEN MATCHED THEN UPDATE SET t.d = u.d "
            "WHEN NOT MATCHED THEN INSERT (a, d) VALUES (u.a, u.d)"
        )
        assert await run("SELECT * FROM t ORDER BY a") == [["1", "q"], ["2", "r"]]

    async def test_partitions_are_described(self, engine, run):
        await run("CREATE OR REPLACE TABLE t (a INT) PARTITIONED BY (d STRING, e INT)")
        await run("INSERT INTO t VALUES (1, 'x', 7), (2, 'x', 7)")
        statement = engine.submit("DESCRIBE DETAIL main.default.t")
        await ended(statement)
        assert statement.result.columns[7].name == "partitionColumns"
        assert statement.result.table.column(7).to_pylist() == [["d", "e"]]
        assert await run("SHOW PARTITIONS t") == [["x", "7"]]
        assert ["# Partition Information", "", ""] in await run("DESCRIBE TABLE EXTENDED t")
        await run("CREATE OR REPLACE TABLE t (a INT)")
        assert (await run("DESCRIBE DETAIL t"))[0][7] == "[]"
        with pytest.raises(SqlError, match="PARTITION_SCHEMA_IS_EMPTY"):
            await run("SHOW PARTITIONS t")

    async def test_what_there_is(self, run):
        await run("CREATE CATALOG IF NOT EXISTS dev")
        await run("CREATE SCHEMA dev.raw")
        await run("CREATE TABLE dev.raw.events (a INT)")
        assert await run("SHOW CATALOGS") == [["dev"], ["main"], ["samples"]]
        assert await run("SHOW SCHEMAS IN dev") == [["default"], ["raw"]]
        assert await run("SHOW TABLES IN dev.raw LIKE 'ev*'") == [["raw", "events", "false"]]
        assert await run("SHOW COLUMNS IN dev.raw.events") == [["a"]]
        assert len(await run("SELECT * FROM samples.nyctaxi.trips LIMIT 3")) == 3
        await run("DROP CATALOG dev CASCADE")
        assert ["dev"] not in await run("SHOW CATALOGS")

    async def test_values_are_written_as_the_service_writes_them(self, engine, run):
        statement = engine.submit(
            "SELECT 1, 1.50, 1e10, cast(0.1 AS FLOAT), true, null, date'2020-01-02', timestamp'2020-01-01 00:00:00', "
            "cast('2020-01-01 00:00:00.123456' AS TIMESTAMP_NTZ), x'ff', array(1, 2), map('a', 1), "
            "named_struct('a', 1, 'b', 'x'), cast(1 AS TINYINT), sum(1)"
        )
        await ended(statement)
        assert statement.result.strings(0, 1)[0] == [
            *("1", "1.50", "1.0E10", "0.1", "true", None, "2020-01-02", "2020-01-01T00:00:00.000Z"),
            *("2020-01-01T00:00:00.123456", "FF", '["1","2"]', '{"a":"1"}', '{"a":"1","b":"x"}', "1", "1"),
        ]
        types = [column.type_text for column in statement.result.columns]
        assert types.pop(5) in {"VOID", "INT"}  # before version 2, DuckDB gives NULL the type INT
        assert types == [
            *(
                "INT",
                "DECIMAL(3,2)",
                "DOUBLE",
                "FLOAT",
                "BOOLEAN",
                "DATE",
                "TIMESTAMP",
                "TIMESTAMP_NTZ",
                "BINARY",
            ),
            *("ARRAY<INT>", "MAP<STRING, INT>", "STRUCT<a: INT, b: STRING>", "TINYINT", "BIGINT"),
        ]

    async def test_columns_are_named_as_in_spark(self, engine):
        statement = await ended(engine.submit("SELECT 1, 'x', count(*), max(id) FROM range(3)"))
        assert [column.name for column in statement.result.columns] == ["1", "x", "count(1)", "max(id)"]

    @pytest.mark.parametrize(
        ("text", "condition"),
        [
            ("SELECT * FROM nope", "TABLE_OR_VIEW_NOT_FOUND"),
            ("SELECT * FROM nocat.a.b", "TABLE_OR_VIEW_NOT_FOUND"),
            ("SELECT nope", "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION"),
            ("SELECT nope FROM range(3)", "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION"),
            ("SELEC 1", "PARSE_SYNTAX_ERROR"),
            ("SELECT (", "PARSE_SYNTAX_ERROR"),
            ("SELECT 1; SELECT 2", "PARSE_SYNTAX_ERROR"),
            ("-- nothing", "PARSE_SYNTAX_ERROR"),
            ("SELECT cast('x' AS INT)", "CAST_INVALID_INPUT"),
            ("SELECT 1 / 0", "DIVIDE_BY_ZERO"),
            ("SELECT raise_error('boom')", "USER_RAISED_EXCEPTION"),
            ("SELECT nofunction(1)", "UNRESOLVED_ROUTINE"),
            ("SELECT :p", "UNBOUND_SQL_PARAMETER"),
            ("USE SCHEMA nope", "SCHEMA_NOT_FOUND"),
            ("USE CATALOG nope", "NO_SUCH_CATALOG_EXCEPTION"),
            ("DESCRIBE DETAIL nope", "TABLE_OR_VIEW_NOT_FOUND"),
            ("CREATE SCHEMA main.default", "SCHEMA_ALREADY_EXISTS"),
        ],
    )
    async def test_failures_in_the_words_of_databricks(self, run, text, condition):
        with pytest.raises(SqlError) as failure:
            await run(text)
        assert failure.value.condition == condition
        assert failure.value.message.startswith(f"[{condition}] ")

    async def test_a_program_variable_is_no_table(self, run):
        cursor = relation = [1]  # the names of variables in the frames that run a statement
        with pytest.raises(SqlError, match="TABLE_OR_VIEW_NOT_FOUND"):
            await run("SELECT * FROM cursor, relation, plan")
        assert cursor == relation

    async def test_parameters_have_types(self, run):
        parameters = [
            Parameter("n", "3", "INT"),
            Parameter("t", "main.default.numbers"),
            Parameter("none", None),
        ]
        await run("CREATE TABLE numbers AS SELECT id FROM range(9)")
        text = "SELECT id, :none FROM IDENTIFIER(:t) ORDER BY id LIMIT :n"
        assert await run(text, parameters=parameters) == [["0", None], ["1", None], ["2", None]]
        assert await run(
            "SELECT ? + ?", parameters=[Parameter("", "1", "INT"), Parameter("", "2", "INT")]
        ) == [["3"]]
        with pytest.raises(SqlError, match="CAST_INVALID_INPUT"):
            await run("SELECT :n", parameters=[Parameter("n", "x", "INT")])

    async def test_a_statement_is_all_or_nothing(self, run):
        await run("CREATE TABLE t AS SELECT 1 AS a")
        with pytest.raises(SqlError):
            await run("INSERT OVERWRITE t SELECT cast('x' AS INT)")
        assert await run("SELECT a FROM t") == [["1"]]

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("/* a */ with x as (select 1) select * from x", "SELECT"),
            ("merge into t", "MERGE"),
            ("call x()", "OTHER"),
        ],
    )
    def test_kinds(self, text, kind):
        assert kind_of(text) == kind

    def test_tags(self):
        assert tags_of(r"a:1,b,c:x\:y\,z") == {"a": "1", "b": None, "c": "x:y,z"}


class TestSessions:
    async def test_a_session_remembers(self, engine, run):
        session = SqlSession("me", engine.warehouses.default.id, kept=True)
        await run("USE samples.nyctaxi", session=session)
        assert await run("SELECT count(*) FROM trips", session=session) == [["100"]]
        await run("CREATE TEMPORARY VIEW v AS SELECT 7 AS a", session=session)
        assert await run("SELECT a FROM v", session=session) == [["7"]]
        await run("SET ansi_mode = false", session=session)
        assert await run("SET ansi_mode", session=session) == [["ansi_mode", "false"]]
        asked = "SELECT current_user(), current_catalog(), current_schema()"
        assert await run(asked, session=session) == [["me", "samples", "nyctaxi"]]
        engine.close_session(session)

    async def test_other_statements_do_not(self, run):
        await run("USE samples.nyctaxi")
        assert await run("SELECT current_schema()", schema="default") == [["default"]]


class TestStates:
    async def test_a_wait_is_on_the_clock_and_takes_no_thread(self, engine, run):
        statements = [engine.submit("SELECT lab_wait(600)") for _ in range(100)]
        assert {one.state for one in statements} == {"RUNNING"}
        assert await run("SELECT 1") == [["1"]]
        assert engine.active == 100
        engine.clock.advance(600)
        await until(lambda: not engine.active)
        assert {one.state for one in statements} == {"SUCCEEDED"}
        assert statements[0].result.strings(0, 1) == [["600"]]
        assert statements[0].ended_at - statements[0].submitted_at >= 600

    async def test_a_wait_comes_before_the_effect(self, engine, run):
        await run("CREATE TABLE t (a INT)")
        statement = engine.submit("INSERT INTO t SELECT lab_wait(60)")
        assert engine.cancel(statement, "user")
        assert (statement.state, statement.cancelled_by) == ("CANCELED", "user")
        assert await run("SELECT count(*) FROM t") == [["0"]]
        assert not engine.cancel(statement, "user")

    async def test_call_and_parameters_wait_too(self, engine):
        call = engine.submit("CALL lab_wait(500)")
        bound = engine.submit("SELECT lab_wait(:s)", parameters=[Parameter("s", "500", "INT")])
        await asyncio.sleep(0.05)
        assert (call.state, bound.state) == ("RUNNING", "RUNNING")
        engine.clock.advance(500)
        assert (await ended(call)).state == (await ended(bound)).state == "SUCCEEDED"

    async def test_what_computes_is_interrupted(self, engine):
        statement = engine.submit(LONG)
        await until(lambda: statement.cursor is not None)
        assert engine.cancel(statement, "me")
        assert (await ended(statement)).state == "CANCELED"

    async def test_cancelled_before_its_wait_has_begun(self, engine, monkeypatch):
        reads = engine._plan
        monkeypatch.setattr(engine, "_plan", lambda one: (engine.cancel(one, "me"), reads(one))[1])
        assert engine.submit("SELECT lab_wait(60)").state == "CANCELED"

    async def test_shut_down_ends_everything(self, engine):
        statements = [engine.submit(LONG) for _ in range(10)]
        await asyncio.to_thread(engine.shut_down)
        assert engine.active == 0 or all(one.cancelled_by for one in statements if not one.ended)

    async def test_a_result_lives_an_hour_and_a_statement_half_a_day(self, engine):
        statement = await ended(engine.submit("SELECT 1"))
        engine.clock.advance(3000)
        assert engine.look(statement.id).state == "SUCCEEDED"
        engine.clock.advance(601)
        assert engine.look(statement.id).state == "CLOSED"
        assert statement.result is None
        engine.clock.advance(12 * 3600)
        assert engine.look(statement.id) is None

    async def test_a_neglected_statement_dies_only_if_asked_for(self, engine):
        statement = engine.submit("SELECT lab_wait(7200)")
        engine.clock.advance(901)
        assert engine.look(statement.id).state == "RUNNING"
        engine.neglect_seconds = 900
        assert engine.look(statement.id).state == "CANCELED"
        assert statement.cancelled_by == "neglect"

    async def test_limits(self, engine):
        statement = await ended(engine.submit("SELECT id FROM range(100)", limits=(7, 0)))
        assert (statement.rows, statement.truncated) == (7, True)
        statement = await ended(engine.submit("SELECT id FROM range(100)", limits=(0, 80)))
        assert (statement.rows, statement.truncated) == (9, True)
        engine.inline_bytes = 100
        statement = await ended(engine.submit("SELECT id FROM range(100)", inline=True))
        assert statement.state == "FAILED"
        assert statement.error.message.startswith("Inline byte limit exceeded.")


class TestWarehouses:
    async def test_a_stopped_warehouse_starts_first(self, engine):
        warehouse = engine.warehouses.add("slow", start_seconds=120)
        engine.warehouses.stop(warehouse.id)
        statement = engine.submit("SELECT 1", warehouse_id=warehouse.id)
        assert (statement.state, warehouse.state) == ("PENDING", "STARTING")
        engine.clock.advance(120)
        assert warehouse.state == "RUNNING"
        assert (await ended(statement)).state == "SUCCEEDED"

    async def test_one_that_does_not_start_by_itself(self, engine):
        warehouse = engine.warehouses.add("manual", auto_start=False)
        engine.warehouses.stop(warehouse.id)
        first = engine.submit("SELECT 1", warehouse_id=warehouse.id)
        second = engine.submit("SELECT 2", warehouse_id=warehouse.id)
        assert {first.state, second.state} == {"PENDING"}
        engine.cancel(first, "me")
        assert first.state == "CANCELED"
        engine.warehouses.start(warehouse.id)
        assert (await ended(second)).state == "SUCCEEDED"

    async def test_a_full_warehouse_makes_statements_wait(self, engine):
        warehouse = engine.warehouses.add("small", concurrency=1)
        first, second, third = (
            engine.submit("SELECT lab_wait(10)", warehouse_id=warehouse.id) for _ in range(3)
        )
        assert [one.state for one in (first, second, third)] == ["RUNNING", "PENDING", "PENDING"]
        engine.cancel(second, "me")
        engine.clock.advance(10)
        await ended(first)
        await until(lambda: third.state == "RUNNING")
        engine.cancel(third, "me")
        assert warehouse.running == 0

    def test_ids_are_checked(self):
        warehouses = SqlEngine(Clock()).warehouses
        with pytest.raises(ApiError) as unknown:
            warehouses.get("0" * 16)
        assert (unknown.value.status, unknown.value.error_code) == (404, "RESOURCE_DOES_NOT_EXIST")
        with pytest.raises(ApiError) as malformed:
            warehouses.get("wh-1")
        assert malformed.value.error_code == "INVALID_PARAMETER_VALUE"
