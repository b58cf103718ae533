"""What the commands ``airflow runtime …`` do."""

from __future__ import annotations

import platform
import sys
from argparse import Namespace
from datetime import date, datetime, timezone
from importlib.metadata import version as installed
from typing import Any

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from rich.markup import escape

from astronomer.runtime.notice import notices
from astronomer.runtime.source import Source, running
from astronomer.runtime.versions import Manifest, Release, Tag

__all__ = ["version", "versions"]

NO_IMAGE = "none: this is not a Runtime image (ASTRONOMER_RUNTIME_VERSION is not set)"
NO_TAG = "unknown: ASTRONOMER_RUNTIME_VERSION is not the tag of a release"


@suppress_logs_and_warning
@providers_configuration_loaded
def version(args: Namespace) -> None:
    """Print the image's release, what runs in it, and every notice. Outside an image it says so."""
    tag, runtime = _running()
    manifest = Source.configured().manifest() if tag else Manifest({})
    release = manifest.releases.get(tag.release) if tag else None
    said = notices(tag, manifest, _today()) if tag else []
    facts: dict[str, Any] = {
        "runtime": runtime,
        "airflow": installed("apache-airflow-core"),
        "astronomer-providers": installed("astronomer-providers"),
        "python": platform.python_version(),
    }
    if release:
        facts |= {"channel": release.channel, "end of maintenance": _day(release.end_of_maintenance)}
    _print_facts(facts, [str(notice) for notice in said], args.output)
    _tell(manifest)


@suppress_logs_and_warning
@providers_configuration_loaded
def versions(args: Namespace) -> None:
    """Print all releases that are known, newest first. The one that runs is marked."""
    tag, runtime = _running()
    manifest = Source.configured().manifest()
    _tell(manifest)
    rows = [_row(other, one, tag, args.output) for other, one in reversed(manifest.releases.items())]
    if not rows and args.output in ("table", "plain"):
        AirflowConsole().print(
            f"No release is known. This image: {runtime}. The list is in the image, or is named by "
            "\\[astronomer_runtime] versions_url.",
            soft_wrap=True,
        )
        return
    AirflowConsole().print_as(rows, output=args.output)


def _running() -> tuple[Tag | None, str]:
    try:
        tag = running()
    except ValueError:
        return None, NO_TAG
    return tag, str(tag) if tag else NO_IMAGE


def _tell(manifest: Manifest) -> None:
    """Say what could not be read, beside the output: that may be for a program."""
    for words in manifest.troubles:
        sys.stderr.write(f"{words}\n")


def _print_facts(facts: dict[str, Any], said: list[str], output: str) -> None:
    console = AirflowConsole()
    if output == "json":
        console.print_as_json({**facts, "notices": said})
    elif output == "yaml":
        console.print_as_yaml({**facts, "notices": said})
    else:
        console.print_as([{"name": name, "value": value} for name, value in facts.items()], output=output)
        for line in said:
            console.print(escape(line), soft_wrap=True)


def _row(tag: Tag, release: Release, mine: Tag | None, output: str) -> dict[str, str]:
    row = {
        "runtime": str(tag),
        "airflow": release.airflow,
        "astronomer-providers": release.package or "",
        "python": release.python or "",
        "debian": release.debian or "",
        "channel": release.channel,
        "released": str(release.release_date),
        "end of maintenance": _day(release.end_of_maintenance),
        "note": _note(tag, release, mine),
    }
    return {name: escape(value) for name, value in row.items()} if output == "table" else row


def _note(tag: Tag, release: Release, mine: Tag | None) -> str:
    notes = ["this image"] if mine and mine.release == tag else []
    if release.yanked:
        notes.append(f"withdrawn: {release.yanked_reason}" if release.yanked_reason else "withdrawn")
    elif release.end_of_maintenance and release.end_of_maintenance < _today():
        notes.append("maintenance ended")
    return ", ".join(notes)


def _day(day: date | None) -> str:
    return str(day) if day else ""


def _today() -> date:
    return datetime.now(tz=timezone.utc).date()
