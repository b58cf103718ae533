"""What an earlier release has stored in Airflow's database is read by this one.

Triggers, their events and a task's memory outlive an upgrade; so class paths, field names and submit keys are API.
Each file here is one release. Record the next one, just before it is tagged, with::

    python -m tests.serialised.samples > tests/serialised/<version>.json
"""

import importlib
import inspect
import json
import pkgutil
from importlib.metadata import version
from pathlib import Path

import pytest

import astronomer.providers
from astronomer.deferral import Attempt, JobTrigger, Outcome, TaskIdentity, recipe
from astronomer.deferral.job import known_fields
from astronomer.deferral.worker_free import WorkerFree
from tests.serialised.samples import record

RELEASES = {path.stem: json.loads(path.read_text()) for path in sorted(Path(__file__).parent.glob("*.json"))}
TRIGGERS = [
    pytest.param(one, id=f"{release}-{one['classpath'].rpartition('.')[2]}")
    for release, recorded in RELEASES.items()
    for one in recorded["triggers"]
]


def class_of(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def everything_shipped():
    """All trigger classes of the package."""
    for module in pkgutil.walk_packages(astronomer.providers.__path__, "astronomer.providers."):
        importlib.import_module(module.name)

    def below(cls):
        return {cls, *(one for child in cls.__subclasses__() for one in below(child))}

    ours = {cls for cls in below(JobTrigger) - {JobTrigger} if cls.__module__.startswith("astronomer.")}
    return {cls for cls in ours if not inspect.isabstract(cls)}


@pytest.mark.parametrize("stored", TRIGGERS)
def test_a_trigger_is_inflated(stored):
    """As Airflow's triggerer does it: import the class, call it with the stored arguments."""
    trigger = class_of(stored["classpath"])(**stored["kwargs"])
    _, arguments = trigger.serialize()
    assert {name: arguments[name] for name in stored["kwargs"]} == stored["kwargs"]
    assert trigger.remote_job.to_dict() | stored["kwargs"]["job"] == trigger.remote_job.to_dict()
    assert trigger.remote_job.name
    assert trigger.remote_job.connection_key


@pytest.mark.parametrize("release", RELEASES)
def test_an_event_is_understood(release):
    for trigger, event in zip(RELEASES[release]["triggers"], RELEASES[release]["events"], strict=True):
        assert Outcome.from_dict(event["outcome"]).to_dict() == event["outcome"]
        job = class_of(trigger["classpath"]).job_type.from_dict(event["job"])
        assert job.to_dict() | event["job"] == job.to_dict()


@pytest.mark.parametrize("release", RELEASES)
def test_a_task_remembers(release):
    recorded = RELEASES[release]
    for attempt in recorded["attempts"]:
        assert Attempt(**known_fields(Attempt, attempt)).submit_key == attempt["submit_key"]
    assert TaskIdentity("dag", "run", "task", -1, 2).submit_key(1) == recorded["submit_key"]


@pytest.mark.parametrize("release", RELEASES)
def test_a_recipe_makes_an_operator(release):
    for one in RELEASES[release].get("recipes", []):
        kind = recipe.load(one["operator"])
        assert issubclass(kind, WorkerFree)
        arguments = recipe.decode(one["arguments"], lambda task, key: f"{task}.{key}")
        which, mapped = one["expand"] or ("", None)
        assert which in {"", "dict-of-lists", "list-of-dicts"}
        instance = {name: values[0] for name, values in (mapped or {}).items()}
        made = kind(task_id="task", **arguments, **instance)
        assert made.sql == arguments.get("sql", instance.get("sql"))


def test_this_release_is_recorded_as_it_is():
    assert RELEASES[version("astronomer-providers")] == json.loads(json.dumps(record()))


def test_every_trigger_is_recorded():
    recorded = {class_of(one["classpath"]) for one in RELEASES[version("astronomer-providers")]["triggers"]}
    assert recorded == everything_shipped()
