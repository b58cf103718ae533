"""The platform's tokens: what is accepted, and why another is refused. Imports no Airflow."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

from astronomer.runtime.keys import Key, Keys, KeysUnavailable

__all__ = [
    "REQUIRED",
    "Claims",
    "KeysUnavailable",
    "TokenExpired",
    "TokenRefused",
    "Verifier",
    "fingerprint",
    "unverified",
]

REQUIRED = ("exp", "iat", "nbf", "aud", "iss", "sub", "jti", "roles")

_MAXIMUM_LENGTH = 16384
_MAXIMUM_NAME = 250  # Airflow's action log has 500 characters for it
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
# RFC 7515: they say where a key is or what else must be understood. A token has no say in either.
_REFUSED_HEADERS = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")
_REASONS: tuple[tuple[type[jwt.InvalidTokenError], str], ...] = (
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not yet valid"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.MissingRequiredClaimError, "missing claim"),
    (jwt.DecodeError, "malformed"),
)


class TokenRefused(jwt.InvalidTokenError):
    """The token is not accepted, and will not be: the caller needs another one.

    :param reason: one of a few words, for logs and counts.
    :param detail: what exactly, never with a part of the token that is secret.
    :param kid: the key id that it names.
    :param subject: whose it is; only if its signature is good.
    :param token: its fingerprint; only if its signature is good.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        kid: str | None = None,
        subject: str | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail
        self.kid, self.subject, self.token = kid, subject, token


class TokenExpired(TokenRefused, jwt.ExpiredSignatureError):
    """The token was good once: log in again."""


@dataclass(frozen=True)
class Claims:
    """What an accepted token says.

    :param deployments: deployment id -> the roles there, beside ``roles``, which count everywhere.
    :param issued_at: epoch seconds, and so ``expires_at``.
    """

    issuer: str
    subject: str
    name: str
    token_id: str
    issued_at: float
    expires_at: float
    roles: tuple[str, ...]
    deployments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """See :func:`fingerprint`."""
        return fingerprint(self.issuer, self.token_id)


def fingerprint(issuer: str, token_id: str) -> str:
    """Return 32 hexadecimal digits that name a token in logs and among the revoked ones.

    Airflow's column for them holds 32 characters, whatever length a platform gives its ids.
    """
    return hashlib.sha256(json.dumps([issuer, token_id]).encode()).hexdigest()[:32]


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and payload of something that looks like a signed token: anybody can have written them.

    :raises TokenRefused: it does not look like one.
    """
    if len(token) > _MAXIMUM_LENGTH:
        raise TokenRefused("malformed", f"longer than {_MAXIMUM_LENGTH} characters")
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise TokenRefused("malformed", type(error).__name__) from error
    return parts["header"], parts["payload"]


@dataclass(frozen=True)
class Verifier:
    """Tells an authentic, current token of the platform for this deployment from any other.

    :param issuer: what ``iss`` must be.
    :param audience: what ``aud`` must be, or have among its values.
    :param max_lifetime: seconds that may lie between ``iat`` and ``exp``.
    :param leeway: seconds that the clocks may differ.
    """

    keys: Keys
    issuer: str
    audience: str
    max_lifetime: float = 3600.0
    leeway: float = 30.0

    def verify_at_once(self, token: str) -> Claims | None:
        """Return what :meth:`verify` does, or ``None`` if that may have to ask the platform for its keys.

        :raises TokenRefused: the token is not good.
        :raises KeysUnavailable: no waiting would tell.
        """
        header, _ = unverified(token)
        key = self.keys.at_hand(_key_id(header))
        return None if key is None else self._verified(token, header, key)

    def verify(self, token: str) -> Claims:
        """Return what the token says if it is good.

        :raises TokenRefused: it is not.
        :raises KeysUnavailable: it cannot be told.
        """
        header, _ = unverified(token)
        kid = _key_id(header)
        key = self.keys.find(kid)
        if key is None:
            raise TokenRefused("unknown key", kid=kid)
        return self._verified(token, header, key)

    def _verified(self, token: str, header: Mapping[str, Any], key: Key) -> Claims:
        kid = header.get("kid")
        if header.get("alg") != key.algorithm:
            raise TokenRefused("algorithm", f"{header.get('alg')!r} under a key for {key.algorithm}", kid=kid)
        try:
            return self._claims(self._decoded(token, key))
        except (jwt.InvalidTokenError, OverflowError) as error:  # a number in JSON may be of any size
            raise _refusal(error, token, kid) from error

    def _decoded(self, token: str, key: Key) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            audience=self.audience,
            issuer=self.issuer,
            leeway=self.leeway,
            options={"require": list(REQUIRED)},
        )

    def _claims(self, payload: Mapping[str, Any]) -> Claims:
        for claim in ("exp", "iat", "nbf"):
            value = payload[claim]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise TokenRefused("claim", f"{claim} is no number")
        if payload["exp"] - payload["iat"] > self.max_lifetime:
            lifetime = payload["exp"] - payload["iat"]
            raise TokenRefused("lifetime", f"{lifetime:.0f} s, of at most {self.max_lifetime:.0f}")
        subject = _name("sub", payload["sub"])
        return Claims(
            issuer=payload["iss"],
            subject=subject,
            name=_name("email", payload["email"]) if payload.get("email") is not None else subject,
            token_id=_text("jti", payload["jti"]),
            issued_at=payload["iat"],
            expires_at=payload["exp"],
            roles=_roles("roles", payload["roles"]),
            deployments=_deployments(payload.get("deployments")),
        )


def _key_id(header: Mapping[str, Any]) -> str | None:
    for name in _REFUSED_HEADERS:
        if name in header:
            raise TokenRefused("header", f"it has {name!r}")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenRefused("header", "its typ is no access token's")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise TokenRefused("header", "kid is no text")
    return kid


def _refusal(error: Exception, token: str, kid: str | None) -> TokenRefused:
    if isinstance(error, TokenRefused):
        reason, detail = error.reason, error.detail
    else:
        reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "claim")
        detail = str(error)
    if reason in {"signature", "algorithm", "malformed"}:
        return TokenRefused(reason, detail, kid=kid)
    # The signature was good, so the token may say whose it is.
    payload = unverified(token)[1]
    subject, token_id, issuer = (payload.get(name) for name in ("sub", "jti", "iss"))
    known = isinstance(token_id, str) and isinstance(issuer, str)
    kind = TokenExpired if reason == "expired" else TokenRefused
    return kind(
        reason,
        detail,
        kid=kid,
        subject=subject[:_MAXIMUM_NAME] if isinstance(subject, str) else None,
        token=fingerprint(str(issuer), str(token_id)) if known else None,
    )


def _text(claim: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TokenRefused("claim", f"{claim} is no text")
    return value


def _name(claim: str, value: Any) -> str:
    """A name that logs and pages show: one printable line."""
    text = _text(claim, value)
    if len(text) > _MAXIMUM_NAME or not text.isprintable():
        raise TokenRefused("claim", f"{claim} is no name of at most {_MAXIMUM_NAME} printable characters")
    return text


def _roles(claim: str, value: Any) -> tuple[str, ...]:
    # A text would iterate as its letters.
    if not isinstance(value, list) or not all(isinstance(role, str) for role in value):
        raise TokenRefused("claim", f"{claim} is no list of texts")
    return tuple(value)


def _deployments(value: Any) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TokenRefused("claim", "deployments is no object: deployment id -> role")
    return {
        name: (role,) if isinstance(role, str) else _roles(f"deployments.{name}", role)
        for name, role in value.items()
    }


def role_names(claims: Claims, deployment: str | None) -> Sequence[str]:
    """Return the platform's names of the roles that a token gives in a deployment, or in one without a name."""
    return (*claims.roles, *(claims.deployments.get(deployment, ()) if deployment else ()))
