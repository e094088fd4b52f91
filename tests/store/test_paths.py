"""Names that are safe to write below the output directory."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lft.store.paths import output_name, safe_name
from protocol import RejectedError


@pytest.mark.parametrize("name", ["..", ".", "", " ", "...", ". ."])
def test_a_name_that_names_no_file_is_rejected(name: str) -> None:
    """FAULTS 8: nothing can be saved under such a name."""
    with pytest.raises(RejectedError):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../x", ".._x"),
        ("a/../b", "a_.._b"),
        ("/x", "_x"),
        ("\\\\srv\\s", "__srv_s"),
        ("C:x", "C_x"),
        ("f:stream", "f_stream"),
        ("dot.", "dot_"),
        ("space ", "space_"),
        ("nul\0", "nul_"),
        ("cr\r\nlf", "cr__lf"),
        ("esc\x1b[31m", "esc_[31m"),
        ("c1\x9bm", "c1_m"),
        ("zero\u200bwidth", "zero_width"),
        ("rtl\u202egnp", "rtl_gnp"),
        ("lone\udcff", "lone_"),
    ],
)
def test_a_dangerous_name_is_made_harmless(name: str, safe: str) -> None:
    """FAULTS 8 and 9: separators and characters that act or hide become underscores."""
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    "name",
    ["a.txt", "with space.txt", "at@sign", "it's \"quoted\"", "📦.bin", "über", "u\u0308ber", "-rf",
     ".hidden", "CON", "COM1.log", "日本語.tar.gz"],
)  # fmt: skip
def test_a_harmless_name_stays_as_it_is(name: str) -> None:
    """FAULTS 10: the original name is kept where it hurts nobody behind the prefix."""
    assert safe_name(name) == name
    assert output_name(name, "x") == f"server_received_x_{name}"


@given(st.text(max_size=400))
def test_no_name_leaves_the_output_directory(name: str) -> None:
    """FAULTS 8: whatever comes is rejected, or one plain file name of at most 255 bytes."""
    try:
        final = output_name(safe_name(name), "20260101-000000-abcdef")
    except RejectedError:
        return
    assert os.path.basename(final) == final
    assert len(os.fsencode(final)) <= 255


def test_a_long_name_is_shortened_before_its_extension() -> None:
    """FAULTS 10: 255 bytes and the prefix do not fit; the extension is kept."""
    final = output_name("é" * 125 + ".tar", "20260101-000000-abcdef")
    assert len(final.encode()) in (254, 255)
    assert final.endswith("é.tar")


@pytest.mark.parametrize("last", [".", " "])
def test_a_long_name_is_not_shortened_to_a_dot_or_a_space(last: str) -> None:
    """FAULTS 8 and 10: what stood in the middle does not become a dangerous end."""
    final = output_name(f"{'a' * 215}{last}{'b' * 100}", "20260101-000000-abcdef")
    assert len(final) == 255
    assert final.endswith("a_")
