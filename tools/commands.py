"""The commands themselves: each prepares what it needs, says so, and leaves nothing running."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tools import leftovers
from tools.bootstrap import ROOT, SetupError, child_env, ensure, say

AIRFLOWS = ("3.1", "3.2", "3.3")
NEWEST = AIRFLOWS[-1]
# The extras of pyproject.toml that contain others, so that a fuller environment serves the smaller command.
CONTAINED = {
    "demo-celery": ("demo",),
    "test": ("demo", "demo-celery"),
    "dev": ("demo", "demo-celery", "test"),
}
# What the commands leave in a checkout.
PRODUCED = (
    *(
        ".venv*",
        ".demo",
        ".chaos",
        ".image",
        "chaos.json",
        "chaos-celery.json",
        "soak.json",
        "build",
        "dist",
        "*.egg-info",
        "docs/_build",
        ".coverage*",
        "htmlcov",
    ),
    *(".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
)
ENGINE = "astronomer/deferral/*"
ENGINE_TESTS = ("tests/unit/deferral", "tests/integration/**/test_lineage.py")
FAMILIES = ("snowflake", "databricks", "external_task", "worker_free")


def demo() -> NoReturn:
    """Run real Dags on a real Airflow against the local Snowflake (KEEP=1 leaves it up, SHORT=1 is quick)."""
    flags = [f"--{name.lower()}" for name in ("SHORT", "KEEP") if _asked(name)]
    _become(_python("demo"), "-m", "tools.demo", *flags)


def demo_celery() -> NoReturn:
    """Run the demo on Celery with PostgreSQL, Redis and two triggerers (DATABASE_URL=, REDIS_URL= for servers of yours)."""
    flags = [f"--{name.lower()}" for name in ("SHORT", "KEEP") if _asked(name)]
    _become(_python("demo-celery"), "-m", "tools.demo", "--celery", *flags)


def test() -> int:
    """Prove the code: lint, types, tests, coverage of the engine, documentation (LONG=1 for all there is, as CI does)."""
    python = _python("dev")
    return run_steps([*_lint(python), _types(python), *_tests(python), _docs(python)])


def test_matrix() -> int:
    """Run unit and contract tests on every supported Airflow, and name what each lacks (AIRFLOW=3.1 for one)."""
    worst = 0
    for airflow in os.environ.get("AIRFLOW", " ".join(AIRFLOWS)).split():
        print(f"\nAirflow {airflow}", flush=True)
        python = _python("test", airflow=airflow, venv=f".venv-{airflow}")
        steps = [
            Step(
                f"Airflow {airflow}: what it lacks",
                [python, "-W", "ignore::RuntimeWarning:runpy", "-m", "astronomer.deferral._compat"],
            ),
            Step(
                f"Airflow {airflow}: unit and contract",
                [*_pytest(python), "-n", "2", "tests/unit", "tests/contract"],
            ),
        ]
        worst = max(worst, run_steps(steps))
    return worst


def chaos() -> NoReturn:
    """Print the fault certificate (SHORT=1 for 50 kills, EXECUTOR=celery, ARGS="--list")."""
    flags = ["--short"] if _asked("SHORT") else []
    flags += ["--celery"] if os.environ.get("EXECUTOR", "").lower().startswith("celery") else []
    _become(_python("demo-celery"), "-m", "tools.chaos", *flags, *_arguments())


def soak() -> NoReturn:
    """Hold 5000 waits in one triggerer for an hour, and watch what it needs (ARGS="--waits 300 --minutes 5")."""
    _become(_python("demo-celery"), "-m", "tools.soak", *_arguments())


def image() -> NoReturn:
    """Build the Runtime image with Docker, or as root without (BASE_IMAGE= for another image of the same Debian)."""
    _become(_python("test"), "-m", "tools.image")


def image_test() -> int:
    """Try the image that was built: versions, projects, Airflow on each executor (ARGS="-k project")."""
    python = _python("test")
    return run_steps(
        [Step("the Runtime image", [*_pytest(python), "-m", "image", "tests/image", *_arguments()])]
    )


def lint() -> int:
    """Check style with ruff."""
    return run_steps(_lint(_python("dev")))


def types() -> int:
    """Check types with mypy."""
    return run_steps([_types(_python("dev"))])


def docs() -> int:
    """Build the documentation into docs/_build/html, with warnings as errors."""
    return run_steps([_docs(_python("dev"))])


def bench() -> NoReturn:
    """Measure ours and the stock operators side by side (FAMILY=databricks for that one, ARGS="--waits 200 --json")."""
    family = os.environ.get("FAMILY") or "snowflake"
    if family not in FAMILIES:
        raise SetupError(f"There is no benchmark of {family!r}. FAMILY is one of: {', '.join(FAMILIES)}.")
    _become(_python("test"), "-m", f"benchmarks.{family}", *(_arguments() or ["--json"]))


def lock() -> int:
    """Resolve constraints/, one file per supported Airflow; pins that fit stay (UPGRADE=1 for the newest)."""
    from tools.lock import lock_all, lock_runtime

    lock_all(AIRFLOWS, upgrade=_asked("UPGRADE"))
    lock_runtime(NEWEST, upgrade=_asked("UPGRADE"))
    return 0


def clean() -> int:
    """Remove environments, images, the demo's state, build outputs, caches and reports."""
    from tools.image.engine import unmount

    for state, what in ((".demo", "demo"), (".chaos", "fault certificate's campaign")):
        if _locked_by_another(ROOT / state / "lock"):
            raise SetupError(f"A {what} runs in this checkout. Stop it first with Ctrl-C.")
    for path in sorted({path for pattern in PRODUCED for path in ROOT.glob(pattern)}):
        say(f"Removing {path.relative_to(ROOT)}")
        if path.is_dir() and not path.is_symlink():
            unmount(path)
            shutil.rmtree(path)
        else:
            path.unlink()
    return 0


def help_() -> int:
    """Show this list."""
    for name, command in COMMANDS.items():
        print(f"  make {name:<12} {(command.__doc__ or '').rstrip('.')}")
    return 0


COMMANDS: dict[str, Callable[[], int]] = {
    "help": help_,
    "demo": demo,
    "demo-celery": demo_celery,
    "test": test,
    "test-matrix": test_matrix,
    "chaos": chaos,
    "soak": soak,
    "image": image,
    "image-test": image_test,
    "lint": lint,
    "type": types,
    "docs": docs,
    "bench": bench,
    "lock": lock,
    "clean": clean,
}


def main(arguments: list[str]) -> int:
    """Run one command by name and return its exit status."""
    name = arguments[0] if arguments else "help"
    if name not in COMMANDS or len(arguments) > 1:
        print(f"Unknown command: {' '.join(arguments)}", file=sys.stderr)
        help_()
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return COMMANDS[name]()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


@dataclass(frozen=True)
class Step:
    """One headline and the command under it."""

    title: str
    command: list[str | Path]


def run_steps(steps: list[Step]) -> int:
    """Run every step, also after a failure, and end with a table of results and times."""
    rows: list[tuple[str, int, float]] = []
    for number, step in enumerate(steps, 1):
        print(f"\n── {number}/{len(steps)} {step.title} ".ljust(100, "─"), flush=True)
        started = time.monotonic()
        code = _run(step.command)
        rows.append((step.title, code, time.monotonic() - started))
    print()
    for title, code, seconds in rows:
        print(f"  {'ok    ' if code == 0 else 'FAILED'} {seconds:7.1f} s  {title}")
    failed = sum(1 for _, code, _ in rows if code)
    print(
        f"  {'all passed' if not failed else f'{failed} failed'}, {sum(row[2] for row in rows):.0f} s",
        flush=True,
    )
    return 1 if failed else 0


def _lint(python: Path) -> list[Step]:
    ruff: list[str | Path] = [python, "-m", "ruff"]
    return [
        Step("style: ruff check", [*ruff, "check", "."]),
        Step("style: ruff format", [*ruff, "format", "--check", "."]),
    ]


def _types(python: Path) -> Step:
    return Step("types: mypy --strict", [python, "-m", "mypy"])


def _tests(python: Path) -> list[Step]:
    """All tests, and the coverage of the engine by its own: to measure it costs the others almost half of their time."""
    command = [*_pytest(python), "-n", "5", *(["-m", "not image"] if _asked("LONG") else [])]
    if arguments := _arguments():
        return [Step("tests", [*command, *arguments, "tests"])]
    engine = [str(path.relative_to(ROOT)) for pattern in ENGINE_TESTS for path in sorted(ROOT.glob(pattern))]
    return [
        Step("tests of the engine", [*command, "--cov", "--cov-report=", *engine]),
        Step("coverage: every line and branch of the engine", _coverage(python, ENGINE, 100)),
        Step("all other tests", [*command, *(f"--ignore={path}" for path in engine), "tests"]),
    ]


def _coverage(python: Path, include: str, minimum: int) -> list[str | Path]:
    report = [f"--include={include}", f"--fail-under={minimum}", "--show-missing", "--skip-covered"]
    return [python, "-m", "coverage", "report", *report]


def _docs(python: Path) -> Step:
    return Step(
        "documentation", [python, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", "docs/_build/html"]
    )


def _arguments() -> list[str]:
    return shlex.split(os.environ.get("ARGS") or "")


def _pytest(python: Path) -> list[str | Path]:
    return [python, "-m", "pytest"]


def _locked_by_another(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _asked(name: str) -> bool:
    return os.environ.get(name, "").lower() not in {"", "0", "no", "false"}


def _python(extra: str, *, airflow: str = NEWEST, venv: str = ".venv") -> Path:
    constraints = ROOT / "constraints" / f"airflow-{airflow}.txt"
    if not constraints.is_file():
        raise SetupError(
            f"No {constraints.relative_to(ROOT)}: the supported versions are {', '.join(AIRFLOWS)}."
        )
    return ensure(venv, constraints=constraints, extra=extra, contained=CONTAINED.get(extra, ()))


def _become(*command: str | Path) -> NoReturn:
    """Replace this process, so that a signal reaches the program itself."""
    sys.stdout.flush()
    os.execve(command[0], [str(word) for word in command], _environment(command[0]))  # noqa: S606 - that is the point


def _environment(python: str | Path) -> dict[str, str]:
    """Keep the Airflow of this machine out of a child, and a child out of the Airflow of this machine."""
    ours = {name: value for name, value in child_env().items() if not name.startswith("AIRFLOW_")}
    home = Path(python).parents[1] / "airflow"
    return {**ours, "AIRFLOW_HOME": str(home), "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which reaches this process only; Ctrl-C reaches the children as well."""


def _run(command: list[str | Path]) -> int:
    """Run a child to its end; when we are told to stop, it is told too, and waited for, and nothing of it stays."""
    tag = f"{os.getpid()}-{time.time_ns()}"  # its own: what runs beside it may share that of a whole run
    child = subprocess.Popen(command, cwd=ROOT, env={**_environment(command[0]), leftovers.COMMAND: tag})
    try:
        return child.wait()
    except KeyboardInterrupt as error:
        if isinstance(error, _Terminated):
            child.send_signal(signal.SIGINT)  # not SIGTERM: pytest would skip the clean-up of its fixtures
        _wait_or_kill(child)
        # pytest's workers may die without a word to what they had started.
        leftovers.main(tag, variable=leftovers.COMMAND)
        raise


def _wait_or_kill(child: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    for stop in (child.terminate, child.kill):
        try:
            child.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            stop()
    child.wait()


def _terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated
