"""All waits on one Dag of this Airflow: one question per tick for its tasks, and one for its runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

from astronomer.deferral import JobStatus, Phase, Poller, Transient
from astronomer.deferral._compat import dag_run_url
from astronomer.providers.core.jobs.external import NOT_FOUND, ExternalWait, Sight, judge
from astronomer.providers.core.jobs.groups import by_task, chunks, instance, unambiguous
from astronomer.providers.core.jobs.questions import Questions, UnknownToAirflow
from astronomer.providers.core.jobs.runs import RunDates, RunStates, States

__all__ = ["ExternalDagPoller"]

Waits = Sequence[ExternalWait]
Tasks = dict[str, dict[str, Sight]]
"""By task, and by run."""


class ExternalDagPoller(Poller[ExternalWait]):
    """Asks about all waits on one Dag. Those for tasks cost one question per tick, whatever their number.

    :param questions: how Airflow is asked; by default over the supervisor of this process.
    """

    timeout = (
        600.0  # a supervisor that begins with thousands of triggers answers late, and asking again adds to it
    )

    def __init__(self, dag_id: str, questions: Questions | None = None) -> None:
        self._ask = questions or Questions(dag_id)
        self._dag_id = dag_id
        self._dates = RunDates()
        self._runs = {by: RunStates() for by in ("dates", "run_ids")}
        self._last: dict[ExternalWait, JobStatus] = {}

    async def poll(self, jobs: Sequence[ExternalWait]) -> Mapping[ExternalWait, JobStatus]:
        """One look at all of them; soon another one, when something has changed."""
        answers: dict[ExternalWait, JobStatus] = {}
        trouble: Transient | None = None
        for by, waits in _alike(jobs):
            try:
                answers |= await self._judged(by, waits)
            except Transient as error:  # a group that cannot be asked about must not hide the tasks
                trouble = error
        if trouble is not None and not answers:
            raise trouble
        self._dates.forget_the_unseen()
        for runs in self._runs.values():
            runs.forget_the_unwanted()
        self.look_again = any(self._last.get(wait, status) != status for wait, status in answers.items())
        self._last = answers
        return answers

    async def _judged(self, by: str, waits: Waits) -> dict[ExternalWait, JobStatus]:
        url = partial(dag_run_url, self._dag_id)
        try:
            if waits[0].task_ids:
                tasks = await self._tasks(by, waits)
                return {wait: judge(wait, _own(wait, tasks), url) for wait in waits}
            if waits[0].group_id:
                sights = await self._instances(
                    by, waits, partial(self._ask.task_states, group_id=waits[0].group_id)
                )
            else:
                sights = await self._whole_runs(by, waits)
        except UnknownToAirflow as error:
            if not waits[0].group_id:
                raise Transient(str(error)) from error  # of tasks and runs Airflow itself never says so
            return dict.fromkeys(waits, JobStatus(Phase.FAILED, NOT_FOUND, str(error), code=NOT_FOUND))
        return {wait: judge(wait, sights, url) for wait in waits}

    async def _tasks(self, by: str, waits: Waits) -> Tasks:
        found: Tasks = {}
        for task_ids in unambiguous(one for wait in waits for one in wait.task_ids):
            for some in chunks(task_ids):
                ask = partial(self._ask.task_states, task_ids=some)
                for target, sight in (await self._instances(by, waits, ask)).items():
                    for task_id, states in by_task(sight.states, some).items():
                        found.setdefault(task_id, {})[target] = Sight(sight.run_id, states)
        return found

    async def _instances(
        self, by: str, waits: Waits, ask: Callable[..., Awaitable[States]]
    ) -> dict[str, Sight]:
        found: dict[str, Sight] = {}
        for targets in chunks(_targets(waits)):
            if by == "dates":
                found |= await self._dates.sights(targets, lambda dates: ask(dates=dates))
            else:
                states = await ask(run_ids=targets)
                found |= {run_id: Sight(run_id, one) for run_id, one in states.items()}
        return found

    async def _whole_runs(self, by: str, waits: Waits) -> dict[str, Sight]:
        states = list(dict.fromkeys(state for wait in waits for state in wait.states))
        found: dict[str, Sight] = {}

        async def count(targets: Sequence[str], some: Sequence[str] | None) -> int:
            return await self._ask.count_runs(some, **{by: targets})

        for targets in chunks(_targets(waits)):
            found |= await self._runs[by].sights(targets, states, count)
        if by == "run_ids":
            found = {run_id: Sight(run_id, sight.states) for run_id, sight in found.items()}
        return found


def _own(wait: ExternalWait, tasks: Tasks) -> dict[str, Sight]:
    """What one wait sees of each run: the instances of its own tasks."""
    found: dict[str, Sight] = {}
    for task_id in wait.task_ids:
        for target in wait.targets:
            sight = tasks.get(task_id, {}).get(target)
            if sight is not None:
                others = found.get(target, Sight()).states
                states = {instance(key, task_id, wait.task_ids): one for key, one in sight.states.items()}
                found[target] = Sight(sight.run_id, {**others, **states})
    return found


def _alike(waits: Sequence[ExternalWait]) -> Iterator[tuple[str, list[ExternalWait]]]:
    """The waits that one question can be about, and whether it names logical dates or run ids."""
    alike: dict[tuple[bool, str | None, bool], list[ExternalWait]] = {}
    for wait in waits:
        alike.setdefault((bool(wait.task_ids), wait.group_id, bool(wait.logical_dates)), []).append(wait)
    for (_, _, dated), some in alike.items():
        yield "dates" if dated else "run_ids", some


def _targets(waits: Waits) -> list[str]:
    return sorted({target for wait in waits for target in wait.targets})
