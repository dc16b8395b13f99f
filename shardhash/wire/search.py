"""Searches: which rows somebody looks for, as text; unlike the conditions of `remove`, which go by whole columns.

==============================  ==================================================================================
``taskhash outhash unihash``    whole, or the first 8 digits or more
``method PN task owner``        as it is, or its beginning and a ``*``
``since until``                 when the row was reported: ISO 8601, UTC unless it says otherwise
==============================  ==================================================================================

All that are given must match. A name that is none of these is refused: a search may choose what is then removed.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Search: TypeAlias = dict[str, str]
"""Name to text."""

HASHES: Final = ("taskhash", "outhash", "unihash")
TEXTS: Final = ("method", "PN", "task", "owner")
TIMES: Final = ("since", "until")
NAMES: Final = (*HASHES, *TEXTS, *TIMES)
LEAST_DIGITS: Final = 8
"""Of a hash that is not whole."""
WHOLE: Final = 64
"""Digits of a whole hash; a shorter text that is no prefix of such a one matches as it is, too."""
MOST_WHOLE: Final = 100
"""Rows that one answer holds at most with their siginfo."""
MOST_FOUND: Final = 1000
"""Rows that one answer holds at most."""
BUDGET: Final = 20
"""Seconds after which a search is over, and says so."""
MOST_OUTHASHES: Final = 10
"""Outhashes of a taskhash that are shown; the newest."""
MOST_RECIPES: Final = 100
"""Recipes whose diverging tasks are counted in an answer; those with the most."""
MOST_GUESSED: Final = 1000
"""Tasks of one request for guesses."""
MOST_VARIANTS: Final = 4
"""Guesses for one task: machines, distributions and branches each have their own hash for it."""


def refusal_of(search: Search) -> str | None:
    """What is wrong with a search, in words; None when nothing is."""
    if not search:
        return f"it must name one of {', '.join(NAMES)} at least"
    for name in HASHES:
        if len(search.get(name, "x" * LEAST_DIGITS)) < LEAST_DIGITS:
            return f"'{name}' needs {LEAST_DIGITS} digits at least"
    return None
