"""What is read out of a text of SQL before anything runs."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from databricks.sql.parameters.native import BigIntegerParameter, StringParameter

from astronomer.deferral import JobError
from astronomer.providers.databricks.sql import texts
from astronomer.providers.databricks.sql.route import Place, reject_contradiction

PATH = "/sql/1.0/warehouses/0123456789abcdef"


class TestSplit:
    @pytest.mark.parametrize(
        ("sql", "split", "found"),
        [
            ("select 1", None, ["select 1"]),
            ("select 1;", None, ["select 1"]),
            ("select 1; select ';'; -- end\n", None, ["select 1", "select ';'"]),
            ("select 1; select 2;", False, ["select 1; select 2"]),
            (["select 1; select 2", "select 3;"], None, ["select 1; select 2", "select 3"]),
            (("select 1",), None, ["select 1"]),
        ],
    )
    def test_is_the_stock_hooks(self, sql, split, found):
        assert texts.split(sql, split) == found

    @pytest.mark.parametrize(
        "sql", ["", " \n", ";", "-- only words", "/* ; */ ;", [], [""], ["select 1", " "], ["--"]]
    )
    def test_refuses_what_holds_no_statement(self, sql):
        with pytest.raises(ValueError, match="holds no statement"):
            texts.split(sql, None)
        with pytest.raises(ValueError, match="holds no statement"):
            texts.reject_empty(sql)

    @pytest.mark.parametrize("sql", ["{{ x }}", "{% if 0 %}{% endif %}", "a.sql", ["", "{{ x }}"], None, 7])
    def test_is_not_judged_before_it_is_rendered(self, sql):
        texts.reject_empty(sql)


class TestSession:
    @pytest.mark.parametrize(
        "first",
        [
            "USE CATALOG main",
            "use main.sales",
            "-- a word\nSET ansi_mode = true",
            "/* a */ RESET",
            "DECLARE x INT",
            "create temporary view v as select 1",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "CREATE OR REPLACE GLOBAL TEMPORARY VIEW v AS SELECT 1",
            "DROP TEMPORARY VARIABLE x",
            "BEGIN TRANSACTION",
            "CACHE SELECT * FROM t",
        ],
    )
    def test_is_needed_by_what_follows(self, first):
        assert texts.needs_session([first, "select 1"])
        assert texts.needs_session(["select 1", first]) is None
        assert texts.needs_session([first]) is None

    @pytest.mark.parametrize(
        "first",
        ["select 'use x'", "settle", "CREATE VIEW temp_v AS SELECT 1", "create table temporary (a int)"],
    )
    def test_is_not_needed(self, first):
        assert texts.needs_session([first, "select 1"]) is None

    @pytest.mark.parametrize(
        "text", ["PUT '/tmp/a' INTO '/Volumes/a'", "get '/Volumes/a' to '/tmp/a'", "REMOVE '/a'"]
    )
    def test_of_local_files(self, text):
        assert texts.needs_session([text])


class TestParameters:
    def test_have_the_connectors_types(self):
        given = {
            "i": 1,
            "l": 2**40,
            "f": 1.5,
            "d": Decimal("-1.50"),
            "s": "it's",
            "b": True,
            "day": dt.date(2024, 2, 29),
            "at": dt.datetime(2024, 1, 1, 10, tzinfo=dt.timezone.utc),
            "n": None,
        }
        text, found = texts.rest_parameters("select :i", given)
        assert text == "select :i"
        assert {one["name"]: (one["type"], one["value"]) for one in found} == {
            "i": ("INT", "1"),
            "l": ("BIGINT", "1099511627776"),
            "f": ("DOUBLE", "1.5"),
            "d": ("DECIMAL(4,2)", "-1.50"),
            "s": ("STRING", "it's"),
            "b": ("BOOLEAN", "True"),
            "day": ("DATE", "2024-02-29"),
            "at": ("TIMESTAMP", "2024-01-01 10:00:00+00:00"),
            "n": ("VOID", None),
        }

    def test_may_be_the_connectors_objects(self):
        given = [StringParameter("x", name="a"), BigIntegerParameter(1, name="b")]
        _, found = texts.rest_parameters("select :a, :b", given)
        assert [one["type"] for one in found] == ["STRING", "BIGINT"]

    def test_may_be_marked_in_the_old_way(self):
        assert texts.rest_parameters("select %(a)s, '%s'", {"a": 1})[0] == "select :a, '%s'"

    @pytest.mark.parametrize("none", [None, {}, []])
    def test_may_be_none(self, none):
        assert texts.rest_parameters("select '%(a)s'", none) == ("select '%(a)s'", [])

    @pytest.mark.parametrize("given", [[1], (1, "x"), {"a": [1]}, {"a": {"k": 1}}, [StringParameter("x")]])
    def test_that_cannot_be_sent(self, given):
        assert texts.rest_parameters("select ?", given) is None


class TestPlace:
    @pytest.mark.parametrize(
        ("path", "found"),
        [
            (PATH, "0123456789abcdef"),
            ("sql/1.0/endpoints/abc/", "abc"),
            ("/sql/protocolv1/o/1/1122-334455-abcdefgh", None),
            ("/sql/1.0/warehouses/", None),
            ("", None),
        ],
    )
    def test_of_a_warehouse(self, path, found):
        assert texts.warehouse_of(path) == found

    def test_is_the_argument_before_the_connection(self):
        extra = {"http_path": "/sql/1.0/warehouses/theirs"}
        assert Place(extra).warehouse_id == "theirs"
        assert Place(extra, http_path=PATH).warehouse_id == "0123456789abcdef"
        assert Place(extra, warehouse_name="Mine").warehouse_id == ""

    def test_must_be_somewhere(self):
        with pytest.raises(JobError, match=r"No warehouse is named.*http_path"):
            Place({}).reason_for_connector(["select 1"])

    def test_starts_where_the_connection_says(self):
        place = Place({"catalog": "theirs"}, http_path=PATH, catalog="mine", schema="")
        assert place.namespace == {"catalog": "theirs"}

    @pytest.mark.parametrize(
        ("extra", "more", "reason"),
        [
            ({}, {}, None),
            ({"token": "x", "proxies": {}, "catalog": "c", "whatever": 1}, {}, None),
            ({"auth_type": "oauth-m2m"}, {}, None),
            ({"auth_type": "databricks-oauth"}, {}, "auth_type"),
            ({"session_configuration": {"ansi_mode": "true"}}, {}, "session_configuration"),
            ({"use_inline_params": True}, {}, "use_inline_params"),
            ({"_tls_no_verify": True}, {}, "_tls_no_verify"),
            ({"http_path": "/sql/protocolv1/o/1/2"}, {"http_path": None}, "not the path of a SQL warehouse"),
            ({}, {"connectors": {"client_parameters": {"a": 1}}}, "`client_parameters` is set"),
            ({}, {"connectors": {"http_headers": []}}, None),
        ],
    )
    def test_says_why_the_connector_is_needed(self, extra, more, reason):
        found = Place(extra, **{"http_path": PATH, **more}).reason_for_connector(["select 1"])
        assert found is None if reason is None else reason in found

    def test_says_so_of_statements_and_parameters(self):
        place = Place({}, http_path=PATH)
        assert "session" in place.reason_for_connector(["use x", "select 1"])
        assert "position" in place.reason_for_connector(["select ?"], [1])

    def test_must_not_be_two(self):
        reject_contradiction(None, "Mine", "sql_endpoint_name")
        with pytest.raises(ValueError, match="`sql_endpoint_name` both"):
            reject_contradiction(PATH, "Mine", "sql_endpoint_name")
