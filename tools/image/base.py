"""A Debian to build on, made of Debian's packages, where no registry of images can be reached."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.image.engine import Buildah, ImageError

TRUSTED = Path("/usr/local/share/ca-certificates")
"""Certificates that this machine trusts beside Debian's, such as those of a company's proxy."""


def local_base(engine: Buildah, suite: str) -> str:
    """Return the name of an image of Debian's smallest system; it is made when there is none yet.

    :param suite: the name of the Debian release.
    """
    tag = f"localhost/debian:{suite}"
    if not engine.has(tag):
        if not shutil.which("mmdebstrap"):
            raise ImageError("mmdebstrap cannot be found (Debian: `apt-get install mmdebstrap`).")
        with tempfile.TemporaryDirectory(prefix="astronomer-debian-") as folder:
            archive = Path(folder) / "root.tar"
            _make(suite, archive)
            engine.add(archive, tag)
    return tag


def _make(suite: str, archive: Path) -> None:
    command = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "--quiet"]
    if certificates := sorted(TRUSTED.glob("*.crt")):
        copied = " ".join(str(one) for one in certificates)
        command += [
            f"--customize-hook=copy-in {copied} {TRUSTED}",
            '--customize-hook=chroot "$1" update-ca-certificates',
        ]
    done = subprocess.run([*command, suite, str(archive)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(f"mmdebstrap could not make a Debian {suite}:\n{done.stderr.strip()[-2000:]}")
