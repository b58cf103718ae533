"""The section ``[astronomer_runtime]``, as far as the security manager reads it. Imports no Airflow."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from astronomer.runtime.keys import ALGORITHMS, JwksKeys, Keys, PemKey
from astronomer.runtime.roles import Policy, PolicyError
from astronomer.runtime.tokens import Verifier

__all__ = ["SECTION", "Settings", "SettingsError"]

SECTION = "astronomer_runtime"
_ALGORITHMS = "RS256,ES256,EdDSA"
_DURATIONS = {
    # name: (default, least, most), in seconds
    "max_token_lifetime": (3600.0, 60.0, 86400.0),
    "leeway": (30.0, 0.0, 300.0),
    "jwks_max_age": (300.0, 1.0, 86400.0),
    "jwks_min_interval": (10.0, 1.0, 300.0),
    "jwks_max_stale": (3600.0, 1.0, 86400.0),
}

Get = Callable[[str, str], "str | None"]
"""Section and key -> what is configured."""


class SettingsError(ValueError):
    """The security manager cannot work as it is configured; the message names every setting and what is wrong with it."""


@dataclass(frozen=True)
class Settings:
    """What the security manager is told.

    :param verifier: accepts the platform's tokens.
    :param policy: who may do what.
    :param deployment_id: the name of this deployment in the tokens' claim ``deployments``.
    :param login_url: the platform's page to log in, ``None`` if only a proxy or a client brings tokens.
    :param logout_url: the platform's page that ends the session there.
    :param base_url: where browsers reach this Airflow, without a slash at the end.
    """

    verifier: Verifier
    policy: Policy
    deployment_id: str | None
    login_url: str | None
    logout_url: str | None
    base_url: str

    @property
    def https(self) -> bool:
        """Whether browsers reach this Airflow by https, whatever its own port speaks."""
        return urlsplit(self.base_url).scheme == "https"

    @classmethod
    def read(cls, get: Get) -> Settings:
        """Return the settings.

        :param get: section and key -> what is configured, or nothing.
        :raises SettingsError: something is missing or makes no sense.
        """
        reading = _Reading(get)
        settings = reading.settings()
        if reading.problems or settings is None:
            listed = "\n".join(f"  - {problem}" for problem in reading.problems)
            raise SettingsError(
                f"RuntimeAuthManager cannot start, because nobody could be told from anybody:\n{listed}\n"
                f"Set them in the section [{SECTION}], or as AIRFLOW__{SECTION.upper()}__<NAME>. To try Airflow "
                "without a platform, run `python -m astronomer.lab issuer`, or choose another [core] auth_manager."
            )
        return settings


class _Reading:
    """Reads on after what is wrong, so that all of it can be told at once."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self.problems: list[str] = []

    def settings(self) -> Settings | None:
        issuer, audience = self._required("issuer"), self._required("audience")
        durations = {name: self._seconds(name) for name in _DURATIONS}
        if durations["jwks_max_stale"] < durations["jwks_max_age"]:
            self.problems.append("jwks_max_stale is less than jwks_max_age")
        keys = self._keys(durations)
        policy = self._policy()
        login_url, logout_url = self._url("login_url"), self._url("logout_url")
        base_url = (self._get("api", "base_url") or "").rstrip("/")
        if login_url and (wrong := _wrong(base_url)):
            self.problems.append(
                f"login_url needs [api] base_url, where the platform sends the browser back to, which {wrong}"
            )
        self._conflicts(issuer)
        if keys is None or policy is None:
            return None
        verifier = Verifier(keys, issuer, audience, durations["max_token_lifetime"], durations["leeway"])
        return Settings(verifier, policy, self._own("deployment_id"), login_url, logout_url, base_url)

    def _own(self, name: str) -> str | None:
        return (self._get(SECTION, name) or "").strip() or None

    def _required(self, name: str) -> str:
        value = self._own(name)
        if value is None:
            self.problems.append(f"{name} is missing")
        return value or ""

    def _seconds(self, name: str) -> float:
        default, least, most = _DURATIONS[name]
        text = self._own(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            self.problems.append(
                f"{name} is {text!r}, not a number of seconds from {least:.0f} to {most:.0f}"
            )
            return default
        return value

    def _url(self, name: str) -> str | None:
        url = self._own(name)
        if url is not None and (wrong := _wrong(url)):
            self.problems.append(f"{name} {wrong}")
        return url

    def _keys(self, durations: dict[str, float]) -> Keys | None:
        url, file = self._url("jwks_url"), self._own("public_key_file")
        algorithms = [name.strip() for name in (self._own("algorithms") or _ALGORITHMS).split(",")]
        if wrong := [name for name in algorithms if name not in ALGORITHMS]:
            self.problems.append(f"algorithms has {', '.join(wrong)}; allowed are {', '.join(ALGORITHMS)}")
        if (url is None) == (file is None):
            said = "are both missing" if url is None else "are both set"
            self.problems.append(
                f"jwks_url and public_key_file {said}; the platform's keys come from one of them"
            )
            return None
        if url is not None:
            return JwksKeys(
                url,
                algorithms,
                max_age=durations["jwks_max_age"],
                min_interval=durations["jwks_min_interval"],
                max_stale=durations["jwks_max_stale"],
            )
        return self._pem(Path(str(file)), algorithms)

    def _pem(self, file: Path, algorithms: list[str]) -> Keys:
        key = PemKey(file, algorithms)
        try:
            key.read()
        except (OSError, ValueError) as error:
            self.problems.append(f"public_key_file {file} gives no key: {error}")
        return key

    def _policy(self) -> Policy | None:
        file = self._own("role_permissions")
        try:
            return Policy.configured(self._own("role_map"), Path(file) if file else None)
        except PolicyError as error:
            self.problems.append(str(error))
            return None

    def _conflicts(self, issuer: str) -> None:
        if issuer and self._get("api_auth", "jwt_issuer") == issuer:
            self.problems.append("issuer is also Airflow's own, [api_auth] jwt_issuer; give Airflow another")
        trusted = self._get("api_auth", "trusted_jwks_url")
        if trusted and trusted == self._own("jwks_url"):
            self.problems.append(
                "[api_auth] trusted_jwks_url is jwks_url, so the platform could pose as a running task"
            )
        if (self._get("core", "multi_team") or "").lower() in {"true", "t", "1"}:
            self.problems.append("[core] multi_team is on; the platform's tokens know no teams")


def _wrong(url: str) -> str | None:
    """Return why that address will not do, or nothing."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is no URL"
    if "@" in parts.netloc:
        return "has a user or a password in it, which logs would show; use one that needs none"
    if parts.hostname and parts.scheme == "https":
        return None
    if parts.scheme == "http" and _is_this_machine(parts.hostname):
        return None
    return f"is {url!r}; only https:// will do, and http:// for this machine"


def _is_this_machine(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
