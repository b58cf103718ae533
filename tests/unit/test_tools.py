"""The two commands rest on tools/: which Python, when to make an environment anew, how to stop."""

import ast
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tools import bootstrap, commands, hygiene, leftovers, lock, run
from tools.demo.environment import Places, base_environment
from tools.image import engine

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def ended(pid):
    """Whether a process has ended, were it only for its parent to take note."""
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


class TestWhichPython:
    def test_any_python_can_read_the_entry(self):
        newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.AsyncFunctionDef, ast.Nonlocal)
        tree = ast.parse((ROOT / "tools" / "run.py").read_text())
        assert not [node.lineno for node in ast.walk(tree) if isinstance(node, newer)]
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert not [function.name for function in functions if function.returns or function.args.kwonlyargs]

    @pytest.mark.parametrize(
        ("version", "lacks", "why"),
        [
            ((3, 9, 18), [], "needs 3.10 to 3.13"),
            ((3, 14, 0), [], "needs 3.10 to 3.13"),
            ((2, 7, 18), [], "needs 3.10 to 3.13"),
            ((3, 11, 2), ["ensurepip"], "lacks ensurepip (on Debian and Ubuntu: install python3.11-venv)"),
            ((3, 10, 0), [], None),
            ((3, 13, 9), [], None),
        ],
    )
    def test_objection(self, version, lacks, why):
        assert run.objection(version, lacks) == why

    def test_this_one_will_do(self):
        assert run.probe(sys.executable) == (sys.version_info[:3], [])
        assert run.choose(None) == sys.executable

    def test_a_clear_error_names_what_was_found(self, tmp_path, capsys):
        old = tmp_path / "python3.8"
        old.write_text("#!/bin/sh\necho 3.8.10\n")
        old.chmod(0o755)
        with pytest.raises(SystemExit) as stop:
            run.choose(str(old))
        assert stop.value.code == 2
        assert f"{old} (3.8.10): needs 3.10 to 3.13" in capsys.readouterr().err

    def test_a_missing_one_is_named(self, capsys):
        with pytest.raises(SystemExit):
            run.choose("/nowhere/python3")
        assert "/nowhere/python3 (?): does not start" in capsys.readouterr().err


class TestWhenToRenew:
    @pytest.fixture
    def venv(self, tmp_path):
        """A folder that passes for an environment: its Python is this one."""
        (tmp_path / "bin").mkdir()
        python = tmp_path / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return tmp_path

    @pytest.fixture
    def want(self):
        return bootstrap.Stamp.wanted(ROOT / "constraints" / "airflow-3.3.txt")

    def test_made_when_missing(self, tmp_path, want):
        assert bootstrap._renewal_reason(tmp_path / "none", want, None) == "it does not exist yet"

    def test_kept_when_nothing_changed(self, venv, want):
        replace(want, extras=("demo",)).write(venv)
        assert bootstrap._renewal_reason(venv, want, bootstrap.Stamp.read(venv)) is None

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"root": "/elsewhere"}, "the checkout moved here from /elsewhere"),
            ({"inputs": "0"}, "the requirements have changed"),
            ({"extras": ()}, "the last installation did not finish"),
        ],
    )
    def test_made_anew(self, venv, want, changed, reason):
        have = replace(want, **{"extras": ("demo",), **changed})
        assert bootstrap._renewal_reason(venv, want, have) == reason

    def test_another_python_matters_only_when_it_was_asked_for(self, venv, want, monkeypatch):
        have = replace(want, extras=("demo",), python="Python 3.10.1 at /x")
        monkeypatch.delenv("PYTHON", raising=False)
        assert bootstrap._renewal_reason(venv, want, have) is None
        monkeypatch.setenv("PYTHON", "python3")
        assert bootstrap._renewal_reason(venv, want, have) == "it was made by Python 3.10.1 at /x"

    def test_broken_is_made_anew(self, venv, want):
        (venv / "bin" / "python").unlink()
        have = replace(want, extras=("demo",))
        assert bootstrap._renewal_reason(venv, want, have) == "the last installation did not finish"

    def test_one_that_is_not_ours_is_left_alone(self, venv, want):
        with pytest.raises(bootstrap.SetupError, match="was not made by this Makefile"):
            bootstrap._renewal_reason(venv, want, None)

    def test_a_lint_rule_does_not_change_the_fingerprint(self, tmp_path, monkeypatch):
        constraints = tmp_path / "c.txt"
        constraints.write_text("a==1\n")
        monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
        prints = []
        for text in ("[project]\nx = 1\n", "[project]\nx = 1\n[tool.ruff]\ny = 1\n", "[project]\nx = 2\n"):
            (tmp_path / "pyproject.toml").write_text(text)
            prints.append(bootstrap._fingerprint(constraints))
        assert prints[0] == prints[1] != prints[2]


def test_progress_of_an_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap.PipProgress, "seconds", 7.0)
    progress = bootstrap.PipProgress(tmp_path)
    for line in (
        "Collecting apache-airflow==3.3.2 (from -c constraints.txt (line 14))\n",
        "  Downloading duckdb-2.0.0-cp311.whl (21.5 MB)\n",
        "  Downloading idna-3.20.whl (500 kB)\n",
    ):
        progress.feed(line)
    assert str(progress) == "  1 packages found, 22 MB downloaded, 7 s"
    progress.feed("Installing collected packages: a, b, c\n")
    (tmp_path / "lib/python3.11/site-packages/a-1.dist-info").mkdir(parents=True)
    assert str(progress) == "  1 of 3 packages installed, 7 s"


def test_a_failed_installation_shows_the_end_of_its_log(tmp_path):
    log = tmp_path / "install.log"
    code, _ = bootstrap._watched(
        [sys.executable, "-c", "print('no such package'); raise SystemExit(3)"], log, tmp_path
    )
    assert (code, log.read_text()) == (3, "no such package\n")


def test_the_status_line_is_quiet_in_a_log(capsys):
    out = io.StringIO()
    line = bootstrap.StatusLine(out)
    line.show("too soon")
    line.due = 0
    line.show("now")
    line.clear()
    assert out.getvalue() == "now\n"


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("a==1", "a==1"),
        (
            "a==1 ; python_full_version < '3.14' and (sys_platform == 'darwin' or sys_platform == 'linux')",
            "a==1",
        ),
        (
            "a==1 ; python_full_version >= '3.11' and python_full_version < '3.14' and platform_machine == 'x'",
            "a==1 ; python_full_version >= '3.11' and platform_machine == 'x'",
        ),
    ],
)
def test_a_lock_says_only_what_matters(line, short):
    assert lock._shortened(line) == short


@pytest.mark.parametrize("airflow", commands.AIRFLOWS)
def test_a_lock_is_for_everyone(airflow):
    text = (ROOT / "constraints" / f"airflow-{airflow}.txt").read_text()
    pins = [line for line in text.splitlines() if not line.startswith("#")]
    assert [pin for pin in pins if pin.startswith(f"apache-airflow=={airflow}.")]
    assert not [pin for pin in pins if "==" not in pin or "://" in pin or "@" in pin or "'3.14'" in pin]


class TestSteps:
    def test_all_run_and_one_failure_fails(self, capfd):
        ok, bad = [sys.executable, "-c", "print('here')"], [sys.executable, "-c", "raise SystemExit(4)"]
        assert commands.run_steps([commands.Step("first", bad), commands.Step("second", ok)]) == 1
        out = capfd.readouterr().out
        assert out.index("1/2 first") < out.index("2/2 second") < out.index("here") < out.index("FAILED")
        assert "1 failed" in out

    def test_an_unknown_command_is_refused(self, capsys):
        assert commands.main(["tset"]) == 2
        captured = capsys.readouterr()
        assert "Unknown command: tset" in captured.err
        assert "make test" in captured.out

    def test_every_command_is_a_target(self):
        names = next(
            line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("COMMANDS")
        )
        assert names.partition(":= ")[2].split() == list(commands.COMMANDS)

    def test_a_child_is_told_to_stop_and_waited_for(self, tmp_path):
        """SIGTERM reaches the command alone; its child must get the chance to clean up."""
        child = (
            "import pathlib, sys, time\n"
            "try: print('up', flush=True); time.sleep(60)\n"
            f"except KeyboardInterrupt: pathlib.Path({str(tmp_path / 'clean')!r}).touch()\n"
        )
        program = (
            "import signal, sys; from tools import commands\n"
            "signal.signal(signal.SIGTERM, commands._terminate)\n"
            f"commands.run_steps([commands.Step('x', [sys.executable, '-c', {child!r}])])\n"
        )
        command = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with command:
            assert command.stdout is not None
            while command.stdout.readline() != "up\n":
                pass
            command.send_signal(signal.SIGTERM)
            assert command.wait(timeout=30) != 0
        assert (tmp_path / "clean").exists()


class TestClean:
    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch):
        monkeypatch.setattr(commands, "ROOT", tmp_path)
        for name in (".venv-3.1/bin", ".demo", ".chaos", "docs/_build", "astronomer"):
            (tmp_path / name).mkdir(parents=True)
        for name in (".coverage", ".demo/lock", "pyproject.toml"):
            (tmp_path / name).touch()
        before = signal.getsignal(signal.SIGTERM)
        yield tmp_path
        signal.signal(signal.SIGTERM, before)

    def test_what_the_commands_made_goes(self, checkout):
        assert commands.clean() == 0
        assert sorted(path.name for path in checkout.iterdir()) == ["astronomer", "docs", "pyproject.toml"]

    def test_what_buildah_has_mounted_is_unmounted_deepest_first(self, checkout, monkeypatch):
        (inner := checkout / ".image" / "store" / "over lay").mkdir(parents=True)
        mounts, program = checkout / "mounts", checkout / "bin" / "umount"
        places = [inner.parent, inner, "/", f"{checkout}/.image2"]
        lines = [f"overlay {str(one).replace(' ', chr(92) + '040')} overlay rw 0 0\n" for one in places]
        mounts.write_text("".join(lines))
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$1" >> {checkout}/unmounted\n')
        program.chmod(0o755)
        monkeypatch.setattr(engine, "MOUNTS", mounts)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        assert commands.clean() == 0
        assert (checkout / "unmounted").read_text().splitlines() == [str(inner), str(inner.parent)]
        assert not (checkout / ".image").exists()

    @pytest.mark.parametrize(
        ("state", "what"), [(".demo", "demo"), (".chaos", "fault certificate's campaign")]
    )
    def test_but_not_under_what_runs(self, checkout, capsys, state, what):
        with (checkout / state / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert commands.main(["clean"]) == 1
        assert f"A {what} runs in this checkout" in capsys.readouterr().err
        assert (checkout / ".venv-3.1").exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
class TestLeftovers:
    def test_a_tagged_process_is_found_and_ended(self, capsys):
        sleeper = subprocess.Popen(SLEEPER, env={**os.environ, leftovers.VARIABLE: "test-tag"})
        with sleeper:
            while not list(leftovers.tagged("test-tag")):
                time.sleep(0.01)
            assert leftovers.main("test-tag", patience=0) == 1
            assert sleeper.wait(timeout=60) == -signal.SIGKILL
        assert f"left running: {sleeper.pid}" in capsys.readouterr().err

    def test_one_that_ends_meanwhile_hides_no_other(self, monkeypatch):
        sleeper = subprocess.Popen(SLEEPER)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        found = [(gone.pid, "gone"), (sleeper.pid, "sleeper")]
        monkeypatch.setattr(leftovers, "tagged", lambda tag, variable: found)
        with sleeper:
            assert leftovers.main("test-tag", patience=0) == 1
            assert sleeper.wait(timeout=60) == -signal.SIGKILL

    @pytest.mark.parametrize("mark", [leftovers.VARIABLE, leftovers.COMMAND])
    def test_what_the_demo_starts_bears_the_marks(self, monkeypatch, tmp_path, mark):
        monkeypatch.setenv(mark, "test-tag")
        assert base_environment(Places(tmp_path))[mark] == "test-tag"

    def test_nothing_left_is_success(self):
        assert leftovers.main("no-such-tag", patience=0) == 0

    def test_what_a_command_has_left_when_it_is_interrupted_is_ended(self):
        left = f"subprocess.Popen([sys.executable, '-c', {SLEEPER[-1]!r}], start_new_session=True).pid"
        child = f"import subprocess, sys, time; print({left}, flush=True); time.sleep(600)"
        program = f"import sys; from tools import commands; commands._run([sys.executable, '-c', {child!r}])"
        environment = {**os.environ, leftovers.VARIABLE: "a-whole-run"}
        beside = subprocess.Popen(SLEEPER, env=environment)
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as running:
            pid = int(running.stdout.readline())
            os.killpg(running.pid, signal.SIGINT)
            _, errors = running.communicate(timeout=60)
        assert f"left running: {pid}".encode() in errors
        assert ended(pid)
        assert beside.poll() is None
        beside.kill()
        beside.wait()


class TestHygiene:
    def test_mends(self, tmp_path, capsys):
        file = tmp_path / "a.txt"
        file.write_bytes(b"one  \r\ntwo\n\n\n")
        assert hygiene.main([str(file)]) == 1
        assert file.read_bytes() == b"one\ntwo\n"
        assert hygiene.main([str(file)]) == 0
        assert capsys.readouterr().out == f"{file}: blanks or file end mended\n"

    def test_refuses_conflicts(self, tmp_path):
        file = tmp_path / "a.py"
        file.write_text("<" * 7 + " ours\n")
        assert hygiene.complaint(file) == "has conflict marks"

    def test_leaves_binaries(self, tmp_path):
        file = tmp_path / "a.bin"
        file.write_bytes(b"\0 \n\n")
        assert hygiene.complaint(file) is None


@pytest.mark.xdist_group("of-one-worker")
@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ, reason="one process has no workers to choose from"
)
def test_what_shares_a_server_is_run_by_one_worker(request):
    assert request.node.nodeid.endswith("@of-one-worker"), "xdist_group is ignored: servers start many times"


def test_ci_runs_both_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("timed test") < script.index("timed demo SHORT=1")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert json.dumps(leftovers.VARIABLE).strip('"') in script
