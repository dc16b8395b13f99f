"""The settings of the upstream, a part of the table of all (option_table.py)."""

from __future__ import annotations

from shardhash.base import options
from shardhash.base.options import option, switch
from shardhash.stores.chained.settings import OUTBOX_SIZE
from shardhash.wire.address import parse_address

UPSTREAM = (
    option(
        "--upstream",
        "SHARDHASH_UPSTREAM",
        "HASHSERVER_UPSTREAM",
        metavar="ADDRESS",
        convert=parse_address,
        repeatable=True,
        short="-u",
        help="ask this server for what is not known here, and remember what it says; give it several times for servers"
        " that are asked, in this order, while those before them are down",
    ),
    option("--upstream-user", "SHARDHASH_UPSTREAM_USER", metavar="NAME", help="log in there as this user"),
    option(
        "--upstream-token-file",
        "SHARDHASH_UPSTREAM_TOKEN_FILE",
        metavar="FILE",
        help="the first line of this file is that user's token (without a user, ~/.netrc is looked at)",
    ),
    option(
        "--upstream-timeout",
        "SHARDHASH_UPSTREAM_TIMEOUT",
        metavar="TIME",
        convert=options.seconds,
        default=5.0,
        help="how long it may take to answer; then it counts as down, and is not asked for a while",
    ),
    option(
        "--upstream-misses",
        "SHARDHASH_UPSTREAM_MISSES",
        metavar="TIME",
        convert=options.seconds,
        default=60.0,
        help="how long a hash that it does not know is not asked for again",
    ),
    switch(
        "--forward",
        "SHARDHASH_FORWARD",
        help="send on to the upstream what clients report here. It is stored and answered here at once, and waits in"
        " the data directory (outbox) until the upstream took it, however often either server is started anew",
    ),
    option(
        "--outbox-size",
        "SHARDHASH_OUTBOX_SIZE",
        metavar="SIZE",
        convert=options.size,
        default=OUTBOX_SIZE,
        help="most that may wait to be sent on; beyond that reports are stored and answered here, and not sent on",
    ),
)
