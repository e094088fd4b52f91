"""A transfer's beginning and end: accept, wait, open, take over, finish."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from functools import partial
from typing import Callable

import config
from config import ServerSettings
from lft.options import format_size
from lft.server.admission import Admission
from lft.server.buffers import BufferPool
from lft.server.lifetime import Stage, TransferEndedError
from lft.server.quota import Quota
from lft.server.sessions import Peer, Session
from lft.server.transfer import Transfer
from lft.server.work_queue import WorkQueue
from lft.store.journal import Claims, Facts
from lft.store.ownership import OutputDirectory
from lft.store.partfile import PartFile, StaleError
from lft.store.partstore import PartStore
from lft.store.paths import NO_SPACE, make_directory, output_name, safe_name, unique
from protocol import (
    DIGEST_SIZES,
    Blocks,
    FileReady,
    FileStart,
    IntegrityFailed,
    Message,
    Ping,
    Queued,
    Rejected,
    RejectedError,
)

log = logging.getLogger("coordinator")

Post = Callable[[Peer, Message], None]
Step = Callable[[Transfer], None]


class Search:
    """The search of a transfer for its part file; it waits for an owner that may be dead.

    Owned by the worker that searches, or by ``Lifecycle`` between two tries.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._asked: dict[Transfer, float] = {}  # owners, and since when they are asked

    def asked_at(self, owner: Transfer) -> float:
        """Return since when ``owner`` is asked whether it lives: from now on, if not before."""
        return self._asked.setdefault(owner, time.monotonic())


class Lifecycle:
    """Begins transfers and ends them; owns which transfer a session sends.

    ``current`` is what each session sends now; ``unconfirmed`` what was published for it, while its
    verdict may not have arrived. Workers change them one key at a time: the worker that owns the
    coordinator, or the one that ends the transfer. The lock protects ``_owners``: the transfers
    whose part file has not been let go. All methods run on workers, unless a docstring says
    otherwise.
    """

    def __init__(
        self,
        settings: ServerSettings,
        output: OutputDirectory,
        admission: Admission,
        parts: PartStore,
        work: WorkQueue,
        buffers: BufferPool,
        post: Post,
    ) -> None:
        self.stopping = False  # set by main: nothing new begins
        self._settings = settings
        self._output = output
        self._admission = admission
        self._parts = parts
        self._quota = Quota(settings.output, admission, parts)
        self._work = work
        self._buffers = buffers
        self._post = post
        self._current: dict[Session, Transfer] = {}
        self._unconfirmed: dict[Session, Transfer] = {}
        self._lock = threading.Lock()
        self._owners: set[Transfer] = set()
        self._searches: deque[Search] = deque()  # that wait for an owner to answer

    # -- beginning

    def begin(self, session: Session, start: FileStart) -> Message | None:
        """Take a file in; return REJECTED or QUEUED, or nothing: then FILE_READY will follow."""
        try:
            transfer = self._accept(session, start)
        except RejectedError as error:
            log.warning("rejected %s: %s", start.name, error)
            return rejection(error)
        self._current[session] = transfer
        try:
            position = self._admission.enter(transfer)
            self._quota.check(transfer, anew=not transfer.resumes)
        except (RejectedError, OSError) as error:
            log.warning("rejected %s: %s", start.name, error)
            self.finish(transfer, None)
            return rejection(error)
        if position:
            log.info("%s waits at position %d", transfer.name, position)
            return Queued(position)
        self._start_opening(transfer)
        return None

    def _accept(self, session: Session, start: FileStart) -> Transfer:
        """Look at the metadata before anything is reserved. Raises ``RejectedError``."""
        if self.stopping:
            raise RejectedError("shutdown", "the server is shutting down")
        if start.digest not in DIGEST_SIZES:
            raise RejectedError("digest", f"unknown digest; take one of {', '.join(DIGEST_SIZES)}")
        if not config.MIN_BLOCK_SIZE <= start.block_size <= config.MAX_BLOCK_SIZE:
            low, high = format_size(config.MIN_BLOCK_SIZE), format_size(config.MAX_BLOCK_SIZE)
            raise RejectedError("block_size", f"a block has {low} to {high} here")
        if Blocks(start.size, start.block_size).count > config.MAX_BLOCKS:
            raise RejectedError("size", "too many blocks; use larger ones")
        name = safe_name(start.name)
        session.rights.check(name, start.size)
        facts = Facts(
            session.user, name, start.size, start.block_size, start.digest,
            output_name(name, unique()), session.rights.directory, start.head,
        )  # fmt: skip
        return Transfer(session, facts, self._buffers, self._let_go, resumes=start.resume)

    def _start_opening(self, transfer: Transfer) -> None:
        self.start(partial(self._open, Search(transfer)), transfer)

    def _open(self, search: Search, transfer: Transfer) -> None:
        """Find or make the part file of an admitted transfer and let the client send."""
        if transfer.life.ended:
            return
        self._output.check_in_place()
        make_directory(self._settings.output, transfer.facts.directory)  # before a byte is sent
        found = self._find(search) if transfer.resumes else self._begin_anew(transfer)
        if found is None:
            self._searches.append(search)
            return
        part, claims = found
        self._own(transfer)
        if not transfer.open(part, claims):
            self._disown(transfer, part)
            return
        self._log_opened(transfer, claims)
        have = claims.spans if claims else ()
        self._post(transfer.session.coordinator, FileReady(transfer.number, have))

    def _begin_anew(self, transfer: Transfer) -> tuple[PartFile, None]:
        self._parts.forget(transfer.facts)
        return self._parts.create(transfer.facts), None

    def _find(self, search: Search) -> tuple[PartFile, Claims | None] | None:
        """Return the part file to go on with, or a new one; ``None`` while an owner is asked."""
        transfer = search.transfer
        rivals = self._rivals(transfer)  # before the search: what rests then is found
        part = self._parts.reopen(transfer.facts)
        claims = self._go_on(transfer, part) if part else None
        if part and claims:
            return part, claims
        if self._ask_rivals(search, rivals):
            return None
        self._quota.check(transfer, anew=True)
        return self._parts.create(transfer.facts), None

    def _go_on(self, transfer: Transfer, part: PartFile) -> Claims | None:
        """Use a reopened part file; ``None`` if it turns out to be unfit."""
        try:
            if not part.published:  # it may have grown, and others may rest beside it
                self._quota.check(transfer, part, anew=True)
        except RejectedError:
            self._parts.rest(part)
            raise
        return self._parts.go_on(part, transfer.facts)

    @staticmethod
    def _log_opened(transfer: Transfer, claims: Claims | None) -> None:
        size, count = format_size(transfer.blocks.size), transfer.blocks.count
        facts = f"{transfer.name} ({size} in {count} blocks) from {transfer.facts.user}"
        if claims:
            log.info("resuming %s: %d blocks are here", facts, sum(claims.flags))
        else:
            log.info("receiving %s", facts)

    # -- whose part file it is

    def _own(self, transfer: Transfer) -> None:
        with self._lock:
            self._owners.add(transfer)

    def _disown(self, transfer: Transfer, part: PartFile) -> None:
        """Let the part file rest; only then a search may overlook ``transfer``."""
        self._parts.rest(part)
        with self._lock:
            self._owners.discard(transfer)

    def _let_go(self, transfer: Transfer, part: PartFile) -> None:
        """Take back the part file of a transfer that is over, from its last user (any)."""
        if transfer.life.stage is Stage.CONFIRMED:
            self._parts.drop(part)
        self._disown(transfer, part)

    def _rivals(self, transfer: Transfer) -> list[Transfer]:
        """Return the transfers whose part file ``transfer`` could go on with."""
        with self._lock:
            owners = list(self._owners)
        return [one for one in owners if one.facts.key == transfer.facts.key]

    def _ask_rivals(self, search: Search, rivals: list[Transfer]) -> bool:
        """Ask silent owners whether they live, take files from dead ones; say whether to wait.

        A client notices a dead connection long before the server does, and comes back while its old
        session still stands. So an owner that does not answer in ``PROBE_TIMEOUT`` seconds loses
        the file.
        """
        now, wait = time.monotonic(), False
        for rival in rivals:
            asked_at = search.asked_at(rival)
            if not rival.life.ended and (rival.lives(asked_at) or not rival.life.receiving):
                continue  # it lives, or is about to begin
            wait |= now < asked_at + self._settings.stall_timeout  # later a disk is stuck
            if now < asked_at + config.PROBE_TIMEOUT:
                self._post(rival.session.coordinator, Ping())
            else:
                self._take_from(rival)
        return wait

    def _take_from(self, rival: Transfer) -> None:
        """Let the part file of a dead session rest, so that its successor finds it."""
        if not rival.life.ended:
            log.warning("%s: its client is silent, another goes on", rival.name)
        self.finish(rival, Rejected("taken", "another client goes on with this file"))
        if self._unconfirmed.get(rival.session) is rival:
            self.settle(rival.session, confirmed=False)

    def search_again(self) -> None:
        """Have every transfer search again that waits for a part file (main)."""
        for _ in range(len(self._searches)):
            search = self._searches.popleft()
            self.start(partial(self._open, search), search.transfer)

    # -- what runs

    def current(self, session: Session | None, number: int | None = None) -> Transfer | None:
        """Return what a session sends right now, if it is (that) one (any)."""
        transfer = self._current.get(session) if session else None
        return transfer if transfer and number in (None, transfer.number) else None

    def start(self, step: Step, transfer: Transfer) -> None:
        """Have ``step`` done for ``transfer`` by a worker (any)."""
        self._work.put(partial(self.run, step, transfer), transfer.priority)

    def run(self, step: Step, transfer: Transfer) -> None:
        """Do ``step``; what it raises ends this transfer and nothing else."""
        try:
            step(transfer)
        except TransferEndedError:
            return
        except StaleError:
            transfer.life.spoil()
            self.finish(transfer, Rejected("stale", "the file has changed since it was published"))
        except (RejectedError, OSError) as error:
            self.finish(transfer, rejection(error))
        except Exception:
            log.exception("%s: internal error", transfer.name)
            self.finish(transfer, Rejected("internal", "internal error of the server"))

    # -- the end

    def finish(self, transfer: Transfer, answer: Message | None) -> None:
        """End ``transfer`` with ``answer``, unless another thread does (any)."""
        if transfer.life.end():
            self._conclude(transfer, answer)

    def fail(self, transfer: Transfer, reason: str) -> None:
        """End ``transfer`` with INTEGRITY_FAILED; its part file is of no use."""
        transfer.life.spoil()
        self.finish(transfer, IntegrityFailed(transfer.digest, reason))

    def publish(self, transfer: Transfer, part: PartFile) -> str:
        """Give the flushed file its final name, then the verdict; return that name."""
        with transfer.life.publishing():
            self._output.check_in_place()
            name = part.publish()
            self._output.check_in_place()  # else it has its name where no user sees it
        self._unconfirmed[transfer.session] = transfer  # before the client can confirm it
        self._conclude(transfer, transfer.receipt(name))
        return name

    def _conclude(self, transfer: Transfer, answer: Message | None) -> None:
        """Say how ``transfer`` ended, and admit the next (the thread that ended it)."""
        if self._current.get(transfer.session) is transfer:
            del self._current[transfer.session]
        if isinstance(answer, (Rejected, IntegrityFailed)):
            log.error("%s: %s", transfer.name, answer.reason)
        if answer:  # before the admission lets go of it: a stopping server waits for that
            self._post(transfer.session.coordinator, answer)
        for admitted in self._admission.leave(transfer):
            self._start_opening(admitted)

    def settle(self, session: Session, *, confirmed: bool) -> None:
        """Note whether the client has read the last verdict: its part file is let go (any)."""
        transfer = self._unconfirmed.pop(session, None)
        if transfer:
            transfer.life.settle(confirmed=confirmed)

    def cancel(self, session: Session) -> None:
        """End what the client has given up."""
        transfer = self.current(session)
        if transfer:
            self.finish(transfer, Rejected("cancelled", "cancelled by the client"))

    def abandon(self, session: Session) -> None:
        """End what a session that is gone has left."""
        transfer = self.current(session)
        if transfer:
            log.warning("%s: the client went away; it can go on later", transfer.name)
            self.finish(transfer, None)
        self.settle(session, confirmed=False)

    def turn_away(self, transfer: Transfer) -> None:
        """End a transfer that has not begun, because the server stops."""
        self.finish(transfer, Rejected("shutdown", "the server is shutting down"))

    def expire(self, transfer: Transfer) -> None:
        """End a transfer in which nothing moves any more."""
        timeout = self._settings.stall_timeout
        self.finish(transfer, Rejected("timeout", f"nothing came for {timeout:g} s"))

    def close(self) -> None:
        """Let go of every part file, also of verdicts that are not confirmed (main, at the end)."""
        with self._lock:
            owners = list(self._owners)
        for transfer in owners:
            transfer.life.end()
            transfer.life.settle(confirmed=False)


def rejection(error: RejectedError | OSError) -> Rejected:
    """Say why a file is not taken; what the disk says without the server's paths (any)."""
    if isinstance(error, RejectedError):
        return Rejected(error.code, str(error))
    if error.errno in (*NO_SPACE, errno.EFBIG):
        return Rejected("space", "not enough space on the server")
    return Rejected("disk", f"the server cannot write: {error.strerror or 'unknown error'}")
