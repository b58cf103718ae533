"""What every stand-in is: a port, certificates, a request log, scripted faults, and an end that leaves nothing behind."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from typing_extensions import Self

from astronomer.lab import dns, files, tls
from astronomer.lab.faults import Faults
from astronomer.lab.front import Application, Front
from astronomer.lab.issued import Issued
from astronomer.lab.request_log import Entry, RequestLog
from astronomer.lab.server import ThreadedServer

__all__ = ["StandIn"]

T = TypeVar("T")


class StandIn(ABC):
    """A local service that a vendor's own clients talk to.

    What a vendor adds is its names, the abstract methods, and what else its control endpoint can be told.

    :param port: the port to listen on; 0 for any free one, known once started.
    :param directory: keeps the certificates, so that a restart uses the same; default a temporary one.
    :param on_answer: called with each entry of the request log once its answer is sent.
    """

    service: ClassVar[str]
    """The vendor's name, lower case."""

    cloud_host: ClassVar[str]
    """The vendor's host that it stands for, within ``redirected()``."""

    login_path: ClassVar[str]
    """A regular expression for the paths of requests that log in."""

    host = "localhost"

    def __init__(
        self,
        *,
        port: int = 0,
        directory: Path | None = None,
        on_answer: Callable[[Entry], None] | None = None,
    ) -> None:
        self.directory = Path(directory) if directory else files.temporary()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove = None if directory else files.remove_with(self, self.directory)
        self._certificates = tls.issue(self.directory, self.service, self.cloud_host)
        self.issued = self._own_secrets()
        self.faults = Faults()
        self.requests = RequestLog(self.login_path, on_answer)
        self._server = ThreadedServer(self._answer, self._certificates, port=port, ending=self._end)
        self._process = os.getpid()

    # -- what a vendor writes ------------------------------------------------------------------------------------------

    @abstractmethod
    def airflow_connection(self, **how: Any) -> dict[str, Any]:
        """Return an Airflow connection as a dictionary."""

    @abstractmethod
    def _application(self) -> Application:
        """Return what answers the requests, the control endpoint included."""

    @abstractmethod
    def _expired(self, path: str) -> tuple[int, Any]:
        """Return the answer to an expired credential on that path: HTTP status and JSON body."""

    @abstractmethod
    def _begin(self) -> None:
        """Begin, in the loop that answers."""

    @abstractmethod
    async def _end(self) -> None:
        """End everything that runs, in the loop that answers, while it still does."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the data, once nothing answers any more; may be called again."""

    def _now(self) -> float:
        """Return the time that the answers say, epoch seconds."""
        return time.time()

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Return once the lab answers.

        :raises PortInUseError: the port is taken.
        """
        self._server.start()
        atexit.register(self._stop_at_exit)
        self._do(self._begin)
        return self

    def stop(self) -> None:
        """End everything that runs in it and close the port; the lab cannot be started again."""
        self._server.stop()
        self._close()
        if self._remove is not None:
            self._remove()
        atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._process:  # a fork has neither the thread nor a right to the files
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- how to connect ------------------------------------------------------------------------------------------------

    @property
    def control_key(self) -> str:
        """What a :class:`~astronomer.lab.client.LabClient` shows to steer it."""
        return self._certificates.control_key

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    @property
    def url(self) -> str:
        """``https://localhost:<port>``."""
        return f"https://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The lab's own certificate authority, PEM."""
        return self._certificates.ca

    @property
    def ca_bundle(self) -> Path:
        """The public authorities and the lab's own, PEM."""
        return self._certificates.bundle

    def client_env(self) -> dict[str, str]:
        """Return the variables that make the vendor's clients, ``requests`` and ``aiohttp`` trust the lab, and what they trusted."""
        return self._certificates.client_env()

    def connection_env(
        self, conn_id: str | None = None, auth: str | None = None, **extra: Any
    ) -> dict[str, str]:
        """Return the variable that defines an Airflow connection.

        :param conn_id: default the stock hook's own, ``<service>_default``.
        :param auth: as ``airflow_connection`` takes it, and so ``extra``.
        """
        name = conn_id or f"{self.service}_default"
        how = extra if auth is None else {"auth": auth, **extra}
        return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(self.airflow_connection(**how))}

    def redirected(self) -> contextlib.AbstractContextManager[None]:
        """In this process, send requests for ``https://<cloud_host>`` here, for clients that take no other address."""
        return dns.redirected({self.cloud_host: self.port})

    def secrets(self) -> dict[str, str]:
        """Return every credential it has ever given out or accepted, valid or not: the credential -> what it is.

        For tests that search what they have written for each of them.
        """
        return self._do(self.issued.all)

    def _own_secrets(self) -> Issued:
        issued = Issued()
        issued.note("control key", self._certificates.control_key)
        for name, path in self._certificates.private_keys().items():
            issued.note(name, path.read_text())
        return issued

    # -- what happened -------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, and how it stands."""
        return {"status": "ok", "service": self.service}

    def requests_summary(self) -> dict[str, Any]:
        """Return the counts of the request log."""
        return self.requests.summary()

    def clear_requests(self) -> None:
        """Forget the request log and what was counted with it."""
        self.requests.clear()

    # ------------------------------------------------------------------------------------------------------------------

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await self._front(scope, receive, send)

    @functools.cached_property
    def _front(self) -> Application:
        return Front(self._application(), self.requests, self.faults, self._expired, self._now)

    def _do(self, work: Callable[[], T]) -> T:
        """Run ``work`` where the state lives: in the loop that answers once started, here before that."""
        return self._server.do(work)
