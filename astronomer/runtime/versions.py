"""Runtime releases: their tags, their order, and the manifest that lists them. Imports no Airflow."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from functools import total_ordering
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

__all__ = ["MAX_BYTES", "Channel", "Manifest", "ManifestError", "Release", "Tag"]

MAX_BYTES = 1_048_576
"""The largest manifest that is read; the public one, with every release since 2021, has a quarter of it."""

Channel = Literal["stable", "beta", "alpha", "deprecated"]

_NUMBER = r"(0|[1-9]\d{0,4})"
_VARIANT = r"(?:-python-(?P<python>\d\.\d{1,2}))?(?P<slim>-slim)?(?P<base>-base)?"
_OF_AIRFLOW = re.compile(rf"{_NUMBER}\.{_NUMBER}-{_NUMBER}{_VARIANT}", re.ASCII)
_OLDER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}{_VARIANT}", re.ASCII)
_MAX_WORDS = 200


class ManifestError(ValueError):
    """The manifest cannot be read. The message names the first thing that is wrong: mend it, or the URL."""


@total_ordering
@dataclass(frozen=True)
class Tag:
    """The tag of an image: ``3.3-1``, ``3.3-1-base``, or the older ``7.2.0-python-3.10-slim-base``.

    Tags are ordered as the releases are: by number, and the form of Airflow 3 after the older one. Of one release,
    the plain image comes first.

    :param of_airflow: the form of Airflow 3: ``major.minor`` are Airflow's, and a hyphen precedes ``patch``.
    :param python: of an image with a Python other than the release's own, or an empty text.
    """

    major: int
    minor: int
    patch: int
    of_airflow: bool = True
    python: str = ""
    slim: bool = False
    base: bool = False

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read a tag.

        :raises ValueError: it has neither form.
        """
        for form in (_OF_AIRFLOW, _OLDER):
            if found := form.fullmatch(text):
                major, minor, patch = (int(number) for number in found.groups()[:3])
                variant = {"slim": bool(found["slim"]), "base": bool(found["base"])}
                return cls(major, minor, patch, form is _OF_AIRFLOW, found["python"] or "", **variant)
        raise ValueError(
            f"{text!r} is no tag of a Runtime: expected a form like 3.3-1, 3.3-1-base or 7.2.0-base"
        )

    @property
    def release(self) -> Tag:
        """The release that the image is a variant of."""
        return Tag(self.major, self.minor, self.patch, self.of_airflow)

    @property
    def series(self) -> tuple[bool, int, int]:
        """What all releases that differ in ``patch`` alone have in common."""
        return self.of_airflow, self.major, self.minor

    @property
    def semantic(self) -> str:
        """The semantic version, ``major.minor.patch``, in either form."""
        return f"{self.major}.{self.minor}.{self.patch}"

    def __str__(self) -> str:
        number = f"{self.major}.{self.minor}{'-' if self.of_airflow else '.'}{self.patch}"
        python = f"-python-{self.python}" if self.python else ""
        return f"{number}{python}{'-slim' * self.slim}{'-base' * self.base}"

    def __lt__(self, other: object) -> bool:
        return self._order() < other._order() if isinstance(other, Tag) else NotImplemented

    def _order(self) -> tuple[object, ...]:
        python = tuple(int(number) for number in self.python.split(".") if number)
        return *self.series, self.patch, python, self.slim, self.base


def _plain(words: str) -> str:
    """One line without control characters: no log line, no terminal and no page obeys it."""
    return " ".join("".join(one if one.isprintable() else " " for one in words).split())[:_MAX_WORDS]


_Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+!]{0,39}$")]
_Python = Annotated[str, Field(pattern=r"^[0-9]\.[0-9]{1,2}$")]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
_Words = Annotated[str, AfterValidator(_plain)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=False)


class _Metadata(_Part):
    airflow: _Version = Field(alias="airflowVersion")
    channel: Channel
    release_date: date
    end_of_basic_support: date | None = None
    end_of_maintenance: date | None = None
    pythons: tuple[_Python, ...] = Field(default=(), alias="pythonVersions")
    python: _Python | None = Field(default=None, alias="defaultPythonVersion")
    yanked: bool = False
    yanked_reason: _Words | None = None
    debian: _Version | None = Field(default=None, alias="debianVersion")
    debian_name: _Name | None = None
    package: _Version | None = Field(default=None, alias="packageVersion")
    providers: dict[_Name, _Version] = {}


class Release(_Metadata):
    """One release, and what its image holds.

    ``debian``, ``debian_name``, ``package`` and ``providers`` are this project's own: a manifest of others lacks them.

    :param tag: names the release, and no variant.
    :param package: the version of this distribution.
    :param providers: distribution -> version.
    :param migrates: whether Airflow's database changes.
    """

    tag: Tag
    migrates: bool = False


class _Migrations(_Part):
    airflow_database: bool = False


class _Entry(_Part):
    metadata: _Metadata
    migrations: _Migrations = _Migrations()


class _File(_Part):
    runtime_versions: dict[str, Any] = {}
    runtime_versions_v3: dict[str, Any] = Field(default={}, alias="runtimeVersionsV3")


@dataclass(frozen=True)
class Manifest:
    """Every release that is known.

    :param releases: by tag, the oldest first.
    :param troubles: what could not be read, a sentence each.
    """

    releases: dict[Tag, Release]
    troubles: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: bytes | str) -> Manifest:
        """Read the JSON of a manifest.

        Entries whose tags have another form than these are left out, and so are those that do not say what they have
        to, each with one of the ``troubles``: a later manifest may have words that are not known here.

        :raises ManifestError: it is too long, or is no JSON of that shape.
        """
        if len(text) > MAX_BYTES:
            raise ManifestError(f"the manifest is longer than {MAX_BYTES} bytes")
        try:
            file = _File.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ManifestError(_first(error)) from error
        troubles: list[str] = []
        older = _tagged(file.runtime_versions, False, troubles)
        newer = _tagged(file.runtime_versions_v3, True, troubles)
        found = sorted([*older, *newer], key=lambda one: one.tag)
        return cls({one.tag: one for one in found}, tuple(troubles))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the file of a manifest.

        :raises OSError: there is no such file, or it cannot be read.
        :raises ManifestError: it is no manifest.
        """
        with path.open("rb") as file:
            return cls.parse(file.read(MAX_BYTES + 1))

    def newest(self) -> Release:
        """The release that comes last.

        :raises ManifestError: there is none.
        """
        if not self.releases:
            raise ManifestError("the manifest has no release")
        return list(self.releases.values())[-1]

    def __or__(self, other: Manifest) -> Manifest:
        """Both manifests; where they differ, the other one's word."""
        both = {**self.releases, **other.releases}
        return Manifest({tag: both[tag] for tag in sorted(both)}, self.troubles + other.troubles)


def _tagged(entries: dict[str, Any], of_airflow: bool, troubles: list[str]) -> list[Release]:
    found = []
    for text, listed in entries.items():
        try:
            tag = Tag.parse(text)
        except ValueError:
            continue
        if tag != tag.release or tag.of_airflow is not of_airflow:
            continue
        try:
            entry = _Entry.model_validate_json(json.dumps(listed), strict=True)
        except ValidationError as error:
            troubles.append(f"Left out Runtime {tag}, whose entry cannot be read: {_first(error)}")
            continue
        migrates = entry.migrations.airflow_database
        found.append(Release.model_construct(tag=tag, migrates=migrates, **dict(entry.metadata)))
    return found


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = _plain(".".join(str(part) for part in first["loc"])) or "the file"
    return f"{where}: {_plain(first['msg'])}"
