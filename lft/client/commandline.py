"""The command line of client.py: its options, its help, and the settings they make."""

from __future__ import annotations

import argparse
from pathlib import Path

import config
from config import ClientSettings
from lft.accounts.passwords import PASSWORD_VARIABLE
from lft.addresses import one_port, split_place
from lft.client.exclusion import chosen
from lft.client.standard_input import file_argument
from lft.commandline import Parser, adder
from lft.options import (
    add_log_level,
    add_version,
    argument,
    checked,
    or_auto,
    parse_size,
    port_argument,
    rate_argument,
    seconds_argument,
)
from lft.wire.tcp import check_congestion
from protocol import DIGEST_SIZES, UsageError

DEFAULT_FILE = Path("input") / "big_file.txt"

_DESCRIPTION = """\
Send files and directories to a running server.py, and prove by their checksums that they \
arrived. Each ends with a line on standard output, which begins with INTEGRITY_OK if all is well. \
The server keeps it below its output directory as server_received_..._NAME; beside a directory are \
the checksums of all its files. After an interruption the same command goes on where it stopped.

What stands in parentheses holds where an option is not given. SIZE and RATE are bytes, and bytes \
a second; they may end with K, M or G: 1K is 1024 bytes, 5M or 5MB are 5 * 1024 * 1024."""

_EPILOG = """\
exit codes:
  0    every file arrived: INTEGRITY_OK
  1    a file arrived damaged, however often it was repaired: INTEGRITY_FAILED
  2    the command cannot work, or a file cannot be read
  3    user, password, token or certificate are not accepted
  4    the server does not take a file: its size, its name, its kind, or no space
  5    the server cannot be reached, or the connection was lost for too long
  130  stopped by Ctrl-C or by SIGTERM

examples:
  Try it out, all on this machine:
    python client.py --demo
  Send two files to another machine, whose self-signed certificate is in cert.pem:
    python client.py a.iso b.iso --server files.example --user ann --ca cert.pem
  Send one from a script, and leave half of a line of 100 Mbit/s to others:
    python client.py c.tar --server files.example --tls --token-file ann.token --limit 6M --json"""

_OTHER_NAMES = {"--host": "--server", "--verbose": "--log-level", "--ssl": "--tls"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse a command line; where it cannot work, end the program with exit code 2."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.server, own = arguments.server
    try:
        arguments.port = one_port([(arguments.server, own)], arguments.port, config.DEFAULT_PORT)
        settings_of(arguments)  # checks what no option does by itself
    except ValueError as error:
        parser.error(str(error))
    if arguments.quiet:
        arguments.log_level = "WARNING"
    return arguments


def settings_of(arguments: argparse.Namespace) -> ClientSettings:
    """Make the settings of a command line, without password and token."""
    given = vars(arguments)
    names = ClientSettings.FIELDS.keys() - {"password", "token"}
    own = {name: given[name] for name in names}
    return ClientSettings(**{**own, "exclude": tuple(arguments.exclude)})


def files_of(arguments: argparse.Namespace) -> list[Path]:
    """Return what a command line names to be sent. Raises ``UsageError`` where that is nothing."""
    files: list[Path] = arguments.files or [DEFAULT_FILE]
    if files == [DEFAULT_FILE] and not DEFAULT_FILE.exists():
        raise UsageError(f"there is no {DEFAULT_FILE}: name a FILE or a DIR, or try --demo")
    return chosen(files, arguments.exclude) if arguments.exclude else files


def _pattern(text: str) -> str:
    if not text.strip("/"):
        raise ValueError("an empty pattern leaves nothing out")
    return text


def _parser() -> Parser:
    parser = Parser(
        _OTHER_NAMES, usage="%(prog)s [OPTION ...] [FILE|DIR ...]", add_help=False,
        description=_DESCRIPTION, epilog=_EPILOG,
    )  # fmt: skip
    _add_what(parser)
    _add_where(parser)
    _add_who(parser)
    _add_encryption(parser)
    _add_speed(parser)
    _add_proof(parser)
    _add_output(parser)
    _add_fine_tuning(parser)
    return parser


# fmt: off

def _add_what(parser: Parser) -> None:
    add = adder(parser, "what to send")
    add("files", nargs="*", type=file_argument, metavar="FILE",
        help=f"a file or a directory, or several ({DEFAULT_FILE}); - is standard input, up to its "
        "end: it cannot be resumed, and that the program before it failed is seen only with the "
        "shell's pipefail")
    add("--name", metavar="NAME",
        help="what it is called on the server (its own name; stdin for standard input)")
    add("--exclude", action="append", default=[], type=checked(_pattern), metavar="PATTERN",
        help="leave out what is called so, wherever it is in a directory, with all that is in it; "
        "as often as wanted. *, ? and [abc] stand for other characters, for a / too: '*.o', "
        "'docs/*.tmp'; 'build/' is for directories alone, '/build' for the top alone")
    add("--strict", action="store_true",
        help="send no directory in which something cannot be sent, such as a socket or a link that "
        "leads out of it; otherwise that is named and left out")
    add("--dry-run", action="store_true", help="only say what would be sent, without a server")
    add("--if-exists", choices=("keep", "skip"), default="keep", metavar="keep|skip",
        help="what to do about a file or directory that you have sent under the same name before: "
        "keep that, and send another (keep); or, if the checksum shows that it is the same, send "
        "nothing and be told where it is (skip). Permission bits and times are not compared")
    add("--preserve", action="store_true",
        help="keep permission bits, those that the server's umask allows, and the time of the last "
        "change; otherwise a file has the server's usual rights and the time of its arrival. A "
        "directory always keeps both")
    add("--demo", action="store_true",
        help="try it out: start a server on this machine, send it a sample file, compare the two "
        "files, stop the server")


def _add_where(parser: Parser) -> None:
    add = adder(parser, "where to send it")
    add("--server", type=checked(split_place), default=config.DEFAULT_HOST, metavar="HOST",
        help="name or address of the machine that server.py runs on; HOST:PORT will do, too, and "
        "[ADDRESS]:PORT for IPv6 (localhost)")
    add("--port", type=port_argument(1), metavar="PORT",
        help=f"the port that the server says it listens on ({config.DEFAULT_PORT})")


def _add_who(parser: Parser) -> None:
    add = adder(parser, "who sends it")
    add("--user", default="user1", metavar="NAME",
        help="your account, which auth.py has made on the server; user1 and admin are for a trial "
        "on one machine, and need no password there (user1)")
    add("--password-file", type=Path, metavar="FILE",
        help="FILE has the password in its first line; without this option the environment "
        f"variable {PASSWORD_VARIABLE} has it, or a prompt asks for it")
    add("--token-file", type=Path, metavar="FILE",
        help="FILE has a token, made by 'auth.py token': it takes the place of user and password, "
        "for programs")


def _add_encryption(parser: Parser) -> None:
    add = adder(parser, "encryption")
    add("--tls", action="store_true",
        help="encrypt everything, and check the server's certificate; the server needs "
        "--tls-cert for it. Without TLS the password is safe on the way, the files are not")
    add("--ca", type=Path, metavar="FILE",
        help="FILE has the certificates to trust, in PEM form, in place of the system's; for a "
        "self-signed one that is the server's --tls-cert file itself. Implies --tls")


def _add_speed(parser: Parser) -> None:
    add = adder(parser, "speed")
    add("--limit", type=rate_argument(1024), metavar="RATE",
        help="send at most so many bytes a second, all connections together, such as 500K or "
        "5MB/s (no limit)")
    add("--compress", action="store_true",
        help="compress what shrinks, while that is faster than to send it as it is")
    streams = argument(int, 1, config.MAX_STREAMS, f"1 to {config.MAX_STREAMS} streams, or auto")
    add("--streams", type=or_auto(streams), default=config.STREAMS, metavar="N|auto",
        help=f"send through N connections at once, 1 to {config.MAX_STREAMS}; auto finds out how "
        f"many are fastest, and pays on long ways ({config.STREAMS})")


def _add_proof(parser: Parser) -> None:
    add = adder(parser, "proof, and interruptions")
    add("--digest", choices=list(DIGEST_SIZES), default="md5",
        help="the checksum: md5 finds every accident; with sha256 no attacker can make two files "
        "that have the same one (md5)")
    add("--no-resume", dest="resume", action="store_false",
        help="send all of the file, also what the server has of it from an earlier attempt")
    add("--timeout", type=seconds_argument(2), default=config.TIMEOUT, metavar="SECONDS",
        help="seconds without progress after which an attempt is given up, at least 2. A server "
        "that cannot be reached is tried for so long, a lost connection for ten times as long "
        f"({config.TIMEOUT:g})")


def _add_output(parser: Parser) -> None:
    group = parser.add_argument_group("what is shown")
    add = group.add_argument
    add("--quiet", action="store_true", help="no progress bar; in the log only warnings and errors")
    add("--json", action="store_true",
        help="on standard output a JSON object for each file, for programs")
    add_log_level(group)
    add("-h", "--help", action="help", help="show this help")
    add_version(group)


def _add_fine_tuning(parser: Parser) -> None:
    add, far = adder(parser, "fine tuning, which most need not touch"), config.FAR * 1000
    low, high = config.MIN_BLOCK_SIZE, config.MAX_BLOCK_SIZE
    blocks = or_auto(argument(parse_size, low, high, "a block has 4K to 4M"))
    add("--block-size", type=blocks, default=config.BLOCK_SIZE, metavar="SIZE|auto",
        help="bytes of a block, 4K to 4M: the unit that is checked, and sent again if it is "
        "damaged; auto: larger for large files, unless the link is far (200K)")
    chunks = or_auto(argument(parse_size, 1024, high, "a chunk has 1K to 4M"))
    add("--chunk-size", type=chunks, default=config.CHUNK_SIZE, metavar="SIZE|auto",
        help="bytes of a block that are handed to the system as one piece, 1K to 4M; auto: all of "
        "it (50K)")
    add("--congestion", type=checked(check_congestion), default=config.CONGESTION, metavar="NAME",
        help=f"what decides how fast TCP sends where a round trip takes {far:g} ms or more, such "
        "as cubic; '' leaves that to the system (bbr, where the system has it)")

# fmt: on
