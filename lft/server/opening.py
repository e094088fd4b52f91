"""The way of an admitted transfer to its part file: find, take over or make it, reserve space."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import Callable, NamedTuple

import config
from config import ServerSettings
from lft.options import format_size, plural
from lft.server.lifetime import Stage
from lft.server.quota import Quota
from lft.server.transfer import Transfer
from lft.server.underway import Tell
from lft.store.catalog import Catalog
from lft.store.journal import Claims, Facts
from lft.store.locks import HeldElsewhereError
from lft.store.ownership import OutputDirectory
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import NO_SPACE, explain, make_directory
from protocol import EARLIER, FileReady, Ping, RejectedError

log = logging.getLogger("coordinator")

Step = Callable[[Transfer], None]


class Opening:
    """The way of an admitted transfer to its part file, which may take several units of work.

    Owned by the worker that opens, or by ``Lifecycle`` between two tries.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.part: Part | None = None  # once it is found or made
        self.claims: Claims | None = None  # of its journal, if an earlier attempt left it
        self._asked: dict[Transfer, float] = {}  # owners of a part file, and since when
        self._held_since: float | None = None  # by another server, as far as we know
        self.waits_for = ""  # in words

    def needs(self, facts: Facts) -> bool:
        """Return whether the transfer has to know of a part file of an earlier run.

        It may go on with one of its user; a quota counts all in the directory.
        """
        own, limited = self.transfer.facts, self.transfer.session.rights.quota is not None
        return facts.user == own.user or (limited and facts.directory == own.directory)

    def asked_at(self, owner: Transfer) -> float:
        """Return since when ``owner`` is asked whether it lives: from now on, if not before."""
        return self._asked.setdefault(owner, time.monotonic())

    def begin_to_wait(self, held: HeldElsewhereError) -> bool:
        """Wait for another server to let go of the part file; ``False`` once that took too long.

        Its process may be dead, or its machine, or it may go on for ever. The file then begins anew
        beside it.
        """
        now, least = time.monotonic(), max(config.HELD_LEAST, held.size / config.REREAD_RATE)
        if self._held_since is None:
            self._held_since, self.waits_for = now, str(held)
            log.info("%s waits: %s", self.transfer.name, held)
        waits = now < self._held_since + min(least, config.HELD_PATIENCE)
        if not waits and self.waits_for:
            self.waits_for = ""
            log.warning("%s begins anew: %s", self.transfer.name, held)
        return waits


class Hands(NamedTuple):
    """What an opener has others do (any)."""

    tell: Tell  # have a client told of its transfer
    start: Callable[[Step, Transfer], None]  # have a worker do it; what that raises ends it
    take_over: Step  # end a transfer whose client is dead


class Opener:
    """Opens part files. All methods run on workers, unless a docstring says otherwise.

    The lock protects ``_openings``, and
    ``_owners``: the transfers whose part file has not been let go.
    """

    def __init__(
        self,
        settings: ServerSettings,
        output: OutputDirectory,
        parts: PartStore,
        catalog: Catalog,
        quota: Quota,
        hands: Hands,
    ) -> None:
        self._settings = settings
        self._output = output
        self._parts = parts
        self._catalog = catalog
        self._quota = quota
        self._tell, self._start, self._take_over = hands
        self._waiting: deque[Opening] = deque()  # for an owner to answer, or for a disk
        self._reserving = threading.BoundedSemaphore(config.MAX_RESERVING)
        self._finding_large = threading.BoundedSemaphore(1)
        self._lock = threading.Lock()
        self._owners: set[Transfer] = set()
        self._openings: set[Opening] = set()

    def open(self, transfer: Transfer) -> None:
        """Find or make the part file of an admitted transfer; then its client may send (any)."""
        opening = Opening(transfer)
        with self._lock:
            self._openings.add(opening)
        self._go_on(opening)

    def try_again(self) -> None:
        """Have every transfer try again that waits for a part file or a disk (main)."""
        for _ in range(len(self._waiting)):
            self._go_on(self._waiting.popleft())

    def _go_on(self, opening: Opening) -> None:
        self._start(partial(self._open, opening), opening.transfer)

    def _open(self, opening: Opening, transfer: Transfer) -> None:
        """Find or make the part file of an admitted transfer and let the client send.

        A transfer that has to wait is put aside, for main to start again. Whichever way it goes on,
        that comes last: another thread may have the opening by then.
        """
        try:
            hand_on = self._release if transfer.life.ended else self._prepare(opening)
        except BaseException:
            self._release(opening)
            raise
        hand_on(opening)

    def _prepare(self, opening: Opening) -> Callable[[Opening], None]:
        """Find or make the part file and reserve its space; return how to go on."""
        if not self._parts.knows(opening.needs):
            return self._go_on if self._parts.look_first(opening.needs) else self._waiting.append
        if not (opening.part or self._find_in_turn(opening)):
            return self._waiting.append
        assert opening.part is not None  # found
        return self._reserve(opening.part)

    def _reserve(self, part: Part) -> Callable[[Opening], None]:
        """Reserve some of the space, unless enough transfers do; return how to go on.

        A file of one slice does not wait for the large ones.
        """
        small = part.facts.size <= config.RESERVE_SLICE and not part.facts.has_many_entries
        if not small and not self._reserving.acquire(blocking=False):
            return self._waiting.append
        try:
            more = part.reserve_some(config.RESERVE_FOR)
        finally:
            if not small:
                self._reserving.release()
        return self._go_on if more else self._let_send

    def _release(self, opening: Opening) -> None:
        """Let the part file of a transfer rest that has ended on the way to it."""
        self._forget(opening)
        part, opening.part = opening.part, None
        if part:
            self.let_go(opening.transfer, part)

    def _forget(self, opening: Opening) -> None:
        with self._lock:
            self._openings.discard(opening)

    def _let_send(self, opening: Opening) -> None:
        """Tell the client that it may send, and what is here already."""
        transfer, claims, opening.claims = opening.transfer, opening.claims, None
        assert opening.part is not None  # it is prepared
        have, count = (claims.spans, claims.count) if claims else ((), 0)
        part = opening.part
        if not transfer.open(part, claims):
            self._release(opening)
            return
        self._forget(opening)
        self._log_opened(transfer, part, count)
        self._tell(transfer, FileReady(transfer.number, have))

    def close(self) -> None:
        """Let go the part files of transfers on their way to them (main, after the workers)."""
        for opening in list(self._openings):
            self._release(opening)

    def _find_in_turn(self, opening: Opening) -> bool:
        """Find the part file, unless it has so many blocks that others must be found first."""
        transfer = opening.transfer
        if transfer.blocks.count <= config.MANY_BLOCKS and not transfer.facts.has_many_entries:
            return self._find(opening)
        if not self._finding_large.acquire(blocking=False):
            return False
        try:
            return self._find(opening)
        finally:
            self._finding_large.release()

    def _find(self, opening: Opening) -> bool:
        """Find the part file to go on with, or make a new one; ``False`` while an owner is asked.

        All that could keep the file from being published is tried before a byte is sent.
        """
        transfer = opening.transfer
        self._output.check_in_place()
        self._check_directory(transfer)
        found = self._catalog.find(transfer.facts) if transfer.facts.skips else None
        if found:
            opening.part, opening.claims = found
        elif self._is_in_hand(opening):
            return False
        elif not transfer.resumes:
            self._parts.forget(transfer.facts)
        elif not self._look_for_earlier(opening):
            return False
        if opening.part is None:
            opening.part = self._quota.create(transfer)
        # what it is called until it is published: a quota counts each name once
        transfer.facts = transfer.facts._replace(saved_as=opening.part.facts.saved_as)
        self._own(transfer)
        self._try_name(opening.part)
        return True

    def _check_directory(self, transfer: Transfer) -> None:
        """Make the user's directory. Raises ``RejectedError`` where that cannot be."""
        directory = transfer.facts.directory
        try:
            make_directory(self._settings.output, directory)
        except OSError as error:
            raise RejectedError("disk", explain(error, directory)) from error

    @staticmethod
    def _try_name(part: Part) -> None:
        """See that the file can get its name. Raises ``RejectedError`` where it cannot."""
        try:
            part.try_name()
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            raise RejectedError("disk", explain(error, part.facts.directory)) from error

    def _look_for_earlier(self, opening: Opening) -> bool:
        """Look for what an earlier attempt left; return whether the search is over."""
        transfer = opening.transfer
        rivals = self._rivals(transfer)  # before the search: what rests then is found
        try:
            opening.part = self._parts.reopen(transfer.facts)  # from here on it is let go with it
        except HeldElsewhereError as error:
            if opening.begin_to_wait(error):
                return False
        if opening.part and self._use(opening, opening.part):
            return True
        self._offer_earlier(transfer)
        return not self._ask_rivals(opening, rivals)

    def _offer_earlier(self, transfer: Transfer) -> None:
        """Have the client announce the file again as an earlier attempt did, if it can.

        Other options of the same command, such as ``--limit``, cut a file in other blocks: what is
        here would be of no use, and keep its space. Raises ``RejectedError`` with block size and
        digest.
        """
        if EARLIER in transfer.session.coordinator.features:
            facts = self._parts.earlier(transfer.facts)
            if facts and config.MIN_BLOCK_SIZE <= facts.block_size <= config.MAX_BLOCK_SIZE:
                raise RejectedError(EARLIER, f"{facts.block_size} {facts.digest}")

    def _use(self, opening: Opening, part: Part) -> bool:
        """Use a reopened part file; ``False`` if it turns out to be unfit."""
        if not part.published:  # it may have grown, and others may rest beside it
            self._quota.check(opening.transfer, part, anew=True)
        opening.claims = self._parts.go_on(part, opening.transfer.facts)
        if opening.claims is None:  # the store has it again
            opening.part = None
        return opening.claims is not None

    @staticmethod
    def _log_opened(transfer: Transfer, part: Part, claimed: int) -> None:
        size, blocks = format_size(transfer.blocks.size), plural(transfer.blocks.count, "block")
        manifest = transfer.facts.manifest
        blocks += f" and {plural(manifest.files, 'file')}" if manifest else ""
        length = "of unknown size" if transfer.facts.unsized else f"{size} in {blocks}"
        facts = f"{transfer.name} ({length}) from {transfer.facts.user}"
        if part.found:
            log.info("checking whether %s is there already: %s", facts, part.facts.place)
        elif claimed:
            log.info("resuming %s: the server has %s", facts, plural(claimed, "block"))
        else:
            log.info("receiving %s", facts)

    def waits_for(self, transfer: Transfer) -> str:
        """Return what keeps a transfer from its part file, in words; empty if nothing does."""
        with self._lock:
            found = [one.waits_for for one in self._openings if one.transfer is transfer]
        return "".join(found)

    # -- whose part file it is

    def _own(self, transfer: Transfer) -> None:
        with self._lock:
            self._owners.add(transfer)

    def let_go(self, transfer: Transfer, part: Part) -> None:
        """Let a part file rest; only then a search may overlook ``transfer`` (any)."""
        if part.found:
            part.close()
        self._parts.rest(part)
        with self._lock:
            self._owners.discard(transfer)

    def _is_in_hand(self, opening: Opening) -> bool:
        """Return whether a worker is still at this very file, which its client has given up.

        It does so when a directory changes while it is sent, and announces it anew at once: what is
        there is found when it rests, and would stay beside the new one otherwise.
        """
        transfer, now = opening.transfer, time.monotonic()
        own = [one for one in self.owners() if one.session is transfer.session]
        ended = [one for one in own if one.life.stage is Stage.ENDED]
        given_up = (one for one in ended if one.facts.key == transfer.facts.key)
        limit = self._settings.stall_timeout  # later a disk is stuck
        return any(now < opening.asked_at(one) + limit for one in given_up)

    def _rivals(self, transfer: Transfer) -> list[Transfer]:
        """Return the transfers whose part file ``transfer`` could go on with.

        Of two in one session none is dead: their client wants both files.
        """
        others = [one for one in self.owners() if one.session is not transfer.session]
        return [one for one in others if one.facts.key == transfer.facts.key]

    def _ask_rivals(self, opening: Opening, rivals: list[Transfer]) -> bool:
        """Ask silent owners whether they live, take files from dead ones; say whether to wait.

        A client notices a dead connection long before the server does, and comes back while its old
        session still stands. So an owner that does not answer in ``PROBE_TIMEOUT`` seconds loses
        the file.
        """
        now, wait = time.monotonic(), False
        for rival in rivals:
            asked_at = opening.asked_at(rival)
            if not rival.life.ended and (rival.lives(asked_at) or not rival.life.receiving):
                continue  # it lives, or is about to begin
            wait |= now < asked_at + self._settings.stall_timeout  # later a disk is stuck
            if now < asked_at + config.PROBE_TIMEOUT:
                self._tell(rival, Ping())
            else:
                self._take_over(rival)
        return wait

    def owners(self) -> list[Transfer]:
        """Return the transfers whose part file has not been let go (any)."""
        with self._lock:
            return list(self._owners)
