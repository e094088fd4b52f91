"""Files that come in order, without sockets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lft.server.buffers import BufferPool
from lft.server.lifetime import TransferEndedError
from lft.server.ordered import OrderedTransfer
from lft.server.sessions import Session
from lft.store.history import Proof
from lft.store.journal import Facts
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL, output_name, unique
from tests.support.transfers import BLOCK, idle_peer

DATA = bytes(range(1, 40))  # of ten blocks; the last has three bytes
ID = "5" * 64  # in place of the first block's digest


class Ordered:
    """One upload of ``DATA``, which may be interrupted and gone on with."""

    def __init__(self, output: Path) -> None:
        (output / PARTIAL).mkdir(exist_ok=True)
        self.output = output
        self.store = PartStore(output)
        self.store.scan()
        self.facts = Facts(
            "u", "x", len(DATA), BLOCK, "md5", output_name("x", unique()), head=ID
        )  # fmt: skip
        self.open()

    def open(self) -> None:
        """Begin, or go on with what is there."""
        self.buffers = BufferPool(8 * BLOCK)
        session = Session("u", 0, idle_peer())
        self.transfer = OrderedTransfer(
            session, self.facts, self.buffers, lambda _, part: self.store.rest(part)
        )
        part = self.store.reopen(self.facts)
        claims = self.store.go_on(part, self.facts) if part else None
        self.transfer.open(part or self.store.create(self.facts), claims)
        while self.transfer.prove_some():
            pass

    def write(self, data: bytes, *, held: bool = False, right: bool = True) -> None:
        """Write one PATCH."""
        self.transfer.begin(held=held)
        for start in range(0, len(data), 3):
            self.transfer.write(memoryview(data[start : start + 3]))
        if held and right:
            self.transfer.commit()
        self.transfer.take_back()
        self.transfer.pause()
        self.transfer.note_blocks()

    def interrupt(self) -> None:
        """End as a server does that is killed: what the journal has not is lost."""
        self.transfer.life.end()
        self.open()

    @property
    def part(self) -> Path:
        """The only part file."""
        (path,) = (self.output / PARTIAL).glob("*.part")
        return path


@pytest.fixture(name="upload")
def _upload(tmp_path: Path) -> Ordered:
    return Ordered(tmp_path)


def test_bytes_count_as_they_come(upload: Ordered) -> None:
    """Whatever their length is; the digest is that of the file."""
    for start in range(0, len(DATA), 5):
        upload.write(DATA[start : start + 5])
        assert upload.transfer.offset == min(start + 5, len(DATA))
    assert upload.transfer.is_whole
    assert upload.transfer.digest == hashlib.md5(DATA).hexdigest()
    assert upload.part.read_bytes() == DATA


def test_held_bytes_count_after_their_checksum(upload: Ordered) -> None:
    """Before it they neither count nor stand in the journal."""
    upload.write(DATA[:10], held=True)
    upload.write(b"?" * 20, held=True, right=False)
    assert upload.transfer.offset == 10
    upload.interrupt()
    assert upload.transfer.offset == 8  # whole blocks
    upload.write(DATA[8:], held=True)
    assert upload.transfer.digest == hashlib.md5(DATA).hexdigest()
    assert upload.part.read_bytes() == DATA


def test_the_offset_after_an_interruption_is_the_last_right_block(upload: Ordered) -> None:
    """A block that was altered meanwhile, and all behind it, is sent again."""
    upload.write(DATA[:30])
    upload.transfer.life.end()
    with upload.part.open("r+b") as file:
        file.seek(13)
        file.write(b"?")
    upload.open()
    assert upload.transfer.offset == 12
    upload.write(DATA[12:])
    assert upload.transfer.digest == hashlib.md5(DATA).hexdigest()
    assert upload.part.read_bytes() == DATA


def test_what_is_written_after_the_end_is_refused(upload: Ordered) -> None:
    """A transfer that has ended meanwhile takes nothing, and no memory stays in use."""
    upload.transfer.begin(held=False)
    upload.transfer.life.end()
    with pytest.raises(TransferEndedError):
        upload.transfer.write(memoryview(DATA))
    with pytest.raises(TransferEndedError):
        upload.transfer.pause()
    upload.transfer.pause()


def test_one_call_publishes(upload: Ordered) -> None:
    """However many say that the file is whole."""
    upload.write(DATA)
    assert [upload.transfer.end(None, Proof.SERVER_ONLY) for _ in range(2)] == [True, False]
    assert upload.transfer.claimed_digest == upload.transfer.digest


STEPS = st.lists(
    st.tuples(st.sampled_from(["plain", "held", "wrong", "cut"]), st.integers(0, 17)), max_size=12
)


@given(STEPS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_of_writes_and_interruptions_ends_with_the_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """A client that asks for the offset and goes on from there always brings the whole file."""
    upload = Ordered(tmp_path_factory.mktemp("o"))
    actions: dict[str, Callable[[bytes], None]] = {
        "plain": upload.write,
        "held": lambda data: upload.write(data, held=True),
        "wrong": lambda data: upload.write(b"!" * len(data), held=True, right=False),
        "cut": lambda _: upload.interrupt(),
    }
    for action, length in steps:
        offset = upload.transfer.offset
        actions[action](DATA[offset : offset + length])
    upload.write(DATA[upload.transfer.offset :])
    assert upload.transfer.digest == hashlib.md5(DATA).hexdigest()
    assert upload.part.read_bytes() == DATA
    upload.transfer.life.end()
