"""The command line of server.py: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path

import config
from lft.accounts.account import parse_extensions
from lft.addresses import one_port, parse_network, split_place
from lft.commandline import Parser, adder
from lft.options import (
    add_log_level,
    add_version,
    argument,
    checked,
    parse_size,
    port_argument,
    rate_argument,
    seconds_argument,
)
from lft.terminal import printable
from protocol import MAX_FILE_SIZE

_DESCRIPTION = """\
Receive files from client.py, and answer each with a verdict on its checksum. The first line on \
standard output is "Listening on HOST:PORT"; the log goes to standard error. A file that has \
arrived stands below the output directory as server_received_..._NAME, and never replaces another \
one. Ctrl-C or SIGTERM stops the server; what is unfinished then goes on when server and client \
are started again.

What stands in parentheses holds where an option is not given. SIZE and RATE are bytes, and bytes \
a second; they may end with K, M or G: 1K is 1024 bytes, 5M or 5MB are 5 * 1024 * 1024."""

_EPILOG = """\
exit codes:
  0    stopped by Ctrl-C or SIGTERM
  2    it could not start: the port is in use, a file or a directory cannot be used

examples:
  Try it out, for clients on this machine:
    python server.py
  Serve other machines. First make a user, and a certificate for the name of this machine:
    python auth.py add ann --credentials users.json
    openssl req -x509 -newkey rsa:3072 -nodes -days 825 -keyout key.pem -out cert.pem \
-subj /CN=files.example -addext subjectAltName=DNS:files.example
    python server.py --host 0.0.0.0 --credentials users.json --tls-cert cert.pem --tls-key key.pem

The clients then need a copy of cert.pem, which is no secret, for their option --ca."""

_REST = config.EXIT_TIMEOUT + config.LOG_PATIENCE  # seconds: to cut, and to write the log out
_OTHER_NAMES = {"--server": "--host", "--verbose": "--log-level", "--users": "--credentials"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line; where it cannot work, end the program with exit code 2."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    places = arguments.hosts or [(config.DEFAULT_HOST, None)]
    try:
        arguments.port = one_port(places, arguments.port, config.DEFAULT_PORT)
    except ValueError as error:
        parser.error(str(error))
    arguments.hosts = tuple(host for host, _ in places)
    arguments.proxy_from = tuple(arguments.proxy_from)
    if arguments.json and not arguments.history:
        parser.error("--json is for --history")
    return arguments


def _parser() -> Parser:
    parser = Parser(
        _OTHER_NAMES, usage="%(prog)s [OPTION ...]", add_help=False,
        description=_DESCRIPTION, epilog=_EPILOG,
    )  # fmt: skip
    _add_where(parser)
    _add_who(parser)
    _add_what(parser)
    _add_history(parser)
    _add_encryption(parser)
    _add_load(parser)
    _add_output(parser)
    return parser


def _http_place(text: str) -> tuple[str, int]:
    """Take ``[HOST:]PORT`` apart. Raises ``ValueError``."""
    bare = text.isascii() and text.isdigit()
    host, port = split_place(f"{config.DEFAULT_HOST}:{text}" if bare else text)
    if port is None:
        raise ValueError(
            f"[HOST:]PORT, such as {config.DEFAULT_HOST}:8080, not {printable(text)!r}"
        )
    return host, port


# fmt: off

def _add_where(parser: Parser) -> None:
    add = adder(parser, "where to listen")
    add("--host", type=checked(split_place), action="append", dest="hosts", metavar="HOST",
        help="name or address to listen on, as often as wanted; a name stands for all of its "
        "addresses: localhost is for clients on this machine alone, 0.0.0.0 for those that reach "
        "any IPv4 address of it, :: for those that reach any address at all (localhost)")
    add("--port", type=port_argument(), metavar="PORT",
        help=f"port to listen on; 0 takes a free one ({config.DEFAULT_PORT})")
    add("--proxy-from", type=checked(parse_network), action="append", default=[],
        metavar="ADDRESS|NETWORK",
        help="address or network of a balancer, as often as wanted: each connection from there "
        "has to begin with a PROXY header (HAProxy's send-proxy-v2 or send-proxy), which says "
        "whose it is; one from elsewhere must not (none)")


    add("--http", type=checked(_http_place), metavar="[HOST:]PORT",
        help="serve browsers and other programs there, too, by HTTP, or HTTPS with --tls-cert; "
        "without HOST only those on this machine (off)")


def _add_who(parser: Parser) -> None:
    add = adder(parser, "who may send")
    add("--credentials", type=Path, metavar="FILE",
        help="FILE has the users, their passwords' verifiers and their limits; 'auth.py add' makes "
        "it, and a change is noticed at once. Without it there are the demo accounts user1 and "
        "admin, for clients on this machine only")


def _add_what(parser: Parser) -> None:
    add = adder(parser, "what becomes of files")
    add("--output", type=Path, default=Path("output"), metavar="DIR",
        help="the directory for what arrives, made where there is none (output)")
    add("--shared", action="store_true",
        help="share DIR with other servers that have --shared, on this machine or on others that "
        "mount it: each goes on where another one has ended. The file system must have locks "
        "between all of them, as NFS 4, CephFS, GlusterFS and Lustre do")
    size = argument(parse_size, 1, MAX_FILE_SIZE, "a size such as 200K, 1.5M, 2G")
    add("--max-file-size", type=size, metavar="SIZE", help="take no larger file (no limit)")
    add("--allow-ext", type=checked(parse_extensions), default=(), metavar=".a,.b",
        help="take only files whose names end so; of common kinds, such as .pdf, the content "
        "must look like it, too (all)")
    add("--on-received", type=Path, metavar="PROGRAM",
        help="run PROGRAM for each file that was received, after its verdict, without arguments: "
        "LFT_SAVED_AS, LFT_USER and other variables have the facts (lft/README.md). It may run "
        "more than once for a file if the server is killed")


def _add_history(parser: Parser) -> None:
    add = adder(parser, "what has become of files")
    add("--history", action="store_true",
        help="start no server, but print what it, or the one that runs, has noted below --output: "
        "each file that was received, refused or interrupted, the newest first. On a terminal as "
        "many as that shows")
    add("--json", action="store_true",
        help="with --history: a JSON object for each file, for programs")


def _add_encryption(parser: Parser) -> None:
    add = adder(parser, "encryption")
    add("--tls-cert", type=Path, metavar="FILE",
        help="speak TLS, and only TLS: FILE has the certificate and its chain, in PEM form. After "
        "a renewal 'kill -HUP' has it and its key read again")
    add("--tls-key", type=Path, metavar="FILE",
        help="FILE has the private key of --tls-cert, in PEM form, without a password")


def _add_load(parser: Parser) -> None:
    add = adder(parser, "load, and the end")
    add("--limit", type=rate_argument(config.LEAST_LIMIT), metavar="RATE",
        help="receive at most so many bytes a second, from all clients together, such as 10M or "
        "10MB/s (no limit)")
    workers = argument(int, 1, 256, "a number of workers from 1 to 256")
    add("--workers", type=workers, default=config.WORKERS, metavar="N",
        help="threads that do the work for all clients, however many those are, 1 to 256 "
        f"({config.WORKERS})")
    add("--grace", type=seconds_argument(0), default=config.GRACE, metavar="SECONDS",
        help="seconds that transfers under way may still take when the server is stopped; a "
        f"second Ctrl-C ends them at once ({config.GRACE:g}). {_REST:g} s later at "
        "most, the server has ended")


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group("what is shown")
    add_log_level(group)
    group.add_argument(
        "--log-file", type=Path, metavar="FILE",
        help="append the log to FILE, and make it anew once it is moved away (standard error)")
    group.add_argument("-h", "--help", action="help", help="show this help")
    add_version(group)

# fmt: on
