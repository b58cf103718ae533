"""What the triggerers of this machine wait for, kept on its disk, so that a job is not forgotten with its trigger.

Airflow tells a trigger that a user has ended its task, but only one that runs. When the task is ended while no
triggerer has its trigger, Airflow drops the trigger and tells nobody. So each wait leaves a line here, which says that
it is alive as long as it is, and is struck out when it is over. Every minute somebody who waits looks for lines that
are no longer alive: if Airflow says that such a task is over, its job is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from astronomer.deferral import _compat, clock
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Phase, RemoteJob
from astronomer.deferral.watch import cancel_and_confirm, look_once

__all__ = ["Ledger", "Line"]

FIRST_LOOK = 30.0  # seconds, in which the triggers of a triggerer that was restarted come back
LOOK_EVERY = 60.0
ALIVE = 2 * LOOK_EVERY  # a line that has not been touched for so long belongs to nobody
# Later somebody may have taken the job up by hand, such as by a repair of a run, which keeps the run's id.
FORGOTTEN = 3600.0
AT_ONCE = 8
PAUSE = 1.0  # between so many questions: each costs the supervisor a loop
RARELY = 480.0  # seconds from look to look at a task that goes on elsewhere, in the end
CONFIRMING = 60.0
HANGS = 30.0  # a disk that takes so long for an answer

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One wait: the job, and the task that waits for it. Plain JSON without secrets, as trigger arguments are.

    :param job_type: module and name of the job's class.
    """

    job_type: str
    job: dict[str, Any]
    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, job: RemoteJob, ti: Any) -> Line:
        """Write down whose job it is."""
        kind = type(job)
        place = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        return cls(f"{kind.__module__}:{kind.__qualname__}", job.to_dict(), *place)

    @property
    def file(self) -> str:
        """The same for every triggerer that waits for the same job."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32] + ".json"

    @property
    def whose(self) -> str:
        """The task, for people."""
        return f"{self.dag_id}.{self.task_id} of {self.run_id}"

    def remote_job(self) -> RemoteJob:
        """The job, as its class makes it."""
        module, _, name = self.job_type.partition(":")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, RemoteJob)):
            raise TypeError("it is no remote job")
        return kind.from_dict(self.job)


class Ledger:
    """The lines of one Airflow, in one folder.

    :param folder: made when the first line is written; whoever can read it sees ids of jobs and names of tasks.
    """

    _known: ClassVar[dict[Path, Ledger]] = {}

    def __init__(self, folder: Path) -> None:
        self._pages = _Pages(folder)
        self._own: Counter[str] = Counter()
        self._elsewhere: dict[str, tuple[float, float]] = {}
        self._looking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looking.cancel()

    @classmethod
    def current(cls) -> Ledger | None:
        """The one in the folder that Airflow's configuration names; there is one in triggerers only."""
        folder = _compat.waits_folder()
        return None if folder is None else cls._known.setdefault(folder, cls(folder))

    @contextmanager
    def noted(self, job: RemoteJob, ti: Any) -> Iterator[None]:
        """Keep a line for the block, and for others when the block is cancelled.

        Nothing is waited for: a disk that hangs must not hold up a wait.
        """
        line = Line.of(job, ti)
        self._own[line.file] += 1
        self._write(line)
        self._keep_looking()
        try:
            yield
            self.strike(line)
        except Exception:  # a defect: the task is told, and its retry finds the job
            self.strike(line)
            raise
        finally:
            self._own -= Counter((line.file,))
            if not self._own:
                self._looking.cancel()

    def leave(self, job: RemoteJob, ti: Any) -> None:
        """Keep a line of what nobody waits for any more."""
        self._write(Line.of(job, ti))

    def strike(self, line: Line) -> None:
        """Take a line out."""
        _disk.do(lambda: self._pages.remove(line.file))

    def _write(self, line: Line) -> None:
        now = clock.now()
        _disk.do(lambda: self._pages.write(line, now))

    async def look(self) -> None:
        """End the jobs of tasks that are over and that nobody waits for."""
        own, now = list(self._own), clock.now()
        lines = await _disk.answer(lambda: self._pages.abandoned(own, now))
        self._elsewhere = {
            line.file: self._elsewhere[line.file] for line in lines if line.file in self._elsewhere
        }
        lines = [line for line in lines if self._elsewhere.get(line.file, (0.0, 0.0))[0] <= now]
        for start in range(0, len(lines), AT_ONCE):
            await asyncio.gather(*map(self._settle, lines[start : start + AT_ONCE]))
            await asyncio.sleep(PAUSE)

    def _keep_looking(self) -> None:
        if self._looking.done():
            # Not in the context of the trigger that happens to be the first: what is logged here is not about its task.
            self._looking = Context().run(asyncio.ensure_future, self._look_for_ever())

    async def _look_for_ever(self) -> None:
        await asyncio.sleep(FIRST_LOOK)
        while True:
            with suppress(queue.Empty):
                await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def _settle(self, line: Line) -> None:
        try:
            over = None if line.file in self._own else await _compat.is_over(line)
            if over is False:
                self._look_later(line)
            elif over and await self._ended(line):
                self.strike(line)
        except Exception as error:  # of one line, which must not keep the others waiting
            log.warning("A forgotten job of %s cannot be ended: %s", line.whose, error, exc_info=True)
            self.strike(line)

    def _look_later(self, line: Line) -> None:
        """After a restart a thousand tasks may go on elsewhere, and each costs two questions a look."""
        _, pause = self._elsewhere.get(line.file, (0.0, LOOK_EVERY / 2))
        pause = min(2 * pause, RARELY)
        self._elsewhere[line.file] = clock.now() + pause, pause

    async def _ended(self, line: Line) -> bool:
        job = line.remote_job()
        succeeded = await _compat.has_succeeded(line)
        if succeeded is None:
            return False
        if not succeeded:  # then what has come of the job since is not wanted either
            job = job.whole
        status = await look_once(job, Hub.current(), CONFIRMING)
        if status is not None and not status.done:
            status = await cancel_and_confirm(job, timeout=CONFIRMING)
            told = (job.name, line.whose, status.phase.value)
            log.warning("%s was left behind when %s was ended, and is %s", *told)
        return _is_known(status)


def _is_known(status: JobStatus | None) -> bool:
    return status is not None and status.phase is not Phase.LOST


class _Pages:
    """The files; used by the one thread for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._complained = False

    def write(self, line: Line, now: float) -> None:
        draft = self._folder / f"{line.file}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(asdict(line)))
            os.utime(draft, (now, now))
            draft.replace(self._folder / line.file)
        except OSError as error:
            self._complain(error)

    def remove(self, file: str) -> None:
        with suppress(OSError):
            (self._folder / file).unlink()

    def abandoned(self, own: list[str], now: float) -> list[Line]:
        """Say that our own ones are alive, and return those of which nobody has said so."""
        for file in own:
            with suppress(OSError):
                os.utime(self._folder / file, (now, now))
        found = []
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            with suppress(OSError, ValueError, TypeError):  # struck out meanwhile, or of another version
                age = now - path.stat().st_mtime
                if age > FORGOTTEN:
                    path.unlink()
                elif age > ALIVE and path.suffix == ".json":
                    found.append(Line(**json.loads(path.read_text())))
        return found

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "What is waited for cannot be kept in %s (%s). A job whose task is ended while no triggerer runs "
                "goes on until its own limit; set [astronomer_providers] waits_folder to another folder.",
                self._folder,
                error,
            )


class _Disk:
    """One thread that does one thing after the other, and that no exit of the process waits for."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Have it done some time; it may not raise."""
        if self._thread is None or not self._thread.is_alive():  # or lost by a fork
            self._thread = threading.Thread(target=self._run, name="astronomer-ledger", daemon=True)
            self._thread.start()
        self._work.put(work)

    async def answer(self, question: Callable[[], T]) -> T:
        """Return what it returns, once all that came before is done.

        :raises queue.Empty: the disk hangs.
        """
        answers: queue.SimpleQueue[T] = queue.SimpleQueue()
        self.do(lambda: answers.put(question()))
        return await asyncio.to_thread(answers.get, timeout=HANGS)

    def _run(self) -> None:
        while True:
            self._work.get()()


_disk = _Disk()
