"""The errors a workspace answers with, and the arguments it reads from a request."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

__all__ = ["ApiError", "Arguments", "arguments", "invalid", "missing"]


class ApiError(Exception):
    """An answer other than success, as the service words it.

    :param status: the HTTP status.
    :param error_code: such as ``INVALID_PARAMETER_VALUE``; authentication uses the status's number instead.
    :param message: the text clients show.
    :param headers: more headers of the answer.
    """

    def __init__(
        self, status: int, error_code: str | int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, error_code, message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        return {"error_code": self.error_code, "message": self.message}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def invalid(message: str) -> ApiError:
    """Return the error for an argument that cannot be accepted."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """Return the error for a thing that does not exist."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


class Arguments(dict[str, Any]):
    """The arguments of a request; numbers and booleans may be written as strings, as in a query."""

    def integer(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number.

        :raises ApiError: it is not one.
        """
        value = self.get(name)
        if value is None or value == "":
            return default
        try:
            return int(value)
        except (TypeError, ValueError):
            raise invalid(
                f"Could not parse request object: Expected '{name}' to be a number, not {value!r}."
            ) from None

    def number(self, name: str) -> int:
        """Return a whole number that must be given.

        :raises ApiError: it is not given, or not a number.
        """
        value = self.integer(name)
        if value is None:
            raise invalid(f"Missing required field: {name}")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        return str(value).lower() == "true"

    def text(self, name: str, default: str = "") -> str:
        """Return a string."""
        value = self.get(name)
        return default if value is None else str(value)


async def arguments(request: Request) -> Arguments:
    """Return what the query and the JSON body give, whatever the method; an argument repeated in the query is a list.

    :raises ApiError: the body is not a JSON object.
    """
    given = Arguments()
    if request.url.query:
        for name, value in request.query_params.multi_items():
            if name not in given:
                given[name] = value
            elif isinstance(given[name], list):
                given[name].append(value)
            else:
                given[name] = [given[name], value]
    body = await request.body()
    if body:
        given.update(_object(body))
    return given


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        raise ApiError(400, "MALFORMED_REQUEST", "Could not parse request object: not valid JSON.") from None
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise ApiError(400, "MALFORMED_REQUEST", "Could not parse request object: not a JSON object.")
    return parsed
