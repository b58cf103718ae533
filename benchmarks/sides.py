"""The two sides of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OURS", "STOCK", "Side"]

OURS, STOCK = "ours", "stock"


@dataclass(frozen=True)
class Side:
    """What one side puts into a triggerer.

    :param classpath: its trigger, as Airflow's database names it.
    :param later: the modules that its first wait imports besides.
    """

    classpath: str
    later: tuple[str, ...] = ()
