"""Which tokens are accepted, and that nothing else is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.lab.issuer.platform import Platform
from astronomer.runtime.keys import ALGORITHMS, JwksKeys
from astronomer.runtime.tokens import (
    REQUIRED,
    TokenExpired,
    TokenRefused,
    Verifier,
    fingerprint,
    role_names,
)
from tests.effort import examples

PLATFORM = Platform("https://platform.example", "deployment.example")
ALLOWED = ("RS256", "ES256", "EdDSA")


def verifier(platform=PLATFORM, allowed=ALLOWED, **how):
    keys = JwksKeys("https://platform.example/jwks", allowed, fetch=lambda _url: platform.jwks())
    return Verifier(keys, platform.issuer, platform.audience, **how)


VERIFIER = verifier()


def refused(token, of=VERIFIER):
    with pytest.raises(TokenRefused) as caught:
        of.verify(token)
    return caught.value.reason


def encoded(value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def part(token, index):
    text = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class TestGood:
    @pytest.mark.parametrize("algorithm", ALLOWED)
    def test_it_says_who_it_is(self, algorithm):
        platform = Platform("https://platform.example", "deployment.example", algorithm)
        claims = verifier(platform).verify(platform.token("editor", jti="one"))
        assert (claims.subject, claims.name, claims.roles) == (
            "user-editor",
            "edgar@example.com",
            ("editor",),
        )
        assert claims.token_id == "one"
        assert claims.expires_at - claims.issued_at == 3600

    def test_without_an_address_its_name_is_its_subject(self):
        assert VERIFIER.verify(PLATFORM.token(email=None)).name == "user-viewer"

    def test_it_may_be_for_several_audiences(self):
        assert VERIFIER.verify(PLATFORM.token(aud=["other.example", "deployment.example"]))

    def test_roles_of_a_deployment_count_there_only(self):
        claims = VERIFIER.verify(PLATFORM.token(deployments={"one": "editor", "two": ["admin", "viewer"]}))
        assert role_names(claims, "one") == ("viewer", "editor")
        assert role_names(claims, "two") == ("viewer", "admin", "viewer")
        assert role_names(claims, None) == role_names(claims, "three") == ("viewer",)

    def test_a_deployment_without_a_name_is_none(self):
        claims = VERIFIER.verify(PLATFORM.token(deployments={"": "admin"}))
        assert role_names(claims, None) == role_names(claims, "") == ("viewer",)

    @pytest.mark.parametrize("seconds", [-20, 20])
    def test_clocks_may_differ_a_little(self, seconds):
        now = int(time.time())
        assert VERIFIER.verify(PLATFORM.token(iat=now + seconds, nbf=now + seconds, exp=now + seconds + 60))
        assert VERIFIER.verify(PLATFORM.token(iat=now - 60, nbf=now - 60, exp=now - 20))

    @pytest.mark.parametrize("kind", ["JWT", "at+jwt", None])
    def test_the_kinds_of_access_tokens(self, kind):
        assert VERIFIER.verify(PLATFORM.token(headers={"typ": kind} if kind else {}))


class TestAlgorithm:
    @pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
    @pytest.mark.parametrize("signature", ["", "AAAA"])
    def test_no_signature(self, name, signature):
        header = {"alg": name, "kid": PLATFORM.kid, "typ": "JWT"}
        assert refused(f"{encoded(header)}.{encoded(PLATFORM.claims('admin'))}.{signature}") == "algorithm"

    def test_a_good_token_without_its_signature(self):
        head, payload, _ = PLATFORM.token("admin").split(".")
        assert refused(f"{head}.{payload}.") == "signature"
        assert refused(f"{head}.{payload}") == "malformed"

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    def test_the_public_key_as_a_shared_secret(self, algorithm):
        for secret in (PLATFORM.public_pem(), json.dumps(PLATFORM.published[0]).encode()):
            header = {"alg": algorithm, "kid": PLATFORM.kid, "typ": "JWT"}
            signed = f"{encoded(header)}.{encoded(PLATFORM.claims('admin'))}"
            mac = jwt.algorithms.get_default_algorithms()[algorithm].sign(signed.encode(), secret)
            assert refused(f"{signed}.{encoded(mac)}") == "algorithm"

    def test_a_shared_secret_among_the_published_keys(self):
        platform = Platform("https://platform.example", "deployment.example")
        secret = b"0123456789abcdef0123456789abcdef"
        shared = {"kty": "oct", "k": encoded(secret), "kid": "shared", "alg": "HS256"}
        platform.published.append(shared)
        platform.published.append({**shared, "kid": "rs", "alg": "RS256"})
        for kid in ("shared", "rs"):
            forged = jwt.encode(platform.claims("admin"), secret, algorithm="HS256", headers={"kid": kid})
            assert refused(forged, verifier(platform)) == "unknown key"

    @pytest.mark.parametrize(
        "algorithm", [name for name in ALGORITHMS if name[:2] in {"RS", "PS"} and name != "RS256"]
    )
    def test_another_algorithm_of_the_same_kind_of_key(self, algorithm):
        every = verifier(allowed=ALGORITHMS)
        private = PLATFORM._keys[PLATFORM.kid][1]
        swapped = jwt.encode(
            PLATFORM.claims("admin"), private, algorithm=algorithm, headers={"kid": PLATFORM.kid}
        )
        assert refused(swapped, every) == "algorithm"

    def test_a_key_for_an_algorithm_that_is_not_allowed(self):
        platform = Platform("https://platform.example", "deployment.example", "ES256")
        platform.rotate("RS256", keep=True)
        assert (
            refused(
                platform.sign(platform.claims(), kid=platform.published[0]["kid"]),
                verifier(platform, ("RS256",)),
            )
            == "unknown key"
        )


class TestKey:
    def test_another_key_under_a_known_id(self):
        other = Platform("https://platform.example", "deployment.example")
        forged = other.token("admin", headers={"kid": PLATFORM.kid})
        assert refused(forged) == "signature"

    @pytest.mark.parametrize("kid", [
        "unknown", "", "../../../../dev/null", "/dev/null", "' OR '1'='1", "https://evil.example/jwks", "0",
        "x" * 5000, "\x00", "null",
    ])  # fmt: skip
    def test_an_unknown_or_injected_id(self, kid):
        assert refused(PLATFORM.token("admin", headers={"kid": kid})) == "unknown key"

    @pytest.mark.parametrize("kid", [None, 0, 1.5, True, [], {}, ["a"], {"a": "b"}])
    def test_an_id_that_is_no_text(self, kid):
        head, payload, signature = PLATFORM.token("admin").split(".")
        forged = f"{encoded({**part(f'{head}.', 0), 'kid': kid})}.{payload}.{signature}"
        assert refused(forged) in {"header", "malformed", "unknown key"}

    def test_no_id(self):
        head, payload, signature = PLATFORM.token("admin").split(".")
        header = part(f"{head}.", 0)
        del header["kid"]
        assert refused(f"{encoded(header)}.{payload}.{signature}") == "unknown key"

    @pytest.mark.parametrize("header", [
        {"jku": "https://evil.example/jwks"}, {"jwk": PLATFORM.published[0]}, {"x5u": "https://evil.example/pem"},
        {"x5c": ["AAAA"]}, {"crit": ["exp"], "exp": 1}, {"crit": []}, {"zip": "DEF"}, {"enc": "A128GCM"},
    ])  # fmt: skip
    def test_a_token_has_no_say_in_how_it_is_verified(self, header):
        """Though the platform itself has signed it."""
        assert refused(PLATFORM.token("admin", headers=header)) in {"header", "malformed"}

    def test_a_key_of_its_own_in_the_header(self):
        other = Platform("https://platform.example", "deployment.example")
        forged = other.token("admin", headers={"kid": other.kid, "jwk": other.published[0]})
        assert refused(forged) == "header"

    @pytest.mark.parametrize("kind", ["JWE", "secevent+jwt", "dpop+jwt", 1, ["JWT"]])
    def test_another_kind_of_token(self, kind):
        head, payload, signature = PLATFORM.token("admin").split(".")
        forged = f"{encoded({**part(f'{head}.', 0), 'typ': kind})}.{payload}.{signature}"
        assert refused(forged) in {"header", "malformed"}


class TestClaims:
    @pytest.mark.parametrize("claim", REQUIRED)
    @pytest.mark.parametrize("absent", ["missing", "null"])
    def test_each_is_required(self, claim, absent):
        claims = PLATFORM.claims("admin", **{claim: None})
        if absent == "null":
            claims[claim] = None
        assert refused(PLATFORM.sign(claims)) in {"missing claim", "audience"}

    def test_expired(self):
        now = int(time.time())
        with pytest.raises(TokenExpired) as caught:
            VERIFIER.verify(PLATFORM.token("admin", iat=now - 600, nbf=now - 600, exp=now - 60, jti="old"))
        assert isinstance(caught.value, jwt.ExpiredSignatureError), "Airflow answers 401"
        assert (caught.value.subject, caught.value.token) == (
            "user-admin",
            fingerprint(PLATFORM.issuer, "old"),
        )

    @pytest.mark.parametrize("claim", ["nbf", "iat"])
    def test_from_the_future(self, claim):
        now = int(time.time())
        assert refused(PLATFORM.token("admin", **{claim: now + 600, "exp": now + 900})) == "not yet valid"

    def test_a_life_that_is_too_long(self):
        now = int(time.time())
        assert refused(PLATFORM.token("admin", exp=now + 86400)) == "lifetime"
        assert VERIFIER.verify(PLATFORM.token(iat=now, exp=now + 3600))

    @pytest.mark.parametrize(
        "issuer", ["https://evil.example", "https://platform.example/", "", ["https://platform.example"], 1]
    )
    def test_a_foreign_issuer(self, issuer):
        assert refused(PLATFORM.sign({**PLATFORM.claims("admin"), "iss": issuer})) in {"issuer", "malformed"}

    @pytest.mark.parametrize(
        "audience", ["other.example", [], "", ["other.example"], {"deployment.example": 1}, 1, [1]]
    )
    def test_a_foreign_audience(self, audience):
        assert refused(PLATFORM.sign({**PLATFORM.claims("admin"), "aud": audience})) in {
            "audience",
            "missing claim",
        }

    @pytest.mark.parametrize(
        "roles", ["admin", {"admin": True}, [["admin"]], [1], [None], True, 0, ["admin", 1]]
    )
    def test_roles_that_are_no_list_of_texts(self, roles):
        assert refused(PLATFORM.token(roles=roles)) == "claim"

    @pytest.mark.parametrize(
        "deployments", ["admin", ["admin"], {"one": 1}, {"one": {"role": "admin"}}, {"one": [["admin"]]}]
    )
    def test_roles_of_deployments_that_are_no_texts(self, deployments):
        assert refused(PLATFORM.token(deployments=deployments)) == "claim"

    @pytest.mark.parametrize(
        "name", [1, "", ["a"], "x" * 251, "two\nlines", "back\rspace", "\x1b[2J", "left\u202eright"]
    )
    def test_a_name_that_could_be_mistaken_in_a_log(self, name):
        assert refused(PLATFORM.token("admin", sub=name)) == "claim"
        assert refused(PLATFORM.token("admin", email=name)) == "claim"

    @pytest.mark.parametrize("jti", [1, "", ["a"], True])
    def test_an_id_that_is_no_text(self, jti):
        assert refused(PLATFORM.token("admin", jti=jti)) == "claim"

    @pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
    @pytest.mark.parametrize(
        "value", ["1", "tomorrow", True, [1], {}, float("nan"), float("inf"), float("-inf"), 1e400]
    )
    def test_a_time_that_is_no_number(self, claim, value):
        assert refused(PLATFORM.token("admin", **{claim: value})) in {
            "claim", "malformed", "expired", "not yet valid", "lifetime"
        }  # fmt: skip

    @pytest.mark.parametrize(
        "times", [{"exp": 10**400}, {"iat": -(10**400)}, {"exp": 10**400, "iat": 1.5}, {"nbf": -(10**400)}]
    )
    def test_a_time_beyond_all_measure(self, times):
        assert refused(PLATFORM.token("admin", **times)) == "claim"


class TestShape:
    @pytest.mark.parametrize("token", [
        "", ".", "..", "...", "....", "a.b.c", "a.b", "not a token", "Bearer x", "\x00", "é.é.é", "=.=.=", "e30.e30.e30",
        f"{encoded([])}.{encoded([])}.AAAA", f"{encoded({'alg': 'RS256'})}.{encoded([1])}.AAAA",
        f"{encoded({'alg': 'RS256'})}.{encoded(b'[' * 5000)}.AAAA", "a" * 20000, "ey" * 5000 + ".a.b",
        f"{encoded({'alg': ['RS256']})}.{encoded({})}.AAAA", f"{encoded({'alg': None})}.{encoded({})}.AAAA",
    ])  # fmt: skip
    def test_it_is_no_token(self, token):
        assert refused(token) in {"malformed", "unknown key"}

    def test_an_encrypted_one(self):
        assert refused(".".join(encoded({"alg": "dir", "enc": "A128GCM"}) for _ in range(5))) in {
            "malformed",
            "header",
        }


@settings(max_examples=examples(400))
@given(st.data())
def test_whatever_is_changed_of_a_token_it_is_refused(data):
    token = PLATFORM.token("viewer")
    where = data.draw(st.integers(0, len(token) - 1))
    what = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    how = data.draw(st.sampled_from(["replace", "insert", "delete", "cut", "double"]))
    changed = {
        "replace": token[:where] + what + token[where + 1 :],
        "insert": token[:where] + what + token[where:],
        "delete": token[:where] + token[where + 1 :],
        "cut": token[:where],
        "double": token[:where] + token[where:] + token[where:],
    }[how]
    try:
        claims = VERIFIER.verify(changed)
    except TokenRefused:
        return
    # Base64 leaves the last bits of a group unused: another spelling of the very same token.
    assert [decoded(text) for text in changed.split(".")] == [decoded(text) for text in token.split(".")]
    assert claims.roles == ("viewer",)


def decoded(text):
    return base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4))


@settings(max_examples=examples(200))
@given(
    st.dictionaries(
        st.sampled_from([*REQUIRED, "email", "deployments", "extra"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        min_size=1,
    )
)
def test_whatever_the_platform_signs_it_is_refused_or_makes_sense(changes):
    token = PLATFORM.sign({**PLATFORM.claims(), **changes})
    try:
        claims = VERIFIER.verify(token)
    except TokenRefused:
        return
    assert claims.issuer == PLATFORM.issuer
    assert all(isinstance(role, str) for role in claims.roles)
    assert 0 < len(claims.subject) <= 250
    assert claims.subject.isprintable()
    assert claims.expires_at - claims.issued_at <= 3600


def test_another_spelling_of_a_token_is_the_same_session():
    """Else it would outlive a logout."""
    token = PLATFORM.token(jti="one")
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        try:
            claims = VERIFIER.verify(token[:-1] + last)
        except TokenRefused:
            continue
        assert claims.fingerprint == fingerprint(PLATFORM.issuer, "one")


def test_the_fingerprint_fits_into_airflows_column():
    module = pytest.importorskip(
        "airflow.models.revoked_token", reason="an earlier Airflow has no revoked tokens"
    )

    for token_id in ("1", "a" * 5000, "3f9c-ü", "\ud800"):
        assert (
            len(fingerprint("https://platform.example", token_id))
            == module.RevokedToken.jti.type.length
            == 32
        )
    assert fingerprint("a", "b") != fingerprint("ab", "") != fingerprint("", "ab")


def test_a_refusal_never_has_the_token_in_its_words():
    token = PLATFORM.token("admin", exp=int(time.time()) - 3600)
    with pytest.raises(TokenRefused) as caught:
        VERIFIER.verify(token)
    assert not any(piece in repr(caught.value) + str(caught.value) for piece in token.split("."))


def test_a_stranger_gets_no_name_into_a_refusal():
    other = Platform("https://platform.example", "deployment.example")
    with pytest.raises(TokenRefused) as caught:
        VERIFIER.verify(other.token("admin", headers={"kid": PLATFORM.kid}))
    assert (caught.value.subject, caught.value.token) == (None, None)


def test_it_imports_no_airflow():
    program = (
        "import sys, astronomer.runtime.tokens, astronomer.runtime.settings; print('airflow' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
