"""Sizes, ports and durations as they are written on a command line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import auth
import client
import server
from config import GB, KB, MB
from lft.options import (
    add_log_level,
    argument,
    format_both,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    plural,
    port_argument,
    rate_argument,
    seconds_argument,
)
from tests.support.generated import acts, any_text, quick, shorter

NOT_SIZES = ["", " ", "K", "0", "0K", "0.1", "-1", "+1", "1T", "1KK", "1e3", "0x10", "1_000"]
NOT_SIZES += ["1,5K", "1.K", ".5K", "1.2345K", "nan", "inf", "9" * 16, "9" * 5000, "1 0", "1\n2"]
NOT_SIZES += ["\u0663K", "\uff15", "2\u212a", "\u00b2"]  # other digits, the Kelvin sign


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
    """K, M and G, in either case, are powers of 1024; a size may have a fraction."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NOT_SIZES, ids=shorter)
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
    """The result is a size of at least one byte, or a ValueError."""
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert size >= 1


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
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


def test_two_sizes_that_differ_read_so() -> None:
    """ "2.0 MB is more than 2.0 MB" explains nothing."""
    assert format_both(3 * MB, 2 * MB) == ("3.0 MB", "2.0 MB")
    assert format_both(2 * MB, 2 * MB - 9) == ("2097152 bytes", "2097143 bytes")


@quick
@given(st.integers(KB, 10**15 - 1))
def test_a_size_given_in_words_is_understood_again(size: int) -> None:
    """parse_size takes what format_size writes, exact to the digit that is shown."""
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(("number", "words"), [(0, "0 blocks"), (1, "1 block"), (2, "2 blocks")])
def test_one_thing_is_not_many(number: int, words: str) -> None:
    """ "1 blocks" reads like a mistake."""
    assert plural(number, "block") == words


# --- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["5M", "5m", "5MB", "5MiB", "5MB/s", "5 MiB/s", "5mb/s", "5MBps", "5M/sec", " 5M per s "],
)
def test_a_rate_is_understood_as_people_write_it(text: str) -> None:
    """All of them are 5 * 1024 * 1024 bytes a second."""
    assert rate_argument(1024)(text) == 5 * MB


@pytest.mark.parametrize("text", ["1.5G", "1.5GB/s"])
def test_a_rate_may_have_a_fraction(text: str) -> None:
    """As a size may."""
    assert parse_rate(text) == 3 * GB // 2


@pytest.mark.parametrize("text", ["fast", "", "5M/h", "5MB/s/s", "-5M", "5 parsecs", "0"])
def test_nonsense_is_no_rate_and_gets_an_example(text: str) -> None:
    """The error shows what was typed, and three rates."""
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        rate_argument(1024)(text)
    assert str(caught.value) == f"not a rate: {text!r} (try 500K, 5MB/s, 1.5G)"


def test_a_rate_below_the_least_is_refused_with_the_least() -> None:
    """A transfer of a byte a second would never end."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"at least 1\.0 KB a second, such as"):
        rate_argument(1024)("1000")


@pytest.mark.parametrize(
    ("text", "bytes_"), [("5Mbit/s", "610K"), ("100 Mbit", "11.9M"), ("100Mbps", "11.9M"),
                         ("1 gbit/s", "119.2M"), ("8kbps", "1K"), ("5Mb/s", "610K")]
)  # fmt: skip
def test_bits_are_refused_with_what_they_are_in_bytes(text: str, bytes_: str) -> None:
    """A network is sold in bits: eight times too fast would fill it."""
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        rate_argument(1024)(text)
    assert str(caught.value) == f"a rate counts bytes, not bits: {text!r} is about {bytes_}"


# --- argument types -----------------------------------------------------------------------------


def test_a_number_within_its_limits_is_taken() -> None:
    """Both limits belong to the range."""
    convert = argument(int, 1, 64, "streams")
    assert [convert("1"), convert("64")] == [1, 64]


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "many", "1.5", "9" * 5000], ids=shorter)
def test_a_number_outside_its_limits_is_refused_with_what_is_wanted(text: str) -> None:
    """The error tells what is expected and what was given."""
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
    """Zero is a port, too: any free one."""
    assert port_argument()(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "65536", "http", "4455.0", ""])
def test_what_is_not_a_port_is_refused(text: str) -> None:
    """A port is a whole number of 16 bits."""
    with pytest.raises(argparse.ArgumentTypeError, match="a port is a number from 0 to 65535"):
        port_argument()(text)


def test_who_connects_cannot_ask_for_any_free_port() -> None:
    """No server listens on port zero: to try it for half a minute would be in vain."""
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


# --- the version --------------------------------------------------------------------------------


def newest_release() -> str:
    """Return the newest entry of the changelog."""
    changelog = Path(__file__).resolve().parents[2] / ".github" / "CHANGELOG.md"
    found = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog.read_text("utf-8"), re.M)
    assert found
    return found[1]


@pytest.mark.parametrize("main", [server.main, client.main, auth.main])
def test_each_program_says_its_version(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The version is the newest one of the changelog, on standard output, with exit code 0."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    name, version = capsys.readouterr().out.split()
    assert name
    assert version == newest_release()


# --- durations of an account --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("1D", 86400), (" 5 m ", 300)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    """Seconds, minutes, hours, days."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "d", "0s", "-1d", "1.5h", "1w", "1d2h", "9999999d", "٣d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The error gives an example of a duration."""
    with pytest.raises(ValueError, match="try 30d"):
        parse_duration(text)
