"""Waits for a file without a worker, and counts what is in it."""

from pathlib import Path

from airflow.sdk import dag, task
from include.orders import summary

from astronomer.providers.core.sensors.filesystem import FileSensor

FILE = "/tmp/orders.csv"  # noqa: S108 - where another program would put it


@dag(schedule=None, tags=["sample"])
def orders() -> None:
    """Deliver, wait and count."""

    @task
    def deliver() -> None:
        Path(FILE).write_text("order\n" * 1234)

    @task
    def count() -> str:
        return summary(len(Path(FILE).read_text().splitlines()))

    arrived = FileSensor(task_id="arrived", filepath=FILE, poke_interval=1)
    deliver() >> arrived >> count()


orders()
