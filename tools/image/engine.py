"""What builds and runs images: Docker where its daemon answers, otherwise buildah and podman, as root."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

MISSING = (
    "No Docker daemon answers, and {what}. Without Docker an image is built by buildah and run by podman and runc, as "
    "root (Debian: `apt-get install buildah podman runc mmdebstrap`)."
)
PROGRAMS = ("buildah", "podman", "runc")
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
ENOUGH = 8192
REACHED_BY = (
    *("HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT"),
    *("DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
)
MOUNTS = Path("/proc/self/mounts")


class ImageError(Exception):
    """An image cannot be built or run; the message says what to do."""


@dataclass(frozen=True)
class Build:
    """What an image is built from.

    :param context: the folder whose files its steps see.
    :param tag: what it is called.
    :param target: the stage of the Dockerfile at which the build ends; the last one otherwise.
    :param arguments: those of the build, by name.
    :param file: the Dockerfile, if it is not the one in the context.
    :param secrets: files that a step may mount and that stay outside the image, by id.
    """

    context: Path
    tag: str
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    secrets: Mapping[str, Path] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Return the arguments of the ``build`` command, in which Docker and buildah agree."""
        words = ["--tag", self.tag]
        words += ["--file", str(self.file)] if self.file else []
        words += ["--target", self.target] if self.target else []
        for name, value in self.arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        for name, path in self.secrets.items():
            words += ["--secret", f"id={name},src={path}"]
        return [*words, str(self.context)]


class Engine(Protocol):
    """What builds and runs images."""

    @property
    def name(self) -> str:
        """What does it."""

    def build(self, build: Build) -> subprocess.CompletedProcess[str]:
        """Build an image; the caller looks at the status."""

    def run(self, *options: str | Path) -> list[str]:
        """Return the command that runs a container until it ends, and then removes it."""

    def execute(self, *arguments: str) -> list[str]:
        """Return a command about containers that run."""

    def config(self, tag: str) -> dict[str, Any]:
        """Return the configuration of an image, in Docker's words."""

    def size(self, tag: str) -> int:
        """Return the size of an image in bytes."""

    def remove(self, tag: str) -> None:
        """Remove an image, if there is one of that name."""


@dataclass(frozen=True)
class Docker:
    """The daemon that the ``docker`` command reaches."""

    name: str = "Docker"

    def build(self, build: Build) -> subprocess.CompletedProcess[str]:
        return _run(["docker", "build", "--network", "host", *build.words()], os.environ)

    def run(self, *options: str | Path) -> list[str]:
        return self.execute("run", "--rm", "--network", "host", *map(str, options))

    def execute(self, *arguments: str) -> list[str]:
        # Whoever runs it may have another environment, and the daemon is found by this one's.
        settings = [f"{name}={os.environ[name]}" for name in REACHED_BY if name in os.environ]
        return ["env", *settings, "docker", *arguments]

    def config(self, tag: str) -> dict[str, Any]:
        return dict(self._inspect(tag)["Config"])

    def size(self, tag: str) -> int:
        return int(self._inspect(tag)["Size"])

    def remove(self, tag: str) -> None:
        _run(["docker", "image", "rm", "--force", tag], os.environ)

    def _inspect(self, tag: str) -> dict[str, Any]:
        return dict(json.loads(_checked(["docker", "image", "inspect", tag], os.environ))[0])


@dataclass(frozen=True)
class Buildah:
    """Buildah and podman, with a store of their own.

    :param folder: where the store is, and the settings by which both programs find it.
    """

    folder: Path
    name: str = "buildah"
    settings: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Write the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        storage, containers = self.folder / "storage.conf", self.folder / "containers.conf"
        # The driver vfs copies the whole image for each step.
        places = f'graphroot = "{self.folder}/store"\nrunroot = "{self.folder}/run"\n'
        storage.write_text(f'[storage]\ndriver = "overlay"\n{places}')
        limits = ", ".join(f'"{name}={_limit(number)}"' for name, number in LIMITS.items())
        containers.write_text(
            f'[containers]\nnetns = "host"\ndefault_ulimits = [{limits}]\n[engine]\nruntime = "runc"\n'
        )
        ours = {
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(containers),
            "BUILDAH_ISOLATION": "chroot",  # needs no rights that a container of a build machine lacks
            "BUILDAH_FORMAT": "docker",  # OCI's own format has neither ONBUILD nor HEALTHCHECK
        }
        object.__setattr__(self, "settings", ours)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of both programs."""
        return {**os.environ, **self.settings}

    def build(self, build: Build) -> subprocess.CompletedProcess[str]:
        # Without --force-rm a build that fails leaves its container mounted.
        return _run(["buildah", "build", "--layers", "--force-rm", *build.words()], self.environment)

    def run(self, *options: str | Path) -> list[str]:
        # Health is asked for by hand: podman leaves that to systemd.
        return self.execute("run", "--rm", "--no-healthcheck", *map(str, options))

    def execute(self, *arguments: str) -> list[str]:
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return ["env", *settings, "podman", *arguments]

    def config(self, tag: str) -> dict[str, Any]:
        words = ["buildah", "inspect", "--type", "image", tag]
        return dict(json.loads(_checked(words, self.environment))["Docker"]["config"])

    def size(self, tag: str) -> int:
        told = _checked(["podman", "image", "inspect", "--format", "{{.Size}}", tag], self.environment)
        return int(told)

    def remove(self, tag: str) -> None:
        _run(["podman", "image", "rm", "--force", tag], self.environment)

    def has(self, tag: str) -> bool:
        """Return whether there is an image of that name."""
        return not _run(["podman", "image", "exists", tag], self.environment, quiet=True).returncode

    def add(self, archive: Path, tag: str) -> None:
        """Make an image of one archive of files."""
        container = _checked(["buildah", "from", "scratch"], self.environment).strip()
        try:
            _checked(["buildah", "add", container, str(archive), "/"], self.environment)
            _checked(["buildah", "commit", container, tag], self.environment)
        finally:
            _checked(["buildah", "rm", container], self.environment)


def found(folder: Path) -> Engine:
    """Return what this machine has.

    :param folder: where buildah's images go.
    :raises ImageError: it has neither.
    """
    if _has_docker():
        return Docker()
    if lacking := [name for name in PROGRAMS if not shutil.which(name)]:
        raise ImageError(MISSING.format(what=f"{' and '.join(lacking)} cannot be found"))
    if os.geteuid():
        raise ImageError(MISSING.format(what="this user is not root"))
    return Buildah(folder)


def unmount(folder: Path) -> None:
    """Unmount what buildah keeps mounted below a folder, so that the folder can be removed; deepest first."""
    told = MOUNTS.read_text().splitlines() if MOUNTS.exists() else []
    mounts = [line.split()[1].replace("\\040", " ") for line in told]
    for place in sorted((one for one in mounts if Path(one).is_relative_to(folder)), key=len, reverse=True):
        subprocess.run(["umount", place], check=False)


def _has_docker() -> bool:
    """Whether Docker's daemon answers; podman under its name would build images without ONBUILD."""
    if not shutil.which("docker"):
        return False
    told = _run(["docker", "version"], os.environ)
    return not told.returncode and "podman" not in told.stdout.lower()


def _limit(number: int) -> str:
    """Return no more than this process has: whoever asks for more is refused without rights over the machine."""
    least = min((one for one in resource.getrlimit(number) if one != resource.RLIM_INFINITY), default=ENOUGH)
    return f"{min(least, ENOUGH)}:{min(least, ENOUGH)}"


def _run(
    command: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False
) -> subprocess.CompletedProcess[str]:
    out = subprocess.DEVNULL if quiet else subprocess.PIPE
    both = out if quiet else subprocess.STDOUT
    return subprocess.run(command, env=dict(environment), stdout=out, stderr=both, text=True, check=False)


def _checked(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout
