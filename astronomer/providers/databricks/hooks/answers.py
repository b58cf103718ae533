"""What an HTTP answer of Databricks means to whoever asked.

Sources: docs.databricks.com/api/workspace/introduction, and the tables in databricks-sdk's ``errors`` package.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral.transport import HttpAnswer
from astronomer.providers.databricks.errors import NothingDone, RequestRejected

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


class Answer(HttpAnswer):
    """One HTTP answer of Databricks, read to its end."""

    pause_untold: ClassVar[float | None] = 1.0  # what databricks-sdk waits

    def document(self) -> dict[str, Any]:
        """The JSON object of a success, which may say nothing.

        :raises Transient: anything else.
        """
        return super().document() if self.body else {}

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
        return super().retry_after if self.throttled or self.status >= 500 else None

    def error(self) -> Exception:
        """What to raise for an answer that is not a success."""
        code, message = self._complaint
        word = "" if code == str(self.status) else code
        text = " ".join(part for part in (f"{self.asked}: HTTP {self.status}", word, message) if part)
        if self.refuses_token:
            return CredentialsRejected(text)
        if self._passes(code, message):
            kind = NothingDone if self.throttled else Transient
            return kind(text, retry_after=self.retry_after)
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
        return self.parsed is None

    @property
    def _complaint(self) -> tuple[str, str]:
        """Databricks' error code and sentence; of another's answer, the beginning of its text."""
        if 300 <= self.status < 400:
            return "", f"redirected to {self.headers.get('Location')}"
        told = self.parsed
        if told is None:
            return "", " ".join(self.body.decode(errors="replace").split())[:_LONGEST_TEXT]
        # The token endpoint speaks OAuth.
        code = told.get("error_code") or told.get("error") or ""
        message = told.get("message") or told.get("error_description") or told.get("detail") or ""
        return str(code)[:_LONGEST_TEXT], str(message)[:_LONGEST_TEXT]
