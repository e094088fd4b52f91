"""How many examples a property is tried with, and text to try it on."""

from __future__ import annotations

import unicodedata

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

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
quicker = settings(quick, max_examples=40)
quickest = settings(quick, max_examples=20)  # for each of the messages

# Lone surrogates too: a file name from the disk or from JSON may hold them.
any_text = st.text(st.characters() | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF))


def short(value: object) -> str:
    """Name a case of a test by the start of its value."""
    return ascii(value)[:40]


def shorter(value: object) -> str:
    """Name a case of a test by a shorter start of its value."""
    return ascii(value)[:24]


def acts(char: str) -> bool:
    """Say whether a terminal may act on ``char``, from Unicode's own table."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
