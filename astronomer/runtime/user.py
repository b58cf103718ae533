"""Whoever has shown a good token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

__all__ = ["RuntimeUser"]


@dataclass(frozen=True)
class RuntimeUser(BaseUser):
    """A person or a program, as the platform's token has it.

    :param name: what Airflow's action log and its pages show: the e-mail address if there is one.
    :param roles: our names.
    :param session: the fingerprint of the platform's token, which every token that it was exchanged for carries.
    :param expires_at: when that ends, epoch seconds.
    :param renew_at: when an exchanged token should be followed by another, epoch seconds; ``None`` for a platform's.
    """

    subject: str
    name: str
    roles: tuple[str, ...]
    session: str
    expires_at: float
    renew_at: float | None = None

    def get_id(self) -> str:
        """Return the platform's id of the user."""
        return self.subject

    def get_name(self) -> str:
        """Return what people call the user."""
        return self.name

    def to_claims(self) -> dict[str, Any]:
        """Return what a token of our own says, beside what Airflow adds."""
        return {
            "sub": self.subject,
            "name": self.name,
            "runtime_roles": list(self.roles),
            "runtime_session": self.session,
            "runtime_session_exp": self.expires_at,
        }

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> RuntimeUser:
        """Return the user of such a token, whose signature has been verified.

        :raises KeyError: it is no token of ours, as Airflow signs others with the same key.
        """
        renew_at = None
        if claims["exp"] < claims["runtime_session_exp"] - 5:  # both are rounded
            renew_at = (claims["iat"] + claims["exp"]) / 2
        return cls(
            subject=claims["sub"],
            name=claims["name"],
            roles=tuple(claims["runtime_roles"]),
            session=claims["runtime_session"],
            expires_at=claims["runtime_session_exp"],
            renew_at=renew_at,
        )
