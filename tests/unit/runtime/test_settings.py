"""What has to be set, and what is told when it is not."""

from __future__ import annotations

import pytest

from astronomer.lab.issuer.platform import Platform
from astronomer.runtime.keys import JwksKeys, PemKey
from astronomer.runtime.settings import SECTION, Settings, SettingsError

GOOD = {"issuer": "https://platform.example", "audience": "here", "jwks_url": "https://platform.example/jwks"}


def read(others=None, **changes):
    own = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    known = {(SECTION, name): value for name, value in own.items()} | (others or {})
    return Settings.read(lambda section, key: known.get((section, key)))


def problems(others=None, **changes):
    with pytest.raises(SettingsError) as caught:
        read(others, **changes)
    return str(caught.value)


def test_three_are_enough():
    settings = read()
    assert isinstance(settings.verifier.keys, JwksKeys)
    assert (settings.verifier.issuer, settings.verifier.audience) == ("https://platform.example", "here")
    assert (settings.login_url, settings.deployment_id) == (None, None)


def test_what_is_missing_is_told_all_at_once():
    said = problems(issuer=None, audience=" ", jwks_url=None)
    for name in ("issuer is missing", "audience is missing", "jwks_url and public_key_file are both missing"):
        assert name in said
    assert "AIRFLOW__ASTRONOMER_RUNTIME__" in said


@pytest.mark.parametrize(("changes", "words"), [
    ({"public_key_file": "/x"}, "are both set"), ({"jwks_url": "http://platform.example/jwks"}, "only https://"),
    ({"jwks_url": "file:///etc/passwd"}, "only https://"), ({"login_url": "javascript:x"}, "only https://"),
    ({"login_url": "//evil"}, "only https://"), ({"login_url": "https://p/login"}, "base_url"), ({"algorithms": "RS256,HS256"}, "algorithms has HS256"),
    ({"algorithms": "none"}, "algorithms has none"), ({"algorithms": ","}, "algorithms has"), ({"leeway": "soon"}, "leeway is 'soon'"),
    ({"leeway": "3600"}, "leeway is '3600'"), ({"leeway": "nan"}, "leeway"), ({"max_token_lifetime": "inf"}, "max_token_lifetime"),
    ({"max_token_lifetime": "-1"}, "max_token_lifetime"), ({"jwks_min_interval": "0"}, "jwks_min_interval"),
    ({"jwks_max_stale": "10"}, "jwks_max_stale is less"), ({"role_map": "x"}, "role_map is no JSON"),
    ({"role_permissions": "/none.json"}, "cannot be read"), ({"jwks_url": "https://[::1"}, "jwks_url is no URL"),
    ({"jwks_url": "https://"}, "only https://"), ({"jwks_url": "https:///jwks"}, "only https://"),
    ({"logout_url": "https://p:port/"}, "logout_url is no URL"),
])  # fmt: skip
def test_what_makes_no_sense(changes, words):
    assert words in problems(**changes)


@pytest.mark.parametrize("name", ["jwks_url", "login_url", "logout_url"])
def test_a_password_in_an_address_is_refused_and_not_shown(name):
    said = problems(
        {("api", "base_url"): "https://airflow.example"}, **{name: "https://ada:s3cret@p.example/"}
    )
    assert f"{name} has a user or a password in it" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "base_url",
    [
        "http://airflow.example:8080",
        "https://[::1",
        "https://",
        "airflow",
        "https://a:s3cret@airflow.example",
    ],
)
def test_a_browser_cannot_come_back_to(base_url):
    said = problems({("api", "base_url"): base_url}, login_url="https://p/login")
    assert "login_url needs [api] base_url" in said
    assert "s3cret" not in said


def test_a_browser_comes_back_to_this_machine_without_tls():
    assert read({("api", "base_url"): "http://localhost:8080"}, login_url="https://p/login")


def test_a_key_file(tmp_path):
    file = tmp_path / "key.pem"
    assert "gives no key" in problems(jwks_url=None, public_key_file=str(file))
    file.write_bytes(Platform("i", "a").public_pem())
    assert isinstance(read(jwks_url=None, public_key_file=str(file)).verifier.keys, PemKey)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.9.9.9"])
def test_this_machine_needs_no_tls(host):
    assert read(jwks_url=f"http://{host}:8000/jwks")


@pytest.mark.parametrize(
    "host", ["localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", ""]
)
def test_another_does(host):
    assert "only https://" in problems(jwks_url=f"http://{host}/jwks")


def test_nobody_can_be_the_platform_and_airflow():
    assert "jwt_issuer" in problems({("api_auth", "jwt_issuer"): GOOD["issuer"]})
    assert "trusted_jwks_url" in problems({("api_auth", "trusted_jwks_url"): GOOD["jwks_url"]})
    assert "multi_team" in problems({("core", "multi_team"): "True"})


def test_where_people_come_back_to():
    settings = read(
        {("api", "base_url"): "https://airflow.example/here/"}, login_url="https://p/login?tenant=1"
    )
    assert (settings.base_url, settings.login_url) == (
        "https://airflow.example/here",
        "https://p/login?tenant=1",
    )
