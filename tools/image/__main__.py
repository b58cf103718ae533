"""`python -m tools.image`: builds the Runtime image, which `make image` does."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from astronomer.runtime.versions import Manifest, Release
from tools.image.base import local_base
from tools.image.engine import Build, Buildah, Engine, ImageError, found

ROOT = Path(__file__).resolve().parents[2]
NAME = "astronomer-runtime"
TARGETS = ("base", "onbuild")


@dataclass(frozen=True)
class Built:
    """An image, and what it took."""

    tag: str
    seconds: float
    size: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Build both variants and print what each took; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        engine = found(ROOT / ".image")
        release = Manifest.read(ROOT / "runtime" / "versions.json").newest()
        for built in build(engine, release, options.base_image):
            print(f"  {built.tag:<34} {built.seconds:6.0f} s  {built.size / 1e6:6.0f} MB", flush=True)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def tag(release: Release, target: str) -> str:
    """Return the name of a variant."""
    return f"{NAME}:{replace(release.tag, base=target == 'base')}"


def build(engine: Engine, release: Release, base_image: str | None) -> list[Built]:
    """Build the base and the default variant of a release.

    :param base_image: what to build on; nothing for the Debian of the release.
    :raises ImageError: a step failed; the message has the end of what it said.
    """
    print(f"Building {NAME} {release.tag} with {engine.name} …", flush=True)
    started = time.monotonic()
    if base_image is None and isinstance(engine, Buildah):
        base_image = local_base(engine, str(release.debian_name))
        print(
            f"  {base_image:<34} {time.monotonic() - started:6.0f} s  {engine.size(base_image) / 1e6:6.0f} MB"
        )
    arguments = {
        "RUNTIME_VERSION": str(release.tag),
        "AIRFLOW_VERSION": str(release.airflow),
        "PYTHON": str(release.python),
        "DEBIAN": str(release.debian),
        "REVISION": _revision(),
        "DAY": datetime.now(timezone.utc).date().isoformat(),
        **({"BASE_IMAGE": base_image} if base_image else {}),
    }
    return [_variant(engine, tag(release, target), target, arguments) for target in TARGETS]


def _variant(engine: Engine, name: str, target: str, arguments: dict[str, str]) -> Built:
    started = time.monotonic()
    file = ROOT / "runtime" / "Dockerfile"
    done = engine.build(Build(ROOT, name, target=target, arguments=arguments, file=file))
    if done.returncode:
        raise ImageError(f"{name} could not be built:\n{done.stdout[-4000:]}")
    if target == "onbuild" and not engine.config(name).get("OnBuild"):
        raise ImageError(
            f"{name} has no ONBUILD steps, so it takes no project: {engine.name} has left them out."
        )
    return Built(name, time.monotonic() - started, engine.size(name))


def _revision() -> str:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.image", description=__doc__)
    parser.add_argument(
        "--base-image",
        default=os.environ.get("BASE_IMAGE") or None,
        help="an image of the release's Debian, with or without its Python (BASE_IMAGE)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
