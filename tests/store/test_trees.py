"""A part tree: making it, writing it, publishing it, opening it again."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Callable, Iterator

import pytest

import config
from lft.manifest import Manifest
from lft.store.journal import Facts, Journal, record
from lft.store.part import StaleError
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL
from lft.store.treemaking import takes_names_for_others
from lft.store.treeroot import TreeRoot
from lft.store.trees import PartTree
from protocol import RejectedError
from tests.support.directories import NOBODY, as_nobody
from tests.support.files import part_files, received
from tests.support.partfiles import broken_disk, no_links
from tests.support.parttrees import DATA, ENTRIES, facts_of, filled, lines_of, made
from tests.support.rawtrees import WHEN, directory, file, link


def again(output: Path, part: PartTree) -> PartTree:
    """Stand for a tree as the next server does, which knows only its journal."""
    journal = Journal(output / PARTIAL / f"{part.stem}.journal")
    return PartTree(output, part.stem, journal.facts())


def reopened(output: Path, part: PartTree, facts: Facts) -> PartTree:
    """Return a tree as the next server goes on with it."""
    one = again(output, part)
    one.recover()
    one.reopen(facts)
    one.go_on(facts)
    while one.reserve_some(1.0):
        continue
    return one


def bits(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask; it is as before at the end."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# --- what is published --------------------------------------------------------------------------


def test_a_tree_is_published_with_its_entries_and_sums(output: Path) -> None:
    """Files, directories and links, with bits and times; nothing of it is left elsewhere."""
    facts = facts_of()
    part = filled(output, facts)
    assert received(output) == []
    name = part.publish()
    part.remove()
    tree = output / name
    assert {path.relative_to(tree).as_posix() for path in tree.rglob("*")} == {
        entry.path for entry in ENTRIES
    }
    assert [(tree / one).read_bytes() for one in ("a", "d/b", "z")] == [DATA[:5], DATA[5:15], b"3"]
    assert os.readlink(tree / "d" / "link") == "../a"
    assert [bits(tree / one) for one in (".", "a", "d", "d/b")] == [0o755, 0o640, 0o750, 0o600]
    assert {path.lstat().st_mtime_ns for path in tree.rglob("[ad]")} == {WHEN}
    assert tree.stat().st_mtime_ns == WHEN
    assert (output / f"{name}.md5").read_bytes() == b"".join(lines_of(facts, DATA))
    assert part_files(output) == []


@pytest.mark.parametrize("syncfs", [True, False])
def test_a_tree_that_shuts_out_its_own_server_is_published(
    output: Path, monkeypatch: pytest.MonkeyPatch, *, syncfs: bool
) -> None:
    """Not as root: bits that forbid to write or read are set last, and asked again it answers."""
    monkeypatch.setattr("lft.store.trees.flush_many", lambda *_: syncfs)
    entries = [directory("d", 0o555), file("d/f", 5, 0), directory("e", 0), file("e/g", 4, 0o200)]
    facts = facts_of(entries)._replace(mode=0o555)
    for path in (output, output / PARTIAL):
        os.chown(path, NOBODY, NOBODY)
    monkeypatch.chdir(output)  # another account need not come through what is above it
    output = Path()
    with as_nobody():
        part = filled(output, facts, b"aaaaabbbb")
        tree = output / part.publish()
        seen = [bits(tree / path) for path in (".", "d", "d/f", "e", "e/g")]
        assert seen == [0o555, 0o555, 0, 0o500, 0o200]
        part.close()
        one = reopened(output, part, facts)
        view = memoryview(bytearray(9))
        one.read(view, 0)
        assert bytes(view) == b"aaaaabbbb"
        one.finish(())
        assert one.publish() == tree.name
        assert [bits(tree / path) for path in (".", "d", "d/f", "e", "e/g")] == seen
        one.remove()
        unpublished = filled(output, facts, b"aaaaabbbb")
        unpublished.remove()
    assert part_files(output) == []


def test_the_umask_takes_from_the_bits(output: Path, umask: Callable[[int], int]) -> None:
    """What a new file or directory would not get, these do not get either."""
    umask(0o027)
    tree = output / filled(output, facts_of()._replace(mode=0o777)).publish()
    assert [bits(tree / one) for one in (".", "a", "d", "z")] == [0o750, 0o640, 0o750, 0o640]


def test_a_set_gid_directory_gives_its_group(output: Path) -> None:
    """All entries have it, and directories hand it on; no other set-gid bit is ever set."""
    os.chown(output, -1, NOBODY)
    output.chmod(0o2775)
    tree = output / filled(output, facts_of()).publish()
    assert {path.lstat().st_gid for path in (tree, *tree.rglob("*"))} == {NOBODY}
    assert [bits(tree / one) for one in (".", "d", "a")] == [0o2755, 0o2750, 0o640]


def test_names_that_are_taken_are_left_alone(output: Path) -> None:
    """A directory, even an empty one, and sums: the tree gets another name for both."""
    for taken in ("server_received_1_t", "server_received_1_t.md5"):
        part = filled(output, facts_of())
        (output / taken).mkdir()
        name = part.publish()
        part.remove()
        assert name != "server_received_1_t"
        assert (output / f"{name}.md5").is_file()
        assert list((output / taken).iterdir()) == []
        assert [path.name for path in received(output)] == sorted([taken, name, f"{name}.md5"])
        (output / taken).rmdir()
        for path in received(output):
            path.rename(output / f"moved-{path.name}")


def test_without_hard_links_and_renameat2_it_is_published_too(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums are copied, and the server looks before it renames."""
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr("lft.renaming._libc", object())
    part = filled(output, facts_of())
    (output / "server_received_1_t").mkdir()
    name = part.publish()
    part.remove()
    assert name != "server_received_1_t"
    assert (output / f"{name}.md5").read_bytes() == b"".join(lines_of(facts_of(), DATA))


def test_a_directory_that_cannot_be_flushed_takes_the_name_back(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 34: the client hears of no success, so there is none to be seen."""
    part = filled(output, facts_of())
    with monkeypatch.context() as patch:
        patch.setattr("lft.store.trees.flush_descriptor", broken_disk)
        with pytest.raises(OSError, match="Input/output"):
            part.publish()
    assert received(output) == []
    assert not part.trusted
    part.remove()
    assert part_files(output) == []


def test_a_flush_that_fails_is_final(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 34: the tree is not trusted any more."""
    part = made(output, facts_of())
    part.write_run([memoryview(DATA)], 0)
    monkeypatch.setattr("lft.store.treebytes.sync_data", broken_disk)
    monkeypatch.setattr("lft.store.treebytes.flush_many", lambda *_: False)
    with pytest.raises(OSError, match="Input/output"):
        part.flush()
    assert not part.trusted
    part.remove()


def test_a_file_that_another_program_changed_is_not_published(output: Path) -> None:
    """One that was cut short, and one that is gone."""
    for spoil in (lambda path: os.truncate(path, 3), os.unlink):
        part = made(output, facts_of())
        part.write_run([memoryview(DATA)], 0)
        (folder,) = part_files(output)
        spoil(folder / "tree" / "d" / "b")
        with pytest.raises(OSError, match="another program"):
            part.finish(())
        part.remove()


# --- what is made before a byte comes -----------------------------------------------------------


def test_without_room_nothing_is_left_behind(output: Path) -> None:
    """FAULTS 12: a tree larger than the disk, and one with more entries than it has room for."""
    with pytest.raises(OSError, match="No space"):
        PartTree.create(output, facts_of([file("a", 2**62)]))
    assert part_files(output) == []


def test_a_directory_that_takes_no_tree_is_found_out_first(output: Path) -> None:
    """A name as long as that of the sums is tried."""
    part = PartTree.create(output, facts_of(saved_as="server_received_" + "n" * 236))
    with pytest.raises(OSError, match="too long"):
        part.try_name()
    part.remove()
    assert list((output / PARTIAL).iterdir()) == []


def test_a_file_system_without_links_is_found_out_first(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names one and says what to do; a tree without one is taken."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    part = PartTree.create(output, facts_of([link("l", "x")]))
    with pytest.raises(RejectedError, match="'l' is a symbolic link, and the server's"):
        part.reserve_some(1.0)
    part.remove()
    part = PartTree.create(output, facts_of([file("f", 1)]))
    assert not part.reserve_some(1.0)
    part.remove()


def test_two_names_that_are_one_are_found_before_a_byte_comes(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that folds case, the refusal names both."""
    opened, looked = TreeRoot.open, TreeRoot.lstat

    def folded(root: TreeRoot, index: int, flags: int) -> int:
        manifest = Manifest(
            entry._replace(path=entry.path.lower()) for entry in [root.manifest[index]]
        )
        return os.open(manifest.path(0), flags, 0o600, dir_fd=root.descriptor)

    monkeypatch.setattr("lft.store.treemaking.takes_names_for_others", lambda _: True)
    monkeypatch.setattr(TreeRoot, "open", folded)
    monkeypatch.setattr(TreeRoot, "lstat", lambda root, path: looked(root, path.lower()))
    part = PartTree.create(output, facts_of([file("Name", 1), file("name", 1)]))
    with pytest.raises(RejectedError, match="'name' and 'name' are one to the server"):
        part.reserve_some(1.0)
    monkeypatch.setattr(TreeRoot, "open", opened)
    part.remove()


def test_a_file_system_that_folds_names_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not, one that does, and one that does not say leave nothing behind."""
    assert not takes_names_for_others(tmp_path)
    monkeypatch.setattr(os.path, "lexists", lambda path: path.name.startswith("LFT"))
    assert takes_names_for_others(tmp_path)
    assert takes_names_for_others(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_large_file_has_its_space_reserved_and_holes_for_zeros(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file of its own would."""
    monkeypatch.setattr(config, "LARGE_IN_TREE", 1 << 20)
    part = made(output, facts_of([file("a", 1), file("b", 4 << 20)]))
    (folder,) = part_files(output)
    path = folder / "tree" / "b"
    assert path.stat().st_blocks * 512 >= 4 << 20
    zeros = memoryview(bytes(4 << 20))
    part.write_run([memoryview(b"x"), *(zeros[:65536] for _ in range(64))], 0)
    assert path.stat().st_blocks * 512 <= 1 << 20
    assert path.read_bytes() == bytes(4 << 20)
    part.remove()


# --- what an earlier run left -------------------------------------------------------------------


def test_sums_without_their_tree_go_at_the_next_start(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two names leaves nothing to be seen, and the tree can go on."""
    facts = facts_of()
    part = filled(output, facts)
    with monkeypatch.context() as patch:
        patch.setattr(PartTree, "_rename", broken_disk)
        with pytest.raises(OSError, match="Input/output"):
            part.publish()
    part.close()
    assert [path.suffix for path in received(output)] == [".md5"]
    store = PartStore(output)
    store.scan()
    assert received(output) == []
    one = store.reopen(facts)
    assert one is not None
    claims = store.go_on(one, facts)
    assert claims is not None
    assert claims.count == facts.blocks.count
    store.drop(one)
    assert list((output / PARTIAL).iterdir()) == []


def test_a_kill_between_name_and_verdict_gives_the_same_name(output: Path) -> None:
    """FAULTS 37: all blocks are claimed, and written ones are compared."""
    facts = facts_of()
    part = filled(output, facts)
    name = part.publish()
    part.close()
    one = reopened(output, part, facts)
    assert one.published
    one.write_run([memoryview(DATA[4:])], 4)
    with pytest.raises(StaleError):
        one.write_run([memoryview(b"other")], 0)
    assert one.publish() == name
    one.remove()
    assert (output / name).is_dir()
    assert list((output / PARTIAL).iterdir()) == []


def test_a_file_that_a_power_cut_took_reads_as_zeros(output: Path) -> None:
    """FAULTS 35: the digests of its blocks tell; it is made again when these come."""
    facts = facts_of()
    part = filled(output, facts)
    part.close()
    (folder,) = part_files(output)
    (folder / "tree" / "d" / "b").unlink()
    one = reopened(output, part, facts)
    view = memoryview(bytearray(b"x" * 16))
    one.read(view, 0)
    assert bytes(view) == b"first" + bytes(10) + b"3"
    one.write_run([memoryview(DATA[5:15])], 5)
    one.read(view, 0)
    assert bytes(view) == DATA
    one.remove()


def test_what_the_manifest_does_not_have_goes(output: Path) -> None:
    """Links are made anew, strangers go, long files are cut, and what they link to stays."""
    facts = facts_of()
    part = filled(output, facts)
    part.close()
    (folder,) = part_files(output)
    tree, victim = folder / "tree", output / "victim"
    victim.mkdir()
    (victim / "f").write_text("precious")
    (tree / "stranger").symlink_to(victim)
    (tree / "strange").mkdir()
    (tree / "strange" / "file").touch()
    with open(tree / "z", "ab") as longer:
        longer.write(b"more")
    one = reopened(output, part, facts)
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*")) == [
        "a", "d", "d/b", "d/empty", "z"
    ]  # fmt: skip
    assert (tree / "z").read_bytes() == b"3"
    assert (victim / "f").read_text() == "precious"
    one.remove()


def test_what_was_made_for_a_moment_goes_at_the_next_start(output: Path) -> None:
    """A kill may leave a name that was only tried: a resume must not trip over it."""
    facts = facts_of()
    part = made(output, facts)
    part.write_run([memoryview(DATA)], 0)
    part.note(record(0, b"1" * 16))
    part.close()
    (folder,) = part_files(output)
    (folder / "lft-trial").touch()
    (folder / "trial").symlink_to("nowhere")
    (folder / ".erver_received_1_t.md5").mkdir()
    (output / ".erver_received_1_t.md5").mkdir()
    one = again(output, part)
    one.recover()
    one.reopen(facts)
    one.go_on(facts)
    one.try_name()
    while one.reserve_some(1.0):
        continue
    one.finish(lines_of(facts, DATA))
    assert (output / one.publish()).is_dir()
    one.remove()
    assert [path.name for path in output.iterdir() if path.name.startswith(".e")] == []


@pytest.mark.parametrize("how", ["no journal", "torn manifest", "no tree"])
def test_a_tree_of_no_use_is_removed_at_the_start(output: Path, how: str) -> None:
    """FAULTS 35: no client can go on with it."""
    part = made(output, facts_of())
    part.note(record(0, b"1" * 16))
    part.close()
    (folder,) = part_files(output)
    journal = output / PARTIAL / f"{part.stem}.journal"
    if how == "no journal":
        journal.unlink()
    elif how == "no tree":
        (folder / "tree").rename(output / "elsewhere")
    else:
        os.truncate(journal, journal.read_bytes().index(b"\n") + 20)
    store = PartStore(output)
    store.scan()
    if how == "torn manifest":  # found out by the client that wants it
        assert store.reopen(facts_of()) is None
        store.forget(facts_of())
    assert list((output / PARTIAL).iterdir()) == []


def test_a_journal_of_a_file_with_a_manifest_is_not_ours(output: Path) -> None:
    """What has the key of a tree must be one."""
    part = made(output, facts_of())
    part.close()
    journal = output / PARTIAL / f"{part.stem}.journal"
    whole = journal.read_bytes()
    assert Journal(journal).facts().counted_as == 4096
    journal.write_bytes(whole.replace(b'"head": "tree"', b'"head": "0123"'))
    with pytest.raises(ValueError, match="another version"):
        Journal(journal).facts()
    part.remove()


def test_memory_for_the_manifest_is_given_back_while_it_rests(output: Path) -> None:
    """A user may leave 64 of them."""
    store, facts = PartStore(output), facts_of()
    part = store.create(facts)
    part.note(record(0, b"1" * 16))
    store.rest(part)
    assert part.facts.manifest is None
    assert store.reopen(facts) is part
    store.drop(part)


def test_few_files_stay_open(output: Path) -> None:
    """However many there are, and in whatever order parts of them come."""
    entries = [file(f"{number:02}", 8) for number in range(40)]
    part = made(output, facts_of(entries))
    before = len(os.listdir("/dev/fd"))
    for number in range(40):
        part.write_run([memoryview(b"half")], 8 * number)
    assert len(os.listdir("/dev/fd")) <= before + config.OPEN_IN_TREE
    part.remove()


def test_errno_of_a_missing_tree_is_that_of_a_missing_file(output: Path) -> None:
    """The store then forgets it, as it does a part file that is gone."""
    part = PartTree(output, "none", facts_of())
    with pytest.raises(FileNotFoundError) as caught:
        part.look()
    assert caught.value.errno == errno.ENOENT
