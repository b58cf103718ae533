"""In what state the tasks of runs of another deployment are, in one question for all waits.

The question is about the states that make a difference, so its answer is nearly empty as long as nothing has happened.
That a mapped task or a group is complete is only believed after a look at all of its instances.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from astronomer.deferral import JobStatus, Phase
from astronomer.providers.core.hooks.deployment_errors import Refused
from astronomer.providers.core.jobs.deployment import DeploymentWait, run_url
from astronomer.providers.core.jobs.deployment_runs import Question, each
from astronomer.providers.core.jobs.external import NOT_FOUND, Sight, judge

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["DeploymentTasks"]

_LOOK_AT_ALL_EVERY = 60.0  # a mapped task may have been expanded anew
_MOST_RUNS = 2000  # in one question
_CROWD = 100  # rows that nobody has asked for, for each Dag, cost more than a question for each Dag
_FORGET = 600.0
_MOST_GROUPS = 20_000  # that are remembered
_UNMAPPED = -1


class Task(NamedTuple):
    """A task of a run."""

    dag_id: str
    run_id: str
    task_id: str


class Group(NamedTuple):
    """A task group of a run."""

    dag_id: str
    run_id: str
    group_id: str


@dataclass(frozen=True)
class Known:
    """What the last look at all instances of a task has found.

    :param indexes: their map indexes.
    :param at: the loop's time of that look.
    """

    indexes: frozenset[int]
    at: float


States = Mapping[Task, Mapping[int, str | None]]
Targets = Mapping[str, str]
"""The id of each run that exists, by the target that a wait names it with."""


class DeploymentTasks:
    """What one poller knows of tasks."""

    def __init__(self) -> None:
        self._members: dict[Group, tuple[str, ...]] = {}
        self._known: dict[Task, Known] = {}
        self._crowded = False

    async def statuses(
        self, client: DeploymentClient, waits: Mapping[DeploymentWait, Targets]
    ) -> dict[DeploymentWait, JobStatus]:
        """What becomes of each wait; those that could not be asked for just now are left out."""
        self._forget()
        ended, rest = await self._with_members(client, waits)
        states = await self._ask(client, self._tasks(rest), [*{one for wait in rest for one in wait.states}])
        found = {wait: self._judged(wait, targets, states) for wait, targets in rest.items()}
        doubtful = [
            wait for wait, status in found.items() if self._doubtful(wait, rest[wait], status, states)
        ]
        again = {wait: rest[wait] for wait in doubtful}
        for wait in doubtful:
            if found.pop(wait).phase is Phase.SUCCEEDED:
                self._forget_members(wait, again[wait])  # the group may have got tasks meanwhile
        no_more, sure = await self._with_members(client, again)
        return ended | found | no_more | await self._look_at_all(client, sure)

    async def _look_at_all(
        self, client: DeploymentClient, waits: Mapping[DeploymentWait, Targets]
    ) -> dict[DeploymentWait, JobStatus]:
        """What becomes of them by all instances of their tasks, in whatever state."""
        tasks = self._tasks(waits)
        states = await self._ask(client, tasks, None)
        now = asyncio.get_running_loop().time()
        self._known |= {task: Known(frozenset(states.get(task, ())), now) for task in tasks}
        return {wait: self._judged(wait, targets, states) for wait, targets in waits.items()}

    def _doubtful(self, wait: DeploymentWait, targets: Targets, status: JobStatus, states: States) -> bool:
        """Whether there may be instances that the answer does not show; or are none that were there once."""
        tasks = self._tasks({wait: targets})
        mapped = any(index != _UNMAPPED for task in tasks for index in states.get(task, ()))
        if status.phase is Phase.SUCCEEDED:
            return mapped or bool(wait.group_id)
        if status.done or not mapped:
            return False
        old = asyncio.get_running_loop().time() - _LOOK_AT_ALL_EVERY
        return any(task not in self._known or self._known[task].at <= old for task in tasks)

    # Task groups.

    async def _with_members(
        self, client: DeploymentClient, waits: Mapping[DeploymentWait, Targets]
    ) -> tuple[dict[DeploymentWait, JobStatus], dict[DeploymentWait, Targets]]:
        """Ask which tasks they have, where that is not known.

        :returns: what becomes of waits for groups that do not exist, and the waits that can be looked at.
        """
        missing: dict[Group, JobStatus] = {}

        async def ask(group: Group) -> None:
            try:
                self._members[group] = await client.tasks_of_group(*group)
            except Refused as refused:
                if refused.no_group:  # else the run has been deleted meanwhile
                    missing[group] = JobStatus(Phase.FAILED, NOT_FOUND, refused.message, code=NOT_FOUND)

        groups = {group for wait, targets in waits.items() for group in _groups(wait, targets)}
        new = [group for group in groups if not self._members.get(group)]
        await each([Question([group], partial(ask, group)) for group in new])
        ended, rest = {}, {}
        for wait, targets in waits.items():
            mine = _groups(wait, targets)
            if any(group in missing for group in mine):
                ended[wait] = next(missing[group] for group in mine if group in missing)
            elif all(group in self._members for group in mine):
                rest[wait] = targets
        return ended, rest

    def _forget_members(self, wait: DeploymentWait, targets: Targets) -> None:
        for group in _groups(wait, targets):
            self._members.pop(group, None)

    def _tasks_of(self, wait: DeploymentWait, run_id: str) -> Sequence[Task]:
        group = wait.group_id and Group(wait.dag_id, run_id, wait.group_id)
        ids = self._members[group] if group else wait.task_ids
        return [Task(wait.dag_id, run_id, task_id) for task_id in ids]

    def _tasks(self, waits: Mapping[DeploymentWait, Targets]) -> set[Task]:
        return {
            task
            for wait, targets in waits.items()
            for run_id in targets.values()
            for task in self._tasks_of(wait, run_id)
        }

    # The question.

    async def _ask(
        self, client: DeploymentClient, tasks: Collection[Task], states: list[str] | None
    ) -> States:
        """The states of their instances; of those in one of ``states`` only, unless it is ``None``."""
        found: dict[Task, dict[int, str | None]] = {}
        rows = 0
        for some in self._chunks(tasks):
            answer = await client.task_instances(
                dag_ids=sorted({task.dag_id for task in some}),
                dag_run_ids=sorted({task.run_id for task in some}),
                task_ids=sorted({task.task_id for task in some}),
                state=states,
            )
            rows += len(answer)
            for row in answer:
                task = Task(row["dag_id"], row["dag_run_id"], row["task_id"])
                found.setdefault(task, {})[int(row["map_index"])] = row["state"]
        # Runs of different Dags often have the same ids, and their tasks the same names.
        wanted = sum(len(found.get(task, ())) for task in tasks)
        dags = len({task.dag_id for task in tasks})
        self._crowded = self._crowded or rows - wanted > _CROWD * dags
        return found

    def _chunks(self, tasks: Collection[Task]) -> Iterable[list[Task]]:
        """What goes into one question: all, where that does not bring too much that nobody has asked for."""
        ordered = sorted(tasks)
        chunk: list[Task] = []
        runs: set[str] = set()
        for task in ordered:
            if chunk and (len(runs) >= _MOST_RUNS or (self._crowded and task.dag_id != chunk[-1].dag_id)):
                yield chunk
                chunk, runs = [], set()
            chunk.append(task)
            runs.add(task.run_id)
        if chunk:
            yield chunk

    # The answer.

    def _judged(self, wait: DeploymentWait, targets: Targets, states: States) -> JobStatus:
        sights = {target: self._sight(wait, run_id, states) for target, run_id in targets.items()}
        return judge(wait, sights, lambda run_id: run_url(wait.address, wait.dag_id, run_id))

    def _sight(self, wait: DeploymentWait, run_id: str, states: States) -> Sight:
        """What a wait sees of a run: instances that are not in the answer are in a state that makes no difference."""
        tasks = self._tasks_of(wait, run_id)
        names = {task.task_id for task in tasks}
        seen: dict[str, str | None] = {}
        for task in tasks:
            answer = states.get(task, {})
            known = self._known[task].indexes if task in self._known else frozenset()
            indexes = set(answer) | known or {_UNMAPPED}
            if max(indexes) > _UNMAPPED:
                indexes.discard(_UNMAPPED)
            seen |= {_key(task.task_id, index, names): answer.get(index) for index in indexes}
        return Sight(run_id, seen)

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        old = {task for task, known in self._known.items() if now > known.at + _FORGET}
        for task in old:
            del self._known[task]
        if len(self._members) > _MOST_GROUPS:
            self._members.clear()


def _groups(wait: DeploymentWait, targets: Targets) -> list[Group]:
    return [Group(wait.dag_id, run_id, wait.group_id) for run_id in targets.values()] if wait.group_id else []


def _key(task_id: str, index: int, names: Collection[str]) -> str:
    """As Airflow names an instance, but never like another task: ``a_3``, else ``a_03``."""
    if index == _UNMAPPED:
        return task_id
    key, zeros = f"{task_id}_{index}", ""
    while key in names:
        zeros += "0"
        key = f"{task_id}_{zeros}{index}"
    return key
