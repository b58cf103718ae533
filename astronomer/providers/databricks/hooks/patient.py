"""The stock hook's calls, over a client that has patience."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from airflow.providers.databricks.hooks.databricks import DatabricksHook

from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["PatientHook"]

Ask = Callable[[Callable[[DatabricksClient], Coroutine[Any, Any, Any]]], Any]


class PatientHook(DatabricksHook):  # type: ignore[misc,unused-ignore]
    """What the stock operators look up through their hook: jobs and pipelines by name.

    Every call is repeated in bad weather, so none that starts something may go through here.

    :param ask: runs a call on a client of the connection.
    """

    def __init__(self, databricks_conn_id: str, ask: Ask, **kwargs: Any) -> None:
        super().__init__(databricks_conn_id, **kwargs)
        self._ask = ask

    def _do_api_call(
        self, endpoint_info: tuple[str, str], json: dict[str, Any] | None = None, *_: Any, **__: Any
    ) -> Any:
        method, path = endpoint_info
        arguments = json or {}
        if method == "GET":
            return self._ask(lambda client: client.get(path, **arguments))
        if method == "PATCH":
            return self._ask(lambda client: client.patch(path, arguments))
        return self._ask(lambda client: client.post(path, arguments))
