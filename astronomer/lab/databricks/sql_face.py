"""The SQL side of the lab's public face, and its endpoints."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from astronomer.lab.databricks import history, results, statements, thrift, warehouses
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_statement import Statement
from astronomer.lab.stand_in import StandIn

if TYPE_CHECKING:
    from astronomer.lab.databricks.credentials import Credentials

__all__ = ["SqlFace", "open_routes", "routes"]


class SqlFace(StandIn):
    """What tests do with the statements of a lab."""

    sql: SqlEngine

    @property
    def statements(self) -> dict[str, Statement]:
        """A copy of id -> statement, oldest first; the records themselves are live."""
        return dict(self.sql.statements)

    @property
    def warehouses(self) -> warehouses.Warehouses:
        """The SQL warehouses; ``default`` is the one that is always there."""
        return self.sql.warehouses

    @property
    def active_statements(self) -> int:
        """How many statements have not ended."""
        return self.sql.active

    def cancel_statement_by_user(self, statement_id: str) -> bool:
        """Cancel a statement as somebody does in the workspace's pages, and return whether it had not ended."""
        return self.sql.cancel(self.sql.statements[statement_id], "user")

    def expire_results(self) -> int:
        """End the hour for which results are kept, of every statement that succeeded so far; return how many."""
        return self.sql.expire_results()

    def connector_extra(self, http_path: str | None = None, **more: Any) -> dict[str, Any]:
        """Return the extra of an Airflow connection with which the stock SQL connector finds the lab.

        :param http_path: default the warehouse that is always there; a cluster is ``/sql/protocolv1/o/0/<cluster id>``.
        """
        return {
            "http_path": http_path or self.sql.warehouses.default.path,
            "_port": self.port,
            "_tls_trusted_ca_file": str(self.ca_file),
            "enable_telemetry": False,
            **more,
        }

    @staticmethod
    @contextmanager
    def keeping_garbage() -> Iterator[None]:
        """Collect this process's garbage only at the end, and in this thread.

        A connection of the SQL connector that nobody closed closes its session when it is collected. In the thread that
        serves the lab, where a collection may begin as well as anywhere, it would wait for itself, up to the connector's
        timeout of 15 minutes.
        """
        enabled = gc.isenabled()
        gc.disable()
        gc.freeze()  # so that the collection only looks at what is new
        try:
            yield
        finally:
            gc.collect()
            gc.unfreeze()
            if enabled:
                gc.enable()

    def run_sql(self, *texts: str) -> list[list[str | None]]:
        """Run statements one after another, and return the last one's rows as strings.

        :raises SqlError: one failed.
        """
        rows: list[list[str | None]] = []
        for text in texts:
            rows = self.sql.run(text)
        return rows


def routes(engine: SqlEngine) -> list[Route]:
    """Return the endpoints, relative to ``/api``."""
    return [*statements.routes(engine), *warehouses.routes(engine), *history.routes(engine)]


def open_routes(engine: SqlEngine, credentials: Credentials) -> list[Route]:
    """Return the endpoints elsewhere: the cloud storage, which knows no credentials, and those that check their own."""
    return [*results.routes(engine), *thrift.routes(engine, credentials)]
