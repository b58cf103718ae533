"""The public face of the stand-in: starts it, steers it, and says how to connect to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from astronomer.lab import control
from astronomer.lab.request_log import Entry
from astronomer.lab.snowflake import monitoring, session_api, sql_api
from astronomer.lab.snowflake.account import DEFAULT_CONTEXT, Account, Settings
from astronomer.lab.snowflake.control import COMMANDS
from astronomer.lab.snowflake.credentials import KeyPair, Login
from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.transactions import Transaction
from astronomer.lab.stand_in import StandIn

__all__ = ["SnowflakeLab"]


class SnowflakeLab(StandIn):
    """A local Snowflake account.

    :param port: the port to listen on; 0 for any free one, known once started.
    :param directory: keeps the certificates and keys, so that a restart uses the same; default a temporary one.
    :param speed: lab seconds per second in scripted waits.
    :param detach_after: seconds before a request for a running query is answered "still running".
    :param session_seconds: validity of a session token; ``master_seconds``: of a master token.
    :param list_limit: the largest number of entries the query list returns.
    :param partition_rows: rows per partition of the SQL API.
    """

    user = "LAB_USER"
    password = "lab-Passw0rd"  # noqa: S105 - a stand-in's secret is public
    passphrase = "lab-passphrase"  # noqa: S105
    account = "lab"
    service = "snowflake"
    cloud_host = f"{account}.snowflakecomputing.com"
    login_path = r"^/session/v1/login-request$"

    def __init__(
        self,
        *,
        port: int = 0,
        directory: Path | None = None,
        speed: float = 1.0,
        detach_after: float = 45.0,
        session_seconds: float = 3600.0,
        master_seconds: float = 14400.0,
        list_limit: int = 10_000,
        partition_rows: int = 10_000,
        on_answer: Callable[[Entry], None] | None = None,
    ) -> None:
        super().__init__(port=port, directory=directory, on_answer=on_answer)
        self._keys = KeyPair.create(self.directory, self.passphrase)
        settings = Settings(speed, detach_after, session_seconds, master_seconds, list_limit, partition_rows)
        self.account_state = Account(self.account, settings, self.issued)
        self.issued.note("passphrase of the private key", self.passphrase)
        self.issued.note("private key of the user", self._keys.plain.read_text())
        self.account_state.credentials.add_user(self.user, self.password)
        self.account_state.credentials.add_key(self.user, self._keys.public)
        self.programmatic_access_token = self.account_state.credentials.new_access_token(self.user)

    # -- life ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        logging.getLogger("sqlglot").setLevel(logging.ERROR)

    async def _end(self) -> None:
        await self.account_state.runner.shut_down()

    def _close(self) -> None:
        self.account_state.database.close()

    # -- how to connect ------------------------------------------------------------------------------------------------

    @property
    def private_key_file(self) -> Path:
        """The private key of ``user``, PKCS#8 PEM, not encrypted."""
        return self._keys.plain

    @property
    def encrypted_private_key_file(self) -> Path:
        """The same key, encrypted with ``passphrase``."""
        return self._keys.encrypted

    def connect_args(self, **over: Any) -> dict[str, Any]:
        """Return the arguments for ``snowflake.connector.connect``."""
        login = {"account": self.account, "user": self.user, "password": self.password}
        where = {"host": self.host, "port": self.port, "protocol": "https"}
        return {**login, **where, **DEFAULT_CONTEXT, **over}

    def airflow_connection(self, *, auth: str = "password", **extra: Any) -> dict[str, Any]:
        """Return an Airflow connection as a dictionary.

        :param auth: ``password``, ``key_pair``, ``key_pair_encrypted``, ``oauth`` or ``pat``.
        :param extra: more fields of the connection's extra.
        """
        ways = self._ways_to_log_in()
        if auth not in ways:
            raise ValueError(f"unknown auth {auth!r}; use one of {', '.join(ways)}")
        login, password, more = ways[auth]
        context = {name: value for name, value in DEFAULT_CONTEXT.items() if name != "schema"}
        where = {"account": self.account, "host": self.host, "port": self.port}
        connection: dict[str, Any] = {
            "conn_type": "snowflake",
            "login": login,
            "schema": DEFAULT_CONTEXT["schema"],
            "extra": {**where, **context, **more, **extra},
        }
        return connection if password is None else {**connection, "password": password}

    def _ways_to_log_in(self) -> dict[str, tuple[str, str | None, dict[str, str]]]:
        """Return login, password and extras of each ``auth``."""
        credentials = self.account_state.credentials
        key = {"private_key_file": str(self.private_key_file)}
        locked = {"private_key_file": str(self.encrypted_private_key_file)}
        oauth = {
            "authenticator": "oauth",
            "grant_type": "client_credentials",
            "token_endpoint": f"{self.url}/oauth/token-request",
        }
        pat = {"authenticator": "programmatic_access_token"}
        return {
            "password": (self.user, self.password, {}),
            "key_pair": (self.user, None, key),
            "key_pair_encrypted": (self.user, self.passphrase, locked),
            "oauth": (credentials.client_id, credentials.client_secret, oauth),
            "pat": (self.user, self.programmatic_access_token, pat),
        }

    def oauth_token(self, seconds: float = 600.0) -> str:
        """Return a new OAuth access token of ``user``."""
        return self._do(lambda: self.account_state.credentials.new_oauth_token(self.user, seconds))

    # -- what happened -------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, and who may log in."""
        return {**super().health(), "account": self.account, "user": self.user}

    @property
    def queries(self) -> Mapping[str, Query]:
        """A copy of id -> query, oldest first; the records themselves are live."""
        return self.account_state.queries.snapshot()

    @property
    def logins(self) -> list[Login]:
        """Every attempt to log in to a session."""
        return list(self.account_state.credentials.logins)

    def open_transactions(self) -> list[Transaction]:
        """Return the transactions that are neither committed nor rolled back, oldest first."""
        return self._do(self.account_state.open_transactions)

    # -- what shall happen ---------------------------------------------------------------------------------------------

    def expire_sessions(self) -> None:
        """Make every session token answer 390112 until it is renewed."""
        self._do(self.account_state.sessions.expire_tokens)

    def expire_masters(self, *, direct: bool = False) -> None:
        """Make every renewal answer 390114; with ``direct`` every request does, as after long idleness."""
        self._do(lambda: self.account_state.expire_masters(direct=direct))

    def expire_results(self) -> None:
        """Make the results of all ended queries answer 000612."""
        self._do(self.account_state.expire_results)

    def rotate_password(self, new: str) -> None:
        """Change the password of ``user``; the old one answers 390100."""
        self._do(lambda: self.account_state.credentials.rotate_password(self.user, new))
        self.password = new

    def revoke_tokens(self) -> None:
        """Make every OAuth and programmatic access token issued so far invalid."""
        self._do(self.account_state.credentials.revoke_tokens)

    def add_user(self, name: str, password: str) -> None:
        """Create another user."""
        self._do(lambda: self.account_state.credentials.add_user(name, password))

    def abort_by_admin(self, query_id: str) -> bool:
        """Cancel a query as from Snowsight, and return whether it still ran."""
        account = self.account_state
        return self._do(lambda: account.abort(account.queries.get(query_id)))

    def set_warehouse(
        self,
        name: str,
        *,
        queued: float = 0.0,
        resuming: float = 0.0,
        concurrency: int | None = None,
        auto_resume: bool = True,
        exists: bool = True,
    ) -> None:
        """Create, change or (``exists=False``) drop a warehouse.

        :param queued: lab seconds every query spends in QUEUED.
        :param resuming: lab seconds in RESUMING_WAREHOUSE; the warehouse is suspended until a query has waited so long.
        :param concurrency: how many queries run at once; the others stay QUEUED.
        :param auto_resume: False makes queries fail with 000606 while it is suspended.
        """
        self._do(
            lambda: self.account_state.warehouses.set(
                name,
                queued=queued,
                resuming=resuming,
                concurrency=concurrency,
                auto_resume=auto_resume,
                exists=exists,
            )
        )

    def suspend_warehouse(self, name: str) -> None:
        """Suspend a warehouse."""
        self._do(lambda: self.account_state.warehouses.suspend(name))

    # ------------------------------------------------------------------------------------------------------------------

    def _application(self) -> Starlette:
        own = [route for part in (session_api, monitoring, sql_api) for route in part.routes()]
        app = Starlette(routes=[*own, *control.routes(self, COMMANDS)])
        app.state.account, app.state.sql_api_requests = self.account_state, {}
        return app

    def _expired(self, path: str) -> tuple[int, Any]:
        if path.startswith(sql_api.PATH):
            return sql_api.unauthorized(SnowflakeError("390144", "08001", "JWT token is invalid."))
        return session_api.expired_reply()
