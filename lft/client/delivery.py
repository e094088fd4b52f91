"""One file on its way: the dialogue with the server about it, from FILE_START to the verdict."""

from __future__ import annotations

import enum
import itertools
import logging
import os
from collections import deque
from pathlib import Path
from typing import Generator, Iterable, Optional, TypeVar

import config
from lft.client.announcement import announcement, check_server, place_in_queue
from lft.client.bar import CHECKING, INPUT, READING, SENDING, VERIFYING
from lft.client.link import Link
from lft.client.patience import Course, Patience, Watch
from lft.client.progress import Progress
from lft.client.receipt import FailedIntegrityError, Receipt, Run
from lft.client.rejected import BusyError, EarlierAttemptError, StaleError, raise_rejected
from lft.client.source import Input
from lft.client.sources import open_source
from lft.client.standard_input import STANDARD_INPUT, interrupted
from lft.client.streams import Streams
from lft.client.upload import Block, Upload, block_size_for, reader_of
from lft.clock import Deadline
from lft.options import format_size
from lft.terminal import printable
from lft.wire.connection import Connection
from lft.wire.sockets import Waker
from protocol import (
    AHEAD,
    MAX_AHEAD,
    PACKED,
    SKIP,
    Cancel,
    ConnectionLostError,
    FileReady,
    Heard,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Missing,
    Pong,
    Queued,
    RemoteProtocolError,
    SilenceError,
    SourceError,
    Spans,
    State,
    TransferComplete,
    Verifying,
    numbered,
)

coordinator_log = logging.getLogger("coordinator")
log = logging.getLogger("client")

Result = TypeVar("Result")
# Steps of a dialogue: each waits for the next message about the file, or for a look without one.
Steps = Generator[None, Optional[Message], Result]


class Told(enum.IntEnum):
    """What TRANSFER_COMPLETE has told the server of a file."""

    NOTHING = 0
    READ = 1  # every block has been read and hashed: its digest is known
    DELIVERED = 2  # every block has been acknowledged, also those that were missing


class Desk:
    """What the deliveries of one session share. Main's own, except for ``stir`` (any thread)."""

    def __init__(
        self, coordinator: Connection, link: Link, progress: Progress, patience: Patience
    ) -> None:
        self.coordinator = coordinator
        self.link = link
        self.streams = Streams(link)
        self.progress = progress
        self.patience = patience
        self.waker = Waker()
        self.stirred: deque[Delivery] = deque()  # a thread of theirs has news
        self._heard: list[int] = []  # numbers of files whose verdicts have been read
        self.window: dict[int, Delivery] = {}  # under way, by index, in order
        self._sign_of_life = Deadline(config.SIGN_OF_LIFE)
        self._numbers = itertools.count(1)

    def next_number(self) -> int | None:
        """Return the number of the next file, where the server knows numbers."""
        return next(self._numbers) if AHEAD in self.link.features else None

    def may_read(self, delivery: Delivery) -> bool:
        """Whether it is the turn of this file to be read: all before it are, or nearly."""
        before = (one.unread for one in self.window.values() if one.index < delivery.index)
        return sum(before) <= config.READ_BESIDE

    def stir_waiting(self) -> None:
        """Have main look at those that wait for their turn to be read."""
        self.stirred.extend(one for one in self.window.values() if one.waiting)

    def stir(self, delivery: Delivery) -> None:
        """Have main look at ``delivery`` soon (any)."""
        self.stirred.append(delivery)
        self.waker.ring()

    def confirm_in_time(self) -> None:
        """Confirm verdicts before the server forgets that it waits for that.

        It waits for as many as there may be files under way, when another file is announced. What
        it has forgotten stays hidden beside the file for an hour, to give its verdict again.
        """
        if len(self._heard) + len(self.window) > MAX_AHEAD:
            self.confirm()

    def confirm(self) -> None:
        """Tell the server which verdicts on numbered files have been read."""
        if self._heard:
            self.coordinator.send(Heard(_spans(sorted(self._heard))))
            self._heard.clear()

    def note_heard(self, file: int | None) -> None:
        """Note that a verdict has been read; one without a number is confirmed by any message."""
        if file is not None:
            self._heard.append(file)

    def show_life(self, file: int | None) -> None:
        """Tell the server now and then that we live, while it is our turn."""
        if self._sign_of_life.passed and not self.coordinator.unsent:
            self._sign_of_life.put_off()
            self.coordinator.send(numbered(Pong(), file))


class Delivery:
    """One file on its way, in one session. Main's own.

    ``take`` returns what became of it, once that is known. It raises what concerns the file, as
    ``send_files`` says, and what ends the session.
    """

    def __init__(self, index: int, path: Path, desk: Desk) -> None:
        """Stand for the file ``path``, which is the one of that ``index`` among those given."""
        self.index = index
        self.file: int | None = None  # its number; another one for each time it is announced
        self.queued = False  # whether it waits for its turn on the server
        self.waiting = False  # whether it waits to be read
        self.listing = False  # whether more is to be said of a directory once there is room
        self.read = False  # whether all of it has been read; kept, since each message asks for it
        self.upload: Upload | None = None  # once the server is ready for it
        self.path = path
        self._desk = desk
        self._settings = desk.link.settings
        self._course: Course = desk.patience.course(index)
        self._progress = Progress()  # until it is presented
        self._phase = ""
        self._waits_before = (0.0, 0.0)  # of the connections, before its blocks
        self._source: Input | None = None
        self._steps = self._deliver()

    def take(self, message: Message | None = None) -> Receipt | None:
        """Go on with a message about the file, or look at what its threads have done.

        The first time, open the file and announce it.
        """
        try:
            self._steps.send(message)
        except StopIteration as end:
            receipt: Receipt = end.value
            return receipt
        return None

    def lose(self, error: ConnectionLostError) -> None:
        """End it with its session. Raises ``error``, or what it means for a source read once."""
        self._steps.throw(error)

    def close(self) -> None:
        """Give it up; no thread works for it afterwards."""
        self._steps.close()

    def present(self) -> None:
        """Show it in the bar: of those under way it is the first."""
        source = self._source
        if source is not None and self._progress is not self._desk.progress:
            self._progress = self._desk.progress
            self._begin_progress(source)
            self._progress.phase(self._phase)

    def _begin_progress(self, source: Input) -> None:
        self._progress.begin(source.name, source.size if source.sized else None)
        if source.entries is not None:
            self._progress.count_files(source.contents.files, source.files_in)

    @property
    def readable(self) -> bool:
        """Whether the file can be read now, as far as a look tells."""
        return self.path == STANDARD_INPUT or os.access(self.path, os.R_OK)

    @property
    def carried(self) -> int:
        """The bytes of it that this session has brought to the server."""
        return self.upload.carried if self.upload else 0

    @property
    def unread(self) -> int:
        """The bytes that are still to be read of it; without bound while its end is unknown."""
        if self.read:
            return 0
        if self.upload is None:
            return self._source.size if self._source else 0
        return self.upload.unread

    # -- the dialogue

    def _deliver(self) -> Steps[Receipt]:
        source = self._source = open_source(self.path, self._settings)
        self._course.begin_attempt()
        try:
            receipt = yield from self._send_source(source)
        except ConnectionLostError as error:
            if source.repeatable:
                raise  # the next session goes on with it
            raise interrupted(source, error) from error
        finally:
            source.close()
        if receipt.verdict == "INTEGRITY_FAILED":
            raise FailedIntegrityError(f"{receipt.name}: the file did not arrive intact", receipt)
        return receipt

    def _send_source(self, source: Input) -> Steps[Receipt]:
        """Announce and send a source, a directory again where some of it has changed meanwhile."""
        while True:
            try:
                upload = yield from self._announce(source)
                return (yield from self._send_upload(upload))
            except SourceError as error:
                source.begin_again(error)
            except StaleError:
                if not self._course.skips:
                    raise
                self._course.stop_skipping()
            self.upload, self.read = None, False
            self._begin_progress(source)

    def _announce(self, source: Input) -> Steps[Upload]:
        """Announce a file and wait until the server is ready for it.

        An earlier attempt may have other blocks or a stronger digest: then it goes on with those.
        """
        check_server(source, self._desk.link.features)
        self._note_phase("waiting")
        known, digest = source.size if source.sized else 0, self._settings.digest
        size = block_size_for(known, self._settings, far=self._desk.link.far)
        resume = self._settings.resume or self._course.achieved  # at least what we sent ourselves
        try:
            return (yield from self._announce_as(source, size, digest, resume=resume))
        except EarlierAttemptError as earlier:
            if earlier.is_weaker(digest):
                return (yield from self._announce_by_stronger(source, earlier, digest))
            if earlier.digest != digest:
                coordinator_log.info("%s is proven by %s: an earlier attempt began so",
                                     source.name, earlier.digest)  # fmt: skip
            return (
                yield from self._announce_as(
                    source, earlier.block_size, earlier.digest, resume=True
                )
            )

    def _announce_by_stronger(
        self, source: Input, earlier: EarlierAttemptError, digest: str
    ) -> Steps[Upload]:
        """Go on with the blocks of an earlier attempt; begin anew where the server is too old."""
        size = earlier.block_size
        try:
            return (yield from self._announce_as(source, size, digest, resume=True))
        except EarlierAttemptError:
            coordinator_log.warning("%s begins anew: what the server has of it was to be proven "
                                    "by %s", source.name, earlier.digest)  # fmt: skip
            return (yield from self._announce_as(source, size, digest, resume=False))

    def _announce_as(self, source: Input, size: int, digest: str, *, resume: bool) -> Steps[Upload]:
        """Announce a file in blocks of ``size`` bytes; again, where the server has too many."""
        settings, features = self._settings, self._desk.link.features
        start = announcement(source, size, settings, features, digest=digest, resume=resume)
        if self._course.skips and source.sized and SKIP in features:
            start = start.replace(skip=True)
        can_go_on = source.name if source.sized else ""
        while True:
            self._course.note_begun(can_go_on)  # first: the server may be faster than we come to it
            self.file = self._desk.next_number()
            self._desk.confirm_in_time()
            self._desk.coordinator.send(numbered(start, self.file))
            try:
                yield from self._list(source)
                ready = yield from self._await_ready(source, can_go_on)
            except BusyError:
                if len(self._desk.window) < 2:
                    raise
                yield from self._pause()
            else:
                break
        self.upload = Upload(source, digest, size, ready, lambda: self._desk.stir(self))
        self._course.note_begun(can_go_on)
        self._course.note_there(self.upload.resumed_bytes)
        _tell_resumed(self.upload)
        return self.upload

    def _list(self, source: Input) -> Steps[None]:
        """Tell what is in a directory, as fast as the connection takes it."""
        coordinator, features = self._desk.coordinator, self._desk.link.features
        coordinator.packs, parts = PACKED in features, source.listing(features)
        deadline = Deadline(self._settings.timeout)
        while coordinator.dialogue.state_of(self.file) is State.LISTING:
            self.listing = coordinator.unsent > 0
            if not self.listing:
                coordinator.send(numbered(next(parts), self.file))
                deadline.put_off()
                self._desk.stir(self)
                if coordinator.dialogue.state_of(self.file) is not State.LISTING:
                    break  # the next message may be the answer to all of it
            if deadline.passed:
                raise self._silence()
            message = yield
            if message:
                raise_rejected(source.name, message)
        self.listing = False

    def _await_ready(self, source: Input, can_go_on: str) -> Steps[FileReady]:
        queued: Queued | None = None
        told = Deadline(0)
        while True:
            message = yield from self._answer()
            self.queued = isinstance(message, Queued)
            if isinstance(message, FileReady):
                return message
            self._desk.patience.note_progress()
            if isinstance(message, Queued):
                first = message.position == 1  # or it begins
                self._course.note_begun(can_go_on if first else "")
                if message != queued and told.passed:
                    queued, told = message, Deadline(config.QUEUED_EVERY)
                    coordinator_log.info("%s", place_in_queue(message))
            raise_rejected(source.name, message)

    def _pause(self) -> Steps[None]:
        """Wait until others of our files make room on the server."""
        pause = Deadline(config.RETRY_FIRST)
        while not pause.passed:
            yield

    def _answer(self) -> Steps[Message]:
        """Wait for the server's next message. Raises ``ConnectionLostError`` if none comes."""
        deadline = Deadline(self._settings.timeout)
        message = yield
        while message is None:
            if deadline.passed:
                raise self._silence()
            message = yield
        return message

    def _silence(self) -> SilenceError:
        silent = f"did not answer for {self._settings.timeout:g} s"
        return SilenceError(f"{self._desk.coordinator.peer} {silent}")

    def _send_upload(self, upload: Upload) -> Steps[Receipt]:
        """Have a file read, sent and judged; in any case no thread works for it afterwards."""
        link = self._desk.link
        together = upload.run_length if link.takes_runs else 1
        reader = reader_of(upload, link.queue, self._desk.streams.most * together)
        try:
            yield from self._await_turn()
            reader.start()
            return (yield from self._supervise(upload))
        except SourceError:
            upload.end()
            yield from self._cancel()
            raise
        finally:
            upload.end()
            self._course.note_sent(upload.carried, upload.wire_bytes)
            if reader.ident is not None:  # not interrupted before it began
                reader.join()
            link.queue.drop(upload)

    def _await_turn(self) -> Steps[None]:
        """Wait until the files before it have been read; what the server says shows that it lives.

        It may give the file up meanwhile.
        """
        assert self._source
        while not self._desk.may_read(self):
            self.waiting = True
            message = yield
            if message:
                raise_rejected(self._source.name, message)
        self.waiting = False

    def _supervise(self, upload: Upload) -> Steps[Receipt]:
        """Answer the server while blocks flow; return the verdict's receipt."""
        self._waits_before = self._desk.streams.waits()
        told = Told.NOTHING
        watch = Watch(self._settings.timeout, upload.source.entries or 0)
        message: Message | None = None
        while True:
            upload.check()
            if upload.all_hashed:
                if not self.read:
                    self._desk.stir_waiting()
                self.read = upload.source.sized
                told = self._tell_complete(upload, told)
            if message or told is not Told.DELIVERED:
                watch.note_sign()
            if isinstance(message, Missing) and message.transfer == upload.number:
                self._send_again(upload, message)
                told = min(told, Told.READ)
            elif message:
                receipt = self._take_verdict(upload, message)
                if receipt:
                    return receipt
            verified = message.verified if isinstance(message, Verifying) else 0
            if verified:
                upload.note_verified(verified)
            self._watch(upload, watch, told, verified)
            message = yield

    def _watch(self, upload: Upload, watch: Watch, told: Told, verified: int) -> None:
        """See how far it is, and show that. Raises ``ConnectionLostError`` if it stands still."""
        if upload.source.waiting:
            watch.note_waiting()
            self._desk.show_life(self.file)
        if watch.note(upload.acknowledged, verified):
            self._course.note_progress(watch.acknowledged, watch.verified)
        self._show(upload, watch, told)
        if watch.stalled:
            peer = self._desk.coordinator.peer
            raise SilenceError(f"{peer}: no progress for too long")

    def _show(self, upload: Upload, watch: Watch, told: Told) -> None:
        """Move the bar, if it is shown there."""
        upload.spent.note_turn()
        phase = CHECKING if upload.checking else SENDING
        if upload.spent.read_hangs and (upload.source.sized or upload.source.waiting):
            phase = READING if upload.source.sized else INPUT
        self._note_phase(VERIFYING if told is Told.DELIVERED else phase)
        sent = self._course.sent_bytes + upload.carried
        self._progress.move(watch.acknowledged, sent, watch.verified)

    def _note_phase(self, phase: str) -> None:
        self._phase = phase
        self._progress.phase(phase)

    def _tell_complete(self, upload: Upload, told: Told) -> Told:
        """Say that all is read, or delivered, once: the sooner, the sooner there is a verdict."""
        if upload.blocks.count < 2 and not (upload.delivered or self._desk.link.far):
            return told  # that it has been delivered is known as soon
        state = Told.DELIVERED if upload.delivered else Told.READ
        if state <= told:
            return told
        digest = upload.digests.hexdigest()
        if not upload.source.prove_unchanged(upload.digests.algorithm, digest):
            self._desk.stir(self)  # go on with that, after a look at what the server says
            return told
        complete = TransferComplete(upload.number, digest, state is Told.DELIVERED)
        if not upload.source.sized:
            complete = complete.replace(size=upload.source.size)
        self._desk.coordinator.send(numbered(complete, self.file))
        return state

    def _send_again(self, upload: Upload, message: Missing) -> None:
        for first, end in message.blocks:
            if end > upload.known:
                raise RemoteProtocolError("the server asks for a block that the file does not have")
            upload.repairs.tell(first, end, message.reason)
            again = [index for index in range(first, end) if upload.ask_again(index)]
            self._desk.link.queue.put(Block(upload, index) for index in again)

    def _take_verdict(self, upload: Upload, message: Message) -> Receipt | None:
        """Turn a verdict into a receipt; other messages only show that the server lives."""
        raise_rejected(upload.source.name, message)
        if isinstance(message, IntegrityFailed):
            # if it has changed, that was the reason
            upload.source.doubt()
            digests = upload.digests
            while not upload.source.prove_unchanged(digests.algorithm, digests.hexdigest()):
                pass
            log.error("%s: %s", upload.source.name, printable(message.reason))
            return self._receipt(upload, None)
        if not isinstance(message, IntegrityOk):
            return None
        if (message.digest, message.size) != (upload.digests.hexdigest(), upload.source.size):
            raise RemoteProtocolError("the server's verdict is about another file")
        self._desk.note_heard(self.file)
        upload.repairs.tell_success()
        if message.kept is False:
            log.warning("%s: the server's file system does not keep permission bits and time",
                        upload.source.name)  # fmt: skip
        if upload.source.grew:
            log.warning("%s grew while it was sent: its first %s arrived",
                        upload.source.name, format_size(upload.source.size))  # fmt: skip
        return self._receipt(upload, message)

    def _receipt(self, upload: Upload, verdict: IntegrityOk | None) -> Receipt:
        course, size = self._course, upload.source.size
        # what a lost session had sent but not heard of is missing in the one, and not in the other
        sent = max(course.sent_bytes + upload.carried, size - (course.there or 0))
        run = Run(course.seconds, min(sent, size), course.wire_bytes + upload.wire_bytes)
        now, before = self._desk.streams.waits(), self._waits_before
        waits = max(0.0, now[0] - before[0]), max(0.0, now[1] - before[1])
        return Receipt.of(upload, verdict, self._desk.link, waits, run)

    def _cancel(self) -> Steps[None]:
        """Give the file up and wait until the server did: then the session can send the next."""
        deadline, coordinator = Deadline(self._settings.timeout), self._desk.coordinator
        try:
            coordinator.send(numbered(Cancel(), self.file))
            while coordinator.dialogue.state_of(self.file) is State.CANCELLING:
                if deadline.passed:
                    return  # the next file will notice
                yield
        except ConnectionLostError as error:  # so will it that the session is over
            log.debug("%s", error)


def _tell_resumed(upload: Upload) -> None:
    if upload.resumed_bytes:
        had, size = format_size(upload.resumed_bytes), format_size(upload.source.size)
        coordinator_log.info("going on with %s: the server has %s of %s",
                             upload.source.name, had, size)  # fmt: skip


def _spans(numbers: Iterable[int]) -> Spans:
    """Return ascending numbers as ranges."""
    groups = itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0])
    runs = [[number for _, number in group] for _, group in groups]
    return tuple((run[0], run[-1] + 1) for run in runs)
