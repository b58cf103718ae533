"""Wait for a file or a directory, without a worker."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.sensors.filesystem import FileSensor as StockFileSensor

from astronomer.deferral import JobTrigger, WatchSensor
from astronomer.deferral.lazy import lazy_property
from astronomer.providers.core.jobs.files import FileWait
from astronomer.providers.core.lineage import file_read
from astronomer.providers.core.triggers.filesystem import FileTrigger

if TYPE_CHECKING:
    from astronomer.deferral.lineage import Told

__all__ = ["FileSensor", "FileSensorAsync"]


class FileSensor(WatchSensor, StockFileSensor):
    """Wait until a file is there, or a directory with any file in it, however deep.

    Takes what the stock ``FileSensor`` takes, with the same meaning. All sensors that wait for something in one
    directory share one look at it, on a thread; a mount that hangs holds up nobody else.

    :param filepath: a path or a ``glob`` pattern (templated), relative to the path of the connection.
    :param fs_conn_id: the Airflow connection (templated).
    :param recursive: whether ``**`` in the pattern stands for any number of directories.
    :param deferrable: ``False`` pokes in a worker, as the stock sensor does.
    :param start_from_trigger: whether the triggerer looks from the beginning. ``trigger_kwargs`` is accepted only.
    :param outage_tolerance: seconds (or ``timedelta``) that a directory may be impossible to read, because its mount
        hangs. One that is missing or forbidden is waited for, as by the stock sensor.

    :raises AirflowSensorTimeout: ``timeout`` passed, and a last look found nothing.
    """

    trigger_type: ClassVar[type[JobTrigger]] = FileTrigger

    def __init__(
        self,
        *,
        filepath: str,
        fs_conn_id: str = "fs_default",
        recursive: bool = False,
        start_from_trigger: bool | None = None,
        trigger_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filepath=filepath,
            fs_conn_id=fs_conn_id,
            recursive=recursive,
            trigger_kwargs=trigger_kwargs,
            **kwargs,
        )
        # Only now: the stock sensor would read the connection when the Dag is parsed.
        self.start_from_trigger = start_from_trigger

    @lazy_property
    def path(self) -> str:
        """The stock path; without a worker, over a connection that was read for all tasks."""
        if self.in_triggerer is None:
            return str(vars(StockFileSensor)["path"].func(self))
        base = str(self.in_triggerer.connection(self.fs_conn_id).extra_dejson.get("path", ""))
        return os.path.join(base, self.filepath)  # noqa: PTH118  # text, as the stock sensor's

    def execute_complete(self, context: Any, event: Any = None) -> Any:
        """Settle what the trigger reported; that of the stock sensor or of 1.x, too, if the task began with it."""
        if event is None or isinstance(event, bool):
            return StockFileSensor.execute_complete(self, context, event)
        return super().execute_complete(context, event)

    def job(self, context: Mapping[str, Any]) -> FileWait:
        """The wait, as any process can look for it: a relative path is one of this worker's directory."""
        root = "" if os.path.isabs(self.path) else str(Path.cwd())  # noqa: PTH117  # text: see FileWait
        return FileWait(self.path, bool(self.recursive), root)

    def own_lineage(self) -> Told | None:
        """The file or directory; nothing for a pattern, which names none."""
        return None if glob.has_magic(self.path) else file_read(self.path)


class FileSensorAsync(FileSensor):
    """The name that 1.x had for :class:`FileSensor`."""
