"""The control endpoint from another process."""

from __future__ import annotations

from typing import Any

from astronomer.lab import client

__all__ = ["LabClient"]


class LabClient(client.LabClient):
    """Steers a ``DatabricksLab`` that runs in another process, with its verbs."""

    @property
    def active(self) -> int:
        """How many runs have not ended."""
        return int(self.health()["active"])

    def runs(self, *, state: str = "", active: bool = False) -> list[dict[str, Any]]:
        """Return the runs, oldest first, of that result or life cycle, or those that go on."""
        return list(self._get("runs", **_selected(state, active)))

    def statements(self, *, state: str = "", active: bool = False) -> list[dict[str, Any]]:
        """Return the SQL statements, oldest first, of that state, or those that go on."""
        return list(self._get("statements", **_selected(state, active)))

    def seed(self, count: int, **options: Any) -> list[int]:
        """Start many runs that only wait, and return their ids; see ``seeding.seed``."""
        return list(self._post("seed", count=count, **options)["run_ids"])

    def advance(self, seconds: float) -> float:
        """Let so much time pass at once, and return the lab's time."""
        return float(self._post("clock", advance=seconds)["now"])

    def set_speed(self, speed: float) -> None:
        """Change how many seconds of the lab pass per second."""
        self._post("clock", speed=speed)

    def set_quotas(self, factor: float) -> None:
        """Multiply the real limits; 0 is none at all."""
        self._post("quotas", factor=factor)

    def credentials(self) -> dict[str, str]:
        """Return the personal access token, and id and secret of the service principal."""
        return dict(self._get("credentials"))

    def rotate_token(self) -> str:
        """Return a new personal access token; the old one is invalid."""
        return str(self._post("credentials", rotate_token=True)["token"])

    def rotate_secret(self) -> str:
        """Return a new client secret; the old one is invalid."""
        return str(self._post("credentials", rotate_secret=True)["client_secret"])

    def expire_tokens(self) -> None:
        """End every OAuth token now."""
        self._post("credentials", expire_tokens=True)

    def cancel_by_user(self, run_id: int) -> None:
        """Cancel a run as somebody does in the workspace's pages."""
        self._post("end", run_id=run_id)

    def delete_run(self, run_id: int) -> None:
        """Delete a run, whatever its state."""
        self._post("end", run_id=run_id, delete=True)

    def cancel_statement_by_user(self, statement_id: str) -> bool:
        """Cancel a statement as somebody does in the workspace's pages, and return whether it had not ended."""
        return bool(self._post("end", statement_id=statement_id)["canceled"])


def _selected(state: str, active: bool) -> dict[str, str]:
    return {**({"state": state} if state else {}), **({"active": "1"} if active else {})}
