"""Where the manifest comes from: the image's own file, and a newer one that the configuration names."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from astronomer.runtime import web
from astronomer.runtime.versions import MAX_BYTES, Manifest, ManifestError, Tag

__all__ = ["Source", "fetch", "running"]

log = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds after which a question over the network is given up. A look-up of the name that hangs cannot be: it is waited
for as long as the system's resolver takes."""

# The last three are what httpx makes of proxies in the environment that it cannot use.
_FAILURES = (OSError, httpx.HTTPError, ValueError, ImportError, httpx.InvalidURL)
_DAY = 86400.0


@dataclass(frozen=True)
class Source:
    """The releases that are known here and now.

    The network is asked at most once per ``interval`` by all processes that share ``folder``, whatever comes of it.

    :param bundled: the image's own manifest, or ``None`` outside an image.
    :param url: ``https://…``, ``file:///…`` or the path of a file; plain ``http://`` to this machine alone. Empty:
        nobody is asked.
    :param interval: seconds.
    :param folder: where the last answer is kept.
    :param now: epoch seconds.
    """

    bundled: Path | None
    url: str
    interval: float
    folder: Path
    now: Callable[[], float] = time.time

    @classmethod
    def configured(cls) -> Source:
        """The source that ``[astronomer_runtime]`` and the image's environment name."""
        from airflow.configuration import AIRFLOW_HOME, conf

        bundled = os.environ.get("ASTRONOMER_RUNTIME_VERSIONS", "")
        return cls(
            bundled=Path(bundled) if bundled else None,
            url=conf.get("astronomer_runtime", "versions_url", fallback="") or "",
            interval=_seconds(conf.get("astronomer_runtime", "check_interval", fallback=str(_DAY))),
            folder=Path(AIRFLOW_HOME),
        )

    def manifest(self) -> Manifest:
        """What is known; what cannot be read is one of its troubles and a line in the log, and never an error."""
        known = Manifest({})
        if self.bundled:
            known |= self._or_nothing(
                "the image's own manifest", lambda: Manifest.read(self.bundled or Path())
            )
        if self.url:
            known |= self._or_nothing("the manifest of [astronomer_runtime] versions_url", self._newer)
        for words in known.troubles:
            log.info("%s", words)
        return known

    @staticmethod
    def _or_nothing(what: str, read: Callable[[], Manifest]) -> Manifest:
        try:
            return read()
        except _FAILURES as error:
            return Manifest({}, (f"Could not read {what}: {_why(error)}",))

    def _newer(self) -> Manifest:
        if place := _place(self.url):
            return Manifest.read(place)
        _check(self.url)
        try:
            with self._kept().open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                return self._answer(file)
        except PermissionError:
            return Manifest.parse(fetch(self.url))  # a read-only file system: nothing is kept
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return Manifest.parse(fetch(self.url))

    def _kept(self) -> Path:
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return self.folder / f"runtime-versions-{name}.txt"

    def _answer(self, file: IO[bytes]) -> Manifest:
        """The last good answer.

        The file's first line says when the last question was put, and why it was in vain; the rest is the answer.
        """
        file.seek(0)
        first, _, answer = file.read(MAX_BYTES + 1000).partition(b"\n")
        asked, _, why = first.partition(b" ")
        if not 0 <= self.now() - _number(asked) < self.interval:
            self._write(file, answer, b"it did not end")  # before the question: one that fails counts
            try:
                newer = fetch(self.url)
                Manifest.parse(newer)
            except _FAILURES as error:
                why = _why(error).encode()
            else:
                answer, why = newer, b""
            self._write(file, answer, why)
        words = f"Got no manifest from [astronomer_runtime] versions_url: {why.decode(errors='replace')}"
        failed = Manifest({}, (words,) if why else ())
        return failed | Manifest.parse(answer) if answer else failed

    def _write(self, file: IO[bytes], answer: bytes, why: bytes) -> None:
        file.truncate(0)
        file.write(b"%d %b\n%b" % (self.now(), why.replace(b"\n", b" ")[:500], answer))
        file.flush()


def running() -> Tag | None:
    """The release of the image that this process runs in, or ``None`` outside an image.

    :raises ValueError: ``ASTRONOMER_RUNTIME_VERSION`` is no tag. Set it as the image does, or not at all.
    """
    text = os.environ.get("ASTRONOMER_RUNTIME_VERSION", "")
    return Tag.parse(text) if text else None


def fetch(url: str, timeout: float = TIMEOUT) -> bytes:
    """Get a manifest's bytes over HTTPS: :func:`astronomer.runtime.web.get`.

    :param timeout: seconds for everything but a look-up of the name that hangs.
    :raises ManifestError: the URL is refused, the answer is not 200, or it is too long.
    :raises httpx.HTTPError: the server cannot be reached or trusted.
    :raises TimeoutError: it took too long.
    """
    _check(url)
    try:
        return web.get(url, seconds=timeout, most=MAX_BYTES)
    except web.AnswerError as error:
        raise ManifestError(str(error)) from error


def _check(url: str) -> None:
    parts = _parts(url)
    if parts.userinfo:
        raise ManifestError("a versions_url with a user or a password is refused; use one that needs none")
    if not parts.host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.host))):
        raise ManifestError("versions_url has to start with https:// or file:///, or be the path of a file")


def _parts(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ManifestError("versions_url is no URL") from error


def _why(error: BaseException) -> str:
    # Words of ours alone: those of others may hold the URL.
    return str(error) if isinstance(error, ManifestError) else type(error).__name__


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if seconds >= 0:
        return seconds
    log.warning(
        "[astronomer_runtime] check_interval is %r, and no number of seconds; %.0f is used", text, _DAY
    )
    return _DAY


def _number(text: bytes) -> float:
    return int(text) if text.isdigit() else float("-inf")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _place(url: str) -> Path | None:
    if url.startswith("/"):
        return Path(url)
    parts = _parts(url)
    return Path(parts.path) if parts.scheme == "file" and parts.host in ("", "localhost") else None
