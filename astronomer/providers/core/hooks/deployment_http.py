"""What an HTTP answer of another Airflow means to whoever asked."""

from __future__ import annotations

import ssl
from importlib.metadata import version
from typing import ClassVar
from urllib.parse import urlsplit

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral.transport import HttpAnswer, Transport
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi, Refused
from astronomer.providers.package import DISTRIBUTION

__all__ = ["Answer", "new_transport"]

_LONGEST_TEXT = 300


class Answer(HttpAnswer):
    """One HTTP answer of another Airflow, read to its end."""

    pause_untold: ClassVar[float | None] = 5.0

    @property
    def refuses_token(self) -> bool:
        """Whether it is the login that was refused: Airflow says 401 of an expired token, and 403 of a revoked one."""
        return self.status == 401 or (self.status == 403 and "token" in self._complaint().lower())

    def error(self) -> Exception:
        """What to raise for an answer that is not a success."""
        text = f"{self.asked}: HTTP {self.status} {self._complaint()}".rstrip()
        if self.refuses_token:
            return CredentialsRejected(text)
        if self.status in (408, 425, 429) or self.status >= 500:
            return Transient(text, retry_after=self.retry_after)
        if 300 <= self.status < 400 or self.status == 405 or (self.status == 404 and not self._by_airflow()):
            return NoSuchApi(text)
        if self.parsed is None:  # a gateway or a firewall on the way
            return Transient(text)
        return Refused(self.status, self._complaint(), text)

    def _by_airflow(self) -> bool:
        """Whether an Airflow 3 says that it has no such thing, rather than that it has no such route."""
        detail = (self.parsed or {}).get("detail")
        return bool(detail) and detail != "Not Found"

    def _complaint(self) -> str:
        if 300 <= self.status < 400:
            return f"redirected to {urlsplit(self.headers.get('Location', '')).netloc or 'another path'}"
        said = self.parsed
        if said is None:
            text = self.body[: 4 * _LONGEST_TEXT].decode(errors="replace")
        else:
            detail = said.get("detail") or said.get("error_description") or said.get("error")
            detail = detail or said.get("message") or said.get("title") or ""
            text = str(detail.get("message", detail) if isinstance(detail, dict) else detail)
        return " ".join(text.split())[:_LONGEST_TEXT]


def new_transport(ca_file: str | None = None) -> Transport[Answer]:
    """What sends requests to another Airflow.

    :param ca_file: certificates of a private authority, which count beside the machine's.
    """

    def trust() -> ssl.SSLContext:
        context = ssl.create_default_context()
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except OSError as error:
                raise ConnectionUnusable(f"`ca_file` {ca_file} cannot be read: {error}") from None
        return context

    return Transport(
        Answer,
        {"User-Agent": f"{DISTRIBUTION}/{version(DISTRIBUTION)}", "Accept": "application/json"},
        trust=trust,
        trusting=", or `ca_file` in the extra of the Airflow connection",
    )
