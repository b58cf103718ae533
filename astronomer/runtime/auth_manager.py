"""The security manager of a Runtime image: ``[core] auth_manager = astronomer.runtime.auth_manager.RuntimeAuthManager``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.configuration import conf
from airflow.exceptions import AirflowConfigException
from airflow.models.revoked_token import RevokedToken
from asgiref.sync import async_to_sync
from fastapi import HTTPException
from jwt import ExpiredSignatureError, InvalidTokenError
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from astronomer.runtime.audit import Audit, RequestMiddleware, write_whatever_the_level
from astronomer.runtime.keys import KeysUnavailable
from astronomer.runtime.middleware import STILL_LOGGED_IN, SessionMiddleware
from astronomer.runtime.permissions import Permissions
from astronomer.runtime.settings import Settings, SettingsError
from astronomer.runtime.tokens import TokenExpired, TokenRefused, role_names, unverified
from astronomer.runtime.user import RuntimeUser

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand
    from fastapi import FastAPI

__all__ = ["RuntimeAuthManager"]

# Airflow forgets a revoked token when its time is up, but accepts one for the clocks' tolerance longer.
_REMEMBERED_SECONDS = 3600.0
_MINIMUM_SESSION_SECONDS = 1.0
_FOR, _RULES = "runtime_for", "runtime_rules"
_PLATFORM_IS_SILENT = (
    "The platform's public keys cannot be had, so nobody can be recognised. Try again in a minute; an administrator "
    "finds the reason in the log of the API server."
)


class RuntimeAuthManager(Permissions, BaseAuthManager[RuntimeUser]):
    """Knows people by the platform's signed tokens, and lets each do what the roles in the token allow.

    A token comes as ``Authorization: Bearer`` on every request, or is exchanged once, by logging in or at
    ``/auth/token``, for one of Airflow's own that ends no later. Without settings the API server does not start.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow has not typed it
        self.audit = Audit()
        self._asking = ThreadPoolExecutor(4, thread_name_prefix="platform-keys")

    def init(self) -> None:
        """Read the settings, and begin the audit log.

        :raises AirflowConfigException: they are missing or wrong; the message says which.
        """
        _ = self.settings
        write_whatever_the_level()
        super().init()

    @cached_property
    def settings(self) -> Settings:
        """What ``[astronomer_runtime]`` says."""
        try:
            return Settings.read(configured)
        except SettingsError as error:
            raise AirflowConfigException(str(error)) from error

    # -- who -----------------------------------------------------------------------------------------------------------

    async def get_user_from_token(self, token: str) -> RuntimeUser:
        """Return whose token it is: one of the platform's, or one of ours that such a one was exchanged for.

        :raises jwt.ExpiredSignatureError: it was good; Airflow answers 401.
        :raises jwt.InvalidTokenError: it is not; Airflow answers 403.
        :raises fastapi.HTTPException: 503, as the platform's keys cannot be had.
        """
        try:
            user = await self.identify(token)
        except TokenRefused as refused:
            self.audit.token_refused(
                refused.reason, refused.detail, kid=refused.kid, subject=refused.subject, token=refused.token
            )
            raise
        except KeysUnavailable as error:
            raise self._silence(error) from error
        return user

    def _silence(self, error: KeysUnavailable, before: str = "") -> HTTPException:
        self.audit.token_refused("keys unavailable", str(error))
        return HTTPException(503, f"{before}{_PLATFORM_IS_SILENT}")

    async def identify(self, token: str) -> RuntimeUser:
        """Return whose token it is, and write nothing to the audit log.

        :raises TokenRefused: it opens nothing; the reason is for administrators.
        :raises KeysUnavailable: it cannot be told.
        """
        user = await self._authentic(token)
        if RevokedToken.is_revoked(user.session):
            raise TokenRefused("revoked", subject=user.subject, token=user.session)
        if not user.roles:
            raise TokenRefused(
                "role", "none of its roles is known here", subject=user.subject, token=user.session
            )
        return user

    async def _authentic(self, token: str, *, late: bool = False) -> RuntimeUser:
        if not self.is_of_the_platform(token):
            return await self._exchanged(token, late=late)
        verifier = self.settings.verifier
        claims = verifier.verify_at_once(token)
        if claims is None:
            claims = await asyncio.get_running_loop().run_in_executor(self._asking, verifier.verify, token)
        roles = self.settings.policy.of(role_names(claims, self.settings.deployment_id))
        return RuntimeUser(claims.subject, claims.name, roles, claims.fingerprint, claims.expires_at)

    def is_of_the_platform(self, token: str) -> bool:
        """Whether it says so; either way it has to prove it."""
        return bool(unverified(token)[1].get("iss") == self.settings.verifier.issuer)

    async def _exchanged(self, token: str, *, late: bool) -> RuntimeUser:
        """Return whose token of ours it is.

        :param late: also of one that has ended, while the platform's token that it stands for may still open something;
            it may have been opened by other rules.
        """
        validator, verifier = self._get_token_validator(), self.settings.verifier
        grace = verifier.leeway if late else 0.0
        if late:
            validator = attrs.evolve(validator, leeway=validator.leeway + verifier.max_lifetime + grace)
        try:
            payload = await validator.avalidated_claims(token)
            user = self.deserialize_user(payload)
        except ExpiredSignatureError as error:
            raise TokenExpired("expired", "a session of this Airflow") from error
        except (InvalidTokenError, ValueError, KeyError, TypeError) as error:
            raise TokenRefused(
                "foreign", f"neither the platform's nor ours ({type(error).__name__})"
            ) from error
        if payload.get(_FOR) != self._here:
            raise TokenRefused("foreign", "a session of another deployment")
        if payload.get(_RULES) != self._rules and not late:
            detail = "a session from before issuer or role_map was changed"
            raise TokenExpired("expired", detail, subject=user.subject, token=user.session)
        if user.expires_at + grace <= time.time():
            raise TokenExpired(
                "expired", "the token it was exchanged for", subject=user.subject, token=user.session
            )
        return user

    def deserialize_user(self, token: dict[str, Any]) -> RuntimeUser:
        """Return the user of one of our own tokens."""
        return RuntimeUser.from_claims(token)

    def serialize_user(self, user: RuntimeUser) -> dict[str, Any]:
        """Return what one of our own tokens says of the user, where it counts, and by which rules."""
        return {**user.to_claims(), _FOR: self._here, _RULES: self._rules}

    @property
    def _here(self) -> list[str | None]:
        """What tells this deployment from others that sign with the same key: there, the user may have other roles."""
        return [self.settings.verifier.audience, self.settings.deployment_id]

    @property
    def _rules(self) -> list[str]:
        """What gave a user their roles: by others, they may have to be other ones."""
        return [self.settings.verifier.issuer, self.settings.policy.digest]

    # -- sessions ------------------------------------------------------------------------------------------------------

    def generate_jwt(self, user: RuntimeUser, *, expiration_time_in_seconds: int | None = None) -> str:
        """Return one of our own tokens, which ends no later than the platform's that it stands for.

        :raises fastapi.HTTPException: 401, that has ended.
        """
        return super().generate_jwt(
            user, expiration_time_in_seconds=self.session_seconds(user, expiration_time_in_seconds)
        )

    def session_seconds(self, user: RuntimeUser, wanted: int | None = None) -> int:
        """Return how long a token made now may live."""
        longest = wanted if wanted is not None else conf.getint("api_auth", "jwt_expiration_time")
        left = min(longest, int(user.expires_at - time.time()))
        if left < _MINIMUM_SESSION_SECONDS:
            raise HTTPException(401, "The platform's token has ended. Log in again.")
        return left

    def refresh_user(self, *, user: RuntimeUser) -> RuntimeUser | None:
        """Return the user if their own token is past half its life and can be followed by a longer one."""
        if user.renew_at is None or time.time() < user.renew_at:
            return None
        return user

    def revoke_token(self, token: str) -> None:
        """End the platform's token and every token it was exchanged for; one of these that has ended may say which.

        :raises fastapi.HTTPException: 503, as it could not be ended.
        """
        try:
            user = async_to_sync(self._authentic)(token, late=True)
        except TokenRefused:
            return  # it opens nothing
        except KeysUnavailable as error:
            raise self._silence(error, "You are still logged in. ") from error
        until = datetime.fromtimestamp(user.expires_at + _REMEMBERED_SECONDS, tz=timezone.utc)
        try:
            if RevokedToken.is_revoked(user.session):
                return
            RevokedToken.revoke(user.session, until)
        except IntegrityError:
            return  # another request has ended it since
        except SQLAlchemyError as error:
            self.log.exception("A session could not be ended")
            raise HTTPException(503, STILL_LOGGED_IN) from error
        self.audit.session("logged out", user.subject, user.roles, user.session)

    def get_url_login(self, **kwargs: Any) -> str:
        """Return our page that sends the browser to the platform."""
        return f"{self._mounted}/login"

    def get_url_logout(self) -> str | None:
        """Return our page that forgets the cookie and sends the browser to the platform."""
        return f"{self._mounted}/logout"

    @property
    def _mounted(self) -> str:
        from airflow.api_fastapi.app import AUTH_MANAGER_FASTAPI_APP_PREFIX

        return AUTH_MANAGER_FASTAPI_APP_PREFIX

    def get_fastapi_app(self) -> FastAPI | None:
        """Return the pages under ``/auth``."""
        from astronomer.runtime.login import pages

        return pages(self)

    def get_fastapi_middlewares(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return what lets the audit log name requests, and a login set its cookie."""
        return [(SessionMiddleware, {"https": self.settings.https}), (RequestMiddleware, {})]

    @staticmethod
    def get_cli_commands() -> list[CLICommand]:
        """Return ``airflow runtime-auth``."""
        from astronomer.runtime.auth_cli import get_cli_commands

        return get_cli_commands()

    def get_authorized_teams(self, *, user: RuntimeUser, **_: Any) -> set[str]:
        """Return none: there are no teams."""
        return set()

    def filter_authorized_teams(self, *, teams_names: Sequence[str], user: RuntimeUser, **_: Any) -> set[str]:  # type: ignore[override]  # any more arguments
        """Return none: there are no teams."""
        return set()


def configured(section: str, key: str) -> str | None:
    """Return what Airflow's configuration says, or nothing."""
    return conf.get(section, key, fallback=None)
