"""Which run of another deployment is which, and in what state, in few questions.

The API cannot be asked for runs by their ids. So one question per look is about all active runs of all Dags that are
waited for: what it names is active, and nothing else has to be asked about it. What it no longer names has ended or was
deleted, and is asked for by itself, once. What it has never named does not exist, or was over before anybody looked: it
is asked for by itself when it is new, and then four times a minute, all together, by what has ended since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from astronomer.deferral import Transient, clock
from astronomer.providers.core.hooks.deployment_errors import Refused
from astronomer.providers.core.jobs.deployment import RunKey, moment

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["DeploymentRuns", "Found", "Question", "each"]

_ACTIVE = ("queued", "running")
_ENDED = frozenset({"success", "failed"})
_FEED_EVERY = 15.0  # seconds between two questions about what has ended
_LATE = timedelta(minutes=5)  # an end may be written that much later than its time, or by another clock
_DUE_WITHIN = timedelta(
    days=3
)  # a new run is older only in a backfill; so the question reads few rows of a database
_AGAIN = 300.0  # seconds after which a run that is not there is asked for by itself once more
_ENDED_AGAIN = (
    60.0  # somebody may mark or clear an ended run that is still waited for, unseen between two looks
)
_AT_ONCE = 8
_FEW = 20  # of such questions in one look
_FORGET = 600.0
_WINDOW = timedelta(days=1)

Row = Mapping[str, Any]


@dataclass
class Found:
    """What is known of one run.

    :ivar state: ``None`` as long as there is no such run.
    :ivar gone: whether it was there, and is no more.
    :ivar hidden: why the login may not see it, if so.
    :ivar asked_at: the loop's time of the last question about it alone.
    """

    run_id: str | None = None
    state: str | None = None
    gone: bool = False
    hidden: str | None = None
    asked_at: float = float("-inf")
    wanted_at: float = 0.0

    @property
    def active(self) -> bool:
        """Whether the list of active runs has to name it, until it ends."""
        return self.state in _ACTIVE

    def see(self, row: Row | None) -> None:
        """Take note of what the deployment says; ``None``: that there is no such run."""
        self.hidden = None
        if row is None:
            self.gone = self.gone or self.state is not None
            self.run_id = self.state = None
        else:
            self.run_id, self.state, self.gone = str(row["dag_run_id"]), str(row["state"]), False


class Question(NamedTuple):
    """Something to ask, and what it is about."""

    about: Sequence[Any]
    ask: Callable[[], Awaitable[object]]


class DeploymentRuns:
    """What one poller knows of runs."""

    def __init__(self) -> None:
        self._found: dict[RunKey, Found] = {}
        self._since: datetime | None = None
        self._fed_at = float("-inf")

    def __getitem__(self, key: RunKey) -> Found:
        return self._found[key]

    async def look(self, client: DeploymentClient, keys: Collection[RunKey]) -> set[RunKey]:
        """One question about all, and one about each that it leaves in doubt.

        :returns: those that could not be asked for just now.
        """
        now = asyncio.get_running_loop().time()
        rows = _by_key(await client.runs(dag_ids=sorted({key.dag_id for key in keys}), states=list(_ACTIVE)))
        rows = await self._feed(client, [key for key in keys if self._has_vanished(key, rows)]) | rows
        dags = {key.dag_id for key in rows}
        soon: list[RunKey] = []
        again: list[RunKey] = []
        for key in keys:
            found = self._found.setdefault(key, Found())
            found.wanted_at = now
            row = rows.get(_as_listed(key, found))
            if row is not None:
                found.see(row)
            elif _in_doubt(key, found, dags):
                soon.append(key)
            elif now >= found.asked_at + (_ENDED_AGAIN if found.state in _ENDED else _AGAIN):
                again.append(key)
        self._forget(now)
        again.sort(key=lambda key: self._found[key].asked_at)
        return set(await each([*self._questions(client, soon), *list(self._questions(client, again))[:_FEW]]))

    def _has_vanished(self, key: RunKey, active: Collection[RunKey]) -> bool:
        """Whether it was active at the last look, and is no more."""
        found = self._found.get(key)
        return found is not None and found.active and _as_listed(key, found) not in active

    async def _feed(self, client: DeploymentClient, vanished: Collection[RunKey]) -> dict[RunKey, Row]:
        """Runs that have ended since the last such question, of the Dags of which a run is missing.

        Asked now and then; and when so many have vanished that it is cheaper than to ask for each.
        """
        loop, begun = asyncio.get_running_loop(), datetime.fromtimestamp(clock.now(), timezone.utc)
        self._since = self._since or begun
        missing = [key for key, found in self._found.items() if found.state is None]
        due = missing and loop.time() >= self._fed_at + _FEED_EVERY
        many = len(vanished) > _FEW
        rows: list[Row] = []

        async def ask() -> None:
            since = (self._since or begun) - _LATE
            rows.extend(
                await client.runs(
                    dag_ids=sorted({key.dag_id for key in [*missing, *vanished]}),
                    states=sorted(_ENDED),
                    end_date_gte=since.isoformat(),
                    run_after_gte=None if many else (begun - _DUE_WITHIN).isoformat(),
                )
            )
            self._since, self._fed_at = begun, loop.time()

        if due or many:
            await each([Question([], ask)])
        return _by_key(rows)

    def _forget(self, now: float) -> None:
        old = [key for key, found in self._found.items() if now > found.wanted_at + _FORGET]
        for key in old:
            del self._found[key]

    def _questions(self, client: DeploymentClient, keys: Sequence[RunKey]) -> Iterator[Question]:
        dated = []
        for key in keys:
            if self._found[key].run_id or key.by == "run_id":
                yield Question([key], partial(self._ask_for, client, key))
            elif key.by == "latest":
                yield Question([key], partial(self._ask_for_latest, client, key))
            else:
                dated.append(key)
        for window in _windows(dated):
            yield Question(window, partial(self._ask_for_dates, client, window))

    def _learn(self, key: RunKey, row: Row | None) -> None:
        found = self._found[key]
        found.see(row)
        found.asked_at = asyncio.get_running_loop().time()

    async def _ask_for(self, client: DeploymentClient, key: RunKey) -> None:
        try:
            self._learn(key, await client.run(key.dag_id, self._found[key].run_id or key.name))
        except Refused as refused:
            if refused.status != 403:
                raise
            self._found[key].hidden = str(refused)
            self._found[key].asked_at = asyncio.get_running_loop().time()

    async def _ask_for_latest(self, client: DeploymentClient, key: RunKey) -> None:
        """The last that was due by then, else the first one after it; of two that were due at once, the newer."""
        before = {"order_by": "-run_after", "run_after_lte": key.name}
        after = {"order_by": "run_after", "run_after_gte": key.name}
        rows = await client.runs(dag_ids=[key.dag_id], most=1, **before)
        rows = rows or await client.runs(dag_ids=[key.dag_id], most=1, **after)
        self._learn(key, rows[0] if rows else None)

    async def _ask_for_dates(self, client: DeploymentClient, window: Sequence[RunKey]) -> None:
        rows = await client.runs(
            dag_ids=sorted({key.dag_id for key in window}),
            logical_date_gte=window[0].name,
            logical_date_lte=window[-1].name,
        )
        by_date = {(row["dag_id"], moment(row["logical_date"])): row for row in rows}
        for key in window:
            self._learn(key, by_date.get((key.dag_id, key.name)))


def _by_key(rows: Iterable[Row]) -> dict[RunKey, Row]:
    """The rows by every name that a key may have for them."""
    found = {}
    for row in rows:
        found[RunKey(row["dag_id"], "run_id", row["dag_run_id"])] = row
        if row.get("logical_date"):
            found[RunKey(row["dag_id"], "date", moment(row["logical_date"]))] = row
    return found


def _as_listed(key: RunKey, found: Found) -> RunKey:
    """How the list of active runs would name it."""
    return RunKey(key.dag_id, "run_id", found.run_id or "") if key.by == "latest" else key


def _in_doubt(key: RunKey, found: Found, dags: Collection[str]) -> bool:
    """Whether to ask at once for a run that is not active: it is new, or it was active; for the first run of a Dag."""
    if found.active or found.asked_at == float("-inf"):
        return True
    return key.by == "latest" and found.state is None and not found.gone and key.dag_id in dags


def _windows(keys: Iterable[RunKey]) -> Iterator[list[RunKey]]:
    """Runs whose dates are near each other, oldest first; one question about the time between is not about much else."""
    window: list[RunKey] = []
    for key in sorted(keys, key=lambda key: key.name):
        if window and _date(key) - _date(window[0]) > _WINDOW:
            yield window
            window = []
        window.append(key)
    if window:
        yield window


def _date(key: RunKey) -> datetime:
    return datetime.fromisoformat(key.name)


async def each(questions: Sequence[Question]) -> list[Any]:
    """Ask them all, a few at once; what those are about that had bad weather.

    :raises Transient: the deployment wants to be left alone, or has refused the login.
    """
    turns = asyncio.Semaphore(_AT_ONCE)
    unanswered: list[Any] = []
    final: list[Transient] = []

    async def put(question: Question) -> None:
        async with turns:
            if final:
                return
            try:
                await question.ask()
            except Transient as trouble:
                unanswered.extend(question.about)
                if trouble.final:
                    final.append(trouble)

    ends = await asyncio.gather(*(put(question) for question in questions), return_exceptions=True)
    for trouble in [*final, *(end for end in ends if end is not None)]:
        raise trouble
    return unanswered
