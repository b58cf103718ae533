"""Who may log in: passwords, key pairs, OAuth tokens and programmatic access tokens, checked as the service does."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from astronomer.lab.issued import Issued
from astronomer.lab.snowflake.errors import SnowflakeError

__all__ = ["Credentials", "KeyPair", "Login", "User"]

LONGEST_JWT = 3600
CLOCK_SKEW = 60


@dataclass
class Login:
    """One attempt to log in, successful or not.

    :param reason: what the service would only tell an administrator, such as ``JWT_TOKEN_EXPIRED``.
    """

    at: float
    user: str
    authenticator: str
    ok: bool
    client_port: int
    session: int | None = None
    code: str | None = None
    reason: str | None = None


@dataclass
class User:
    """One user of the account; the name is upper case. ``keys`` maps fingerprints to public keys."""

    name: str
    password: str
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyPair:
    """A generated key pair, plain and encrypted with ``passphrase``, PKCS#8 PEM."""

    plain: Path
    encrypted: Path
    passphrase: str
    public: Any

    @classmethod
    def create(cls, directory: Path, passphrase: str) -> KeyPair:
        """Return the key pair kept in ``directory``, generated on the first call."""
        plain, encrypted = directory / "rsa_key.p8", directory / "rsa_key_encrypted.p8"
        if plain.is_file() and encrypted.is_file():
            private = serialization.load_pem_private_key(plain.read_bytes(), password=None)
        else:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            wrapping = serialization.BestAvailableEncryption(passphrase.encode())
            for path, encryption in ((plain, serialization.NoEncryption()), (encrypted, wrapping)):
                path.touch(mode=0o600)
                path.write_bytes(
                    private.private_bytes(
                        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
                    )
                )
        return cls(plain, encrypted, passphrase, private.public_key())


class _Rejected(Exception):
    """A credential was not accepted; ``args`` are the error and the reason only an administrator sees."""


class Credentials:
    """The users of an account and the tokens issued to them."""

    def __init__(self, account: str, issued: Issued | None = None) -> None:
        self.account = account.upper()
        self._note_secret = (issued or Issued()).note
        self.users: dict[str, User] = {}
        self.logins: list[Login] = []
        self.client_id = "lab-client"
        self.client_secret = self._note_secret("client secret", "lab-client-secret")
        self.refresh_token = self._note_secret("refresh token", "lab-refresh-token")
        self._oauth: dict[str, tuple[str, float]] = {}
        self._access_tokens: dict[str, str] = {}

    def add_user(self, name: str, password: str) -> User:
        """Create or replace a user."""
        user = self.users[name.upper()] = User(name.upper(), self._note_secret("password", password))
        return user

    def rotate_password(self, name: str, new: str) -> None:
        """Change a user's password."""
        self.users[name.upper()].password = self._note_secret("password", new)

    def add_key(self, name: str, public: Any) -> None:
        """Register a public key for a user."""
        self.users[name.upper()].keys[fingerprint(public)] = public

    def new_oauth_token(self, name: str, seconds: float) -> str:
        """Return a new OAuth access token of a user."""
        token = self._note_secret("OAuth access token", "ver:1-lab-" + secrets.token_urlsafe(32))
        self._oauth[token] = (name.upper(), time.time() + seconds)
        return token

    def authorize(self, form: dict[str, str], header: str | None) -> str | None:
        """Return the user whom an OAuth token request is for, or None when it is refused.

        Knows the grants ``client_credentials``, ``refresh_token`` and ``password`` of the one client.
        """
        expected = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if header != f"Basic {expected}":
            return None
        grant = form.get("grant_type")
        if grant == "password":
            user = self.users.get(form.get("username", "").upper())
            return user.name if user and user.password == form.get("password") else None
        if grant == "client_credentials" or form.get("refresh_token") == self.refresh_token:
            return next(iter(self.users))
        return None

    def new_access_token(self, name: str) -> str:
        """Return a new programmatic access token of a user."""
        token = self._note_secret("programmatic access token", "pat-lab-" + secrets.token_urlsafe(32))
        self._access_tokens[token] = name.upper()
        return token

    def revoke_tokens(self) -> None:
        """Make every OAuth and programmatic access token issued so far invalid."""
        self._oauth.clear()
        self._access_tokens.clear()

    def log_in(self, data: dict[str, Any], client_port: int) -> User:
        """Return the user whom a login request's ``data`` proves to be.

        :raises SnowflakeError: 390100, 390144, 390303, 390318 or 394400.
        """
        authenticator = str(data.get("AUTHENTICATOR") or "SNOWFLAKE").upper()
        name = str(data.get("LOGIN_NAME") or "")
        try:
            user = self._check(authenticator, name, data)
        except _Rejected as rejected:
            error, reason = rejected.args
            self._note(name, authenticator, client_port, error.code, reason)
            raise error from None
        self._note(user.name, authenticator, client_port)
        return user

    def bearer(self, token: str, kind: str) -> User:
        """Return the user of a bearer token of the SQL API; ``kind`` is the token type header, default OAUTH.

        :raises SnowflakeError: the token is not valid.
        """
        try:
            if kind == "KEYPAIR_JWT":
                return self._by_jwt(token)
            if kind == "PROGRAMMATIC_ACCESS_TOKEN":
                return self._by_access_token(token)
            return self._by_oauth(token)
        except _Rejected as rejected:
            raise rejected.args[0] from None

    def _check(self, authenticator: str, name: str, data: dict[str, Any]) -> User:
        token = str(data.get("TOKEN") or data.get("PASSWORD") or "")
        if authenticator == "SNOWFLAKE_JWT":
            return self._by_jwt(token)
        if authenticator == "OAUTH":
            return self._by_oauth(token)
        if authenticator == "PROGRAMMATIC_ACCESS_TOKEN":
            return self._by_access_token(token)
        if authenticator not in ("SNOWFLAKE", "USERNAME_PASSWORD_MFA"):
            raise _Rejected(
                SnowflakeError("390190", "08001", f"Unsupported authenticator {authenticator}."), None
            )
        user = self.users.get(name.upper())
        if user is None or not secrets.compare_digest(
            user.password.encode(), str(data.get("PASSWORD") or "").encode()
        ):
            text = "Incorrect username or password was specified."
            raise _Rejected(SnowflakeError("390100", "08001", text), "INCORRECT_USERNAME_PASSWORD")
        return user

    def _by_oauth(self, token: str) -> User:
        name, ends = self._oauth.get(token, ("", 0.0))
        if not name:
            text = f"Invalid OAuth access token. [{uuid.uuid4()}]"
            raise _Rejected(SnowflakeError("390303", "08001", text), "OAUTH_ACCESS_TOKEN_INVALID")
        if time.time() >= ends:
            text = f"OAuth access token expired. [{uuid.uuid4()}]"
            raise _Rejected(SnowflakeError("390318", "08001", text), "OAUTH_ACCESS_TOKEN_EXPIRED")
        return self.users[name]

    def _by_access_token(self, token: str) -> User:
        name = self._access_tokens.get(token)
        if name is None:
            error = SnowflakeError("394400", "08001", "Programmatic access token is invalid.")
            raise _Rejected(error, "PROGRAMMATIC_ACCESS_TOKEN_INVALID")
        return self.users[name]

    def _by_jwt(self, token: str) -> User:
        """The service tells clients one code for everything; the reason stays with the administrator."""
        reason = "JWT_TOKEN_INVALID_FORMAT"
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
            qualified, _, print_ = str(claims["iss"]).partition(".SHA256:")
            account, _, name = qualified.partition(".")
            key = self._key(account, name, print_)
            reason = "JWT_TOKEN_INVALID_PUBLIC_KEY_FINGERPRINT_MISMATCH" if key is None else reason
            if key is not None and claims["sub"] == qualified:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=["RS256"],
                    options={"require": ["exp", "iat"]},
                    leeway=CLOCK_SKEW,
                )
                self._note_secret("JSON web token", token)
                if claims["exp"] - claims["iat"] <= LONGEST_JWT:
                    return self.users[name]
                reason = "JWT_TOKEN_INVALID_EXPIRATION_TIME"
        except jwt.ExpiredSignatureError:
            reason = "JWT_TOKEN_EXPIRED"
        except jwt.ImmatureSignatureError:
            reason = "JWT_TOKEN_NOT_YET_VALID"
        except (jwt.PyJWTError, KeyError):
            pass
        raise _Rejected(SnowflakeError("390144", "08001", f"JWT token is invalid. [{uuid.uuid4()}]"), reason)

    def _key(self, account: str, name: str, print_: str) -> Any | None:
        user = self.users.get(name)
        return None if user is None or account != self.account else user.keys.get(print_)

    def _note(
        self, user: str, authenticator: str, port: int, code: str | None = None, reason: str | None = None
    ) -> None:
        self.logins.append(
            Login(time.time(), user, authenticator, code is None, port, code=code, reason=reason)
        )


def fingerprint(public: Any) -> str:
    """Return the base64 SHA-256 of a public key, as it stands after ``SHA256:`` in a token's issuer."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()
