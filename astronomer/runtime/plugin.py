"""The plugin that shows notices in the UI. It does nothing outside an API server and outside an image."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

__all__ = ["NoticeMiddleware", "RuntimePlugin"]

_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Any, Any], Awaitable[None]]


class NoticeMiddleware:
    """Shows notices for as long as the API server lives; requests pass through it untouched."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        """Begin with the server, end with it."""
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        # Here, because every process of Airflow imports this module.
        from astronomer.runtime.board import Board

        with Board.configured():
            return await self._app(scope, receive, send)


class RuntimePlugin(AirflowPlugin):
    """What an image adds to the API server. No listener: with one, Airflow 3.3.2 refuses ``end_from_trigger``."""

    name = "astronomer_runtime"
    fastapi_root_middlewares = (
        [{"name": "Runtime notices", "middleware": NoticeMiddleware}]
        if os.environ.get("ASTRONOMER_RUNTIME_VERSION")
        else []
    )
