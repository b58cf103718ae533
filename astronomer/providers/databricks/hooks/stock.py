"""Every way to log in that the stock hook knows, by the stock hook itself. For a thread: it blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook

from astronomer.deferral._compat import PlainConnection
from astronomer.deferral.transport import basic
from astronomer.providers.databricks.hooks.credentials import bearer

__all__ = ["ReadHook", "StockLogin", "over"]

_UNTOLD_LIFE = 60.0


class ReadHook(BaseDatabricksHook):
    """The stock hook over a connection that was read before, in the event loop.

    :param address: scheme, host and port of the workspace; the stock hook forgets two of them.
    :param agent: the User-Agent; the stock hook asks Airflow's providers manager, which imports all hooks there are.
    """

    def __init__(self, connection: PlainConnection, *, address: str, agent: str) -> None:
        super().__init__(databricks_conn_id=connection.conn_id, retry_limit=1)  # patience is the engine's
        self._read = connection
        self._address = address
        self._agent = agent

    @cached_property
    def databricks_conn(self) -> Any:
        """The connection given, whatever the id."""
        return self._read

    @cached_property
    def user_agent_value(self) -> str:
        """Who asks."""
        return self._agent

    def _get_oidc_token_service_url(self) -> str:
        return f"{self._address}/oidc/v1/token"

    def _log_request_error(self, attempt_num: int, error: Any) -> None:
        """The engine tells of an outage, once."""


def over(hook: Any, read: Callable[[str], PlainConnection]) -> Any:
    """A stock hook that never asks Airflow for its connection.

    :param hook: a ``BaseDatabricksHook``, which keeps the connection once it has it.
    :param read: gives the connection of an id.
    """
    if "databricks_conn" not in vars(hook):
        vars(hook)["databricks_conn"] = read(hook.databricks_conn_id)
    return hook


class StockLogin:
    """Makes headers, and says for how many seconds they are good; ``None`` for ever.

    :param connection: of any kind that the stock hook takes.
    """

    def __init__(self, connection: PlainConnection, *, address: str, agent: str) -> None:
        self._hook = ReadHook(connection, address=address, agent=agent)
        self._connection = connection

    def headers(self, now: float, *, anew: bool) -> tuple[dict[str, str], float | None]:
        """The headers that the stock hook would send.

        :param now: epoch seconds.
        :param anew: forget the tokens that are known.
        """
        hook = self._hook
        if anew:
            hook.oauth_tokens.clear()
        headers = dict(hook._get_aad_headers())
        token = hook._get_token()
        if token:
            headers |= bearer(str(token).strip())
        else:
            headers |= basic(hook._get_connection_attr("login"), self._connection.password or "")
        ends = [float(one["expires_on"]) for one in hook.oauth_tokens.values()]
        if ends:
            return headers, max(1.0, min(ends) - now)
        return headers, _UNTOLD_LIFE if token else None
