"""What the commands ``airflow runtime-auth …`` do."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from airflow.exceptions import AirflowConfigException
from asgiref.sync import async_to_sync
from sqlalchemy.exc import SQLAlchemyError

from astronomer.runtime.keys import KeysUnavailable
from astronomer.runtime.roles import METHODS, RESOURCES, Policy
from astronomer.runtime.tokens import TokenRefused
from astronomer.runtime.user import RuntimeUser

__all__ = ["check_token", "show_roles"]

_OWN_KEYS = ("jwt_secret", "jwt_private_key_path", "trusted_jwks_url")
_ADVICE = {
    "algorithm": "the platform signs with an algorithm that its key or [astronomer_runtime] algorithms does not name",
    "audience": "the token is for another deployment, or [astronomer_runtime] audience is not what the platform writes",
    "claim": "the platform writes a claim in another form",
    "expired": "log in again; if it is new, compare the clocks",
    "foreign": "its iss is not [astronomer_runtime] issuer, and this Airflow has not signed it for this deployment",
    "header": "it is no access token, or tries to bring its own key",
    "issuer": "its iss is not [astronomer_runtime] issuer",
    "lifetime": "the platform gives longer ones than [astronomer_runtime] max_token_lifetime",
    "malformed": "it was cut or changed on the way; it has three parts with dots between",
    "missing claim": "the platform must write all of exp, iat, nbf, aud, iss, sub, jti, roles",
    "not yet valid": "compare the clocks of the platform and of this machine",
    "revoked": "its user has logged out; log in again",
    "role": "the platform gives none here: see roles and deployments in the token, and `airflow runtime-auth roles`",
    "signature": "it was changed on the way, or another key of that id has signed it",
    "unknown key": "the platform publishes no key of that id that may be used; the API server's log says which were left out",
}


def check_token(_arguments: argparse.Namespace) -> None:
    """Tell whose token it is; exits with 1 if it is refused, and with 2 if it cannot be told."""
    from astronomer.runtime.auth_manager import RuntimeAuthManager, configured

    token = sys.stdin.read().strip().removeprefix("Bearer ").strip()
    can_know_ours = any(
        configured("api_auth", name) for name in _OWN_KEYS
    )  # else Airflow makes one up when asked
    try:
        user = async_to_sync(RuntimeAuthManager().identify)(token)
    except TokenRefused as refused:
        if refused.reason == "foreign" and not can_know_ours:
            _cannot_tell("it may be a session of this Airflow, but [api_auth] jwt_secret is not set here")
        _say(f"refused: {refused}")
        _say(f"what to do: {_ADVICE.get(refused.reason, 'see the log astronomer.runtime.audit')}")
        raise SystemExit(1) from None
    except (KeysUnavailable, AirflowConfigException) as error:
        _cannot_tell(str(error))
    except SQLAlchemyError as error:
        _cannot_tell(f"the metadata database could not be asked: {str(error).partition(chr(10))[0]}")
    for line in _description(user):
        _say(line)


def _cannot_tell(why: str) -> NoReturn:
    _say(f"cannot be told: {why}")
    raise SystemExit(2) from None


def _description(user: RuntimeUser) -> Iterator[str]:
    yield f"accepted: {user.name} ({user.subject})"
    yield f"roles: {', '.join(user.roles)}"
    yield f"ends in: {max(0, user.expires_at - time.time()):.0f} s"
    yield f"named in the audit log: {user.session}"


def show_roles(_arguments: argparse.Namespace) -> None:
    """Print a line for each role and resource; exits with 2 if the settings are missing or wrong."""
    from astronomer.runtime.auth_manager import RuntimeAuthManager

    try:
        policy = RuntimeAuthManager().settings.policy
    except AirflowConfigException as error:
        _cannot_tell(str(error))
    for name in policy.roles:
        names = ", ".join(sorted(theirs for theirs, ours in policy.names.items() if ours == name))
        _say(f"{name}, for the platform's {names or '(nothing)'}:")
        for line in _permissions(policy, name):
            _say(f"  {line}")


def _permissions(policy: Policy, role: str) -> Iterator[str]:
    custom = {resource for resource, _ in policy.roles[role].permissions} - set(RESOURCES)
    for resource in (*RESOURCES, *sorted(custom)):
        methods = [method for method in METHODS if policy.allows((role,), resource, method)]
        if methods:
            yield f"{resource}: {' '.join(methods)}"
    if policy.roles[role].everything:
        yield "and everything else"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
