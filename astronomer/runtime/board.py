"""The board of the API server: notices in its log and at the top of the UI's first page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType

from airflow import settings
from airflow.api_fastapi.common.types import UIAlert

from astronomer.runtime.notice import Notice, notices
from astronomer.runtime.source import Source, running
from astronomer.runtime.versions import Manifest, Tag

__all__ = ["Board"]

log = logging.getLogger(__name__)

LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SHORTEST, LONGEST = 60.0, 86400.0
"""Seconds between two looks, whatever ``check_interval`` says: the days that are left are counted daily."""


class Board:
    """A thread that looks at once and then from time to time, and stops when the context ends.

    It says in the log what it has not said before, and adds to ``DASHBOARD_UIALERTS`` of Airflow's local settings,
    beside the alerts of the deployment's own.

    :param tag: the release that runs, or ``None``: then nothing is shown.
    :param manifest: what is known now; it may take seconds and does not fail.
    :param interval: seconds between two looks.
    """

    def __init__(self, tag: Tag | None, manifest: Callable[[], Manifest], interval: float) -> None:
        self._tag = tag
        self._manifest = manifest
        self._interval = min(max(interval, SHORTEST), LONGEST)
        self._stop = threading.Event()
        self._said: list[Notice] = []
        self._alerts: list[UIAlert] = []

    @classmethod
    def configured(cls) -> Board:
        """The board of this process."""
        source = Source.configured()
        try:
            tag = running()
        except ValueError as error:
            log.warning("ASTRONOMER_RUNTIME_VERSION: %s. No notices are shown.", error)
            tag = None
        return cls(tag, source.manifest, source.interval)

    def __enter__(self) -> Board:
        if self._tag:
            log.info("Runtime %s", self._tag)
            threading.Thread(target=self._run, name="runtime-notices", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No join: a question over the network may be under way, and the server need not wait for it.
        self._stop.set()

    def look(self) -> None:
        """Learn what is to be said, and show it."""
        if not self._tag:
            return
        said = notices(self._tag, self._manifest(), datetime.now(tz=timezone.utc).date())
        for notice in said:
            if notice not in self._said:
                log.log(LEVELS[notice.level], "%s", notice)
        self._said = said
        self._show([UIAlert(text=notice.markdown, category=notice.level) for notice in said])

    def _show(self, alerts: list[UIAlert]) -> None:
        # In place: the API has imported the list by its name.
        shown = settings.DASHBOARD_UIALERTS
        shown[:] = [one for one in shown if not any(one is mine for mine in self._alerts)] + alerts
        self._alerts = alerts

    def _run(self) -> None:
        while True:
            self.look()
            if self._stop.wait(self._interval):
                return
