"""The command line of the accounts: add, change, remove and list users, make tokens.

The work itself is done in ``lft/accounts``, which the server and the client use as well. No
password is ever taken from an argument, crosses the wire or is stored: the credential file holds
what RFC 5802 calls StoredKey and ServerKey, from which neither the password nor a login can be
made. Its key for tokens is another matter: any reader of the file can make a token. Hence its mode.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # while Python still imports, Ctrl-C ends it without a traceback
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import config
from lft.accounts.account import (
    RIGHTS,
    Accounts,
    Credential,
    check_user_name,
    parse_extensions,
)
from lft.accounts.file import OPTIONAL, change, load_credentials, load_or_new
from lft.accounts.keys import saslprep
from lft.accounts.passwords import new_password
from lft.accounts.tokens import holder, make_token
from lft.commandline import Parser, adder
from lft.files import keep_own_rights
from lft.options import (
    add_version,
    checked,
    format_size,
    parse_duration,
    parse_size,
    rate_argument,
)
from lft.terminal import make_output_safe, printable, say
from protocol import TransferError, UsageError

# --- the command line ---------------------------------------------------------------------------


_DESCRIPTION = """\
Manage the accounts of server.py: the users that may send files, and their limits. They stand in \
a credential file, which holds no passwords, only what proves them. A running server notices each \
change at once."""

_EXIT_CODES = """\
exit codes:
  0    done
  2    not done: the line on standard error says why
  130  stopped by Ctrl-C"""

_EPILOG = f"""\
For the options of a command: python auth.py COMMAND --help

{_EXIT_CODES}

examples:
  Make a user, or change its password:
    python auth.py add alice --credentials users.json
  Change only a limit:
    python auth.py add alice --credentials users.json --keep-password --quota 10G
  Make a token, and start a server with these users:
    python auth.py token alice --credentials users.json > alice.token
    python server.py --credentials users.json"""

_COMMANDS = {  # what each one does in short and in full, and an example
    "add": (
        "add a user, or change one",
        """\
Add a user, or change one. The password comes from --password-file, otherwise from the \
environment variable LFT_PASSWORD, otherwise a prompt asks for it, twice. A change sets a new \
password, too, unless --keep-password is given. A limit that is not named stays as it was, or \
is as in parentheses for a new user; to remove one, give it no value: --quota ''

SIZE and RATE are bytes, and bytes a second; they may end with K, M or G: 1K is 1024 bytes.""",
        "add alice --credentials users.json --directory alice --max-file-size 2G",
    ),
    "remove": (
        "remove a user, and end its tokens",
        "Remove a user, and end its tokens. Its files stay.",
        "remove alice --credentials users.json",
    ),
    "list": (
        "list the users, their priorities and limits",
        """\
List the users, one a line, with their priorities and limits. A TAB stands between two facts.""",
        "list --credentials users.json",
    ),
    "token": (
        "make a token, with which a program logs in without a password",
        """\
Print a token: 'client.py --token-file FILE' logs in with it. Any reader of the token can do \
that, so keep it in a file that only you can read.""",
        "token alice --credentials users.json --expires 90d > alice.token",
    ),
}


def _parser() -> Parser:
    parser = Parser(description=_DESCRIPTION, epilog=_EPILOG)
    add_version(parser)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="add|remove|list|token"
    )
    for name, (short, full, example) in _COMMANDS.items():
        epilog = f"{_EXIT_CODES}\n\nexample:\n    python auth.py {example}"
        operand = {"list": "", "token": "[NAME] "}.get(name, "NAME ")
        usage = f"auth.py {name} {operand}--credentials FILE [OPTION ...]"
        command = commands.add_parser(
            name, help=short, usage=usage, description=full, epilog=epilog
        )
        _add_options(name, command)
    return parser


def _add_options(command: str, parser: Parser) -> None:
    if command in ("add", "remove"):
        parser.add_argument("name", metavar="NAME", help="the user's name")
    if command == "add":
        _add_user_options(parser)
    if command == "token":
        _add_token_options(parser)
    made = ", made if there is none" if command == "add" else ""
    parser.add_argument(
        "--credentials", type=Path, required=True, metavar="FILE", help=f"the credential file{made}"
    )


def _add_user_options(parser: Parser) -> None:
    add = adder(parser, "its password")
    # fmt: off
    add("--password-file", type=Path, metavar="FILE",
        help="take the password from the first line of FILE")
    add("--keep-password", action="store_true",
        help="leave the password of a user that exists, and change only what is named")
    _add_limits(parser)
    rights = adder(parser, "what it may do in a browser")
    rights("--may", choices=(*RIGHTS, ""), action="append", default=argparse.SUPPRESS,
        metavar="RIGHT",
        help="read-all: read the files of all users, beside its own; operate: see what all users "
        "send, cancel it, and read the metrics. As often as wanted; those that are not named end, "
        "and with '' all do (none)")
    group = parser.add_argument_group("whether the account is open")
    group.add_argument("--expires", type=_or_none(_expiry), default=argparse.SUPPRESS,
        metavar="TIME", help="close it so long from now, such as 30d, 12h or 90m (never)")
    state = group.add_mutually_exclusive_group()
    either = partial(state.add_argument, dest="disabled", default=argparse.SUPPRESS)
    either("--disabled", action="store_true", help="close it")
    either("--enabled", action="store_false", help="open it again after --disabled")
    # fmt: on


def _add_limits(parser: Parser) -> None:
    # what is not given is not there at all, and stays as it is
    limit = partial(adder(parser, "its limits"), default=argparse.SUPPRESS)
    # fmt: off
    limit("--priority", type=int, metavar="N",
          help="files of users with a higher number go first, from -100 to 100 (0)")
    limit("--directory", type=_folder, metavar="DIR",
          help="the directory of the user's files, below the server's output directory (the output "
          "directory itself)")
    limit("--max-file-size", type=_or_none(parse_size), metavar="SIZE",
          help="take no larger file, such as 500M or 2G (no limit)")
    limit("--quota", type=_or_none(parse_size), metavar="SIZE",
          help="the most bytes that this directory may hold, unfinished files included (no limit)")
    limit("--limit", type=_or_none(rate_argument(config.LEAST_LIMIT)), metavar="RATE",
          help="the most bytes a second, of all clients of the user together, such as 5M or 5MB/s "
          "(no limit)")
    limit("--allow-ext", type=_or_none(parse_extensions, ()), metavar=".a,.b",
          help="take only files whose names end so (all)")
    # fmt: on


def _add_token_options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the user that logs in with it")
    parser.add_argument(
        "--expires",
        type=checked(parse_duration),
        default=config.TOKEN_LIFETIME,
        metavar="TIME",
        help=f"how long the token holds, such as 12h or 90d ({config.TOKEN_LIFETIME})",
    )
    parser.add_argument(
        "--renew-key",
        action="store_true",
        help="end all tokens made so far, of all users; without NAME it makes no new one",
    )


def _folder(text: str) -> str:
    return text.rstrip("/") or text  # as the shell completes it


def _expiry(text: str) -> int:
    return int(time.time()) + parse_duration(text)


def _or_none(parse: Callable[[str], Any], none: object = None) -> Callable[[str], Any]:
    """Make an argparse type that turns an empty text into ``none``: no limit."""
    return checked(lambda text: parse(text) if text else none)


# --- the commands -------------------------------------------------------------------------------


def _add(arguments: argparse.Namespace) -> None:
    check_user_name(arguments.name)
    name = saslprep(arguments.name)
    given = {key: value for key, value in vars(arguments).items() if key in _GIVEN}
    if "may" in given:
        given["may"] = tuple(one for one in RIGHTS if one in given["may"])
    known = name in load_or_new(arguments.credentials)  # a bad file is reported before we ask
    if arguments.keep_password and not known:
        raise UsageError(f"no user {name} in {arguments.credentials}")
    # made before the file is locked: no other process waits while a password is typed
    verifier = None
    if not arguments.keep_password:
        verifier = Credential.make(new_password(name, arguments.password_file))
    change(arguments.credentials, lambda old: _with_user(old, name, verifier, given))


_GIVEN = OPTIONAL | {"priority"}


def _with_user(
    old: Accounts, name: str, verifier: Credential | None, given: dict[str, Any]
) -> Accounts:
    """Return ``old`` with this user: what is given changes, the rest stays."""
    before = old.get(name)
    base = verifier or before
    if base is None:
        raise UsageError(f"no user {name}")
    if before is not None:
        kept = {key: getattr(before, key) for key in _GIVEN}
        given = {**kept, **given}
    try:
        return old.with_users({**old, name: base.replace(**given)})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _remove(arguments: argparse.Namespace) -> None:
    load_credentials(arguments.credentials, editing=True)  # it must exist: only ``add`` makes one
    change(arguments.credentials, lambda old: _without_user(old, arguments))


def _without_user(old: Accounts, arguments: argparse.Namespace) -> Accounts:
    name = saslprep(arguments.name)
    if name not in old:
        raise UsageError(f"no user {printable(arguments.name)} in {arguments.credentials}")
    return old.with_users({key: one for key, one in old.items() if key != name})


def _list(arguments: argparse.Namespace) -> None:
    accounts = load_credentials(arguments.credentials, editing=True)
    for name, credential in sorted(accounts.items()):
        say("\t".join([printable(name), *_facts(credential, time.time())]))


def _facts(credential: Credential, now: float) -> Iterator[str]:
    """Describe an account, without what is so by default."""
    yield f"priority {credential.priority}"
    if credential.directory:
        yield f"directory {credential.directory}"
    if credential.max_file_size:
        yield f"max-file-size {format_size(credential.max_file_size)}"
    if credential.quota:
        yield f"quota {format_size(credential.quota)}"
    if credential.limit:
        yield f"limit {format_size(credential.limit)}/s"
    if credential.allow_ext:
        yield f"allow-ext {','.join(credential.allow_ext)}"
    if credential.may:
        yield f"may {','.join(credential.may)}"
    if credential.expires:
        word = "expires" if now < credential.expires else "expired"
        yield time.strftime(f"{word} %Y-%m-%dT%H:%M:%SZ", time.gmtime(credential.expires))
    if credential.disabled:
        yield "disabled"


def _token(arguments: argparse.Namespace) -> None:
    path: Path = arguments.credentials
    accounts = load_credentials(path, editing=True)
    name = saslprep(arguments.name or "")
    if arguments.name is not None:
        holder(accounts, name, time.time())  # before a key is made in vain
    if arguments.renew_key or not accounts.token_key:
        accounts = change(path, lambda old: old.with_token_key(renew=arguments.renew_key))
    if arguments.name is not None:
        say(make_token(accounts, name, arguments.expires))


def main(argv: list[str] | None = None) -> int:
    """Run ``python auth.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    parser = _parser()
    arguments = parser.parse_args(argv)
    actions = {"add": _add, "remove": _remove, "list": _list, "token": _token}
    if arguments.command is None:
        parser.error("say add, remove, list or token")
    if arguments.command == "token" and arguments.name is None and not arguments.renew_key:
        parser.error("say whose token, or --renew-key")
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        actions[arguments.command](arguments)
    except TransferError as error:
        print(f"auth.py: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
