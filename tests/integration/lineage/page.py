"""The variables that docs/howto/lineage.md tells to set."""

from __future__ import annotations

import shlex

from tests.docs.pages import ROOT, blocks

__all__ = ["PAGE", "variables"]

PAGE = ROOT / "docs" / "howto" / "lineage.md"


def variables(which: str) -> dict[str, str]:
    """Those of the block with the mark ``test: lineage <which>``."""
    (block,) = [one for one in blocks() if one.mark == f"lineage {which}"]
    words = shlex.split(block.body)
    return dict(word.split("=", 1) for word in words if word != "export")
