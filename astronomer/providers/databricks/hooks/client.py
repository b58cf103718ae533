"""The REST API of a workspace, spoken asynchronously over one session, one token and one budget."""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from astronomer.deferral import ClientThreads, CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowNotFoundException, PlainConnection, read_connection, setting
from astronomer.deferral.transport import Transport
from astronomer.providers.databricks.errors import ConnectionUnusable, RequestRejected
from astronomer.providers.databricks.hooks import THREAD_NAME, credentials
from astronomer.providers.databricks.hooks.answers import Answer
from astronomer.providers.databricks.hooks.budget import RequestBudget
from astronomer.providers.databricks.hooks.workspace import Mode, Workspace
from astronomer.providers.package import DISTRIBUTION

__all__ = ["DatabricksClient", "RequestRejected"]

ReadConnection = Callable[[str], Awaitable[PlainConnection]]

_CANCELS = re.compile(r"/(cancel|cancel-all)$")
_FORM = {"grant_type": "client_credentials", "scope": "all-apis"}


class DatabricksClient:
    """Asks one workspace as one principal. For one event loop.

    :param connection: the Airflow connection, as it was read.
    :param caller: goes into the User-Agent.
    :param budget: how many requests it may send; one of its own unless given.
    :ivar address: scheme, host and port of the workspace.
    :ivar server_time: the clock of the last answer, epoch seconds.
    """

    def __init__(
        self,
        connection: PlainConnection,
        *,
        caller: str = DISTRIBUTION,
        budget: RequestBudget | None = None,
    ) -> None:
        workspace = Workspace.of(connection)
        self.address = workspace.address
        self.server_time: float | None = None
        self.budget = budget or RequestBudget(setting("databricks_requests_per_second", 10.0))
        self._secrets = Workspace.secrets(connection)
        self._agent = _agent(caller)
        self._transport = Transport(Answer, {"User-Agent": self._agent}, proxies=workspace.proxies)
        self._threads: ClientThreads | None = None
        self._credentials = self._log_in(connection, workspace)
        self._shared: _Shared | None = None
        self._references = 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    @classmethod
    async def shared(cls, conn_id: str, read: ReadConnection | None = None) -> DatabricksClient:
        """The running loop's client for a connection; :meth:`close` gives it back.

        Connections that name the same workspace and principal share it.

        :param read: reads the connection, where somebody has read it already.
        :raises CredentialsRejected: there is no such connection, or it makes no sense.
        """
        try:
            connection = await (read or read_connection)(conn_id)
        except AirflowNotFoundException:
            raise ConnectionUnusable(f"the Airflow connection {conn_id!r} is gone") from None
        return _Shared.current().client(connection)

    # Requests.

    async def get(self, path: str, /, **params: Any) -> dict[str, Any]:
        """The answer to a question, such as ``2.2/jobs/runs/get``. A parameter that is ``None`` is left out.

        :raises NothingDone: it has not been heard just now.
        :raises Transient: it was not answered just now; an order may have been done.
        :raises CredentialsRejected: the login was refused, also with a token fetched anew.
        :raises RequestRejected: it was refused as such.
        """
        return await self._request("GET", path, params=list(_query(params)))

    async def post(
        self, path: str, body: Mapping[str, Any], *, check: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The answer to an order, such as ``2.2/jobs/runs/cancel``. Raises as :meth:`get`.

        :param check: called when the request's turn has come and it is logged in; what it raises, nothing is sent for.
        """
        return await self._request("POST", path, check, json=dict(body))

    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a change of a part, such as ``2.0/permissions/jobs/7``. Raises as :meth:`get`."""
        return await self._request("PATCH", path, json=dict(body))

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None, /) -> bytes:
        """What a link to another service's storage holds; the link is all it takes to log in there.

        :param headers: those that came with the link.
        :raises RequestRejected: the link is no longer good; ask for a new one.
        """
        answer = await self._transport.send("GET", url, headers=headers)
        if answer.well:
            return answer.body
        # Its text may repeat what was signed.
        said = re.search(rb"<Code>(\w+)</Code>", answer.body)
        why = said[1].decode() if said else ""
        if answer.status in (408, 429) or answer.status >= 500:
            raise Transient(f"{answer.asked}: HTTP {answer.status} {why}".rstrip())
        raise RequestRejected(answer.status, why, "the storage link was refused")

    async def close(self) -> None:
        """Give this reference back. The last one closes the session."""
        self._references -= 1
        if self._references > 0:
            return
        self._forget()
        await self._transport.close()
        await self._credentials.close()
        if self._threads is not None:
            self._threads.close()

    def take(self) -> DatabricksClient:
        """Another reference, to be closed like the first."""
        self._references += 1
        return self

    # One request.

    async def _request(
        self, method: str, path: str, check: Callable[[], None] | None = None, **content: Any
    ) -> dict[str, Any]:
        with self._careful():
            for again in (False, True):
                async with self.budget.turn(cancel=_CANCELS.search(path) is not None) as turn:
                    headers = await self._credentials.headers()
                    self._secrets.add(*(value.split()[-1] for value in headers.values()))
                    url = f"{self.address}/api/{path}"
                    if check is not None:
                        check()
                    answer = await self._transport.send(method, url, headers=headers, **content)
                    self._note(answer)
                    if answer.throttled:
                        turn.throttled()
                    elif answer.well:
                        turn.well()
                        return answer.document()
                if again or not (answer.refuses_token and self._credentials.renew(headers)):
                    raise answer.error()
            raise AssertionError("unreachable")

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Let no secret out, and hand a client whose login was refused to nobody else."""
        try:
            yield
        except CredentialsRejected as error:
            self._forget()
            raise CredentialsRejected(self._secrets.hide(error)) from None
        except Transient as error:
            rest = error.retry_after and max(error.retry_after, self.budget.rest)
            raise type(error)(self._secrets.hide(error), retry_after=rest) from None
        except RequestRejected as error:
            code, message = self._secrets.hide(error.error_code), self._secrets.hide(error.message)
            raise RequestRejected(error.status, code, message) from None

    def _note(self, answer: Answer) -> None:
        if answer.server_time is not None:
            self.server_time = answer.server_time
        if answer.retry_after is not None:
            self.budget.shut(answer.retry_after)

    # The login.

    def _log_in(self, connection: PlainConnection, workspace: Workspace) -> credentials.Credentials:
        if workspace.mode is Mode.TOKEN:
            return credentials.token(str(connection.extra_dejson.get("token") or connection.password))
        if workspace.mode is Mode.OAUTH:
            login = (workspace.address, workspace.principal)
            return credentials.oauth(connection, self._ask_for_token, login)
        self._threads = ClientThreads(THREAD_NAME, size=2)
        if workspace.mode is Mode.UNIFIED:
            return credentials.by_unified(connection, self.address, self._threads)
        return credentials.by_stock(connection, self.address, self._agent, self._threads)

    async def _ask_for_token(self, identity: Mapping[str, str]) -> Answer:
        url = f"{self.address}/oidc/v1/token"
        answer = await self._transport.send("POST", url, headers=identity, data=_FORM)
        self._note(answer)
        return answer

    def _forget(self) -> None:
        if self._shared is not None:
            self._shared.forget(self)


class _Shared:
    """The clients of one event loop, and the budgets of the workspaces that it has asked."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], DatabricksClient] = {}
        self._budgets: dict[str, RequestBudget] = {}

    @classmethod
    def current(cls) -> _Shared:
        for loop in [loop for loop in cls._of_loop if loop.is_closed()]:
            del cls._of_loop[loop]  # its clients hold on to it
        return cls._of_loop.setdefault(asyncio.get_running_loop(), cls())

    def client(self, connection: PlainConnection) -> DatabricksClient:
        """Without an `await`, so that two that come at once get the same."""
        workspace = Workspace.of(connection)
        key = (workspace.address, workspace.principal)
        if key in self._clients:
            return self._clients[key].take()
        client = DatabricksClient(connection, budget=self._budget(workspace.address))
        client._shared = self
        self._clients[key] = client
        return client

    def _budget(self, address: str) -> RequestBudget:
        """The quotas are the workspace's, whoever asks, and outlive a login."""
        if address not in self._budgets:
            self._budgets[address] = RequestBudget(setting("databricks_requests_per_second", 10.0))
        return self._budgets[address]

    def forget(self, client: DatabricksClient) -> None:
        """Make a new client for whoever asks next."""
        self._clients = {key: one for key, one in self._clients.items() if one is not client}


def _query(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts; the fields of a message with dots, as databricks-sdk writes them."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _query(value, f"{prefix}{name}.")
        elif value is not None:
            for one in value if isinstance(value, (list, tuple)) else (value,):
                yield prefix + name, str(one).lower() if isinstance(one, bool) else str(one)


def _agent(caller: str) -> str:
    agent = f"{DISTRIBUTION}/{version(DISTRIBUTION)} python/{platform.python_version()}"
    return agent if caller == DISTRIBUTION else f"{agent} caller/{caller}"
