"""What is rendered in the triggerer, and what is not: as Airflow does it in a worker."""

import asyncio
import re

import pytest
from airflow.sdk import BaseOperator, Param
from airflow.sdk.execution_time.comms import GetXCom

from astronomer.deferral import worker_free
from astronomer.deferral._compat_triggerer import Pulled, adopt
from tests.unit.deferral.fakes import START
from tests.unit.deferral.free import FreeOperator, ShortOperator
from tests.worker_free import RUN


def rendered(free, what, **more):
    return free.result(free.task(ShortOperator, what=what, **more))


def push(free, task_id, value, map_index=-1, key="return_value"):
    free.airflow.xcoms[(RUN, task_id, map_index, key)] = value


def with_upstream(free, what, *, mapped=False, map_index=-1):
    """A task after ``up``; ``what`` is made of its output."""

    def make():
        if mapped:
            up = BaseOperator.partial(task_id="up").expand(doc=["a", "b", "c"])
        else:
            up = BaseOperator(task_id="up")
        return ShortOperator(task_id="task", start_from_trigger=True, what=what(up))

    return free.dag(make, map_index=map_index)


class TestFields:
    @pytest.mark.parametrize(
        ("template", "value"),
        [
            ("{{ ds }} {{ run_id }}", f"2026-01-01 {RUN}"),
            ("{{ ti.task_id }} {{ task.task_id }} {{ ti.try_number }} {{ ti.map_index }}", "task task 1 -1"),
            ("{{ data_interval_end | ds }}", "2026-01-02"),
            ({"a": ["{{ ds }}", ("{{ ds }}", 1)]}, {"a": ["2026-01-01", ("2026-01-01", 1)]}),
            ("{{ dag.dag_id }}", "dag"),
            ("{{ task_state_store }}", "None"),  # its questions are none that a triggerer may ask
        ],
    )
    def test_know_the_context(self, free, template, value):
        assert rendered(free, template) == value

    def test_know_the_task(self, free):
        template = "{{ task.owner }} {{ task.queue }} {{ task.doc_md }} {{ task.params.a }} {{ task.task_display_name }}"
        given = {
            "owner": "me",
            "queue": "q",
            "doc_md": "words",
            "params": {"a": 5},
            "task_display_name": "It",
        }
        assert rendered(free, template, **given) == "me q words 5 It"

    def test_know_the_tasks_beside_it(self, free):
        def make():
            up, down = BaseOperator(task_id="up"), BaseOperator(task_id="down")
            what = "{{ task.upstream_task_ids | list }} {{ task.downstream_task_ids | list }}"
            task = ShortOperator(task_id="task", start_from_trigger=True, what=what)
            up >> task >> down
            return task

        assert free.result(free.dag(make)) == "['up'] ['down']"

    @pytest.mark.parametrize(
        ("template", "asked"),
        [
            ("prev_start_date_success", "prev_start_date_success"),
            ("prev_end_date_success | string", "prev_end_date_success"),
            ("prev_data_interval_start_success | ds", "prev_data_interval_start_success"),
            ("prev_data_interval_end_success.year", "prev_data_interval_end_success"),
            ("triggering_asset_events | length", "triggering_asset_events"),
            ("ti.get_template_context().triggering_asset_events", "triggering_asset_events"),
            ("ti.get_previous_dagrun()", "get_previous_dagrun"),
            ("ti.get_task_breadcrumbs('dag', 'run')", "get_task_breadcrumbs"),
            ("ti.get_dag('dag')", "get_dag"),
        ],
    )
    def test_who_asks_what_only_workers_know_goes_on_there(self, free, monkeypatch, template, asked):
        monkeypatch.setattr(worker_free, "_ASKS_A_WORKER", re.compile("never"))
        task = free.task(ShortOperator, what=f"{{{{ {template} }}}}")
        assert free.run(task).resume == {"why": f"only workers know `{asked}`"}

    def test_know_the_params(self, free):
        template = "{{ params.size }} {{ params['colour'] }}"
        params = {"size": Param(5, type="integer"), "colour": "red"}
        assert rendered(free, template, dag={"params": params}) == "5 red"

    def test_of_native_dags_have_native_values(self, free):
        native = {"render_template_as_native_obj": True}
        assert rendered(free, "{{ [1, 2] }}", dag=native) == [1, 2]
        assert rendered(free, "{{ [1, 2] }}") == "[1, 2]"
        assert free.result(free.mapped({"what": ["{{ 1 + 1 }}"]}, dag=native)) == 2

    def test_are_rendered_once(self, free):
        assert rendered(free, "{{ '{{ ds }}' }}") == "{{ ds }}"

    def test_others_are_not_rendered(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "finish", lambda self, *given: self.more)
        assert free.result(free.task(more="{{ ds }}")) == "{{ ds }}"

    def test_are_rendered_on_a_thread(self, free):
        where = "{{ ti.xcom_pull('up') }}"
        push(free, "up", "there")
        with pytest.MonkeyPatch.context() as patch:
            seen = []
            patch.setattr(free.airflow, "before", lambda message: seen.append(_has_loop()))
            assert rendered(free, where) == "there"
        assert True not in seen


def _has_loop():
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


class TestPulls:
    def test_of_a_task(self, free):
        push(free, "up", {"a": [1]})
        push(free, "up", "other", key="k")
        assert (
            rendered(free, "{{ ti.xcom_pull('up')['a'][0] }} {{ ti.xcom_pull('up', key='k') }}") == "1 other"
        )

    def test_of_several(self, free):
        for name in ("a", "b"):
            push(free, name, name * 2)
        assert rendered(free, "{{ ti.xcom_pull(['a', 'none', 'b']) }}") == "['aa', 'bb']"
        assert rendered(free, "{{ ti.xcom_pull(['a']) }}") == "['aa']"

    def test_of_none_is_the_default(self, free):
        assert rendered(free, "{{ ti.xcom_pull('none') }} {{ ti.xcom_pull('none', default=5) }}") == "None 5"

    def test_of_the_task_itself(self, free):
        push(free, "task", "mine", key="k")
        assert rendered(free, "{{ ti.xcom_pull(key='k') }}") == "mine"

    def test_of_a_mapped_task_are_all_of_them(self, free):
        for index, value in ((0, "a"), (2, "c")):
            push(free, "up", value, index)
        free.airflow.count = lambda message: 3
        task = with_upstream(free, lambda up: "{{ ti.xcom_pull('up') }}", mapped=True)
        assert free.result(task) == "['a', 'c']"

    def test_of_a_mapped_task_with_one_value_is_that(self, free):
        push(free, "up", "a", 0)
        task = with_upstream(free, lambda up: "{{ ti.xcom_pull('up') }}", mapped=True)
        assert free.result(task) == "a"

    def test_of_some_map_indexes(self, free):
        for index, value in enumerate("abc"):
            push(free, "up", value, index)
        template = (
            "{{ ti.xcom_pull('up', map_indexes=1) }} {{ ti.xcom_pull('up', map_indexes=[0, 2]) | list }}"
        )
        task = with_upstream(free, lambda up: template, mapped=True)
        assert free.result(task) == "b ['a', 'c']"

    def test_of_another_run_or_dag(self, free):
        push(free, "up", "mine")
        free.airflow.xcoms[("other", "up", -1, "return_value")] = "theirs"
        assert rendered(free, "{{ ti.xcom_pull('up', run_id='other') }}") == "theirs"
        rendered(free, "{{ ti.xcom_pull('up', dag_id='else', include_prior_dates=True) }}")
        last = [one for one in free.airflow.of(GetXCom) if one.task_id == "up"][-1]
        assert (last.dag_id, last.include_prior_dates, last.map_index) == ("else", True, None)


class TestXComArguments:
    def test_refer_to_nothing_once_they_are_read(self):
        assert list(Pulled("value").iter_references()) == []

    @pytest.mark.parametrize("value", ["{{ ds }}", "query.sql", {"a": "{{ ds }}"}, ["{{ ds }}"]])
    def test_are_not_rendered_again(self, free, value):
        push(free, "up", value)
        assert free.result(with_upstream(free, lambda up: up.output)) == value
        within = {"given": value, "own": "2026-01-01"}
        assert free.result(with_upstream(free, lambda up: {"given": up.output, "own": "{{ ds }}"})) == within

    def test_of_a_mapped_task_are_all_of_its_values(self, free):
        free.airflow.count = lambda message: 3
        for index, value in enumerate("abc"):
            push(free, "up", value, index)
        assert list(free.result(with_upstream(free, lambda up: up.output, mapped=True))) == ["a", "b", "c"]

    def test_in_other_arguments_are_their_value(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "template_fields", ("what", "more"))
        monkeypatch.setattr(FreeOperator, "finish", lambda self, *given: [self.what, self.more])
        push(free, "up", 7)

        def make():
            up = BaseOperator(task_id="up")
            return FreeOperator(**free.given(FreeOperator, {"more": {"n": up.output}}))

        assert free.result(free.dag(make)) == ["done", {"n": 7}]


def in_worker(free, make, map_index):
    """The task as Airflow's own code renders it in a worker, with the XComs that the triggerer has."""
    task = free.dag(make, map_index=map_index)
    task.schedule()
    trigger = task.trigger()
    _, context = adopt(trigger.task_instance, trigger.task_instance.get_template_context(), START)
    task.parsed.render_template_fields(context)
    return context["task"]


DS = "{{ ds }}"
WAYS = {
    "texts": {"what": [DS, "b"]},
    "lists": {"what": [[DS, "b"], ["c"]]},
    "dictionaries": {"what": [{"k": DS}, {"k": [DS]}]},
    "a dictionary": {"what": {DS: DS, "k": "v"}},
    "two": {"what": [DS, "b"], "more": [1, DS]},
    "numbers": {"what": [1, None]},
    "dictionaries of arguments": [{"what": DS, "more": DS}, {"what": "b"}],
    "dictionaries of lists": [{"what": [DS]}, {"what": {"k": DS}}],
    "dictionaries of numbers": [{"what": 5}, {"what": None}],
}


class TestMapped:
    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("expand", WAYS.values(), ids=WAYS)
    def test_values_are_as_in_a_worker(self, free, monkeypatch, expand, index):
        monkeypatch.setattr(FreeOperator, "finish", lambda self, *given: [self.what, self.more])
        task = free.mapped(expand, index)
        worker = in_worker(free, lambda: self.make(free, expand), index)
        assert free.result(task) == [worker.what, worker.more]

    @staticmethod
    def make(free, expand):
        partial = FreeOperator.partial(**free.given(FreeOperator, {}))
        return partial.expand(**expand) if isinstance(expand, dict) else partial.expand_kwargs(expand)

    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("way", ["expand", "expand_kwargs"])
    @pytest.mark.parametrize("kind", [lambda one: one, lambda one: [one], lambda one: {"k": one}])
    def test_values_of_an_xcom_are_as_in_a_worker(self, free, way, kind, index):
        values = [kind(DS), kind("b")]
        push(free, "up", values if way == "expand" else [{"what": one} for one in values])

        def make():
            output = BaseOperator(task_id="up").output
            partial = FreeOperator.partial(**free.given(FreeOperator, {}))
            return partial.expand(what=output) if way == "expand" else partial.expand_kwargs(output)

        worker = in_worker(free, make, index)
        assert free.result(free.dag(make, map_index=index)) == worker.what

    @pytest.mark.parametrize("index", [0, 1])
    def test_an_xcom_among_other_values_is_not_rendered(self, free, index):
        push(free, "up", DS)

        def make():
            output = BaseOperator(task_id="up").output
            return FreeOperator.partial(**free.given(FreeOperator, {})).expand(what=[output, {"k": output}])

        worker = in_worker(free, make, index).what
        assert free.result(free.dag(make, map_index=index)) == worker == [DS, {"k": DS}][index]

    def test_of_arguments_of_airflow_are_for_workers(self, free):
        push(free, "up", [{"params": {"a": 1}, "what": "{{ params.a }}"}])

        def make():
            up = BaseOperator(task_id="up")
            partial = ShortOperator.partial(task_id="task", start_from_trigger=True)
            return partial.expand_kwargs(up.output)

        ended = free.run(free.dag(make, map_index=0))
        assert ended.resume == {"why": "workers are told what `params` is mapped to"}

    def test_nor_is_one_in_a_dictionary_of_arguments(self, free):
        push(free, "up", DS)

        def make():
            output = BaseOperator(task_id="up").output
            return FreeOperator.partial(**free.given(FreeOperator, {})).expand_kwargs([{"what": output}])

        assert free.result(free.dag(make, map_index=0)) == DS

    @pytest.mark.parametrize("index", range(4))
    def test_all_pairs_of_values_are_made(self, free, monkeypatch, index):
        monkeypatch.setattr(FreeOperator, "finish", lambda self, *given: [self.what, self.more])
        expand = {"what": ["a", "b"], "more": [1, 2]}
        expected = [["a", 1], ["a", 2], ["b", 1], ["b", 2]]
        assert free.result(free.mapped(expand, index)) == expected[index]

    def test_the_rest_is_rendered_with_the_index(self, free):
        template = "{{ ti.map_index }} {{ task.more }}"
        assert free.result(free.mapped({"more": ["a", "b"]}, 1, what=template)) == "1 b"

    def test_each_remembers_its_own(self, free):
        expand = {"what": ["a", "b"]}
        assert [free.result(free.mapped(expand, index)) for index in (0, 1)] == ["a", "b"]
        assert len(set(free.service.submits)) == 2
