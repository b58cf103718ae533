"""The platform's keys: how old they may get, how often they are asked for, which of them count."""

from __future__ import annotations

import os
import threading

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from astronomer.lab.issuer.platform import Platform
from astronomer.runtime import keys as module
from astronomer.runtime.keys import ALGORITHMS, JwksKeys, KeysUnavailable, PemKey, fetch_jwks
from tests.unit.servers import only_the_whole_is_limited, serving

ALLOWED = ("RS256", "ES256", "EdDSA")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Published:
    """A platform's URL: counts the questions, and can be down."""

    def __init__(self):
        self.platform = Platform("i", "a")
        self.asked = 0
        self.error = None

    def __call__(self, url):
        self.asked += 1
        if self.error:
            raise self.error
        return self.platform.jwks()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def keys(clock, published):
    return JwksKeys(
        "https://p", ALLOWED, max_age=300, min_interval=10, max_stale=3600, fetch=published, clock=clock
    )


class TestAsking:
    def test_once_while_they_are_young(self, keys, clock, published):
        for _ in range(5):
            assert keys.find(published.platform.kid).algorithm == "RS256"
            clock.now += 59
        assert published.asked == 1

    def test_again_when_they_are_old(self, keys, clock, published):
        kid = published.platform.kid
        keys.find(kid)
        clock.now += 300
        assert keys.at_hand(kid) is None
        keys.find(kid)
        assert published.asked == 2
        assert keys.at_hand(kid) is not None

    def test_for_an_unknown_one_but_not_too_often(self, keys, clock, published):
        for _ in range(50):
            assert keys.find("unknown") is None
        assert published.asked == 1
        clock.now += 10
        for number in range(50):
            assert keys.find(f"unknown-{number}") is None
        assert published.asked == 2

    def test_a_new_key_is_found_and_the_old_one_gone(self, keys, clock, published):
        old = published.platform.kid
        keys.find(old)
        new = published.platform.rotate("EdDSA")
        clock.now += 10
        assert keys.find(new).algorithm == "EdDSA"
        assert keys.find(old) is None

    def test_at_the_same_time_one_asks_and_the_others_wait_for_the_answer(self, clock):
        platform, entered, go = Platform("i", "a"), threading.Event(), threading.Event()
        asked = []

        def slow(url):
            asked.append(url)
            entered.set()
            go.wait(60)
            return platform.jwks()

        keys = JwksKeys("https://p", ALLOWED, fetch=slow, clock=clock)
        found = []
        threads = [threading.Thread(target=lambda: found.append(keys.find(platform.kid))) for _ in range(5)]
        threads[0].start()
        entered.wait(60)
        for thread in threads[1:]:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(60)
        assert len(asked) == 1
        assert [key.kid for key in found] == [platform.kid] * 5

    def test_no_id_is_no_question(self, keys, published):
        assert keys.find(None) is None
        assert published.asked == 0


class TestDown:
    ERRORS = (
        httpx.ConnectError("down"), httpx.ReadTimeout("slow"), ValueError("no JSON"), OSError("down"),
        ImportError("a proxy needs another package"),
    )  # fmt: skip

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_never_reached(self, keys, published, error):
        published.error = error
        with pytest.raises(KeysUnavailable, match="https://p"):
            keys.find("any")
        with pytest.raises(KeysUnavailable):
            keys.find("any")
        assert published.asked == 1, "no more often than otherwise"

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_known_keys_stay_for_a_time(self, keys, clock, published, error):
        kid = published.platform.kid
        keys.find(kid)
        published.error = error
        for _ in range(12):
            clock.now += 299
            assert keys.find(kid) is not None
        clock.now += 20
        with pytest.raises(KeysUnavailable):
            keys.find(kid)
        assert keys.at_hand(kid) is None
        published.error = None
        clock.now += 10
        assert keys.find(kid) is not None

    def test_while_it_is_down_only_one_in_ten_seconds_waits_for_it(self, keys, clock, published):
        kid = published.platform.kid
        keys.find(kid)
        published.error = OSError("down")
        clock.now += 300
        keys.find(kid)
        assert keys.at_hand(kid) is not None, "the next one goes on with the old key at once"
        clock.now += 10
        assert keys.at_hand(kid) is None

    def test_a_platform_that_is_silent_for_long_holds_up_nobody_whose_key_is_known(self, clock):
        """A question may take longer than the interval between two: it must not be due at once again."""
        platform, during = Platform("i", "a"), []

        def silent(_url):
            clock.now += 20
            during.append(keys.at_hand(platform.kid))
            raise OSError("timed out")

        keys = JwksKeys(
            "https://p", ALLOWED, fetch=lambda _url: platform.jwks(), min_interval=10, clock=clock
        )
        keys.find(platform.kid)
        keys._fetch = silent
        clock.now += 300
        assert keys.find(platform.kid) is not None
        assert keys.at_hand(platform.kid) is not None
        assert [key.kid for key in during] == [platform.kid]
        clock.now += 10
        assert keys.at_hand(platform.kid) is None, "somebody has to ask again"

    @pytest.mark.parametrize("headers", [True, False])
    def test_an_answer_that_does_not_end_is_given_up(self, monkeypatch, headers):
        """However often something comes, within what a single step may take."""
        only_the_whole_is_limited(monkeypatch)
        monkeypatch.setattr(module, "FETCH_SECONDS", 0.3)
        with serving(b" " * 10_000) as server:
            server.drip, server.dripping_headers = 0.01, headers
            keys = JwksKeys(server.url, ALLOWED)
            with pytest.raises(KeysUnavailable, match=r"has not ended its answer within 0\.3 s"):
                keys.find("any")

    @pytest.mark.parametrize(
        ("status", "body", "words"),
        [
            (500, b"{}", "the server answered with status 500"),
            (302, b"{}", "the server answered with status 302"),
            (200, b"<html>", "Expecting value"),
            (200, b" " * ((1 << 20) + 1), "the answer is longer than 1048576 bytes"),
        ],
    )
    def test_an_answer_that_is_none(self, monkeypatch, status, body, words):
        monkeypatch.setattr(module, "FETCH_SECONDS", 60.0)
        with serving(body) as server:
            server.status = status
            with pytest.raises(ValueError, match=words):
                fetch_jwks(server.url)


@pytest.mark.parametrize("listed", [[], [{"kty": "oct", "kid": "x"}]], ids=["none", "none-usable"])
def test_a_key_that_is_taken_back_is_gone_at_the_next_answer(keys, clock, published, caplog, listed):
    """No list of keys is an answer, too: else a stolen key would work for as long as a platform may be down."""
    kid = published.platform.kid
    keys.find(kid)
    published.platform.published[:] = listed
    clock.now += 300
    assert keys.find(kid) is None
    assert "no token is good" in caplog.text


def jwk(**changes):
    return {**Platform("i", "a").published[0], "kid": "one", **changes}


class TestWhichCount:
    def usable(self, *members, allowed=ALLOWED):
        answer = {"keys": [*members, jwk(kid="good")]}
        keys = JwksKeys("https://p", allowed, fetch=lambda _url: answer)
        assert keys.find("good") is not None, "one bad key does no harm to the others"
        return keys.find("one")

    def test_a_good_one(self):
        assert self.usable(jwk()).algorithm == "RS256"

    @pytest.mark.parametrize("changes", [
        {"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RS512"}, {"alg": "HS256"}, {"alg": "none"}, {"alg": 1},
        {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "oct"}, {"kty": "RSA", "n": "AQAB"}, {"n": "!"}, {"d": "AQAB"}, {"kid": ""},
        {"kid": 1}, {"kty": None}, {"kty": ["RSA"]},
    ])  # fmt: skip
    def test_one_that_no_token_may_be_verified_with(self, changes):
        assert self.usable(jwk(**changes)) is None

    def test_a_private_one_is_told(self, caplog):
        from jwt.algorithms import RSAAlgorithm

        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        member = {**RSAAlgorithm.to_jwk(private, as_dict=True), "kid": "one"}
        del member["key_ops"]
        assert self.usable(member) is None
        assert "'one' is published with its private part" in caplog.text
        assert member["d"] not in caplog.text

    @pytest.mark.parametrize("member", [None, 1, "x", [], {}, {"kid": "one"}])
    def test_what_is_no_key(self, member):
        assert self.usable(member) is None

    def test_two_of_the_same_id(self):
        assert self.usable(jwk(), jwk()) is None

    def test_one_that_is_too_short(self):
        from jwt.algorithms import RSAAlgorithm

        short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
        assert self.usable({**RSAAlgorithm.to_jwk(short, as_dict=True), "kid": "one"}) is None

    def test_with_an_algorithm_it_is_that_one(self):
        assert self.usable(jwk(alg="RS512"), jwk(kid="two"), allowed=ALGORITHMS).algorithm == "RS512"

    def test_without_an_algorithm_it_is_the_first_allowed_one_that_fits(self):
        member = jwk()
        del member["alg"]
        assert self.usable(member, allowed=("ES256", "PS256", "RS256")).algorithm == "PS256"

    def test_every_kind(self):
        for algorithm in ALLOWED:
            platform = Platform("i", "a", algorithm)
            keys = JwksKeys("https://p", ALLOWED, fetch=lambda _url, platform=platform: platform.jwks())
            assert keys.find(platform.kid).algorithm == algorithm

    @pytest.mark.parametrize("answer", [None, [], "x", {}, {"keys": None}, {"keys": {}}])
    def test_an_answer_without_a_list(self, answer):
        keys = JwksKeys("https://p", ALLOWED, fetch=lambda _url: answer)
        with pytest.raises(KeysUnavailable):
            keys.find("one")


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class TestPem:
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "platform.pem"

    def write(self, file, content, later):
        file.write_bytes(content)
        os.utime(file, (later, later))

    def test_it_is_read_again_when_it_changes(self, file):
        self.write(file, Platform("i", "a").public_pem(), 1)
        key = PemKey(file, ALLOWED)
        first = key.find("any")
        assert key.at_hand(None) is first
        self.write(file, Platform("i", "a", "ES256").public_pem(), 2)
        assert key.find("any").algorithm == "ES256"

    @pytest.mark.parametrize("content", [b"", b"no key", pem(rsa.generate_private_key(65537, 1024)),
        pem(ec.generate_private_key(ec.SECP256K1())), pem(dsa.generate_private_key(2048))],
        ids=["empty", "no key", "short", "another curve", "dsa"])  # fmt: skip
    def test_a_file_without_a_usable_key_leaves_none_in_force(self, file, content):
        self.write(file, Platform("i", "a").public_pem(), 1)
        key = PemKey(file, ALLOWED)
        key.read()
        self.write(file, content, 2)
        for _ in range(2):
            with pytest.raises(KeysUnavailable, match=r"platform\.pem"):
                key.find(None)

    def test_a_file_that_is_gone(self, file):
        with pytest.raises(KeysUnavailable, match=r"platform\.pem"):
            PemKey(file, ALLOWED).find(None)

    def test_a_private_key_is_refused_and_not_shown(self, file):
        private = rsa.generate_private_key(65537, 2048)
        text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.write(file, text, 1)
        with pytest.raises(ValueError, match="private key") as caught:
            PemKey(file, ALLOWED).read()
        assert text.splitlines()[1].decode() not in str(caught.value)

    def test_it_verifies_what_the_first_fitting_algorithm_has_signed(self, file):
        self.write(file, Platform("i", "a").public_pem(), 1)
        assert PemKey(file, ("ES256", "RS512", "RS256")).read().algorithm == "RS512"


def test_no_algorithm_has_a_shared_secret():
    assert not [name for name in ALGORITHMS if name.startswith("HS") or name.lower() == "none"]
