"""Make a virtual environment that matches this checkout, and say what is going on meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, ClassVar

ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """Tell the person at the terminal, apart from what a program prints for others to read."""
    print(text, file=sys.stderr, flush=True)


class SetupError(Exception):
    """The environment could not be made; the message says what to do."""


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; one that differs is made anew."""

    root: str
    python: str
    inputs: str
    extras: tuple[str, ...] = ()

    @classmethod
    def wanted(cls, constraints: Path) -> Stamp:
        base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        version = ".".join(map(str, sys.version_info[:3]))
        return cls(str(ROOT), f"Python {version} at {base}", _fingerprint(constraints))

    @classmethod
    def read(cls, venv: Path) -> Stamp | None:
        try:
            data = json.loads((venv / "stamp.json").read_text())
            return cls(data["root"], data["python"], data["inputs"], tuple(data["extras"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, venv: Path) -> None:
        (venv / "stamp.json").write_text(json.dumps(asdict(self), indent=1) + "\n")


def ensure(name: str, *, constraints: Path, extra: str, contained: tuple[str, ...] = ()) -> Path:
    """Return the Python of the environment `name`, made, renewed or extended as needed."""
    venv = ROOT / name
    with _locked(ROOT / f"{name}.lock"):
        want, have = Stamp.wanted(constraints), Stamp.read(venv)
        if reason := _renewal_reason(venv, want, have):
            _create(venv, want, reason)
            have = want
        assert have is not None  # noqa: S101 - _renewal_reason answers for it
        if extra not in have.extras:
            extras = tuple(sorted({*have.extras, *contained, extra}))
            _install(venv, constraints, extras, what=extra, fresh=not have.extras)
            Stamp(want.root, want.python, want.inputs, extras).write(venv)
    return venv / "bin" / "python"


def child_env() -> dict[str, str]:
    """Return this environment without what would mix another Python's packages into a child."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "PYTHON", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _fingerprint(constraints: Path) -> str:
    """Hash what decides the content of an environment: a changed lint rule does not."""
    keep = False
    lines = []
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.startswith("["):
            keep = line.startswith(("[build-system", "[project", "[tool.setuptools"))
        if keep and line.strip():
            lines.append(line)
    text = "\n".join([*lines, constraints.read_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _renewal_reason(venv: Path, want: Stamp, have: Stamp | None) -> str | None:
    """Say why the environment must be made anew; None keeps it. Never touches one that is not ours."""
    if not venv.exists():
        return "it does not exist yet"
    if have is None:
        raise SetupError(
            f"{venv.name} was not made by this Makefile. Move it away or remove it, and try again."
        )
    if have.root != want.root:
        return f"the checkout moved here from {have.root}"
    if have.python != want.python and os.environ.get("PYTHON"):
        return f"it was made by {have.python}"
    if have.inputs != want.inputs:
        return "the requirements have changed"
    if not have.extras or not _works(venv):
        return "the last installation did not finish"
    return None


def _works(venv: Path) -> bool:
    probe: list[str | Path] = [venv / "bin" / "python", "-c", "import astronomer.providers.package"]
    try:
        done = subprocess.run(probe, capture_output=True, timeout=60, env=child_env(), cwd="/", check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _create(venv: Path, stamp: Stamp, reason: str) -> None:
    python, _, where = stamp.python.partition(" at ")
    say(f"Creating {venv.name} with {python} ({where}): {reason}.")
    if venv.exists():
        shutil.rmtree(venv)
    venv.mkdir()
    stamp.write(venv)
    done = subprocess.run(
        [sys.executable, "-m", "venv", venv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetupError(f"{python} could not create {venv.name}:\n{done.stdout.strip()}")


def _install(venv: Path, constraints: Path, extras: tuple[str, ...], *, what: str, fresh: bool) -> None:
    wait = ", one to four minutes the first time" if fresh else ""
    say(f"Installing [{what}] as pinned in {constraints.relative_to(ROOT)}{wait} …")
    command: list[str | Path] = [
        venv / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-compile",
    ]
    command += ["--progress-bar", "off", "--disable-pip-version-check"]
    command += ["-c", constraints, "-e", f"{ROOT}[{','.join(extras)}]"]
    log = venv / "install.log"
    code, progress = _watched(command, log, venv)
    if code:
        tail = "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-25:])
        raise SetupError(f"The installation failed. The end of {log.relative_to(ROOT)}:\n{tail}")
    say(f"Installed {progress.total} packages in {progress.seconds:.0f} s.")


def _watched(command: list[str | Path], log: Path, venv: Path) -> tuple[int, PipProgress]:
    """Run pip with its output in `log` and its progress on the terminal; stop it if we are stopped."""
    progress, line = PipProgress(venv), StatusLine()
    with log.open("w") as sink, _started(command) as pip:
        assert pip.stdout is not None  # noqa: S101 - _started pipes it
        reader = threading.Thread(target=_read, args=(pip.stdout, sink, progress), daemon=True)
        reader.start()
        try:
            while pip.poll() is None:
                line.show(str(progress))
                try:
                    pip.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            line.clear()
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
            reader.join()
    return pip.returncode, progress


def _started(command: list[str | Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=child_env(),
    )


def _read(stream: IO[str], sink: IO[str], progress: PipProgress) -> None:
    for text in stream:
        sink.write(text)
        sink.flush()
        progress.feed(text)


class PipProgress:
    """One line about where pip is, from what it prints and what lies in site-packages."""

    UNITS: ClassVar = {"kB": 0.001, "MB": 1.0, "GB": 1000.0}

    def __init__(self, venv: Path) -> None:
        self.started = time.monotonic()
        self.venv = venv
        self.found: set[str] = set()
        self.megabytes = 0.0
        self.total = 0
        self.before = self._installed()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def feed(self, text: str) -> None:
        if match := re.match(r"\s*Collecting ([\w.-]+)", text):
            self.found.add(match[1])
        elif match := re.match(r"\s*Downloading .*\(([\d.]+) (kB|MB|GB)\)", text):
            self.megabytes += float(match[1]) * self.UNITS[match[2]]
        elif text.startswith("Installing collected packages:"):
            self.total = text.count(",") + 1

    def __str__(self) -> str:
        if self.total:
            return f"  {self._installed() - self.before} of {self.total} packages installed, {self.seconds:.0f} s"
        return f"  {len(self.found)} packages found, {self.megabytes:.0f} MB downloaded, {self.seconds:.0f} s"

    def _installed(self) -> int:
        return len(list(self.venv.glob("lib/python*/site-packages/*.dist-info")))


class StatusLine:
    """A line that rewrites itself on a terminal, and elsewhere is printed every 15 seconds."""

    EVERY = 15.0

    def __init__(self, out: IO[str] | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.due = time.monotonic() + self.EVERY

    def show(self, text: str) -> None:
        if self.live:
            self.out.write(f"\r\x1b[K{text}")
        elif time.monotonic() >= self.due:
            self.due += self.EVERY
            self.out.write(text + "\n")
        self.out.flush()

    def clear(self) -> None:
        if self.live:
            self.out.write("\r\x1b[K")
            self.out.flush()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one command at a time work on an environment."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another command that prepares {path.stem} …")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
