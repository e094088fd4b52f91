"""Reading the programs' output and their logs."""

from __future__ import annotations

import re

import pytest


def verdict_line(stdout: str) -> tuple[str, str, str]:
    """Split a verdict line into verdict, digest and name."""
    match = re.fullmatch(r"(INTEGRITY_\w+) .* ([0-9a-f]{32,64})  (.*)\n", stdout)
    assert match, stdout
    return match[1], match[2], match[3]


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Return the log lines that have ``words`` in them."""
    return [text for text in caplog.messages if words in text]
