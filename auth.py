"""Who may come in, over which channel: credentials, SCRAM, tokens, TLS, and a small command line.

What lives here: salted verifiers and the file that keeps them, both sides of SCRAM-SHA-256 with and
without channel binding (RFC 5802, RFC 7677, RFC 5929), tokens for unattended use (RFC 7519), the
delay that guessing costs, TLS contexts, passwords read the same way everywhere. What does not:
sockets, and any logging of secrets.

No password crosses the wire and none is kept: the server holds what RFC 5802 calls StoredKey and
ServerKey, from which neither the password nor a login can be made. The key that signs tokens is
another matter: who can read the file it stands in can make a token. Hence its mode.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import config
from lft.accounts.account import Accounts, Credential, check_user_name, parse_extensions
from lft.accounts.file import OPTIONAL, change, load_credentials, load_or_new
from lft.accounts.keys import saslprep
from lft.accounts.passwords import new_password
from lft.accounts.tokens import TOKEN_LIFETIME, holder, make_token
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


def _folder(text: str) -> str:
    return text.rstrip("/") or text  # as the shell completes it


def _expiry(text: str) -> int:
    return int(time.time()) + parse_duration(text)


def _or_nothing(parse: Callable[[str], Any], nothing: object = None) -> Callable[[str], Any]:
    """Make an argparse type that takes an empty text for ``nothing``."""
    return checked(lambda text: parse(text) if text else nothing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Manage the credential file of server.py."
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", metavar="add|remove|list|token")
    command = partial(commands.add_parser, allow_abbrev=False)
    add = command(
        "add",
        help="add a user, or give one a new password",
        description="Add a user, or give one a new password. Of a user that exists, what is not "
        "said stays as it is; an empty value takes a limit away.",
    )
    remove = command("remove", help="remove a user")
    listing = command("list", help="list users, their priorities and limits")
    token = command("token", help="make a token for unattended use")
    _add_arguments(add)
    remove.add_argument("name", metavar="NAME")
    _add_token_arguments(token)
    for one in (add, remove, listing, token):
        one.add_argument("--credentials", type=Path, required=True, metavar="FILE")
    return parser


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument(
        "--keep-password", action="store_true", help="of a user that exists: change the rest only"
    )
    size, expiry = _or_nothing(parse_size), _or_nothing(_expiry)
    rate = _or_nothing(rate_argument(config.LEAST_LIMIT))
    # SUPPRESS: what is not said is not there, and the user keeps what he has
    for option, convert, metavar, explained in (
        ("--priority", int, "N", "higher goes first (0)"),
        ("--directory", _folder, "DIR", "where files go, below the server's output directory"),
        ("--max-file-size", size, "SIZE", "of one file, such as 2G"),
        ("--quota", size, "SIZE", "of all files together"),
        ("--limit", rate, "RATE", "bytes per second, such as 5M"),
        ("--allow-ext", _or_nothing(parse_extensions, ()), ".a,.b", "take such files only"),
        ("--expires", expiry, "TIME", "close the account after 30d, 12h, 90m"),
    ):
        parser.add_argument(
            option, type=convert, metavar=metavar, help=explained, default=argparse.SUPPRESS
        )
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--disabled", action="store_true", default=argparse.SUPPRESS)
    state.add_argument(
        "--enabled", dest="disabled", action="store_false", default=argparse.SUPPRESS
    )


def _add_token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument(
        "--expires",
        type=checked(parse_duration),
        default=TOKEN_LIFETIME,
        metavar="TIME",
        help=f"good for 30d, 12h, 90m ({TOKEN_LIFETIME})",
    )
    parser.add_argument(
        "--renew-key", action="store_true", help="end all tokens that were made so far"
    )


def _add(arguments: argparse.Namespace) -> None:
    check_user_name(arguments.name)
    name = saslprep(arguments.name)
    given = {key: value for key, value in vars(arguments).items() if key in _GIVEN}
    known = name in load_or_new(arguments.credentials)  # what cannot be read is said before asking
    if arguments.keep_password and not known:
        raise UsageError(f"no user {name} in {arguments.credentials}")
    # made before the file is locked: nobody waits for somebody who types
    verifier = None
    if not arguments.keep_password:
        verifier = Credential.make(new_password(name, arguments.password_file))
    change(arguments.credentials, lambda old: _with_user(old, name, verifier, given))


_GIVEN = OPTIONAL | {"priority"}


def _with_user(
    old: Accounts, name: str, verifier: Credential | None, given: dict[str, Any]
) -> Accounts:
    """Return ``old`` with this user: a new password if there is one, the rest as before."""
    before = old.get(name)
    base = verifier or before
    if base is None:
        raise UsageError(f"no user {name}")
    if before is not None:
        kept = {key: getattr(before, key) for key in _GIVEN}
        given = {**kept, **given}
    try:
        return old.with_users({**old, name: replace(base, **given)})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _remove(arguments: argparse.Namespace) -> None:
    load_credentials(arguments.credentials)  # it must be there: only ``add`` makes one
    change(arguments.credentials, lambda old: _without_user(old, arguments))


def _without_user(old: Accounts, arguments: argparse.Namespace) -> Accounts:
    name = saslprep(arguments.name)
    if name not in old:
        raise UsageError(f"no user {printable(arguments.name)} in {arguments.credentials}")
    return old.with_users({key: one for key, one in old.items() if key != name})


def _list(arguments: argparse.Namespace) -> None:
    for name, credential in sorted(load_credentials(arguments.credentials).items()):
        say("\t".join([printable(name), *_facts(credential, time.time())]))


def _facts(credential: Credential, now: float) -> Iterator[str]:
    """Say what is so about an account, but for what is so by default."""
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
    if credential.expires:
        word = "expires" if now < credential.expires else "expired"
        yield time.strftime(f"{word} %Y-%m-%dT%H:%M:%SZ", time.gmtime(credential.expires))
    if credential.disabled:
        yield "disabled"


def _token(arguments: argparse.Namespace) -> None:
    path: Path = arguments.credentials
    accounts = load_credentials(path)
    name = saslprep(arguments.name or "")
    if arguments.name is not None:
        holder(accounts, name, time.time())  # before a key is made for nothing
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
        actions[arguments.command](arguments)
    except TransferError as error:
        print(f"auth.py: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # nobody takes what we have to say
        print(f"auth.py: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
