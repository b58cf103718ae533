"""The local workspace, and what a measurement has to know of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astronomer.lab.databricks import DatabricksLab, LabClient
from benchmarks.databricks.plan import CONN_ID, SIDES
from benchmarks.place import Place, serve
from benchmarks.shapes import Remote
from benchmarks.sides import Side

__all__ = ["DATABRICKS", "LAB_URL"]

LAB_URL = "BENCHMARK_LAB_URL"
"""The variable that tells the process which starts the runs where the workspace is."""


class _Databricks:
    """The family."""

    sides: Mapping[str, Side] = SIDES
    submit = "benchmarks.databricks.submit"
    count: tuple[str, str] | None = None

    def control(self, place: Place) -> LabClient:
        return LabClient(place.url, place.ca_file)

    def remotes(self, place: Place) -> dict[str, Remote]:
        return {
            str(run["run_id"]): Remote(
                ended_at=run["end_time"] / 1000 if run["ended"] else None,
                error=None if run["state"] == "SUCCESS" else run["state"],
            )
            for run in self.control(place).runs()
        }

    def sent_by(self, side: str, request: Mapping[str, Any]) -> bool:
        return True  # one side at a time


DATABRICKS = _Databricks()


def main(directory: str) -> None:
    """Serve, with the real quotas.

    The stock hook asks the default port for OAuth tokens, whatever the connection says. So the connection names a host
    without a port, which each triggerer resolves to this one.
    """
    with DatabricksLab(directory=Path(directory)) as lab:
        connection = lab.connection_env(CONN_ID, auth="oauth", cloud=True)
        serve(
            Place(
                url=lab.url,
                port=lab.port,
                ca_file=str(lab.ca_file),
                redirect=lab.cloud_host,
                env={**connection, **lab.client_env(), LAB_URL: lab.url},
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
