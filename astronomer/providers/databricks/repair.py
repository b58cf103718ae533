"""Repair a run that failed: once, whoever asks and however often.

Source: docs.databricks.com/api/workspace/jobs/repairrun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astronomer.deferral import Transient
from astronomer.deferral.patience import insist
from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["Repair", "repairs_of", "settings_for"]


def repairs_of(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The repairs of a run that was read with its history, oldest first."""
    history: Sequence[Mapping[str, Any]] = run.get("repair_history") or []
    return [one for one in history if one.get("type", "REPAIR") != "ORIGINAL"]


def settings_for(reasons: Mapping[str, Any], message: str) -> tuple[bool, Any]:
    """Whether a failure with that message is to be repaired, and the job's new settings, if it needs some.

    :param reasons: parts of a message, each with settings; when there are none, every failure is repaired.
    """
    if not reasons:
        return True, None
    for reason, settings in reasons.items():
        if reason in message:
            return True, settings
    return False, None


@dataclass
class Repair:
    """Reruns the failed tasks of one run.

    :param repairs_before: how many repairs the run had when this one was decided; when it has more, it was made.
    :param on_trouble: told of bad weather, each time.
    """

    client: DatabricksClient
    run_id: int
    repairs_before: int
    job_parameters: Mapping[str, Any] | None = None
    tolerance: float = 3600.0
    on_trouble: Callable[[Transient], object] | None = None

    async def run(self) -> int:
        """The repair's id; safe to repeat after a crash or a lost answer.

        :raises RequestRejected: Databricks does not repair this run.
        """
        return await insist(self._step, tolerance=self.tolerance, on_trouble=self.on_trouble)

    async def _step(self) -> int:
        run = await self.client.get("2.2/jobs/runs/get", run_id=self.run_id, include_history=True)
        made = repairs_of(run)
        if len(made) > self.repairs_before:
            return int(made[-1]["id"])
        body: dict[str, Any] = {"run_id": self.run_id, "rerun_all_failed_tasks": True}
        if made:
            body["latest_repair_id"] = made[-1]["id"]
        if self.job_parameters:
            body["job_parameters"] = dict(self.job_parameters)
        answer = await self.client.post("2.2/jobs/runs/repair", body)
        if "repair_id" not in answer:
            raise Transient("the answer to POST /api/2.2/jobs/runs/repair names no repair")
        return int(answer["repair_id"])
