"""Sessions of the SQL connector: a current catalog and schema, and settings that outlive a statement."""

from __future__ import annotations

import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DEFAULT_CATALOG", "DEFAULT_SCHEMA", "SqlSession", "tags_of"]

DEFAULT_CATALOG = "main"
DEFAULT_SCHEMA = "default"
_TAG = re.compile(r"((?:[^\\,:]|\\.)+)(?::((?:[^\\,]|\\.)*))?")


@dataclass(eq=False)
class SqlSession:
    """One session; a statement of the REST API has one of its own.

    :param compute: the warehouse that it is a session of, or the cluster if ``cluster``.
    :param settings: what ``SET`` and the client's session configuration set, by lower-case name.
    :param cursor: its connection to the data, kept for temporary views once there is one.
    """

    principal: str
    compute: str
    cluster: bool = False
    catalog: str = DEFAULT_CATALOG
    schema: str = DEFAULT_SCHEMA
    settings: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    cursor: Any = None
    kept: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def tags(self) -> dict[str, str | None]:
        """The query tags that its settings give each statement."""
        return tags_of(self.settings.get("query_tags", ""))


def tags_of(text: str) -> dict[str, str | None]:
    """Return the query tags of ``key:value,key:value``, in which a backslash keeps a comma or colon."""
    tags: dict[str, str | None] = {}
    for key, value in _TAG.findall(text):
        plain = re.sub(r"\\(.)", r"\1", value)
        tags[re.sub(r"\\(.)", r"\1", key).strip()] = plain or None
    return tags
