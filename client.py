"""The client: reads a file once, hashes it once, pushes it through several connections at once.

``send_files`` is the whole of it for Python, ``main`` for the command line. A ``ClientSession`` is
the coordinator's side of the dialogue (``protocol.py``). Its parts stand in ``lft/client``.

The main thread talks on the coordinator connection and moves the bar. One reader thread reads the
file in order, hashes it and puts blocks into a queue. The senders of a pool, each with one
long-lived data connection, take blocks from it. The number of buffers is fixed, so memory is, too.

Locks: ``BlockQueue`` has one for the queue and the idle senders, ``Upload`` has one for what was
hashed and acknowledged, ``Compression`` has one for what is known of the last blocks,
``StandardInput`` has one for what it keeps, and ``TokenBucket`` has one for its instant. Nothing
blocks under any of them, and none is taken under another.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # nothing that is made while Python imports is garbage: see the end
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main: Ctrl-C ends it without a traceback

import argparse
import contextlib
import enum
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Collection, Iterator, Sequence

import config
from config import ClientSettings
from lft.accounts.passwords import read_password
from lft.client.announcement import announcement, check_files, check_server, place_in_queue
from lft.client.bar import CHECKING, INPUT, READING, SENDING, VERIFYING, progress_shown
from lft.client.commandline import DEFAULT_FILE, files_of, parse, settings_of
from lft.client.connect import connect, log_in, tls_context
from lft.client.interrupt import CancelledError, Interrupt, ignore_signals, raise_on_signals
from lft.client.link import Access, Link
from lft.client.outcomes import Outcome, Outcomes, Report, Reporter
from lft.client.patience import Patience, Watch, way_on
from lft.client.progress import Progress
from lft.client.receipt import FailedIntegrityError, Receipt, Run
from lft.client.rejected import EarlierAttemptError, raise_rejected
from lft.client.source import Input
from lft.client.sources import open_source
from lft.client.standard_input import STANDARD_INPUT, interrupted, is_typed
from lft.client.streams import Streams
from lft.client.upload import Block, Upload, block_size_for, reader_of
from lft.clock import Deadline
from lft.files import keep_own_rights
from lft.options import format_size
from lft.terminal import BarSafeHandler, make_output_safe, printable, say, setup_logging
from lft.wire.connection import Connection, raise_error
from lft.wire.sockets import Waker
from protocol import (
    PRESERVE,
    Cancel,
    ConnectionLostError,
    FileReady,
    Goodbye,
    IntegrityError,
    IntegrityFailed,
    IntegrityOk,
    ManifestPart,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    RejectedError,
    RemoteProtocolError,
    SilenceError,
    SourceError,
    State,
    TransferComplete,
    TransferError,
    UsageError,
    Verifying,
)

if TYPE_CHECKING:
    from lft.wire.tls import TlsContext

coordinator_log = logging.getLogger("coordinator")
log = logging.getLogger("client")


for _log in (coordinator_log, log, logging.getLogger("block")):
    _log.addHandler(logging.NullHandler())  # a program that sets up no log hears nothing from us


def send_files(
    paths: Sequence[str | os.PathLike[str]],
    settings: ClientSettings = ClientSettings(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
    report: Report | None = None,
    cancel: threading.Event | None = None,
) -> list[Receipt]:
    """Send files through one session, in order, and return a receipt for each.

    A session that is lost is replaced, and the file under way goes on where it stopped. A file that
    cannot be read, is rejected, damaged or changed does not stop the others. An error that concerns
    them all (login, connection, ``cancel``) is the outcome of each file that is left. ``report`` is
    called for every file, in order, with its receipt or its error, as soon as its fate is known.

    Setting ``cancel``, from any thread, stops the transfer: within a second while a file is under
    way, after ``timeout`` at most while the server is asked for something. What the server has of
    the file stays there, and sending it again goes on with that.

    Raises the worst of the errors at the end (``WORST_FIRST`` in ``lft.client.outcomes``), all of
    them below ``protocol.TransferError``; ``TypeError`` for ``paths`` that are no paths.
    """
    progress = progress or Progress()
    outcomes = Outcomes(paths, report, progress.settle)
    check_files(outcomes.paths, settings)
    try:
        progress.plan(outcomes.paths, settings)
        outcomes.note_unreadable(settings)
        if outcomes.left:
            _send_all(outcomes, _with_password(settings), progress, Patience(settings, cancel))
    except Interrupt:
        progress.end()
        outcomes.end_with(CancelledError("interrupted"))
        raise
    except (TransferError, OSError) as error:  # OSError: out of descriptors, say
        progress.end()
        outcomes.end_with(error if isinstance(error, TransferError) else UsageError(str(error)))
    return outcomes.receipts()


def _with_password(settings: ClientSettings) -> ClientSettings:
    """Find the password, where it takes one, while no server waits for it."""
    if settings.token is not None or settings.password is not None:
        return settings
    password = read_password(settings.user, None, settings.server)
    return settings.replace(password=password)


def _send_all(
    outcomes: Outcomes, settings: ClientSettings, progress: Progress, patience: Patience
) -> None:
    """Send the files that are left, in as many sessions as it takes."""
    while outcomes.left:
        patience.check()
        try:
            with open_session(settings, progress, patience) as session:
                while outcomes.left:
                    outcomes.note(_outcome(session, outcomes.next))
                    patience.begin_file()
        except ConnectionLostError as error:
            patience.wait(error)
        except Interrupt as interrupt:
            interrupt.unfinished = patience.unfinished
            raise


def _outcome(session: ClientSession, path: Path) -> Outcome:
    """Send one file; an error that concerns only this file is an outcome like another."""
    try:
        return session.send(path)
    except (RejectedError, SourceError, IntegrityError) as error:
        return error


# --- the session --------------------------------------------------------------------------------


@contextlib.contextmanager
def open_session(
    settings: ClientSettings, progress: Progress, patience: Patience
) -> Iterator[ClientSession]:
    """Connect, log in, give the session, and end it. Raises below ``TransferError``."""
    progress.phase("connecting")
    tls, timeout = tls_context(settings), patience.left()
    connected = connect(settings, timeout, tls, order=patience.servers.order)
    with contextlib.closing(connected) as coordinator:
        patience.servers.note_connected(*coordinator.address)
        link = _log_in(coordinator, settings, timeout, tls)
        patience.note_session()
        session = ClientSession(coordinator, link, progress, patience)
        with contextlib.closing(session):
            session.start()
            yield session


def _log_in(
    coordinator: Connection, settings: ClientSettings, timeout: float, tls: TlsContext | None
) -> Link:
    """Log in, and return what the data connections of the session need."""
    hello, welcome = log_in(coordinator, settings, timeout)
    who = "by token" if settings.token else f"as {settings.user}"
    how = " over TLS" if coordinator.secure else ""
    coordinator_log.info("logged in at %s%s %s (priority %d)",
                         coordinator.peer, how, who, welcome.priority)  # fmt: skip
    compression = None
    if settings.compress:
        from lft.client.compression import agree_on_compression  # noqa: PLC0415  (few runs need it)

        compression = agree_on_compression(hello.features, settings.streams or config.STREAMS)
    access = Access(*coordinator.address, welcome.token, tls)
    if settings.preserve and PRESERVE not in hello.features:
        log.warning("the server is too old to keep permission bits and times")
    return Link(settings, access, coordinator.tcp.round_trip, compression, hello.features)


class Told(enum.IntEnum):
    """What TRANSFER_COMPLETE has told the server of a file."""

    NOTHING = 0
    READ = 1  # every block has been read and hashed: its digest is known
    DELIVERED = 2  # every block has been acknowledged, also those that were missing


class ClientSession:
    """A coordinator connection that is logged in, and the senders for all files. Main's own."""

    def __init__(
        self, coordinator: Connection, link: Link, progress: Progress, patience: Patience
    ) -> None:
        self._coordinator = coordinator
        self._settings = link.settings
        self._link = link
        self._streams = Streams(link)
        self._progress = progress
        self._patience = patience
        self._waker = Waker()
        self._sign_of_life = Deadline(config.SIGN_OF_LIFE)
        self._answer_due = Deadline(self._settings.timeout)
        self._listing: Iterator[ManifestPart] = iter(())  # what is still to be told of a directory

    def start(self) -> None:
        """Start the senders."""
        self._streams.start()

    def close(self) -> None:
        """Say goodbye, end the senders, release everything.

        Goodbye says that the last verdict was read: a session that broke off must not say it.
        """
        self._link.ending.set()
        self._streams.stop()
        with contextlib.suppress(TransferError):
            if self._coordinator.state is State.READY:
                self._coordinator.send(Goodbye())
        self._streams.close()
        self._waker.close()

    def send(self, path: Path) -> Receipt:
        """Send one file and return its receipt. Raises below ``TransferError``."""
        source = open_source(path, self._settings)
        self._patience.begin_attempt()
        try:
            receipt = self._send_source(source)
        except ConnectionLostError as error:
            if source.repeatable:
                raise  # the bar stays: the next session goes on with it
            self._progress.end()
            raise interrupted(source, error) from error
        except BaseException:
            self._progress.end()
            raise
        finally:
            source.close()
        self._progress.end()
        if receipt.verdict == "INTEGRITY_FAILED":
            raise FailedIntegrityError(f"{receipt.name}: the file did not arrive intact", receipt)
        return receipt

    def _send_source(self, source: Input) -> Receipt:
        """Announce and send a source, a directory again where some of it has changed meanwhile."""
        while True:
            self._progress.begin(source.name, source.size if source.sized else None)
            if source.entries is not None:
                self._progress.count_files(source.contents.files, source.files_in)
            try:
                return self._send_upload(self._announce(source))
            except SourceError as error:
                source.begin_again(error)

    def _announce(self, source: Input) -> Upload:
        """Announce a file and wait until the server is ready for it.

        An earlier attempt may have other blocks or a stronger digest: then it goes on with those.
        """
        if self._coordinator.state is not State.READY:
            raise ConnectionLostError("the session ended with the last file")
        check_server(source, self._link.features)
        self._progress.phase("waiting")
        known, digest = source.size if source.sized else 0, self._settings.digest
        size = block_size_for(known, self._settings, far=self._link.far)
        resume = self._settings.resume or self._patience.achieved  # at least what we sent ourselves
        try:
            return self._announce_as(source, size, digest, resume=resume)
        except EarlierAttemptError as earlier:
            if earlier.is_weaker(digest):
                return self._announce_by_stronger(source, earlier, digest)
            if earlier.digest != digest:
                coordinator_log.info("%s is proven by %s: an earlier attempt began so",
                                     source.name, earlier.digest)  # fmt: skip
            return self._announce_as(source, earlier.block_size, earlier.digest, resume=True)

    def _announce_by_stronger(
        self, source: Input, earlier: EarlierAttemptError, digest: str
    ) -> Upload:
        """Go on with the blocks of an earlier attempt; begin anew where the server is too old."""
        try:
            return self._announce_as(source, earlier.block_size, digest, resume=True)
        except EarlierAttemptError:
            coordinator_log.warning("%s begins anew: what the server has of it was to be proven "
                                    "by %s", source.name, earlier.digest)  # fmt: skip
            return self._announce_as(source, earlier.block_size, digest, resume=False)

    def _announce_as(self, source: Input, size: int, digest: str, *, resume: bool) -> Upload:
        settings, features = self._settings, self._link.features
        start = announcement(source, size, settings, features, digest=digest, resume=resume)
        can_go_on = source.name if source.sized else ""
        self._patience.note_begun(can_go_on)  # first: the server may be faster than we come to it
        self._coordinator.send(start)
        self._listing = source.listing()
        queued: Queued | None = None
        told = Deadline(0)
        while True:
            message = self._answer()
            if isinstance(message, FileReady):
                upload = Upload(source, digest, size, message, self._waker.ring)
                self._patience.note_begun(can_go_on)
                self._patience.note_there(upload.resumed_bytes)
                self._tell_resumed(upload)
                return upload
            self._patience.note_progress()
            if isinstance(message, Queued):
                first = message.position == 1  # or it begins
                self._patience.note_begun(can_go_on if first else "")
                if message != queued and told.passed:
                    queued, told = message, Deadline(config.QUEUED_EVERY)
                    coordinator_log.info("%s", place_in_queue(message))
            raise_rejected(source.name, message)

    def _answer(self) -> Message:
        """Wait for the server's next message. Raises ``ConnectionLostError`` if none comes."""
        self._answer_due.put_off()
        message = self._hear()
        while message is None:
            self._patience.check()
            if self._answer_due.passed:
                silent = f"did not answer for {self._settings.timeout:g} s"
                raise SilenceError(f"{self._coordinator.peer} {silent}")
            message = self._hear()
        return message

    @staticmethod
    def _tell_resumed(upload: Upload) -> None:
        if upload.resumed_bytes:
            had, size = format_size(upload.resumed_bytes), format_size(upload.source.size)
            coordinator_log.info("going on with %s: the server has %s of %s",
                                 upload.source.name, had, size)  # fmt: skip

    def _send_upload(self, upload: Upload) -> Receipt:
        """Have a file read, sent and judged; in any case no thread works for it afterwards."""
        together = upload.run_length if self._link.takes_runs else 1
        reader = reader_of(upload, self._link.queue, self._streams.most * together)
        try:
            reader.start()
            return self._supervise(upload)
        except SourceError:
            self._cancel()
            raise
        finally:
            upload.end()
            self._patience.note_sent(upload.carried, upload.wire_bytes)
            if reader.ident is not None:  # not interrupted before it began
                reader.join()
            self._link.queue.clear()

    def _supervise(self, upload: Upload) -> Receipt:
        """Answer the server while blocks flow; return the verdict's receipt."""
        self._streams.begin()
        told = Told.NOTHING
        watch = Watch(self._settings.timeout)
        while True:
            self._patience.check()
            self._streams.check()
            upload.check()
            told = self._tell_complete(upload, told)
            message = self._hear()
            if message or told is not Told.DELIVERED:
                watch.note_sign()
            if isinstance(message, Missing) and message.transfer == upload.number:
                self._send_again(upload, message)
                told = min(told, Told.READ)
            elif message:
                receipt = self._take_verdict(upload, message)
                if receipt:
                    return receipt
            self._streams.adapt(upload)
            verified = message.verified if isinstance(message, Verifying) else 0
            if verified:
                upload.note_verified(verified)
            self._show_life(upload, watch)
            if watch.note(upload.acknowledged, verified):
                self._patience.note_progress(watch.acknowledged, watch.verified)
            self._show(upload, watch, told)
            if watch.stalled:
                raise SilenceError(f"{self._coordinator.peer}: no progress for too long")

    def _show(self, upload: Upload, watch: Watch, told: Told) -> None:
        """Move the bar."""
        upload.spent.note_turn()
        phase = CHECKING if upload.checking else SENDING
        if upload.spent.read_hangs and (upload.source.sized or upload.source.waiting):
            phase = READING if upload.source.sized else INPUT
        self._progress.phase(VERIFYING if told is Told.DELIVERED else phase)
        sent = self._patience.sent_bytes + upload.carried
        self._progress.move(watch.acknowledged, sent, watch.verified)

    def _tell_complete(self, upload: Upload, told: Told) -> Told:
        """Say that all is read, or delivered, once: the sooner, the sooner there is a verdict."""
        delivered = upload.delivered
        state = Told.DELIVERED if delivered else Told.READ
        if state <= told or not upload.all_hashed:
            return told
        digest = upload.digests.hexdigest()
        if not upload.source.prove_unchanged(upload.digests.algorithm, digest):
            self._waker.ring()  # go on with that, after a look at what the server says
            return told
        complete = TransferComplete(upload.number, digest, delivered)
        sized = upload.source.sized
        self._coordinator.send(complete if sized else complete.replace(size=upload.source.size))
        return state

    def _show_life(self, upload: Upload, watch: Watch) -> None:
        """While the source has nothing for us, tell the server that we live; it is our turn."""
        if upload.source.waiting:
            watch.note_waiting()
            if self._sign_of_life.passed and not self._coordinator.unsent:
                self._sign_of_life.put_off()
                self._coordinator.send(Pong())

    def _hear(self) -> Message | None:
        """Wait a moment for the server or a thread of ours; return the message that came, if any.

        A PING is answered.
        """
        coordinator = self._coordinator
        message = coordinator.receive()
        if message is None:
            write = not self._say_on()
            coordinator.wait(config.BAR_INTERVAL, write=write, waker=self._waker)
            self._waker.quiet()
            message = coordinator.receive()
        if message:
            raise_error(message)
        if isinstance(message, Ping) and not coordinator.unsent:  # one unsent answer is enough
            coordinator.send(Pong())
        return message

    def _say_on(self) -> bool:
        """Send what is unsent, and more of a directory's entries; return whether that was all."""
        coordinator = self._coordinator
        if not coordinator.flush() or coordinator.state is not State.LISTING:
            return not coordinator.unsent
        coordinator.send(next(self._listing))
        self._answer_due.put_off()
        return False

    def _send_again(self, upload: Upload, message: Missing) -> None:
        for first, end in message.blocks:
            if end > upload.known:
                raise RemoteProtocolError("the server asks for a block that the file does not have")
            upload.repairs.tell(first, end, message.reason)
            again = [index for index in range(first, end) if upload.ask_again(index)]
            self._link.queue.put(Block(upload, index) for index in again)

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
        upload.repairs.tell_success()
        if message.kept is False:
            log.warning("%s: the server's file system does not keep permission bits and time",
                        upload.source.name)  # fmt: skip
        if upload.source.grew:
            log.warning("%s grew while it was sent: its first %s arrived",
                        upload.source.name, format_size(upload.source.size))  # fmt: skip
        return self._receipt(upload, message)

    def _receipt(self, upload: Upload, verdict: IntegrityOk | None) -> Receipt:
        patience, size = self._patience, upload.source.size
        # what a lost session had sent but not heard of is missing in the one, and not in the other
        sent = max(patience.sent_bytes + upload.carried, size - (patience.there or 0))
        run = Run(patience.seconds, min(sent, size), patience.wire_bytes + upload.wire_bytes)
        return Receipt.of(upload, verdict, self._link, self._streams.waits(), run)

    def _cancel(self) -> None:
        """Give the file up and wait until the server did: then the session can send the next."""
        with contextlib.suppress(ConnectionLostError):  # the next file will notice
            deadline = Deadline(self._settings.timeout)
            self._coordinator.send(Cancel())
            while self._coordinator.state is State.CANCELLING:
                self._coordinator.answer(deadline.left())


# --- the command line ---------------------------------------------------------------------------


def _with_proof(settings: ClientSettings, arguments: argparse.Namespace) -> ClientSettings:
    """Add the token or the password. Raises below ``TransferError`` where there is none."""
    if arguments.token_file:
        from lft.accounts.tokens import read_token  # noqa: PLC0415  (few runs need it)

        return settings.replace(token=read_token(arguments.token_file))
    password = read_password(arguments.user, arguments.password_file, arguments.server)
    return settings.replace(password=password)


def _send(arguments: argparse.Namespace, progress: Progress, reporter: Reporter) -> None:
    files = files_of(arguments)
    try:
        settings = _with_proof(settings_of(arguments), arguments)
    except (TransferError, Interrupt) as error:  # Ctrl-C at the prompt
        told = error if isinstance(error, TransferError) else CancelledError("interrupted")
        for path in files:
            reporter.report(path, told)
        raise
    send_files(files, settings, progress, reporter.report)


def _demo(
    arguments: argparse.Namespace, progress: Progress, reporter: Reporter, handler: BarSafeHandler
) -> None:
    from lft.client.demo import run_demo, warn_of  # noqa: PLC0415  (no other run needs it)

    path, *more = arguments.files or [DEFAULT_FILE]
    if more or path == STANDARD_INPUT or path.is_dir() or arguments.dry_run:
        raise UsageError("--demo takes one FILE, no directory, no standard input and no --dry-run")

    warn_of(reporter.given)

    def send(settings: ClientSettings) -> Receipt:
        (receipt,) = send_files([path], settings, progress, reporter.report)
        return receipt

    run_demo(path, settings_of(arguments), arguments.log_level, send, reporter.say, handler.show)


def _dry_run(arguments: argparse.Namespace) -> None:
    from lft.client.dry_run import DryRun  # noqa: PLC0415  (no other run needs it)

    as_json, brief = arguments.json, arguments.quiet
    DryRun(settings_of(arguments), say, as_json=as_json, brief=brief).run(files_of(arguments))


def _way_on(arguments: argparse.Namespace, unfinished: str) -> str:
    """Say how a file can go on that was not finished; the server of a demo is gone."""
    if arguments.demo:
        return ""
    return way_on(unfinished, settings_of(arguments), len(arguments.files))


def _run(arguments: argparse.Namespace, handler: BarSafeHandler, given: Collection[str]) -> int:
    """Do what the command line says; say in one line what went wrong, and return the exit code."""
    progress = progress_shown(handler, quiet=arguments.quiet or is_typed(arguments.files))
    reporter = Reporter(settings_of(arguments), as_json=arguments.json, given=given)
    try:
        try:
            if arguments.demo:
                _demo(arguments, progress, reporter, handler)
            elif arguments.dry_run:
                _dry_run(arguments)
            else:
                _send(arguments, progress, reporter)
        finally:
            progress.end()
            reporter.sum_up()
    except TransferError as error:
        if error not in reporter.told:
            unfinished = getattr(error, "unfinished", "")
            log.error("%s%s", error, _way_on(arguments, unfinished))
        return error.exit_code
    except OSError as error:  # of the demo's own files, say
        where = f"{error.filename}: " if error.filename else ""
        log.error("%s%s", where, error.strerror or error)
        return UsageError.exit_code
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run ``python client.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    arguments = parse(argv)
    handler = setup_logging(arguments.log_level)
    try:
        raise_on_signals()
        given = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
        code = _run(arguments, handler, given)
        ignore_signals()
    except Interrupt as interrupt:
        log.error("interrupted%s", _way_on(arguments, interrupt.unfinished))
        return Interrupt.exit_code
    return code


if __name__ == "__main__":
    gc.freeze()  # neither now nor at the end does Python look through what it imported: 25 ms
    gc.enable()
    sys.exit(main())
