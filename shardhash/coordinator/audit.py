"""The audit trail: one INFO line for each change that an administrator makes, as JSON, under the logger's own name.

Fields: ``command``; ``user``, null when anonymous; ``login``, the user that logged in, when another one acts;
``peer``; what was asked (``where``, ``mark``, ``max_age_seconds``, ``username``, ``permissions``); what came of it
(``rows``). Never a token.
"""

from __future__ import annotations

import logging
from typing import Any

import orjson

from shardhash.coordinator.callers import Caller

log = logging.getLogger("shardhash.audit")


def record(caller: Caller, command: str, **fields: Any) -> None:
    """Log a change, after it was made."""
    who: dict[str, Any] = {"command": command, "user": caller.identity.username}
    if caller.login is not None and caller.login != caller.identity.username:
        who["login"] = caller.login
    who["peer"] = caller.peer
    # orjson refuses half a surrogate pair; names that hold one are refused before they get here.
    log.info("%s", orjson.dumps(who | fields).decode())
