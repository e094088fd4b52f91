"""Command lines: the help as wide as the terminal, and mistakes answered in one line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Callable

import pytest

import auth
import client
import server
from lft.client.commandline import parse as parse_client
from lft.commandline import HelpFormatter, Parser
from lft.server.commandline import parse as parse_server
from tests.support.generated import acts, short

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "client": client.main, "server": server.main, "auth": auth.main
}  # fmt: skip

Capture = pytest.CaptureFixture[str]

# --- the help -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 150])
def test_the_help_fills_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """And no wider, as argparse itself would have it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter, description="word " * 100)
    longest = max(map(len, parser.format_help().splitlines()))
    assert columns - 8 < longest <= columns - 2


def test_a_new_terminal_that_has_no_width_yet_counts_as_80(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says 0 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((0, 0)))
    assert HelpFormatter("x")._width == 78


def test_without_a_terminal_the_help_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe, for example."""

    def get_terminal_size() -> os.terminal_size:
        raise OSError

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", get_terminal_size)
    assert HelpFormatter("x")._width == 78


WIDTHS = {"100": 98, "1": 38, "wide": 78, "": 78, "0": 78, "9" * 5000: 78}


@pytest.mark.parametrize(("columns", "width"), WIDTHS.items(), ids=list(map(short, WIDTHS)))
def test_a_width_in_the_environment_counts(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    """COLUMNS is how a script, or a page of documentation, has the help in its own width."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    assert HelpFormatter("x")._width == width


COMMANDS = [["client"], ["server"], ["auth"], ["auth", "add"], ["auth", "remove"]]
COMMANDS += [["auth", "list"], ["auth", "token"]]


def help_of(
    command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> str:
    """Return what ``--help`` shows."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as caught:
        PROGRAMS[command[0]]([*command[1:], "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_of_a_help_is_wider_than_the_terminal(
    command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """At 40 columns the meaning stands below the option, not in a strip beside it."""
    text = help_of(command, columns, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_help_ends_with_exit_codes_and_an_example(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The codes for a script, and what is to be typed for everybody."""
    text = help_of(command, 80, monkeypatch, capsys)
    codes, example = text.index("exit codes:\n  0    "), text.index("    python ")
    assert codes < example
    assert "\n  2    " in text[codes:example]


@pytest.mark.parametrize("command", ["client", "server"])
def test_a_help_says_the_defaults_and_what_k_means(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A reader need not look anywhere else for a unit."""
    text = help_of([command], 200, monkeypatch, capsys)
    assert "1K is 1024 bytes" in text
    assert "(4455)" in text
    assert "(localhost)" in text


def test_an_example_can_be_pasted_from_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A line that does not fit goes on behind a backslash."""
    text = help_of(["auth"], 60, monkeypatch, capsys)
    pasted = text.replace("\\\n", " ")
    assert "\\\n" in text
    words = " ".join(pasted.split())
    assert "python auth.py add alice --credentials users.json --keep-password --quota 10G" in words


# --- mistakes -----------------------------------------------------------------------------------


def complaint_of(program: str, words: list[str], capsys: Capture) -> str:
    """Return the line that a program ends with; before it there is only the usage."""
    with pytest.raises(SystemExit) as caught:
        PROGRAMS[program](words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    usage, complaint = said.err.rstrip("\n").rsplit("\n", 1)
    assert usage.startswith("usage: ")
    return complaint


@pytest.mark.parametrize(
    ("program", "words", "suggestion"),
    [
        ("client", "--prot 4455", "--prot; did you mean --port?"),
        ("client", "--prot=4455", "--prot; did you mean --port?"),
        ("client", "-port 4455", "-port; did you mean --port?"),
        ("client", "--sever host", "--sever; did you mean --server?"),
        ("client", "--pass x", "--pass; did you mean --password-file?"),
        ("client", "--host x", "--host; did you mean --server?"),
        ("server", "--prot 4455", "--prot; did you mean --port?"),
        ("server", "--outptu x", "--outptu; did you mean --output?"),
        ("server", "--server x", "--server; did you mean --host?"),
        ("auth", "add alice --credential x", "--credential; did you mean --credentials?"),
        ("auth", "add alice --qouta 5G", "--qouta; did you mean --quota?"),
        ("auth", "--credentials x list", "--credentials here; options stand behind the command"),
        ("client", "--wibble", "--wibble (client.py --help tells more)"),
    ],
)
def test_a_misspelt_option_brings_the_one_that_was_meant(
    program: str, words: str, suggestion: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """In one line, before anything else is found wrong; no abbreviation is guessed."""
    monkeypatch.setattr("sys.argv", [f"{program}.py"])
    assert f"there is no option {suggestion}" in complaint_of(program, words.split(), capsys)


def test_a_value_is_no_option() -> None:
    """Numbers below zero, a lone dash, and what stands behind two dashes."""
    parser = Parser()
    parser.add_argument("--priority", type=int)
    parser.add_argument("files", nargs="*")
    words = ["--priority", "-5", "-", "-1", "--", "--priority"]
    found = parser.parse_args(words)
    assert found.priority == -5
    assert found.files[-1] == "--priority"


@pytest.mark.parametrize("word", ["--\x1b[31m", "--port=\x1b[31m"])
def test_a_complaint_acts_on_no_terminal(word: str, capsys: Capture) -> None:
    """Whatever was pasted."""
    assert not any(map(acts, complaint_of("client", [word], capsys)))


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("client", "--server a:1 --port 2", "a:1 and --port 2 are two ports; give one of them"),
        ("client", "--server [::1]:1 --port 2", "[::1]:1 and --port 2 are two ports"),
        ("server", "--host [::1]:1 --port 2", "[::1]:1 and --port 2 are two ports"),
        (
            "client",
            "--server http://files/",
            "--server: a host name or an address alone, not 'http",
        ),
        ("client", "--server=", "server must be a host name or an address"),
        ("client", "--server=:4455", "server must be a host name or an address"),
        ("client", "--user=", "user must be the name of an account"),
        ("client", "--server a:x", "--server: a port is a number up to 65535, not 'x'"),
        ("server", "--host a:x", "--host: a port is a number up to 65535, not 'x'"),
        ("client", "--limit fast", "--limit: not a rate: 'fast' (try 500K, 5MB/s, 1.5G)"),
        ("server", "--limit fast", "--limit: not a rate: 'fast' (try 500K, 5MB/s, 1.5G)"),
        ("auth", "add x --limit fast", "--limit: not a rate: 'fast' (try 500K, 5MB/s, 1.5G)"),
        (
            "client",
            "--congestion nosuch",
            "--congestion: 'nosuch' is not known to this system, which has ",
        ),
    ],
)
def test_a_value_that_cannot_be_says_what_can(
    program: str, words: str, said: str, capsys: Capture
) -> None:
    """The option, what is wrong with its value, and what would be right."""
    assert said in complaint_of(program, words.split(), capsys)


def test_an_unknown_congestion_control_brings_those_that_the_kernel_has(capsys: Capture) -> None:
    """Which of them there are is for the administrator; nobody knows them by heart."""
    listed = complaint_of("client", ["--congestion", "nosuch"], capsys)
    kind = "allowed" if os.geteuid() else "available"
    there = Path(f"/proc/sys/net/ipv4/tcp_{kind}_congestion_control").read_text().split()
    assert ", ".join(sorted(there)) in listed


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("", ("localhost", 4455)),
        ("--server h:1", ("h", 1)),
        ("--server [::1]", ("::1", 4455)),
        ("--server [::1]:1", ("::1", 1)),
        ("--server ::1 --port 7", ("::1", 7)),
        ("--server h:7 --port 7", ("h", 7)),
    ],
)
def test_host_and_port_come_together_or_apart(words: str, place: tuple[str, int]) -> None:
    """As people write them; twice the same is no contradiction."""
    arguments = parse_client(words.split())
    assert (arguments.server, arguments.port) == place
    arguments = parse_server(words.replace("--server", "--host").split())
    assert (arguments.hosts, arguments.port) == ((place[0],), place[1])


def test_several_hosts_have_one_port(capsys: Capture) -> None:
    """Whichever of them names it; two ports would be two servers."""
    arguments = parse_server(["--host", "a", "--host", "[::1]:7", "--host", "b:7"])
    assert (arguments.hosts, arguments.port) == (("a", "::1", "b"), 7)
    complaint = complaint_of("server", ["--host", "a:1", "--host", "b:2"], capsys)
    assert "a:1 and b:2 are two ports" in complaint
