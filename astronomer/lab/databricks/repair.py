"""``jobs/runs/repair``: run some tasks of an ended run again, as part of the same run."""

from __future__ import annotations

from astronomer.lab.databricks.errors import ApiError, Arguments, invalid
from astronomer.lab.databricks.runs import Repair, Run, TaskRun
from astronomer.lab.databricks.specs import check_overrides, parameters_of
from astronomer.lab.databricks.workspace import Call, Workspace

__all__ = ["repair"]


def repair(workspace: Workspace, call: Call) -> dict[str, int]:
    """Run tasks anew and return the id of the repair.

    :raises ApiError: the run still goes on, or was repaired by somebody else, or there is nothing to repair.
    """
    given = call.arguments
    run = workspace.find(given.number("run_id"))
    if not run.ended:
        raise ApiError(400, "INVALID_STATE", f"Run {run.run_id} is active and cannot be repaired.")
    _check_latest(run, given)
    tasks = _wanted(run, given)
    run.overriding = {**run.overriding, **check_overrides(given)}
    if job_parameters := given.get("job_parameters"):
        run.parameters = parameters_of(run.settings.get("parameters") or [], job_parameters)
    if not run.repairs:
        run.repairs.append(Repair(0, run.start_time, list(run.tasks), run.end_time, run.state))
    new = Repair(workspace.ids.next(), workspace.clock.milliseconds(), [])
    run.repairs.append(new)
    job = workspace.jobs.jobs.get(run.job_id)
    # A job that was changed is repaired with its tasks as they are now.
    current = {spec["task_key"]: spec for spec in job.settings["tasks"]} if job else {}
    again = [(current.get(task.key, task.spec), task.attempt + 1) for task in tasks]
    new.tasks = workspace.conductor.resume(run, again)
    return {"repair_id": new.id}


def _check_latest(run: Run, given: Arguments) -> None:
    latest = run.repairs[-1].id if run.repairs else None
    wanted = given.integer("latest_repair_id")
    if latest is not None and wanted is None:
        raise invalid(f"Run {run.run_id} has been repaired before: latest_repair_id must be provided.")
    if wanted is not None and wanted != (latest or 0) and latest is not None:
        raise invalid(f"latest_repair_id {wanted} is not the id of the latest repair of run {run.run_id}.")
    if wanted and latest is None:
        raise invalid(f"Run {run.run_id} has no repair {wanted}.")


def _wanted(run: Run, given: Arguments) -> list[TaskRun]:
    latest = run.latest()
    named = given.get("rerun_tasks")
    everything = given.flag("rerun_all_failed_tasks")
    if bool(named) == everything:
        raise invalid("Exactly one of rerun_tasks and rerun_all_failed_tasks must be specified.")
    if named:
        unknown = sorted(set(named) - set(latest))
        if unknown:
            raise invalid(f"Unknown tasks to rerun: {', '.join(unknown)}.")
        chosen = set(named)
        if given.flag("rerun_dependent_tasks"):
            chosen = _with_dependents(latest, chosen)
    else:
        chosen = {
            key
            for key, task in latest.items()
            if task.state.result not in ("SUCCESS", "EXCLUDED", "DISABLED")
        }
        if given.flag("rerun_dependent_tasks"):
            chosen = _with_dependents(latest, chosen)
    if not chosen:
        raise invalid(f"Run {run.run_id} has no failed tasks to rerun.")
    return [task for key, task in latest.items() if key in chosen]


def _with_dependents(latest: dict[str, TaskRun], chosen: set[str]) -> set[str]:
    grown = set(chosen)
    for _ in latest:
        grown |= {key for key, task in latest.items() if grown & {one["task_key"] for one in task.upstream}}
    return grown
