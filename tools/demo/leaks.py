"""Whether a credential stands in anything that the demo has written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from tools.demo.environment import OtherPlaces, Places
from tools.demo.secrets import Search, Secret

__all__ = ["Lab", "airflow_secrets", "lab_secrets", "leaks"]

_SECRET_FIELD = re.compile(r"(password|passphrase|secret|token|key_content|_pwd)$", re.IGNORECASE)
_AIRFLOW = {
    "AIRFLOW__CORE__FERNET_KEY": "fernet key",
    "AIRFLOW__API__SECRET_KEY": "secret key of the API",
    "AIRFLOW__API_AUTH__JWT_SECRET": "secret of Airflow's tokens",
}
_CONNECTION = "AIRFLOW_CONN_"


class Lab(Protocol):
    """A local service, or the client of one."""

    def secrets(self) -> dict[str, str]:
        """Return credential -> what it is."""


def lab_secrets(labs: Mapping[str, Lab]) -> list[Secret]:
    """Return every credential that local services have ever given out or accepted.

    :param labs: the services, or their clients, by the names they go by.
    """
    return [
        Secret(f"{service}: {what} {number}", value)
        for service, lab in labs.items()
        for number, (value, what) in enumerate(lab.secrets().items(), 1)
    ]


def airflow_secrets(environment: Mapping[str, str], called: str = "Airflow") -> list[Secret]:
    """Return the secrets in the environment of Airflow's processes: its keys, its database's password, connections'.

    :param called: goes before their names.
    """
    found = [Secret(f"{called}: {what}", environment.get(name, "")) for name, what in _AIRFLOW.items()]
    for name, value in environment.items():
        if name.startswith(_CONNECTION):
            conn_id = name.removeprefix(_CONNECTION).lower()
            found += _of_connection(f"{called}: connection {conn_id}", value)
        elif "://" in value and (parts := _url(value)) is not None:
            found.append(Secret(f"{called}: password in {name}", parts[1], parts[0]))
    return [one for one in found if one.value]


def _url(value: str) -> tuple[str, str] | None:
    """The user and the password of a URL."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        return None
    return url.username or "", str(url.password or "")


def _of_connection(name: str, value: str) -> Iterator[Secret]:
    if not value.startswith("{"):
        user, password = _url(value) or ("", "")
        yield Secret(name, password, user)
        return
    fields = json.loads(value)
    user, extra = str(fields.get("login") or ""), fields.get("extra") or {}
    yield Secret(f"{name}, password", str(fields.get("password") or ""), user)
    for field, one in (json.loads(extra) if isinstance(extra, str) else extra).items():
        if _SECRET_FIELD.search(field) and isinstance(one, str):
            yield Secret(f"{name}, {field}", one)


def leaks(
    places: Places,
    environments: Mapping[str, Mapping[str, str]],
    labs: Mapping[str, Lab],
    *,
    passwords: Mapping[str, str] | None = None,
    homes: Collection[Path] = (),
    databases: Collection[str | Engine] = (),
    folders: Collection[Path] = (),
) -> list[str]:
    """Return where a credential stands in what a demo has written; what is empty is well.

    Everything under ``.demo`` is read: logs, homes, files of tasks, databases. Left out are the files that are there to
    hold a credential, by their exact paths, and of the local services' output the connections it is there to print.

    :param environments: of the processes of each Airflow, by its name.
    :param labs: clients of the local services that still run, by name.
    :param passwords: more secrets, by name, such as that of Airflow's user.
    :param homes: more files that hold a credential, such as the ``passwords.json`` of another Airflow.
    :param folders: what else has been written, outside of ``.demo``.
    :param databases: those that are no files in ``.demo``, as URLs of SQLAlchemy's.
    """
    secrets = [one for name, variables in environments.items() for one in airflow_secrets(variables, name)]
    secrets += lab_secrets(labs)
    secrets += [Secret(name, value) for name, value in (passwords or {}).items()]
    keys = {variables.get("AIRFLOW__CORE__FERNET_KEY", "") for variables in environments.values()} - {""}
    search = Search(secrets, keys)
    of_the_lab = {"ca.key", "snowflake.key", "databricks.key", "rsa_key.p8", "rsa_key_encrypted.p8"}
    # A private key's text holds its public half, which is what these are there to tell.
    of_the_lab |= {"ca.pem", "ca-bundle.pem", "snowflake.pem", "databricks.pem"}
    airflows = (places, OtherPlaces(places.root))
    but = {*(one.passwords for one in airflows), *homes, *(places.lab / name for name in of_the_lab)}
    found = search.files(places.state, but, told={places.logs / "local-services.log"})
    for folder in folders:
        found += search.files(folder, but)
    for database in databases:
        found += search.database(database)
    return sorted({str(one) for one in found})
