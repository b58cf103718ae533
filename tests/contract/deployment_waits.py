"""Sensors on another deployment, which is in memory, and on virtual time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from astronomer.deferral import Transient
from astronomer.providers.core.hooks import deployment, deployment_login
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from tests.contract.waits import WaitFamily, WaitWorld
from tests.unit.core.deployments import TOKEN, URL, Deployment, reply
from tests.unit.deferral.fakes import Timeline

__all__ = ["DEPLOYMENT_WAITS"]

_TROUBLES: dict[str, Any] = {
    "error": 503,
    "throttled": reply(429, {"detail": "slowly"}, headers={"Retry-After": "5"}),
    "reset": Transient("POST /api/v2: connection reset by peer"),
    "page": reply(200, b"<html>We are back soon.</html>"),
}


class DeploymentWorld(WaitWorld):
    """Each thing is what is waited for of one run of the Dag ``orders`` over there."""

    def __init__(self, timeline: Timeline, there: Deployment, which: dict[str, Any]) -> None:
        super().__init__(timeline)
        self.there = there
        self.which = which
        self.questions_per_look = 2 if which else 1  # for the runs, and for their tasks
        there.touched = self.touched  # type: ignore[attr-defined]

    def make(self, thing: int, **arguments: Any) -> Any:
        how = {"external_dag_id": "orders", "external_run_id": f"run-{thing}", "check_existence": False}
        return ExternalDeploymentSensor(**how | {"failed_states": []} | self.which | arguments)

    def begin(self, thing: int) -> None:
        self.there.start(f"run-{thing}", load="running")

    def come_true(self, thing: int) -> None:
        self._end(thing, "success")

    def go_wrong(self, thing: int) -> None:
        self._end(thing, "failed")

    def _end(self, thing: int, state: str) -> None:
        self.there.set(f"run-{thing}", load=state)
        self.there.end(f"run-{thing}", state=state)

    @property
    def fragile(self) -> dict[str, Any]:
        return {"failed_states": ["failed"]}

    def vanish(self, thing: int) -> None:
        self.there.delete(f"run-{thing}")

    def report_unknown_state(self, thing: int) -> None:
        self.there.set(f"run-{thing}", load="wobbling")
        self.there.runs["orders", f"run-{thing}"]["state"] = "wobbling"

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        many = 10_000 if times is None else times
        self.there.script = [_TROUBLES[kind] for kind in kinds for _ in range(many)]

    def clear_up(self) -> None:
        self.there.script = []

    @property
    def questions(self) -> list[float]:
        return [at for at, _, _ in self.there.asked]

    def forget(self) -> None:
        self.there.asked.clear()


class DeploymentFamily(WaitFamily):
    """A sensor on the Dag ``orders`` of another deployment."""

    kinds: ClassVar[tuple[str, ...]] = tuple(_TROUBLES)

    def __init__(self, name: str, **which: Any) -> None:
        self.name = name
        self.which = which

    @contextmanager
    def world(self) -> Iterator[WaitWorld]:
        there = Deployment()
        with Timeline().in_place() as timeline, pytest.MonkeyPatch.context() as patch:
            patch.setattr(deployment, "new_transport", lambda ca_file: there)
            patch.setattr(deployment_login, "_kept", {})
            connection = {"conn_type": "Astro Cloud", "host": URL, "password": TOKEN}
            patch.setenv("AIRFLOW_CONN_ASTRO_CLOUD_DEFAULT", json.dumps(connection))
            yield DeploymentWorld(timeline, there, self.which)
            assert there.methods <= {"GET", "POST"}


DEPLOYMENT_WAITS: tuple[WaitFamily, ...] = (
    DeploymentFamily("deployment-run"),
    DeploymentFamily("deployment-task", external_task_id="load"),
)
