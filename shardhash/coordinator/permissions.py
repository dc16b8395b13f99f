"""Permissions: what an identity may ask, and the words in which it is refused.

A set of permissions is kept in its *expanded* form: @all stands for itself and for each of the others, @none for
nothing. The words are the reference's (PROTOCOL, "Permissions"; transcript ``auth``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shardhash.errors import ConfigError, InvokeError
from shardhash.wire.messages import DB_ADMIN, READ, REPORT, USER_ADMIN

ALL = "@all"
NONE = "@none"

GRANTS = frozenset((READ, REPORT, DB_ADMIN, USER_ADMIN))
"""The permissions that a command can need; @all holds each of them."""
KNOWN = GRANTS | {ALL, NONE}
ANONYMOUS_DEFAULT = frozenset((READ, REPORT, DB_ADMIN))
"""What those have who do not log in, at addresses that only this machine reaches."""
ANONYMOUS_FAR = frozenset((READ, REPORT))
"""The same at addresses that others reach: they might delete everything."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection acts as: a user, or nobody in particular (`username` None). Permissions are expanded."""

    username: str | None
    permissions: frozenset[str]
    hint: str = field(default="", compare=False, repr=False)
    """What to do about a refusal."""

    @property
    def name(self) -> str:
        """How refusals call it."""
        return "Anonymous user" if self.username is None else self.username

    def may(self, needs: frozenset[str]) -> bool:
        """Whether it holds every permission of `needs`."""
        return needs <= self.permissions


class Needs(Protocol):
    """The part of a wire.Command that decides who may ask it."""

    @property
    def needs(self) -> frozenset[str]:
        """All of these permissions, or..."""

    @property
    def or_self(self) -> bool:
        """...being the named user."""


def check(identity: Identity, command: Needs, named: str | None = None) -> None:
    """Refuse, with InvokeError, a command that this identity may not ask.

    `named` is the user that the request names, None when it names none: then it means the connected one.
    An anonymous connection is not a user, so never the one named.
    """
    if command.or_self and identity.username is not None and named in (None, identity.username):
        return
    if not identity.may(command.needs):
        needs = " ".join(sorted(command.needs))
        hint = identity.hint if command.needs <= ANONYMOUS_DEFAULT else ""
        raise InvokeError(f"{identity.name} is not allowed to access permissions(s) {needs}{hint}")


def expand(permissions: Iterable[str]) -> frozenset[str]:
    """The expanded form. Known permissions only."""
    plain = frozenset(permissions) - {NONE}
    return plain | GRANTS if ALL in plain else plain


def parse(permissions: Any) -> frozenset[str]:
    """The expanded form of what a client sent, which must be a list of names. Raises InvokeError."""
    if not isinstance(permissions, (list, tuple)) or not all(isinstance(name, str) for name in permissions):
        raise InvokeError("Unexpected type for permissions")
    unknown = sorted(set(permissions) - KNOWN)
    if unknown:
        raise InvokeError(f"Unknown permissions {' '.join(unknown)}")
    return expand(permissions)


def parse_anonymous(text: str) -> frozenset[str]:
    """Permissions of anonymous connections from a setting: names separated by commas, ``+`` or white space.

    An empty text is @none. Raises ConfigError for an unknown name, and for @all and @user-admin: whoever can
    reach the server could then make himself its owner.
    """
    names = [name for name in re.split(r"[\s,+]+", text) if name]
    unknown = sorted(set(names) - KNOWN)
    if unknown:
        raise ConfigError(f"unknown permission {', '.join(unknown)}; known are {' '.join(sorted(KNOWN))}")
    for name in (ALL, USER_ADMIN):
        if name in names:
            raise ConfigError(f"anonymous users cannot be given {name}; create a user for that (--admin-user)")
    return expand(names)
