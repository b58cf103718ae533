"""The errors of a wait, as a tree by what the caller can do about each.

``JobError`` and its children end a task; Airflow's retries apply to them. ``Transient`` and its child never
reach a task: the engine answers them with patience.
"""

from __future__ import annotations

from astronomer.deferral._compat import AirflowException, AirflowTaskTimeout

__all__ = [
    "CredentialsRejected",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobLost",
    "JobTimedOut",
    "Transient",
]


class JobError(AirflowException):
    """The remote job did not succeed. Catch this to handle every way in which that happens."""


class JobFailed(JobError):
    """The remote side ran the job and reported a failure. Fix the job; a retry starts a new one."""


class JobCancelled(JobError):
    """Somebody ended the job outside Airflow. Ask them; a retry starts a new one."""


class JobLost(JobError):
    """The job can no longer be seen and may still be running. A retry looks for it and starts nothing new."""


class JobTimedOut(JobError, AirflowTaskTimeout):
    """The deadline passed, and the engine cancelled the job. Raise ``execution_timeout``, or look at the job."""


class Transient(Exception):  # it names a state of the weather, not a mistake
    """The remote side could not be asked just now; nothing is known about the job.

    :param message: what was seen, for the one log line that an outage gets.
    :param retry_after: seconds the remote side asked us to stay away, for the whole connection.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def final(self) -> bool:
        """Whether asking for anything else on the connection is pointless for now."""
        return self.retry_after is not None


class CredentialsRejected(Transient):
    """The remote side refused to log us in. The engine reads the Airflow connection anew, a few times."""

    @property
    def final(self) -> bool:
        """Every other request would be refused, too."""
        return True
