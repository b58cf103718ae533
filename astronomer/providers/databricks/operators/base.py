"""What the operators of this family share: one way to reach the workspace from a worker."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from astronomer.deferral import CredentialsRejected, JobError, JobOperator, RemoteJob, Transient
from astronomer.deferral.patience import insist, telling_once
from astronomer.deferral.settings import tolerance_of
from astronomer.providers.databricks.errors import ConnectionUnusable
from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["WorkspaceOperator"]

T = TypeVar("T")


class WorkspaceOperator(JobOperator):
    """A :class:`~astronomer.deferral.JobOperator` whose jobs run in a Databricks workspace.

    :param databricks_conn_id: the Airflow connection (templated).
    :param polling_period_seconds: the stock operators' name of ``poll_interval``.
    :param databricks_retry_args: tenacity arguments. Their ``stop`` and ``wait`` say how long an outage is
        tolerated, also while deferred; without them, and without ``outage_tolerance``, it is an hour.
    """

    databricks_conn_id: str
    wait_for_termination: bool

    def __init__(
        self,
        *,
        poll_interval: float | timedelta | None = None,
        polling_period_seconds: float | None = None,
        outage_tolerance: float | timedelta | None = None,
        databricks_retry_args: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if poll_interval is None:
            poll_interval = polling_period_seconds
        if outage_tolerance is None:
            outage_tolerance = tolerance_of(databricks_retry_args)
        super().__init__(
            poll_interval=poll_interval,
            outage_tolerance=outage_tolerance,
            databricks_retry_args=databricks_retry_args,
            **kwargs,
        )
        self.polling_period_seconds = self.poll_interval

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Start the job, or find that of an earlier try; wait for its end, unless ``wait_for_termination`` is off."""
        if self.wait_for_termination:
            return super().execute(context)
        memory = self._memory(context)
        attempt, _ = self._resume(context, memory)
        if attempt.job is None:
            self._submit(context, memory, attempt)
        self._job = None
        self._note_success(context)
        return None

    def _begun_elsewhere(self) -> RemoteJob | None:
        """As in the base class; what nobody waits for is not the task's to end."""
        return super()._begun_elsewhere() if self.wait_for_termination else None

    def in_workspace(self, call: Callable[[DatabricksClient], Coroutine[Any, Any, T]]) -> T:
        """What ``call`` returns, given a client of the connection.

        :raises JobError: the workspace could not be reached, or refused the login.
        """
        read = None if self.in_triggerer is None else self.in_triggerer.read_connection

        async def run() -> T:
            client = await DatabricksClient.shared(self.databricks_conn_id, read)
            try:
                return await call(client)
            finally:
                await client.close()

        try:
            return self._run(run)
        except ConnectionUnusable as error:
            raise JobError(f"T{_sentence(error)[1:]} Nothing was started.") from error
        except CredentialsRejected as error:
            if self.in_triggerer is not None:
                self.in_triggerer.forget(self.databricks_conn_id)
            raise JobError(
                f"Databricks refused the login of the Airflow connection {self.databricks_conn_id!r}: {_sentence(error)} "
                "Check its token, or its client id and secret."
            ) from error
        except Transient as error:
            raise JobError(f"The Databricks workspace could not be reached: {error}") from error

    def ask_workspace(self, call: Callable[[DatabricksClient], Coroutine[Any, Any, T]]) -> T:
        """The same, repeated in bad weather for as long as an outage is tolerated; so it must be harmless to repeat."""
        return self.in_workspace(lambda client: self.insist(lambda: call(client)))

    async def insist(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Repeat a harmless call through bad weather, and say so once."""
        return await insist(call, tolerance=self.outage_tolerance, on_trouble=self.telling_once())

    def telling_once(self) -> Callable[[Transient], None]:
        """What to tell of trouble; only the first is worth a line."""
        return telling_once(self.log, "Databricks")

    @staticmethod
    def _first_try(context: Mapping[str, Any]) -> bool:
        return int(context["ti"].try_number or 1) == 1


def _sentence(error: Exception) -> str:
    return f"{str(error).rstrip('.')}."
