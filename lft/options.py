"""Options that command lines share: sizes, rates and durations in words, and argparse types."""

from __future__ import annotations

import argparse
import re
from typing import Any, Callable

import config
from lft.terminal import printable

_UNITS = {"": 1, "K": config.KB, "M": config.MB, "G": config.GB}


def parse_size(text: str) -> int:
    """Turn ``200K``, ``1.5G`` or ``4096`` into bytes; 1 K is 1024.

    Raises ``ValueError`` for anything else, including zero.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([KMG]?)(?:i?B)?", text.strip(), re.I | re.A)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"not a size: {printable(text)!r} (try 200K, 1.5M, 2G)")
    return size


def format_size(size: float) -> str:
    """Return a number of bytes in words: ``1.5 GB``, with 1 KB = 1024 bytes."""
    if round(size) == 1:
        return "1 byte"
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def format_both(one: int, other: int) -> tuple[str, str]:
    """Return two different sizes in words that differ, too: in bytes, if it takes that."""
    words = format_size(one), format_size(other)
    return words if words[0] != words[1] else (f"{one} bytes", f"{other} bytes")


def parse_rate(text: str) -> int:
    """Turn ``500K``, ``5MB/s`` or ``1.5 MiB/s`` into bytes a second; 1 K is 1024.

    Raises ``ValueError`` for anything else; of bits it says what they are in bytes.
    """
    amount = re.sub(r"\s*(/|p(er)?\s*)s(ec(ond)?)?\s*$", "", text, flags=re.I)
    bits = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([kmg])(b|bits?)", amount, re.I | re.A)
    if bits and (bits[3].lower() != "b" or _MEGABITS.search(text)):
        rate = float(bits[1]) * 1000 ** (1 + "kmg".index(bits[2].lower())) / 8
        same = f"{rate / config.KB:.0f}K" if rate < config.MB else f"{rate / config.MB:.1f}M"
        raise ValueError(f"a rate counts bytes, not bits: {printable(text)!r} is about {same}")
    try:
        return parse_size(amount)
    except ValueError:
        raise ValueError(f"not a rate: {printable(text)!r} (try 500K, 5MB/s, 1.5G)") from None


_MEGABITS = re.compile("[KMG]b/s|[KMGkmg]bps")  # "MB/s" and "mb/s" are written for bytes


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 block``, ``2 blocks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def argument(parse: Callable[[str], int], low: int, high: int, what: str) -> Callable[[str], int]:
    """Make an argparse type that parses a number and accepts ``low`` to ``high``.

    ``what`` tells what was expected instead, at the beginning of the error.
    """

    def convert(text: str) -> int:
        try:
            value = parse(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{what}, not {printable(text)!r}")
        return value

    return convert


def or_auto(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """Make an argparse type that also takes ``auto``, which becomes ``None``."""
    return lambda text: None if text == "auto" else parse(text)


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make an argparse type of ``parse`` that shows the text of its ``ValueError``."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def rate_argument(least: int) -> Callable[[str], int]:
    """Make the argparse type of ``--limit``: bytes a second, at least ``least``."""

    def convert(text: str) -> int:
        try:
            rate = parse_rate(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if not least <= rate <= 2**62:
            what = f"a rate is at least {format_size(least)} a second"
            raise argparse.ArgumentTypeError(f"{what}, such as 500K or 5MB/s, not {text!r}")
        return rate

    return convert


def port_argument(least: int = 0) -> Callable[[str], int]:
    """Make the argparse type of ``--port``; a listener may have 0, which takes a free port."""
    return argument(int, least, 65535, f"a port is a number from {least} to 65535")


def seconds_argument(low: float) -> Callable[[str], float]:
    """Make the argparse type of a duration: seconds, from ``low`` to a day."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= 86400:
            what = f"a number of seconds from {low:g} to 86400"
            raise argparse.ArgumentTypeError(f"{what}, not {printable(text)!r}")
        return value

    return convert


def add_log_level(parser: argparse._ActionsContainer) -> None:
    """Add ``--log-level``, the same on every command line."""
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=levels,
        type=str.upper,
        metavar="LEVEL",
        help="how much to log: DEBUG (each block), INFO, WARNING or ERROR (INFO)",
    )


def add_version(parser: argparse._ActionsContainer) -> None:
    """Add ``--version``, the same on every command line."""
    version = f"%(prog)s {config.RELEASE}"
    parser.add_argument("--version", action="version", version=version, help="show the version")


_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> int:
    """Turn ``30d``, ``12h``, ``90m`` or ``45s`` into seconds. Raises ``ValueError``."""
    match = re.fullmatch(r"(\d{1,6})\s*([dhms])", text.strip(), re.I | re.A)
    seconds = int(match[1]) * _SECONDS[match[2].lower()] if match else 0
    if seconds < 1:
        raise ValueError(f"not a duration: {printable(text)!r} (try 30d, 12h, 90m)")
    return seconds
