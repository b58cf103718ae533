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
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from astronomer.deferral import _compat, clock
from astronomer.deferral.job import Phase, RemoteJob
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
        self._own: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._unwritable = False

    @classmethod
    def current(cls) -> Ledger | None:
        """The one in the folder that Airflow's configuration names; there is one in triggerers only."""
        folder = _compat.waits_folder()
        return None if folder is None else cls._known.setdefault(folder, cls(folder))

    @asynccontextmanager
    async def noted(self, job: RemoteJob, ti: Any) -> AsyncIterator[None]:
        """Keep a line for the block. One that ends by an exception, such as a cancel, leaves it for others."""
        line = Line.of(job, ti)
        self._own[line.file] = self._own.get(line.file, 0) + 1
        try:
            await self._write(line)
            self._keep_looking()
            yield
            await self.strike(line)
        finally:
            self._own[line.file] -= 1
            if not self._own[line.file]:
                del self._own[line.file]
            if not self._own and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def strike(self, line: Line) -> None:
        """Take a line out."""
        await self._on_disk((self._folder / line.file).unlink, True)

    async def look(self) -> None:
        """End the jobs of tasks that are over and that nobody waits for."""
        for line in await self._on_disk(lambda: list(self._lines())):
            if line.file in self._own:
                continue
            if await self._is_over(line):
                await self._end(line)
            await asyncio.sleep(PAUSE)

    def _keep_looking(self) -> None:
        if self._looking is None or self._looking.done():
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

    async def _is_over(self, line: Line) -> bool:
        if clock.now() - line.at > TOO_OLD:
            await self.strike(line)
            return False
        return bool(await _compat.is_over(line))

    async def _end(self, line: Line) -> None:
        try:
            job = line.remote_job()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            log.warning("A forgotten job of %s cannot be ended: %s: %s", line.task_id, line.job_type, error)
            await self.strike(line)
            return
        status = await cancel_and_confirm(job, timeout=CONFIRMING)
        if status.phase is Phase.CANCELLED:
            whose = f"{line.dag_id}.{line.task_id} of {line.run_id}"
            log.warning("Ended %s, which was left behind when %s was ended", job.name, whose)
        if status.phase is not Phase.LOST:
            await self.strike(line)

    def _lines(self) -> Iterator[Line]:
        for path in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError):  # struck out meanwhile, or of another version
                yield Line(**json.loads(path.read_text()))

    async def _write(self, line: Line) -> None:
        def write() -> None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._folder / f".{line.file}"
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(asdict(line)))
            draft.replace(self._folder / line.file)

        await self._on_disk(write)

    async def _on_disk(self, work: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)
        except OSError as error:
            if not self._unwritable:
                self._unwritable = True
                log.warning(
                    "What is waited for cannot be kept in %s (%s). A job whose task is ended while no triggerer runs "
                    "goes on until its own limit; set [astronomer_providers] waits_folder to another folder.",
                    self._folder,
                    error,
                )
            return []
