"""The security manager by itself: what Airflow may ask of it, sessions, and errors that must be loud."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import replace
from types import SimpleNamespace

import jwt
import pytest

pytest.importorskip("airflow.models.revoked_token", reason="Airflow 3.1 has no revoked tokens")

from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.common.types import MenuItem
from airflow.models.revoked_token import RevokedToken
from fastapi import HTTPException
from sqlalchemy.exc import DataError, IntegrityError

from astronomer.lab.issuer.platform import Platform
from astronomer.runtime.auth_manager import RuntimeAuthManager
from astronomer.runtime.keys import JwksKeys
from astronomer.runtime.roles import Policy
from astronomer.runtime.settings import Settings
from astronomer.runtime.tokens import Verifier
from astronomer.runtime.user import RuntimeUser

PLATFORM = Platform("https://platform.example", "here")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    """Airflow's own key, of which it keeps what it has read."""
    cached = (RuntimeAuthManager._get_token_signer, RuntimeAuthManager._get_token_validator)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_urlsafe(64))
    for one in cached:
        one.__func__.cache_clear()
    yield
    for one in cached:
        one.__func__.cache_clear()


@pytest.fixture
def published():
    """What the platform answers with: its keys, or an error."""
    return {"answer": PLATFORM.jwks()}


@pytest.fixture
def revoked(monkeypatch):
    """Airflow's table of revoked tokens."""
    table = {}
    monkeypatch.setattr(RevokedToken, "is_revoked", lambda jti: jti in table)
    monkeypatch.setattr(RevokedToken, "revoke", table.__setitem__)
    return table


@pytest.fixture
def manager(published, revoked):
    def fetch(_url):
        if isinstance(published["answer"], Exception):
            raise published["answer"]
        return published["answer"]

    keys = JwksKeys("https://platform.example/jwks", ["RS256"], fetch=fetch)
    manager = RuntimeAuthManager()
    verifier = Verifier(keys, PLATFORM.issuer, PLATFORM.audience)
    manager.settings = Settings(verifier, Policy(), "dep", None, None, "")
    return manager


@pytest.fixture
def audited(manager, monkeypatch):
    """The records of the audit log."""
    told = []
    monkeypatch.setattr(
        manager.audit, "_write", lambda _level, event, said: told.append({"event": event, **said})
    )
    return told


def user(*roles, expires_in=600, **changes):
    good = {"subject": "user", "name": "u", "session": "0" * 32, "expires_at": time.time() + expires_in}
    return RuntimeUser(roles=roles, **{**good, **changes})


class TestQuestions:
    def test_everything_that_airflow_requires_is_there(self):
        assert RuntimeAuthManager.__abstractmethods__ == frozenset()

    def test_every_question_about_a_right_is_ours(self):
        """A default of Airflow's, of now or later, may be more generous."""
        asked = {
            name for name in dir(BaseAuthManager) if name.startswith(("is_authorized_", "batch_", "filter_"))
        }
        inherited = {
            name for name in asked if getattr(RuntimeAuthManager, name) is getattr(BaseAuthManager, name)
        }
        assert inherited == {"is_authorized_hitl_task"}

    @pytest.mark.parametrize(
        "kind", ["configuration", "connection", "dag", "asset", "asset_alias", "pool", "variable", "team"]
    )
    def test_a_later_airflow_may_ask_with_more(self, manager, kind):
        ask = getattr(manager, f"is_authorized_{kind}")
        assert ask(method="DELETE", user=user("admin"), details=None, team_name="t", new=1)
        assert not ask(method="DELETE", user=user("viewer"), details=None, team_name="t", new=1)
        assert not ask(method="DELETE", user=user(), details=None)

    def test_or_of_what_has_no_name_yet(self, manager):
        new = SimpleNamespace(value="AUDIT_LOGS_ALL", name="AUDIT_LOGS_ALL")
        for role, allowed in (("viewer", False), ("editor", False), ("admin", True)):
            who = user(role)
            assert manager.is_authorized_view(access_view=new, user=who, team_name=None) is allowed
            assert manager.is_authorized_dag(method="GET", access_entity=new, user=who) is allowed
            assert manager.is_authorized_custom_view(method="can_do", resource_name="x", user=who) is allowed
            assert bool(manager.filter_authorized_menu_items([new], user=who)) is allowed

    def test_a_method_may_be_a_text_or_an_enum(self, manager):
        enum = SimpleNamespace(value="PUT")
        assert manager.is_authorized_dag(method=enum, user=user("editor"))
        assert not manager.is_authorized_dag(method=enum, user=user("viewer"))

    def test_an_entity_of_a_dag_is_not_the_dag(self, manager):
        details = DagDetails(id="x")
        entity = DagAccessEntity.XCOM
        assert manager.is_authorized_dag(method="PUT", details=details, user=user("editor"))
        assert not manager.is_authorized_dag(
            method="PUT", access_entity=entity, details=details, user=user("editor")
        )

    def test_lists_are_all_or_nothing(self, manager):
        viewer, admin = user("viewer"), user("admin")
        assert manager.filter_authorized_dag_ids(dag_ids={"a"}, user=viewer, team_name=None) == {"a"}
        assert manager.filter_authorized_dag_ids(dag_ids={"a"}, user=viewer, method="PUT") == set()
        for kind, ids in (("connections", "conn_ids"), ("variables", "variable_keys")):
            ask = getattr(manager, f"filter_authorized_{kind}")
            assert ask(**{ids: {"a"}}, user=viewer) == set()
            assert ask(**{ids: {"a"}}, user=admin) == {"a"}
        assert manager.filter_authorized_pools(pool_names={"a"}, user=viewer, method="PUT") == set()

    def test_one_bad_request_spoils_the_batch(self, manager):
        good, bad = {"method": "GET", "details": DagDetails()}, {"method": "PUT", "details": DagDetails()}
        assert manager.batch_is_authorized_dag([good, good], user=user("viewer"))
        assert not manager.batch_is_authorized_dag([good, bad], user=user("viewer"))
        xcom = {"method": "PUT", "access_entity": DagAccessEntity.XCOM}
        assert not manager.batch_is_authorized_dag([bad, xcom], user=user("editor"))

    @pytest.mark.parametrize("kind", ["connection", "pool", "variable"])
    def test_an_empty_batch_is_no_way_in(self, manager, kind):
        ask = getattr(manager, f"batch_is_authorized_{kind}")
        assert not ask([], user=user("editor"))
        assert ask([], user=user("admin"))

    def test_what_holds_secrets_is_told_when_it_is_read(self, manager, audited):
        manager.is_authorized_connection(method="GET", user=user("admin"))
        manager.is_authorized_pool(method="GET", user=user("admin"))
        manager.is_authorized_variable(method="GET", user=user("viewer"))
        manager.is_authorized_configuration(method="GET", user=user("admin"))
        assert [(one["event"], one["resource"]) for one in audited] == [
            ("read allowed", "connection"), ("access refused", "variable"), ("read allowed", "configuration")
        ]  # fmt: skip

    def test_views_of_each(self, manager):
        def seen(role):
            return {
                view for view in AccessView if manager.is_authorized_view(access_view=view, user=user(role))
            }

        open_to_all = {
            AccessView.CLUSTER_ACTIVITY,
            AccessView.DOCS,
            AccessView.IMPORT_ERRORS,
            AccessView.WEBSITE,
        }
        assert seen("viewer") == seen("editor") == open_to_all
        assert seen("admin") == set(AccessView)

    def test_the_menu_of_an_admin_is_whole(self, manager):
        assert manager.filter_authorized_menu_items(list(MenuItem), user=user("admin")) == list(MenuItem)


class TestSessions:
    def minted(self, manager, who, **how):
        return jwt.decode(manager.generate_jwt(who, **how), options={"verify_signature": False})

    async def test_there_and_back(self, manager):
        who = await manager.get_user_from_token(PLATFORM.token("editor", deployments={"dep": "viewer"}))
        again = await manager.get_user_from_token(manager.generate_jwt(who))
        assert (again.subject, again.name, again.roles) == (who.subject, who.name, ("editor", "viewer"))
        assert (again.session, again.expires_at) == (who.session, who.expires_at)

    @pytest.mark.parametrize(("audience", "deployment"), [("here", "prod"), ("here", None), ("there", "dep")])
    async def test_none_counts_in_another_deployment(self, manager, audience, deployment):
        """Its roles are those of this one."""
        session = manager.generate_jwt(await manager.get_user_from_token(PLATFORM.token("admin")))
        verifier = replace(manager.settings.verifier, audience=audience)
        manager.settings = replace(manager.settings, verifier=verifier, deployment_id=deployment)
        with pytest.raises(jwt.InvalidTokenError, match="another deployment"):
            await manager.get_user_from_token(session)

    def mapped(self, manager, issuer=PLATFORM.issuer, **role_map):
        """Airflow after a restart with another map."""
        verifier = replace(manager.settings.verifier, issuer=issuer)
        policy = Policy.configured(json.dumps(role_map) if role_map else None)
        manager.settings = replace(manager.settings, verifier=verifier, policy=policy)

    @pytest.mark.parametrize(
        "changed", [{"admin": "viewer"}, {"admin": "admin"}, {"issuer": "https://new.example"}]
    )
    async def test_none_outlives_the_rules_that_it_was_opened_by(self, manager, changed):
        session = manager.generate_jwt(await manager.get_user_from_token(PLATFORM.token("admin")))
        self.mapped(manager, **changed)
        with pytest.raises(jwt.ExpiredSignatureError, match="before issuer or role_map was changed"):
            await manager.get_user_from_token(session)

    async def test_a_restart_that_changes_nothing_ends_none(self, manager):
        session = manager.generate_jwt(await manager.get_user_from_token(PLATFORM.token("admin")))
        self.mapped(manager)
        assert (await manager.get_user_from_token(session)).roles == ("admin",)

    @pytest.mark.parametrize("wanted", [None, 60, 600, 86_400])
    def test_none_lives_longer_than_what_it_stands_for(self, manager, wanted):
        who = user("viewer", expires_in=120)
        how = {} if wanted is None else {"expiration_time_in_seconds": wanted}
        assert (
            self.minted(manager, who, **how)["exp"] <= min(time.time() + (wanted or 120), who.expires_at) + 1
        )

    @pytest.mark.parametrize("left", [0.5, 0, -10])
    def test_nothing_left_is_401(self, manager, left):
        with pytest.raises(HTTPException) as caught:
            manager.generate_jwt(user("viewer", expires_in=left))
        assert caught.value.status_code == 401

    def test_a_short_one_is_followed_by_another_in_its_second_half(self, manager):
        who = manager.deserialize_user(self.minted(manager, user("viewer"), expiration_time_in_seconds=60))
        assert manager.refresh_user(user=who) is None
        later = manager.deserialize_user(
            {**who.to_claims(), "iat": time.time() - 31, "exp": time.time() + 29}
        )
        assert manager.refresh_user(user=later) is later

    def test_but_not_when_it_can_live_no_longer(self, manager):
        who = manager.deserialize_user(self.minted(manager, user("viewer")))
        assert who.renew_at is None
        assert manager.refresh_user(user=who) is None
        assert manager.refresh_user(user=user("viewer")) is None, "the platform's own"

    async def test_what_is_known_needs_no_thread_and_no_question(self, manager, monkeypatch):
        """The keys may become old between a look at the clock and the next."""
        token = PLATFORM.token()
        await manager.get_user_from_token(token)
        manager._asking.shutdown()
        monkeypatch.setattr(JwksKeys, "find", lambda *_: pytest.fail("it asks while everybody waits"))
        assert (await manager.get_user_from_token(token)).roles == ("viewer",)


class TestLoud:
    def test_logout_ends_a_session(self, manager, revoked):
        manager.revoke_token(PLATFORM.token("viewer", jti="3f2504e0-4f89-11d3-9a0c-0305e82c3301"))
        [(stored, until)] = revoked.items()
        assert len(stored) == 32
        assert until.timestamp() > time.time() + 3600 + 1800

    def late(self, manager, *, ago, left, **claims):
        """A session's token that ended some seconds ago, of a platform's that has some seconds left."""
        now = int(time.time())
        whole = {
            **manager.serialize_user(user("viewer", expires_in=left)),
            "iat": now - 3600,
            "nbf": now - 3600,
        }
        signer = manager._get_token_signer()
        whole |= {"aud": "apache-airflow", "jti": "1" * 32, "exp": now - ago, **claims}
        return jwt.encode(whole, signer.signing_arg, algorithm=signer.algorithm, headers={"kid": "not-used"})

    @pytest.mark.parametrize(("ago", "left", "claims"), [
        (60, 600, {}), (3500, 60, {}), (60, -10, {}), (-60, 600, {"runtime_rules": ["x", "y"]}),
    ])  # fmt: skip
    async def test_a_session_may_be_ended_by_a_token_that_has_ended_before(
        self, manager, revoked, ago, left, claims
    ):
        token = self.late(manager, ago=ago, left=left, **claims)
        with pytest.raises(jwt.ExpiredSignatureError):
            await manager.get_user_from_token(token)
        await asyncio.to_thread(manager.revoke_token, token)
        assert list(revoked) == ["0" * 32]

    @pytest.mark.parametrize(("left", "claims"), [
        (-60, {}), (600, {"runtime_for": ["x", None]}), (600, {"aud": "urn:airflow.apache.org:task"})
    ])  # fmt: skip
    def test_but_not_if_there_is_nothing_to_end(self, manager, revoked, left, claims):
        manager.revoke_token(self.late(manager, ago=60, left=left, **claims))
        assert not revoked

    def test_it_ends_once(self, manager, audited):
        token = PLATFORM.token("viewer")
        for _ in range(2):
            manager.revoke_token(token)
        assert [one["event"] for one in audited] == ["logged out"]

    @pytest.mark.parametrize("asked", ["revoke", "is_revoked"])
    def test_a_logout_that_the_database_refuses_is_no_logout(self, manager, monkeypatch, audited, asked):
        def refuse(*_):
            raise DataError("INSERT", None, Exception("value too long for type character varying(32)"))

        monkeypatch.setattr(RevokedToken, asked, refuse)
        with pytest.raises(HTTPException) as caught:
            manager.revoke_token(PLATFORM.token())
        assert caught.value.status_code == 503
        assert "still logged in" in caught.value.detail
        assert not audited

    def test_two_at_the_same_moment_are_one_logout(self, manager, monkeypatch, audited):
        def late(*_):
            raise IntegrityError("INSERT", None, Exception("UNIQUE constraint failed: revoked_token.jti"))

        monkeypatch.setattr(RevokedToken, "revoke", late)
        manager.revoke_token(PLATFORM.token())
        assert not audited, "the other one has told it"

    def test_nor_is_one_while_the_platform_is_silent(self, manager, published, audited):
        published["answer"] = OSError("down")
        with pytest.raises(HTTPException) as caught:
            manager.revoke_token(PLATFORM.token())
        assert caught.value.status_code == 503
        assert "still logged in" in caught.value.detail
        assert ("token refused", "keys unavailable") in [(one["event"], one.get("reason")) for one in audited]

    @pytest.mark.parametrize(
        "token", ["", "a.b.c", PLATFORM.token(aud="other")], ids=["none", "no token", "of another"]
    )
    def test_what_opens_nothing_has_nothing_to_end(self, manager, revoked, token):
        manager.revoke_token(token)
        assert not revoked

    async def test_what_has_ended_stays_so(self, manager):
        token = PLATFORM.token()
        exchanged = manager.generate_jwt(await manager.get_user_from_token(token))
        await asyncio.to_thread(manager.revoke_token, exchanged)
        for one in (token, exchanged):
            with pytest.raises(jwt.InvalidTokenError, match="revoked"):
                await manager.get_user_from_token(one)

    @pytest.mark.parametrize("roles", [[], ["ADMIN"], ["root", "a"]])
    async def test_without_a_known_role_nobody_gets_in(self, manager, roles):
        with pytest.raises(jwt.InvalidTokenError, match="role"):
            await manager.get_user_from_token(PLATFORM.token(roles=roles, deployments={"elsewhere": "admin"}))

    async def test_nobody_gets_in_while_the_platform_is_silent(self, manager, published):
        published["answer"] = OSError("down")
        with pytest.raises(HTTPException) as caught:
            await manager.get_user_from_token(PLATFORM.token())
        assert caught.value.status_code == 503

    async def test_nobody_gets_in_while_the_database_is_silent(self, manager, monkeypatch):
        def silent(_jti):
            raise RuntimeError("no connection")

        monkeypatch.setattr(RevokedToken, "is_revoked", silent)
        with pytest.raises(RuntimeError):
            await manager.get_user_from_token(PLATFORM.token("admin"))

    def test_its_commands_need_no_settings(self):
        [group] = RuntimeAuthManager.get_cli_commands()
        assert [command.name for command in group.subcommands] == ["check-token", "roles"]
