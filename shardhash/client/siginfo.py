"""What BitBake writes down about tasks: outhash_siginfo, and the sigdata files of its stamps.

An outhash_siginfo is what an outhash was made of, a line for each file of the output. A sigdata file is what a taskhash
was made of, JSON that is packed with zstd; its name ends with the taskhash.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ZSTD = b"\x28\xb5\x2f\xfd"
LONGEST = 160
"""Characters of a value that a difference shows."""


def differences(one: str, other: str, names: tuple[str, str], context: int = 0) -> list[str]:
    """The lines in which two siginfo texts differ, as `diff -u` writes them; none if they do not."""
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), *names, n=context, lineterm="")
    return list(lines)


def taskhash_of(path: Path) -> str | None:
    """The taskhash that a sigdata file is named by."""
    found = re.search(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])", path.name)
    return None if found is None else found[1]


def read_sigdata(path: Path) -> dict[str, Any]:
    """What a sigdata file holds. ValueError when it is none, or cannot be read."""
    try:
        data = path.read_bytes()
        if data.startswith(_ZSTD):
            data = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True, timeout=60).stdout
        value = json.loads(data)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: not found (sigdata files are read with the program zstd)") from None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ValueError(f"{path} is not a sigdata file of BitBake: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a sigdata file of BitBake: it holds no object")
    return value


def compare_sigdata(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """In what the inputs of two tasks differ, a sentence each."""
    for field, what in (("varvals", "variable"), ("runtaskhashes", "dependency"), ("file_checksum_values", "file")):
        before, after = _by_name(one.get(field)), _by_name(other.get(field))
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                yield f"{what} {name} is in the first alone"
            elif name not in before:
                yield f"{what} {name} is in the second alone"
            elif before[name] != after[name]:
                yield f"{what} {name} differs: {_short(before[name])} -> {_short(after[name])}"


def _by_name(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    pairs = value if isinstance(value, list) else []
    return {str(pair[0]): pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "...")
