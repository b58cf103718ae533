"""The trigger of sensors on another deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from astronomer.deferral import JobTrigger, RemoteJob
from astronomer.providers.core.jobs.deployment import DeploymentWait

__all__ = ["AstroDeploymentTrigger"]


@dataclass(eq=False, repr=False)
class AstroDeploymentTrigger(JobTrigger):
    """Waits for tasks, a task group or runs of another deployment, together with all others over the connection."""

    job_type: ClassVar[type[RemoteJob]] = DeploymentWait
