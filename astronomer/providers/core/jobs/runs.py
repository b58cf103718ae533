"""Which run has which logical date, and which run is in which state, in few questions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from astronomer.providers.core.jobs.external import Sight

__all__ = ["RunDates", "RunStates", "states_of"]

States = Mapping[str, Mapping[str, str | None]]
AskStates = Callable[[Sequence[str]], Awaitable[States]]
Count = Callable[[Sequence[str], Sequence[str] | None], Awaitable[int]]

_PRESENCE_EVERY = 60.0


class RunDates:
    """Airflow answers a question about logical dates by run id. This remembers which is which.

    A Dag has one run at most for a logical date, so with ``n`` dates still to be found, ``log2(n)`` questions about
    half of them each tell which date each new run has.
    """

    def __init__(self) -> None:
        self._date_of: dict[str, str] = {}
        self._seen: set[str] = set()

    async def sights(self, dates: Sequence[str], ask: AskStates) -> dict[str, Sight]:
        """What is known of the run of each date; dates without a run are left out."""
        found = await ask(dates)
        unknown = set(found) - set(self._date_of)
        if unknown:
            known = {self._date_of[run_id] for run_id in found if run_id in self._date_of}
            missing = [date for date in dates if date not in known]
            found = await self._learn(found, unknown, missing, dates, ask)
        asked = set(dates)
        dated = [run_id for run_id in found if self._date_of.get(run_id) in asked]
        self._seen.update(dated)
        return {self._date_of[run_id]: Sight(run_id, found[run_id]) for run_id in dated}

    def forget_the_unseen(self) -> None:
        """After all questions of a round: what none of them has seen was deleted, and may come with another date."""
        self._date_of = {run_id: date for run_id, date in self._date_of.items() if run_id in self._seen}
        self._seen = set()

    async def _learn(
        self, found: States, unknown: set[str], missing: Sequence[str], dates: Sequence[str], ask: AskStates
    ) -> States:
        """Find the dates of unknown runs: each question is about the dates that have one bit of their number set."""
        if len(missing) == 1:
            self._date_of |= dict.fromkeys(unknown, missing[0]) if len(unknown) == 1 else {}
            return found
        numbers = dict.fromkeys(unknown, 0)
        for bit in range((len(missing) - 1).bit_length()):
            some = [date for number, date in enumerate(missing) if number >> bit & 1]
            for run_id in unknown & set(await ask(some)):
                numbers[run_id] |= 1 << bit
        # A run that has come or gone meanwhile has a wrong number: only those that were there all the time count.
        found = await ask(dates)
        taken = [numbers[run_id] for run_id in unknown if run_id in found]
        for run_id in unknown & set(found):
            if numbers[run_id] < len(missing) and taken.count(numbers[run_id]) == 1:
                self._date_of[run_id] = missing[numbers[run_id]]
        return found


class RunStates:
    """States of whole runs, which Airflow only counts: one question while nothing changes, a few per change."""

    def __init__(self) -> None:
        self._state: dict[str, str] = {}
        self._there: set[str] = set()
        self._looked_at = float("-inf")
        self._wanted: set[str] = set()

    def forget_the_unwanted(self) -> None:
        """After all questions of a round: nobody waits for these any more."""
        self._state = {target: state for target, state in self._state.items() if target in self._wanted}
        self._there &= self._wanted
        self._wanted = set()

    async def sights(self, targets: Sequence[str], states: Sequence[str], count: Count) -> dict[str, Sight]:
        """What is known of each run; one that is in none of the states has the state ``""``.

        :param count: how many of some targets are in one of some states, or are there at all.
        """
        self._wanted |= set(targets)
        found = await self._unchanged(targets, states, count)
        rest = [target for target in targets if target not in found]
        if rest:
            found |= await states_of(rest, states, count)
        self._state = {**{key: one for key, one in self._state.items() if key not in targets}, **found}
        await self._look_who_is_there([target for target in rest if target not in found], count)
        self._there |= set(found)
        return {
            target: Sight(states={"": found.get(target, "")})
            for target in targets
            if target in found or target in self._there
        }

    async def _unchanged(self, targets: Sequence[str], states: Sequence[str], count: Count) -> dict[str, str]:
        """Those that are where they were, as far as a count of all of them says so."""
        found: dict[str, str] = {}
        for state in states:
            before = [target for target in targets if self._state.get(target) == state]
            if before and await count(before, [state]) == len(before):
                found |= dict.fromkeys(before, state)
        return found

    async def _look_who_is_there(self, targets: Sequence[str], count: Count) -> None:
        """Now and then, only to tell a run that is missing from one that has not ended."""
        now = asyncio.get_running_loop().time()
        if targets and now >= self._looked_at + _PRESENCE_EVERY:
            self._looked_at = now
            present = await count(targets, None)
            gone = set(targets) - self._there
            if present != len(targets) - len(gone):
                there = await _halves(targets, None, present, count, sure=True)
                self._there = (self._there - set(targets)) | set(there)


async def states_of(targets: Sequence[str], states: Sequence[str], count: Count) -> dict[str, str]:
    """Which of the targets are in which of the states; questions grow with what is found, not with what is asked."""
    total = await count(targets, states)
    return await _by_state(targets, states, total, count)


async def _by_state(
    targets: Sequence[str], states: Sequence[str], total: int, count: Count
) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, state in enumerate(states):
        if total <= 0:
            break
        last = number == len(states) - 1
        here = total if last else await count(targets, [state])
        found |= dict.fromkeys(
            await _halves(targets, [state], here, count, sure=not last or number == 0), state
        )
        total -= here
    return found


async def _halves(
    targets: Sequence[str], states: Sequence[str] | None, total: int, count: Count, *, sure: bool
) -> list[str]:
    """The targets that were counted, found by halving.

    :param sure: whether the number was counted. One that was inferred may be wrong, if something moved between two
        questions, so what is inferred is counted before it is believed.
    """
    if total <= 0:
        return []
    if not sure and (len(targets) == 1 or total == len(targets)):
        total, sure = await count(targets, states), True
    if total == len(targets) and sure:
        return list(targets)
    if len(targets) == 1:
        return []
    half = len(targets) // 2
    first = await count(targets[:half], states)
    return [
        *await _halves(targets[:half], states, first, count, sure=True),
        *await _halves(targets[half:], states, total - first, count, sure=False),
    ]
