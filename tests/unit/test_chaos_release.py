"""A new version counts as deployed only once each program that was started for it has loaded it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.chaos.faults import people
from tools.chaos.hits import Hits
from tools.chaos.release import Release
from tools.demo.backend import SCHEDULER, TRIGGERER

ROOT = Path(__file__).resolve().parents[2]
BOTH = "import astronomer.lab, astronomer.deferral"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release.new(ROOT, tmp_path_factory.mktemp("release"))


@pytest.fixture
def start(tmp_path):
    """Start a Python that imports packages, and return it when it has done so."""
    started = []

    def start(code, path, cwd=tmp_path):
        command = [sys.executable, "-c", f"{code}; print('done', flush=True); input()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=cwd, env={"PYTHONPATH": str(path)}, **pipes)
        started.append(process)
        assert process.stdout.readline() == "done\n"
        return process

    yield start
    for process in started:
        process.communicate("\n", timeout=30)


def world(**processes):
    """Programs, each a process that runs."""
    names = {TRIGGERER: [one for one in processes if one != SCHEDULER], SCHEDULER: [SCHEDULER]}
    parts = {name: part for part, some in names.items() for name in some}
    return SimpleNamespace(
        names=lambda part: names.get(part, []),
        program=lambda name: processes[name] and SimpleNamespace(process=processes[name]),
        services=SimpleNamespace(first=SimpleNamespace(parts=parts)),
    )


class TestRelease:
    def test_says_who_has_loaded_it(self, release, start):
        process = start("import astronomer.lab", release.folder)
        assert release.loaded(process.pid, "lab")
        assert not release.loaded(process.pid, "deferral")

    def test_is_not_loaded_from_a_checkout(self, release, start):
        """`python -m` and `python -c` look in the current directory before they look anywhere else."""
        process = start(BOTH, release.folder, cwd=ROOT)
        assert not release.loaded(process.pid, "lab")

    def test_that_keeps_its_number_is_not_loaded(self, release, start, tmp_path):
        (tmp_path / "astronomer").symlink_to(release.folder / "astronomer")
        process = start("import astronomer.lab", tmp_path)
        assert not release.loaded(process.pid, "lab")

    def test_names_each_program_that_has_not_loaded_it(self, release, start):
        new, old = start(BOTH, release.folder), start(BOTH, ROOT)
        assert release.missing(world(triggerer=new, scheduler=new)) == []
        assert release.missing(world(triggerer=new, second=old, scheduler=new)) == ["second"]
        assert release.missing(world(triggerer=new, second=None, scheduler=new)) == ["second"]

    def test_a_triggerer_has_loaded_it_when_it_runs_triggers(self, release, start):
        waiting = start("import astronomer.lab", release.folder)
        assert release.missing(world(triggerer=waiting, scheduler=waiting)) == ["triggerer"]


class Programs:
    """Parts that are started with the variables of their moment, and load a release by these or not at all."""

    def __init__(self, *, load):
        self.load, self.path, self.paths, self.notes = load, "checkout", [], []
        self.places = SimpleNamespace(root=ROOT)
        self.services = SimpleNamespace(first=self)
        self.environment = {"PYTHONPATH": self.path}

    def change(self, more):
        self.path = more["PYTHONPATH"]

    def names(self, part):
        return [TRIGGERER] if part == TRIGGERER else []

    def end(self, _name, _number):
        self.paths.append(self.path)

    def tend(self):
        """It has come back already."""

    def until(self, condition, _seconds):
        return condition()

    def note(self, what):
        self.notes.append(what)


class TestDeploy:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(people.time, "sleep", lambda _seconds: None)
        monkeypatch.setattr(Release, "missing", lambda _release, world: [] if world.load else [TRIGGERER])

    @pytest.mark.parametrize(
        ("load", "wanted", "note"),
        [
            (True, 7, "a new version deployed while 7 tasks waited"),
            (False, 7, f"no new version in {TRIGGERER}"),
            (True, 8, "only 7 tasks waited for a new version"),
        ],
        ids=["deployed", "not loaded", "too few wait"],
    )
    def test_counts_only_what_was_deployed_under_as_many_as_should_wait(self, load, wanted, note):
        programs = Programs(load=load)
        waits = {number: SimpleNamespace(side="ours", state="deferred") for number in range(7)}
        settled = {"until_deferred": lambda _seconds: len(waits), "settle": lambda _seconds: None}
        conf = {"tasks": wanted}
        scene = SimpleNamespace(world=programs, waits=waits, hits=Hits(), conf=conf, **settled)
        people.deploy(scene, 0)
        assert scene.hits.total()["ours"] == (7 if "deployed while" in note else 0)
        assert programs.notes == [note]
        new, old = programs.paths
        assert "astronomer-release-" in new
        assert old == "checkout"
