"""Who may do what: roles, and the platform's names for them. Data and look-ups; imports no Airflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["ADMIN", "BUILT_IN", "EDITOR", "METHODS", "RESOURCES", "VIEWER", "Policy", "PolicyError", "Role"]

METHODS = ("GET", "POST", "PUT", "DELETE")

RESOURCES = (
    "asset", "asset_alias", "configuration", "connection", "pool", "team", "variable",
    "dag", "dag.audit_log", "dag.code", "dag.dependencies", "dag.hitl_detail", "dag.run", "dag.task",
    "dag.task_instance", "dag.task_logs", "dag.version", "dag.warning", "dag.xcom",
    "view.cluster_activity", "view.docs", "view.import_errors", "view.jobs", "view.plugins", "view.providers",
    "view.triggers", "view.website",
)  # fmt: skip
"""What a permission can be about, beside ``custom_view.<name>`` for what a plugin brings along."""

_CUSTOM_VIEW = "custom_view."

_READ_BY_VIEWERS = frozenset(RESOURCES) - {
    "configuration", "connection", "team", "variable", "dag.audit_log",
    "view.jobs", "view.plugins", "view.providers", "view.triggers",
}  # fmt: skip
_CHANGED_BY_EDITORS = (
    "asset", "asset_alias", "dag", "dag.hitl_detail", "dag.run", "dag.task", "dag.task_instance",
)  # fmt: skip

_MENU = {
    "REQUIRED_ACTIONS": ("dag.hitl_detail", "GET"),
    "ASSETS": ("asset", "GET"),
    "AUDIT_LOG": ("dag.audit_log", "GET"),
    "CONFIG": ("configuration", "GET"),
    "CONNECTIONS": ("connection", "GET"),
    "DAGS": ("dag", "GET"),
    "DEADLINES": ("dag.run", "GET"),
    "DOCS": ("view.docs", "GET"),
    "JOBS": ("view.jobs", "GET"),
    "PLUGINS": ("view.plugins", "GET"),
    # The UI reads pools and XComs in many places, so every role may. Their pages are for who may change them.
    "POOLS": ("pool", "PUT"),
    "PROVIDERS": ("view.providers", "GET"),
    "VARIABLES": ("variable", "GET"),
    "XCOMS": ("dag.xcom", "PUT"),
}


class PolicyError(ValueError):
    """The roles as configured make no sense; the message has every reason."""


@dataclass(frozen=True)
class Role:
    """A set of permissions: pairs of a resource and a method.

    :param everything: also what has no name yet, such as a page of a later Airflow.
    """

    name: str
    permissions: frozenset[tuple[str, str]] = frozenset()
    everything: bool = False

    def allows(self, resource: str, method: str) -> bool:
        """Whether the role may do that."""
        return self.everything or (resource, method) in self.permissions


VIEWER = Role("viewer", frozenset((resource, "GET") for resource in _READ_BY_VIEWERS))
EDITOR = Role(
    "editor",
    VIEWER.permissions | {(resource, method) for resource in _CHANGED_BY_EDITORS for method in METHODS},
)
ADMIN = Role("admin", everything=True)
BUILT_IN = {role.name: role for role in (VIEWER, EDITOR, ADMIN)}

_NAMES = {
    **{name: name for name in BUILT_IN},
    "Viewer": "viewer", "User": "editor", "Op": "admin", "Admin": "admin",
}  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """Every role of a deployment, and which names of the platform stand for which.

    :param names: the platform's name of a role -> our name of it; any other name gives no role.
    """

    roles: Mapping[str, Role] = field(default_factory=lambda: dict(BUILT_IN))
    names: Mapping[str, str] = field(default_factory=lambda: dict(_NAMES))

    @classmethod
    def configured(cls, role_map: str | None = None, role_permissions: Path | None = None) -> Policy:
        """Return the policy with further roles and another map.

        :param role_map: JSON object, the platform's name -> our name. It replaces the names that are known by default.
        :param role_permissions: a JSON file, name -> ``{"includes": <role>, "permissions": ["<resource>:<method>"]}``.
        :raises PolicyError: one of them makes no sense.
        """
        problems: list[str] = []
        roles = {**BUILT_IN, **_further_roles(role_permissions, problems)}
        names = (
            {**_NAMES, **{name: name for name in roles}} if not role_map else _map(role_map, roles, problems)
        )
        if problems:
            raise PolicyError("; ".join(problems))
        return cls(roles, names)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the map: what stands for other roles has others."""
        return hashlib.sha256(json.dumps(sorted(self.names.items())).encode()).hexdigest()[:16]

    def of(self, platform_names: Iterable[str]) -> tuple[str, ...]:
        """Return our names of the roles that the platform's names stand for."""
        return tuple(sorted({self.names[name] for name in platform_names if name in self.names}))

    def allows(self, role_names: Iterable[str], resource: str, method: str) -> bool:
        """Whether one of the roles may do that; a role that no longer exists may nothing."""
        return any(self.roles[name].allows(resource, method) for name in role_names if name in self.roles)

    def shows(self, role_names: Iterable[str], menu_item: str) -> bool:
        """Whether one of the roles sees an item of the menu, named as Airflow's ``MenuItem`` does."""
        return self.allows(role_names, *_MENU.get(menu_item, (f"menu.{menu_item}", "GET")))


def is_privileged(resource: str, method: str) -> bool:
    """Whether that is a change which no editor may make."""
    return method != "GET" and not EDITOR.allows(resource, method)


def holds_secrets(resource: str) -> bool:
    """Whether who reads that may see passwords."""
    return resource in {"configuration", "connection", "variable"}


def _map(text: str, roles: Mapping[str, Role], problems: list[str]) -> dict[str, str]:
    found = _object(text, "role_map", problems)
    for name, role in found.items():
        if not isinstance(role, str) or role not in roles:
            problems.append(
                f"role_map: {name!r} stands for {role!r}, which is none of {', '.join(sorted(roles))}"
            )
    return found


def _further_roles(path: Path | None, problems: list[str]) -> dict[str, Role]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"role_permissions: {path} cannot be read: {error}")
        return {}
    described = _object(text, f"role_permissions ({path})", problems)
    return {name: _further_role(name, what, problems) for name, what in described.items()}


def _further_role(name: str, what: Any, problems: list[str]) -> Role:
    where = f"role_permissions: {name!r}"
    if name in _NAMES:
        problems.append(f"{where} is a name that Runtime or Airflow has given a meaning; choose another")
    if not isinstance(what, dict) or set(what) - {"includes", "permissions"}:
        problems.append(f'{where} is no object of "includes" and "permissions"')
        return Role(name)
    included = what.get("includes")
    if included not in (None, "viewer", "editor"):
        problems.append(f"{where} includes {included!r}, which is neither viewer nor editor")
        included = None
    permissions = set(BUILT_IN[included].permissions) if included else set()
    listed = what.get("permissions", [])
    if not isinstance(listed, list):
        problems.append(f'{where} has "permissions" that are no list')
        return Role(name)
    for text in listed:
        permissions |= _permission(where, text, problems)
    return Role(name, frozenset(permissions))


def _permission(where: str, text: Any, problems: list[str]) -> set[tuple[str, str]]:
    resource, colon, method = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not colon:
        problems.append(f"{where} has the permission {text!r}, which is not of the form resource:method")
        return set()
    named = resource.startswith(_CUSTOM_VIEW) and resource != _CUSTOM_VIEW
    if resource not in RESOURCES and not named:
        problems.append(
            f"{where} names the unknown resource {resource!r}; known: {', '.join(RESOURCES)}, custom_view.<name>"
        )
    # The method of a custom view is whatever its plugin asks for.
    if method != "*" and method not in METHODS and not named:
        problems.append(f"{where} names the unknown method {method!r}; known: {', '.join(METHODS)}, *")
    return {(resource, one) for one in (METHODS if method == "*" else (method,))}


def _object(text: str, where: str, problems: list[str]) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        problems.extend(f"{where} has {name!r} more than once" for name in twice)
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        problems.append(f"{where} is no JSON: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{where} is no JSON object")
        return {}
    return found
