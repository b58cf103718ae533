"""Every message that a table marked ``<!-- test: words -->`` tells of is one that the package has; … is what differs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import PAGES, ROOT

MARK = "<!-- test: words -->"
QUOTED = [
    (page.relative_to(ROOT).as_posix(), words)
    for page in PAGES
    for table in page.read_text().split(MARK)[1:]
    for words in re.findall(r"^\| `([^`]+)` \|", table.lstrip().partition("\n\n")[0], flags=re.MULTILINE)
]


def texts() -> Iterator[str]:
    """All texts of the package; what is put into them is …"""
    for path in (ROOT / "astronomer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sdrg]", "…", node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                )


WORDS = "\n".join(texts())


def test_there_are_such_tables():
    assert len(QUOTED) > 10


@pytest.mark.parametrize(("page", "words"), QUOTED)
def test_the_words_are_said(page, words):
    assert words in WORDS, page
