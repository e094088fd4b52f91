"""A transfer's beginning and end: accept, run, finish."""

from __future__ import annotations

import errno
import logging
from functools import partial

import config
from config import ServerSettings
from lft.manifest import Manifest
from lft.options import format_both, format_size
from lft.server.admission import Admission
from lft.server.buffers import BufferPool
from lft.server.ledger import RESTS, Ledger, is_another
from lft.server.lifetime import Stage, TransferEndedError
from lft.server.opening import Hands, Opener, Step
from lft.server.ordered import OrderedTransfer
from lft.server.quota import quota_for
from lft.server.sessions import Session
from lft.server.transfer import Transfer
from lft.server.underway import Tell, UnderWay
from lft.server.unsized import Growth, UnsizedTransfer
from lft.server.work_queue import WorkQueue
from lft.store.catalog import Catalog
from lft.store.journal import TREE, Facts
from lft.store.ownership import OutputDirectory
from lft.store.part import Part, StaleError
from lft.store.partstore import PartStore
from lft.store.paths import NO_SPACE, NoSpaceError, longest_name, output_name, safe_name, unique
from lft.store.usage import counts_of
from lft.terminal import SUCCESS
from protocol import (
    DIGEST_SIZES,
    EARLIER,
    MAX_AHEAD,
    Blocks,
    FileStart,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Queued,
    Rejected,
    RejectedError,
    Spans,
)

log = logging.getLogger("coordinator")
server_log = logging.getLogger("server")

_SHUTDOWN = Rejected("shutdown", "the server is shutting down")

# no fault of the file's or the disk's: the system has no descriptor, buffer or thread left just now
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAGAIN)


class Lifecycle:
    """Begins transfers and ends them; owns which transfers each session has under way.

    All methods run on workers, unless a docstring says otherwise.
    """

    def __init__(
        self,
        settings: ServerSettings,
        output: OutputDirectory,
        admission: Admission,
        parts: PartStore,
        work: WorkQueue,
        tell: Tell,
        ledger: Ledger,
    ) -> None:
        self.stopping = False  # set by main: nothing new begins
        self._settings = settings
        self._output = output
        self._admission = admission
        self._parts = parts
        self._quota = quota_for(settings, admission, parts)
        self.growth = Growth(self._quota)
        self._work = work
        self._buffers = BufferPool(config.SPARE_BUFFERS, config.KEEP_FOR_HASHING)
        self._tell = tell
        self._ledger = ledger
        self._under_way = UnderWay()
        catalog = Catalog(settings.output, ledger.published)
        hands = Hands(tell, self.start, self._take_from)
        self._opener = Opener(settings, output, parts, catalog, self._quota, hands)

    # -- beginning

    def look_at(self, session: Session, start: FileStart) -> Message | None:
        """Look at the announcement of a directory; return REJECTED where no manifest is needed."""
        try:
            self._judge(session, start)
        except RejectedError as error:
            log.warning("rejected %s: %s", start.name, error)
            return rejection(error)
        return None

    def begin(
        self, session: Session, start: FileStart, manifest: Manifest | None = None
    ) -> Message | None:
        """Take a file in, or the directory of ``manifest``.

        Returns REJECTED or QUEUED, or nothing: then FILE_READY will follow.
        """
        self._forget_oldest(session)
        try:
            name = self._judge(session, start)
            transfer = self._accept(session, start, name, manifest)
        except RejectedError as error:
            log.warning("rejected %s: %s", start.name, error)
            self._ledger.refuse(session, start.name, start.size, rejection(error))
            return rejection(error)
        self._under_way.add(transfer)
        try:
            position = self._admission.enter(transfer)
            self._under_way.note_number(transfer)
            if self._parts.scanned and not start.skip:  # otherwise when a part is made
                anew = not transfer.resumes
                self._quota.check(transfer, anew=anew, replaces=anew)
        except (RejectedError, OSError) as error:
            log.warning("rejected %s: %s", start.name, error)
            self.finish(transfer, None, rejection(error))
            return rejection(error)
        if position:
            log.info("%s waits at position %d", transfer.name, position)
            return Queued(position)
        self._opener.open(transfer)
        return None

    def _forget_oldest(self, session: Session) -> None:
        """Let part files go of a client that confirms no verdicts: it may ask for them again."""
        unconfirmed = self._under_way.unconfirmed(session)
        for transfer in unconfirmed[: 1 - MAX_AHEAD]:
            self._under_way.settle(transfer, confirmed=False)

    def _judge(self, session: Session, start: FileStart) -> str:
        """Look at the metadata before anything is reserved; return the name, made harmless.

        Raises ``RejectedError``.
        """
        if self.stopping:
            raise RejectedError("shutdown", "the server is shutting down")
        if start.digest not in DIGEST_SIZES:
            raise RejectedError("digest", f"unknown digest; take one of {', '.join(DIGEST_SIZES)}")
        if not config.MIN_BLOCK_SIZE <= start.block_size <= config.MAX_BLOCK_SIZE:
            low, high = format_size(config.MIN_BLOCK_SIZE), format_size(config.MAX_BLOCK_SIZE)
            raise RejectedError("block_size", f"a block has {low} to {high} here")
        if Blocks(start.size, start.block_size).count > config.MAX_BLOCKS:
            raise RejectedError("size", "too many blocks; use larger ones")
        if start.entries is not None and start.entries > config.MAX_TREE_ENTRIES:
            most = f"{config.MAX_TREE_ENTRIES:,}"
            raise RejectedError("manifest", f"{start.entries:,} entries are more than {most}")
        name = safe_name(start.name)
        session.rights.check_size(start.size)
        if start.entries is None:
            session.rights.check_name(name)
        return name

    def _accept(
        self, session: Session, start: FileStart, name: str, manifest: Manifest | None
    ) -> Transfer:
        """Make the transfer. Raises ``RejectedError`` for a file of a tree that may not be sent."""
        longest = longest_name(self._settings.output)
        if manifest is not None:
            longest -= config.SUMS_SUFFIX_BYTES
            session.rights.check_names(manifest)
        facts = Facts(
            session.user, name, start.size, start.block_size, start.digest,
            output_name(name, unique(), longest), session.rights.directory, start.head, start.mode,
            start.mtime, file=start.file, skips=bool(start.skip) and not start.unsized,
        )  # fmt: skip
        if start.unsized:
            # no other attempt has such a head
            facts = facts._replace(size=0, head="", unsized=True)
            return UnsizedTransfer(session, facts, self._buffers, self._let_go, resumes=False)
        if manifest is not None:
            weight = counts_of(manifest, start.digest)
            facts = facts._replace(head=TREE, manifest=manifest, counted_as=weight)
        if not session.in_order:
            return Transfer(session, facts, self._buffers, self._let_go, resumes=start.resume)
        upload = OrderedTransfer(session, facts, self._buffers, self._let_go, resumes=start.resume)
        if self._settings.shared:
            upload.rests_after = config.UPLOAD_RESTS_AFTER
        return upload

    def _let_go(self, transfer: Transfer, part: Part) -> None:
        """Take back the part file of a transfer that is over, from its last user (any)."""
        if transfer.life.stage is Stage.CONFIRMED:
            self._parts.drop(part)
        self._opener.let_go(transfer, part)

    def _take_from(self, rival: Transfer) -> None:
        """Let the part file of a dead session rest, so that its successor finds it."""
        if not rival.life.ended:
            log.warning("%s: its client is silent, another goes on", rival.name)
        self.finish(rival, Rejected("taken", "another client goes on with this file"))
        self._under_way.settle(rival, confirmed=False)

    # -- what runs

    def current(self, session: Session | None, number: int) -> Transfer | None:
        """Return what a session sends right now under this number of a transfer (any)."""
        return self._under_way.find(session, number) if session else None

    def try_again(self) -> None:
        """Have every transfer try again that waits for its part file (main)."""
        self._opener.try_again()

    def start(self, step: Step, transfer: Transfer) -> None:
        """Have ``step`` done for ``transfer`` by a worker (any)."""
        self._work.put(partial(self.run, step, transfer), transfer.priority, transfer.facts.user)

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
            self.refuse(transfer, error)
        except Exception:
            log.exception("%s: internal error", transfer.name)
            self.finish(transfer, Rejected("internal", "internal error of the server"))

    def refuse(self, transfer: Transfer, error: RejectedError | OSError) -> None:
        """End ``transfer`` with why it is not taken; a full disk passes while waste is removed."""
        answer = rejection(error)
        if isinstance(error, OSError) and error.errno in NO_SPACE and self._parts.waste:
            answer = Rejected("busy", "the server makes room on its disk; try again later")
        self.finish(transfer, answer)

    def waits_for(self, transfer: Transfer) -> str:
        """Return what keeps a transfer from its part file, in words; empty if nothing does."""
        return self._opener.waits_for(transfer)

    # -- the end

    def finish(
        self, transfer: Transfer, answer: Message | None, outcome: Rejected | None = None
    ) -> None:
        """End ``transfer`` with ``answer``, unless another thread does (any).

        ``outcome`` is the answer that the client gets in another way.
        """
        if transfer.life.end():
            self._conclude(transfer, answer, outcome)

    def fail(self, transfer: Transfer, reason: str) -> None:
        """End ``transfer`` with INTEGRITY_FAILED; its part file is of no use."""
        transfer.life.spoil()
        self.finish(transfer, IntegrityFailed(transfer.digest, reason))

    def publish(self, transfer: Transfer, part: Part) -> None:
        """Give the flushed file its final name, then the verdict."""
        with transfer.life.publishing(), self._ledger.publishing(transfer, part):
            self._output.check_in_place()
            name = self._quota.publish(part)
            self._output.check_in_place()  # otherwise its name is where no user sees it
        self._under_way.note_published(transfer)  # before the client can confirm it
        receipt = transfer.receipt(name)
        if part.found:
            receipt = receipt.replace(skipped=True)
        self._conclude(transfer, receipt if part.kept is None else receipt.replace(kept=part.kept))
        self._ledger.run_program(transfer, receipt)

    def _conclude(
        self, transfer: Transfer, answer: Message | None, outcome: Rejected | None = None
    ) -> None:
        """Say how ``transfer`` ended, and admit the next (the thread that ended it)."""
        self._under_way.remove(transfer)
        if isinstance(answer, Rejected) and answer.code == RESTS:
            log.info("%s: %s", transfer.name, answer.reason)
        elif isinstance(answer, Rejected) and answer.code == EARLIER:
            log.info("%s: there is an earlier attempt (%s)", transfer.name, answer.reason)
        elif isinstance(answer, Rejected) and is_another(transfer, answer):
            log.info("%s: what is there is another file", transfer.name)
        elif isinstance(answer, (Rejected, IntegrityFailed)):
            log.error("%s: %s", transfer.name, answer.reason)
        elif isinstance(answer, IntegrityOk):  # before the client can hear of it
            facts = f"{format_size(answer.size)}, {transfer.facts.digest} {answer.digest}"
            done = "already there:" if answer.skipped else "saved"
            server_log.info("%s %s (%s)", done, answer.saved_as, facts, extra=SUCCESS)
        self._ledger.note(transfer, answer or outcome)
        if answer:  # before the admission lets go of it: a stopping server waits for that
            self._tell(transfer, answer)
        for admitted in self._admission.leave(transfer):
            self._opener.open(admitted)

    def confirm(self, session: Session, files: Spans | None) -> None:
        """Note that the client has read verdicts: on numbered ``files``, or that on the last one.

        Their part files are let go.
        """
        for transfer in self._under_way.confirmed(session, files):
            self._under_way.settle(transfer, confirmed=True)

    def forgo(self, session: Session) -> None:
        """Let part files rest whose verdict the client may not have read: its session is gone."""
        for transfer in self._under_way.unconfirmed(session):
            self._under_way.settle(transfer, confirmed=False)

    def cancel(self, session: Session, file: int | None) -> None:
        """End what the client has given up."""
        transfer = self._under_way.find_file(session, file)
        if transfer:
            self.finish(transfer, Rejected("cancelled", "cancelled by the client"))

    def abandon(self, session: Session) -> None:
        """End what a session that is gone has left."""
        for transfer in self._under_way.of(session):
            log.warning("%s: the client went away; it can go on later", transfer.name)
            self.finish(transfer, None)
        self.forgo(session)

    def turn_away(self, transfer: Transfer) -> None:
        """End a transfer that has not begun, because the server stops."""
        self.finish(transfer, _SHUTDOWN)

    def cut(self, transfer: Transfer) -> None:
        """End a transfer as the server ends; workers at it stop at the next block (main)."""
        if transfer.life.end():
            self._ledger.note(transfer, _SHUTDOWN)

    def expire(self, transfer: Transfer) -> None:
        """End a transfer in which nothing moves any more."""
        timeout = self._settings.stall_timeout
        if isinstance(transfer, OrderedTransfer) and transfer.rests:
            reason = "no request came for it; any server may go on with it"
            self.finish(transfer, Rejected(RESTS, reason))
        elif transfer.stalled_for() > timeout:  # still: a request may have come for it
            self.finish(transfer, Rejected("timeout", f"nothing came for {timeout:g} s"))

    def close(self) -> None:
        """Let go of every part file, also of verdicts that are not confirmed (main, at the end)."""
        for transfer in self._opener.owners():
            transfer.life.end()
            transfer.life.settle(confirmed=False)
        self._opener.close()


def rejection(error: RejectedError | OSError) -> Rejected:
    """Say why a file is not taken; what the disk says without the server's paths (any)."""
    if isinstance(error, RejectedError):
        return Rejected(error.code, str(error))
    if error.errno in PASSING:
        return Rejected("busy", f"the server is busy ({error.strerror}); try again later")
    if error.errno == errno.EFBIG:
        return Rejected("size", "the file is too large for the server's file system")
    if error.errno in NO_SPACE:
        return Rejected("space", _no_space(error))
    return Rejected("disk", f"the server cannot write: {error.strerror or 'unknown error'}")


def _no_space(error: OSError) -> str:
    """Say what room there is, where that is known, and what the file needs."""
    if error.errno == errno.EDQUOT:
        return "not enough space: a disk quota on the server is used up"
    if isinstance(error, NoSpaceError) and error.free < error.needed:
        needed, free = format_both(error.needed, error.free)
        return f"not enough space on the server: {needed} are needed, {free} are free"
    return "not enough space on the server"
