"""The commands of ``shardhash client`` for users and their tokens."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from shardhash.base import options
from shardhash.client.commands import Answer, Subcommand, argument, checked
from shardhash.client.hints import hint
from shardhash.errors import ConfigError, InvokeError

if TYPE_CHECKING:
    from shardhash.client.blocking import Client

NEVER = "never"


def _refresh_token(client: Client, given: argparse.Namespace) -> Answer:
    user = client.refresh_token(given.username, given.expires)
    if given.become is None and given.username in (None, given.login):
        hint(f"what {user['username']} logged in with no longer works: log in with this token from now on")
    return _of_user(user, given.expires)


def _set_user_perms(client: Client, given: argparse.Namespace) -> Answer:
    user = client.set_user_perms(given.username, given.permissions)
    _hint_at_permissions(given)
    return _of_user(user)


def _get_user(client: Client, given: argparse.Namespace) -> Answer:
    answer = _of_user(client.get_user(given.username))
    return answer if answer.value is not None else Answer(None, "", 1)


def _get_all_users(client: Client, _given: argparse.Namespace) -> Answer:
    users = client.get_all_users()
    return Answer(users, "\n\n".join(map(_user, users)))


def _list_users(client: Client, _given: argparse.Namespace) -> Answer:
    users = client.list_users()
    width = max([len(user["username"]) for user in users], default=0)
    lines = [
        f"{user['username']:<{width}}  {user['expires'] or NEVER:<25}  {user['used'] or NEVER:<25}"
        f"  {' '.join(user['permissions']) or '@none'}"
        for user in users
    ]
    head = f"{'user':<{width}}  {'token expires':<25}  {'token last used':<25}  permissions"
    return Answer(users, "\n".join([head, *lines]))


def _new_user(client: Client, given: argparse.Namespace) -> Answer:
    try:
        user = client.new_user(given.username, given.permissions, given.expires)
    except InvokeError as error:
        if not str(error).startswith("Cannot create new user"):
            raise
        raise InvokeError(
            f"{error}; there is one of this name, perhaps: set-user-perms changes permissions, refresh-token the token"
        ) from None
    _hint_at_permissions(given)
    return _of_user(user, given.expires)


def _hint_at_permissions(given: argparse.Namespace) -> None:
    if not given.permissions:
        hint(f"{given.username} may do nothing: set-user-perms --username {given.username} @read @report gives rights")


def _delete_user(client: Client, given: argparse.Namespace) -> Answer:
    username = given.username
    if username is None:
        if (oneself := client.get_user()) is None:
            raise ValueError("this user does not exist any more")
        username = oneself["username"]
    return _of_user(client.delete_user(username))


def _of_user(user: Mapping[str, Any] | None, expires: int | None = None) -> Answer:
    if user is None:
        return Answer(user, "")
    if expires and "expires" not in user:  # the reference ignores what it does not know
        text = f"{_user(user)}\nExpires:     never: this server does not know of tokens that end"
        return Answer(user, text, 1)
    return Answer(user, _user(user))


def _user(user: Mapping[str, Any]) -> str:
    lines = [f"Username:    {user['username']}"]
    if "permissions" in user:
        lines.append(f"Permissions: {' '.join(user['permissions']) or '@none'}")
    if "token" in user:
        lines.append(f"Token:       {user['token']}")
    if "expires" in user:
        lines.append(f"Expires:     {user['expires'] or NEVER}")
    return "\n".join(lines)


def _lifetime(text: str) -> int:
    """Whole seconds; 0 for never. The unit is written: a number alone is meant in days more often than in seconds."""
    if text.isdigit():
        raise ConfigError(f"{text} has no unit: write {text}d for days, or s, m or h")
    return 0 if text == NEVER else ceil(options.seconds(text))


_USER = argument("--username", "-u", metavar="NAME", required=True)
_USER_OR_SELF = argument("--username", "-u", metavar="NAME", help="default: the one who is logged in")
_PERMISSIONS = argument(
    "permissions", metavar="PERM", nargs="*", help="@read, @report, @db-admin, @user-admin, @all or @none"
)
_EXPIRES = {"type": checked(_lifetime), "metavar": "TIME"}

SUBCOMMANDS = (
    Subcommand(
        "refresh-token",
        "replace a user's token; the new one works as long as the old one did, unless --expires says otherwise",
        _refresh_token,
        (
            _USER_OR_SELF,
            argument("--expires", help="how long it works, such as 90d, or never; needs @user-admin", **_EXPIRES),
        ),
    ),
    Subcommand("set-user-perms", "give a user these permissions and no others", _set_user_perms, (_USER, _PERMISSIONS)),
    Subcommand("get-user", "show a user; nothing if there is none of that name", _get_user, (_USER_OR_SELF,)),
    Subcommand("get-all-users", "show all users", _get_all_users),
    Subcommand("list-users", "list users: until when their tokens work, and when these were last used", _list_users),
    Subcommand(
        "new-user",
        "create a user and show the token, which cannot be shown again",
        _new_user,
        (_USER, argument("--expires", help="how long the token works, such as 90d (default: never ends)", **_EXPIRES),
         _PERMISSIONS),
    ),
    Subcommand("delete-user", "delete a user", _delete_user, (_USER_OR_SELF,)),
)  # fmt: skip
"""Every command, in the order of --help."""
