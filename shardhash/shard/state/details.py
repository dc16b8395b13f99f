"""Details: the tuples (owner, PN, PV, PR, task) that rows share, each kept once, for as long as a row has it.

A row holds the number of its details. The number of details that are gone is given to others later, so whoever keeps
numbers while the table changes must look again at what they stand for.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import TypeAlias

Details: TypeAlias = tuple[str | None, str | None, str | None, str | None, str | None]
"""owner, PN, PV, PR, task of a row."""

SLICE = 500
"""Details compared between one step and the next; 0.3 ms."""
NOTHING: Details = (None, None, None, None, None)


class SharedDetails:
    """All details of a table, by number, and how many rows have each."""

    __slots__ = ("_free", "_uses", "by_number", "numbers")

    def __init__(self) -> None:
        self.by_number: list[Details] = []
        """What numbers stand for; `NOTHING` for one that no row has."""
        self.numbers: dict[Details, int] = {}
        """The numbers of what rows have."""
        self._uses = array("I")
        self._free: list[int] = []

    def take(self, details: Details) -> int:
        """The number of these details, for one row more."""
        number = self.numbers.get(details)
        if number is None:
            number = self._add(details)
        self._uses[number] += 1
        return number

    def give_back(self, number: int) -> None:
        """A row that had this number is gone, or has other details now."""
        self._uses[number] -= 1
        if not self._uses[number]:
            del self.numbers[self.by_number[number]]
            self.by_number[number] = NOTHING
            self._free.append(number)

    def matching(self, matches: Callable[[Details], bool], found: set[int]) -> Iterator[None]:
        """Add the numbers of the details that match; each step looks at some. It may miss those that come."""
        for start in range(0, len(self.by_number), SLICE):
            some = self.by_number[start : start + SLICE]
            found.update(number for number, details in enumerate(some, start) if matches(details))
            yield

    def uses(self) -> dict[int, int]:
        """How many rows have each number."""
        return {number: self._uses[number] for number in self.numbers.values()}

    def _add(self, details: Details) -> int:
        if self._free:
            number = self._free.pop()
            self.by_number[number] = details
        else:
            number = len(self.by_number)
            self.by_number.append(details)
            self._uses.append(0)
        self.numbers[details] = number
        return number
