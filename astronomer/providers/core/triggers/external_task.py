"""The trigger of sensors on other Dags of this Airflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from astronomer.deferral import JobTrigger, RemoteJob
from astronomer.providers.core.jobs.external import ExternalWait

__all__ = ["ExternalTaskTrigger"]


@dataclass(eq=False, repr=False)
class ExternalTaskTrigger(JobTrigger):
    """Waits for tasks, a task group or runs of another Dag, together with all others that wait for that Dag."""

    job_type: ClassVar[type[RemoteJob]] = ExternalWait
