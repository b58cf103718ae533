"""Resolve `constraints/`, for all extras and all supported Pythons, and `runtime/constraints.txt`, for the image."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tools.bootstrap import ROOT, SetupError, child_env, say

RESOLVER = "uv>=0.9,<1"
HEADER = """\
# Airflow {airflow} and every extra of astronomer-providers, for Python 3.10 to 3.13 on Linux and macOS.
# Made by `make lock`; change pyproject.toml, not this file.
"""
RUNTIME_PYTHON = "3.13"
RUNTIME_EXTRAS = ("all", "celery", "kubernetes")
RUNTIME_HEADER = """\
# For Python 3.13 on Linux, in the Runtime image. Made by `make lock` from the file of requirements beside this one.
"""
# True wherever these files are used, so they only cost a reader's time.
ALWAYS_TRUE = (
    "python_full_version < '3.14'",
    "python_full_version < '3.15'",
    "sys_platform != 'emscripten'",
    "platform_python_implementation != 'PyPy'",
    "implementation_name != 'PyPy'",
    "(sys_platform == 'darwin' or sys_platform == 'linux')",
)


def lock_all(airflows: Iterable[str], *, upgrade: bool) -> None:
    """Write constraints/airflow-X.Y.txt with the newest patch of each X.Y and what resolves beside it.

    :param upgrade: take the newest of everything; otherwise a pin stays as long as it fits.
    """
    uv = _resolver(ROOT / ".venv-lock")
    for airflow in airflows:
        target = ROOT / "constraints" / f"airflow-{airflow}.txt"
        say(f"Resolving {target.relative_to(ROOT)} …")
        kept = "" if upgrade or not target.exists() else target.read_text()
        pins = [_shortened(line) for line in _compile(uv, airflow, kept)]
        patch = next(pin.partition("==")[2] for pin in pins if pin.startswith("apache-airflow=="))
        target.parent.mkdir(exist_ok=True)
        target.write_text(HEADER.format(airflow=patch) + "\n".join(pins) + "\n")
        say(f"  Airflow {patch}, {len(pins)} lines")


def _resolver(venv: Path) -> Path:
    uv = venv / "bin" / "uv"
    if not uv.exists():
        say(f"Installing the resolver in {venv.name} …")
        _checked([sys.executable, "-m", "venv", venv])
        _checked(
            [venv / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", RESOLVER]
        )
    return uv


def lock_runtime(airflow: str, *, upgrade: bool) -> None:
    """Write the pins of the Runtime image, those of the tests where there are any, and of what writes its SBOM."""
    uv = _resolver(ROOT / ".venv-lock")
    tested = ROOT / "constraints" / f"airflow-{airflow}.txt"
    requirements = ["pyproject.toml", "runtime/requirements.txt"]
    extras = [word for extra in RUNTIME_EXTRAS for word in ("--extra", extra)]
    _lock_image(uv, "constraints.txt", [*requirements, *extras, "--constraint", tested], upgrade=upgrade)
    _lock_image(uv, "sbom-constraints.txt", ["runtime/sbom-requirements.txt"], upgrade=upgrade)
    say(
        "Now run `python -m tools.runtime_versions` in the environment of the tests: it writes the versions down."
    )


def _lock_image(uv: Path, name: str, arguments: list[str | Path], *, upgrade: bool) -> None:
    target = ROOT / "runtime" / name
    say(f"Resolving {target.relative_to(ROOT)} …")
    kept = "" if upgrade or not target.exists() else target.read_text()
    pins = _pins(uv, [*arguments, "--python-version", RUNTIME_PYTHON, "--python-platform", "linux"], kept)
    target.write_text(RUNTIME_HEADER + "\n".join(pins) + "\n")
    say(f"  {len(pins)} lines")


def _compile(uv: Path, airflow: str, kept: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        pin = Path(folder, "airflow.txt")
        pin.write_text(f"apache-airflow~={airflow}.0\n")
        every = ["pyproject.toml", "--all-extras", "--universal", "--python-version", "3.10"]
        return _pins(uv, [*every, "--constraint", pin], kept)


def _pins(uv: Path, arguments: list[str | Path], kept: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output.txt")
        output.write_text(kept)  # uv prefers what its output file says already
        command: list[str | Path] = [uv, "pip", "compile", "--no-header", "--no-annotate", "--quiet"]
        _checked([*command, "--no-emit-index-url", *arguments, "--output-file", output])
        return [line for line in output.read_text().splitlines() if line and not line.startswith("#")]


def _shortened(line: str) -> str:
    """Drop the conditions that always hold from the marker of one requirement."""
    requirement, _, marker = line.partition(" ; ")
    conditions = [part for part in marker.split(" and ") if part and part not in ALWAYS_TRUE]
    return " ; ".join([requirement, " and ".join(conditions)] if conditions else [requirement])


def _checked(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=child_env(), check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return done.stdout
