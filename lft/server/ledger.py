"""What is done when the outcome of a file is known: noted in the history, told to a program."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, Sequence

import config
from lft.server.recorder import Recorder
from lft.server.sessions import Session
from lft.server.transfer import Transfer
from lft.store.history import FAILED, INTERRUPTED, MICRO, RECEIVED, REFUSED, Outcome
from lft.store.part import Part
from lft.terminal import printable
from protocol import EARLIER, IntegrityFailed, IntegrityOk, Message, Rejected

if TYPE_CHECKING:
    from lft.server.on_received import Programs

# codes of REJECTED with which a transfer ends that may go on later
_INTERRUPTIONS = ("cancelled", "timeout", "taken", "shutdown")
_LOST = Rejected("lost", "the client went away")


class Ledger:
    """Told of each outcome, before its client: what it does about that holds up no thread.

    Any thread may call any method, unless a docstring says otherwise.
    """

    def __init__(self, output: Path, program: Path | None = None, server: str = "") -> None:
        """Keep the history of ``output``; have ``program`` run for what was received.

        Servers that share ``output`` each have a database and notes under the name ``server``.
        Raises ``UsageError`` for a program that cannot be run.
        """
        self._recorder = recorder = Recorder(output, server, shared=bool(server))
        self._programs: Programs | None = None
        if program:
            from lft.server.on_received import Programs  # noqa: PLC0415  (it loads subprocess)

            self._programs = Programs(program, output, recorder.add, server, self._is_noted)
        self._notes: dict[Transfer, str] = {}  # of files that are being published, by their workers
        self._watchers: list[Callable[[Outcome], None]] = []
        self.history = recorder.history
        self.published: Callable[[str, str], list[Outcome]] = recorder.published  # a worker
        self.known: Callable[[Sequence[str]], dict[str, Outcome]] = recorder.known  # likewise

    def watch(self, watcher: Callable[[Outcome], None]) -> None:
        """Have ``watcher`` told of each outcome, by any thread; it must not wait (main)."""
        self._watchers.append(watcher)

    def _add(self, outcome: Outcome) -> None:
        self._recorder.add(outcome)
        for watcher in self._watchers:
            watcher(outcome)

    def _is_noted(self, place: str) -> bool:
        """Return whether the history, of whichever server, knows a published file."""
        return place in self.known([place])

    def start(self) -> None:
        """Start its threads (main). Raises ``RuntimeError`` where the system has none."""
        self._recorder.start()
        if self._programs:
            self._programs.start()

    # -- the program

    @contextlib.contextmanager
    def publishing(self, transfer: Transfer, part: Part) -> Iterator[None]:
        """Publish a file within this: a kill then keeps no program from running (a worker).

        One that was published before a kill has had its note then.
        """
        if not self._programs or part.published:
            yield
            return
        entry = _outcome(transfer, RECEIVED)._replace(
            saved_as=part.facts.place, size=part.facts.size, digest=transfer.digest,
            proof=transfer.proof.value,
        )  # fmt: skip
        self._notes[transfer] = self._programs.prepare(entry, part.stem, part.unfinished)
        try:
            yield
        except BaseException:
            self._programs.forget(self._notes.pop(transfer))
            raise

    def run_program(self, transfer: Transfer, receipt: IntegrityOk) -> None:
        """Have the program run for a published file, once its client has been told."""
        name = self._notes.pop(transfer, None)
        if self._programs and name is not None:
            self._programs.put(name, _received(transfer, receipt))

    # -- the history

    def refuse(self, session: Session, name: str, size: int, answer: Rejected) -> None:
        """Note a file that is refused as it is announced."""
        facts = _ended_now(), REFUSED, session.user, printable(name), size
        self._add(Outcome(
            *facts, address=session.coordinator.address, door=session.door,
            code=answer.code, reason=printable(answer.reason),
        ))  # fmt: skip

    def note(self, transfer: Transfer, answer: Message | None) -> None:
        """Note how ``transfer`` ended: with ``answer``, or without one for a lost client."""
        if isinstance(answer, IntegrityOk) and answer.skipped:
            return  # it has been noted, when it was received
        if isinstance(answer, IntegrityOk):
            self._add(_received(transfer, answer))
        elif isinstance(answer, IntegrityFailed):
            failed = _outcome(transfer, FAILED)._replace(digest=answer.digest)
            self._add(failed._replace(code="digest", reason=printable(answer.reason)))
        else:
            refusal = answer if isinstance(answer, Rejected) else _LOST
            anew = refusal.code in (EARLIER, RESTS) or is_another(transfer, refusal)
            if not anew:  # otherwise its client announces it once more, or asks for it
                self._add(_not_taken(transfer, refusal))

    def stop(self) -> None:
        """Do what is left, as far as that takes no time (main)."""
        if self._programs:
            self._programs.stop()
        self._recorder.stop()


RESTS = "rests"  # why an upload ends here, for any server to go on with


def is_another(transfer: Transfer, refusal: Rejected) -> bool:
    """Return whether what was there is another file than the client has, which sends it now."""
    return refusal.code == "stale" and transfer.facts.skips


def _ended_now() -> int:
    return int(time.time() * MICRO)


def _outcome(transfer: Transfer, kind: str) -> Outcome:
    """Return what is known of a transfer however it ended."""
    facts, session, tally = transfer.facts, transfer.session, transfer.tally
    return Outcome(
        _ended_now(), kind, facts.user, facts.name, facts.size,
        algorithm=facts.digest, seconds=round(time.monotonic() - transfer.asked_at, 3),
        wire_bytes=tally.wire_bytes, resumed_bytes=tally.resumed_bytes,
        resent_blocks=transfer.resent, files=facts.manifest.files if facts.manifest else None,
        address=session.coordinator.address, door=session.door,
    )  # fmt: skip


def _received(transfer: Transfer, receipt: IntegrityOk) -> Outcome:
    return _outcome(transfer, RECEIVED)._replace(
        saved_as=receipt.saved_as, size=receipt.size, digest=receipt.digest,
        bottleneck=_bottleneck(receipt, time.monotonic() - transfer.asked_at),
        proof=transfer.proof.value,
    )  # fmt: skip


def _not_taken(transfer: Transfer, refusal: Rejected) -> Outcome:
    kind = INTERRUPTED if refusal.code in (_LOST.code, *_INTERRUPTIONS) else REFUSED
    reason = printable(refusal.reason)
    return _outcome(transfer, kind)._replace(code=refusal.code, reason=reason)


def _bottleneck(receipt: IntegrityOk, seconds: float) -> str:
    """Return what most of the time went into, if that was here and not on the way."""
    spent = {"disk": receipt.disk, "hashing": receipt.hashing, "limit": receipt.limited}
    most = max(spent, key=spent.__getitem__)
    held_up = seconds >= config.NAMEABLE and spent[most] > config.MOSTLY * seconds * 1000
    return most if held_up else ""
