"""Sensors that wait in the triggerer: what all have, and the one whose pokes are remote jobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, NoReturn

from astronomer.deferral import clock
from astronomer.deferral._compat import (
    AirflowSensorTimeout,
    BaseSensorOperator,
    sensor_timeout,
    setting,
    settling_time,
)
from astronomer.deferral.errors import JobError, JobFailed, JobTimedOut
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.job import JobStatus, Outcome, Phase, RemoteJob
from astronomer.deferral.lineage import Lineage, collected_queries
from astronomer.deferral.operator import JobOperator
from astronomer.deferral.poke import PokeTrigger
from astronomer.deferral.settings import seconds
from astronomer.deferral.worker_free import WorkerFree

__all__ = ["NO_TRIGGERER", "DeferrableSensor", "PokeSensor"]

NO_TRIGGERER = 120.0
"""Seconds by which Airflow's own limit is later than the trigger's: it is for a task that no triggerer has room for."""


class DeferrableSensor(Lineage, WorkerFree, BaseSensorOperator):
    """What every sensor of this package has; it stands before the stock sensor among the base classes.

    :param deferrable: ``False`` pokes in a worker, as the stock sensor does.
    :param outage_tolerance: seconds (or ``timedelta``) that the remote side may be out of reach.
    """

    def __init__(
        self,
        *,
        deferrable: bool = True,
        outage_tolerance: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.outage_tolerance = seconds(outage_tolerance, "outage_tolerance", 3600.0)
        self._last_seen: tuple[RemoteJob, JobStatus | None] | None = None

    def last_seen(self) -> tuple[RemoteJob, JobStatus | None] | None:
        """What this process was told of; for lineage."""
        return self._last_seen

    def deadline(self) -> float:
        """Epoch seconds at which this try gives up, counted from now."""
        limits = [float(self.timeout)]
        if self.execution_timeout is not None:
            limits.append(self.execution_timeout.total_seconds())
        if self.in_triggerer is None:
            return clock.now() + min(limits)
        deadline = self.in_triggerer.started_at + min(limits)
        return min(deadline, self.in_triggerer.deadline or deadline)

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:
        """A sensor that is not deferrable pokes in a worker."""
        if not arguments.get("deferrable", True):
            return "it pokes in a worker: deferrable=False"
        return super().needs_worker(arguments, task)

    @classmethod
    def limit_in_triggerer(cls, arguments: Mapping[str, Any]) -> timedelta:
        """The sensor's own timeout, and some time more in which the trigger says so."""
        given = arguments.get("timeout")
        timeout = sensor_timeout() if given is None else seconds(given, "timeout", 0.0)
        return timedelta(seconds=timeout + NO_TRIGGERER)

    def timed_out(self, message: str) -> Exception:
        """The error of a wait whose time is up: of whichever of the two limits was the sooner."""
        limit = self.execution_timeout
        sooner = limit is not None and limit.total_seconds() < self.timeout
        return JobTimedOut(message) if sooner else AirflowSensorTimeout(message)


class PokeSensor(DeferrableSensor):
    """Pokes and waits in the triggerer: each poke is a remote job.

    A family names its ``trigger_type``, and writes :meth:`anchor`, :meth:`trigger_arguments` and :meth:`judge`.
    Airflow's own ``timeout``, ``soft_fail``, ``never_fail``, ``silent_fail``, ``exponential_backoff`` and
    ``max_wait`` mean what they mean in any sensor; ``mode`` counts for pokes in a worker only.

    :param poll_interval: seconds between two looks at a poke that runs.
    """

    trigger_type: ClassVar[type[PokeTrigger]]

    def __init__(
        self,
        *,
        poll_interval: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.poll_interval = seconds(poll_interval, "poll_interval", 5.0)

    # What a family writes.

    def anchor(self) -> Any:
        """A job that names the connection; it has no id yet, because nothing runs."""
        raise NotImplementedError(f"{type(self).__name__}.anchor()")

    def trigger_arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The trigger's own arguments: what a poke runs, and whether ``judge`` is the trigger."""
        raise NotImplementedError(f"{type(self).__name__}.trigger_arguments()")

    def judge(self, context: Mapping[str, Any], job: Any) -> bool:
        """Whether the answer of a poke that has succeeded is yes, where the trigger cannot judge."""
        raise NotImplementedError(f"{type(self).__name__}.judge()")

    def why_in_worker(self) -> str | None:
        """What only a worker can do for this sensor, although it is deferrable; ``None`` when there is nothing."""
        return None

    def met(self, context: Mapping[str, Any], job: Any, event: Mapping[str, Any]) -> bool:
        """Whether the answer is yes: as the trigger says, else as :meth:`judge` does."""
        found = event.get("met")
        return self.judge(context, job) if found is None else bool(found)

    # The one life of a sensor.

    def execute(self, context: Any) -> Any:
        """Defer; the remote side is not asked for anything in the worker."""
        reason = self.why_in_worker() if self.deferrable else None
        if reason is not None and self.in_triggerer is not None:
            raise NeedsWorker(f"poking {reason}")
        if reason is not None:
            self.log.info("Poking in the worker, %s", reason)
        if not self.deferrable or reason is not None:
            return super().execute(context)
        return self._defer(context, deadline=self.deadline(), next_poke=clock.now(), pokes=0)

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Judge what the trigger reported; poke again when it is not yet a yes."""
        self.recall(event)
        job = self.trigger_type.job_type.from_dict(event["job"])
        outcome = None if event.get("outcome") is None else Outcome.from_dict(event["outcome"])
        if event.get("timed_out"):
            raise self._timed_out(event)
        if outcome is not None and outcome.status.phase is not Phase.SUCCEEDED:
            error = self._error(job, outcome)
            if not (self.silent_fail and isinstance(error, JobFailed)):
                raise error
            self.log.error("Sensor poke failed: %s", error)
        elif self.met(context, job, event):
            self.log.info("Success criteria met. Exiting.")
            return
        pokes = int(event["pokes"])
        next_poke = float(event["started_at"]) + self.trigger_type.pause_after(pokes, *self._pace())
        self._defer(context, deadline=float(event["deadline"]), next_poke=next_poke, pokes=pokes)

    def recall(self, event: Mapping[str, Any]) -> None:
        """The last poke: one that succeeded may be what the task fails by, for its answer or at the end of its time."""
        job = self.trigger_type.job_type.from_dict(event["job"])
        status = event.get("status") or (event.get("outcome") or {}).get("status")
        if getattr(job, self.trigger_type.id_field):
            self._last_seen = job, status and JobStatus.from_dict(status)

    def known_pokes(self, text: str) -> dict[str, str]:
        """The texts of pokes by the ids of their queries, for lineage.

        :param text: of a poke that ran in the triggerer.
        """
        if self._last_seen is not None:
            return {getattr(self._last_seen[0], self.trigger_type.id_field): text}
        return collected_queries()

    def _defer(
        self, context: Mapping[str, Any], *, deadline: float, next_poke: float, pokes: int
    ) -> NoReturn:
        interval, exponential, max_wait = self._pace()
        self.defer(
            trigger=self.trigger_type(
                job=self.anchor().to_dict(),
                deadline=deadline,
                poll_interval=self.poll_interval,
                outage_tolerance=self.outage_tolerance,
                cancel_confirm_timeout=setting("cancel_confirm_timeout", 60.0),
                not_before=clock.now() + settling_time(),
                next_poke=next_poke,
                pokes=pokes,
                poke_interval=interval,
                exponential_backoff=exponential,
                max_wait=max_wait,
                **self.trigger_arguments(context),
            ),
            method_name="execute_complete",
        )

    def _pace(self) -> tuple[float, bool, float | None]:
        longest = None if self.max_wait is None else self.max_wait.total_seconds()
        return self.poke_interval, bool(self.exponential_backoff), longest

    def _timed_out(self, event: Mapping[str, Any]) -> Exception:
        message = f"{self.task_id}: the answer was not yes after {event['pokes']} pokes, until the timeout."
        if event.get("message"):
            message += f" {event['message']}"
        return self.timed_out(message)

    def _error(self, job: Any, outcome: Outcome) -> JobError:
        status = outcome.status
        said = ": ".join(part for part in (status.code, status.message) if part) or status.raw
        url = getattr(job, "url", "") if getattr(job, self.trigger_type.id_field) else ""
        where = f" See {url}" if url else ""
        return JobOperator.error_type(outcome)(f"The poke did not succeed ({said}).{where}")
