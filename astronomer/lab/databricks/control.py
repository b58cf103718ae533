"""What a workspace can be told over ``/_lab`` beside what every stand-in can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astronomer.lab.control import Command

if TYPE_CHECKING:
    from astronomer.lab.databricks.lab import DatabricksLab

__all__ = ["COMMANDS"]


def runs(lab: DatabricksLab, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell every run, oldest first; ``state`` selects by result or life cycle, ``active`` those that go on."""
    return [
        {
            "run_id": run.run_id,
            "job_id": run.job_id,
            "name": run.name,
            "kind": run.kind,
            "state": run.state.text,
            "ended": run.ended,
            "start_time": run.start_time,
            "end_time": run.end_time,
            "token": run.token,
            "creator": run.creator,
        }
        for run in lab.runs.values()
        if _wanted(asked, run.state.text, run.ended)
    ]


def statements(lab: DatabricksLab, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell every SQL statement, oldest first, times in epoch seconds; ``state`` and ``active`` select."""
    return [
        {
            "id": one.id,
            "text": one.text,
            "state": one.state,
            "ended": one.ended,
            "tags": one.tags,
            "compute": one.compute,
            "principal": one.principal,
            "client": one.client,
            "cancelled_by": one.cancelled_by,
            "error": one.error and str(one.error),
            "submitted_at": one.submitted_at,
            "started_at": one.started_at,
            "ended_at": one.ended_at,
        }
        for one in lab.statements.values()
        if _wanted(asked, one.state, one.ended)
    ]


def _wanted(asked: dict[str, Any], state: str, ended: bool) -> bool:
    return asked.get("state") in (None, state) and not ("active" in asked and ended)


def end(lab: DatabricksLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Cancel a ``statement_id`` or a ``run_id`` as a user would, or with ``delete`` delete the run."""
    if "statement_id" in asked:
        statement = lab.statements[asked["statement_id"]]
        canceled = lab.cancel_statement_by_user(statement.id)
        return {"statement_id": statement.id, "state": statement.state, "canceled": canceled}
    run = lab.runs[int(asked["run_id"])]
    if asked.get("delete"):
        lab.delete_run(run.run_id)
    else:
        lab.cancel_by_user(run.run_id)
    return {"run_id": run.run_id, "state": run.state.text}


def seed(lab: DatabricksLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Start runs that only wait, see ``seeding.seed``; tell their ids."""
    return {"run_ids": lab.seed(int(asked.pop("count", 1)), **asked)}


def clock(lab: DatabricksLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Change the clock's ``speed``, ``advance`` it by seconds, and tell the time."""
    if "speed" in asked:
        lab.clock.speed = float(asked["speed"])
    if "advance" in asked:
        lab.advance(float(asked["advance"]))
    return {"now": lab.clock.now(), "speed": lab.clock.speed}


def quotas(lab: DatabricksLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Multiply the limits by a ``factor``; 0 is none at all."""
    lab.quotas.factor = float(asked.get("factor", 1))
    return {"factor": lab.quotas.factor}


def credentials(lab: DatabricksLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what is true of ``rotate_token``, ``rotate_secret`` and ``expire_tokens``, and tell what is valid."""
    if asked.get("rotate_token"):
        lab.rotate_token()
    if asked.get("rotate_secret"):
        lab.rotate_secret()
    if asked.get("expire_tokens"):
        lab.expire_tokens()
    return {"token": lab.token, "client_id": lab.client_id, "client_secret": lab.client_secret}


COMMANDS: dict[str, Command] = {
    "GET runs": runs,
    "GET statements": statements,
    "POST end": end,
    "POST seed": seed,
    "GET clock": clock,
    "POST clock": clock,
    "POST quotas": quotas,
    "GET credentials": credentials,
    "POST credentials": credentials,
}
