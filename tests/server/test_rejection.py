"""What the client hears where the server's disk does not take a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from config import GB, KB, MB
from lft.server.lifecycle import rejection
from lft.store.partfile import PartFile
from lft.store.paths import NoSpaceError, free_bytes
from protocol import Rejected
from tests.support.files import part_files
from tests.support.local import ServerThread
from tests.support.partfiles import facts_of
from tests.support.rawpeer import Peer


def test_a_full_disk_says_what_is_needed_and_what_is_free() -> None:
    """So that the user knows how much room to ask for."""
    told = rejection(NoSpaceError(5 * GB, 1200 * MB))
    assert told.code == "space"
    assert told.reason == "not enough space on the server: 5.0 GB are needed, 1.2 GB are free"


def test_what_is_not_known_is_not_said() -> None:
    """The disk was full for a moment, or its own quota is meant."""
    assert rejection(NoSpaceError(KB, GB)).reason == "not enough space on the server"
    told = rejection(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert told.reason == "not enough space on the server"
    told = rejection(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
    assert (told.code, told.reason[:16]) == ("space", "not enough space")
    assert "a disk quota on the server is used up" in told.reason


def test_a_file_larger_than_the_disk_brings_both_figures(local: ServerThread) -> None:
    """12: before a byte is sent, and nothing is left behind."""
    with Peer(local.port).log_in("user1", "password1") as client:
        answer = client.ask("x", 12 * 1024 * GB)
    assert isinstance(answer, Rejected)
    assert answer.reason.startswith("not enough space on the server: 12288.0 GB are needed, ")
    assert answer.reason.endswith(" are free")
    assert part_files(local.output) == []


def test_space_that_is_taken_while_it_is_reserved_counts_as_missing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been reserved by then is not needed again."""
    part = PartFile.create(output, facts_of(40 * MB))
    reserve, calls = os.posix_fallocate, iter(range(9))

    def fills_up(descriptor: int, offset: int, length: int) -> None:
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fills_up)
    with pytest.raises(NoSpaceError) as caught:
        part.reserve_some(60)
    assert caught.value.needed == 24 * MB
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.free == pytest.approx(free_bytes(output), rel=0.2)
    part.close()
