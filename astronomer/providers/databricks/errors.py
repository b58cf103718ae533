"""What the REST API refuses, as opposed to what it cannot answer just now."""

from __future__ import annotations

from astronomer.deferral import CredentialsRejected, Transient

__all__ = ["ConnectionUnusable", "NothingDone", "RequestRejected"]


class ConnectionUnusable(CredentialsRejected):
    """The Airflow connection is gone, or makes no sense; the workspace was not asked. Correct the connection."""


class NothingDone(Transient):
    """The request was not sent, or turned away for its rate: what it asks for has certainly not begun. Send it again."""


class RequestRejected(Exception):
    """The workspace refused a request as such; repeating it changes nothing.

    :param status: the HTTP status.
    :param error_code: Databricks' own word, such as ``INVALID_PARAMETER_VALUE``.
    :param message: its sentence.
    """

    def __init__(self, status: int, error_code: str, message: str) -> None:
        super().__init__(f"HTTP {status}: {error_code} {message}".strip())
        self.status = status
        self.error_code = error_code
        self.message = message
