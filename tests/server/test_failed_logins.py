"""Failed logins in the log: one form, which a program such as fail2ban can rely on."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from lft.accounts.account import Accounts
from lft.accounts.file import save_credentials
from protocol import SCRAM, AuthenticationError, AuthResponse, AuthStart
from tests.support.accounts import TOKEN_KEY, VERIFIER, token
from tests.support.processes import ROOT, StartServer
from tests.support.rawpeer import Peer, last_words, raw_socket
from tests.support.waiting import PATIENCE

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}")
FORGED = "login failed from 203.0.113.9 port 1, user 'x': wrong password"

HOSTILE = [
    f"x': {FORGED}",
    f"\n2026-11-27 21:48:45+0000 WARNING coordinator ! {FORGED}",
    f"\r WARNING coordinator ! {FORGED}",
    f"\u2028 WARNING coordinator ! {FORGED}",
    "' from 203.0.113.9 port 1, user '\"\\",
    "203.0.113.9",
    "\x1b[2K WARNING coordinator ! login failed from 203.0.113.9 port 1=2C user",
]


def failregex() -> str:
    """Return the expression of the filter that the documentation offers.

    ``<HOST>`` stands for an address, and the date has been cut out, as fail2ban does both.
    """
    text = (ROOT / "lft" / "README.md").read_text(encoding="utf-8")
    parser = configparser.ConfigParser()
    parser.read_string(text.partition("```ini\n")[2].partition("```")[0])
    expression = parser["Definition"]["failregex"]
    assert re.fullmatch(parser["Definition"]["datepattern"].replace("%Y-%m-%d", r"[\d-]+")
                        .replace("%H:%M:%S", r"[\d:]+").replace("%z", r"[+-]\d+"),
                        "2026-11-27 21:48:45+0000")  # fmt: skip
    return expression.replace("<HOST>", r"\[?(?P<host>[0-9A-Fa-f:.]+|[\w.-]*\w)\]?")


def found(log: str) -> list[str]:
    """Return the address in each line of a log that the filter matches."""
    texts = [STAMP.sub("", text, count=1) for text in log.split("\n")]
    matches = [re.search(failregex(), text) for text in texts]
    return [match["host"] for match in matches if match]


def fail(port: int, source: str, name: str) -> None:
    """Fail to log in with a name that no client of ours would send."""
    escaped = name.replace("=", "=3D").replace(",", "=2C")
    with Peer(port, source=source) as peer:
        peer.hello(peer.control)
        peer.control.call(AuthStart(SCRAM, f"n,,n={escaped},r=abc"), PATIENCE)
        with pytest.raises(AuthenticationError):
            peer.control.call(AuthResponse("c=biws,r=abc,p=AAAA"), PATIENCE)


def test_the_filter_finds_each_failed_login_and_no_forged_address(
    start_server: StartServer, tmp_path: Path
) -> None:
    """23: user names, file names and words of strangers put no other address into the log."""
    users, log = tmp_path / "users.json", tmp_path / "log"
    save_credentials(users, Accounts({"alice": VERIFIER}, token_key=TOKEN_KEY))
    server = start_server("--credentials", str(users), "--log-file", str(log))
    for number, name in enumerate(HOSTILE, 1):
        fail(server.port, f"127.0.0.{number}", name)
    with Peer(server.port, source="127.0.0.100") as peer, pytest.raises(AuthenticationError):
        peer.show(token(sub=FORGED[:60]))
    with raw_socket(server.port, f"GET {FORGED}\r\n\r\n".encode()) as stranger:
        last_words(stranger)
    with Peer(server.port).log_in() as peer:
        peer.ask(f" WARNING coordinator ! {FORGED}", 10)
    assert server.stop() == 0
    expected = [f"127.0.0.{number}" for number in range(1, len(HOSTILE) + 1)] + ["127.0.0.100"]
    assert found(log.read_text(encoding="utf-8")) == expected
