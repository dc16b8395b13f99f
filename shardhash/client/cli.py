"""``shardhash client``: the commands of a server from a shell, under the names that bitbake-hashclient gave them.

Answers go to standard output: as words, or with --json as one line of JSON, the server's answer as it is. Errors and
progress go to standard error. Exit status: 0 done (an unknown hash is an answer too), 1 refused, not reached, or,
with --quiet, a unihash that does not exist, 2 called wrongly.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from shardhash.base import options
from shardhash.base.command_line import INTERRUPTED, parser_of
from shardhash.base.options import Options, option
from shardhash.base.parser import Parser
from shardhash.base.secrets import PASSWORD, hide_secret, refuse_password_alone
from shardhash.base.settings_file import find_file
from shardhash.client import commands, exploring_commands, forwarding_commands, quarantine_commands, user_commands
from shardhash.client.hints import advice, hint
from shardhash.errors import ConfigError, InvokeError
from shardhash.wire.address import parse_bind, reachable

DEFAULT_ADDRESS = "unix://./hashserve.sock"
BIND = option("--bind", "SHARDHASH_BIND", "HASHSERVER_BIND", repeatable=True)
"""Where servers listen."""

COMMANDS = (
    *commands.SUBCOMMANDS,
    *exploring_commands.SUBCOMMANDS,
    *quarantine_commands.SUBCOMMANDS,
    *forwarding_commands.SUBCOMMANDS,
    *user_commands.SUBCOMMANDS,
)
"""Every command, in the order of --help."""

DESCRIPTION = """\
Ask a hash equivalence server, shardhash or another that speaks OEHASHEQUIV 1.1.

Options stand before the command (--json also behind it) and can also be given by the variables in [ ] behind them.
"""
EXAMPLES = """\
Without --login, credentials come from ~/.netrc: `machine ADDRESS login NAME password TOKEN`, where ADDRESS is written
as in --address. With --netrc-hosts an entry for the host counts, too.

exit status: 0 done; 1 refused, not reached, or no such unihash (--quiet); 2 called wrongly

examples:
  shardhash client --address ws://hash.example.com:8686 ping
  shardhash client get oe.sstatesig.OEOuthashBasic TASKHASH
  shardhash client --login admin new-user --username builder --expires 90d @read @report
  shardhash client --login admin list-users
  shardhash client remove --where method oe.sstatesig.OEOuthashBasic --where taskhash TASKHASH
  shardhash client --json gc-status

keep only what a cache of shared state still holds:
  sed 's/^/unihash /' unihashes-in-the-cache | shardhash client gc-mark-stream monday
  shardhash client gc-status
  shardhash client gc-sweep monday
"""


def main(arguments: Sequence[str]) -> int:
    """Run `shardhash client`; its exit status."""
    known = _options()
    given = known.parse(arguments)
    refuse_password_alone(known, given, arguments)
    hide_secret(["--password", "-p"], PASSWORD, arguments)
    logging.basicConfig(format="shardhash client: %(message)s", level=given.log)
    if given.login and given.password is None:
        if not sys.stdin.isatty():
            known.parser.error(f"--login without a password: set {PASSWORD}, or use ~/.netrc and no --login")
        given.password = getpass.getpass(f"token of {given.login}: ")
    if given.no_netrc:
        os.environ["NETRC"] = os.devnull
    try:
        given.address = given.address or default_address(os.environ)
        return _run(given)
    except ConfigError as error:
        known.parser.error(str(error))
    except InvokeError as error:
        return _fail(f"refused: {error}{advice(str(error))}")
    except (ConnectionError, ValueError) as error:  # ValueError: bad standard input or arguments
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def default_address(environment: Mapping[str, str]) -> str:
    """The address of the server that is configured here, if one is: a health check needs no settings."""
    bind = BIND.resolve(None, environment, find_file(environment)).value
    return str(reachable(parse_bind(bind[0])[0])) if bind else DEFAULT_ADDRESS


def _run(given: argparse.Namespace) -> int:
    from shardhash.client.blocking import create_client  # which --help need not

    # Without a breaker: a command asks little, and --watch is to see that the server is back.
    with create_client(
        given.address,
        given.login,
        given.password,
        netrc_hosts=given.netrc_hosts,
        timeout=given.timeout,
        breaker=None,
    ) as client:
        if given.become is not None:
            client.become_user(given.become)
        answer = given.command.run(client, given)
    text = json.dumps(answer.value, sort_keys=True) if given.json else answer.text
    if text:
        print(text)
    return int(answer.status)


def _fail(text: str) -> int:
    hint(text)
    return 1


def _options() -> Options:
    parser = parser_of("client", DESCRIPTION, EXAMPLES, usage="[OPTIONS] COMMAND [ARGUMENTS]")
    known = Options(parser)
    known.add(
        "--address",
        "SHARDHASH_ADDRESS",
        help="the server: unix://PATH, HOST:PORT, tls://HOST:PORT, ws://HOST:PORT or wss://HOST (default: the first one"
        f" that a server listens on by the settings of this machine and environment, else {DEFAULT_ADDRESS})",
    )
    known.add("--login", "SHARDHASH_LOGIN", short="-l", metavar="USER", help="log in as this user")
    known.add(
        "--password",
        PASSWORD,
        short="-p",
        metavar="TOKEN",
        help="that user's token; better by the variable, for shells remember command lines (asked for on a terminal)",
    )
    known.switch("--no-netrc", short="-n", help="take no credentials of ~/.netrc")
    known.switch("--netrc-hosts", "SHARDHASH_NETRC_HOSTS", help="take credentials of ~/.netrc for the host alone, too")
    known.add(
        "--timeout",
        "SHARDHASH_TIMEOUT",
        metavar="SECONDS",
        convert=options.seconds,
        default=30.0,
        help="give up when the server is silent for this long (default 30)",
    )
    known.add("--become", "SHARDHASH_BECOME", short="-b", metavar="USER", help="act as this user (needs @user-admin)")
    known.add(
        "--log",
        "SHARDHASH_LOG",
        metavar="LEVEL",
        convert=options.choice(
            "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", also={"WARN": "WARNING", "FATAL": "CRITICAL"}
        ),
        default="WARNING",
        help="minimum log level (default WARNING)",
    )
    known.switch("--json", "SHARDHASH_JSON", help="print the answer as one line of JSON")
    _add_commands(parser)
    return known


def _add_commands(parser: Parser) -> None:
    # Nothing is said about --json by a command unless it is given there, so as not to undo what stands before it.
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_const", const=True, help="print the answer as one line of JSON")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="shardhash client")
    for command in COMMANDS:
        usage = parsers.add_parser(
            command.name, help=command.help, description=command.help, parents=[common], allow_abbrev=False
        )
        usage.outer = parser
        for argument in command.arguments:
            usage.add_argument(*argument.names, **argument.settings)
        usage.set_defaults(command=command)
