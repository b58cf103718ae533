"""Snowflake's SQL API, spoken asynchronously over one HTTP session and one token.

Source of the protocol: docs.snowflake.com/en/developer-guide/sql-api/reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

try:  # provider 6.20 moved it
    from airflow.providers.snowflake.hooks.sql_api import SnowflakeSqlApiHook
except ImportError:  # pragma: no cover
    from airflow.providers.snowflake.hooks.snowflake_sql_api import (  # type: ignore[import-not-found,no-redef,unused-ignore]
        SnowflakeSqlApiHook,
    )

from astronomer.deferral import ClientThreads, CredentialsRejected, Transient, clock
from astronomer.deferral.transport import HttpAnswer, Transport
from astronomer.providers.snowflake.hooks import THREAD_NAME
from astronomer.providers.snowflake.hooks.refusal import StandingRefusal
from astronomer.providers.snowflake.hooks.stock import ReadHook, by_stock, fixed_parameters

__all__ = ["ReadSqlApiHook", "SqlApiClient", "StatementRejected"]

_ANSWERED = frozenset({200, 202, 404, 408, 422})
_REFUSAL_STANDS = 5.0  # seconds, in which all who wait for the same token hear of it
_LONGEST_TEXT = 300
_HEADERS_LAST = 60.0  # seconds; the stock hook renews a token five minutes before its end


class ReadSqlApiHook(ReadHook, SnowflakeSqlApiHook):  # type: ignore[misc,unused-ignore]
    """The stock hook over a connection that was read before, in the event loop."""


class SqlApiClient:
    """Submits, asks, cancels and reads statements. The stock hook signs the requests; nothing else of it runs.

    :param hook: makes the authentication headers, for a key pair, OAuth or a programmatic access token.
    """

    def __init__(self, hook: SnowflakeSqlApiHook) -> None:
        self.hook = hook
        self._threads = ClientThreads(THREAD_NAME, size=1)
        self._transport = Transport(HttpAnswer, {"User-Agent": "snowflakeSQLAPI/1.0"}, connections=16)
        self._parameters: dict[str, Any] = {}
        self._base = ""
        self._headers: dict[str, Any] = {}
        self._headers_until = 0.0
        self._signing = asyncio.Lock()
        self._refused = StandingRefusal(_REFUSAL_STANDS)

    async def submit(self, body: Mapping[str, Any], request_id: str) -> list[str]:
        """Start statements; their handles. The same ``request_id`` never starts them twice.

        :raises StatementRejected: the API refused the request as such.
        """
        query = {"requestId": request_id, "async": "true", "retry": "true"}
        answered = await self._request("POST", "", query, json=dict(body))
        answer = answered.document()
        if answered.status not in (200, 202):
            raise StatementRejected(answered.status, answer)
        return [str(one) for one in answer.get("statementHandles") or [answer["statementHandle"]]]

    async def look(self, handle: str) -> tuple[int, dict[str, Any]]:
        """The HTTP status and body of a statement: 202 runs, 200 succeeded, 422 failed, 408 timed out."""
        answer = await self._request("GET", f"/{handle}", {})
        return answer.status, answer.document()

    async def cancel(self, handle: str) -> None:
        """Ask for the end of a statement; harmless when it has ended."""
        await self._request("POST", f"/{handle}/cancel", {})

    async def children(self, handle: str) -> list[str]:
        """The handles of the statements that were submitted under one; itself for a single one.

        :raises StatementRejected: the API no longer has the result.
        """
        answer = await self._result(handle)
        return [str(one) for one in answer.get("statementHandles") or [handle]]

    async def rows(
        self, handle: str, limit: Callable[[int, str], None] | None = None
    ) -> list[dict[str, Any]]:
        """All rows of a succeeded statement, partition by partition, as dictionaries of strings.

        :param limit: told the bytes of the result before more than its first partition is fetched.
        :raises StatementRejected: the API no longer has the result.
        """
        answer = await self._result(handle)
        meta = answer.get("resultSetMetaData") or {}
        names = [str(column["name"]) for column in meta.get("rowType") or []]
        if limit is not None:
            parts = meta.get("partitionInfo") or []
            limit(sum(int(part.get("uncompressedSize") or 0) for part in parts), f"the result of {handle}")
        data = list(answer.get("data") or [])
        for partition in range(1, len(meta.get("partitionInfo") or [])):
            more = await self._result(handle, partition=str(partition))
            data.extend(more.get("data") or [])
        return [dict(zip(names, row, strict=False)) for row in data]

    async def parameters(self) -> dict[str, Any]:
        """The connection's parameters, as the stock hook reads them. Nothing is sent to Snowflake.

        :raises CredentialsRejected: no request can be signed with them.
        :raises Transient: none can be signed just now.
        """
        await self._signed()
        return self._parameters

    async def close(self) -> None:
        """Give the sockets back."""
        await self._transport.close()
        self._threads.close()

    async def _result(self, handle: str, **query: str) -> dict[str, Any]:
        answered = await self._request("GET", f"/{handle}", query)
        answer = answered.document()
        if answered.status != 200:
            raise StatementRejected(answered.status, answer)
        return answer

    async def _request(self, method: str, path: str, query: Mapping[str, str], **content: Any) -> HttpAnswer:
        """One request; after a refusal, once more with a token signed anew."""
        for again in (False, True):
            headers = await self._signed()
            answer = await self._transport.send(
                method, self._base + path, params=dict(query), headers=headers, redirected=True, **content
            )
            if answer.status in _ANSWERED:
                return answer
            refused = _refuses_login(answer)
            if refused and not again:
                self._forget(headers)
                continue
            words = _without(headers, answer.body.decode(errors="replace"))[:_LONGEST_TEXT]
            message = f"{answer.asked}: HTTP {answer.status} {words}"
            if refused:
                raise CredentialsRejected(message)
            if answer.status == 400:
                raise StatementRejected(answer.status, {"message": words})
            raise Transient(message, retry_after=answer.retry_after)
        raise AssertionError("unreachable")

    async def _signed(self) -> dict[str, Any]:
        """The authentication headers, made once for all who wait; a refusal is theirs, too."""
        async with self._signing:
            if clock.now() >= self._headers_until:
                with self._refused.logging_in():
                    self._headers = await self._threads.run(self._sign)
                self._headers_until = clock.now() + _HEADERS_LAST
            return self._headers

    def _sign(self) -> dict[str, Any]:
        """For a thread. The stock hook logs a line each time."""
        if not self._base:
            self._parameters = fixed_parameters(self.hook)
            self._base = by_stock(self.hook, self._address)
        return by_stock(self.hook, lambda: dict(self.hook.get_headers()))

    def _forget(self, refused: Mapping[str, Any]) -> None:
        """Sign anew, unless somebody else has had the same answer and done so."""
        if self._headers is refused:
            self.hook._rest_token_provider = None
            self._headers_until = 0.0

    def _address(self) -> str:
        """The connection's ``host`` and ``port``, which the stock hook does not look at, or the account's own."""
        host, port = self._parameters.get("host"), self._parameters.get("port")
        if host:
            return f"https://{host}{f':{port}' if port else ''}/api/v2/statements"
        return f"{self.hook.account_identifier}.snowflakecomputing.com/api/v2/statements"


def _refuses_login(answer: HttpAnswer) -> bool:
    """Whether the login was refused. A gateway's own page is weather, unless it asks for a login."""
    if answer.status not in (401, 403):
        return False
    return answer.parsed is not None or (answer.status == 401 and "WWW-Authenticate" in answer.headers)


class StatementRejected(Exception):
    """The SQL API refused a request as such: a bad body, or a name that is not allowed in it."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(
            f"HTTP {status}: {answer.get('code') or ''} {answer.get('message') or answer}".strip()
        )


def _without(headers: Mapping[str, Any], text: str) -> str:
    """A text that may repeat what was sent, with stars in place of the token."""
    token = str(headers.get("Authorization") or "").rpartition(" ")[2]
    return text.replace(token, "***") if token else text
