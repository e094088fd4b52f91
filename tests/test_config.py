"""Settings, sizes in words, what is printable, and how log lines look."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import os
import re
import sys
import unicodedata
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, Iterator, TextIO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import config
from config import GB, KB, MB, ClientSettings, ServerSettings
from lft.options import (
    add_log_level,
    argument,
    format_size,
    parse_size,
    port_argument,
    seconds_argument,
)
from lft.terminal import (
    SUCCESS,
    BarSafeHandler,
    LogFormatter,
    make_output_safe,
    printable,
    setup_logging,
    wants_colour,
)

# Neither a busy machine nor an unlucky draw is an error: a test fails for what it says, or not.
quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)

# Lone surrogates too: a file name from the disk or from JSON may hold them.
any_text = st.text(st.characters() | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF))

ACTS_ON_A_TERMINAL = ["\x00", "\r", "\n", "\x1b", "\x7f", "\x9b", "\u200b", "\u202e", "\u2066"]
ACTS_ON_A_TERMINAL += ["\u2028", "\u2029", "\ufeff", "\ud800", "\udfff", "\ue000", "\U000e0001"]


NOT_SIZES = ["", " ", "K", "0", "0K", "0.1", "-1", "+1", "1T", "1KK", "1e3", "0x10", "1_000"]
NOT_SIZES += ["1,5K", "1.K", ".5K", "1.2345K", "nan", "inf", "9" * 16, "9" * 5000, "1 0", "1\n2"]
NOT_SIZES += ["\u0663K", "\uff15", "2\u212a", "\u00b2"]  # other digits, the Kelvin sign

HARMLESS = ["", "plain name.txt", "a@b \"c\" 'd'", "back\\slash", "été", "e\u0301te\u0301"]
HARMLESS += ["日本語.txt", "مرحبا", "😀🎉", "❤️", "non\u00a0breaking"]


def short(value: object) -> str:
    """Name a case of a test by the start of its value."""
    return ascii(value)[:24]


def acts(char: str) -> bool:
    """Say whether a terminal may act on ``char``, from Unicode's own table."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}


# --- settings -----------------------------------------------------------------------------------


def test_the_users_card_is_the_default() -> None:
    """Host, port, sizes, streams and workers are those that the user asked for."""
    client, server = ClientSettings(), ServerSettings()
    assert (client.server, client.port, client.user) == ("localhost", 4455, "user1")
    assert (server.host, server.port, server.output) == ("localhost", 4455, Path("output"))
    assert (client.chunk_size, client.block_size) == (1024 * 50, 1024 * 200)
    assert (client.streams, server.workers) == (4, 10)
    assert (client.digest, client.timeout) == ("md5", 30.0)


@pytest.mark.parametrize("own", [ClientSettings(), ServerSettings()])
def test_settings_cannot_be_changed(own: ClientSettings | ServerSettings) -> None:
    """A thread may keep settings without a lock: nobody can change them."""
    for item in fields(own):
        with pytest.raises(FrozenInstanceError):
            setattr(own, item.name, None)


def test_the_password_is_not_in_the_representation_of_settings() -> None:
    """Settings may be logged without giving the password away."""
    assert "s3cret" not in repr(ClientSettings(password="s3cret"))


def test_the_default_block_size_is_one_that_may_be_chosen() -> None:
    """The limits of the block size hold the default, and a block holds a chunk."""
    assert config.MIN_BLOCK_SIZE <= config.BLOCK_SIZE <= config.MAX_BLOCK_SIZE
    assert config.CHUNK_SIZE <= config.BLOCK_SIZE


def test_the_default_number_of_streams_is_one_that_may_be_chosen() -> None:
    """The limit of the streams holds the default."""
    assert 1 <= config.STREAMS <= config.MAX_STREAMS


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", 1024),
        ("1k", 1024),
        ("200K", 1024 * 200),
        ("200KB", 1024 * 200),
        ("200KiB", 1024 * 200),
        ("200 K", 1024 * 200),
        (" 5m ", 5 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("0.5K", 512),
        ("999999999999999", 10**15 - 1),
    ],
)
def test_a_size_in_words_is_understood(text: str, size: int) -> None:
    """K, M and G are powers of 1024, in either case, with or without a fraction."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NOT_SIZES, ids=short)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    """Zero, signs, other units, other digits and endless numbers are no sizes."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_a_refused_size_is_quoted_safely() -> None:
    """The error repeats what was typed, without what could act on the terminal."""
    with pytest.raises(ValueError, match="not a size") as caught:
        parse_size("\x1b[31m\u202e")
    assert not any(map(acts, str(caught.value)))


@quick
@given(st.integers(1, 10**15 - 1))
def test_every_whole_number_of_bytes_is_a_size(size: int) -> None:
    """A plain number means itself, whatever its size."""
    assert parse_size(str(size)) == size


@quick
@given(any_text)
@example("9" * 400 + "G")
def test_no_text_makes_the_size_parser_raise_anything_but_value_error(text: str) -> None:
    """What comes back is a size of at least one byte, or a ValueError."""
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert size >= 1


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 bytes"),
        (1023, "1023 bytes"),
        (KB, "1.0 KB"),
        (200 * KB, "200.0 KB"),
        (MB, "1.0 MB"),
        (3 * GB // 2, "1.5 GB"),
        (5000 * GB, "5000.0 GB"),
        (1536.5, "1.5 KB"),
    ],
)
def test_a_size_is_given_as_people_read_it(size: float, words: str) -> None:
    """The unit is the largest that leaves at least one, up to GB."""
    assert format_size(size) == words


@quick
@given(st.integers(KB, 10**15 - 1))
def test_a_size_given_in_words_is_understood_again(size: int) -> None:
    """What format_size says, parse_size takes, exact to the shown digit."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


# --- argument types -----------------------------------------------------------------------------


def test_a_number_within_its_limits_is_taken() -> None:
    """Both limits belong to the range."""
    convert = argument(int, 1, 64, "streams")
    assert [convert("1"), convert("64")] == [1, 64]


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "many", "1.5", "9" * 5000], ids=short)
def test_a_number_outside_its_limits_is_refused_with_what_is_wanted(text: str) -> None:
    """The error says what is wanted and what was given."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"^from 1 to 64, not '") as caught:
        argument(int, 1, 64, "from 1 to 64")(text)
    assert str(caught.value).endswith(f"{text!r}")


def test_a_size_argument_is_parsed_as_a_size() -> None:
    """The parser is the caller's: sizes and plain numbers alike."""
    assert argument(parse_size, 4 * KB, 4 * MB, "a block size")("200K") == 200 * KB


def test_a_refused_argument_is_quoted_safely() -> None:
    """Nothing typed or pasted acts on the terminal through an error message."""
    for convert in (port_argument(), seconds_argument(0)):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            convert("\x1b[2J\u202e")
        assert not any(map(acts, str(caught.value)))


@pytest.mark.parametrize("text", ["0", "4455", "65535"])
def test_a_port_is_taken(text: str) -> None:
    """Zero is a port too: it means any free one."""
    assert port_argument()(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "65536", "http", "4455.0", ""])
def test_what_is_not_a_port_is_refused(text: str) -> None:
    """A port is a whole number of 16 bits."""
    with pytest.raises(argparse.ArgumentTypeError, match="a port is a number from 0 to 65535"):
        port_argument()(text)


def test_who_connects_cannot_ask_for_any_free_port() -> None:
    """Nobody listens on port zero: to try it for half a minute would be in vain."""
    assert port_argument(1)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 65535, not '0'"):
        port_argument(1)("0")


@pytest.mark.parametrize(("text", "seconds"), [("0.1", 0.1), ("30", 30.0), ("86400", 86400.0)])
def test_a_duration_is_taken(text: str, seconds: float) -> None:
    """Seconds with or without a fraction, from the given least to a day."""
    assert seconds_argument(0.1)(text) == seconds


@pytest.mark.parametrize("text", ["0", "0.09", "-1", "86401", "nan", "inf", "-inf", "30s", ""])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    """Too short, too long, endless, or no number at all."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"a number of seconds from 0\.1 to 86400"):
        seconds_argument(0.1)(text)


def test_a_least_duration_of_zero_takes_zero_but_no_word() -> None:
    """A word must not count as a number even where the least is zero."""
    assert seconds_argument(0)("0") == 0
    with pytest.raises(argparse.ArgumentTypeError):
        seconds_argument(0)("soon")


def test_the_log_level_is_taken_in_either_case() -> None:
    """``--log-level debug`` means DEBUG, and INFO is the default."""
    parser = argparse.ArgumentParser()
    add_log_level(parser)
    assert parser.parse_args([]).log_level == "INFO"
    assert parser.parse_args(["--log-level", "debug"]).log_level == "DEBUG"


def test_an_unknown_log_level_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A level that logging does not know ends the program with exit code 2."""
    parser = argparse.ArgumentParser()
    add_log_level(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--log-level", "LOUD"])
    assert caught.value.code == 2
    assert "LOUD" in capsys.readouterr().err


# --- what is printable --------------------------------------------------------------------------


@pytest.mark.parametrize("text", HARMLESS, ids=short)
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
    """The columns stand where the eye finds them."""
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
    """A line without a sign of its own stays as the terminal's owner likes it."""
    assert "\x1b" not in line("news", colour=True)


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
    """Colour is for people who look."""
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
    """A terminal that says it can do nothing is believed."""
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(terminal)


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
    """A bug of ours does not hide behind that."""
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


def test_streams_that_cannot_be_changed_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that somebody has replaced with something simpler still works."""
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
