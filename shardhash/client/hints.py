"""What the command lines say besides a server's answer: what it leads to, and what may be done about a refusal."""

from __future__ import annotations

import sys

ADMINISTRATOR = "--admin-user and --admin-password-file"


def hint(text: str) -> None:
    """Say it on standard error, so that standard output holds the answer alone."""
    sys.stderr.write(f"shardhash client: {text}\n")


def advice(refusal: str) -> str:
    """What to do about a refusal, to be said behind it; "" if that is not known here."""
    if "not allowed to access" not in refusal:
        return ""
    if refusal.startswith("Anonymous"):
        return (
            "; log in by --login and a password, or by ~/.netrc (a server makes its first administrator"
            f" of {ADMINISTRATOR})"
        )
    return "; a user who has @user-admin can give it: shardhash client set-user-perms"
