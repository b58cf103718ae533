"""The trigger of the file sensor, under the path that 1.x had. It stands in Airflow's database: it never moves."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

from astronomer.deferral import JobTrigger, RemoteJob
from astronomer.providers.core.jobs.files import FileWait

__all__ = ["FileTrigger"]


@dataclass(eq=False, repr=False)
class FileTrigger(JobTrigger):
    """Wait for a file; all waits in one directory share one look at it.

    :param filepath: as 1.x stored it, in the place of ``job``; likewise ``recursive``.
    """

    job: dict[str, Any] = field(default_factory=dict)
    filepath: InitVar[str | None] = None
    recursive: InitVar[bool] = False

    job_type: ClassVar[type[RemoteJob]] = FileWait

    def __post_init__(self, filepath: str | None, recursive: bool) -> None:
        super().__post_init__()
        if filepath is not None:
            self.job = FileWait(filepath, recursive).to_dict()
