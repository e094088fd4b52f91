"""How a file is divided into blocks."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import MAX_FILE_SIZE, Blocks
from tests.support.generated import quicker


@quicker
@given(st.integers(0, 5000), st.integers(1, 700))
@example(0, 1)
@example(1, 1)
def test_the_blocks_of_a_file_cover_it_once(size: int, block_size: int) -> None:
    """Lengths sum up to the size, and each block starts where the one before it ended."""
    blocks = Blocks(size, block_size)
    end = 0
    for index in range(blocks.count):
        assert blocks.offset(index) == end
        assert 0 < blocks.length(index) <= block_size
        end += blocks.length(index)
    assert end == size


@quicker
@given(st.integers(1, MAX_FILE_SIZE), st.integers(1, MAX_FILE_SIZE))
def test_the_last_block_of_any_file_ends_where_the_file_ends(size: int, block_size: int) -> None:
    """Also for sizes that a float cannot hold exactly."""
    blocks = Blocks(size, block_size)
    last = blocks.count - 1
    assert blocks.offset(last) + blocks.length(last) == size
    assert all(blocks.length(index) == block_size for index in {0, last - 1} if 0 <= index < last)


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, []),
        (1, [1]),
        (204799, [204799]),
        (204800, [204800]),
        (204801, [204800, 1]),
        (3 * 204800, [204800] * 3),
    ],
)
def test_the_usual_sizes_fall_into_the_expected_blocks(size: int, lengths: list[int]) -> None:
    """FAULTS 12: empty, one byte, and around the edges of a block."""
    blocks = Blocks(size, 204800)
    assert [blocks.length(index) for index in range(blocks.count)] == lengths
