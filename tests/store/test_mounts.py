"""Which file systems other machines may write to."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lft.store import mounts

MOUNTS = rb"""22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:5 / /proc rw - proc proc rw
40 22 0:44 / /mnt/files rw,relatime shared:2 - nfs4 server:/files rw,vers=4.2
41 40 0:45 / /mnt/files/local rw - xfs /dev/sdb1 rw
42 22 0:46 / /mnt/with\040space rw - fuse.glusterfs server:/volume rw
43 22 0:47 / /mnt/stick rw - fuseblk /dev/sdc1 rw
44 22 0:48 / /mnt/covered rw - cifs //server/share rw
45 22 0:49 / /mnt/covered rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "network"),
    [
        ("/srv/out", "ext4", False),
        ("/mnt/files", "nfs4", True),
        ("/mnt/files/out/.partial", "nfs4", True),
        ("/mnt/files/local/out", "xfs", False),
        ("/mnt/filesystem", "ext4", False),
        ("/mnt/with space/out", "fuse.glusterfs", True),
        ("/mnt/stick/out", "fuseblk", False),
        ("/mnt/covered", "tmpfs", False),
    ],
)
def test_the_mount_that_is_nearest_says_what_a_directory_is_on(
    monkeypatch: pytest.MonkeyPatch, place: str, kind: str, network: bool
) -> None:
    """Of two at the same place the later one covers the other."""
    monkeypatch.setattr(mounts, "open", lambda *_: io.BytesIO(MOUNTS), raising=False)
    monkeypatch.setattr("os.path.realpath", str)
    assert mounts.file_system(Path(place)) == kind
    assert mounts.is_network(Path(place)) is network


def test_a_system_that_does_not_say_has_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, as on macOS."""

    def fail(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(mounts, "open", fail, raising=False)
    assert not mounts.is_network(Path("/mnt/files"))


def test_the_root_of_this_system_has_a_kind() -> None:
    """The file of the kernel is read as it is."""
    assert mounts.file_system(Path("/"))
