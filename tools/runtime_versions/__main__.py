"""`python -m tools.runtime_versions`: brings the list of Runtime releases and its page up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from astronomer.runtime.versions import Manifest
from tools.runtime_versions.page import with_tables
from tools.runtime_versions.pins import differences, refreshed
from tools.runtime_versions.rules import objections, repeated, unnamed

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write what is out of date, and say what breaks a rule; the exit status is 0 if nothing does."""
    parser = argparse.ArgumentParser(prog="python -m tools.runtime_versions", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if something is out of date"
    )
    check = parser.parse_args(arguments).check
    folder, page = root / "runtime", root / "docs" / "reference" / "runtime-versions.md"
    text = refreshed(folder)
    manifest = Manifest.parse(text)
    wrong = [f"versions.json names {name} twice" for name in repeated((folder / "versions.json").read_text())]
    wrong += [*manifest.troubles, *objections(manifest)]
    wrong += unnamed(manifest, (root / "CHANGELOG.md").read_text())
    wrong += differences(folder, version("astronomer-providers"))
    for path, wanted in ((folder / "versions.json", text), (page, with_tables(page.read_text(), manifest))):
        if path.read_text() != wanted:
            if check:
                wrong.append(f"{path.name} is out of date; run `python -m tools.runtime_versions`")
            else:
                path.write_text(wanted)
                print(f"Wrote {path.relative_to(root)}")
    for words in wrong:
        print(words, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
