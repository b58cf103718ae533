"""What another deployment refuses, as opposed to what it cannot answer just now."""

from __future__ import annotations

from astronomer.deferral import CredentialsRejected, Transient

__all__ = ["ConnectionUnusable", "NoSuchApi", "Refused"]


class ConnectionUnusable(CredentialsRejected):
    """The Airflow connection is gone, makes no sense, or leads elsewhere; nobody was asked. Correct the connection."""


class NoSuchApi(Transient):
    """What answers at the address is not the API of an Airflow 3.

    Either a gateway speaks for it while it restarts, or the address is wrong. So a wait has patience with it, and a
    task that begins does not.
    """


class Refused(Exception):
    """The deployment refused a question as such; repeating it changes nothing.

    :param status: the HTTP status; 404 means that there is no such Dag, run, task or task group.
    :param message: the deployment's own sentence.
    :param text: what was asked, and the answer, for a person.
    """

    def __init__(self, status: int, message: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.message = message

    @property
    def no_group(self) -> bool:
        """Whether it is a task group that is missing, or cannot be asked for."""
        return self.status == 501 or (self.status == 404 and self.message.startswith("Task group"))
