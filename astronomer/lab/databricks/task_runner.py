"""The program a Python task runs in: a file or a notebook, with ``dbutils``; says how it ended in a JSON file."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

__all__: list[str] = []


class _Exit(BaseException):
    """``dbutils.notebook.exit`` was called."""


class _Widgets:
    """``dbutils.widgets``: the parameters of a notebook."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get(self, name: str) -> str:
        """Return a parameter."""
        if name not in self._values:
            raise ValueError(f"InputWidgetNotDefined: No input widget named {name} is defined")
        return self._values[name]

    def getAll(self) -> dict[str, str]:  # noqa: N802 - its name in Databricks
        """Return all parameters."""
        return dict(self._values)

    def text(self, name: str, defaultValue: str = "", *_more: Any, **_named: Any) -> None:  # noqa: N803
        """Declare a parameter with a default."""
        self._values.setdefault(name, defaultValue)

    dropdown = combobox = multiselect = text


class _Values:
    """``dbutils.jobs.taskValues``: what tasks tell those after them."""

    def __init__(self, upstream: dict[str, dict[str, Any]], own: dict[str, Any]) -> None:
        self._upstream = upstream
        self._own = own

    def set(self, key: str, value: Any) -> None:
        """Tell a value."""
        self._own[key] = value

    def get(self, taskKey: str, key: str, default: Any = None, debugValue: Any = None) -> Any:  # noqa: N803
        """Return a value that another task told."""
        found = self._upstream.get(taskKey, {}).get(key, default)
        if found is None:
            raise ValueError(f"Task {taskKey} has told no value {key}")
        return found


def _exit(value: Any = "") -> None:
    raise _Exit(str(value))


def _end_with(life: int) -> None:
    """End this process and what it has started when nobody holds the other end of the pipe any more."""
    os.set_inheritable(life, False)

    def watch() -> None:
        os.read(life, 1)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="astronomer.lab", daemon=True).start()


def main(order_file: str, answer_file: str, life: str) -> int:
    """Do what the order says and return the exit status."""
    _end_with(int(life))
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    path: str = order["path"]
    values: dict[str, Any] = {}
    sys.argv = [path, *order["arguments"]]
    sys.path[0] = os.path.dirname(path)  # noqa: PTH120 - one import less
    jobs = SimpleNamespace(taskValues=_Values(order["upstream"], values))
    notebook = SimpleNamespace(exit=_exit)
    dbutils = SimpleNamespace(widgets=_Widgets(order["widgets"]), notebook=notebook, jobs=jobs)
    answer: dict[str, Any] = {}
    try:
        runpy.run_path(path, {"dbutils": dbutils} if order["notebook"] else None, "__main__")
    except _Exit as left:
        answer["result"] = str(left)
    except SystemExit as left:
        if left.code not in (None, 0):
            answer = _failure(left, path)
    except BaseException as error:  # noqa: BLE001 - however it ends, it is told
        answer = _failure(error, path)
        traceback.print_exception(type(error), error, _below(error.__traceback__, path))
    answer["values"] = values
    Path(answer_file).write_text(json.dumps(answer, default=str), encoding="utf-8")
    return 1 if "error" in answer else 0


def _failure(error: BaseException, path: str) -> dict[str, Any]:
    trace = traceback.format_exception(type(error), error, _below(error.__traceback__, path))
    return {
        "error": trace[-1].strip().splitlines()[0] if trace else repr(error),
        "error_trace": "".join(trace),
    }


def _below(trace: TracebackType | None, path: str) -> TracebackType | None:
    """Return the part of a traceback that belongs to the task."""
    below = trace
    while below is not None and below.tb_frame.f_code.co_filename != path:
        below = below.tb_next
    return below


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
