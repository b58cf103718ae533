"""What the operators do with the arguments they share."""

from __future__ import annotations

import json
import time

import pytest

from astronomer.providers.snowflake import arguments
from tests.unit.deferral.fakes import FakeTaskInstance


class TestHookParams:
    def test_given_ones_win_over_named_ones_and_none_is_not_set(self):
        merged = arguments.merge_hook_params({"role": "a"}, role="b", warehouse="w", schema=None)
        assert merged == {"role": "a", "warehouse": "w"}
        assert arguments.merge_hook_params(None) == {}

    def test_must_be_plain(self):
        assert arguments.plain({"session_parameters": {"A": 1}}) == {"session_parameters": {"A": 1}}
        with pytest.raises(ValueError, match="`hook_params` must be plain JSON"):
            arguments.plain({"handler": object()})


class TestRejectEmpty:
    @pytest.mark.parametrize("sql", ["", "-- x", [], ["-- x", ""], ("",)])
    def test_what_is_seen_to_be_empty(self, sql):
        with pytest.raises(ValueError, match="no statement"):
            arguments.reject_empty(sql)

    @pytest.mark.parametrize(
        "sql",
        [
            "select 1",
            "{{ x }}",
            "{% if x %}{% endif %}",
            "a.sql",
            "a.json",
            ["a.sql", ""],
            ["", "{{ x }}"],
            None,
            7,
            [object(), ""],
        ],
    )
    def test_not_what_is_known_only_later(self, sql):
        arguments.reject_empty(sql)


class TestStatementOptions:
    def test_a_tag_unless_there_is_one(self):
        assert arguments.statement_options({}, {"a": 1}, None) == {"QUERY_TAG": '{"a": 1}'}
        assert arguments.statement_options({"QUERY_TAG": "mine"}, {"a": 1}, None) == {}

    def test_the_submit_key_survives_the_longest_names(self):
        long = FakeTaskInstance(dag_id="\u00fc" * 250, task_id="\u00fc" * 250, run_id="\u00fc" * 250)
        tag = arguments.statement_options({}, arguments.tag_of(long, "k" * 64), None)["QUERY_TAG"]
        assert len(tag) <= 2000
        assert "k" * 64 in tag

    def test_the_tag_names_the_task_instance(self):
        tag = arguments.tag_of(FakeTaskInstance(map_index=None), "key")
        assert json.loads(json.dumps(tag)) == {
            "submit_key": "key",
            "airflow_dag_id": "dag",
            "airflow_task_id": "task",
            "airflow_run_id": "run",
            "airflow_map_index": -1,
        }
        assert "submit_key" not in arguments.tag_of(FakeTaskInstance())

    @pytest.mark.parametrize(
        ("own", "left", "limit"),
        [
            ({}, 60, 90),
            ({"STATEMENT_TIMEOUT_IN_SECONDS": 10}, 60, 10),
            ({"STATEMENT_TIMEOUT_IN_SECONDS": "100"}, 60, 90),
            ({"STATEMENT_TIMEOUT_IN_SECONDS": 0}, 60, 90),
            ({}, -5, 31),
            ({}, 10_000_000, 604_800),
        ],
    )
    def test_the_lower_limit_counts(self, own, left, limit):
        options = arguments.statement_options(own, {}, time.time() + left)
        assert options["STATEMENT_TIMEOUT_IN_SECONDS"] == pytest.approx(limit, abs=1)
        assert isinstance(options["STATEMENT_TIMEOUT_IN_SECONDS"], int)
