"""Any order of attempts, kills, damage and changes of the source, against a model of few lines.

Without sockets and processes: part files, journals and transfers on a real directory. A kill is to
forget all objects, with no clean-up, and to let new ones look at the same directory.

Longer than in the gate, for a new seed each time::

    LFT_EXAMPLES=5000 python -m pytest --timeout 0 tests/server/test_resume_model.py
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lft.server.buffers import BufferPool
from lft.server.sessions import Session
from lft.server.transfer import Arrived, Transfer
from lft.store.journal import Facts
from lft.store.part import Part, StaleError
from lft.store.partstore import PartStore
from lft.store.paths import PARTIAL, output_name, unique
from protocol import Spans, Why
from tests.support.files import received, strays
from tests.support.transfers import idle_peer as peer
from tests.support.transfers import resumed

BLOCK = 4
MANY = 100  # more blocks than any file here has
STEPS = ["block", "block", "damaged block", "digest", "digest", "note", "hash"]

ENDS = [
    "vanishes", "killed", "killed before publishing", "killed after publishing", "unread", "read"
]  # fmt: skip

EXAMPLES = int(os.environ.get("LFT_EXAMPLES", "120"))


def digests_of(data: bytes) -> list[bytes]:
    """Return the running digest of each block."""
    return [hashlib.md5(data[: at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]


def block_of(data: bytes, index: int) -> bytes:
    """Return the bytes of one block."""
    return data[index * BLOCK : (index + 1) * BLOCK]


class Attempt:
    """What the client knows of a transfer, and what the model knows of its part file."""

    def __init__(
        self,
        data: bytes,
        transfer: Transfer,
        part: Part,
        claimed: Iterable[int],
        garbled: bool,
        torn: bool,
    ) -> None:
        self.data = data
        self.digests = digests_of(data)
        self.transfer = transfer
        self.part = part
        self.garbled = garbled  # whether a byte of its journal was changed
        self.torn = torn  # whether older claims may have come to light again
        self.held = set(claimed)
        self.announced: set[int] = set()
        self.wanted = set(range(len(self.digests))) - self.held  # to be sent as bytes
        self.damaged: set[int] = set()  # stored with wrong bytes
        self.unclaimed: dict[int, bytes] = {}  # stored, not yet in the journal
        self.sent_as_bytes = set(self.wanted)  # perhaps more than once
        view = memoryview(bytearray(len(data)))
        part.read(view, 0)
        self.before = bytes(view)  # what the part file held

    def ask(self, block: int) -> None:
        """Note that a MISSING has asked for the bytes of ``block``."""
        self.held.discard(block)
        self.wanted.add(block)
        self.sent_as_bytes.add(block)


class ResumeMachine(RuleBasedStateMachine):
    """One client that sends one file, again and again; everything may happen in between."""

    def __init__(self) -> None:
        super().__init__()
        self.output = Path(tempfile.mkdtemp(prefix="resume"))
        numbers = itertools.count()
        self.patch = pytest.MonkeyPatch()  # a failure can be replayed only without chance
        self.patch.setattr(secrets, "token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
        (self.output / PARTIAL).mkdir()
        self.source = b""
        self.store = PartStore(self.output)
        self.attempt: Attempt | None = None
        self.unconfirmed: Part | None = None
        self.published: dict[str, bytes] = {}
        self.answers: dict[str, str] = {}  # published names by stem, while they can be asked for
        self.journals: dict[str, dict[int, bytes]] = {}  # by stem: what was claimed
        self.sizes: dict[str, int] = {}  # by stem, what the journal says
        self.heads: dict[str, bytes] = {}  # ... and the digest of the first block
        self.ever: dict[str, set[tuple[int, bytes]]] = {}  # ... at any time
        self.doubtful: set[str] = set()  # stems whose journal was torn ...
        self.garbled: set[str] = set()  # ... or overwritten: a wrong digest may stay for long

    def teardown(self) -> None:
        """Close what is open and remove the directory."""
        if self.attempt:
            self.attempt.part.close()
        shutil.rmtree(self.output)
        self.patch.undo()

    # -- the source

    @initialize(data=st.binary(min_size=1, max_size=45))
    def make_source(self, data: bytes) -> None:
        """Begin with some file. (An empty one has no blocks to say anything about.)"""
        self.source = data

    @precondition(lambda self: self.journals)
    @rule(
        how=st.sampled_from(["changes", "grows", "shrinks"]),
        at=st.integers(0, 60),
        change=st.integers(1, 255),
    )
    def source_becomes_another(self, how: str, at: int, change: int) -> None:
        """Change the source between two attempts: at its end, or anywhere in the middle."""
        if how == "changes":
            self.source = _flipped(self.source, at % len(self.source), change)
        elif how == "grows":
            self.source += bytes([change]) * (1 + at % 9)
        else:
            self.source = self.source[: 1 + at % len(self.source)]

    # -- an attempt

    @rule(
        most=st.booleans(),
        script=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=20),
        end=st.sampled_from(ENDS),
    )
    def try_to_send(self, most: bool, script: list[tuple[str, int]], end: str) -> None:
        """Make one attempt: blocks and digests in any order, and an end of some kind."""
        self.start()
        if most:  # else attempts that get far are rare
            script = [("block", block) for block in range(9)] + [("note", 0), *script]
        for step, block in script:
            if self.attempt:
                self.take(step, block)
        if self.attempt:
            self.end(end)

    def start(self) -> None:
        """Announce the source; what was claimed and fits is claimed again."""
        data, digests = self.source, digests_of(self.source)
        place = output_name("x", unique())
        facts = Facts("u", "x", len(data), BLOCK, "md5", place, head=digests[0].hex())
        session = Session("u", 0, peer())
        transfer = Transfer(session, facts, BufferPool(64, 24), self.let_go)
        expected = self.resumable(data)
        found = resumed(self.store, facts)
        self.forget_removed()
        assert found or not expected, "what was left was not found"
        part, claims = found or (self.store.create(facts), None)
        assert transfer.open(part, claims)
        claimed: dict[int, bytes] = {}
        if claims:
            flagged = itertools.compress(itertools.count(), claims.flags)
            claimed = {block: claims.digest_of(block) for block in flagged}
            self.check_claims(part, len(data), claimed)
        self.journals[part.stem] = claimed
        self.sizes[part.stem] = len(data)
        self.heads[part.stem] = digests[0]
        self.ever[part.stem] = set(claimed.items())
        garbled, torn = part.stem in self.garbled, part.stem in self.doubtful
        self.attempt = Attempt(data, transfer, part, claimed, garbled, torn)
        if part.stem not in self.answers:  # what is published gets no new claims for those it lost
            self.doubtful.discard(part.stem)

    def resumable(self, data: bytes) -> bool:
        """Whether something is left that must be found for ``data``."""
        for stem in self.journals:
            name = self.answers.get(stem)
            fits = name is None or len(self.published[name]) == len(data)
            whole = self.sizes[stem] == len(data) or min(self.sizes[stem], len(data)) >= BLOCK
            begins = self.heads[stem] == digests_of(data)[0]
            if begins and fits and (whole or not name) and stem not in self.doubtful | self.garbled:
                return True
        return False

    def check_claims(self, part: Part, size: int, claimed: dict[int, bytes]) -> None:
        """Compare what a journal gave back with what was put into it."""
        if part.stem in self.garbled:
            return
        if part.stem in self.doubtful:
            assert set(claimed.items()) <= self.ever[part.stem]
            return
        before = self.sizes[part.stem]
        whole = MANY if size == before else min(size, before) // BLOCK
        assert claimed == {b: d for b, d in self.journals[part.stem].items() if b < whole}

    def take(self, step: str, block: int) -> None:
        """Do one step of an attempt."""
        attempt = self.running()
        if step in ("block", "damaged block") and block in attempt.sent_as_bytes:
            payload = block_of(attempt.data, block)
            self.send(block, payload if step == "block" else _flipped(payload, 0, 1))
        elif step == "digest" and block in attempt.held - attempt.announced:
            self.say(block)
        elif step == "note":  # as before each acknowledgement
            attempt.transfer.note_blocks()
            self.noted()
        elif step == "hash":
            self.hash_all()

    def end(self, end: str) -> None:
        """End an attempt; the server may be killed, before or after it has published."""
        attempt = self.running()
        if end == "vanishes":  # the client: its part file rests, with all that was written
            attempt.transfer.life.end()
            self.attempt = None
        elif end == "killed":
            self.forget()
        elif self.send_rest():  # else the client would come again
            assert attempt.transfer.digest == hashlib.md5(attempt.data).hexdigest()
            self.publish(end)

    def publish(self, end: str) -> None:
        """Publish what is judged right; the verdict may be lost with the server."""
        attempt = self.running()
        if end == "killed before publishing":
            self.forget()
            return
        attempt.part.flush()
        name = attempt.part.publish()
        known = self.answers.get(attempt.part.stem)
        assert name == (known or name), "one attempt has two published files"
        assert known or name not in self.published
        self.published[name] = attempt.data
        self.answers[attempt.part.stem] = name
        if end == "killed after publishing":
            self.forget()
            return
        self.unconfirmed = attempt.part
        attempt.transfer.life.end()
        self.attempt = self.unconfirmed = None
        if end == "unread":
            self.store.rest(attempt.part)
        else:
            self.store.drop(attempt.part)
            self.lose(attempt.part)

    # -- what a client and its server do

    def running(self) -> Attempt:
        """Return the attempt that runs."""
        assert self.attempt
        return self.attempt

    def send(self, block: int, payload: bytes) -> None:
        """Send the bytes of a block."""
        attempt = self.running()
        before = attempt.transfer._map.received
        try:
            buffer = attempt.transfer.buffers.take(len(payload))
            buffer.view[:] = payload
            due = attempt.transfer.store([Arrived(block, attempt.digests[block], buffer)])
        except StaleError:
            self.stale()
            return
        attempt.wanted.discard(block)
        if due.received > before:
            attempt.unclaimed[block] = attempt.digests[block]
            attempt.damaged.discard(block)
            if payload != block_of(attempt.data, block):
                attempt.damaged.add(block)

    def say(self, block: int) -> None:
        """Send the running digest of a block that the server holds."""
        attempt = self.running()
        attempt.announced.add(block)
        due = attempt.transfer.announce(block, attempt.digests[block])
        claimed = self.journals[attempt.part.stem]
        for asked in _blocks(due.missing):
            assert asked not in attempt.wanted, "asked for twice"
            assert asked >= block, "asked for, though it is before the change"
            assert claimed[block] != attempt.digests[block], "not changed, but asked for"
            attempt.ask(asked)

    def hash_all(self) -> bool:
        """Hash what is there, note what is asked for again; say whether it was judged."""
        attempt, more, judged = self.running(), True, False
        while more:
            try:
                stretch = attempt.transfer.hash_stretch()
            except StaleError:
                self.stale()
                return False
            more, judged = stretch.more, judged or stretch.judged
            for asked in _blocks(stretch.missing):
                if stretch.why == Why.DAMAGED:
                    assert asked in attempt.damaged, "not damaged, but asked for"
                else:
                    same = block_of(attempt.before, asked) == block_of(attempt.data, asked)
                    assert not same, "not altered, but asked for"
                attempt.ask(asked)
        return judged

    def send_rest(self) -> bool:
        """Do what a client does to the end; ``False`` if its file has to be sent anew."""
        for _ in range(100):
            attempt = self.running()
            for block in sorted(attempt.held - attempt.announced):
                if block in attempt.held:
                    self.say(block)
            for block in sorted(attempt.wanted):
                self.send(block, block_of(attempt.data, block))
                if not self.attempt:
                    return False
            self.take("note", 0)  # a client completes when all is acknowledged
            if self.hash_all():
                return True
            if not self.attempt:
                return False
            if not attempt.wanted:
                digest = hashlib.md5(attempt.data).hexdigest()
                assert attempt.transfer.complete(digest) == (), "sent, but asked for"
        pytest.fail("the transfer never ends")

    def noted(self) -> None:
        """Follow what the journal claims."""
        attempt = self.running()
        stem = attempt.part.stem
        self.journals[stem].update(attempt.unclaimed)
        self.ever[stem] |= set(attempt.unclaimed.items())
        attempt.unclaimed.clear()

    def let_go(self, _transfer: Transfer, part: Part) -> None:
        """Take a part file back, as the server does when its transfer ends."""
        if self.unconfirmed is part:
            return
        self.noted()
        if not part.worth_keeping:
            self.lose(part)
        self.store.rest(part)

    def stale(self) -> None:
        """End an attempt at a file that differs from the one that was published."""
        attempt = self.running()
        name = self.answers[attempt.part.stem]
        doubted = attempt.torn or attempt.garbled
        assert doubted or self.published[name] != attempt.data
        attempt.transfer.life.spoil()
        attempt.transfer.life.end()
        self.attempt = None

    def lose(self, part: Part) -> None:
        """Know nothing of a part file any more."""
        self.journals.pop(part.stem, None)
        self.answers.pop(part.stem, None)

    # -- kills

    @precondition(lambda self: self.journals)
    @rule(
        damage=st.sampled_from(["nothing", "journal torn", "journal altered", "part file altered"]),
        which=st.integers(0, 9),
        at=st.integers(0, 400),
        change=st.integers(1, 255),
    )
    def kill(self, damage: str, which: int, at: int, change: int) -> None:
        """Kill the server, perhaps with damage on the disk, and start it again."""
        stem = sorted(self.journals)[which % len(self.journals)]
        journal = self.output / PARTIAL / f"{stem}.journal"
        before = journal.read_bytes()
        if damage == "journal torn":
            line = before.index(b"\n") + 1
            os.truncate(journal, max(line, len(before) - 1 - at % 70))
            self.doubtful.add(stem)
        elif damage == "journal altered":
            journal.write_bytes(_flipped(before, at % len(before), change))
            self.garbled.add(stem)
        elif damage == "part file altered":
            self.alter(journal.with_suffix(".part"), at, change)
        self.forget()

    def alter(self, path: Path, at: int, change: int) -> None:
        """Change a byte of a part file, but for one that is published."""
        if path.stat().st_nlink == 1:
            before = path.read_bytes()
            path.write_bytes(_flipped(before, at % len(before), change))

    def forget(self) -> None:
        """Drop everything in memory; only the system closes files. Then start again."""
        if self.attempt:
            self.attempt.part.close()
            self.attempt = None
        self.store = PartStore(self.output)
        self.store.scan()
        self.forget_removed()

    def forget_removed(self) -> None:
        """Look which part files have been removed because nobody can go on with them."""
        left = {path.stem for path in (self.output / PARTIAL).iterdir()}
        for stem in set(self.journals) - left:
            grown = stem in self.answers  # published, and the source has another size by now
            assert grown or stem in self.garbled, "what could be resumed was removed"
            del self.journals[stem]
            self.answers.pop(stem, None)

    # -- what always holds

    @invariant()
    def published_files_stay_as_they_are(self) -> None:
        """What was published is the source as it was announced, and never changes."""
        found = {path.name: path.read_bytes() for path in received(self.output)}
        assert found == self.published

    @invariant()
    def nothing_useless_lies_about(self) -> None:
        """Each part file has its journal and the other way round; none is half written."""
        assert strays(self.output) == []


def _flipped(data: bytes, at: int, change: int) -> bytes:
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def _blocks(missing: Spans) -> list[int]:
    return [block for span in missing for block in range(*span)]


def test_whatever_happens_the_right_file_is_published_once() -> None:
    """FAULTS 20, 35, 36 and 37, in any order; see this module's docstring."""
    chosen = settings(max_examples=EXAMPLES, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(ResumeMachine, settings=chosen)
