"""The layers of the code, read from its imports: a module may import downward only.

errors < base, wire < link, client < shard < outbox < stores < coordinator < http < server < edge; admin stands beside
server, over shard; moving over admin and client.
Siblings do not know each other. The wire is pure.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "shardhash"

ALLOWED: dict[str, tuple[str, ...]] = {
    "errors": (),
    "base": ("errors", "base"),
    "wire": ("errors", "wire"),
    "link": ("errors", "base", "wire", "link"),
    "client": ("errors", "base", "wire", "client"),
    "shard": (
        *("errors", "base", "link", "shard"),
        *("wire.hashes", "wire.batch", "wire.rows", "wire.search", "wire.long_text"),
    ),
    "outbox": ("errors", "base", "shard.storage", "outbox"),
    "stores": ("errors", "base", "wire", "link", "client", "outbox", "stores"),
    # The coordinator asks a store through its interface, and knows neither shards nor files nor databases.
    "coordinator": ("errors", "base", "wire", "stores.interface", "coordinator"),
    "http": ("errors", "base", "wire", "stores.interface", "coordinator", "http"),
    "server": ("errors", "base", "wire", "link", "shard", "outbox", "stores", "coordinator", "http", "server"),
    "edge": ("errors", "base", "wire", "shard", "coordinator", "server", "edge"),
    "admin": ("errors", "base", "wire", "link.operations", "shard", "outbox", "stores.forwarding.records", "admin"),
    "moving": ("errors", "base", "wire", "link.operations", "shard", "client", "admin", "moving"),
    "database": ("errors", "base", "wire", "shard", "admin", "stores.postgresql", "database"),
    "cli": ("errors", "base", "wire", "shard", "client", "server", "edge", "admin", "moving", "database", "cli"),
    "__main__": ("cli",),
    "__init__": (),
}
"""For each folder or module of the package, what of the package it may import."""

MOST_LINES = 400

IMPURE = {"asyncio", "datetime", "os", "random", "select", "signal", "socket", "subprocess", "threading", "time"}
"""What the pure layer keeps out: I/O, clocks, chance."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The module's name below the package: ``wire.hashes``; a package's ``__init__`` is ``wire.__init__``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, inside functions too; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the module in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    layer = name_of(path).split(".")[0]
    assert layer in ALLOWED, f"{path}: this folder has no layer yet; give it one in {__file__}"
    for line, name in imports_of(path):
        if name.split(".")[0] != "shardhash" or name == "shardhash.__version__":
            continue
        inner = name.removeprefix("shardhash").removeprefix(".")
        assert any(within(inner, allowed) for allowed in ALLOWED[layer]), f"{path}:{line}: {layer} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "wire").glob("*.py")), ids=name_of)
def test_the_wire_is_pure(path: Path) -> None:
    for line, name in imports_of(path):
        assert name.split(".")[0] not in IMPURE, f"{path}:{line}: the wire imports {name}"


def test_no_module_is_long() -> None:
    """What is longer has more than one purpose."""
    long = {name_of(path): size for path in modules() if (size := len(path.read_text().splitlines())) > MOST_LINES}
    assert not long, f"longer than {MOST_LINES} lines: {long}"


def test_third_party_imports_are_declared() -> None:
    """The product runs on its declared dependencies alone, not on what a test or a benchmark installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["postgresql"]
    declared = {re.split(r"[\[>]", requirement)[0].strip().replace("-", "_") for requirement in requirements}
    for path in modules():
        for line, name in imports_of(path):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names:
                assert top in declared | {"shardhash"}, f"{path}:{line}: {top} is not a dependency"
