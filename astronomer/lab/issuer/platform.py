"""The platform's keys, and what it signs with them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["CLAIMS", "PEOPLE", "Platform"]

CLAIMS = ("iss", "sub", "email", "aud", "iat", "nbf", "exp", "jti", "roles")
"""What every token says unless it is told otherwise."""

PEOPLE = {"viewer": "vera@example.com", "editor": "edgar@example.com", "admin": "ada@example.com"}
"""Role -> who has it."""

_Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Platform:
    """Signs tokens, and can be told to sign bad ones.

    :param issuer: the ``iss`` of its tokens.
    :param audience: their ``aud``.
    :param algorithm: of its first key: ``RS256``, ``ES256`` or ``EdDSA``.
    """

    def __init__(self, issuer: str, audience: str, algorithm: str = "RS256") -> None:
        self.issuer, self.audience = issuer, audience
        self._keys: dict[str, tuple[str, _Private]] = {}
        self.published: list[dict[str, Any]] = []
        self.kid = self.rotate(algorithm)

    def rotate(self, algorithm: str = "RS256", *, keep: bool = False) -> str:
        """Sign with a new key from now on, and return its id.

        :param keep: go on publishing the keys before it.
        """
        kid = uuid.uuid4().hex
        private = _generate(algorithm)
        self._keys[kid] = (algorithm, private)
        described = {**_jwk(private), "kid": kid, "use": "sig", "alg": algorithm}
        self.published = [*(self.published if keep else []), described]
        self.kid = kid
        return kid

    def jwks(self) -> dict[str, Any]:
        """Return the published keys."""
        return {"keys": self.published}

    def public_pem(self) -> bytes:
        """Return the public part of the current key."""
        public = self._keys[self.kid][1].public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def claims(self, role: str = "viewer", **changes: Any) -> dict[str, Any]:
        """Return what a good token says.

        :param changes: other claims; one that is ``None`` is left out.
        """
        now = int(time.time())
        who = PEOPLE.get(role, f"{role}@example.com")
        good = {
            "iss": self.issuer,
            "sub": f"user-{role}",
            "email": who,
            "aud": self.audience,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "jti": str(uuid.uuid4()),
            "roles": [role],
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(self, role: str = "viewer", *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return a token, signed with the current key.

        :param headers: other fields of its header.
        :param changes: as :meth:`claims` takes them.
        """
        return self.sign(self.claims(role, **changes), headers=headers)

    def sign(
        self, claims: dict[str, Any], *, kid: str | None = None, headers: dict[str, Any] | None = None
    ) -> str:
        """Return these claims, signed with a key that it has or had."""
        algorithm, private = self._keys[kid or self.kid]
        # Not jwt.encode, which refuses to sign some of what a verifier has to refuse.
        payload = json.dumps(claims).encode()
        return jwt.PyJWS().encode(payload, private, algorithm, {"kid": kid or self.kid, **(headers or {})})


def _generate(algorithm: str) -> _Private:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _jwk(private: _Private) -> dict[str, Any]:
    if isinstance(private, rsa.RSAPrivateKey):
        return dict(RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return dict(ECAlgorithm.to_jwk(private.public_key(), as_dict=True))
    return dict(OKPAlgorithm.to_jwk(private.public_key(), as_dict=True))
