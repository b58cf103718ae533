"""Which path a task takes, as it is decided when the Dag is parsed."""

import json
from datetime import timedelta

import pytest
from airflow.sdk import BaseOperator, task_group
from airflow.serialization.serialized_objects import DagSerialization

from astronomer.deferral import recipe
from astronomer.deferral.sensor import NO_TRIGGERER
from astronomer.deferral.worker_free import WorkerFree
from tests.unit.deferral.free import FreeOperator, ShortOperator, WatchOperator


def written(task):
    """What a task's trigger is made of, as Airflow's database has it."""
    return json.loads(task.task.start_trigger_args.trigger_kwargs["__var"]["recipe"])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "query.sql").write_text("SELECT '{{ ds }}'")
    (tmp_path / "other.sql").write_text("SELECT 2")
    (tmp_path / "parts.sql").write_text("SELECT 1 {%- include 'other.sql' %}")
    return {"template_searchpath": str(tmp_path)}


class TestWhoAsks:
    def test_nobody(self, free, why):
        assert not free.task(start_from_trigger=None).starts_in_triggerer
        assert not free.mapped({"what": ["a"]}, start_from_trigger=None).starts_in_triggerer
        assert why() == []

    def test_the_configuration(self, free, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE", "True")
        assert free.task(start_from_trigger=None).starts_in_triggerer
        assert free.mapped({"what": ["a"]}, start_from_trigger=None).starts_in_triggerer
        assert not free.task(start_from_trigger=False).starts_in_triggerer
        assert not free.mapped({"what": ["a"]}, start_from_trigger=False).starts_in_triggerer

    @pytest.mark.parametrize("mapped", [False, True])
    def test_the_defaults_of_a_dag(self, free, mapped):
        given = {"service": "scripted", "what": "{{ ds }}", "poll_interval": 7, "start_from_trigger": True}
        partial = {"task_id": "task", "more": "mine"}

        def make():
            if mapped:
                return FreeOperator.partial(**partial).expand(script=[{}])
            return FreeOperator(**partial)

        made = free.dag(make, default_args={**given, "more": "the Dag's"})
        assert made.starts_in_triggerer
        arguments = written(made)["arguments"]
        assert arguments == {"service": "scripted", "what": "{{ ds }}", "poll_interval": 7, "more": "mine"}

    @pytest.mark.parametrize("mapped", [False, True])
    def test_the_defaults_of_a_task_group(self, free, mapped):
        made = []

        @task_group(default_args={"start_from_trigger": True, "service": "scripted", "what": "group"})
        def group():
            if mapped:
                made.append(FreeOperator.partial(task_id="task").expand(more=[1]))
            else:
                made.append(FreeOperator(task_id="task"))

        def make():
            group()
            return made[0]

        found = free.dag(make, default_args={"what": "Dag"})
        assert found.starts_in_triggerer
        assert written(found)["arguments"] == {"service": "scripted", "what": "group"}

    def test_default_args_of_the_task_itself(self, free):
        defaults = {"start_from_trigger": True, "what": "own", "service": "scripted"}
        made = free.dag(lambda: FreeOperator(task_id="task", default_args=defaults))
        assert written(made)["arguments"] == {"what": "own", "service": "scripted"}

    def test_not_the_class(self):
        assert FreeOperator.start_from_trigger is False

    def test_what_stock_operators_set_counts_not(self, free):
        made = FreeOperator(**free.given(FreeOperator, {"start_from_trigger": False}))
        made.start_trigger_args = "something"
        assert made.start_trigger_args is None

    def test_an_operator_may_say_so_later(self, free):
        def make():
            made = FreeOperator(**free.given(FreeOperator, {"start_from_trigger": None}))
            made.start_from_trigger = True
            return made

        assert free.dag(make).starts_in_triggerer

    def test_an_operator_that_is_being_made_starts_nowhere(self, free):
        seen = []

        class Curious(FreeOperator):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                seen.append(self.start_from_trigger)

        free.task(Curious)
        assert seen == [False]


class TestTheRecipe:
    def test_says_what_was_given(self, free):
        made = free.task(what={"a": ["{{ ds }}"]}, poll_interval=timedelta(seconds=5), retries=3)
        assert written(made) == {
            "operator": "tests.unit.deferral.free:FreeOperator",
            "arguments": {
                "service": "scripted",
                "script": {"runs_for": 100.0},
                "what": {"a": ["{{ ds }}"]},
                "poll_interval": {"__astronomer": "timedelta", "value": 5.0},
            },
            "expand": None,
            "native": False,
            "limit": None,
            "dag_result": False,
        }

    def test_has_the_template_fields_as_they_are_when_the_dag_is_complete(self, free):
        def make():
            made = FreeOperator(**free.given(FreeOperator, {"what": "a", "more": "b"}))
            made.what = made.more = "changed"
            return made

        arguments = written(free.dag(make))["arguments"]
        assert (arguments["what"], arguments["more"]) == ("changed", "b")

    def test_has_no_field_that_was_not_given(self, free):
        assert "what" not in written(free.task())["arguments"]

    def test_native_templates_are_remembered(self, free):
        native = {"render_template_as_native_obj": True}
        assert written(free.task(dag=native))["native"] is True
        assert written(free.mapped({"what": ["a"]}, dag=native))["native"] is True

    def test_the_outermost_class_says_what_was_given(self, free):
        assert free.task().parsed._given["service"] == "scripted"
        assert "start_from_trigger" not in free.task().parsed._given

    def test_of_a_mapped_task_has_its_values(self, free):
        made = free.mapped({"what": ["a", "b"], "more": {"k": 1}}, poll_interval=5)
        assert written(made)["expand"] == ["dict-of-lists", {"what": ["a", "b"], "more": {"k": 1}}]
        assert written(made)["arguments"]["poll_interval"] == 5
        assert written(free.mapped([{"what": "a"}]))["expand"] == ["list-of-dicts", [{"what": "a"}]]

    def test_of_a_sensor_has_its_limit(self, free, monkeypatch):
        for given, limit in ((100, 100), (timedelta(minutes=1), 60), (None, 7 * 86_400)):
            made = free.task(WatchOperator, **({} if given is None else {"timeout": given}))
            assert made.task.start_trigger_args.timeout == timedelta(seconds=limit + NO_TRIGGERER)
            assert written(made)["limit"] == limit + NO_TRIGGERER
        assert not free.task(WatchOperator, deferrable=False).starts_in_triggerer

    def test_what_cannot_travel_takes_the_worker_path(self, free, why):
        assert not free.task(more=lambda: 1).starts_in_triggerer
        assert not free.mapped({"what": ["a"], "more": [{"token": "t"}]}).starts_in_triggerer
        function, secret = why()
        assert function == "`more` is a function that only the Dag file knows"
        assert "'token'" in secret

    def test_functions_of_installed_packages_travel(self, free):
        assert written(free.task(more=json.dumps))["arguments"]["more"]["value"] == "json:dumps"

    def test_a_mapped_xcom_travels_and_what_is_done_to_it_does_not(self, free, why):
        def make(change):
            output = BaseOperator(task_id="up").output
            partial = FreeOperator.partial(**free.given(FreeOperator, {}))
            return partial.expand(what=change(output))

        plain = free.dag(lambda: make(lambda output: output))
        reference = {"__astronomer": "xcom", "value": ["up", "return_value"]}
        assert written(plain)["expand"] == ["dict-of-lists", {"what": reference}]
        assert not free.dag(lambda: make(lambda output: output.map(lambda one: one))).starts_in_triggerer
        assert "which only the Dag file knows" in why()[0]

    def test_expand_kwargs_of_an_xcom_travels(self, free):
        def make():
            output = BaseOperator(task_id="up").output
            return FreeOperator.partial(**free.given(FreeOperator, {})).expand_kwargs(output)

        assert written(free.dag(make))["expand"][1]["value"] == ["up", "return_value"]


class TestWhere:
    def test_a_class_of_the_dag_file_takes_the_worker_path(self, free, why, monkeypatch):
        monkeypatch.setattr(recipe, "_places", tuple)
        assert not free.task().starts_in_triggerer
        assert not free.mapped({"what": ["a"]}).starts_in_triggerer
        assert all("FreeOperator is not defined in an installed package" in one for one in why())

    def test_so_does_one_within_a_function(self, free, why):
        class Local(FreeOperator):
            pass

        assert not free.task(Local).starts_in_triggerer
        assert "Local is not defined in an installed package" in why()[0]

    def test_a_module_without_a_file_is_not_installed(self):
        assert not recipe.is_installed("builtins")
        assert not recipe.is_installed("not.there")
        assert recipe.is_installed("astronomer.anything")
        assert recipe.is_installed("json")


class TestTemplateFiles:
    @pytest.mark.parametrize("shape", [lambda one: one, lambda one: [one], lambda one: {"a": (one, 1)}])
    def test_are_read(self, free, files, shape):
        made = written(free.task(dag=files, what=shape("query.sql")))["arguments"]["what"]
        assert recipe.decode(made, None) == shape("SELECT '{{ ds }}'")

    def test_are_read_for_mapped_tasks(self, free, files):
        names = {"what": ["query.sql", "other.sql"], "more": ["query.sql", "x"]}
        texts = ["SELECT '{{ ds }}'", "SELECT 2"]
        made = written(free.mapped(names, dag=files))["expand"]
        assert made == ["dict-of-lists", {"what": texts, "more": names["more"]}]
        made = written(free.mapped([{"what": "query.sql", "more": "query.sql"}], dag=files))["expand"]
        assert made == ["list-of-dicts", [{"what": texts[0], "more": "query.sql"}]]
        made = written(free.mapped({"more": [1]}, dag=files, what="query.sql"))["arguments"]
        assert made["what"] == texts[0]

    def test_are_those_of_template_fields_only(self, free, files):
        assert written(free.task(dag=files, more="query.sql"))["arguments"]["more"] == "query.sql"

    def test_need_an_ending(self, free, files, monkeypatch):
        monkeypatch.setattr(FreeOperator, "template_ext", ())
        assert written(free.task(dag=files, what="query.sql"))["arguments"]["what"] == "query.sql"

    @pytest.mark.parametrize("mapped", [False, True])
    def test_one_that_is_missing_is_left_to_the_worker(self, free, files, why, mapped):
        name = "missing.sql"
        made = free.mapped({"what": [name]}, dag=files) if mapped else free.task(dag=files, what=name)
        assert not made.starts_in_triggerer
        assert "template file 'missing.sql' cannot be read" in why()[0]

    @pytest.mark.parametrize(
        "text",
        [
            "parts.sql",
            "{% include 'other.sql' %}",
            "{%- import 'other.sql' as other %}",
            "{% from 'other.sql' import x %}",
            "{%extends 'other.sql'%}",
            "{%+ include 'other.sql' %}",
        ],
    )
    def test_a_template_that_reads_another_is_left_to_the_worker(self, free, files, why, text):
        assert not free.task(dag=files, what=[text]).starts_in_triggerer
        assert why() == ["one of its templates includes another file, which triggerers do not have"]

    @pytest.mark.parametrize(
        ("text", "asked"),
        [
            ("{{ prev_start_date_success }}", "prev_start_date_success"),
            ("a > '{{\n prev_data_interval_end_success | ds }}'", "prev_data_interval_end_success"),
            ("{% for one in triggering_asset_events %}1{% endfor %}", "triggering_asset_events"),
            ("{{ dag_run.triggering_user_name }}", "dag_run.triggering_user_name"),
            ("{{ ti.get_previous_dagrun() }}", "ti.get_previous_dagrun"),
        ],
    )
    def test_a_template_that_asks_what_only_workers_know(self, free, why, text, asked):
        assert not free.task(what={"a": [text]}).starts_in_triggerer
        assert not free.mapped({"what": ["a", text]}).starts_in_triggerer
        assert why() == [f"only workers know `{asked}`, which one of its templates asks for"] * 2

    def test_words_that_are_no_templates_ask_nothing(self, free):
        assert free.task(what="SELECT prev_start_date_success, '{{ ds }}' FROM a").starts_in_triggerer

    def test_a_file_is_read_though_the_dag_is_serialised_elsewhere(self, free, files):
        made = free.task(dag=files, what="query.sql")
        again = DagSerialization.from_dict(DagSerialization.to_dict(made.parsed.dag))
        assert "SELECT" in str(again.get_task("task").start_trigger_args.trigger_kwargs)


def test_a_plain_operator_says_nothing_of_its_own(free):
    made = free.task(ShortOperator, what="a")
    assert made.starts_in_triggerer
    assert WorkerFree.needs_worker({}, made.parsed) is None
    assert WorkerFree.limit_in_triggerer({}) is None
    assert made.parsed.to_resume() is None
