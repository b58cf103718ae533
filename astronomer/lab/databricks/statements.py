"""The Statement Execution API 2.0, and the sessions that the SQL connector opens on it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from importlib.util import find_spec
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.errors import ApiError, Arguments, arguments, invalid
from astronomer.lab.databricks.results import Results
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_sessions import SqlSession
from astronomer.lab.databricks.sql_statement import Statement

__all__ = ["await_end", "routes"]

ROOT = "/2.0/sql/statements"
SESSIONS = "/2.0/sql/sessions"
LONGEST_TEXT = 16 * 1024 * 1024
MOST_TAGS = 20
_CHOICES = {
    "disposition": ("INLINE", "EXTERNAL_LINKS", "INLINE_OR_EXTERNAL_LINKS"),
    "format": ("JSON_ARRAY", "ARROW_STREAM", "CSV"),
    "on_wait_timeout": ("CONTINUE", "CANCEL"),
}


def routes(engine: SqlEngine) -> list[Route]:
    """Return the endpoints under ``/api``."""
    api = _Api(engine)
    return [
        Route(ROOT, api.execute, methods=["POST"]),
        Route(ROOT + "/", api.execute, methods=["POST"]),
        Route(ROOT + "/{id}", api.get, methods=["GET"]),
        Route(ROOT + "/{id}", api.close, methods=["DELETE"]),
        Route(ROOT + "/{id}/cancel", api.cancel, methods=["POST"]),
        Route(ROOT + "/{id}/result/chunks/{number:int}", api.chunk, methods=["GET"]),
        Route(SESSIONS, api.open_session, methods=["POST"]),
        Route(SESSIONS + "/{id}", api.close_session, methods=["DELETE"]),
    ]


async def await_end(engine: SqlEngine, statement: Statement, seconds: float) -> bool:
    """Wait until a statement ends, and return whether it has within so many seconds of the workspace."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the lab was stopped meanwhile
            loop.call_soon_threadsafe(ended.set)

    engine.on_end(statement, tell)
    timer = engine.clock.call_later(seconds, ended.set)
    await ended.wait()
    timer.cancel()
    return statement.ended


class _Api:
    """The endpoints; a user only sees the statements and sessions of their own."""

    def __init__(self, engine: SqlEngine) -> None:
        self._engine = engine

    async def execute(self, request: Request) -> Response:
        """``POST /api/2.0/sql/statements``."""
        given = await arguments(request)
        seconds = _wait_seconds(given)
        user: str = request.state.user
        statement = self._submit(given, user)
        if not seconds:
            return JSONResponse({"statement_id": statement.id, "status": {"state": "PENDING"}})
        if not await await_end(self._engine, statement, seconds) and given.get("on_wait_timeout") == "CANCEL":
            self._engine.cancel(statement, "timeout")
            await await_end(self._engine, statement, seconds)
        return JSONResponse(self._described(statement))

    def _submit(self, given: Arguments, user: str) -> Statement:
        text = given.text("statement")
        if not text.strip():
            raise invalid(
                "Statement text must not be empty."
                if "statement" in given
                else "Missing required field: statement"
            )
        if len(text) > LONGEST_TEXT:
            raise invalid("The statement text exceeds the maximum size of 16 MiB.")
        shape = _shape(given)
        session = self._session(given.text("session_id"), user) if given.get("session_id") else None
        if session is None and not given.get("warehouse_id"):
            raise invalid("Missing required field: warehouse_id")
        return self._engine.submit(
            text,
            warehouse_id=given.text("warehouse_id"),
            principal=user,
            catalog=given.get("catalog"),
            schema=given.get("schema"),
            parameters=[_parameter(one) for one in given.get("parameters") or []],
            tags=_tags(given),
            session=session,
            limits=(given.integer("row_limit") or 0, given.integer("byte_limit") or 0),
            inline=shape["disposition"] == "INLINE",
            shape=shape,
        )

    async def get(self, request: Request) -> Response:
        """``GET /api/2.0/sql/statements/{id}``."""
        statement = self._find(request)
        statement.polled_at = self._engine.clock.now()
        return JSONResponse(self._described(statement))

    async def chunk(self, request: Request) -> Response:
        """``GET /api/2.0/sql/statements/{id}/result/chunks/{n}``."""
        statement, number = self._find(request), request.path_params["number"]
        if statement.result is None:
            if statement.state == "CLOSED":
                message = f"The result of statement {statement.id} is no longer available."
                raise ApiError(404, "NOT_FOUND", message)
            message = f"Cannot fetch the result of statement {statement.id} in state {statement.state}."
            raise ApiError(400, "INVALID_STATE", message)
        results = Results(self._engine, statement, statement.result)
        body = results.chunk(number)
        self._consume(statement, results, number)
        return JSONResponse(body)

    async def cancel(self, request: Request) -> Response:
        """``POST /api/2.0/sql/statements/{id}/cancel``: it is asked to end; only polling tells how it ended."""
        self._engine.cancel(self._find(request), request.state.user)
        return JSONResponse({})

    async def close(self, request: Request) -> Response:
        """``DELETE /api/2.0/sql/statements/{id}``, as the SQL connector does."""
        self._engine.close_statement(self._find(request))
        return JSONResponse({})

    async def open_session(self, request: Request) -> Response:
        """``POST /api/2.0/sql/sessions``, as the SQL connector does."""
        given = await arguments(request)
        warehouse = self._engine.warehouses.get(given.text("warehouse_id"))
        session = SqlSession(request.state.user, warehouse.id, kept=True)
        session.catalog = given.text("catalog", session.catalog).lower()
        session.schema = given.text("schema", session.schema).lower()
        session.settings = {str(k).lower(): str(v) for k, v in (given.get("session_confs") or {}).items()}
        self._engine.sessions[session.id] = session
        return JSONResponse({"session_id": session.id})

    async def close_session(self, request: Request) -> Response:
        """``DELETE /api/2.0/sql/sessions/{id}``."""
        session = self._session(request.path_params["id"], request.state.user)
        self._engine.close_session(session)
        return JSONResponse({})

    # ------------------------------------------------------------------------------------------------------------------

    def _session(self, session_id: str, user: str) -> SqlSession:
        session = self._engine.sessions.get(session_id)
        if session is None or session.principal != user:
            raise ApiError(404, "NOT_FOUND", f"Session {session_id} does not exist.")
        return session

    def _find(self, request: Request) -> Statement:
        statement = self._engine.look(request.path_params["id"])
        if statement is None or statement.client != "rest":
            raise ApiError(404, "NOT_FOUND", f"The statement {request.path_params['id']} was not found.")
        if statement.principal != request.state.user:
            message = f"User {request.state.user} is not the executing principal of statement {statement.id}."
            raise ApiError(403, "PERMISSION_DENIED", message)
        return statement

    def _described(self, statement: Statement) -> dict[str, Any]:
        status: dict[str, Any] = {"state": statement.state}
        if (error := statement.error) is not None:
            status["error"] = {"error_code": error.code, "message": error.message}
            if error.sql_state:
                status["sql_state"] = error.sql_state
        body: dict[str, Any] = {"statement_id": statement.id, "status": status}
        if statement.result is None:
            return body
        results = Results(self._engine, statement, statement.result)
        body |= {"manifest": results.manifest(), "result": results.chunk(0)}
        self._consume(statement, results, 0)
        return body

    def _consume(self, statement: Statement, results: Results, number: int) -> None:
        if self._engine.consume_inline and statement.inline and number + 1 >= results.chunks:
            self._engine.close_statement(statement)


def _wait_seconds(given: Arguments) -> float:
    text = given.text("wait_timeout", "10s")
    found = re.fullmatch(r"(\d+)s", text)
    seconds = int(found[1]) if found else -1
    if seconds != 0 and not 5 <= seconds <= 50:
        raise invalid(f"Invalid wait_timeout '{text}': it must be 0s, or between 5s and 50s.")
    return seconds


def _shape(given: Arguments) -> dict[str, Any]:
    """Return how the result is to be sent."""
    for name, choices in _CHOICES.items():
        if given.get(name) is not None and given[name] not in choices:
            raise invalid(f"Invalid {name} '{given[name]}': it must be one of {', '.join(choices)}.")
    shape = {
        "disposition": given.get("disposition") or "INLINE",
        "format": given.get("format") or "JSON_ARRAY",
    }
    if shape["disposition"] == "INLINE" and shape["format"] != "JSON_ARRAY":
        raise invalid(f"The format {shape['format']} is not supported with the INLINE disposition.")
    if (
        given.get("result_compression") == "LZ4_FRAME"
        and shape["format"] == "ARROW_STREAM"
        and find_spec("lz4")
    ):
        shape["result_compression"] = "LZ4_FRAME"
    return shape


def _parameter(given: Any) -> Parameter:
    if not isinstance(given, dict):
        raise invalid("Each parameter must be an object with a name.")
    value = given.get("value")
    return Parameter(
        str(given.get("name") or ""), None if value is None else str(value), given.get("type") or "STRING"
    )


def _tags(given: Arguments) -> dict[str, str | None]:
    tags = given.get("query_tags") or []
    if not all(isinstance(tag, dict) and tag.get("key") for tag in tags):
        raise invalid("Each query tag must have a key.")
    return {tag["key"]: (tag.get("value") or "").strip() or None for tag in tags[:MOST_TAGS]}
