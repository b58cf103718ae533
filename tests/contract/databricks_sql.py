"""SQL statements of the Databricks family, over the network and in real time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksSQLStatementsOperator as StockStatementsOperator,
)
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator as StockSqlOperator

from astronomer.deferral import JobOperator, Phase
from astronomer.lab.databricks import DatabricksLab
from astronomer.providers.databricks.jobs import statement
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.operators.statements import DatabricksSQLStatementsOperator
from astronomer.providers.databricks.sql import submit
from tests.contract.databricks import _lab
from tests.contract.network import LabWorld
from tests.contract.world import Family, World

__all__ = ["DatabricksSqlFamily", "DatabricksStatementFamily"]


class _Running(str):
    """A state that is said in another word, and is RUNNING to the lab itself."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == "RUNNING"

    def __hash__(self) -> int:
        return hash("RUNNING")


class DatabricksSqlWorld(LabWorld):
    """SQL with rows."""

    operator_type: type[JobOperator] = DatabricksSqlOperator
    lab: DatabricksLab
    poll_path = r"^/api/2.0/sql/statements/[^/]+$"
    submit_path = r"^/api/2.0/sql/statements/?$"

    def __init__(self, lab: DatabricksLab) -> None:
        super().__init__(lab)
        self.secrets = (lab.client_secret, lab.token)
        self._before = set(lab.statements)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        return {"sql": self._text(runs_for, fails), "http_path": self.lab.warehouses.default.path}

    def _text(self, runs_for: float, fails: bool) -> str:
        ending = ", raise_error('told to')" if fails else ""
        return f"SELECT lab_wait({runs_for * self.beat:.2f}){ending}"

    @property
    def _own(self) -> dict[str, Any]:
        return {
            key: one
            for key, one in self.lab.statements.items()
            if key not in self._before and submit.SUBMIT_KEY in one.tags
        }

    @property
    def started(self) -> list[str]:
        return list(self._own)

    def phase(self, job_id: str) -> Phase:
        found = statement.statement_status({"status": {"state": self.lab.statements[job_id].state}}, None)
        return found.phase

    def finish(self, job_id: str) -> None:
        self.lab._do(self.lab.statements[job_id].timer.ring)

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        one = self.lab.statements[job_id]
        known, odd = one.state, _Running("WOBBLING")
        one.state = odd

        def take_back() -> None:
            if one.state is odd:
                one.state = known

        return take_back

    def stall(self, seconds: float) -> None:
        pytest.skip("its client is asynchronous")

    @property
    def rounds(self) -> int:
        """There is no list: a round asks for each statement."""
        asked = Counter(entry.path for entry in self._asked)
        return min(asked.values(), default=0)

    def requests_per_round(self, waits: int) -> int:
        return waits

    def close(self) -> None:
        """End what still runs."""
        self.lab.faults.clear()
        for statement_id in self.running:
            self.lab.cancel_statement_by_user(statement_id)


class DatabricksSqlFamily(Family):
    """SQL with rows."""

    name = "databricks-sql"
    world_type: type[DatabricksSqlWorld] = DatabricksSqlWorld
    pairs = ((DatabricksSqlOperator, StockSqlOperator),)

    @contextmanager
    def world(self) -> Iterator[World]:
        lab = _lab()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (lab.client_env() | lab.connection_env(auth="oauth")).items():
                patch.setenv(name, value)
            # Twenty waits shall be asked for more than once in a moment.
            patch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__DATABRICKS_REQUESTS_PER_SECOND", "25")
            patch.setattr(statement, "_unknown_seen", set())
            patch.setattr(submit, "ARRIVES_WITHIN", 0.0)
            patch.setattr(submit, "HISTORY_LAGS", 0.0)
            lab.requests.clear()
            world = self.world_type(lab)
            try:
                yield world
            finally:
                world.close()


class DatabricksStatementWorld(DatabricksSqlWorld):
    """One statement, by the API's own words."""

    operator_type = DatabricksSQLStatementsOperator

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        return {"statement": self._text(runs_for, fails), "warehouse_id": self.lab.warehouses.default.id}


class DatabricksStatementFamily(DatabricksSqlFamily):
    """One statement, by the API's own words."""

    name = "databricks-statement"
    world_type = DatabricksStatementWorld
    pairs = ((DatabricksSQLStatementsOperator, StockStatementsOperator),)
