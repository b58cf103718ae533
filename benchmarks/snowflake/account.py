"""The local Snowflake, and what a measurement has to know of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astronomer.lab.snowflake import LabClient, SnowflakeLab
from benchmarks.place import Place, serve
from benchmarks.shapes import Remote
from benchmarks.sides import STOCK, Side
from benchmarks.snowflake.plan import CONN_ID, SIDES

__all__ = ["SNOWFLAKE"]

_OF_STOCK = "/api/v2/"


class _Snowflake:
    """The family. Stock logs in with the tokens that it signs, so these are counted."""

    sides: Mapping[str, Side] = SIDES
    submit = "benchmarks.snowflake.submit"
    count: tuple[str, str] | None = ("jwt", "encode")

    def control(self, place: Place) -> LabClient:
        return LabClient(place.url, place.ca_file, timeout=30.0)

    def remotes(self, place: Place) -> dict[str, Remote]:
        return {
            query["id"]: Remote(ended_at=query["ended_at"], error=query["error_code"])
            for query in self.control(place).queries()
        }

    def sent_by(self, side: str, request: Mapping[str, Any]) -> bool:
        return (side == STOCK) is str(request["path"]).startswith(_OF_STOCK)


SNOWFLAKE = _Snowflake()


def main(directory: str) -> None:
    """Serve; with a key pair, because the stock trigger takes no password."""
    with SnowflakeLab(directory=Path(directory)) as lab:
        serve(
            Place(
                url=lab.url,
                port=lab.port,
                ca_file=str(lab.ca_file),
                redirect=f"{lab.account}.snowflakecomputing.com",
                env={**lab.connection_env(CONN_ID, auth="key_pair"), **lab.client_env()},
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
