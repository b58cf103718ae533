"""Containers of a built image: one command that ends, or Airflow's programs."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.image.engine import Engine

USER = 50_000
SECONDS = 300.0
# Of the variables of a program these go into its container; the others are of the machine.
PASSED = ("AIRFLOW", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "OPENLINEAGE")
READ_ONLY = ("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/usr/local/airflow/logs")  # noqa: S108 - the container's


@dataclass(frozen=True)
class Container:
    """How containers of one image are run.

    :param mounts: folders that are in the container where they are outside.
    """

    engine: Engine
    tag: str
    mounts: Sequence[Path] = ()
    names: list[str] = field(default_factory=list)

    def run(
        self,
        *command: str,
        variables: Mapping[str, str] | None = None,
        options: Sequence[str | Path] = (),
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; the output has both streams."""
        words = self._words("one", options, variables or {})
        try:
            return subprocess.run(
                [*words, *command],
                env={**os.environ, **(variables or {})},
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:  # that ends what speaks to the engine only
            self.remove()
            raise

    def command(self, name: str, words: list[str], variables: Mapping[str, str]) -> list[str]:
        """Return what runs one of Airflow's programs: the form of :data:`tools.demo.deployment.Launch`."""
        for mount in self.mounts:
            _give(mount)
        passed = {name: value for name, value in variables.items() if name.startswith(PASSED)}
        return [*self._words(name, READ_ONLY, passed), "airflow", *words]

    @contextmanager
    def running(
        self, *command: str, variables: Mapping[str, str], options: Sequence[str | Path] = READ_ONLY
    ) -> Iterator[Callable[[], str]]:
        """Run a command for the block, which gets a function that returns its output; nothing is left of it."""
        words = self._words("server", ("--detach", *options), variables)
        subprocess.run([*words, *command], env={**os.environ, **variables}, check=True, capture_output=True)
        name = self.names[-1]
        try:
            yield lambda: self.told(name)
        finally:
            self.remove()

    def told(self, name: str) -> str:
        """Return what a container has written."""
        done = subprocess.run(self.engine.execute("logs", name), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """End all of them; what was killed from outside may have left one."""
        for name in self.names:
            subprocess.run(self.engine.execute("rm", "--force", name), capture_output=True, check=False)
        self.names.clear()

    def _words(self, name: str, options: Sequence[str | Path], variables: Mapping[str, str]) -> list[str]:
        self.names.append(f"astronomer-{name.replace(' ', '-').lower()}-{secrets.token_hex(3)}")
        volumes = [word for mount in self.mounts for word in ("--volume", f"{mount}:{mount}")]
        # By name only: a value on the command line could be read by anybody on the machine.
        named = [word for variable in variables for word in ("--env", variable)]
        return self.engine.run("--name", self.names[-1], *volumes, *named, *options, self.tag)


def _give(folder: Path) -> None:
    """Let the image's user write there."""
    for one in (folder, *folder.rglob("*")):
        if not one.is_symlink():
            os.chown(one, USER, 0)
