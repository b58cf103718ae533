"""A deployment that is configured another way: behind a proxy that speaks TLS, below a path, with roles of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import airflow.api_fastapi
import pytest

from astronomer.lab.issuer import IssuerServer
from tests.integration.runtime.deployment import Deployment, http

pytestmark = [pytest.mark.xdist_group("runtime-configured"), pytest.mark.timeout(400)]

ROLES = {
    "operator": {"includes": "viewer", "permissions": ["dag.run:POST", "pool:*"]},
    "plugin-pages": {"includes": "viewer", "permissions": ["view.plugins:GET"]},
}
NAMES = {"MEMBER": "viewer", "OPS": "operator", "PAGES": "plugin-pages", "OWNER": "admin"}


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    home = tmp_path_factory.mktemp("configured")
    with IssuerServer("this.deployment") as issuer:
        key, roles = home / "platform.pem", home / "roles.json"
        key.write_bytes(issuer.platform.public_pem())
        roles.write_text(json.dumps(ROLES))
        deployment = Deployment(home, issuer)
        deployment.settings.update({
            "AIRFLOW__API__BASE_URL": f"https://localhost:{deployment.port}/team",
            "AIRFLOW__ASTRONOMER_RUNTIME__JWKS_URL": "",
            "AIRFLOW__ASTRONOMER_RUNTIME__PUBLIC_KEY_FILE": str(key),
            "AIRFLOW__ASTRONOMER_RUNTIME__ROLE_PERMISSIONS": str(roles),
            "AIRFLOW__ASTRONOMER_RUNTIME__ROLE_MAP": json.dumps(NAMES),
        })  # fmt: skip
        with deployment.running():
            yield deployment


@pytest.fixture
def member(configured):
    """A cookie of somebody's session, past its half."""
    token = configured.issuer.platform.token(roles=["MEMBER"])
    return {"_token": configured.session(token, runtime_roles=["viewer"])}


def cookies(answer):
    return [text for text in answer.headers.get_list("set-cookie") if text.startswith("_token=")]


def said(cookie):
    return {part.partition("=")[0] for part in cookie.split("; ")}


class TestRoles:
    """Of each a question that it may ask, and one that it may not."""

    def status(self, configured, name, *question, **how):
        return configured.status(configured.issuer.platform.token(roles=[name]), *question, **how)

    @pytest.mark.parametrize(
        ("name", "status"), [("MEMBER", 200), ("OWNER", 200), ("viewer", 403), ("Admin", 403)]
    )
    def test_only_the_names_of_the_map_are_known(self, configured, name, status):
        assert self.status(configured, name) == status

    def test_a_role_of_its_own(self, configured):
        def pool():
            return {"name": f"p{time.time()}", "slots": 1}

        assert self.status(configured, "OPS", "POST", "/api/v2/pools", json=pool()) == 201
        assert self.status(configured, "MEMBER", "POST", "/api/v2/pools", json=pool()) == 403
        for path in ("/api/v2/connections", "/api/v2/plugins"):
            assert self.status(configured, "OPS", path=path) == 403

    @pytest.mark.parametrize(("name", "status"), [("PAGES", 200), ("OWNER", 200), ("MEMBER", 403)])
    def test_who_sees_the_pages_of_plugins(self, configured, name, status):
        """Airflow's pages ask for this list, and show what is in it."""
        assert self.status(configured, name, path="/api/v2/plugins") == status

    def test_nobody_asks_about_a_single_page_of_a_plugin(self):
        """If a later Airflow does, the guide should tell of ``custom_view``."""
        asking = [
            file
            for file in Path(str(airflow.api_fastapi.__file__)).parent.rglob("*.py")
            if "is_authorized_custom_view" in file.read_text() and "managers" not in file.parts
        ]
        assert not asking


class TestProxy:
    def test_a_login_sets_one_cookie_and_for_https_alone(self, configured, member):
        out = http("GET", f"{configured.url}/team/auth/login?moved=1")
        [state] = parse_qs(urlsplit(out.headers["location"]).query)["state"]
        form = {"state": state, "access_token": configured.issuer.platform.token(roles=["OWNER"])}
        brought = {**member, f"__Host-runtime_login_{state}": "%2Fteam%2Fdags"}
        answer = http("POST", f"{configured.url}/team/auth/callback", data=form, cookies=brought)
        assert answer.status_code == 303, answer.text
        [cookie] = cookies(answer)
        assert {"Secure", "HttpOnly"} <= said(cookie)
        assert "Path=/team/" in cookie

    def test_so_does_its_renewal(self, configured, member):
        answer = http("GET", f"{configured.url}/team/ui/auth/me", cookies=member)
        assert answer.status_code == 200
        renewed = cookies(answer)
        assert len(renewed) == 2, "the other deletes one that an earlier Airflow has set at the root"
        assert all("Secure" in said(cookie) for cookie in renewed)

    def test_leaving(self, configured, member):
        answer = http("GET", f"{configured.url}/team/auth/logout", cookies=member)
        assert [cookie.startswith('_token=""') for cookie in cookies(answer)] == [True, True]
        assert configured.status(member["_token"]) == 403


def test_a_key_of_a_file_that_is_replaced(configured):
    """It counts at once, and the one before no longer."""
    platform = configured.issuer.platform
    old = platform.token(roles=["MEMBER"])
    assert configured.status(old) == 200
    platform.rotate()
    new = platform.token(roles=["MEMBER"])
    assert configured.status(new) == 403
    next_one = configured.home / "next.pem"
    next_one.write_bytes(platform.public_pem())
    next_one.rename(configured.home / "platform.pem")
    assert (configured.status(new), configured.status(old)) == (200, 403)
