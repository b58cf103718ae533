"""What should be told of each wait, and what was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Account", "Ledger", "Told", "Wait", "percentile"]

_BEFORE = 1.0  # the clocks of a vendor and of ours may differ by that
_TOO_LATE = 1800.0  # seconds; a supervisor that falls behind on a busy machine is late by minutes


@dataclass(frozen=True)
class Wait:
    """One wait.

    :param key: the id of its task instance.
    :param ends: when its work ends, epoch seconds.
    :param fails: whether it ends badly.
    :param folder: of its log, below that of all logs.
    :param grace: seconds by which its work may end later, because the trigger itself begins it.
    """

    key: str
    family: str
    ends: float
    fails: bool
    folder: str = ""
    grace: float = 0.0


@dataclass(frozen=True)
class Told:
    """What the triggerer has written into a task instance.

    :param at: epoch seconds.
    :param outcome: ``succeeded`` or ``failed``; anything else is what went wrong.
    """

    key: str
    at: float
    outcome: str


@dataclass
class Account:
    """The numbers of one family.

    :param begun: all waits that ever began.
    :param right: told once, after the end of the work, and how it ended.
    :param wrong: told something else, or before the end, and what that was.
    :param twice: told more than once.
    :param overdue: told right, but later than it has to be once the weather is over.
    :param unlogged: told, but its own log does not say so.
    :param lost: not told, although the work had ended long ago.
    :param waiting: not told, because the work had not ended, or only just.
    :param late: seconds from the end of the work to the event; ``calm``: of those told after the weather.
    """

    begun: int = 0
    right: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    overdue: int = 0
    unlogged: int = 0
    lost: int = 0
    waiting: int = 0
    late: list[float] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether each wait has had its one event."""
        return not (self.wrong or self.twice or self.overdue or self.unlogged or self.lost)


@dataclass
class Ledger:
    """Who waits, and how it was told.

    :param calm_from: when the weather is over, epoch seconds.
    """

    calm_from: float = float("inf")
    accounts: dict[str, Account] = field(default_factory=dict)
    waiting: dict[str, Wait] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)

    def begin(self, wait: Wait) -> None:
        """A wait is with the triggerer."""
        self.waiting[wait.key] = wait
        self._account(wait.family).begun += 1

    def tell(self, told: Told) -> Wait | None:
        """The triggerer has told a wait; ``None`` if it had done so before, or knows none of that key."""
        wait = self.waiting.pop(told.key, None)
        if wait is None:
            self._account(self._told.get(told.key, "nobody's")).twice += 1
            return None
        self._told[told.key] = wait.family
        account = self._account(wait.family)
        expected = "failed" if wait.fails else "succeeded"
        if told.outcome != expected:
            account.wrong[f"{told.outcome}, not {expected}"] += 1
        elif told.at < wait.ends - _BEFORE:
            account.wrong["before the end"] += 1
        else:
            account.right += 1
            late = max(0.0, told.at - wait.ends)
            account.late.append(late)
            if wait.ends >= self.calm_from:
                account.calm.append(late)
                account.overdue += late > _TOO_LATE + wait.grace
        return wait

    def logged(self, wait: Wait, events: int) -> None:
        """How many events the log of a wait that was told speaks of."""
        account = self._account(wait.family)
        account.twice += events > 1
        account.unlogged += events == 0

    def close(self, now: float, patience: float) -> None:
        """Nobody is told any more: whose work ended more than ``patience`` seconds ago is lost."""
        for account in self.accounts.values():
            account.lost = account.waiting = 0
        for wait in self.waiting.values():
            account = self._account(wait.family)
            if wait.ends + wait.grace + patience < now:
                account.lost += 1
            else:
                account.waiting += 1

    def unheard(self, now: float) -> Counter[str]:
        """How many of each family wait although their work has ended."""
        return Counter(wait.family for wait in self.waiting.values() if wait.ends < now)

    @property
    def ended(self) -> int:
        """How many have been told."""
        return len(self._told)

    def as_json(self) -> Mapping[str, Any]:
        """The numbers of each family."""
        return {family: _numbers(account) for family, account in self.accounts.items()}

    def _account(self, family: str) -> Account:
        return self.accounts.setdefault(family, Account())


def percentile(values: list[float], share: float) -> float | None:
    """The value below which so large a share of them is; ``None`` if there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def _numbers(account: Account) -> Mapping[str, Any]:
    late = {
        f"{name}{when}": percentile(values, share)
        for when, values in (("", account.calm), ("_with_the_weather", account.late))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {
        "begun": account.begun,
        "right": account.right,
        "wrong": dict(account.wrong),
        "twice": account.twice,
        "overdue": account.overdue,
        "unlogged": account.unlogged,
        "lost": account.lost,
        "still_waiting": account.waiting,
        "end_to_event_s": {name: None if one is None else round(one, 2) for name, one in late.items()},
    }
