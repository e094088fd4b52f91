"""Directories that tests send, and a raw client that sends them."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import Iterable

from config import BLOCK_SIZE, KB
from lft.manifest import Entry, Kind, Manifest, parts_of
from lft.sums import TreeHash
from protocol import CODEC_HELD, FileReady, FileStart, Goodbye, IntegrityOk, Message, Missing
from tests.support.files import part_files
from tests.support.local import ServerThread
from tests.support.rawpeer import RawClient, RawUpload, push
from tests.support.waiting import eventually

WHEN = 1_700_000_000_123_456_789
NOTHING = hashlib.md5().hexdigest()


def file(path: str, size: int = 0, mode: int = 0o644, mtime: int = WHEN) -> Entry:
    """Return an entry of a file."""
    return Entry(Kind.FILE, path, size, mode, mtime)


def directory(path: str, mode: int = 0o755, mtime: int = WHEN) -> Entry:
    """Return an entry of a directory."""
    return Entry(Kind.DIRECTORY, path, 0, mode, mtime)


def link(path: str, target: str, mtime: int = 3) -> Entry:
    """Return an entry of a symbolic link."""
    return Entry(Kind.LINK, path, target=target, mtime=mtime)


def entry_at(path: Path, root: Path) -> Entry:
    """Return the entry of what is on the disk."""
    name, facts = path.relative_to(root).as_posix(), path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return link(name, os.readlink(path), facts.st_mtime_ns)
    kind = directory if stat.S_ISDIR(facts.st_mode) else file
    size = {} if kind is directory else {"size": facts.st_size}
    return kind(name, mode=facts.st_mode & 0o777, mtime=facts.st_mtime_ns, **size)


def manifest_of(root: Path) -> Manifest:
    """Return the manifest of a directory on the disk."""
    found = [entry_at(path, root) for path in root.rglob("*")]
    return Manifest(sorted(found, key=lambda entry: os.fsencode(entry.path)))


def bytes_of(root: Path, manifest: Manifest) -> bytes:
    """Return the files of a directory, one behind the other."""
    return b"".join(
        (root / manifest[index].path).read_bytes() for index in manifest.of_kind(Kind.FILE)
    )


def sample(root: Path, files: int = 12, size: int = 50_000, seed: int = 0) -> Path:
    """Make a directory with all that there may be in one; return it."""
    root.mkdir(parents=True)
    for number in range(files):
        folder = root / f"d{number % 3}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        digits = f"{seed}-{number}-".encode()
        data = (digits * (size // len(digits) + 1))[: size * (number % 4) // 2]
        (folder / f"f{number}").write_bytes(data)
    (root / "empty").mkdir()
    (root / "d0-beside").write_bytes(b"sorts before what is in d0")
    (root / "a link").symlink_to("d1/deep/f1")
    (root / "d2" / "up").symlink_to("../d0")
    (root / "d1" / "script").write_text("#!/bin/sh\n")
    (root / "d1" / "script").chmod(0o750)
    (root / "d1" / "back\\slash ä").write_bytes(b"odd name")
    (root / "empty").chmod(0o700)
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            os.utime(path, ns=(WHEN, WHEN + len(path.name)))
    return root


class RawTree(RawUpload):
    """A directory sent by hand, block by block."""

    def __init__(
        self, client: RawClient, number: int, manifest: Manifest, data: bytes, block_size: int
    ) -> None:
        super().__init__(client, number, data, block_size)
        running = TreeHash(manifest, "md5")
        self.digests.clear()
        for block in self.blocks:
            running.update(block)
            self.digests.append(running.digest())
        self.digest = running.hexdigest()


def announce(
    client: RawClient,
    name: str,
    entries: Iterable[Entry],
    block_size: int = BLOCK_SIZE,
    *,
    resume: bool = False,
    **changes: object,
) -> None:
    """Send FILE_START and all of the manifest, whatever the entries are."""
    listed = list(entries)
    start = FileStart(name, 0, block_size, "md5", NOTHING, resume, 0o755, WHEN)
    told = {"size": sum(entry.size for entry in listed), "entries": len(listed), **changes}
    client.control.send(start.replace(**told))
    for part in parts_of(listed):
        client.control.send(part)
        while not client.control.flush():
            client.control.wait(1.0, write=True)


def start_tree(
    client: RawClient, root: Path, block_size: int = BLOCK_SIZE, *, resume: bool = False
) -> tuple[RawTree, FileReady]:
    """Announce a directory on the disk; the server must be ready for it."""
    manifest = manifest_of(root)
    mode, mtime = root.stat().st_mode & 0o777, root.stat().st_mtime_ns
    announce(client, root.name, manifest, block_size, resume=resume, mode=mode, mtime=mtime)
    ready = client.answer()
    assert isinstance(ready, FileReady), ready
    data = bytes_of(root, manifest)
    return RawTree(client, ready.transfer, manifest, data, block_size), ready


def refused(client: RawClient, entries: Iterable[Entry], **changes: object) -> Message:
    """Announce a directory; return the answer."""
    announce(client, "tree", entries, **changes)  # type: ignore[arg-type]
    return client.answer()


def send_tree(client: RawClient, root: Path, block_size: int = BLOCK_SIZE) -> IntegrityOk:
    """Send a directory; return the receipt."""
    upload, _ = start_tree(client, root, block_size)
    if upload.blocks:
        upload.send(client.attach(), *range(len(upload.blocks)))
    verdict = upload.complete()
    assert isinstance(verdict, IntegrityOk), verdict
    return verdict


def same(left: Path, right: Path) -> None:
    """See that two directories are the same in all that is kept."""
    command = ["rsync", "-anci", "--delete", f"{left}/", f"{right}/"]
    difference = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert difference == ""
    subprocess.run(["diff", "-r", "--no-dereference", left, right], check=True)


def interrupted(local: ServerThread, source: Path, blocks: int) -> None:
    """Send the first blocks of a directory, and go."""
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, source, 4 * KB)
        upload.send(client.attach(), *range(blocks))
    eventually(lambda: local.server.parts.in_use == 0, "the tree to rest")


def held_frame(upload: RawTree, block: int) -> bytes:
    """Return the frame of a block that the server has."""
    length = len(upload.blocks[block])
    return upload.frame(block, payload=b"", raw_length=length, wire_length=0, codec=CODEC_HELD)


def go_on(local: ServerThread, source: Path) -> tuple[int, int]:
    """Send the rest of a directory; return how many blocks there are, and were claimed."""
    with RawClient(local.port).log_in() as client:
        upload, ready = start_tree(client, source, 4 * KB, resume=True)
        held = {block for span in ready.have for block in range(*span)}
        stream = client.attach()
        for block in held:
            push(stream, held_frame(upload, block))
        upload.await_acks(stream, len(held))
        upload.send(stream, *(b for b in range(len(upload.blocks)) if b not in held))
        answer = upload.complete()
        while isinstance(answer, Missing):
            upload.send(stream, *(block for span in answer.blocks for block in range(*span)))
            answer = upload.complete()
        assert isinstance(answer, IntegrityOk)
        client.control.send(Goodbye())
    eventually(lambda: part_files(local.output) == [], "the tree to be let go")
    same(source, local.output / answer.saved_as)
    return len(upload.blocks), len(held)
