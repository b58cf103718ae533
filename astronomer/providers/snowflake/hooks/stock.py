"""What the stock hook makes of an Airflow connection: the border to what it raises meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral._compat import AirflowNotFoundException, PlainConnection
from astronomer.deferral.login_errors import understood

__all__ = ["ReadHook", "by_stock", "connection_parameters", "fixed_parameters", "place_of"]

T = TypeVar("T")


class ReadHook(SnowflakeHook):
    """The stock hook over a connection that was read before, in the event loop."""

    def __init__(self, connection: PlainConnection, **hook_params: Any) -> None:
        super().__init__(snowflake_conn_id=connection.conn_id, **hook_params)
        self._read = connection

    def get_connection(self, conn_id: str) -> Any:
        """The connection given, whatever the id."""
        return self._read


def by_stock(hook: SnowflakeHook, make: Callable[[], T]) -> T:
    """What the stock hook makes of its connection on the way to a login; for a thread, because it may ask for a token.

    :raises CredentialsRejected: it cannot; an edit of the Airflow connection helps.
    :raises Transient: it cannot just now.
    :raises AirflowNotFoundException: in a worker, which reads connections itself: there is none of that id.
    """
    try:
        return make()
    except Exception as error:
        if isinstance(error, AirflowNotFoundException) and not isinstance(hook, ReadHook):
            raise
        what = f"the stock hook cannot prepare a login with the Airflow connection {hook.get_conn_id()!r}"
        raise understood(error, what) from None


def connection_parameters(hook: SnowflakeHook) -> dict[str, Any]:
    """What the stock hook would pass to the connector: every way to authenticate is its business.

    :raises Transient: as in :func:`by_stock`; with OAuth, a token endpoint is asked.
    """

    def make() -> dict[str, Any]:
        found: Any = hook._get_conn_params  # a property in older providers
        return dict(found() if callable(found) else found)

    return by_stock(hook, make)


def fixed_parameters(hook: SnowflakeHook) -> dict[str, Any]:
    """The same but for a token that expires; nobody is asked for one, unless the provider is an older one."""
    if not hasattr(type(hook), "_get_static_conn_params"):
        return connection_parameters(hook)
    return by_stock(hook, lambda: dict(hook._get_static_conn_params))


def place_of(hook: SnowflakeHook) -> dict[str, Any]:
    """Which account, host and user the connection names; whose token it is, OAuth does not say beforehand."""
    parameters = fixed_parameters(hook)
    account = ".".join(part for part in (parameters.get("account"), parameters.get("region")) if part)
    host = parameters.get("host") or f"{account}.snowflakecomputing.com"
    user = None if parameters.get("authenticator") == "oauth" else parameters.get("user")
    return {"account": account, "host": host, "user": user}
