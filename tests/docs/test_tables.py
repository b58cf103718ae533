"""What the tables of the pages say is what the code says."""

from __future__ import annotations

import importlib
import re

from astronomer.deferral import Pacing
from astronomer.providers.package import get_provider_info
from tests.docs.pages import PAGES, ROOT


def rows(page: str) -> list[list[str]]:
    lines = (ROOT / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_options():
    options = get_provider_info()["config"]["astronomer_providers"]["options"]
    told = {row[0].strip("`"): row[1] for row in rows("docs/howto/configuration.md")}
    assert {name: told.get(name) for name in options} == {
        name: one["default"] for name, one in options.items()
    }


def test_what_is_imported_from_where():
    for page in ("README.md", "docs/reference/index.md"):
        found = 0
        for row in rows(page):
            name, module = re.search(r"[`.](\w+)[`>]", row[0]), re.fullmatch(r"`(astronomer[\w.]+)`", row[1])
            if name and module:
                assert hasattr(importlib.import_module(module[1]), name[1]), row
                found += 1
        assert found >= 3, page


def test_the_pacing():
    pacing = Pacing()
    told = {row[0]: row[1] for row in rows("docs/explain/outages.md")}
    assert told["never closer than"] == f"{pacing.spacing:g}"
    assert told["first poll after a wait has arrived"].startswith(f"up to {pacing.gather:g} ")
    assert told["never further apart than"] == f"{pacing.max_backoff:g}"
    assert told["an unused login is kept for"] == f"{pacing.linger:g}"
    assert told["after the first failed poll"].startswith(f"{pacing.backoff:g}, ")


def test_the_rooms():
    """Each file that the map of the code names is there."""
    text = (ROOT / "docs/explain/architecture.md").read_text()
    block = re.search(r"^astronomer/ .*?```", text, re.MULTILINE | re.DOTALL)[0]
    missing = [
        name
        for name in re.findall(r"^ +(\w+\.py)", block, re.MULTILINE)
        if not list((ROOT / "astronomer").rglob(name))
    ]
    assert not missing


def test_readme_links_lead_somewhere():
    """Sphinx checks the links of docs/; nobody else those of the README."""
    links = re.findall(r"\]\(([^)#]+)", PAGES[0].read_text())
    assert links
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
