"""What a refusal leaves open about a job: that it is not there yet, and that there is nothing to cancel."""

from __future__ import annotations

from astronomer.deferral import JobStatus, Phase, RemoteJob, Transient
from astronomer.providers.databricks.errors import RequestRejected

__all__ = ["APPEARS_WITHIN", "not_listed", "see_to_refused_cancel"]

APPEARS_WITHIN = 120.0  # seconds after its start in which a job that is not found may only not be there yet
_NOT_LISTED = "not listed yet"


def not_listed(url: str | None) -> JobStatus:
    """The status of a job that is not there yet."""
    return JobStatus(Phase.ACTIVE, raw=_NOT_LISTED, url=url)


def see_to_refused_cancel(job: RemoteJob, refused: RequestRejected, status: JobStatus) -> None:
    """Believe a refusal to cancel by the job's own status, whatever its words: only what has ended takes no notice.

    :param status: of the job, asked for after the refusal.
    :raises Transient: the job is not there yet; ask again.
    :raises RequestRejected: it goes on, or cannot be seen.
    """
    if status.raw == _NOT_LISTED:
        raise Transient(f"{job.name} is not there yet, so it cannot be cancelled: {refused}") from refused
    unknown = status.phase is Phase.LOST and refused.status == 404
    if not status.done or (status.phase is Phase.LOST and not unknown):
        raise refused
