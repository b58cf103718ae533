"""``sql_task``: the statements of a file or of a saved query, one after the other, on the workspace's SQL engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from astronomer.lab.databricks import states
from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.databricks.runs import Output
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_statement import Statement
from astronomer.lab.databricks.states import State

__all__ = ["SqlScript", "statements"]

_PIECE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|--[^\n]*|/\*.*?\*/|(;)", re.DOTALL)

Ended = Callable[[State, Output], None]


class SqlScript:
    """Statements that run one after the other until one fails.

    :param ended: told how it ended, in the loop's thread; never after it was stopped.
    """

    def __init__(
        self, engine: SqlEngine, clock: Clock, warehouse_id: str, principal: str, ended: Ended
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._warehouse_id = warehouse_id
        self._principal = principal
        self._ended = ended
        self._waiting: list[str] = []
        self._parameters: list[Parameter] = []
        self._done: list[Statement] = []
        self._stopped = False

    def start(self, text: str, parameters: Mapping[str, str]) -> Callable[[], None]:
        """Begin, and return what ends it early."""
        self._waiting = statements(text)
        self._parameters = [Parameter(name, value) for name, value in parameters.items()]
        self._soon()
        return self.stop

    def stop(self) -> None:
        """Cancel the statement that runs, and start no other."""
        self._stopped = True
        if self._done:
            self._engine.cancel(self._done[-1], "user")

    def _next(self) -> None:
        if self._stopped:
            return
        last = self._done[-1] if self._done else None
        if last is not None and last.state != "SUCCEEDED":
            message = str(last.error) if last.error else f"The statement was {last.state}."
            self._ended(states.failed(), self._output(message))
        elif not self._waiting:
            self._ended(states.SUCCESS, self._output())
        else:
            self._submit(self._waiting.pop(0))

    def _submit(self, text: str) -> None:
        names = set(re.findall(r":(\w+)", text))
        parameters = [one for one in self._parameters if one.name in names]
        try:
            statement = self._engine.submit(
                text, warehouse_id=self._warehouse_id, principal=self._principal, parameters=parameters
            )
        except ApiError as error:
            self._ended(
                states.failed(error.message, "INVALID_RUN_CONFIGURATION"), self._output(error.message)
            )
            return
        self._done.append(statement)
        self._engine.on_end(statement, self._soon)

    def _soon(self) -> None:
        self._clock.call_later(0, self._next)

    def _output(self, error: str = "") -> Output:
        shown: dict[str, Any] = {
            "warehouse_id": self._warehouse_id,
            "sql_statements": [{"lookup_key": one.id} for one in self._done],
        }
        if self._done:
            shown["query_text"] = self._done[-1].text
        return Output(error, more={"sql_output": {"query_output": shown}})


def statements(text: str) -> list[str]:
    """Return the statements of a text."""
    found, start = [], 0
    for piece in _PIECE.finditer(text):
        if piece[1]:
            found.append(text[start : piece.start()].strip())
            start = piece.end()
    return [one for one in [*found, text[start:].strip()] if one]
