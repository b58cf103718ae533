"""The states of runs and task runs, in the words of both generations of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "BLOCKED",
    "CANCELED",
    "PENDING",
    "RUNNING",
    "SUCCESS",
    "TERMINATING",
    "WAITING",
    "State",
    "disabled",
    "excluded",
    "failed",
    "queued",
    "run_failed",
    "skipped",
    "timed_out",
    "upstream",
]

WORKLOAD_FAILED = "Workload failed, see run output for details"

_ENDED_PHASE = "TERMINATED"
_QUEUE = "The run is queued because the maximum number of concurrent runs of the job are active."


@dataclass(frozen=True)
class State:
    """One state.

    :param life_cycle: ``life_cycle_state`` of the deprecated ``state``; ``result``: its ``result_state``.
    :param phase: ``state`` of the newer ``status``.
    :param code: the termination code; ``type``: its class.
    :param by_force: whether ``user_cancelled_or_timedout``.
    """

    life_cycle: str
    phase: str
    result: str | None = None
    code: str = ""
    type: str = ""
    message: str = ""
    by_force: bool = False

    @property
    def ended(self) -> bool:
        """Whether it is final."""
        return self.phase == _ENDED_PHASE

    def old(self) -> dict[str, Any]:
        """Return the deprecated ``state``."""
        words: dict[str, Any] = {"life_cycle_state": self.life_cycle}
        if self.result:
            words["result_state"] = self.result
        words["state_message"] = self.message
        words["user_cancelled_or_timedout"] = self.by_force
        if self.phase == "QUEUED":
            words["queue_reason"] = self.message
        return words

    def new(self) -> dict[str, Any]:
        """Return the ``status``."""
        if self.ended:
            details = {"code": self.code, "type": self.type, "message": self.message}
            return {"state": self.phase, "termination_details": details}
        if self.phase == "QUEUED":
            details = {"code": "MAX_CONCURRENT_RUNS_REACHED", "message": self.message}
            return {"state": self.phase, "queue_details": details}
        return {"state": self.phase}

    @property
    def text(self) -> str:
        """What a person reads: the result if there is one."""
        return self.result or self.life_cycle


PENDING = State("PENDING", "PENDING")
RUNNING = State("RUNNING", "RUNNING", message="In run")
BLOCKED = State("BLOCKED", "BLOCKED", message="Waiting for upstream tasks to finish")
WAITING = State("WAITING_FOR_RETRY", "WAITING", message="Waiting for retry")
TERMINATING = State("TERMINATING", "TERMINATING", message="Run is terminating")
SUCCESS = State("TERMINATED", "TERMINATED", "SUCCESS", "SUCCESS", "SUCCESS")
CANCELED = State(
    "TERMINATED", "TERMINATED", "CANCELED", "USER_CANCELED", "CLIENT_ERROR", "Run cancelled.", by_force=True
)
SUCCESS_WITH_FAILURES = State(
    "TERMINATED", "TERMINATED", "SUCCESS_WITH_FAILURES", "SUCCESS_WITH_FAILURES", "SUCCESS"
)


def queued(reason: str = _QUEUE) -> State:
    """Return the state of a run that waits for its turn."""
    return State("QUEUED", "QUEUED", message=reason)


def failed(
    message: str = WORKLOAD_FAILED, code: str = "RUN_EXECUTION_ERROR", kind: str = "CLIENT_ERROR"
) -> State:
    """Return the state of a task run that failed."""
    return State("TERMINATED", "TERMINATED", "FAILED", code, kind, message)


def run_failed(message: str, code: str = "RUN_EXECUTION_ERROR", kind: str = "CLIENT_ERROR") -> State:
    """Return the state of a run of which a task failed: the old life cycle says INTERNAL_ERROR."""
    return State("INTERNAL_ERROR", "TERMINATED", "FAILED", code, kind, message)


def timed_out(seconds: float) -> State:
    """Return the state of what ran longer than its ``timeout_seconds``."""
    message = f"Run timed out after {seconds:g} seconds."
    return State("TERMINATED", "TERMINATED", "TIMEDOUT", "CANCELED", "CLIENT_ERROR", message, by_force=True)


def skipped(limit: int) -> State:
    """Return the state of a run that found too many others of its job."""
    message = f"Run was skipped because the limit of {limit} concurrent runs was reached."
    result, code = "MAXIMUM_CONCURRENT_RUNS_REACHED", "MAX_CONCURRENT_RUNS_EXCEEDED"
    return State("SKIPPED", "TERMINATED", result, code, "CLIENT_ERROR", message)


def upstream(result: str, keys: str) -> State:
    """Return the state of a task that never ran because of ``UPSTREAM_FAILED`` or ``UPSTREAM_CANCELED``."""
    how = "failed" if result == "UPSTREAM_FAILED" else "was canceled"
    message = f"Task was skipped because an upstream task {how}: {keys}."
    return State("SKIPPED", "TERMINATED", result, "SKIPPED", "CLIENT_ERROR", message)


def excluded(reason: str) -> State:
    """Return the state of a task whose condition to run was not met."""
    return State("SKIPPED", "TERMINATED", "EXCLUDED", "SKIPPED", "SUCCESS", reason)


def disabled() -> State:
    """Return the state of a task that this run was told to leave out."""
    return State("SKIPPED", "TERMINATED", "DISABLED", "DISABLED", "SUCCESS", "Task was not selected to run.")
