"""Untracked: long lists of bytes and texts that Python's collector does not look into.

Nothing in them refers to anything. Yet each collection of young objects would look at each item, 20 ms for a million;
CPython leaves out tuples like that, and no lists.
"""

from __future__ import annotations

import ctypes
from typing import TypeVar

_T = TypeVar("_T")

_untrack = ctypes.pythonapi.PyObject_GC_UnTrack  # of the documented C API; once more is no error, as at the list's end
_untrack.argtypes = [ctypes.py_object]
_untrack.restype = None


def untracked(items: list[_T]) -> list[_T]:
    """A list of bytes or texts, the same, which no collection looks into any more."""
    _untrack(items)
    return items
