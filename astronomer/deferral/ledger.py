"""What the triggerers of this machine wait for, kept on its disk, so that a job is not forgotten with its trigger.

Airflow tells a trigger that a user has ended its task, but only one that runs. When the task is ended while no
triggerer has its trigger, Airflow drops the trigger and tells nobody. So each wait leaves a line here, strikes it out
when it is over, and every minute somebody who waits looks for the lines of others: if Airflow says that such a task is
over, its job is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from astronomer.deferral import _compat, clock
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Phase, RemoteJob
from astronomer.deferral.watch import cancel_and_confirm

__all__ = ["Ledger", "Line"]

FIRST_LOOK = 30.0  # seconds, in which the triggers of a triggerer that was restarted come back
LOOK_EVERY = 60.0
PAUSE = 0.25  # between two questions: each costs the supervisor a loop
CONFIRMING = 60.0
TOO_OLD = 14 * 86_400.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One wait: the job, and the task that waits for it. Plain JSON without secrets, as trigger arguments are.

    :param job_type: module and name of the job's class.
    :param at: epoch seconds of the begin of the wait.
    """

    job_type: str
    job: dict[str, Any]
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    at: float

    @classmethod
    def of(cls, job: RemoteJob, ti: Any) -> Line:
        """Write down whose job it is."""
        kind = type(job)
        place = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        return cls(f"{kind.__module__}:{kind.__qualname__}", job.to_dict(), *place, clock.now())

    @property
    def file(self) -> str:
        """The same for every triggerer that waits for the same job."""
        same = {**asdict(self), "at": None}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:32] + ".json"

    def remote_job(self) -> RemoteJob:
        """The job, as its class makes it."""
        module, _, name = self.job_type.partition(":")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, RemoteJob)):
            raise TypeError("it is no remote job")
        return kind.from_dict(self.job)


class Ledger:
    """The lines in one folder.

    :param folder: made when the first line is written; whoever can read it sees ids of jobs and names of tasks.
    """

    _known: ClassVar[dict[Path, Ledger]] = {}
    _disk: ClassVar[ThreadPoolExecutor] = ThreadPoolExecutor(1, "astronomer-ledger")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: Counter[str] = Counter()
        self._looking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looking.cancel()
        self._complained = False

    @classmethod
    def current(cls) -> Ledger | None:
        """The one in the folder that Airflow's configuration names; there is one in triggerers only."""
        folder = _compat.waits_folder()
        return None if folder is None else cls._known.setdefault(folder, cls(folder))

    @contextmanager
    def noted(self, job: RemoteJob, ti: Any) -> Iterator[None]:
        """Keep a line for the block. One that ends by an exception, such as a cancel, leaves it for others.

        Nothing is waited for: a disk that hangs must not hold up a wait.
        """
        line = Line.of(job, ti)
        self._own[line.file] += 1
        self._disk.submit(self._write, line)
        self._keep_looking()
        try:
            yield
            self.strike(line)
        finally:
            self._own -= Counter((line.file,))
            if not self._own:
                self._looking.cancel()

    def strike(self, line: Line) -> None:
        """Take a line out."""
        self._disk.submit(self._remove, line)

    async def look(self) -> None:
        """End the jobs of tasks that are over and that nobody waits for."""
        lines = await asyncio.get_running_loop().run_in_executor(self._disk, self._lines)
        for line in lines:
            if line.file not in self._own:
                await self._settle(line)
                await asyncio.sleep(PAUSE)

    def _keep_looking(self) -> None:
        if self._looking.done():
            # Not in the context of the trigger that happens to be the first: what is logged here is not about its task.
            self._looking = Context().run(asyncio.ensure_future, self._look_for_ever())

    async def _look_for_ever(self) -> None:
        await asyncio.sleep(FIRST_LOOK)
        while True:
            try:
                await self.look()
            except Exception:  # a defect here must not cost a wait
                log.exception("Looking for forgotten jobs failed")
            await asyncio.sleep(LOOK_EVERY)

    async def _settle(self, line: Line) -> None:
        if clock.now() - line.at > TOO_OLD:
            self.strike(line)
        elif await _compat.is_over(line):
            await self._end(line)

    async def _end(self, line: Line) -> None:
        try:
            job = line.remote_job()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            log.warning("A forgotten job of %s cannot be ended: %s: %s", line.task_id, line.job_type, error)
            self.strike(line)
            return
        status = await _looked_at(job)
        if status is None:
            return
        if not status.done:
            status = await cancel_and_confirm(job, timeout=CONFIRMING)
            whose = f"{line.dag_id}.{line.task_id} of {line.run_id}"
            log.warning(
                "%s was left behind when %s was ended, and is %s", job.name, whose, status.phase.value
            )
        if status.phase is not Phase.LOST:
            self.strike(line)

    # On the disk, in the one thread for it.

    def _lines(self) -> list[Line]:
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError):  # struck out meanwhile, or of another version
                found.append(Line(**json.loads(path.read_text())))
        return found

    def _write(self, line: Line) -> None:
        draft = self._folder / f".{line.file}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(asdict(line)))
            draft.replace(self._folder / line.file)
        except OSError as error:
            self._complain(error)

    def _remove(self, line: Line) -> None:
        with suppress(OSError):
            (self._folder / line.file).unlink()

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "What is waited for cannot be kept in %s (%s). A job whose task is ended while no triggerer runs "
                "goes on until its own limit; set [astronomer_providers] waits_folder to another folder.",
                self._folder,
                error,
            )


async def _looked_at(job: RemoteJob) -> JobStatus | None:
    """The job's status; ``None`` when it cannot be asked."""
    async with Hub.current().subscribe(job, interval=1.0, urgent=True) as seen:
        await seen.changed(CONFIRMING)
        return seen.status
