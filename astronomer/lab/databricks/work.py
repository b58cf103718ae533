"""What tasks do: each kind of task by the part that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astronomer.lab.databricks import states
from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.conductor import Done
from astronomer.lab.databricks.errors import ApiError, Arguments
from astronomer.lab.databricks.processes import Order, Processes
from astronomer.lab.databricks.references import job_parameters, mapping, resolved, sequence
from astronomer.lab.databricks.runs import Output, Run, TaskRun
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_tasks import SqlScript
from astronomer.lab.databricks.states import State

if TYPE_CHECKING:
    from astronomer.lab.databricks.workspace import Workspace

__all__ = ["WAIT", "Worker"]

WAIT = "/lab/wait"
"""The notebook that waits for ``seconds``, then returns ``result`` or fails with ``fail``."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "GREATER_THAN": lambda left, right: left > right,
    "GREATER_THAN_OR_EQUAL": lambda left, right: left >= right,
    "LESS_THAN": lambda left, right: left < right,
    "LESS_THAN_OR_EQUAL": lambda left, right: left <= right,
}
_PREFIXES = ("dbfs:", "file:", "/Workspace", "/dbfs")


class Worker:
    """Runs tasks: ``notebook_task``, ``spark_python_task``, ``sql_task``, ``run_job_task`` and ``condition_task``.

    :param directory: the files of the workspace.
    :param queries: the saved queries by id: text and warehouse.
    """

    def __init__(self, clock: Clock, directory: Path, engine: SqlEngine) -> None:
        self._clock = clock
        self._directory = directory
        self._engine = engine
        self._processes = Processes()
        self._kinds = {
            "notebook_task": self._notebook,
            "spark_python_task": self._file,
            "sql_task": self._sql,
            "run_job_task": self._job,
            "condition_task": self._condition,
        }
        self.queries: dict[str, dict[str, Any]] = {}
        self.workspace: Workspace | None = None

    def start(self, task: TaskRun, done: Done) -> Callable[[], None]:
        """Begin a task's work and return what ends it early."""
        for kind, begin in self._kinds.items():
            if kind in task.spec:
                return begin(task, task.spec[kind], done)
        kind = next((name for name in task.spec if name.endswith("_task")), "this task")
        return self._soon(done, states.failed(f"The lab does not run {kind}.", "FEATURE_DISABLED"))

    def close(self) -> None:
        """End every process and return when all are gone."""
        self._processes.close()

    # -- Python --------------------------------------------------------------------------------------------------------

    def _notebook(self, task: TaskRun, given: dict[str, Any], done: Done) -> Callable[[], None]:
        parameters = mapping(task, given.get("base_parameters"), "notebook_params")
        path = resolved(task, given.get("notebook_path", ""))
        if path == WAIT:
            return self._wait(parameters, done)
        found = self._find(path)
        if found is None:
            text = (
                f'Unable to access the notebook "{path}". Either it does not exist, or the identity used to run this '
                f"job, {task.run.creator}, lacks the required permissions."
            )
            return self._soon(done, states.run_failed(text, "RESOURCE_NOT_FOUND"))
        return self._process(task, Order(str(found), notebook=True, widgets=parameters), done)

    def _file(self, task: TaskRun, given: dict[str, Any], done: Done) -> Callable[[], None]:
        path = resolved(task, given.get("python_file", ""))
        found = self._find(path)
        if found is None:
            text = f"Cannot read the python file {path}. Please check driver logs for more details."
            return self._soon(done, states.run_failed(text, "RESOURCE_NOT_FOUND"))
        arguments = sequence(task, given.get("parameters"), "python_params")
        return self._process(task, Order(str(found), notebook=False, arguments=arguments), done)

    def _process(self, task: TaskRun, order: Order, done: Done) -> Callable[[], None]:
        order.upstream = {
            key: before.values for key, before in task.run.latest().items() if before.state.ended
        }

        def ended(state: State, output: Output, values: dict[str, Any]) -> None:
            task.values.update(values)
            done(state, output)

        return self._processes.start(order, ended)

    def _find(self, path: str) -> Path | None:
        """Return the file of a path in the workspace or, if there is none, of this machine."""
        inside = path
        for prefix in _PREFIXES:
            inside = inside.removeprefix(prefix)
        inside = inside.lstrip("/")
        candidates = [self._directory / inside, self._directory / f"{inside}.py"]
        if path.startswith("/"):
            candidates += [Path(path), Path(f"{path}.py")]
        return next((one for one in candidates if one.is_file()), None)

    def _wait(self, parameters: dict[str, str], done: Done) -> Callable[[], None]:
        def end() -> None:
            if fail := parameters.get("fail"):
                trace = f"Traceback (most recent call last):\n  {WAIT}\nException: {fail}"
                done(states.failed(), Output(f"Exception: {fail}", trace))
            else:
                result = parameters.get("result", "")
                more = {"notebook_output": {"result": result, "truncated": False} if result else {}}
                done(states.SUCCESS, Output(more=more))

        try:
            seconds = float(parameters.get("seconds") or 0)
        except ValueError as error:
            return self._soon(done, states.failed(), Output(f"ValueError: {error}"))
        return self._clock.call_later(seconds, end).cancel

    # -- the others ----------------------------------------------------------------------------------------------------

    def _sql(self, task: TaskRun, given: dict[str, Any], done: Done) -> Callable[[], None]:
        saved = self.queries.get((given.get("query") or {}).get("query_id", ""), {})
        text = saved.get("query_text")
        if file := given.get("file"):
            found = self._find(resolved(task, file.get("path", "")))
            text = None if found is None else found.read_text(encoding="utf-8")
        if text is None:
            message = (
                "The SQL file or query of the task does not exist. The lab runs no alerts and dashboards."
            )
            return self._soon(done, states.run_failed(message, "RESOURCE_NOT_FOUND"))
        warehouse = str(given.get("warehouse_id") or saved.get("warehouse_id") or "")
        script = SqlScript(self._engine, self._clock, warehouse, task.run.creator, done)
        return script.start(text, mapping(task, given.get("parameters"), "sql_params"))

    def _job(self, task: TaskRun, given: dict[str, Any], done: Done) -> Callable[[], None]:
        workspace = self.workspace
        assert workspace is not None  # noqa: S101 - tasks run in a workspace
        parameters = {
            name: resolved(task, value) for name, value in (given.get("job_parameters") or {}).items()
        }
        arguments = Arguments({**given, "job_parameters": {**job_parameters(task), **parameters}})
        try:
            child = workspace.start_job(
                workspace.jobs.find(arguments.number("job_id")), arguments, task.run.creator
            )
        except ApiError as error:
            return self._soon(done, states.run_failed(error.message, "INVALID_RUN_CONFIGURATION"))
        output = Output(more={"run_job_output": {"run_id": child.run_id}})

        def ended(run: Run) -> None:
            if run.state.result in ("SUCCESS", "SUCCESS_WITH_FAILURES"):
                done(states.SUCCESS, output)
            else:
                output.error = run.state.message
                done(states.failed(f"Job run {run.run_id} ended with {run.state.text}."), output)

        child.watchers.append(ended)

        def stop() -> None:
            child.watchers.clear()
            workspace.conductor.cancel(child)

        return stop

    def _condition(self, task: TaskRun, given: dict[str, Any], done: Done) -> Callable[[], None]:
        left, right = (resolved(task, given.get(side, "")) for side in ("left", "right"))
        operator = given.get("op", "EQUAL_TO")
        try:
            if operator in _COMPARE:
                met = _COMPARE[operator](float(left), float(right))
            else:
                met = (left == right) == (operator == "EQUAL_TO")
        except ValueError as error:
            return self._soon(done, states.failed(str(error), "INVALID_RUN_CONFIGURATION"))
        task.values["outcome"] = "true" if met else "false"
        return self._soon(done, states.SUCCESS)

    def _soon(self, done: Done, state: State, output: Output | None = None) -> Callable[[], None]:
        """End a task at once, but not before the caller knows that it began."""
        ending = output or Output(state.message if state.result == "FAILED" else "")
        return self._clock.call_later(0, lambda: done(state, ending)).cancel
