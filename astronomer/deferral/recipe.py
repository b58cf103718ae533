"""An operator as plain JSON: how it is written down when a Dag is parsed, and made again in a triggerer."""

from __future__ import annotations

import importlib
import json
import sys
import sysconfig
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from astronomer.deferral import _compat_worker_free as _compat

__all__ = ["Unwritable", "decode", "encode", "is_installed", "load", "path_of"]

_KIND = "__astronomer"

_MOST = 45_000
"""Characters of a recipe. Encrypted, they are a third more, and MySQL keeps 65,535 bytes of a trigger: the scheduler
could not write a longer one."""


class Unwritable(ValueError):
    """A value that cannot travel to the triggerer, and why."""


def encode(value: Any, name: str) -> Any:
    """The value as plain JSON.

    :param name: of the argument, for the message.
    :raises Unwritable: it is a function of the Dag file, or an object that only it knows.
    """
    if isinstance(value, Enum) and isinstance(value, (str, int)):
        return encode(value.value, name)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return _encode_mapping(value, name)
    if isinstance(value, list):
        return [encode(one, name) for one in value]
    if isinstance(value, (tuple, set, frozenset)) and not hasattr(value, "_fields"):
        encoded = [encode(one, name) for one in value]
        if isinstance(value, tuple):
            return {_KIND: "tuple", "value": encoded}
        # In one order, because another one would be another version of the Dag.
        return {_KIND: "set", "value": sorted(encoded, key=repr)}
    return _encode_object(value, name)


def _encode_object(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, timedelta):
        return {_KIND: "timedelta", "value": value.total_seconds()}
    if isinstance(value, datetime):
        return {_KIND: "datetime", "value": value.isoformat()}
    if isinstance(value, date):
        return {_KIND: "date", "value": value.isoformat()}
    if (reference := _compat.plain_xcom_reference(value)) is not None:
        return {_KIND: "xcom", "value": reference}
    if callable(value):
        return {_KIND: "function", "value": _path_of_function(value, name)}
    raise Unwritable(f"`{name}` holds {_described(value)}, which only the Dag file knows")


def decode(value: Any, pull: Callable[[str, str], Any]) -> Any:
    """The inverse of :func:`encode`.

    :param pull: what stands for the XCom of a task under a key.
    :raises Unwritable: it is of a kind that only a newer release knows.
    """
    if isinstance(value, list):
        return [decode(one, pull) for one in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: decode(one, pull) for key, one in value.items()}
    kind, content = value[_KIND], value["value"]
    if kind == "xcom":
        return pull(*content)
    if kind not in _MAKERS:
        raise Unwritable(f"it was written by another release of this package, which knows of `{kind}`")
    return _MAKERS[kind](decode(content, pull))


def load(path: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def path_of(found: Any) -> str:
    """``module:name`` of a class or function."""
    return f"{found.__module__}:{found.__qualname__}"


def is_installed(module: str) -> bool:
    """Whether a module is one of an installed package, which a triggerer has, too."""
    if module.partition(".")[0] in {"astronomer", "airflow"}:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and any(Path(file).is_relative_to(place) for place in _places())


@cache
def _places() -> tuple[str, ...]:
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    return tuple({sysconfig.get_path(name) for name in names})


def _encode_mapping(value: Mapping[Any, Any], name: str) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in value):
        raise Unwritable(f"`{name}` holds a mapping whose keys are no texts")
    if hidden := next((key for key in value if _compat.names_a_secret(key) and value[key]), None):
        raise Unwritable(
            f"`{name}` holds {hidden!r}, which looks like a secret and must not be stored with the Dag; "
            "an Airflow connection can hold it"
        )
    encoded = {key: encode(one, name) for key, one in value.items()}
    return {_KIND: "dict", "value": list(map(list, encoded.items()))} if _KIND in encoded else encoded


def _path_of_function(value: Any, name: str) -> str:
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or "<" in qualname or not is_installed(module):
        raise Unwritable(f"`{name}` is a function that only the Dag file knows")
    path = f"{module}:{qualname}"  # a `functools.partial` has a module, and no name
    try:
        same = load(path) is value
    except (ImportError, AttributeError):
        same = False
    if not same:
        raise Unwritable(f"`{name}` is {_described(value)}, which cannot be named")
    return path


def _described(value: Any) -> str:
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "dict": dict,
    "timedelta": lambda seconds: timedelta(seconds=seconds),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "function": load,
}


def written(recipe: Mapping[str, Any]) -> str:
    """The recipe as one text, which no step of Airflow's own serialisation can change.

    :raises Unwritable: a number in it is none that JSON has, or it is too long.
    """
    try:
        # Not sorted: the order of mapped arguments says which values belong to which map index.
        text = json.dumps(dict(recipe), allow_nan=False)
    except ValueError as error:
        raise Unwritable(f"an argument cannot be written as JSON: {error}") from None
    if (size := len(json.dumps(text))) > _MOST:
        raise Unwritable(
            f"its arguments, with templates from files, take {size} characters, and a trigger has room for {_MOST}"
        )
    return text
