"""A directory as one transfer, from its announcement to its verdict."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import config
from config import KB
from lft.accounts.account import Accounts
from lft.manifest import Entry
from protocol import (
    Cancel,
    ConnectionLostError,
    FileReady,
    FileStart,
    Goodbye,
    IntegrityFailed,
    IntegrityOk,
    ManifestPart,
    Missing,
    Rejected,
    RemoteProtocolError,
    TransferComplete,
    TransferOverError,
)
from tests.support.accounts import VERIFIER, Serve
from tests.support.files import part_files, received
from tests.support.local import ServerThread, StartLocal
from tests.support.rawpeer import Peer, RawClient, push
from tests.support.rawtrees import (
    NOTHING,
    WHEN,
    announce,
    directory,
    file,
    go_on,
    held_frame,
    interrupted,
    link,
    refused,
    same,
    sample,
    send_tree,
    start_tree,
)
from tests.support.waiting import eventually


def tree_in(output: Path) -> Path:
    """Return the only published directory."""
    (tree,) = filter(Path.is_dir, received(output))
    return tree


@pytest.mark.parametrize("block_size", [4 * KB, 200 * KB])
def test_a_directory_arrives_as_it_is(local: ServerThread, tmp_path: Path, block_size: int) -> None:
    """All kinds of entries, names, bits and times; its sums beside it are what proves it."""
    source = sample(tmp_path / "photos")
    with RawClient(local.port).log_in() as client:
        receipt = send_tree(client, source, block_size)
        client.control.send(Goodbye())
        eventually(lambda: part_files(local.output) == [], "the confirmed tree to be let go")
    tree, sums = received(local.output)
    assert [tree.name, sums.name] == [receipt.saved_as, f"{receipt.saved_as}.md5"]
    assert receipt.kept
    same(source, tree)
    assert hashlib.md5(sums.read_bytes()).hexdigest() == receipt.digest
    subprocess.run(["md5sum", "--check", "--strict", "--quiet", sums], cwd=tree, check=True)


@pytest.mark.parametrize("entries", [[], [directory("d")], [file("a"), file("b")]])
def test_a_directory_without_a_byte_arrives(local: ServerThread, entries: list[Entry]) -> None:
    """An empty one, one of directories, and one of empty files: no block is ever sent."""
    with RawClient(local.port).log_in() as client:
        announce(client, "tree", entries)
        ready = client.answer()
        assert isinstance(ready, FileReady)
        lines = "".join(f"{NOTHING}  {one.path}\n" for one in entries if one.path != "d")
        digest = hashlib.md5(lines.encode()).hexdigest()
        client.control.send(TransferComplete(ready.transfer, digest))
        assert isinstance(client.answer(), IntegrityOk)
    assert sorted(os.listdir(tree_in(local.output))) == sorted(one.path for one in entries)


# --- what is refused before a byte is asked for -------------------------------------------------

BAD: dict[str, tuple[list[Entry], str]] = {
    "dot-dot": ([file("../x")], "no name of a file"),
    "dot-dot within": ([directory("d"), file("d/../../x")], "no name of a file"),
    "absolute": ([file("/etc/x")], "no name of a file"),
    "NUL": ([file("a\0b")], "hides or obeys"),
    "out of order": ([file("b"), file("a")], "out of order"),
    "double path": ([file("a"), file("a")], "there twice"),
    "file and directory": ([file("a"), directory("a")], "there twice"),
    "file with entries": ([file("a"), file("a/b")], "no directory of this tree"),
    "without its parent": ([file("a/b")], "no directory of this tree"),
    "path through a link": (
        [directory("d"), link("l", "d"), file("l/x")], "no directory of this tree"
    ),
    "link below a link": (
        [directory("d"), link("l", "d"), link("l/x", "y")], "no directory of this tree"
    ),
    "directory below a link": (
        [directory("d"), link("l", "d"), directory("l/x")], "no directory of this tree"
    ),
    "link out of it": ([link("l", "../outside")], "leads out of the tree"),
    "link to an absolute path": ([link("l", "/etc")], "leads out of the tree"),
    "link through a link": (
        [directory("d"), link("d/up", "."), link("l", "d/up/../../x")], "leads out of the tree"
    ),
    "2,000 levels": (
        [directory("/".join("d" * depth)) for depth in range(1, 2001)], "deeper than 128"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "reason"), BAD.values(), ids=BAD)
def test_a_manifest_that_no_tree_can_have_is_refused(
    local: ServerThread, entries: list[Entry], reason: str
) -> None:
    """The session goes on with the next file, and nothing is left."""
    with RawClient(local.port).log_in() as client:
        answer = refused(client, entries)
        assert isinstance(answer, Rejected)
        assert answer.code == "manifest"
        assert reason in answer.reason
        assert part_files(local.output) == []
        assert isinstance(refused(client, [file("fine")]), FileReady)


NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "a thousand million entries": (
        {"entries": 10**9}, "1,000,000,000 entries are more than 200,000"
    ),
    "a larger sum": ({"size": 7}, "its files have 3 bytes together, not 7 bytes"),
    "a smaller sum": ({"size": 2}, "its files have 3 bytes together, not 2 bytes"),
    "the largest sum": ({"size": 2**63 - 1}, "too many blocks"),
    "no name": ({"name": ".."}, "not a file name"),
    "no digest": ({"digest": "crc"}, "unknown digest"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_cannot_be_are_refused(
    local: ServerThread, changes: dict[str, Any], reason: str
) -> None:
    """10⁹ entries and sizes that do not add up take no memory and no space."""
    with RawClient(local.port).log_in() as client:
        start = FileStart("t", 3, 200 * KB, "md5", NOTHING, False, 0o755, WHEN, entries=1)
        client.control.send(start.replace(**changes))
        if "size" in changes:
            client.control.send(ManifestPart((file("a", 3).raw,)))
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert reason in answer.reason
        assert isinstance(refused(client, [file("fine")]), FileReady)


@pytest.mark.parametrize("size", [-1, 2**63, 2**64])
def test_sizes_that_overflow_are_refused(local: ServerThread, size: int) -> None:
    """Neither a number that no file has nor a sum of them comes any further."""
    with RawClient(local.port).log_in() as client:
        answer = refused(client, [file("a", size)], size=3)
        assert isinstance(answer, Rejected)
        assert "larger together than a file can be" in answer.reason
        answer = refused(client, [file("a", 2**62), file("b", 2**62)], size=3)
        assert isinstance(answer, Rejected)
        assert "larger together than a file can be" in answer.reason


def test_a_block_that_goes_beyond_the_end_is_refused(local: ServerThread, tmp_path: Path) -> None:
    """The last file ends where the manifest says; no byte is written behind it."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_bytes(b"abc")
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, tmp_path / "t")
        for wrong in ({"block": 1}, {"payload": b"abcd", "raw_length": 4, "wire_length": 4}):
            stream = client.attach()
            push(stream, upload.frame(0, **wrong))
            with pytest.raises(RemoteProtocolError, match="not part of the file"):
                upload.await_acks(stream, 1)
        upload.send(client.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)
    assert (tree_in(local.output) / "f").read_bytes() == b"abc"


def test_a_refused_manifest_may_go_on_coming(local: ServerThread) -> None:
    """What is on its way when the server says no is ignored; the next file has its turn."""
    with RawClient(local.port).log_in() as client:
        many = [file(f"{number:06}") for number in range(5000)]
        announce(client, "tree", [file("../x"), *many])
        assert isinstance(client.answer(), Rejected)
        assert isinstance(refused(client, [file("fine")]), FileReady)


def test_a_client_gives_up_while_it_lists(local: ServerThread) -> None:
    """CANCEL is answered at once."""
    with RawClient(local.port).log_in() as client:
        start = FileStart("t", 0, 200 * KB, "md5", NOTHING, False, 0o755, WHEN, entries=2)
        client.control.send(start)
        client.control.send(Cancel())
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "cancelled"
        assert isinstance(refused(client, [file("fine")]), FileReady)


def test_a_peer_that_says_nothing_after_the_announcement_meets_a_deadline(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it trickles: the whole manifest has one deadline."""
    monkeypatch.setattr(config, "LISTING_TIMEOUT", 0.3)
    local = start_local()
    with RawClient(local.port).log_in() as client:
        start = FileStart("t", 0, 200 * KB, "md5", NOTHING, False, 0o755, WHEN, entries=2)
        client.control.send(start)
        with pytest.raises(ConnectionLostError, match="too slow"):
            client.answer()


def test_a_peer_that_sends_the_manifest_and_nothing_more_expires(
    start_local: StartLocal,
) -> None:
    """Like a file of which no block comes; what was made for it goes."""
    local = start_local(stall_timeout=0.3)
    with RawClient(local.port).log_in() as client:
        announce(client, "t", [directory("d"), file("d/f", 5)])
        assert isinstance(client.answer(), FileReady)
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "timeout"
    eventually(lambda: part_files(local.output) == [], "what was made to be removed")


def test_the_memory_of_manifests_is_shared_out(
    start_local: StartLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user has so much; when a directory is over, its share is there again."""
    monkeypatch.setattr(config, "MAX_MANIFESTS_OF_USER", 200_000)
    local = start_local()
    many = [file(f"{number:06}") for number in range(1000)]
    with RawClient(local.port).log_in() as client, RawClient(local.port).log_in() as other:
        assert isinstance(refused(client, many), FileReady)
        answer = refused(other, many)
        assert isinstance(answer, Rejected)
        assert answer.code == "busy"
        client.control.send(Cancel())
        assert isinstance(client.answer(), Rejected)

        def fits() -> bool:
            return isinstance(refused(other, many), FileReady)

        eventually(fits, "the share to come back")


# --- rights and quotas --------------------------------------------------------------------------


def test_each_file_needs_an_extension_that_is_allowed(start_local: StartLocal) -> None:
    """The one that has none is named; the directory itself needs none."""
    local = start_local(allow_ext=(".txt",))
    with RawClient(local.port).log_in() as client:
        answer = refused(client, [directory("d"), file("d/a.exe"), file("d/b.txt")])
        assert isinstance(answer, Rejected)
        assert answer.code == "extension"
        assert "'d/a.exe'" in answer.reason
        assert isinstance(refused(client, [directory("d"), file("d/b.txt")]), FileReady)


def test_each_file_has_to_be_what_its_extension_says(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """FAULTS 13: the second picture is none; nothing is published."""
    local = start_local(allow_ext=(".png",))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50 * KB))
    (tmp_path / "t" / "b.png").write_bytes(b"MZ" + bytes(50 * KB))
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, tmp_path / "t", 4 * KB)
        with contextlib.suppress(TransferOverError):  # the server knows before all is sent
            upload.send(client.attach(), *range(len(upload.blocks)))
        answer = upload.complete()
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.reason[:7]) == ("content", "'b.png'")
    assert received(local.output) == []
    eventually(lambda: part_files(local.output) == [], "the tree to be removed")


def test_the_size_limit_is_for_the_whole(start_local: StartLocal) -> None:
    """Two files that would fit by themselves are too much together."""
    local = start_local(max_file_size=10)
    with RawClient(local.port).log_in() as client:
        answer = refused(client, [file("a", 6), file("b", 6)])
        assert isinstance(answer, Rejected)
        assert answer.code == "size"


def test_a_quota_counts_what_is_in_trees(serve: Serve, tmp_path: Path) -> None:
    """Published, unfinished and new ones; each entry counts 4 KB at least."""
    quota = VERIFIER.replace(directory="alice", quota=200 * KB)
    local = serve(Accounts({"alice": quota}))
    source = sample(tmp_path / "t", files=4, size=40 * KB)
    with Peer(local.port).log_in() as client:
        many = [file(f"{number:02}") for number in range(50)]
        answer = refused(client, many)
        assert isinstance(answer, Rejected)
        assert "each entry counts 4 KB at least" in answer.reason
        receipt = send_tree(client, source)
        for counted in ("as published", "as found on the disk"):
            answer = refused(client, many[:25])
            assert isinstance(answer, Rejected), counted
            assert answer.code == "quota"
            local.server.lifecycle._quota._usage._counts.clear()
        tree = local.output / receipt.saved_as
        subprocess.run(["rm", "-r", tree / "d1", tree / "d2", tree / "d0"], check=True)
        assert isinstance(refused(client, many[:25]), FileReady)


# --- damage, and going on -----------------------------------------------------------------------


def test_a_damaged_block_is_asked_for_again(local: ServerThread, tmp_path: Path) -> None:
    """The running digest of a tree finds it as that of a file does."""
    source = sample(tmp_path / "t")
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, source, 4 * KB)
        stream = client.attach()
        good, upload.blocks[3] = upload.blocks[3], bytes(4 * KB)
        upload.send(stream, *range(len(upload.blocks)))
        answer = upload.complete()
        assert isinstance(answer, Missing)
        assert answer.blocks == ((3, 4),)
        upload.blocks[3] = good
        upload.send(stream, 3)
        assert isinstance(upload.complete(), IntegrityOk)
    same(source, tree_in(local.output))


def test_a_wrong_digest_publishes_nothing(local: ServerThread, tmp_path: Path) -> None:
    """FAULTS 18: neither the tree nor its sums."""
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, sample(tmp_path / "t"))
        upload.send(client.attach(), *range(len(upload.blocks)))
        assert isinstance(upload.complete("0" * 32), IntegrityFailed)
    assert received(local.output) == []


def test_an_interrupted_directory_goes_on(local: ServerThread, tmp_path: Path) -> None:
    """The server claims what it has, and only the rest is sent."""
    source = sample(tmp_path / "t")
    interrupted(local, source, 20)
    blocks, held = go_on(local, source)
    assert held == 20 < blocks


def test_a_directory_that_changed_goes_on(local: ServerThread, tmp_path: Path) -> None:
    """A new file at its beginning moves all others: what is left of them is used all the same."""
    source = sample(tmp_path / "t")
    interrupted(local, source, 60)
    (source / "a new one").write_bytes(bytes(5 * KB))
    (source / "d0" / "deep" / "f3").write_bytes(b"changed")
    (source / "d0-beside").unlink()
    (source / "empty").rmdir()
    (source / "empty").write_bytes(b"a file by now")
    blocks, held = go_on(local, source)
    assert 20 < held < blocks
    assert len(list(filter(Path.is_dir, received(local.output)))) == 1


def test_another_directory_of_the_same_name_begins_anew(
    local: ServerThread, tmp_path: Path
) -> None:
    """Less than half of the bytes are in it: the unfinished one waits for its own client."""
    first, second = sample(tmp_path / "1" / "t"), tmp_path / "2" / "t"
    interrupted(local, first, 20)
    second.mkdir(parents=True)
    (second / "other").write_bytes(bytes(100 * KB))
    with RawClient(local.port).log_in() as client:
        upload, ready = start_tree(client, second, 4 * KB, resume=True)
        assert ready.have == ()
        upload.send(client.attach(), *range(len(upload.blocks)))
        assert isinstance(upload.complete(), IntegrityOk)
        client.control.send(Goodbye())
    eventually(lambda: len(part_files(local.output)) == 1, "only the first to be left")
    assert go_on(local, first)[1] == 20


def test_a_verdict_that_was_lost_is_given_again(local: ServerThread, tmp_path: Path) -> None:
    """FAULTS 37: one directory, the same name and digest."""
    source = sample(tmp_path / "t")
    with RawClient(local.port).log_in() as client:
        receipt = send_tree(client, source, 4 * KB)
    eventually(lambda: local.server.parts.in_use == 0, "the tree to rest")
    blocks, held = go_on(local, source)
    assert held == blocks
    assert tree_in(local.output).name == receipt.saved_as


def test_a_published_directory_that_was_changed_is_sent_anew(
    local: ServerThread, tmp_path: Path
) -> None:
    """What a user made of it stays as it is; the client gets a directory of its own."""
    source = sample(tmp_path / "t")
    with RawClient(local.port).log_in() as client:
        receipt = send_tree(client, source, 4 * KB)
    eventually(lambda: local.server.parts.in_use == 0, "the tree to rest")
    changed = local.output / receipt.saved_as / "d0-beside"
    changed.write_bytes(b"sorts before what was in d0")
    with RawClient(local.port).log_in() as client:
        upload, _ = start_tree(client, source, 4 * KB, resume=True)
        stream = client.attach()
        for block in range(len(upload.blocks)):
            push(stream, held_frame(upload, block))
        answer = client.answer()
        assert isinstance(answer, Rejected)
        assert answer.code == "stale"
    go_on(local, source)
    assert changed.read_bytes() == b"sorts before what was in d0"


def test_three_clients_send_the_same_directory_at_once(local: ServerThread, tmp_path: Path) -> None:
    """FAULTS 43: three directories."""
    source = sample(tmp_path / "t")
    clients = [RawClient(local.port).log_in() for _ in range(3)]
    uploads = [start_tree(client, source)[0] for client in clients]
    for client, upload in zip(clients, uploads):
        upload.send(client.attach(), *range(len(upload.blocks)))
        assert isinstance(upload.complete(), IntegrityOk)
    for client in clients:
        client.__exit__()
    trees = list(filter(Path.is_dir, received(local.output)))
    assert len(trees) == 3
    for tree in trees:
        same(source, tree)
