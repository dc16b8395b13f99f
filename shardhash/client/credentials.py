"""Credentials from .netrc: the token of a user for a server.

An entry's machine is the whole address, as people write it in BB_HASHSERVE::

    machine ws://hash.example.com:8686/ws  login builder  password TOKEN

Entries for a host (``machine hash.example.com``, or with its port) usually belong to another service there, whose
password must not reach this one. They count only for a caller that says so. A ``default`` entry never counts: it would
hand a password to any server.
"""

from __future__ import annotations

import os
from netrc import NetrcParseError, netrc

from shardhash.wire.address import Address


def find_credentials(text: str, address: Address, *, by_host: bool = False) -> tuple[str, str] | None:
    """The user name and token for a server, whose address was given as `text`; None without an entry.

    `by_host`: where no entry has the whole address, one for its HOST:PORT or its host counts.
    Reads the file named by NETRC, else ~/.netrc. One that cannot be read is warned of and passed over.
    """
    path = os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")  # noqa: PTH111  # pathlib takes 4 ms to import
    try:
        entries = netrc(path).hosts
    except FileNotFoundError:
        return None
    except (OSError, NetrcParseError, UnicodeDecodeError) as error:
        import logging  # here, because it takes as long to import as a report to make

        logging.getLogger(__name__).warning("credentials are not read from %s: %s", path, error)
        return None
    for machine in _machines(text, address, by_host=by_host):
        if machine in entries:
            login, _, password = entries[machine]
            return (login, password) if login and password else None
    return None


def _machines(text: str, address: Address, *, by_host: bool) -> list[str]:
    """The names that an entry for an address may have, the most specific first."""
    machines = [text, str(address)]
    if by_host and address.host:
        machines += [f"{address.host}:{address.port}", address.host]
    return machines
