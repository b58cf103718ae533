"""Jobs: what may be run, with ``jobs/create``, ``get``, ``list``, ``update``, ``reset`` and ``delete``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from astronomer.lab.databricks.errors import Arguments, invalid
from astronomer.lab.databricks.runs import PAGE
from astronomer.lab.databricks.specs import is_single, key_from, task_specs

__all__ = ["Job", "Jobs"]

_NOT_SETTINGS = ("access_control_list", "job_id")
_LARGEST_PAGE = 100
_ARRAYS = ("tasks", "job_clusters", "parameters")


@dataclass
class Job:
    """One job; ``settings`` are what ``jobs/get`` shows."""

    job_id: int
    creator: str
    created_time: int
    settings: dict[str, Any]
    single: bool = False

    @property
    def name(self) -> str:
        """Its name, which need not be unique."""
        return str(self.settings.get("name") or "Untitled")

    @property
    def concurrency(self) -> int:
        """How many of its runs may go on at once."""
        limit = self.settings.get("max_concurrent_runs")
        return 1 if limit is None else int(limit)

    @property
    def queues(self) -> bool:
        """Whether runs beyond that wait."""
        return str((self.settings.get("queue") or {}).get("enabled", "")).lower() == "true"

    def as_json(self, *, tasks: bool, offset: int = 0) -> dict[str, Any]:
        """Return what the API shows, with a page of its tasks or with none."""
        shown = dict(self.settings)
        arrays: dict[str, Any] = {name: shown.pop(name) for name in _ARRAYS if name in shown}
        answer = {
            "job_id": self.job_id,
            "creator_user_name": self.creator,
            "run_as_user_name": self.creator,
            "created_time": self.created_time,
            "settings": shown,
        }
        if tasks:
            shown.update(
                {name: part for name, array in arrays.items() if (part := array[offset : offset + PAGE])}
            )
            if any(len(array) > offset + PAGE for array in arrays.values()):
                answer["has_more"] = True
                answer["next_page_token"] = f"lab{offset + PAGE}"
        return answer


class Jobs:
    """The jobs of the workspace."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}

    def find(self, job_id: int) -> Job:
        """Return a job.

        :raises ApiError: there is none with this id.
        """
        job = self.jobs.get(job_id)
        if job is None:
            raise invalid(f"Job {job_id} does not exist.")
        return job

    def create(self, job_id: int, given: Arguments, creator: str, now: int, version: float) -> Job:
        """Return a new job.

        :raises ApiError: it cannot be run.
        """
        job = Job(job_id, creator, now, _settings(given, version), is_single(given))
        self.jobs[job_id] = job
        return job

    def update(self, given: Arguments) -> None:
        """Replace some of a job's settings; tasks and other lists of keyed elements are merged by their key.

        :raises ApiError: there is no such job, or it could not be run any more.
        """
        job = self.find(given.number("job_id"))
        settings = dict(job.settings)
        for name in given.get("fields_to_remove") or []:
            _remove(settings, str(name).split("/"))
        for name, value in (given.get("new_settings") or {}).items():
            key = {"tasks": "task_key", "job_clusters": "job_cluster_key", "parameters": "name"}.get(name)
            settings[name] = _merged(settings.get(name) or [], value, key) if key else value
        job.settings = {**settings, "tasks": task_specs(settings, _key(settings))}

    def reset(self, given: Arguments, version: float) -> None:
        """Replace all of a job's settings.

        :raises ApiError: there is no such job, or it could not be run any more.
        """
        job = self.find(given.number("job_id"))
        settings = given.get("new_settings")
        if not isinstance(settings, dict):
            raise invalid("Missing required field: new_settings")
        job.settings, job.single = _settings(Arguments(settings), version), is_single(settings)

    def delete(self, job_id: int) -> None:
        """Forget a job; its runs stay.

        :raises ApiError: there is no such job.
        """
        self.find(job_id)
        del self.jobs[job_id]

    def list(self, given: Arguments, version: float) -> dict[str, Any]:
        """Return a page of the jobs, newest first.

        :raises ApiError: the limit is too large.
        """
        limit = given.integer("limit", 20) or 0
        if not 1 <= limit <= _LARGEST_PAGE:
            raise invalid(f"Invalid limit {limit}: it must be between 1 and {_LARGEST_PAGE}.")
        offset = position(given)
        name = given.text("name").lower()
        found = [job for job in reversed(self.jobs.values()) if not name or job.name.lower() == name]
        page = found[offset : offset + limit]
        more = len(found) > offset + limit
        answer: dict[str, Any] = {}
        if page:
            answer["jobs"] = [job.as_json(tasks=given.flag("expand_tasks")) for job in page]
        if version < 2.2:
            answer["has_more"] = more
        if more:
            answer["next_page_token"] = f"lab{offset + limit}"
        if offset:
            answer["prev_page_token"] = f"lab{max(offset - limit, 0)}"
        return answer


def position(given: Arguments) -> int:
    """Return where the page starts that a request asks for.

    :raises ApiError: the page token is not one of this workspace.
    """
    token = given.text("page_token")
    if not token:
        return given.integer("offset", 0) or 0
    if not (token.startswith("lab") and token[3:].isdigit()):
        raise invalid(f"Invalid page token {token!r}.")
    return int(token[3:])


def _settings(given: Arguments, version: float) -> dict[str, Any]:
    settings = {name: value for name, value in given.items() if name not in _NOT_SETTINGS}
    specs = task_specs(settings, _key(settings))
    if is_single(settings):
        settings = {name: value for name, value in settings.items() if name not in specs[0]}
    defaults: dict[str, Any] = {
        "name": "Untitled",
        "email_notifications": {},
        "webhook_notifications": {},
        "timeout_seconds": 0,
        "max_concurrent_runs": 1,
        "format": "MULTI_TASK",
    }
    if version >= 2.2:
        defaults["queue"] = {"enabled": True}
    return {**defaults, **settings, "tasks": specs}


def _key(settings: dict[str, Any]) -> str:
    return key_from(str(settings.get("name") or "main"))


def _merged(old: list[dict[str, Any]], new: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(new, list):
        raise invalid("Could not parse request object: Expected a list.")
    merged = {one.get(key): one for one in old}
    merged.update({one.get(key): one for one in new})
    return list(merged.values())


def _remove(settings: dict[str, Any], path: list[str]) -> None:
    name, rest = path[0], path[1:]
    if not rest:
        settings.pop(name, None)
    elif isinstance(settings.get(name), list):
        keys = ("task_key", "job_cluster_key", "name")
        settings[name] = [one for one in settings[name] if rest[0] not in (one.get(key) for key in keys)]
