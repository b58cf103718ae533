"""Every endpoint of a whole API server with every role, and without any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.runtime.endpoints import ADMIN, EDITOR, NOBODY, STRANGER, VIEWER
from tools.demo.environment import KEPT

ROOT = Path(__file__).resolve().parents[3]
ROLES = ("None", "viewer", "editor", "admin")
LEAST = dict(zip((*ROLES, "nobody"), (STRANGER, VIEWER, EDITOR, ADMIN, NOBODY), strict=True))
LISTED = {endpoint: least for least, text in LEAST.items() for endpoint in text.strip().splitlines()}
EXPANDED = {
    f"{method} {line.split(' ')[-1]}": least
    for line, least in LISTED.items()
    for method in line.split(" ")[:-1]
}
REFUSED = {401, 403}

pytestmark = [
    pytest.mark.xdist_group("runtime-matrix"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Endpoint -> role -> status."""
    told = tmp_path_factory.mktemp("matrix") / "answers.json"
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    program = [sys.executable, "-W", "ignore", "-m", "tests.integration.runtime.matrix_program", str(told)]
    done = subprocess.run(
        program, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert told.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(told.read_text())


def test_every_endpoint_has_a_least_role(answers):
    assert sorted(answers) == sorted(EXPANDED), (
        "classify what is new in endpoints.py, and take out what is gone"
    )


@pytest.mark.parametrize("endpoint", sorted(EXPANDED))
def test_who_is_below_the_least_role_is_refused_and_nobody_else(answers, endpoint):
    least = (*ROLES, "nobody").index(EXPANDED[endpoint])
    for rank, role in enumerate(ROLES):
        status = answers[endpoint][role]
        if rank >= least:
            assert status not in REFUSED, f"{role} may: {status}"
            assert status < 500, f"{role}: {status}"
        elif role == "None" and endpoint != "POST /auth/callback":
            assert status == 401
        else:
            assert status == 403, f"{role} may not: {status}"


def test_the_requests_were_good_enough_to_mean_something(answers):
    """Most are answered, not found to be wrong."""
    admin = [statuses["admin"] for statuses in answers.values()]
    assert sum(status < 400 for status in admin) > len(admin) / 2
    assert sum(status == 422 for status in admin) < len(admin) / 12
