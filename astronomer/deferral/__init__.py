"""The engine: wait for remote work once, patiently, in bulk, and without a worker.

``docs/explain/architecture.md`` tells how the parts fit; :mod:`astronomer.deferral.testing` has what a test needs.
"""

from __future__ import annotations

from astronomer.deferral.errors import (
    CredentialsRejected,
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    JobTimedOut,
    Transient,
)
from astronomer.deferral.hub import Hub
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.job import JobStatus, Outcome, Phase, Poller, RemoteJob
from astronomer.deferral.memory import Attempt
from astronomer.deferral.operator import JobOperator
from astronomer.deferral.pacing import Pacing
from astronomer.deferral.poke import PokeTrigger
from astronomer.deferral.sensor import DeferrableSensor, PokeSensor
from astronomer.deferral.threads import ClientThreads
from astronomer.deferral.trigger import JobTrigger
from astronomer.deferral.watch import cancel_and_confirm, watch
from astronomer.deferral.watch_sensor import WatchSensor

__all__ = [
    "Attempt",
    "ClientThreads",
    "CredentialsRejected",
    "DeferrableSensor",
    "Hub",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobLost",
    "JobOperator",
    "JobStatus",
    "JobTimedOut",
    "JobTrigger",
    "NeedsWorker",
    "Outcome",
    "Pacing",
    "Phase",
    "PokeSensor",
    "PokeTrigger",
    "Poller",
    "RemoteJob",
    "TaskIdentity",
    "Transient",
    "WatchSensor",
    "cancel_and_confirm",
    "watch",
]
