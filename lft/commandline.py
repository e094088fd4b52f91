"""Command lines: a parser that knows what was meant, and a help that fits the terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from typing import Any, Callable, Iterable, NoReturn, Sequence

from lft.terminal import printable

_NARROW = 60  # columns: below, an option and its meaning have no room beside each other
_COMMAND = "    "  # what a line of an epilog begins with that is to be typed


class HelpFormatter(argparse.HelpFormatter):
    """A help as wide as the terminal, or as ``COLUMNS`` says.

    Lines of a description or an epilog stay lines of their own. By itself argparse makes a
    formatter for each option, and loads ``shutil`` for the width: 4 ms.
    """

    def __init__(self, prog: str) -> None:
        columns = max(terminal_width(), 40)
        position = 24 if columns >= _NARROW else 6
        super().__init__(prog, width=columns - 2, max_help_position=position)

    def _format_usage(self, *parts: Any) -> str:
        usage = super()._format_usage(*parts).strip()
        return "\n".join(_wrap(usage, self._width, " " * 7)) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002
        return "\n".join(_fill(line, width) for line in text.split("\n"))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(" ".join(text.split()), width)


def _fill(line: str, width: int) -> str:
    """Wrap one line of a description or an epilog, and keep its indent."""
    if line.startswith(_COMMAND):
        return " \\\n".join(_wrap(line, width - 2, _COMMAND * 2))  # as it can be pasted
    item = re.match(r" +(\d+ +)?", line)
    return "\n".join(_wrap(line, width, " " * len(item[0]) if item else ""))


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Cut ``text`` into lines, at its spaces alone; all except the first one have ``indent``."""
    import textwrap  # noqa: PLC0415  (only a help needs it)

    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def terminal_width() -> int:
    """Return the columns of the terminal; 80 where there is none."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and len(columns) < 5 else 0
    with contextlib.suppress(OSError):  # no terminal
        width = width or os.get_terminal_size().columns
    return width or 80  # a new terminal may say 0


class Parser(argparse.ArgumentParser):
    """A parser whose errors are short, and name the option that may have been meant."""

    def __init__(self, meant: dict[str, str] | None = None, **options: Any) -> None:
        """``meant`` has options of other programs, and what they are called here."""
        options = {"formatter_class": HelpFormatter, "allow_abbrev": False, **options}
        super().__init__(**options)
        self._meant = meant or {}

    def parse_known_args(  # type: ignore[override]  # its overloads are about the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; before that, end the program at an option that there is not.

        By itself argparse would first complain of options that are missing.
        """
        words = sys.argv[1:] if args is None else list(args)
        self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_options(self, words: Iterable[str]) -> None:
        for word in words:
            name = word.partition("=")[0]
            if word == "--" or word in self._commands:
                return  # what follows is no option, or is for another parser
            if _looks_like_option(word) and name not in self._option_string_actions:
                hint = self._suggestion(name) or self._place_of_options()
                self.error(f"there is no option {name}{hint}")

    @property
    def _commands(self) -> list[str]:
        found = (one for one in self._actions if isinstance(one, argparse._SubParsersAction))
        return [name for action in found for name in action.choices or ()]

    def _place_of_options(self) -> str:
        return " here; options stand behind the command" if self._commands else ""

    def _suggestion(self, name: str) -> str:
        import difflib  # noqa: PLC0415  (3 ms that only a mistake should cost)

        known = [option for option in self._option_string_actions if option.startswith("--")]
        long = f"--{name.lstrip('-')}"
        begun = [option for option in known if option.startswith(long)]
        close = difflib.get_close_matches(long, known, 1, 0.7)
        found = [self._meant[long]] if long in self._meant else begun or close
        return f"; did you mean {' or '.join(found[:3])}?" if found else ""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2; the last line says why."""
        self.print_usage(sys.stderr)
        message = message[len("argument ") :] if message.startswith("argument ") else message
        hint = "" if message.endswith("?") else f" ({self.prog} --help tells more)"
        self.exit(2, f"{self.prog}: {printable(message)}{hint}\n")


def _looks_like_option(word: str) -> bool:
    """Whether argparse takes ``word`` for an option: no number, and nothing with a space in it."""
    return len(word) > 1 and word[0] == "-" and not re.match(r"-\.?\d", word) and " " not in word


def adder(parser: argparse.ArgumentParser, title: str) -> Callable[..., argparse.Action]:
    """Return what adds options to a new group of the help."""
    return parser.add_argument_group(title).add_argument
