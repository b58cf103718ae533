"""One phase of a measurement: submit, hand over, watch, stop, and ask the stand-in what was true."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.place import Place
from benchmarks.plan import Plan
from benchmarks.shapes import Remote, Report, Submitted, Wait
from benchmarks.sides import Side
from benchmarks.supervisor import Triggerer

__all__ = ["Control", "Seen", "Vendor", "run"]

_SUBMITTING = 600.0


class Control(Protocol):
    """What steers a stand-in."""

    def requests(self) -> list[dict[str, Any]]:
        """Its log of requests."""

    def clear_requests(self) -> None:
        """Begin a new log."""

    def storm(self, seconds: float) -> None:
        """Disturb nearly every request for so long."""

    def clear_faults(self) -> None:
        """Disturb none any more."""


class Vendor(Protocol):
    """What a family brings to a measurement.

    :ivar sides: the trigger of each side.
    :ivar submit: the module that starts the remote work of a plan, in a process of its own: ``-m MODULE PLAN OUT``,
        once it is told to by a line.
    :ivar count: module and name of a function whose calls are counted, if any.
    """

    sides: Mapping[str, Side]
    submit: str
    count: tuple[str, str] | None

    def control(self, place: Place) -> Control:
        """What steers the stand-in at that place."""

    def remotes(self, place: Place) -> Mapping[str, Remote]:
        """What the stand-in knows of all remote work, by its id."""

    def sent_by(self, side: str, request: Mapping[str, Any]) -> bool:
        """Whether a request of the log is that side's, when both run at once."""


@dataclass(frozen=True)
class Seen:
    """What is known of one side of a phase. Moments are epoch seconds.

    :param remotes: the stand-in's record of each piece of remote work, in the order of the waits.
    :param requests: its log of the requests of this side.
    :param started_at: when every trigger had made its first step.
    :param questions: what the triggers asked the supervisor; each costs Airflow's own one some twenty SQL statements.
    :param failures: why triggers failed, by the number of the wait, counted from 1.
    """

    plan: Plan
    start: float
    started_at: float
    stopped_at: float
    remotes: list[Remote]
    requests: list[dict[str, Any]]
    report: Report
    log_lines: int
    questions: int
    failures: dict[int, str] = field(default_factory=dict)


def run(
    name: str,
    plan: Plan,
    vendor: Vendor,
    sides: Sequence[str],
    place: Place,
    directory: Path,
    env: Mapping[str, str],
    *,
    warm: bool = True,
) -> dict[str, Seen]:
    """Run the plan for all these sides at once.

    :param warm: in triggerers that have imported what a wait needs.
    """
    control = vendor.control(place)
    control.clear_faults()
    with ExitStack() as running:
        triggerers = _triggerers(name, vendor, sides, place, directory, env, warm=warm)
        for triggerer in triggerers.values():
            running.callback(triggerer.close)
        submitting = _Submitting(name, plan, vendor.submit, sides, directory, env)
        running.callback(submitting.close)
        for triggerer in triggerers.values():
            triggerer.wait_until_ready()
        submitted = submitting.go()
        control.clear_requests()
        _sleep_until(submitted["start"])
        start = time.time()
        for side, triggerer in triggerers.items():
            triggerer.hand_over(submitted["waits"][side], plan.per_sync)
        if plan.storm:
            _sleep_until(start + plan.storm_at)
            control.storm(plan.storm)
        _wait_for_ends(plan, start, triggerers, submitted["waits"], vendor, place)
        stopped_at = time.time()
        failures = {side: dict(triggerer.failures) for side, triggerer in triggerers.items()}
        reports = {side: triggerer.stop() for side, triggerer in triggerers.items()}
        control.clear_faults()
    remotes, requests = vendor.remotes(place), control.requests()
    return {
        side: Seen(
            plan=plan,
            start=start,
            started_at=triggerer.started_at or stopped_at,
            stopped_at=stopped_at,
            remotes=[remotes[wait["remote_id"]] for wait in submitted["waits"][side]],
            requests=[one for one in requests if vendor.sent_by(side, one)],
            report=reports[side],
            log_lines=triggerer.log_lines,
            questions=triggerer.questions,
            failures=failures[side],
        )
        for side, triggerer in triggerers.items()
    }


def _triggerers(
    name: str,
    vendor: Vendor,
    sides: Sequence[str],
    place: Place,
    directory: Path,
    env: Mapping[str, str],
    *,
    warm: bool,
) -> dict[str, Triggerer]:
    """One for each side, starting."""
    return {
        side: Triggerer(
            vendor.sides[side],
            directory,
            f"{name}-{side}",
            env,
            redirect={place.redirect: place.port},
            count=vendor.count,
            warm=warm,
        )
        for side in sides
    }


def _wait_for_ends(
    plan: Plan,
    start: float,
    triggerers: Mapping[str, Triggerer],
    waits: Mapping[str, list[Wait]],
    vendor: Vendor,
    place: Place,
) -> None:
    """Return when every wait that counts has ended, or patience has."""
    ended: Mapping[str, Remote] | None = None
    if plan.watched is not None:
        _sleep_until(start + plan.last)
        ended = {name: one for name, one in vendor.remotes(place).items() if one["ended_at"] is not None}
    for side, triggerer in triggerers.items():
        due = [
            number
            for number, wait in enumerate(waits[side], 1)
            if ended is None or wait["remote_id"] in ended
        ]
        triggerer.wait_until_finished(due, max(0.0, start + plan.over - time.time()))


class _Submitting:
    """The process that starts the remote work; it imports what it needs first, and waits for :meth:`go`."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        module: str,
        sides: Sequence[str],
        directory: Path,
        env: Mapping[str, str],
    ) -> None:
        given, self._out = directory / f"{name}.plan.json", directory / f"{name}.submitted.json"
        given.write_text(json.dumps({"plan": asdict(plan), "sides": list(sides)}))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(given), str(self._out)],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def go(self) -> Submitted:
        """Start the remote work.

        :raises RuntimeError: it did not work; with what the process printed.
        """
        _, errors = self._process.communicate("go\n", timeout=_SUBMITTING)
        if self._process.returncode:
            raise RuntimeError(f"the remote work could not be submitted:\n{errors[-4000:]}")
        submitted: Submitted = json.loads(self._out.read_text())
        return submitted

    def close(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
