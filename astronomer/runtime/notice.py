"""What a user of a release should know: a newer one, the end of its maintenance, that it was withdrawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from astronomer.runtime.versions import Channel, Manifest, Release, Tag

__all__ = ["Notice", "notices"]

SOON = 90
"""Days before the end of maintenance from which on a notice says so."""

_TRIED: dict[Channel, int] = {"alpha": 1, "beta": 2, "stable": 3}


@dataclass(frozen=True)
class Notice:
    """One sentence for a person.

    :param text: our words, and what the manifest's checks let through: versions and dates.
    :param quoted: words of the manifest as they are.
    """

    level: Literal["info", "warning", "error"]
    text: str
    quoted: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.quoted}".strip()

    @property
    def markdown(self) -> str:
        """The sentence for a page: what is quoted is code, so that it makes no link, no image and no markup."""
        return f"{self.text} `{self.quoted.replace('`', chr(39))}`" if self.quoted else self.text


def notices(running: Tag, manifest: Manifest, today: date) -> list[Notice]:
    """What is to be said about a release on that day, the gravest first."""
    tag = running.release
    release = manifest.releases.get(tag)
    found = [*_abandoned(tag, release), *_end(tag, release, today)] if release else []
    return [*found, *_newer(tag, release, manifest, today)]


def _abandoned(tag: Tag, release: Release) -> list[Notice]:
    """What is to be said of a release that its makers have turned away from."""
    if not release.yanked:
        words = f"Runtime {tag} is deprecated: change to another release."
        return [Notice("warning", words)] if release.channel == "deprecated" else []
    because = " Its makers say:" if release.yanked_reason else ""
    text = f"Runtime {tag} has been withdrawn. Change to another release.{because}"
    return [Notice("error", text, release.yanked_reason or "")]


def _end(tag: Tag, release: Release, today: date) -> list[Notice]:
    end = release.end_of_maintenance
    if end is None or (left := (end - today).days) > SOON:
        return []
    if left < 0:
        return [Notice("warning", f"Maintenance of Runtime {tag} ended on {end}: it gets no more fixes.")]
    days = f"{left} day{'' if left == 1 else 's'}"
    return [Notice("warning", f"Maintenance of Runtime {tag} ends in {days}, on {end}.")]


def _newer(tag: Tag, release: Release | None, manifest: Manifest, today: date) -> list[Notice]:
    # Nobody is asked to change to a release that is less tried than his own.
    least = _TRIED.get(release.channel if release else "stable", 3)
    offered = [
        (other, one)
        for other, one in manifest.releases.items()
        if other > tag
        and not one.yanked
        and _TRIED.get(one.channel, 0) >= least
        and one.release_date <= today
        and not (one.end_of_maintenance and one.end_of_maintenance < today)
    ]
    newest = {other.series == tag.series: (other, one) for other, one in offered}
    return [Notice("info", _offer(*newest[same], same)) for same in (True, False) if same in newest]


def _offer(tag: Tag, release: Release, same: bool) -> str:
    what = "with fixes for yours" if same else "of a newer series"
    return f"Runtime {tag} is available, {what} (Airflow {release.airflow})."
