"""What an HTTP answer of Databricks means to whoever asked.

Sources: docs.databricks.com/api/workspace/introduction, and the tables in databricks-sdk's ``errors`` package.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.providers.databricks.errors import RequestRejected

__all__ = ["Answer"]

_LONGEST_TEXT = 500
# Said with all kinds of status; databricks-sdk repeats a request that hears one of them.
_PASSING_CODES = frozenset(
    {
        "ABORTED",
        "COULD_NOT_ACQUIRE_LOCK",
        "DEADLINE_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "SERVICE_UNDER_MAINTENANCE",
        "TEMPORARILY_UNAVAILABLE",
        "WORKSPACE_TEMPORARILY_UNAVAILABLE",
    }
)
_PASSING_WORDS = (
    "UnknownWorkerEnvironmentException",
    "does not have any associated worker environments",
    "There is no worker environment with id",
    "Unknown worker environment",
    "ClusterNotReadyException",
    "Please try again later or try a faster operation",
    "RPC token bucket limit has been exceeded",
    "blocked by Databricks IP ACL",
)
_TOKEN_CODES = frozenset({"", "401", "403", "INVALID_TOKEN", "UNAUTHENTICATED"})
_TOKEN_WORDS = re.compile(
    r"(invalid|expired|unknown|revoked|malformed) (access |bearer |oauth )?(token|credential)"
    r"|token (is|has|was) (been )?(expired|invalid|revoked|not valid)"
    r"|unauthorized access to org",
    re.IGNORECASE,
)
_PAUSE_UNTOLD = 1.0  # what databricks-sdk waits after a 429 that names no time


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read to its end.

    :param asked: the method and path, for messages.
    """

    asked: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The JSON object of a success.

        :raises Transient: anything else; a gateway's own page comes with status 200, too.
        """
        try:
            found = json.loads(self.body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Transient(f"{self.asked}: HTTP {self.status}, but the answer is no JSON object")
        return found

    @property
    def well(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    @property
    def throttled(self) -> bool:
        """Whether there were too many requests."""
        return self.status == 429

    @property
    def refuses_token(self) -> bool:
        """Whether it is the login that was refused, and not the request."""
        if self.status in (401, 403) and self._by_another:
            said = _TOKEN_WORDS.search(self._complaint[1]) is not None
            return said or (self.status == 401 and "WWW-Authenticate" in self.headers)
        if self.status == 403:
            code, message = self._complaint
            if self._passes(code, message):
                return False
            return code in _TOKEN_CODES or _TOKEN_WORDS.search(message) is not None
        return self.status == 401

    @property
    def retry_after(self) -> float | None:
        """Seconds for which the server wants to be left alone; ``None`` when it does not say so."""
        if not (self.throttled or self.status >= 500):
            return None
        told = _seconds(self.headers.get("Retry-After"), self.server_time)
        return _PAUSE_UNTOLD if told is None and self.throttled else told

    @property
    def server_time(self) -> float | None:
        """The server's clock, epoch seconds."""
        return _moment(self.headers.get("Date"))

    def error(self) -> Exception:
        """What to raise for an answer that is not a success."""
        code, message = self._complaint
        word = "" if code == str(self.status) else code
        text = " ".join(part for part in (f"{self.asked}: HTTP {self.status}", word, message) if part)
        if self.refuses_token:
            return CredentialsRejected(text)
        if self._passes(code, message):
            return Transient(text, retry_after=self.retry_after)
        return RequestRejected(self.status, code, message)

    def _passes(self, code: str, message: str) -> bool:
        return (
            self.status in (408, 425, 429)
            or (self.status >= 500 and self.status != 501)
            or (400 <= self.status < 500 and self._by_another)
            or 300 <= self.status < 400  # a gateway on maintenance, or a host that is not a workspace
            or code in _PASSING_CODES
            or any(words in message for words in _PASSING_WORDS)
        )

    @property
    def _by_another(self) -> bool:
        """Whether a gateway or proxy on the way answered: Databricks' own errors are JSON objects."""
        try:
            return not isinstance(json.loads(self.body), dict)
        except ValueError:
            return True

    @property
    def _complaint(self) -> tuple[str, str]:
        """Databricks' error code and sentence; of another's answer, the beginning of its text."""
        if 300 <= self.status < 400:
            return "", f"redirected to {self.headers.get('Location')}"
        try:
            told = json.loads(self.body)
            # The token endpoint speaks OAuth.
            code = told.get("error_code") or told.get("error") or ""
            message = told.get("message") or told.get("error_description") or told.get("detail") or ""
            return str(code)[:_LONGEST_TEXT], str(message)[:_LONGEST_TEXT]
        except (ValueError, AttributeError):
            return "", " ".join(self.body.decode(errors="replace").split())[:_LONGEST_TEXT]


def _seconds(value: str | None, server_time: float | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment = _moment(value)
        if moment is None:
            return None
        seconds = moment - (clock.now() if server_time is None else server_time)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _moment(value: str | None) -> float | None:
    try:
        return None if value is None else parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
