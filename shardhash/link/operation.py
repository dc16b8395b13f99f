"""What an operation of the link is; the operations themselves are in operations.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Self, TypeVar

R = TypeVar("R")


class Operation(Generic[R]):
    """One request to a worker; `R` is the type of its result."""

    __slots__ = ()
    name: ClassVar[str]
    bounded: ClassVar[bool] = True
    """Whether it is done in a moment: then the link's limit of time ends the wait for it. Others walk a whole shard."""
    of_a_link: ClassVar[bool] = False
    """Whether the service is told which link asks: report locks belong to one."""

    def encode(self) -> list[Any]:
        """The operation as it travels."""
        return [self.name, *[getattr(self, field) for field in self.arguments()]]

    @classmethod
    def arguments(cls) -> tuple[str, ...]:
        """The names of the fields, in order."""
        names: tuple[str, ...] = cls.__slots__
        return names

    @classmethod
    def decode(cls, arguments: list[Any]) -> Self:
        """The operation of these arguments."""
        return cls(*arguments)

    @staticmethod
    def encode_result(result: R) -> Any:
        """The result as it travels: a tuple that has names, without them."""
        return list(result) if isinstance(result, tuple) else result

    @staticmethod
    def decode_result(result: Any) -> R:
        """The result that has travelled."""
        decoded: R = result
        return decoded

    @classmethod
    def by(cls, carry_out: Callable[[Self], R | Awaitable[R]]) -> tuple[type[Operation[Any]], Callable[[Any], Any]]:
        """What a service does for this operation."""
        return cls, carry_out

    @classmethod
    def by_link(
        cls, carry_out: Callable[[object, Self], R | Awaitable[R]]
    ) -> tuple[type[Operation[Any]], Callable[[object, Any], Any]]:
        """The same, for one that is `of_a_link`."""
        return cls, carry_out
