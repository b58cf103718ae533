"""A property that is found out once, and for which no instance waits for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["lazy_property"]

T = TypeVar("T")


class lazy_property(Generic[T]):  # noqa: N801  # like property
    """``functools.cached_property`` as Python 3.12 has it.

    Before, the standard one holds one lock for all instances of a class while it computes. A step of an operator that
    asks the triggerer's loop for an Airflow connection would hold up those of all other tasks.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> lazy_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> lazy_property[T] | T:
        if instance is None:
            return self
        found = vars(instance)[self._name] = self._compute(instance)
        return found
