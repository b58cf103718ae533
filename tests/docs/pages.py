"""The fenced blocks of README.md and docs/, and the marks that say how each is tested.

A mark is an HTML comment before the fence, which no reader sees: ``<!-- test: task returns=[(1,)] -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w{}:-]*)[^\n]*\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- test: ([^\n]*) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    :param mark: what its ``<!-- test: … -->`` says, or an empty text.
    """

    page: str
    line: int
    language: str
    mark: str
    body: str

    @property
    def kind(self) -> str:
        return self.mark.split(" ")[0]

    def argument(self, name: str) -> str | None:
        """What stands behind ``name=`` in the mark, to the end of the mark."""
        _, found, value = self.mark.partition(f"{name}=")
        return value if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every fenced block, but the directives of Sphinx."""
    return [block for page in PAGES for block in _of(page) if not block.language.startswith("{")]


def _of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()]
        mark = _MARK.search(before)
        indent = len(fence["indent"])
        body = "".join(line[indent:] for line in fence["body"].splitlines(keepends=True))
        where = str(page.relative_to(ROOT))
        found.append(Block(where, before.count("\n") + 1, fence["language"], mark[1] if mark else "", body))
    return found
