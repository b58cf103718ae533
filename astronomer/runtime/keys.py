"""Where the platform's public keys come from: a JWKS URL, or a PEM file. Imports no Airflow."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from astronomer.runtime import web

__all__ = [
    "ALGORITHMS",
    "FETCH_SECONDS",
    "JwksKeys",
    "Key",
    "Keys",
    "KeysUnavailable",
    "PemKey",
    "fetch_jwks",
]

log = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""What may be allowed at all: nothing whose key both sides know, and not ``none``."""

FETCH_SECONDS = 5.0
"""What a question may take; not the look-up of the name."""

_MINIMUM_RSA_BITS = 2048
_MAXIMUM_JWKS_BYTES = 1 << 20
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class KeysUnavailable(Exception):
    """No public key is at hand, so nothing is known of the token: answer 503 and look at the platform's keys."""


@dataclass(frozen=True)
class Key:
    """A public key, with the one algorithm that it verifies.

    :param kid: its id in the JWKS, ``None`` for a PEM file.
    """

    kid: str | None
    algorithm: str
    material: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class Keys(Protocol):
    """A source of public keys."""

    def at_hand(self, kid: str | None) -> Key | None:
        """Return the key if that takes no waiting."""

    def find(self, kid: str | None) -> Key | None:
        """Return the key, or ``None`` if the platform has no such key; may wait for the network.

        :raises KeysUnavailable: it cannot be told.
        """


def fetch_jwks(url: str) -> Any:
    """Get a JSON Web Key Set (RFC 7517); follows no redirect.

    :raises httpx.HTTPError: the server cannot be reached or trusted.
    :raises TimeoutError: it did not answer in time.
    :raises ValueError: the answer is not 200, no JSON, or longer than 1 MiB.
    """
    return json.loads(web.get(url, seconds=FETCH_SECONDS, most=_MAXIMUM_JWKS_BYTES))


class JwksKeys:
    """The keys that a URL publishes: kept, asked for anew when they are old or one is missing, never too often.

    While one thread asks, the known keys count for all others: a platform that is slow holds up nobody else.

    :param algorithms: the allowed ones; a key that names another is left out.
    :param max_age: seconds after which they are asked for again.
    :param min_interval: seconds from the end of one question to the next, whatever asks: a stranger can make up key ids.
    :param max_stale: seconds for which the last answer counts while no new one can be had.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        max_age: float = 300.0,
        min_interval: float = 10.0,
        max_stale: float = 3600.0,
        fetch: Callable[[str], Any] = fetch_jwks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._algorithms = tuple(algorithms)
        self._max_age, self._min_interval, self._max_stale = max_age, min_interval, max_stale
        self._fetch, self._clock = fetch, clock
        self._asking = threading.Lock()
        self._keys: Mapping[str, Key] = {}
        self._asked_at = self._answered_at = float("-inf")
        self._error = "it has not been asked yet"

    def at_hand(self, kid: str | None) -> Key | None:
        """Return the key, unless it is missing or the keys have to be asked for."""
        return None if kid is None or self._due() else self._keys.get(kid)

    def find(self, kid: str | None) -> Key | None:
        """Return the key, after asking for the keys if they are old or it is missing."""
        if kid is None:
            return None
        if self._due() or (kid not in self._keys and self._may_ask()):
            self._ask()
        elif kid not in self._keys:
            with self._asking:  # somebody may be asking just now
                pass
        if self._clock() - self._answered_at > self._max_stale:
            raise KeysUnavailable(f"no usable answer from {self.url}: {self._error}")
        return self._keys.get(kid)

    def _due(self) -> bool:
        return self._clock() - self._answered_at >= self._max_age and (
            self._may_ask() or self._clock() - self._answered_at > self._max_stale
        )

    def _may_ask(self) -> bool:
        return not self._asking.locked() and self._rested()

    def _rested(self) -> bool:
        return self._clock() - self._asked_at >= self._min_interval

    def _ask(self) -> None:
        with self._asking:
            if not self._rested():
                return  # another thread has asked, while this one waited
            try:
                self._keys = _usable(self._fetch(self.url), self._algorithms)
            except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
                self._error = f"{type(error).__name__}: {error}"
                log.warning("could not get the platform's keys from %s: %s", self.url, self._error)
            else:
                self._answered_at = self._clock()
            finally:
                # At its end: a question that takes longer than the interval must not be due again at once.
                self._asked_at = self._clock()


class PemKey:
    """The one key of a PEM file, read again when the file changes; a token's key id does not matter.

    :param algorithms: the allowed ones; the first that fits the key is the one it verifies.
    :raises ValueError: from :meth:`read`, if the file holds no public key that an allowed algorithm fits.
    """

    def __init__(self, path: Path, algorithms: Sequence[str]) -> None:
        self._path = path
        self._algorithms = tuple(algorithms)
        self._seen: tuple[int, ...] = ()
        self._key: Key | None = None

    def read(self) -> Key:
        """Return the key.

        :raises OSError: the file cannot be read.
        """
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._key is None or seen != self._seen:
            self._key = _from_pem(self._path.read_bytes(), self._algorithms)
            self._seen = seen
        return self._key

    def at_hand(self, kid: str | None) -> Key | None:
        """Return the key."""
        return self.find(kid)

    def find(self, kid: str | None) -> Key | None:
        """Return the key."""
        try:
            return self.read()
        except (OSError, ValueError) as error:
            raise KeysUnavailable(f"no public key in {self._path}: {error}") from error


def _from_pem(text: bytes, algorithms: Sequence[str]) -> Key:
    if b"PRIVATE KEY" in text:
        raise ValueError("it holds a private key; only the platform may have that")
    material = load_pem_public_key(text)
    return Key(None, _algorithm_of(material, algorithms), material)  # type: ignore[arg-type]  # of other kinds there is no algorithm


def _usable(answer: Any, algorithms: Sequence[str]) -> dict[str, Key]:
    """Return the keys of a JWKS by id, without those that no token may be verified with: it may be all of them."""
    listed = answer.get("keys") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise ValueError('the answer is no key set: a JSON object with a list "keys"')  # noqa: TRY004 - an answer, no argument
    found: dict[str, Key] = {}
    twice: set[str] = set()
    for member in listed:
        try:
            key = _from_jwk(member, algorithms)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.warning("left out a key of the platform: %s", error)
            continue
        if key.kid in found:
            twice.add(str(key.kid))
        found[str(key.kid)] = key
    if twice:
        log.warning("left out keys of the platform that share an id: %s", ", ".join(sorted(twice)))
    usable = {kid: key for kid, key in found.items() if kid not in twice}
    if not usable:
        log.warning("none of the platform's %s keys can be used: no token is good", len(listed))
    return usable


def _from_jwk(member: Any, algorithms: Sequence[str]) -> Key:
    kid = member.get("kid") if isinstance(member, dict) else None
    if not isinstance(kid, str) or not kid:
        raise ValueError("it has no id (kid)")
    if member.get("kty") not in {"RSA", "EC", "OKP"}:
        raise ValueError(f"{kid!r} is of the type {member.get('kty')!r}")
    if "d" in member:
        raise ValueError(f"{kid!r} is published with its private part")
    if member.get("use", "sig") != "sig" or "verify" not in member.get("key_ops", ["verify"]):
        raise ValueError(f"{kid!r} is not for signatures")
    declared = member.get("alg")
    if declared is not None and declared not in algorithms:
        raise ValueError(f"{kid!r} is for {declared!r}, which is not allowed")
    material = jwt.PyJWK(member).key
    fitting = [declared] if declared is not None else algorithms
    return Key(kid, _algorithm_of(material, fitting), material)


def _algorithm_of(material: Any, algorithms: Sequence[str]) -> str:
    """Return the first of the algorithms that the key fits: it is the key that says it, never the token."""
    if isinstance(material, RSAPublicKey):
        if material.key_size < _MINIMUM_RSA_BITS:
            raise ValueError(f"an RSA key of {material.key_size} bits is too short")
        fits = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    elif isinstance(material, EllipticCurvePublicKey):
        fits = {_CURVES.get(material.curve.name, "")}
    elif isinstance(material, Ed25519PublicKey):
        fits = {"EdDSA"}
    else:
        raise ValueError(f"a {type(material).__name__} cannot verify tokens")  # noqa: TRY004 - a file's contents
    for algorithm in algorithms:
        if algorithm in fits:
            return algorithm
    raise ValueError(f"none of the allowed algorithms fits the key: {', '.join(algorithms)}")
