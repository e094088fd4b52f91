"""The patterns of --exclude: which paths they cover."""

from __future__ import annotations

import pytest

from lft.client.exclusion import Exclusion


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.o", "a.o"),
        ("*.o", "src/deep/a.o"),
        ("src/*.o", "src/a.o"),
        ("src/*", "src/deep/a.o"),  # a star of fnmatch takes a slash, too
        ("[ab].txt", "x/b.txt"),
        ("/top", "top"),
        ("/src/*.o", "src/a.o"),
        ("a\nb", "x/a\nb"),
    ],
)
def test_a_pattern_is_for_the_path_and_for_a_name(pattern: str, path: str) -> None:
    """What a user of ``fnmatch`` expects, at any depth."""
    assert Exclusion([pattern]).covers(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("*.o", "a.obj"), ("*.o", "A.O"), ("/top", "x/top"), ("a", "ab"), ("", "a"), ("/", "a")],
)
def test_other_paths_are_not_covered(pattern: str, path: str) -> None:
    """A pattern is for all of a name, and capitals count."""
    assert not Exclusion([pattern]).covers(path)


def test_a_slash_at_the_end_means_a_directory() -> None:
    """A file of that name stays."""
    exclusion = Exclusion(["build/"])
    assert exclusion.covers("x/build", directory=True)
    assert not exclusion.covers("x/build")


def test_one_of_several_patterns_is_enough() -> None:
    """Each stands for itself."""
    exclusion = Exclusion(["*.o", "*.pyc"])
    assert [exclusion.covers(path) for path in ("a.o", "a.pyc", "a.c")] == [True, True, False]
