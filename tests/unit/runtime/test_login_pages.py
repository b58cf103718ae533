"""The address to go on to after a login is always one of this Airflow."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("airflow.models.revoked_token", reason="an earlier Airflow has no revoked tokens")

from astronomer.runtime.login import safe_next

BASE = "https://airflow.example"
UNDER = "https://airflow.example/team/a"


@pytest.mark.parametrize(("target", "wanted"), [
    (None, f"{BASE}/"), ("", f"{BASE}/"), ("/", f"{BASE}/"), ("/dags/x?a=1&b=2#c", f"{BASE}/dags/x?a=1&b=2#c"),
    (f"{BASE}/dags/x", f"{BASE}/dags/x"), (BASE, f"{BASE}/"),
])  # fmt: skip
def test_a_page_of_ours(target, wanted):
    assert safe_next(target, BASE) == wanted


def test_below_a_path():
    assert safe_next("/team/a/dags", UNDER) == f"{UNDER}/dags"
    assert safe_next(f"{UNDER}/dags", UNDER) == f"{UNDER}/dags"
    for other in ("/team/ab", "/team/b", "/team/a/../b", "/team/a/%2e%2e/b", "/"):
        assert safe_next(other, UNDER) == f"{UNDER}/"


@pytest.mark.parametrize("target", [
    "https://airflow.example.evil.example/", "https://airflow.example@evil.example/", "http://airflow.example/", "https://airflow.example:444/",
    "//evil.example", "https:evil.example", "https:///evil.example", "dags", "/\\evil.example", "/x\ny", "/x y", "/\u2028",
    "https://[", "javascript:alert(1)",
])  # fmt: skip
def test_anything_else_is_the_home_page(target):
    assert safe_next(target, BASE) == f"{BASE}/"


@given(st.text(alphabet="/\\:.@%?#hevil[]025fe\t ", max_size=30) | st.text(max_size=30))
def test_whatever_it_is_it_stays_here(target):
    parts = urlsplit(safe_next(target, BASE))
    assert (parts.scheme, parts.netloc) == ("https", "airflow.example")
    assert parts.path.startswith("/")
    assert not parts.path.startswith("//")
