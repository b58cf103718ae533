"""A run of a Databricks job, or one task of it, as a remote job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from astronomer.deferral import CredentialsRejected, RemoteJob

if TYPE_CHECKING:
    from astronomer.providers.databricks.jobs.poller import RunPoller

__all__ = ["DatabricksRun"]


@dataclass(frozen=True)
class DatabricksRun(RemoteJob):
    """One run, or one task of a run that several Airflow tasks wait for.

    :param run_id: the run to wait for; for a task of a run, the id that the task has now.
    :param conn_id: the Airflow connection to ask over.
    :param url: the run's page.
    :param address: of the workspace that it runs in, where that is known.
    :param job_id: the job it is a run of.
    :param started_at: epoch seconds at which Databricks accepted it; 0 where that is not known.
    :param repair_id: the repair to wait for, when the run was repaired.
    :param parent_run_id: the run whose task this is; all tasks of one run are asked for at once.
    :param task_key: the task's key in that run. A task that is retried or repaired gets a new ``run_id``.
    :param task_retries: how often Databricks itself retries the task; -1 for ever.
    :param retry_on_timeout: whether it also retries the task when it took too long.
    :param until_started: whether only its start is waited for. What is cancelled is the run all the same.
    """

    run_id: int
    conn_id: str
    url: str = ""
    address: str = ""
    job_id: int | None = None
    started_at: float = 0.0
    repair_id: int | None = None
    parent_run_id: int | None = None
    task_key: str = ""
    task_retries: int = 0
    retry_on_timeout: bool = False
    until_started: bool = False

    connection_fields: ClassVar[tuple[str, ...]] = ("conn_id", "address")

    @property
    def name(self) -> str:
        """How log lines call it."""
        if self.parent_run_id is not None:
            return f"Databricks task {self.task_key!r} of run {self.parent_run_id}"
        return f"{'The start of ' if self.until_started else ''}Databricks run {self.run_id}"

    @property
    def whole(self) -> DatabricksRun:
        """The run, of which only the start is waited for."""
        return replace(self, until_started=False)

    def check(self, address: str) -> None:
        """Notice a connection that was edited to point elsewhere while the run goes on.

        :raises CredentialsRejected: it was.
        """
        if self.address and address != self.address:
            raise CredentialsRejected(
                f"the Airflow connection {self.conn_id!r} now points to {address}, but {self.name} was started in "
                f"{self.address}"
            )

    def poller(self) -> RunPoller:
        """A poller over the client that all waits on the connection share."""
        from astronomer.providers.databricks.jobs.poller import RunPoller

        return RunPoller(self)
