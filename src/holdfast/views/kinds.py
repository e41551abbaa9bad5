"""One function for answers of all kinds, made of one for each kind."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Said = TypeVar("Said")


class ByKind(Generic[Said]):
    """A function that depends on the kind of answer it is given.

    As `functools.singledispatch`, but by the names of classes: showing one answer does not import
    the code that makes all the others.

    Args:
        other: For answers of any other kind.
    """

    def __init__(self, other: Callable[[Any], Said]) -> None:
        self.__doc__ = other.__doc__
        self.other, self.kinds = other, {}

    def of(self, kind: str) -> Callable[[Callable[[Any], Said]], Callable[[Any], Said]]:
        """Return what makes a function the one for a class, by its name."""

        def register(function: Callable[[Any], Said]) -> Callable[[Any], Said]:
            self.kinds[kind] = function
            return function

        return register

    def __call__(self, result: object) -> Said:
        """Return what the function of the result's kind does."""
        return self.kinds.get(type(result).__name__, self.other)(result)
