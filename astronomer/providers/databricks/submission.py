"""Start a run under an idempotency token, and know whether it is the one that was meant.

Databricks answers a token that it has seen with the run of that time, whatever became of it, and does not say so.
So what began before this process first asked is an older run: by the newest run that there was before, where
an older one is to be expected, and by the clock of the server.

Source: docs.databricks.com/api/workspace/jobs/runnow, ``idempotency_token``.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from astronomer.deferral import Phase, Transient, clock
from astronomer.deferral.patience import insist
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.states import status_of

__all__ = ["LONGEST_TOKEN", "Submission"]

T = TypeVar("T")

LONGEST_TOKEN = 64
_LINKS = 100  # of a chain of tokens; each is a run of this task that failed unseen
_RESOLUTION = 60.0  # the Date header may be a gateway's, by a clock of its own
_CLOCKS_DIFFER = 10.0  # two workers' may, by so many seconds


@dataclass
class Submission:
    """One submit, and every repetition of it that a crash or the weather asks for.

    :param path: the endpoint, under ``/api/``.
    :param body: what it gets, without a token.
    :param token: the first token to use.
    :param inherited: the first token of a submit whose answer nobody heard before the task was cleared; used in
        place of ``token``, so that a run which it has started is met and ended.
    :param since: when an earlier try of the same attempt may first have submitted, in epoch seconds of Airflow's
        clock; ``None`` if none may have. A run from before that is of an earlier life of the task: its Dag run was
        deleted and made again or, under a user's token, the task was cleared.
    :param shared: whether the user chose the token, so that others may use it, too. Their run is followed.
    :param tolerance: seconds for which bad weather is borne.
    :param on_trouble: told of it each time.
    :param check: raises where somebody else may have gone on with the task; called right before each submit.
    """

    client: DatabricksClient
    path: str
    body: Mapping[str, Any]
    token: str
    inherited: str = ""
    since: float | None = None
    shared: bool = False
    tolerance: float = 3600.0
    on_trouble: Callable[[Transient], object] | None = None
    check: Callable[[], None] | None = None

    async def run(
        self, seen: Callable[[int], object], end: Callable[[int], Awaitable[object]]
    ) -> dict[str, Any]:
        """The run to wait for, as ``runs/get`` shows it; at most one is started.

        :param seen: told the id of each run as soon as it is known.
        :param end: ends a run that nobody wants any more.
        :raises RequestRejected: the API refused the request.
        """
        began = asyncio.get_running_loop().time()
        newest = await self._insist(self._newest_start) if self.since is not None or self.inherited else 0
        for token in self._tokens():
            try:
                answer = await self._insist(partial(self._post, token))
            except RequestRejected as refused:
                if _of_a_deleted_run(refused):
                    continue
                raise
            run_id = int(answer["run_id"])
            seen(run_id)
            run = await self._look(run_id)
            if self._begun_since(run, began, newest) or self._is_wanted(run):
                return run
            if not status_of(run).done:
                await end(run_id)
        raise RequestRejected(400, "TOKENS_SPENT", f"{_LINKS} runs of this task have failed unseen")

    def _tokens(self) -> Iterator[str]:
        first = self.inherited or self.token
        yield first
        for link in range(1, _LINKS):
            yield hashlib.sha256(f"{first}:{link}".encode()).hexdigest()

    async def _look(self, run_id: int) -> dict[str, Any]:
        try:
            return await self._insist(partial(self.client.get, "2.2/jobs/runs/get", run_id=run_id))
        except RequestRejected:
            # It was started all the same; whoever waits for it is told what is the matter.
            return {"run_id": run_id, "start_time": math.ceil(1000 * self._server_now())}

    def _is_wanted(self, run: Mapping[str, Any]) -> bool:
        """Whether a run that was there already is the one to wait for."""
        phase = status_of(run).phase
        if self.since is not None and self._begun_within(run, clock.now() - self.since + _CLOCKS_DIFFER):
            return phase in (Phase.ACTIVE, Phase.SUCCEEDED)
        return self.shared and not self.inherited and phase is Phase.ACTIVE

    async def _newest_start(self) -> int:
        """When the newest run of the workspace began, in milliseconds; a new one begins later."""
        answer = await self.client.get("2.2/jobs/runs/list", limit=1)
        return max((int(run.get("start_time") or 0) for run in answer.get("runs") or []), default=0)

    def _begun_since(self, run: Mapping[str, Any], began: float, newest: int) -> bool:
        elapsed = asyncio.get_running_loop().time() - began
        return int(run.get("start_time") or 0) > newest and self._begun_within(run, elapsed + _RESOLUTION)

    def _begun_within(self, run: Mapping[str, Any], seconds: float) -> bool:
        return int(run.get("start_time") or 0) / 1000 >= self._server_now() - seconds

    def _server_now(self) -> float:
        return self.client.server_time or clock.now()

    async def _post(self, token: str) -> dict[str, Any]:
        body = {**self.body, "idempotency_token": token}
        answer = await self.client.post(self.path, body, check=self.check)
        if "run_id" not in answer:
            raise Transient(f"the answer to POST /api/{self.path} names no run")
        return answer

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await insist(call, tolerance=self.tolerance, on_trouble=self.on_trouble)


def _of_a_deleted_run(refused: RequestRejected) -> bool:
    said = refused.message.lower()
    return refused.status == 400 and "token" in said and ("delet" in said or "not exist" in said)
