import asyncio
import glob
import json
import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from airflow.providers.standard.sensors.filesystem import FileSensor as StockFileSensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from astronomer.deferral import Hub, Pacing, Phase, Transient, watch
from astronomer.deferral.testing import FakeClock
from astronomer.providers.core.jobs import files
from astronomer.providers.core.jobs.files import FilePoller, FileWait, look
from tests.effort import examples

QUICK = Pacing(spacing=0.01, gather=0.0, backoff=0.01, max_backoff=0.02, linger=0.0)


def stock_says(wait):
    """What a poke of the stock sensor says, in the directory where a relative path begins."""
    return poked(wait)[0]


def poked(wait):
    """The same, with the lines that it logs."""
    sensor = StockFileSensor(task_id="stock", filepath=wait.path, recursive=wait.recursive)
    sensor.path = wait.path
    with working_in(wait.root or os.curdir), capture_logs() as lines:
        return sensor.poke({}), [line["event"] for line in lines]


@contextmanager
def working_in(directory):
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def found(waits):
    """Which of the waits have come true, each asked about with those at the same place."""
    places = {}
    for wait in waits:
        places.setdefault(wait.connection_key, []).append(wait)
    return {wait: status.done for some in places.values() for wait, status in look(some).items()}


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """The directories that were listed, in order; not those that making the temporary one has listed."""
    seen, scandir = [], os.scandir

    def noted(path=os.curdir):
        seen.append(os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    return seen


class Mount:
    """A directory that does not answer until it is let go."""

    def __init__(self, monkeypatch, path):
        self._monkeypatch = monkeypatch
        self.path = str(path)
        self.go_on = threading.Event()
        self.asked = 0
        scandir = os.scandir

        def hanging(path=os.curdir):
            if os.fspath(path) == self.path:
                self.asked += 1
                assert self.go_on.wait(60)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", hanging)

    def answer(self):
        """From now on, and to whoever is patient."""
        self._monkeypatch.setattr(files, "_PATIENCE", 30.0)
        self.go_on.set()

    def wait(self, pattern="*"):
        return FileWait(f"{self.path}/{pattern}")


@pytest.fixture
def mount(monkeypatch, tmp_path):
    """A mount that hangs, and pollers that notice it at once."""
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    monkeypatch.setattr(files, "_overdue", {})
    hung = Mount(monkeypatch, tmp_path / "mount")
    (tmp_path / "mount").mkdir()
    yield hung
    hung.go_on.set()
    until = time.monotonic() + 30
    while threads_that_look() and time.monotonic() < until:
        time.sleep(0.001)


async def until(true):
    """Real time passes: a thread that hangs would stop a virtual clock."""
    give_up = time.monotonic() + 60
    while not true():  # what happens in a thread is no event of the loop
        assert time.monotonic() < give_up, "waited too long"
        await asyncio.sleep(0.001)


def threads_that_look():
    return [one for one in threading.enumerate() if one.name.startswith(files.THREAD_NAME)]


# Trees and patterns that mean the same to the stock sensor and to us.

NAMES = st.sampled_from(
    ["a", "b", "ab", "A", ".a", ".b", "a.csv", "b.csv", "[a]", "*", "**", "é", "a b", "a\nb"]
)
LEAVES = st.sampled_from(["file", "to file", "to nothing", "to a full directory", "to an empty one", "pipe"])
TREES = st.recursive(
    LEAVES | st.just({}), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
PARTS = NAMES | st.sampled_from(
    [
        "*.csv", "?", "??", "[ab]", "[!a]", ".*", "*", "**", "a*", "*b", "**a", "", ".", "..", "[", "[a", "[b-a]",
        "[[]a]", "[*]", "[.]a", "no", ".?*", "*\n*", "*]",
    ]
)  # fmt: skip
PATHS = st.lists(PARTS, min_size=1, max_size=4).filter(lambda parts: parts.count("..") < 2).map("/".join)


def grow(path, tree, outside):
    if isinstance(tree, dict):
        path.mkdir()
        for name, inner in tree.items():
            grow(path / name, inner, outside)
    elif tree == "file":
        path.touch()
    elif tree == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside / tree)


@contextmanager
def grown(tree):
    with tempfile.TemporaryDirectory(dir=os.path.realpath(tempfile.gettempdir())) as folder:
        outside, top = Path(folder, "outside"), Path(folder, "t[o]p")
        grow(
            outside,
            {"to file": "file", "to a full directory": {"d": {".f": "file"}}, "to an empty one": {}},
            outside,
        )
        grow(top, tree if isinstance(tree, dict) else {"a": tree}, outside)
        yield top


@pytest.mark.parametrize("names_at_once", [0, 50])
class TestAgreesWithStock:
    @settings(
        max_examples=examples(150),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        tree=TREES,
        paths=st.lists(PATHS, min_size=1, max_size=6),
        recursive=st.booleans(),
        start=st.sampled_from(["as it is", "escaped", "relative"]),
    )
    def test_on_any_tree(self, monkeypatch, names_at_once, tree, paths, recursive, start):
        monkeypatch.setattr(files, "_NAMES_AT_ONCE", names_at_once)
        with grown(tree) as top:
            root = str(top) if start == "relative" else ""
            begins = {"as it is": f"{top}/", "escaped": f"{glob.escape(str(top))}/", "relative": ""}[start]
            waits = [FileWait(begins + path.lstrip("/"), recursive, root) for path in paths]
            assert found(waits) == {wait: stock_says(wait) for wait in waits}

    def test_on_what_many_get_wrong(self, monkeypatch, names_at_once, tmp_path):
        monkeypatch.setattr(files, "_NAMES_AT_ONCE", names_at_once)
        tree = {
            "a.csv": "file",
            ".hidden": {"f": "file"},
            "empty": {"deeper": {}},
            "full": {"deeper": {"f": "file"}},
            "only-a-pipe": {"p": "pipe"},
            "only-a-link": {"l": "to nothing"},
            "only-a-linked-directory": {"l": "to a full directory"},
            "dead": "to nothing",
            "file": "to file",
            "dir": "to a full directory",
            "none": "to an empty one",
            "pipe": "pipe",
        }
        patterns = [
            "",
            "*",
            "**",
            "**/",
            "**/*",
            "*/",
            "*.csv",
            "*.CSV",
            "a.csv/",
            ".*",
            ".h*",
            "*hidden",
            "?hidden",
        ]
        patterns += [f"{name}{tail}" for name in tree for tail in ("", "/", "/*", "/**", "*", "/.")]
        with grown(tree) as top:
            start = glob.escape(str(top))
            waits = [FileWait(f"{start}/{one}", recursive) for one in patterns for recursive in (False, True)]
            waits += [FileWait(one, recursive, str(top)) for one in patterns for recursive in (False, True)]
            waits += [FileWait(f"{top}/{one}") for one in tree]
            answers = found(waits)
            assert answers == {wait: stock_says(wait) for wait in waits}
            assert {True, False} <= set(answers.values())

    def test_on_what_is_forbidden(self, monkeypatch, names_at_once):
        monkeypatch.setattr(files, "_NAMES_AT_ONCE", names_at_once)
        with grown({"shut": {"f": "file"}, "unlisted": {"f": "file"}, "unnamed": {"f": "file"}}) as top:
            paths = [
                f"{one}{tail}"
                for one in ("shut", "unlisted", "unnamed")
                for tail in ("", "/", "/f", "/*", "/?")
            ]
            waits = [FileWait(f"{glob.escape(str(top))}/{path}") for path in [*paths, "*", "*/f", "**/f"]]
            waits += [FileWait(f"{top}/{path}") for path in ("shut", "shut/f", "unlisted/g")]
            for name, mode in (("shut", 0), ("unlisted", 0o111), ("unnamed", 0o444)):
                (top / name).chmod(mode)
            top.parent.chmod(0o755)
            with nobody():
                answers = found(waits)
                assert answers == {wait: stock_says(wait) for wait in waits}
            assert answers[waits[paths.index("unlisted/*")]] is False


@contextmanager
def nobody():
    """As a user to whom things can be forbidden."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


class TestLook:
    def test_says_what_the_stock_sensor_logs(self, tmp_path):
        (tmp_path / "a.csv").touch()
        os.utime(tmp_path / "a.csv", (1_700_000_000, 1_700_000_000.9))
        for path in ("a.csv", "*.csv"):
            wait = FileWait(f"{tmp_path}/{path}")
            (status,) = look([wait]).values()
            assert poked(wait) == (True, [f"Poking for file {wait.path}", status.raw])
            assert status.raw.startswith(f"Found File {tmp_path}/a.csv last modified: 202311")

    def test_says_which_directory(self, tmp_path):
        (tmp_path / "day" / "part").mkdir(parents=True)
        (tmp_path / "day" / "part" / "f").touch()
        (status,) = look([FileWait(f"{tmp_path}/d*")]).values()
        assert (status.phase, status.raw) == (Phase.SUCCEEDED, f"Found a file in {tmp_path}/day")

    @pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
    def test_a_name_that_is_no_text_can_be_told(self, tmp_path):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")).touch()
        (status,) = look([FileWait(f"{tmp_path}/*.csv")]).values()
        assert status.raw.encode().startswith(
            b"Found File " + os.fsencode(tmp_path) + rb"/caf\udce9.csv last"
        )

    def test_a_file_that_goes_while_it_is_looked_at_was_not_there(self, monkeypatch, tmp_path):
        (tmp_path / "a").touch()
        real = os.stat

        def gone(path, *arguments, **how):
            Path(path).unlink(missing_ok=True)
            return real(path, *arguments, **how)

        monkeypatch.setattr(files.os, "stat", gone)
        (status,) = look([FileWait(f"{tmp_path}/*")]).values()
        assert not status.done

    def test_many_names_and_patterns_are_one_listing(self, listed, tmp_path):
        (tmp_path / "b_7.csv").touch()
        waits = [FileWait(f"{tmp_path}/a_{number}.csv") for number in range(500)]
        waits += [FileWait(f"{tmp_path}/b_{number}*") for number in range(500)]
        assert [wait.path for wait, true in found(waits).items() if true] == [f"{tmp_path}/b_7*"]
        assert listed == [str(tmp_path)]

    def test_a_pattern_is_matched_with_what_begins_as_it_does(self, monkeypatch, tmp_path):
        matched, match = [], files.fnmatch.filter
        monkeypatch.setattr(
            files.fnmatch, "filter", lambda names, what: (matched.extend(names), match(names, what))[1]
        )
        for name in ("a_71", "b_6", "b_71", "b_72", "b_8", ".b_71"):
            (tmp_path / name).touch()
        assert all(found([FileWait(f"{tmp_path}/b_7?"), FileWait(f"{tmp_path}/.b_7[1]")]).values())
        assert not any(found([FileWait(f"{tmp_path}/c*")]).values())
        assert matched == ["b_71", "b_72", ".b_71"]

    def test_of_many_names_a_few_are_asked_for(self, monkeypatch, tmp_path):
        asked, iglob = [], glob.iglob
        monkeypatch.setattr(
            files.glob, "iglob", lambda path, **how: (asked.append(path), iglob(path, **how))[1]
        )
        look([FileWait(f"{tmp_path}/a_{number}.csv") for number in range(500)])
        assert len(asked) == 50

    def test_a_few_names_are_none(self, listed, tmp_path):
        look([FileWait(f"{tmp_path}/a_{number}.csv") for number in range(50)])
        assert listed == []

    def test_what_no_listing_shows_is_found_in_time(self, monkeypatch, tmp_path):
        waits = [FileWait(f"{tmp_path}/a_{number}") for number in range(200)]
        (tmp_path / "a_0").touch()
        monkeypatch.setattr(files._Listing, "paths", lambda *_: ())
        assert any(look(waits)[waits[0]].done for _ in range(200))

    def test_a_directory_is_walked_once_for_all_its_patterns(self, listed, tmp_path):
        (tmp_path / "empty").mkdir()
        found([FileWait(f"{tmp_path}/{pattern}") for pattern in ("e*", "em*", "*y", "*")])
        assert sorted(listed) == [str(tmp_path), f"{tmp_path}/empty"]


class TestFileWait:
    def test_waits_in_one_directory_share_a_connection(self):
        one = FileWait("/data/a.csv").connection_key
        assert one == FileWait("/data/*.csv").connection_key == FileWait("/data/**").connection_key
        assert one == FileWait("b", root="/data").connection_key.replace("/data/", "/data")

    @pytest.mark.parametrize("path", ["/data/*/a", "/data/a/", "/data/[a]/b", "/other/a"])
    def test_others_have_their_own(self, path):
        assert FileWait(path).connection_key != FileWait("/data/a").connection_key
        assert FileWait(path).connection_key == FileWait(path, recursive=True).connection_key

    def test_a_tree_is_another_place_than_the_directory(self):
        assert FileWait("/data/**", recursive=True).place == "/data/**"

    def test_is_plain_json(self):
        wait = FileWait("/data/*.csv", recursive=True, root="/home")
        assert FileWait.from_dict(json.loads(json.dumps(wait.to_dict()))) == wait

    def test_nobody_may_cancel_it(self):
        with pytest.raises(NotImplementedError):
            asyncio.run(FileWait("/data/a").cancel())
        assert FileWait.foreign

    def test_names_the_whole_path(self):
        assert FileWait("a/*.csv", root="/home").name == "file /home/a/*.csv"

    async def test_can_be_asked_by_itself(self, tmp_path):
        wait = FileWait(f"{tmp_path}/a")
        assert not (await wait.status()).done
        (tmp_path / "a").touch()
        assert (await wait.status()).done


class TestAHangingMount:
    async def test_is_bad_weather(self, mount):
        with pytest.raises(Transient, match=rf"{mount.path} could not be read within 0.05 s"):
            await mount.wait().status()

    async def test_stops_neither_the_loop_nor_other_directories(self, mount, tmp_path):
        hub, ticks = Hub(pacing=QUICK), 0
        waiting = asyncio.ensure_future(watch(mount.wait(), hub=hub))
        (tmp_path / "a").touch()
        other = asyncio.ensure_future(watch(FileWait(f"{tmp_path}/a*"), hub=hub))
        await until(lambda: mount.asked)
        while ticks < 50:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            assert time.monotonic() - before < 30
            ticks += 1
        assert mount.asked == 1
        assert (await other).status.done
        assert not waiting.done()
        (tmp_path / "mount" / "x").touch()
        mount.answer()
        assert (await asyncio.wait_for(waiting, 30)).status.phase is Phase.SUCCEEDED

    async def test_costs_one_thread_whoever_asks(self, mount):
        first, second = FilePoller(mount.path), FilePoller(mount.path)
        for _ in range(3):
            with pytest.raises(Transient, match="could not be read"):
                await first.poll([mount.wait()])
            await until(lambda: mount.asked)
        with pytest.raises(Transient, match="still being read"):
            await second.poll([mount.wait()])
        await first.close()
        for _ in range(3):
            with pytest.raises(Transient, match="still being read"):
                await mount.wait().status()
        assert mount.asked == len(threads_that_look()) == 1
        mount.answer()
        await until(lambda: not threads_that_look())
        assert not (await second.poll([mount.wait()]))[mount.wait()].done

    async def test_leaves_nothing_to_wait_for_when_the_poller_is_closed(self, mount):
        with pytest.raises(Transient):
            await mount.wait().status()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 30)

    async def test_that_comes_back_answers_with_the_look_it_kept(self, mount, tmp_path):
        poller, early, late = FilePoller(mount.path), mount.wait("x*"), mount.wait("y*")
        (tmp_path / "mount" / "x1").touch()
        with pytest.raises(Transient):
            await poller.poll([early])
        mount.answer()
        answers = await poller.poll([early, late])
        assert answers[early].done
        assert late not in answers
        assert poller.look_again
        assert mount.asked == 1
        assert not (await poller.poll([early, late]))[late].done
        assert not poller.look_again

    async def test_loses_the_wait_after_the_tolerance(self, mount):
        outcome = await watch(mount.wait(), hub=Hub(pacing=QUICK), outage_tolerance=0.3)
        assert outcome.status.phase is Phase.LOST
        assert f"{mount.path} could not be read" in outcome.status.message

    async def test_gives_its_turn_away(self, mount, monkeypatch, tmp_path):
        monkeypatch.setattr(files, "_LOOKS_AT_ONCE", 1)
        monkeypatch.setattr(files, "_TURN", 0.2)
        began = time.monotonic()
        hung = asyncio.ensure_future(FilePoller(mount.path).poll([mount.wait()]))
        await until(lambda: mount.asked)
        monkeypatch.setattr(files, "_PATIENCE", 30.0)
        await FileWait(f"{tmp_path}/a*").status()
        assert time.monotonic() - began > 0.1
        with suppress(Transient):
            await hung

    async def test_one_that_never_had_its_turn_is_not_in_the_way(self, mount, monkeypatch, tmp_path):
        monkeypatch.setattr(files, "_LOOKS_AT_ONCE", 1)
        monkeypatch.setattr(files, "_TURN", 600.0)
        hung = asyncio.ensure_future(FilePoller(mount.path).poll([mount.wait()]))
        await until(lambda: mount.asked)
        queued = FileWait(f"{tmp_path}/a*")
        with pytest.raises(Transient, match="could not be read"):
            await queued.status()
        mount.answer()
        await asyncio.wait({hung})
        assert not (await queued.status()).done
        with suppress(Transient):
            hung.result()


class TestManyDirectories:
    async def test_are_looked_at_a_few_at_once(self, monkeypatch, tmp_path):
        monkeypatch.setattr(files, "_TURN", 600.0)
        lock, two, running, seen = threading.Lock(), threading.Barrier(2), 0, []

        def slow(waits):
            nonlocal running
            with lock:
                running += 1
                seen.append(running)
            two.wait(60)
            time.sleep(0.002)  # so that more of them than may be would be seen
            with lock:
                running -= 1
            return dict.fromkeys(waits, files._NOT_THERE)

        monkeypatch.setattr(files, "look", slow)
        await asyncio.gather(*(FileWait(f"{tmp_path}/{number}/*").status() for number in range(100)))
        assert len(seen) == 100
        assert max(seen) <= files._LOOKS_AT_ONCE


class TestRest:
    def test_a_long_look_is_followed_by_a_rest(self, monkeypatch, tmp_path):
        async def slow(self, call):
            await asyncio.sleep(20)
            return call()

        monkeypatch.setattr(files.ClientThreads, "run", slow)
        poller, wait = FilePoller(str(tmp_path)), FileWait(f"{tmp_path}/a")

        async def main():
            await poller.poll([wait])
            return poller.least_interval

        assert FakeClock().run(main) == pytest.approx(40)


class TestDefects:
    async def test_of_one_look_do_not_outlive_it(self, monkeypatch, tmp_path):
        poller, wait, real = FilePoller(str(tmp_path)), FileWait(f"{tmp_path}/a"), look
        monkeypatch.setattr(files, "look", lambda waits: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await poller.poll([wait])
        monkeypatch.setattr(files, "look", real)
        assert not (await poller.poll([wait]))[wait].done

    def test_a_socket_is_no_file(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as one, working_in(tmp_path):
            one.bind("s")
            wait = FileWait("s", root=str(tmp_path))
            assert found([wait]) == {wait: stock_says(wait)} == {wait: False}

    def test_a_newer_release_may_have_stored_more(self):
        assert FileWait.from_dict({"path": "/a", "since": 3}) == replace(FileWait("/b"), path="/a")
