"""The public REST API of another Airflow 3, spoken asynchronously over one session and one login.

Only what Airflow 3.0 knows is sent: a newer filter would be refused by an older deployment. Source: the routes in
``airflow/api_fastapi/core_api/routes/public``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowNotFoundException, PlainConnection, read_connection
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi, Refused
from astronomer.providers.core.hooks.deployment_http import Answer, new_transport
from astronomer.providers.core.hooks.deployment_login import Deployment, Login

__all__ = ["DeploymentClient"]

_ROWS = 1000  # of one page, where the server does not give fewer
_ROWS_BY_GET = 100  # it gives no more
_GROUPS_SINCE = (3, 1, 6)  # apache/airflow#59511; an older one would take no notice of the filter


class DeploymentClient:
    """Asks one deployment with one login. For one event loop; to be closed.

    Every question raises :class:`Transient` in bad weather, :class:`CredentialsRejected` when the login is refused,
    also with a token fetched anew, and :class:`NoSuchApi` when no Airflow 3 answers.

    :param connection: the Airflow connection, as it was read.
    :param transport: sends the requests; one of its own unless given.
    :ivar address: the deployment's URL.

    :raises ConnectionUnusable: the connection makes no sense.
    """

    def __init__(self, connection: PlainConnection, transport: Any = None) -> None:
        self._deployment = Deployment.of(connection)
        self.address = self._deployment.address
        self._transport = transport or new_transport(self._deployment.ca_file)
        self._login = Login(self._deployment, self._post_for_token)
        self._version: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    @classmethod
    async def read(cls, conn_id: str) -> DeploymentClient:
        """The client of a connection that is read without blocking the loop.

        :raises ConnectionUnusable: there is no such connection, or it makes no sense.
        """
        try:
            connection = await read_connection(conn_id)
        except AirflowNotFoundException:
            raise ConnectionUnusable(f"the Airflow connection {conn_id!r} is gone") from None
        return cls(connection)

    async def close(self) -> None:
        """Give the session back."""
        await self._transport.close()

    async def headers(self) -> Mapping[str, str]:
        """Those that log in."""
        with self._careful():
            return await self._login.headers()

    # Questions about many things at once.

    async def runs(self, *, most: int | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Dag runs, of all pages: of ``dag_ids``, in ``states``, within ``logical_date_gte`` and so on.

        :param most: no more than so many.
        """
        return await self._pages("dags/~/dagRuns/list", "dag_runs", filters, most)

    async def task_instances(self, **filters: Any) -> list[dict[str, Any]]:
        """Task instances, of all pages: of ``dag_ids``, ``dag_run_ids`` and ``task_ids``, in a ``state`` of a list.

        Airflow writes a line into its audit log for each such question, with all that it says.
        """
        return await self._pages("dags/~/dagRuns/~/taskInstances/list", "task_instances", filters, None)

    async def _pages(
        self, path: str, field: str, filters: Mapping[str, Any], most: int | None
    ) -> list[dict[str, Any]]:
        """An empty list among the filters would mean all there is, so there is none."""
        found: list[dict[str, Any]] = []
        body = {"order_by": "id", **{name: value for name, value in filters.items() if value is not None}}
        assert [] not in body.values()  # noqa: S101  # a defect of ours, which would read a whole deployment
        while True:
            try:
                page = await self._ask(
                    "POST", path, json={**body, "page_offset": len(found), "page_limit": most or _ROWS}
                )
            except Refused as refused:
                if refused.status != 403:
                    raise
                self._login.forget()  # a token may know the rights of the time when it was made
                raise self._about_the_login(refused) from None
            rows = page.get(field) or []
            found += rows
            total = page.get("total_entries")
            if not rows or len(found) >= (most or int(total or 0)):
                return found

    # Questions about one thing.

    async def get(self, *path: str, **params: Any) -> dict[str, Any]:
        """The answer to a question such as ``get("dags", dag_id)``.

        :raises Refused: 404: there is no such thing; 403: the login may not see it.
        """
        query = f"?{urlencode(params, doseq=True)}" if params else ""
        return await self._ask("GET", "/".join(quote(part, safe="~") for part in path) + query)

    async def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """A Dag run; ``None`` when there is none.

        :raises Refused: the login may not see it.
        """
        try:
            return await self.get("dags", dag_id, "dagRuns", run_id)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    async def tasks_of_group(self, dag_id: str, run_id: str, group_id: str) -> tuple[str, ...]:
        """The tasks of a task group that have instances in a run; ``~`` for any run.

        :raises Refused: 404: there is no such run, or no such group.
        """
        await self._check_version()
        found: dict[str, None] = {}
        rows = 0
        path = ("dags", dag_id, "dagRuns", run_id, "taskInstances")
        while True:
            # One instance of each task is enough: the only one, or the first one of a mapped task.
            page = await self.get(
                *path, task_group_id=group_id, map_index=(-1, 0), limit=_ROWS_BY_GET, offset=rows
            )
            some = page.get("task_instances") or []
            rows += len(some)
            found |= dict.fromkeys(str(one["task_id"]) for one in some)
            if not some or run_id == "~" or rows >= int(page.get("total_entries") or 0):
                return tuple(found)

    async def _check_version(self) -> None:
        if self._version is None:
            told = str((await self.get("version")).get("version"))
            self._version = tuple(int(one) for one in re.findall(r"\d+", told)[:3])
        if self._version < _GROUPS_SINCE:
            text = (
                f"the API of Airflow {'.'.join(map(str, self._version))} at {self.address} does not tell which "
                "tasks a task group has (3.1.6 does): name the tasks"
            )
            raise Refused(501, text, text)

    # One request.

    async def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        with self._careful():
            for again in (False, True):
                headers = await self._login.headers()
                url = f"{self.address}/api/v2/{path}"
                answer: Answer = await self._transport.send(method, url, headers=headers, **content)
                if answer.well:
                    return answer.document()
                if again or not (answer.refuses_token and self._login.renew(headers)):
                    raise answer.error()
            raise AssertionError("unreachable")

    async def _post_for_token(self, url: str, **content: Any) -> Answer:
        answer: Answer = await self._transport.send("POST", url, **content)
        return answer

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Let no secret out, and say what to do about an error."""
        try:
            yield
        except ConnectionUnusable as error:
            raise ConnectionUnusable(
                f"the Airflow connection {self._deployment.conn_id!r}: {error}"
            ) from None
        except CredentialsRejected as error:
            raise self._about_the_login(error) from None
        except NoSuchApi as error:
            raise NoSuchApi(self._about_the_address(error)) from None
        except Transient as error:
            raise Transient(self._deployment.hide(error), retry_after=error.retry_after) from None
        except Refused as error:
            hide = self._deployment.hide
            raise Refused(error.status, hide(error.message), hide(error)) from None

    def _about_the_login(self, error: Exception) -> CredentialsRejected:
        it = self._deployment
        if isinstance(error, Refused):
            check = "that it may read Dags, Dag runs and task instances of all Dags"
        elif it.token:
            check = "that its API token (password) is valid"
        else:
            check = "its login and password" + (", and `token_url` in its extra" if it.oauth else "")
        return CredentialsRejected(
            f"{self.address} refused the Airflow connection {it.conn_id!r} ({it.hide(error)}). Check {check}."
        )

    def _about_the_address(self, error: Exception) -> str:
        return (
            f"no Airflow 3 answers at {self.address}/api/v2 ({self._deployment.hide(error)}). Check the host of the "
            f"Airflow connection {self._deployment.conn_id!r}: it is the deployment's URL without /api/v2, and an "
            "Airflow 2 is not enough."
        )
