"""Printable text, log lines, and where they go."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any, Iterator, TextIO

import pytest
from hypothesis import given
from hypothesis.strategies import integers

from lft.terminal import (
    SUCCESS,
    BarSafeHandler,
    LogFormatter,
    columns_of,
    make_output_safe,
    printable,
    say,
    setup_logging,
    shorten,
    wants_colour,
    wants_words,
)
from protocol import UsageError
from tests.support.generated import acts, any_text, quick, shorter

ACTS_ON_A_TERMINAL = ["\x00", "\r", "\n", "\x1b", "\x7f", "\x9b", "\u200b", "\u202e", "\u2066"]
ACTS_ON_A_TERMINAL += ["\u2028", "\u2029", "\ufeff", "\ud800", "\udfff", "\ue000", "\U000e0001"]
HARMLESS = ["", "plain name.txt", "a@b \"c\" 'd'", "back\\slash", "été", "e\u0301te\u0301"]
HARMLESS += ["日本語.txt", "مرحبا", "😀🎉", "❤️", "non\u00a0breaking"]


# --- what is printable --------------------------------------------------------------------------


@pytest.mark.parametrize("text", HARMLESS, ids=shorter)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    """Every script, accents in either form and emoji are for people to read."""
    assert printable(text) == text


@pytest.mark.parametrize("char", ACTS_ON_A_TERMINAL, ids=ascii)
def test_a_character_that_acts_on_a_terminal_is_spelt_out(char: str) -> None:
    """FAULTS 9: controls, format characters, lone surrogates and private ones come as escapes."""
    shown = printable(f"a{char}b")
    assert shown.isascii()
    assert shown == f"a{char.encode('unicode_escape').decode()}b"


@quick
@given(any_text)
def test_what_is_printable_never_acts_on_a_terminal(text: str) -> None:
    """No text survives with a character in it that a terminal acts on."""
    assert not any(map(acts, printable(text)))


@quick
@given(any_text)
def test_what_is_printable_can_be_encoded(text: str) -> None:
    """What is shown fits UTF-8, whatever stood in the text."""
    printable(text).encode("utf-8")


@quick
@given(any_text)
def test_making_text_printable_twice_changes_nothing_more(text: str) -> None:
    """A text that is printable already passes through."""
    assert printable(printable(text)) == printable(text)


# --- what fits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("name.txt", 8, "name.txt"),
        ("holiday-film.mkv", 12, "holida…m.mkv"),
        ("holiday-film.mkv", 3, "h…v"),
        ("holiday-film.mkv", 2, "ho"),
        ("日本語の長い名前.txt", 11, "日本語….txt"),
        ("e\u0301te\u0301-e\u0301te\u0301.txt", 7, "e\u0301te\u0301…txt"),
    ],
)
def test_a_long_name_loses_its_middle(text: str, columns: int, shown: str) -> None:
    """Beginning and extension tell files apart; a wide character takes two columns."""
    assert shorten(text, columns) == shown


@quick
@given(any_text, integers(0, 30))
def test_a_shortened_text_fits(text: str, columns: int) -> None:
    """Whatever stands in a name, it takes no more columns than there are."""
    assert columns_of(shorten(printable(text), columns)) <= columns


# --- a log line ---------------------------------------------------------------------------------


def line(
    message: str,
    *arguments: object,
    name: str = "server",
    level: int = logging.INFO,
    colour: bool = False,
    **extra: Any,
) -> str:
    """Format one record as the log does."""
    record = logging.LogRecord(name, level, "file.py", 1, message, arguments, None)
    record.__dict__.update(extra)
    return LogFormatter(colour).format(record)


def test_a_line_has_time_level_component_sign_and_message() -> None:
    """The columns stand below each other."""
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    coordinator 🔷 alice logged in",
        line("%s logged in", "alice", name="coordinator"),
    )


@pytest.mark.parametrize(
    ("name", "level", "extra", "sign"),
    [
        ("server", logging.INFO, {}, "·"),
        ("coordinator", logging.INFO, {}, "🔷"),
        ("block", logging.DEBUG, {}, "🔵"),
        ("server", logging.INFO, SUCCESS, "✅"),
        ("block", logging.INFO, SUCCESS, "✅"),
        ("server", logging.WARNING, {}, "⚠️"),
        ("coordinator", logging.WARNING, {}, "⚠️"),
        ("server", logging.ERROR, {}, "❌"),
        ("block", logging.CRITICAL, {}, "❌"),
        ("server", logging.ERROR, SUCCESS, "❌"),
    ],
)
def test_each_kind_of_news_has_its_sign(
    name: str, level: int, extra: dict[str, Any], sign: str
) -> None:
    """Success, errors, warnings, blocks and the coordinator are told apart at a glance."""
    assert f" {sign} news" in line("news", name=name, level=level, **extra)


@pytest.mark.parametrize(
    ("name", "level", "extra", "colour"),
    [
        ("server", logging.INFO, SUCCESS, 32),  # green
        ("server", logging.ERROR, {}, 31),  # red
        ("block", logging.INFO, {}, 34),  # blue
        ("coordinator", logging.INFO, {}, 36),  # cyan
        ("server", logging.WARNING, {}, 33),  # yellow
    ],
)
def test_each_kind_of_news_has_its_colour(
    name: str, level: int, extra: dict[str, Any], colour: int
) -> None:
    """The whole line is coloured, and the colour is taken back at its end."""
    shown = line("news", name=name, level=level, colour=True, **extra)
    assert shown.startswith(f"\x1b[{colour}m")
    assert shown.endswith("news\x1b[0m")
    assert shown.count("\x1b") == 2


def test_plain_news_have_no_colour_even_on_a_terminal() -> None:
    """A line without a sign of its own has the terminal's own colour."""
    assert "\x1b" not in line("news", colour=True)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("name", ["server", "block", "coordinator"])
@pytest.mark.parametrize("extra", [{}, SUCCESS])
def test_with_words_no_line_needs_more_than_letters(
    name: str, level: int, extra: dict[str, str]
) -> None:
    """A terminal without signs gets none, and no escapes in their place."""
    record = logging.LogRecord(name, level, "file.py", 1, "news", (), None)
    record.__dict__.update(extra)
    assert LogFormatter(False, words=True).format(record).isascii()


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("name", ["server", "block", "coordinator"])
def test_without_colour_no_line_holds_an_escape(name: str, level: int) -> None:
    """A log in a file is plain text."""
    assert "\x1b" not in line("news", name=name, level=level)


@quick
@given(any_text)
def test_nothing_a_peer_says_is_logged_raw(text: str) -> None:
    """FAULTS 9: one record is one line, and no character in it acts on the terminal."""
    assert not any(map(acts, line("name %s", text)))


@pytest.mark.parametrize("char", ACTS_ON_A_TERMINAL, ids=ascii)
def test_a_peers_text_adds_no_escape_to_a_coloured_line(char: str) -> None:
    """The only escapes of a coloured line are our own two."""
    shown = line("name %s", char, level=logging.ERROR, colour=True)
    assert not any(map(acts, re.sub(r"^\x1b\[31m|\x1b\[0m$", "", shown)))


def test_a_traceback_of_our_own_is_shown_below_the_line_and_safely() -> None:
    """A bug of ours keeps its traceback, indented, with a peer's text in it made safe."""
    try:
        raise RuntimeError("bad \x1b[31m\r name")
    except RuntimeError:
        shown = line("internal error", exc_info=sys.exc_info())
    first, *rest = shown.split("\n")
    assert first.endswith("internal error")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    RuntimeError: bad \\x1b[31m\\r name"
    assert all(one.startswith("    ") for one in rest)
    assert not any(map(acts, "".join(rest)))


# --- where the log goes -------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Give a real terminal to write to, with nothing in the environment against colour."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    with open(slave, "w", encoding="utf-8") as stream:
        yield stream
    os.close(master)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """Give the root logger, and bring it back to how it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_terminal_gets_colour(terminal: TextIO) -> None:
    """Colour is for people."""
    assert wants_colour(terminal)


def test_a_file_gets_no_colour(tmp_path: Path, terminal: TextIO) -> None:
    """What is not a terminal gets plain text, in the same environment."""
    with open(tmp_path / "log", "w", encoding="utf-8") as stream:
        assert not wants_colour(stream)


def test_no_color_turns_colour_off(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR with any value is obeyed even on a terminal."""
    monkeypatch.setenv("NO_COLOR", "0")
    assert not wants_colour(terminal)


def test_an_empty_no_color_says_nothing(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """no-color.org: the variable counts when it is present and not empty."""
    monkeypatch.setenv("NO_COLOR", "")
    assert wants_colour(terminal)


def test_a_dumb_terminal_gets_no_colour(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot show colours says so in TERM."""
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(terminal)


@pytest.mark.parametrize(
    ("variables", "encoding", "words"),
    [
        ({}, "utf-8", False),
        ({}, "ascii", True),
        ({}, "iso8859-1", True),
        ({"LANG": "C"}, "utf-8", True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),  # what Python makes of LANG=C
        ({"LANG": "C", "LC_ALL": "de_DE.UTF-8"}, "utf-8", False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, "utf-8", True),
        ({"LANG": "C.UTF-8"}, "utf-8", False),
        ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, "utf-8", False),
    ],
)
def test_a_terminal_of_letters_gets_words(
    variables: dict[str, str], encoding: str, words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locale says so, or the encoding that Python found."""
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_words(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is words


def test_the_log_goes_to_standard_error(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is for results; lines below the level are not written."""
    setup_logging("INFO")
    logging.getLogger("block").debug("too small")
    logging.getLogger("block").info("block 7 written")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\S+ INFO    block       🔵 block 7 written\n", err)


def test_setting_up_the_log_twice_writes_each_line_once(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second set-up replaces the first."""
    setup_logging("ERROR")
    setup_logging("INFO")
    logging.getLogger("server").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_the_log_is_coloured_on_a_terminal(
    root_logger: logging.Logger, terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set-up looks at the stream it writes to."""
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = setup_logging("INFO")
    record = logging.LogRecord("server", logging.ERROR, "file.py", 1, "no", (), None)
    assert handler.format(record).startswith("\x1b[31m")


class _Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_that_cannot_be_written_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk the log loses lines, and that is all."""
    BarSafeHandler(_Full()).handle(logging.makeLogRecord({"msg": "line"}))
    assert capsys.readouterr().err == ""


def test_a_line_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug of ours is not hidden like a full disk."""
    BarSafeHandler(io.StringIO()).handle(logging.makeLogRecord({"msg": "%d", "args": ("x",)}))
    assert "TypeError" in capsys.readouterr().err


def test_each_line_is_written_inside_what_the_bar_asks_for() -> None:
    """A progress bar is taken away before a line and put back after it."""
    stream = io.StringIO()
    seen: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        seen.append(stream.getvalue())
        yield
        seen.append(stream.getvalue())

    handler = BarSafeHandler(stream)
    handler.around = around
    handler.emit(logging.LogRecord("server", logging.INFO, "file.py", 1, "line", (), None))
    assert seen == ["", "line\n"]


def test_a_line_is_written_without_a_bar_too() -> None:
    """Before a bar is shown, a line needs nothing around it."""
    stream = io.StringIO()
    BarSafeHandler(stream).emit(
        logging.LogRecord("server", logging.INFO, "file.py", 1, "line", (), None)
    )
    assert stream.getvalue() == "line\n"


def test_a_name_that_the_terminal_cannot_show_is_written_as_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An emoji in a file name does not end the program on an ASCII terminal."""
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding="ascii"))
    make_output_safe()
    print("😀.txt", flush=True)
    print("é.txt", file=sys.stderr, flush=True)
    assert (out.getvalue(), err.getvalue()) == (b"\\U0001f600.txt\n", b"\\xe9.txt\n")


def test_a_line_that_standard_output_does_not_take_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When Python ends it writes what is left once more, and must not fail then."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UsageError, match="cannot write to standard output: No space left"):
            say("line")
        say("another line")


def test_streams_that_cannot_be_changed_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standard output that was replaced by a simpler stream still works."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    make_output_safe()
    print("ok")
    assert stream.getvalue() == "ok\n"


def test_a_stream_that_is_closed_becomes_one_that_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python has ``None`` in the place of a standard stream that was closed before it began."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    make_output_safe()
    try:
        print("nobody reads this", file=sys.stderr, flush=True)
        assert (sys.stdin.read(), sys.stdin.isatty()) == ("", False)
    finally:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()
