"""`python -m tools.soak` in its smallest form: a real triggerer, sixty waits, half a minute."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.integration.driving import until_now
from tools.leftovers import VARIABLE, tagged
from tools.soak.plan import FAMILIES

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tools.soak", "--waits", "60"]
STARTS = "Starting the triggerer"
GENEROUS = 100.0

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("soak")]


@pytest.fixture
def tag():
    """What every process of a soak inherits."""
    return uuid.uuid4().hex


def start(tag, *options):
    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        env={**os.environ, VARIABLE: tag},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(tag):
    """What still runs a moment later."""
    give_up = time.monotonic() + 10
    while (found := list(tagged(tag))) and time.monotonic() < give_up:
        time.sleep(0.2)
    return found


def test_sixty_waits_for_half_a_minute(tmp_path, tag):
    path = tmp_path / "soak.json"
    with start(tag, "--minutes", "0.5", "--json", str(path)) as soak:
        said, _ = soak.communicate(timeout=250)
    assert soak.returncode == 0, said
    assert "Nothing grew, and nothing was lost." in said
    found = json.loads(path.read_text())
    assert found["ok"]
    assert found["waits"].keys() == FAMILIES.keys()
    assert all(one["right"] for one in found["waits"].values())
    assert found["ended"] >= 60
    assert len(found["weather"]) == 4
    assert len(found["samples"]) >= 15
    assert {one["waiting"] for one in found["samples"]} == {60}, "each that ends is followed by another"
    assert all(one["runner"]["memory"] > 50 for one in found["samples"])
    assert sum(sum(one["requests"].values()) for one in found["samples"]) > 30
    assert left(tag) == []


def test_an_interrupted_soak_leaves_nothing_running(tmp_path, tag):
    with start(tag, "--json", str(tmp_path / "soak.json")) as soak:
        lines = []
        for line in soak.stdout:
            lines.append(line)
            if STARTS in line:
                break
        # The local services, the triggerer, which has just been started, and perhaps a database.
        until_now(lambda: len(list(tagged(tag))) >= 3)
        soak.send_signal(signal.SIGINT)
        said, _ = soak.communicate(timeout=GENEROUS)
    assert soak.returncode == 128 + signal.SIGINT, "".join(lines) + said
    assert "Nothing is left running." in said
    assert left(tag) == []


def test_a_database_file_is_enough_for_few_waits_only(tmp_path, tag):
    code = (
        "from tools.servers import postgres; postgres.binaries = lambda: None; "
        "from tools.soak.__main__ import main; raise SystemExit(main(['--waits', '1000']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, VARIABLE: tag},
        capture_output=True,
        text=True,
        timeout=GENEROUS,
        check=False,
    )
    assert done.returncode == 1
    assert "need PostgreSQL" in done.stdout
