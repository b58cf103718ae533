"""The rules that `runtime/versions.json` keeps; docs/reference/runtime-versions.md tells them to users."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from packaging.version import Version

from astronomer.runtime.versions import Manifest, Release

__all__ = ["objections", "repeated", "unnamed"]

HALF_A_YEAR = range(181, 185)
OPENLINEAGE = "apache-airflow-providers-openlineage"


def objections(manifest: Manifest) -> list[str]:
    """What breaks a rule, each with the release that does."""
    found: list[str] = []
    for release in manifest.releases.values():
        found += [f"{release.tag}: {words}" for words in _alone(release)]
    for before, after in pairwise(manifest.releases.values()):
        if before.tag.of_airflow is after.tag.of_airflow:
            found += [f"{before.tag} -> {after.tag}: {words}" for words in _step(before, after)]
    firsts = {release.tag.series: release for release in reversed(manifest.releases.values())}
    for release in firsts.values():
        if release.tag.patch != (first := 1 if release.tag.of_airflow else 0):
            found.append(f"{release.tag}: the first of a series has the number {first}")
    for later, earlier in pairwise(firsts.values()):
        if later.release_date < earlier.release_date:
            found.append(f"{later.tag}: its series begins before that of {earlier.tag}")
    return found


def repeated(text: str) -> list[str]:
    """Names that stand twice in one object of the JSON; a reader would silently take the last."""
    twice: list[str] = []

    def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return dict(pairs)

    json.loads(text, object_pairs_hook=object_of)
    return twice


def unnamed(manifest: Manifest, changelog: str) -> list[str]:
    """Changes that the changelog does not name.

    Every version of this distribution has a heading, and a Runtime that changes Airflow or OpenLineage says to which.
    """
    found = [
        f"{release.tag}: there is no heading [{release.package}]"
        for release in manifest.releases.values()
        if release.package and f"\n## [{release.package}]" not in f"\n{changelog}"
    ]
    for before, after in pairwise(manifest.releases.values()):
        for name, old, new in (
            ("Airflow", before.airflow, after.airflow),
            (f"`{OPENLINEAGE}`", before.providers.get(OPENLINEAGE), after.providers.get(OPENLINEAGE)),
        ):
            if new and old != new and not re.search(rf"{re.escape(f'{name} {new}')}(?!\.?\w)", changelog):
                found.append(f"{after.tag}: {name} {new} is not named")
    return found


def _alone(release: Release) -> Iterator[str]:
    tag, airflow = release.tag, Version(release.airflow)
    if tag.of_airflow and (airflow.major, airflow.minor) != (tag.major, tag.minor):
        yield f"it has Airflow {airflow}, and its tag says {tag.major}.{tag.minor}"
    for end in (release.end_of_maintenance, release.end_of_basic_support):
        if end is not None and end <= release.release_date:
            yield f"it ends on {end}, and appears on {release.release_date}"
    if release.yanked is not bool(release.yanked_reason):
        yield "a release that is yanked has a reason, and no other one has"
    if release.python is not None and release.python not in release.pythons:
        yield f"its own Python {release.python} is not among {', '.join(release.pythons)}"
    if tag.of_airflow:
        yield from _of_today(release)


def _of_today(release: Release) -> Iterator[str]:
    """What the older form of tags did not promise."""
    if len(release.pythons) != 1:
        yield f"it has the Pythons {', '.join(release.pythons)}, and each release has one"
    days = (release.end_of_maintenance - release.release_date).days if release.end_of_maintenance else None
    if days not in HALF_A_YEAR:
        yield f"it is maintained for {days} days, and not for half a year"


def _step(before: Release, after: Release) -> Iterator[str]:
    """What must not differ between two that follow each other in the order of their tags."""
    old, new = Version(before.airflow), Version(after.airflow)
    if (new.major, new.minor) < (old.major, old.minor):
        yield f"Airflow falls from {old} to {new}"
    if before.tag.series == after.tag.series:
        yield from _patch(before, after)
        return
    if (
        not after.tag.of_airflow
        and before.tag.major == after.tag.major
        and old.release[:2] != new.release[:2]
    ):
        yield f"Airflow {old} becomes {new}, which needs a new major version"


def _patch(before: Release, after: Release) -> Iterator[str]:
    if after.tag.patch != before.tag.patch + 1:
        yield "a number is left out"
    if after.release_date < before.release_date:
        yield "it appears earlier"
    if (after.python, after.pythons) != (before.python, before.pythons):
        yield "a patch release keeps its Python"
    if before.channel == "stable" and after.channel in ("alpha", "beta"):
        yield f"it is {after.channel} after a stable one"
    if (after.debian, after.debian_name) != (before.debian, before.debian_name):
        yield f"a patch release keeps Debian {before.debian}"
    had = {"apache-airflow": before.airflow, "astronomer-providers": before.package, **before.providers}
    has = {"apache-airflow": after.airflow, "astronomer-providers": after.package, **after.providers}
    for name, old in had.items():
        if old:
            yield from _package(name, Version(old), has.get(name))


def _package(name: str, old: Version, text: str | None) -> Iterator[str]:
    if text is None:
        yield f"a patch release keeps {name}"
    elif (new := Version(text)) < old:
        yield f"{name} falls from {old} to {new}"
    elif new.major != old.major or (name == "apache-airflow" and new.minor != old.minor):
        yield f"{name} {old} becomes {new}, which a patch release must not"
