"""`python tools/hygiene.py FILE ...`: mend trailing blanks and file ends; refuse conflict marks and large files.

Exits with 1 if it mended or refused anything, so that a commit stops and the change can be looked at.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LARGEST = 500_000
CONFLICT = re.compile(rb"^(<{7} |>{7} |={7}$)", re.MULTILINE)


def mended(data: bytes) -> bytes:
    """Return the text with LF line ends, no trailing blanks, and exactly one newline at its end."""
    lines = [line.rstrip() for line in data.replace(b"\r\n", b"\n").split(b"\n")]
    text = b"\n".join(lines).rstrip(b"\n")
    return text + b"\n" if text else b""


def complaint(path: Path) -> str | None:
    """Mend one file in place; return what was wrong with it, or None."""
    data = path.read_bytes()
    if len(data) > LARGEST:
        return f"larger than {LARGEST // 1000} kB"
    if b"\0" in data:
        return None
    if CONFLICT.search(data) and path.suffix not in {".rst", ".md"}:  # where ======= underlines a heading
        return "has conflict marks"
    if mended(data) != data:
        path.write_bytes(mended(data))
        return "blanks or file end mended"
    return None


def main(names: list[str]) -> int:
    """Check every file and say what was wrong; returns the exit status."""
    found = [(name, complaint(Path(name))) for name in names if not Path(name).is_symlink()]
    bad = [f"{name}: {what}" for name, what in found if what]
    print(*bad, sep="\n" if bad else "", end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
