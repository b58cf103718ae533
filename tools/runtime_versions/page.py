"""The tables of docs/reference/runtime-versions.md."""

from __future__ import annotations

from collections.abc import Sequence

from astronomer.runtime.versions import Manifest, Release
from benchmarks.table import with_numbers

__all__ = ["with_tables"]


def with_tables(page: str, manifest: Manifest) -> str:
    """The page with both tables made anew between their marks.

    :raises ValueError: the page has no marks.
    """
    newest = manifest.newest()
    providers = _table(
        ["Provider", f"In Runtime {newest.tag}"],
        [[f"`{name}`", version] for name, version in sorted(newest.providers.items())],
    )
    return with_numbers(with_numbers(page, "parity", _parity(manifest)), "provider", providers)


def _parity(manifest: Manifest) -> str:
    heads = [
        "Runtime",
        "Airflow",
        "astronomer-providers",
        "Python",
        "Debian",
        "Channel",
        "Released",
        "Maintained until",
    ]
    return _table(heads, [_row(release) for release in reversed(manifest.releases.values())])


def _row(release: Release) -> list[str]:
    return [
        str(release.tag),
        release.airflow,
        release.package or "",
        release.python or "",
        f"{release.debian or ''} {release.debian_name or ''}".strip(),
        release.channel,
        str(release.release_date),
        "withdrawn" if release.yanked else str(release.end_of_maintenance or ""),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])
