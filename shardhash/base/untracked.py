"""Untracked: long lists and sets of bytes and texts that Python's collector does not look into.

Nothing in them refers to anything. Yet each collection of young objects would look at each item, 20 ms for a million;
CPython leaves out tuples and dicts like that, and no lists nor sets.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeVar

_T = TypeVar("_T", bound="list[Any] | set[Any]")

_untrack = ctypes.pythonapi.PyObject_GC_UnTrack  # of the documented C API; once more is no error, as at the list's end
_untrack.argtypes = [ctypes.py_object]
_untrack.restype = None


def untracked(items: _T) -> _T:
    """Items that are bytes or texts, the same, which no collection looks into any more."""
    _untrack(items)
    return items
