"""Every credential of a stand-in, kept so that a test can search for it."""

from __future__ import annotations

__all__ = ["Issued"]


class Issued:
    """What was ever given out or accepted as a credential, also after it has expired or was replaced."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def note(self, what: str, value: str) -> str:
        """Keep a credential, named by what it is, and return it."""
        self._known.setdefault(value, what)
        return value

    def all(self) -> dict[str, str]:
        """Return credential -> what it is."""
        return dict(self._known)
