"""Salted keys, and names and passwords in the one form of SASLprep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import ITERATIONS
from lft.accounts.account import MAX_ITERATIONS, MIN_ITERATIONS, Credential
from lft.accounts.keys import saslprep
from lft.accounts.saslprep import prepare
from protocol import UsageError
from tests.support.generated import quick, short
from tests.support.scram import verifier

# --- salted keys --------------------------------------------------------------------------------


def test_a_credential_is_made_by_the_rfcs_formulas() -> None:
    """What is stored is StoredKey and ServerKey of RFC 5802, section 3."""
    made = Credential.make("pencil", iterations=4096)
    assert made == verifier(b"pencil", made.salt)


def test_each_credential_has_a_salt_of_its_own() -> None:
    """The file does not show that two users have the same password."""
    one, other = (Credential.make("pencil", iterations=4096) for _ in range(2))
    assert one.salt != other.salt
    assert one.stored_key != other.stored_key
    assert len(one.salt) >= 16


def test_the_default_iteration_count_is_one_a_client_takes() -> None:
    """Our own client accepts what our own server stores."""
    assert MIN_ITERATIONS <= ITERATIONS <= MAX_ITERATIONS
    assert Credential.make("pencil").iterations == ITERATIONS


# --- names and passwords in one form ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, section 3: soft hyphen mapped to nothing
        ("user", "user"),  # no transformation
        ("USER", "USER"),  # case preserved
        ("\u00aa", "a"),  # output is NFKC, input in ISO 8859-1
        ("\u2168", "IX"),  # output is NFKC
        ("a\u00a0b\u3000c", "a b c"),  # section 2.1: non-ASCII spaces become spaces
        ("\u0627", "\u0627"),  # section 2.4: right-to-left alone
        ("\u0627 1\u0628", "\u0627 1\u0628"),  # and with a number inside
        ("", ""),
    ],
    ids=short,
)
def test_text_is_prepared_as_the_standard_says(text: str, prepared: str) -> None:
    """RFC 4013: mapping, then normalisation."""
    assert saslprep(text) == prepared


def test_printable_ascii_needs_no_tables() -> None:
    """Most names and passwords are spared them: the tables leave these characters as they are."""
    printable = "".join(chr(code) for code in range(128) if chr(code).isprintable())
    assert len(printable) == 95
    assert saslprep(printable) == printable == prepare(printable)


PROHIBITED = ["\u0007", "a\x7fb", "\n", "\x80", "\ue000", "\ufffe", "\ud800", "\ufffd", "\u2ff0"]
PROHIBITED += ["\u200e", "\U000e0001"]
PROHIBITED += ["\u06271", "1\u0627", "\u0627a\u0628"]  # both directions in one


@pytest.mark.parametrize("text", PROHIBITED, ids=short)
def test_text_that_the_standard_prohibits_is_refused(text: str) -> None:
    """RFC 4013, sections 2.3 and 2.4: controls, private, broken and mixed-direction text."""
    with pytest.raises(UsageError, match="not allowed"):
        saslprep(text)


@quick
@given(st.text(st.characters() | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)))
def test_preparing_text_twice_changes_nothing_more(text: str) -> None:
    """Preparing twice changes nothing more; what is prohibited raises UsageError only."""
    try:
        prepared = saslprep(text)
    except UsageError:
        return
    assert saslprep(prepared) == prepared
