"""Another release of this package, which is deployed while tasks wait."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.chaos.world import HERE, World
from tools.demo.backend import SCHEDULER, TRIGGERER, WORKER
from tools.demo.processes import family

NUMBER = "2.999.0"
LOADED = {TRIGGERER: "deferral", SCHEDULER: "lab", WORKER: "lab"}
"""The parts that are started with it, and the package that each of them imports, or a process of its own.

Every Python of the Airflow that is tried imports ``lab`` (:mod:`tools.chaos.python.sitecustomize`); what runs triggers
imports ``deferral`` as well.
"""
SAYING = """

def _say_that_it_is_loaded():
    import importlib.metadata
    import os

    with open({told!r} + str(os.getpid()), "w") as told:
        told.write(importlib.metadata.version("astronomer-providers"))


_say_that_it_is_loaded()
"""


@dataclass(frozen=True)
class Release:
    """The same code under another number and in another place, which says which processes have loaded it.

    :param folder: where it is, which is for ``PYTHONPATH``.
    """

    folder: Path

    @classmethod
    def new(cls, root: Path, folder: Path) -> Release:
        """Make one of a checkout."""
        shutil.copytree(
            root / "astronomer", folder / "astronomer", ignore=shutil.ignore_patterns("__pycache__")
        )
        info = folder / f"astronomer_providers-{NUMBER}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: astronomer-providers\nVersion: {NUMBER}\n"
        )
        (info / "entry_points.txt").write_text(
            "[apache_airflow_provider]\nprovider_info = astronomer.providers.package:get_provider_info\n"
        )
        found = cls(folder)
        for package in set(LOADED.values()):
            with (folder / "astronomer" / package / "__init__.py").open("a") as code:
                code.write(SAYING.format(told=str(found._told(package))))
        return found

    @property
    def path(self) -> str:
        """The ``PYTHONPATH`` by which Airflow finds it."""
        return f"{HERE / 'python'}:{self.folder}"

    def loaded(self, pid: int, package: str) -> bool:
        """Whether a process, or one that it has started, has the code of a package from here, under this number."""
        told = [self._told(package, one.pid) for one in family(pid)]
        return any(one.exists() and one.read_text() == NUMBER for one in told)

    def missing(self, world: World) -> list[str]:
        """Return the programs that ought to have loaded it, and have not."""
        programs = {name: world.program(name) for part in LOADED for name in world.names(part)}
        return [
            name
            for name, program in programs.items()
            if program is None
            or not self.loaded(program.process.pid, LOADED[world.services.first.parts[name]])
        ]

    def _told(self, package: str, pid: int | str = "") -> Path:
        return self.folder / f"loaded-{package}-{pid}"
