"""Scripted faults: what goes wrong between a client and a stand-in, when, and how often.

A fault applies to requests that arrive while it is in force; a request already being answered is left alone. The first
fault in force that matches a request is the one applied to it, newest script first.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["Effect", "Fault", "Faults", "Kind"]

Kind = Literal["status", "reset", "cut", "lose_answer", "slow", "late", "expired", "rewrite"]
GIVEN = ("status", "retry_after", "delay", "old", "new")
STORM_MIX: tuple[Kind | int, ...] = (429, 503, "reset")


@dataclass(frozen=True)
class Effect:
    """What happens to one request.

    :param kind: ``status``: answered with ``status`` and nothing done. ``reset``: the connection is reset and nothing
        done. ``cut``: done, half of the answer sent, then the connection is closed. ``lose_answer``: done, then the
        connection is reset without an answer. ``slow``: done after ``delay`` seconds. ``late``: done at once, answered
        after ``delay`` seconds. ``expired``: answered as if the credential had expired, and nothing done. ``rewrite``:
        done, and ``old`` in the answer's text replaced by ``new``, such as a state by one that no client knows.
    :param retry_after: value of the Retry-After header, seconds.
    """

    kind: Kind
    status: int = 503
    retry_after: float | None = None
    delay: float = 0.0
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.status}" if self.kind == "status" else self.kind


@dataclass
class Fault:
    """One scripted fault.

    :param path: a regular expression that the request path must contain; ``""`` is every path.
    :param method: only this HTTP method, or any.
    :param times: how many requests it hits, or None for any number.
    :param until: the ``time.monotonic()`` at which it ends, or None for never.
    :param rate: the share of matching requests it hits, 0 to 1.
    :param hits: how many it has hit so far.
    """

    effects: tuple[Effect, ...]
    path: str = ""
    method: str | None = None
    times: int | None = None
    until: float | None = None
    rate: float = 1.0
    seed: int = 0
    hits: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        re.compile(self.path)
        self._random = random.Random(self.seed)  # noqa: S311 - a script must repeat, not resist guessing

    def spent(self, now: float) -> bool:
        """Return whether the fault can never hit again."""
        return (self.until is not None and now >= self.until) or (
            self.times is not None and self.hits >= self.times
        )

    def hit(self, method: str, path: str) -> Effect | None:
        """Return what to do to this request, or None to leave it alone."""
        if self.method not in (None, method) or not re.search(self.path, path):
            return None
        if self.rate < 1.0 and self._random.random() >= self.rate:
            return None
        self.hits += 1
        return self.effects[0] if len(self.effects) == 1 else self._random.choice(self.effects)


class Faults:
    """The faults in force. Every method may be called from any thread.

    The shortcuts take the matching arguments of ``add``: ``path``, ``method``, ``times``, ``seconds``, ``rate``, ``seed``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        *effects: Effect,
        path: str = "",
        method: str | None = None,
        times: int | None = None,
        seconds: float | None = None,
        rate: float = 1.0,
        seed: int = 0,
    ) -> Fault:
        """Put a fault in force: for ``times`` requests, for ``seconds``, or until cleared; return it to read ``hits``."""
        until = None if seconds is None else self._clock() + seconds
        fault = Fault(effects, path, method and method.upper(), times, until, rate, seed)
        with self._lock:
            self._faults.insert(0, fault)
        return fault

    def status(self, status: int, path: str = "", *, retry_after: float | None = None, **match: Any) -> Fault:
        """Answer with this HTTP status instead of doing anything."""
        return self.add(Effect("status", status, retry_after), path=path, **match)

    def reset(self, path: str = "", **match: Any) -> Fault:
        """Reset the connection instead of doing anything."""
        return self.add(Effect("reset"), path=path, **match)

    def cut(self, path: str = "", **match: Any) -> Fault:
        """Do the request, then close the connection in the middle of the answer."""
        return self.add(Effect("cut"), path=path, **match)

    def lose_answer(self, path: str = "", **match: Any) -> Fault:
        """Do the request, then reset the connection without an answer."""
        return self.add(Effect("lose_answer"), path=path, **match)

    def slow(self, delay: float, path: str = "", **match: Any) -> Fault:
        """Do the request after ``delay`` seconds."""
        return self.add(Effect("slow", delay=delay), path=path, **match)

    def late(self, delay: float, path: str = "", **match: Any) -> Fault:
        """Do the request at once, and answer after ``delay`` seconds."""
        return self.add(Effect("late", delay=delay), path=path, **match)

    def rewrite(self, old: str, new: str, path: str = "", **match: Any) -> Fault:
        """Do the request, and replace a text in the answer."""
        return self.add(Effect("rewrite", old=old, new=new), path=path, **match)

    def expired(self, path: str = "", **match: Any) -> Fault:
        """Answer as if the client's credential had expired."""
        return self.add(Effect("expired"), path=path, **match)

    def storm(self, seconds: float = 60.0, *, rate: float = 0.9, seed: int = 0, path: str = "") -> Fault:
        """For a while, answer a random ``rate`` of all requests with 429, 503 or a reset, the same way for each seed."""
        effects = [
            Effect("status", kind, 1.0 if kind == 429 else None) if isinstance(kind, int) else Effect(kind)
            for kind in STORM_MIX
        ]
        return self.add(*effects, path=path, seconds=seconds, rate=rate, seed=seed)

    def clear(self) -> None:
        """End every fault now."""
        with self._lock:
            self._faults.clear()

    @property
    def active(self) -> list[Fault]:
        """The faults that can still hit, newest first."""
        with self._lock:
            return [fault for fault in self._faults if not fault.spent(self._clock())]

    def pick(self, method: str, path: str) -> Effect | None:
        """Return what to do to a request that arrives now, and count the hit."""
        with self._lock:
            now = self._clock()
            self._faults = [fault for fault in self._faults if not fault.spent(now)]
            for fault in self._faults:
                if effect := fault.hit(method, path):
                    return effect
        return None

    def script(self, spec: dict[str, Any]) -> Fault:
        """Put in force a fault described as JSON: ``{"kind": ..., "path": ..., "times": ..., ...}`` or ``{"storm": 60}``.

        :raises ValueError: the description names an unknown kind or argument.
        """
        spec = dict(spec)
        if "storm" in spec:
            return self.storm(float(spec.pop("storm")), **spec)
        kind = spec.pop("kind", "status")
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault {kind!r}; use one of {', '.join(get_args(Kind))}")
        given = {name: spec.pop(name) for name in GIVEN if name in spec}
        try:
            return self.add(Effect(kind, **given), **spec)
        except TypeError as error:
            raise ValueError(f"unknown argument of a fault: {error}") from error
