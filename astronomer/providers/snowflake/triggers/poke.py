"""The trigger of the sensor: a poke is one query, and its first cell the answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from astronomer.deferral import PokeTrigger, RemoteJob
from astronomer.providers.snowflake.arguments import tag_of
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery

__all__ = ["SnowflakeSensorTrigger"]


@dataclass(eq=False, repr=False)
class SnowflakeSensorTrigger(PokeTrigger):
    """Poke until the first cell says yes; or, where a worker has to judge, until one poke has an answer.

    :param sql: the query.
    :param parameters: its parameters, plain values.
    :param judge: whether the stock rule (the first cell is true) is applied here.
    :param fail_on_empty: whether no rows end the task.
    """

    sql: str = ""
    parameters: Any = None
    fail_on_empty: bool = False

    job_type: ClassVar[type[RemoteJob]] = SnowflakeQuery
    id_field: ClassVar[str] = "query_id"
    remote_side: ClassVar[str] = "Snowflake"

    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """Run the query; ``None`` when its first cell says no."""
        how = {
            "request_id": str(uuid.uuid4()),
            "tag": {} if self.task_instance is None else tag_of(self.task_instance),
            "deadline": self.deadline,
        }
        # Its own, and not the job that the shared poller was made for: that one may be another task's block.
        anchor = SnowflakeQuery.from_dict(self.job | {self.id_field: ""})
        event = await self.run_job(lambda: poller().start(anchor, self.sql, self.parameters, **how), deadline)
        if event is not None or not self.judge:
            return event or {}
        job = self.remote_job
        row = await self.patiently(lambda: poller().first_row(job), deadline)
        if row is None and self.fail_on_empty:
            return {"met": False, "empty": True}
        return {"met": True} if row is not None and bool(row[0]) else None
