"""Airflow's questions, each answered by one look at the roles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from astronomer.runtime.roles import holds_secrets, is_privileged
from astronomer.runtime.user import RuntimeUser

if TYPE_CHECKING:
    from airflow.api_fastapi.common.types import MenuItem

    from astronomer.runtime.audit import Audit
    from astronomer.runtime.settings import Settings

__all__ = ["Permissions"]


def _word(value: Any) -> str:
    """The text of an enum or of what stands for one: Airflow passes both."""
    return str(getattr(value, "value", value))


class Permissions:
    """The part of an auth manager that says who may do what.

    A later Airflow may ask with more arguments, or of resources that have no name yet: only admins have those.
    """

    audit: Audit

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """What the roles may do, among others."""

    def _may(self, user: RuntimeUser, resource: str, method: Any) -> bool:
        return self.settings.policy.allows(user.roles, resource, _word(method))

    def _asked(self, user: RuntimeUser, resource: str, method: Any) -> bool:
        """Answer for a request, and keep what is remarkable about it."""
        action = _word(method)
        allowed = self._may(user, resource, action)
        if not allowed:
            self.audit.access_refused(user.subject, user.roles, resource, action, user.session)
        elif is_privileged(resource, action):
            self.audit.changed(user.subject, user.roles, resource, action, user.session)
        elif holds_secrets(resource):
            self.audit.read(user.subject, user.roles, resource, user.session)
        return allowed

    def is_authorized_configuration(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to the configuration."""
        return self._asked(user, "configuration", method)

    def is_authorized_connection(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to a connection."""
        return self._asked(user, "connection", method)

    def is_authorized_dag(
        self, *, method: Any, user: RuntimeUser, access_entity: Any = None, **_: Any
    ) -> bool:
        """Whether the user may do that to a Dag, or to something of a Dag."""
        return self._asked(user, _dag(access_entity), method)

    def is_authorized_asset(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to an asset."""
        return self._asked(user, "asset", method)

    def is_authorized_asset_alias(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to an asset alias."""
        return self._asked(user, "asset_alias", method)

    def is_authorized_pool(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to a pool."""
        return self._asked(user, "pool", method)

    def is_authorized_team(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to a team."""
        return self._asked(user, "team", method)

    def is_authorized_variable(self, *, method: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may do that to a variable."""
        return self._asked(user, "variable", method)

    def is_authorized_view(self, *, access_view: Any, user: RuntimeUser, **_: Any) -> bool:
        """Whether the user may see a page about the installation."""
        return self._asked(user, f"view.{_word(access_view).lower()}", "GET")

    def is_authorized_custom_view(
        self, *, method: Any, resource_name: str, user: RuntimeUser, **_: Any
    ) -> bool:
        """Whether the user may do that to what a plugin brings along."""
        return self._asked(user, f"custom_view.{resource_name}", method)

    def filter_authorized_menu_items(
        self, menu_items: list[MenuItem], *, user: RuntimeUser
    ) -> list[MenuItem]:
        """Return the items of the menu that the user sees."""
        return [item for item in menu_items if self.settings.policy.shows(user.roles, item.name)]

    # Airflow's defaults ask for each id on its own; a role knows no ids.

    def filter_authorized_connections(
        self, *, conn_ids: set[str], user: RuntimeUser, method: Any = "GET", **_: Any
    ) -> set[str]:
        """Return the connections of these that the user may do that to: all or none."""
        return conn_ids if self._may(user, "connection", method) else set()

    def filter_authorized_dag_ids(
        self, *, dag_ids: set[str], user: RuntimeUser, method: Any = "GET", **_: Any
    ) -> set[str]:
        """Return the Dags of these that the user may do that to: all or none."""
        return dag_ids if self._may(user, "dag", method) else set()

    def filter_authorized_pools(
        self, *, pool_names: set[str], user: RuntimeUser, method: Any = "GET", **_: Any
    ) -> set[str]:
        """Return the pools of these that the user may do that to: all or none."""
        return pool_names if self._may(user, "pool", method) else set()

    def filter_authorized_variables(
        self, *, variable_keys: set[str], user: RuntimeUser, method: Any = "GET", **_: Any
    ) -> set[str]:
        """Return the variables of these that the user may do that to: all or none."""
        return variable_keys if self._may(user, "variable", method) else set()

    def batch_is_authorized_dag(self, requests: Sequence[Any], *, user: RuntimeUser) -> bool:
        """Whether the user may do all of that."""
        asked = {(_dag(one.get("access_entity")), _word(one["method"])) for one in requests}
        return all(self._asked(user, resource, method) for resource, method in sorted(asked))

    def batch_is_authorized_connection(self, requests: Sequence[Any], *, user: RuntimeUser) -> bool:
        """Whether the user may do all of that."""
        return self._batch("connection", requests, user)

    def batch_is_authorized_pool(self, requests: Sequence[Any], *, user: RuntimeUser) -> bool:
        """Whether the user may do all of that."""
        return self._batch("pool", requests, user)

    def batch_is_authorized_variable(self, requests: Sequence[Any], *, user: RuntimeUser) -> bool:
        """Whether the user may do all of that."""
        return self._batch("variable", requests, user)

    def _batch(self, resource: str, requests: Sequence[Any], user: RuntimeUser) -> bool:
        # Airflow asks of nothing for a list of no changes: that is no way round the question.
        methods = {_word(one["method"]) for one in requests} or {"PUT"}
        return all(self._asked(user, resource, method) for method in sorted(methods))


def _dag(access_entity: Any) -> str:
    return "dag" if access_entity is None else f"dag.{_word(access_entity).lower()}"
