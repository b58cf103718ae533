"""Runs in order of their start, so that a page of them costs the same whatever their number."""

from __future__ import annotations

from bisect import bisect_left, insort

from astronomer.lab.databricks.runs import Run

__all__ = ["RunIndex"]

_Key = tuple[int, int]


class _Ordered:
    """Run ids in order of start."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: list[_Key] = []

    def add(self, key: _Key) -> None:
        if not self.keys or key > self.keys[-1]:
            self.keys.append(key)
        else:
            insort(self.keys, key)

    def discard(self, key: _Key) -> None:
        at = bisect_left(self.keys, key)
        if at < len(self.keys) and self.keys[at] == key:
            del self.keys[at]

    def newest(self, offset: int, limit: int, since: int | None, until: int | None) -> tuple[list[int], bool]:
        """Return run ids, newest first, and whether there are more after them."""
        low = 0 if since is None else bisect_left(self.keys, (since, 0))
        high = len(self.keys) if until is None else bisect_left(self.keys, (until + 1, 0))
        end = high - offset
        start = max(end - limit, low)
        if end <= low:
            return [], False
        return [key[1] for key in reversed(self.keys[start:end])], start > low


class RunIndex:
    """The runs of the workspace, of each job and of each type: all, those that go on and those that ended."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self._ordered: dict[tuple[object, str], _Ordered] = {}

    def add(self, run: Run) -> None:
        """Know a run."""
        self.runs[run.run_id] = run
        self._file(run, "all")
        self._file(run, "completed" if run.ended else "active")

    def ended(self, run: Run) -> None:
        """A run ended."""
        self._unfile(run, "active")
        self._file(run, "completed")

    def resumed(self, run: Run) -> None:
        """A run that had ended goes on, because it is repaired."""
        self._unfile(run, "completed")
        self._file(run, "active")

    def remove(self, run: Run) -> None:
        """Forget a run."""
        self.runs.pop(run.run_id, None)
        for which in ("all", "active", "completed"):
            self._unfile(run, which)

    def oldest(self) -> Run | None:
        """Return the run that started first."""
        found = self._ordered.get((None, "all"))
        return self.runs[found.keys[0][1]] if found and found.keys else None

    def active(self, job_id: int | None = None) -> int:
        """Return how many runs go on, of a job or of all."""
        found = self._ordered.get((job_id, "active"))
        return len(found.keys) if found else 0

    def active_ids(self, job_id: int | None = None) -> list[int]:
        """Return the runs that go on, oldest first."""
        found = self._ordered.get((job_id, "active"))
        return [key[1] for key in found.keys] if found else []

    def page(
        self,
        group: int | str | None,
        which: str,
        *,
        offset: int,
        limit: int,
        since: int | None = None,
        until: int | None = None,
    ) -> tuple[list[Run], bool]:
        """Return runs, newest first, and whether there are more.

        :param group: a job, a type of run, or None for all.
        :param which: ``all``, ``active`` or ``completed``.
        :param since: only those that started then or later, milliseconds; ``until``: then or earlier.
        """
        found = self._ordered.get((group, which))
        if found is None:
            return [], False
        ids, more = found.newest(offset, limit, since, until)
        return [self.runs[run_id] for run_id in ids], more

    def _groups(self, run: Run) -> tuple[object, ...]:
        return (None, run.job_id, run.kind)

    def _file(self, run: Run, which: str) -> None:
        for group in self._groups(run):
            self._ordered.setdefault((group, which), _Ordered()).add((run.start_time, run.run_id))

    def _unfile(self, run: Run, which: str) -> None:
        for group in self._groups(run):
            if found := self._ordered.get((group, which)):
                found.discard((run.start_time, run.run_id))
