"""Uploads over HTTP: the way of each into the same store as the files of the wire."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import secrets
import threading
import time
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import config
from lft.accounts.permissions import Rights
from lft.clock import TokenBucket
from lft.server.ledger import RESTS
from lft.server.lifecycle import Lifecycle
from lft.server.limits import Limits
from lft.server.ordered import OrderedTransfer
from lft.server.receiving import Receiving
from lft.server.sessions import Correspondent, Session
from lft.server.transfer import Transfer
from lft.server.verification import Verification
from lft.store.history import TUS, Proof
from lft.store.journal import Facts
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.unfinished import resting_uploads, resting_uploads_of
from lft.store.upload_notes import UploadNotes
from lft.web.problem import HttpError, not_found
from lft.web.request import Later
from lft.web.tus import Claim
from protocol import (
    DIGEST_SIZES,
    FileReady,
    FileStart,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Queued,
    Rejected,
)

log = logging.getLogger("http")

_SOON = 0.005  # seconds until a request that waits for another one's worker looks again
_AGAIN = 0.05  # seconds until a request that waits for another thread looks again ...
_PATIENCE = 20.0  # ... and for how long it does, before its client is told to come again
_REMEMBERED = 60.0  # seconds for which the end of an upload is known to those that ask

_STATUS = {
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "cancelled": HTTPStatus.GONE,
    "content": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "extension": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "name": HTTPStatus.BAD_REQUEST,
    "quota": HTTPStatus.INSUFFICIENT_STORAGE,
    RESTS: HTTPStatus.CONFLICT,
    "shutdown": HTTPStatus.SERVICE_UNAVAILABLE,
    "size": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "space": HTTPStatus.INSUFFICIENT_STORAGE,
    "taken": HTTPStatus.CONFLICT,
    "timeout": HTTPStatus.REQUEST_TIMEOUT,
}
_RESUMABLE = (RESTS, "taken", "timeout")  # what ended so goes on as soon as its client asks for it


class Sender(NamedTuple):
    """Who sends a file, and where from."""

    user: str
    priority: int
    rights: Rights
    bucket: TokenBucket | None
    address: str


class Begun(NamedTuple):
    """An upload that is not finished, for its user to look at."""

    id: str
    name: str
    size: int
    received: int  # bytes, about
    arriving: bool  # whether a client is sending it


class Stage(enum.Enum):
    """How far an upload has come."""

    OPENING = "opening"  # it waits for its place, its part file, or its blocks are proven
    READY = "ready"  # bytes may come
    WHOLE = "whole"  # all have; the file is published
    DONE = "done"
    FAILED = "failed"


class Upload(Correspondent):
    """One upload, while this server has it in memory.

    Its id is random, and stands in the place of the first block's digest, by which the store finds
    it again. Its stages follow from what it hears, on any thread, one read each. ``_lock`` protects
    ``_writer`` and ``_working``: one request at a time works with it, the newest one.
    """

    def __init__(
        self, uploads: Uploads, sender: Sender, start: FileStart, notes: UploadNotes
    ) -> None:
        self.id = start.head
        self.size = start.size
        self.name = start.name
        self.algorithm = start.digest
        self.notes = notes
        self.stage = Stage.OPENING
        self.position = 0  # in the queue, while it waits for a place
        self.problem: HttpError | None = None
        self.receipt: IntegrityOk | None = None
        self.changed_at = time.monotonic()  # the stage
        self.address = sender.address
        self._asked_at = math.inf  # since when a request waits for it
        self.session = Session(sender.user, sender.priority, self, sender.rights)
        self.session.bucket, self.session.in_order, self.session.door = sender.bucket, True, TUS
        self.session.closed = True  # a verdict is never confirmed: its client may ask again
        self._uploads = uploads
        self._transfer: OrderedTransfer | None = None
        self._lock = threading.Lock()
        self.writing = False  # whether a PATCH has begun; of who works with it
        self._writer: object = None
        self._working = False

    def __repr__(self) -> str:
        return f"<Upload of {self.name!r}, {self.stage.value}>"

    @property
    def transfer(self) -> OrderedTransfer:
        """Its transfer, once it is ready."""
        assert self._transfer is not None
        return self._transfer

    @property
    def offset(self) -> int:
        """The bytes that are here and count; all of them once the file is whole."""
        return self.transfer.offset if self.stage is Stage.READY else self.size

    @property
    def as_begun(self) -> Begun:
        """What there is of one that waits or is on its way; any thread."""
        transfer = self._transfer
        received = transfer.offset if transfer else 0
        arriving = transfer is not None and transfer.idle_for < config.UPLOAD_RESTS_AFTER
        return Begun(self.id, self.name, self.size, received, arriving)

    @property
    def proof(self) -> Proof:
        """What shows that the file is right, if it is."""
        if self.notes.digest:
            return Proof.CLIENT_DIGEST
        return Proof.SERVER_ONLY if self.notes.unchecked else Proof.CHUNK_CHECKSUMS

    # -- what becomes of it

    def hear(self, message: Message) -> None:
        if isinstance(message, Queued):
            self.position = message.position
        elif isinstance(message, FileReady):
            self._uploads.prove(self, message.transfer)
        elif isinstance(message, IntegrityOk):
            self.receipt = message
            self.note_done()
        elif isinstance(message, IntegrityFailed):
            self.fail(HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, message.reason))
        elif isinstance(message, Rejected):
            self._hear_rejected(message)

    def _hear_rejected(self, message: Rejected) -> None:
        status = _STATUS.get(message.code, HTTPStatus.INTERNAL_SERVER_ERROR)
        again = status is HTTPStatus.SERVICE_UNAVAILABLE
        fields = (("Retry-After", "5"),) if again else ()
        self.fail(HttpError(status, message.reason, fields))
        if message.code in _RESUMABLE:
            self._uploads.forget(self)

    def fail(self, problem: HttpError) -> None:
        """End with what its requests are told."""
        self.problem = problem
        self._move(Stage.FAILED)

    def begin_taking(self, transfer: OrderedTransfer) -> None:
        """Let bytes come: the part file is there, and what it has is proven."""
        self._transfer = transfer
        self._move(Stage.READY)

    def note_whole(self) -> None:
        """Note that all bytes have come."""
        self._move(Stage.WHOLE)

    def note_done(self) -> None:
        """Note that the file has its final name."""
        self._move(Stage.DONE)

    def _move(self, stage: Stage) -> None:
        self.stage, self.changed_at = stage, time.monotonic()

    def check(self) -> None:
        """Raise ``HttpError`` if it has failed."""
        if self.problem:
            raise HttpError(self.problem.status, str(self.problem), self.problem.fields)

    def wait_for(self, *stages: Stage) -> None:
        """Raise ``Later`` until it is in one of ``stages``, ``HttpError`` if it never will."""
        self.check()
        if self.stage in stages:
            self._asked_at = math.inf
            return
        self._asked_at = min(self._asked_at, time.monotonic())
        if time.monotonic() >= self._asked_at + _PATIENCE:
            self._asked_at = math.inf
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, self._delay, (("Retry-After", "5"),))
        raise Later(_AGAIN)

    @property
    def _delay(self) -> str:
        if self.position and self._transfer is None:
            return f"the upload waits at position {self.position} of the queue"
        return "the server is at work on this upload; come again"

    # -- whose turn it is to work with it

    def take(self, writer: object) -> bool:
        """Let ``writer`` be the one whose request counts; return whether no other is at work."""
        with self._lock:
            self._writer = writer
            return not self._working

    @contextlib.contextmanager
    def work(self, writer: object) -> Iterator[None]:
        """Keep others away meanwhile. Raises ``HttpError`` if a newer request came."""
        with self._lock:
            if self._writer is not writer:
                raise HttpError(HTTPStatus.CONFLICT, "a newer request goes on with this upload")
            self._working = True
        try:
            yield
        finally:
            with self._lock:
                self._working = False


class Uploads:
    """The uploads that this server knows, and their way to the store. Any worker.

    Of an upload that nothing has come for, only the store knows; it is opened again when its client
    asks. The lock protects ``_live``.
    """

    def __init__(
        self,
        output: Path,
        parts: PartStore,
        lifecycle: Lifecycle,
        receiving: Receiving,
        limits: Limits,
        verification: Verification,
    ) -> None:
        self._output = output
        self._parts = parts
        self._lifecycle = lifecycle
        self._receiving = receiving
        self._limits = limits
        self._verification = verification
        self._lock = threading.Lock()
        self._live: dict[str, Upload] = {}

    # -- beginning

    def create(
        self, sender: Sender, size: int, name: str, metadata: str, claim: Claim | None
    ) -> Upload:
        """Begin a new upload; it is ready a little later. Raises ``HttpError``."""
        algorithm = claim.algorithm if claim else "sha256"
        upload_id = secrets.token_hex(48 - DIGEST_SIZES[algorithm])  # see Facts.is_upload
        notes = UploadNotes(metadata, claim.digest if claim else "", unchecked=False)
        try:
            start = FileStart(name, size, config.BLOCK_SIZE, algorithm, upload_id, True)
        except ValueError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None
        upload = Upload(self, sender, start, notes)
        with self._lock:
            self._live[upload.id] = upload
        self._begin(upload, start)
        upload.check()
        return upload

    def _begin(self, upload: Upload, start: FileStart) -> None:
        self._forget_old()
        answer = self._lifecycle.begin(upload.session, start)
        if answer:
            upload.hear(answer)

    def find(self, sender: Sender, upload_id: str) -> Upload:
        """Return an upload of this user, opened again if need be.

        Raises ``HttpError``: the same for one that is unknown and one of another user.
        """
        with self._lock:
            upload = self._live.get(upload_id)
        if upload:
            if upload.session.user != sender.user:
                raise not_found()
            return upload
        return self._open_again(sender, self._find_part(sender.user, upload_id))

    def begun_by(self, user: str) -> list[Begun]:
        """Return a user's unfinished uploads, also those that only the store knows, by name."""
        self._await_store(lambda facts: facts.user == user)
        rest = resting_uploads_of(self._output, self._parts, user)
        begun = {
            facts.head: Begun(facts.head, facts.name, facts.size, claimed, False)
            for facts, _, claimed in rest
        }
        with self._lock:
            live = [one for one in self._live.values() if one.session.user == user]
        begun.update(
            (one.id, one.as_begun) for one in live if one.stage in (Stage.OPENING, Stage.READY)
        )
        return sorted(begun.values(), key=lambda one: (one.name, one.id))

    def _await_store(self, of: Callable[[Facts], bool]) -> None:
        """Raise ``Later`` until the store knows what an earlier run left ``of`` something."""
        if not self._parts.knows(of):
            self._parts.look_first(of)
            raise Later(_AGAIN)  # the server has just started

    def _find_part(self, user: str, upload_id: str) -> Part:
        self._await_store(lambda facts: facts.head == upload_id)
        resting = resting_uploads(self._parts, user, upload_id)
        if not resting:
            raise not_found()
        return resting[0]

    def _open_again(self, sender: Sender, part: Part) -> Upload:
        """Go on with what rests, once, however many ask."""
        facts = part.facts
        notes = UploadNotes.read(self._output, part.stem)
        start = FileStart(
            facts.name, facts.size, facts.block_size, facts.digest, facts.head, True
        )  # fmt: skip
        upload = Upload(self, sender, start, notes)
        if part.published:
            upload.note_done()
        with self._lock:
            known = self._live.setdefault(upload.id, upload)
        if known is upload and not part.published:
            self._begin(upload, start)
        return known

    def prove(self, upload: Upload, number: int) -> None:
        """Hash what an earlier attempt has left of an upload; then bytes may come (any)."""
        transfer = self._lifecycle.current(upload.session, number)
        if isinstance(transfer, OrderedTransfer):
            self._lifecycle.start(partial(self._prove, upload), transfer)

    def _prove(self, upload: Upload, transfer: Transfer) -> None:
        assert isinstance(transfer, OrderedTransfer)
        if transfer.prove_some():
            self._lifecycle.start(partial(self._prove, upload), transfer)
            return
        if not transfer.offset:
            upload.notes = upload.notes._replace(unchecked=False)
            with transfer.life.use() as part:
                upload.notes.begin(self._output, part.stem)
        upload.begin_taking(transfer)
        self.look_whether_whole(upload)

    # -- bytes

    def write(self, upload: Upload, view: memoryview) -> float:
        """Write what came; return the seconds until more may come. Raises ``HttpError``."""
        self._do(upload, partial(self._write, view))
        return self._receiving.charge_upload(upload.transfer, len(view))

    def _write(self, view: memoryview, transfer: OrderedTransfer) -> None:
        due = transfer.write(view)
        transfer.note_blocks()
        self._verification.check_content(transfer)
        if due.flush:
            self._lifecycle.start(self._verification.flush_part, transfer)

    def _do(self, upload: Upload, step: Callable[[OrderedTransfer], None]) -> None:
        """Do something for the transfer; what the disk says ends it. Raises ``HttpError``."""
        transfer = upload.transfer
        self._lifecycle.run(lambda _: step(transfer), transfer)
        upload.check()
        if upload.transfer.life.ended and upload.stage is Stage.READY:
            raise HttpError(HTTPStatus.CONFLICT, "the upload has ended meanwhile")

    def take_over(self, upload: Upload, writer: object) -> None:
        """Let the newest request go on with an upload; one that hangs has ended then.

        Raises ``Later`` while the other is at work, ``HttpError`` if a newer one came meanwhile.
        """
        if not upload.take(writer):
            raise Later(_SOON)
        with upload.work(writer):
            if upload.writing:
                self.end_writing(upload)

    def digest_so_far(self, upload: Upload) -> str:
        """Return the digest of what is here of an upload that is ready, in hexadecimal.

        Its request works with it. Raises ``HttpError``.
        """
        found: list[str] = []
        self._do(upload, lambda transfer: found.append(transfer.digest_so_far()))
        return found[0]

    def begin_writing(self, upload: Upload, *, held: bool) -> None:
        """Begin a PATCH. Raises ``HttpError``."""
        if not held and not upload.notes.unchecked:
            upload.notes = upload.notes._replace(unchecked=True)
            self._do(upload, self._note_unchecked)
        self._do(upload, partial(OrderedTransfer.begin, held=held))
        upload.writing = True
        self._limits.begin(upload.session.user)

    def _note_unchecked(self, transfer: OrderedTransfer) -> None:
        with transfer.life.use() as part:
            UploadNotes.note_unchecked(self._output, part.stem)

    def commit(self, upload: Upload) -> None:
        """Let what a PATCH brought count: its checksum is right. Raises ``HttpError``."""
        self._do(upload, self._commit)

    def _commit(self, transfer: OrderedTransfer) -> None:
        transfer.commit()
        transfer.note_blocks()
        self._verification.check_content(transfer)

    def end_writing(self, upload: Upload) -> None:
        """End a PATCH; what it held and did not commit is undone. Never raises."""
        if not upload.writing:
            return
        upload.writing, transfer = False, upload.transfer
        transfer.take_back()
        self._lifecycle.run(lambda _: transfer.pause(), transfer)
        self._limits.end(upload.session.user)

    def end_later(self, upload: Upload, writer: object) -> None:
        """Have a worker end the PATCH of a client that is gone (any)."""
        self._lifecycle.start(lambda _: self._end_gone(upload, writer), upload.transfer)

    def _end_gone(self, upload: Upload, writer: object) -> None:
        with contextlib.suppress(HttpError), upload.work(writer):  # or a newer one has done so
            self.end_writing(upload)

    # -- the end

    def look_whether_whole(self, upload: Upload) -> None:
        """Publish the file if all of it is here; the verdict follows (a worker)."""
        if upload.stage is Stage.READY and upload.transfer.is_whole:
            transfer = upload.transfer
            upload.note_whole()
            self._lifecycle.run(self._verification.check_content, transfer)
            if transfer.end(upload.notes.digest or None, upload.proof):
                self._lifecycle.start(self._verification.assemble_file_from_blocks, transfer)

    def claim(self, upload: Upload, claim: Claim | None) -> None:
        """Take the client's own digest, said with a PATCH. Raises ``HttpError``."""
        if claim is None or claim.algorithm != upload.algorithm:
            return
        if upload.notes.digest not in ("", claim.digest):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the digest is another one than before")
        upload.notes = upload.notes._replace(digest=claim.digest)

    def terminate(self, upload: Upload) -> None:
        """Give up an upload that is ready or done: what came of it goes; a published file stays."""
        self.forget(upload)
        if upload.stage is Stage.READY:
            upload.transfer.life.spoil()
            answer = Rejected("cancelled", "given up by its client")
            self._lifecycle.finish(upload.transfer, answer)
        for part in resting_uploads(self._parts, upload.session.user, upload.id):
            self._parts.remove_if_resting(part)

    def forget(self, upload: Upload) -> None:
        """Leave an upload to the store (any)."""
        with self._lock:
            if self._live.get(upload.id) is upload:
                del self._live[upload.id]

    def _forget_old(self) -> None:
        """Leave to the store what ended a while ago."""
        before = time.monotonic() - _REMEMBERED
        with self._lock:
            for upload in list(self._live.values()):
                over = upload.stage in (Stage.DONE, Stage.FAILED)
                if over and upload.changed_at < before:
                    del self._live[upload.id]
