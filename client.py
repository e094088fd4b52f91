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
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Collection, Iterator, Sequence

import config
from config import ClientSettings
from lft.accounts.passwords import read_password
from lft.client.announcement import check_files
from lft.client.bar import progress_shown
from lft.client.commandline import DEFAULT_FILE, files_of, parse, settings_of
from lft.client.connect import connect, log_in, tls_context
from lft.client.delivery import Delivery, Desk
from lft.client.interrupt import CancelledError, Interrupt, ignore_signals, raise_on_signals
from lft.client.link import Access, Link
from lft.client.outcomes import Outcome, Outcomes, Report, Reporter
from lft.client.patience import Patience, way_on
from lft.client.progress import Progress
from lft.client.receipt import Receipt
from lft.client.standard_input import STANDARD_INPUT, is_typed
from lft.clock import Deadline
from lft.files import keep_own_rights
from lft.terminal import BarSafeHandler, make_output_safe, say, setup_logging
from lft.wire.connection import Connection, raise_error
from protocol import (
    AHEAD,
    MAX_AHEAD,
    PRESERVE,
    SKIP,
    ConnectionLostError,
    Goodbye,
    IntegrityError,
    Message,
    Ping,
    Pong,
    RejectedError,
    SourceError,
    TransferError,
    UsageError,
    numbered,
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
                session.send_all(outcomes)
        except ConnectionLostError as error:
            patience.wait(error)
        except Interrupt as interrupt:
            interrupt.unfinished = patience.unfinished
            raise


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
    if settings.if_exists == "skip" and SKIP not in hello.features:
        log.warning("the server is too old for --if-exists skip: all is sent")
    if settings.preserve and PRESERVE not in hello.features:
        log.warning("the server is too old to keep permission bits and times")
    return Link(settings, access, coordinator.tcp.round_trip, compression, hello.features)


class ClientSession:
    """A coordinator connection that is logged in, its senders, and the files under way. Main's own.

    Where the server knows no numbers of files, one is under way at a time.
    """

    def __init__(
        self, coordinator: Connection, link: Link, progress: Progress, patience: Patience
    ) -> None:
        self._coordinator = coordinator
        self._desk = Desk(coordinator, link, progress, patience)
        self._link = link
        self._most = MAX_AHEAD if AHEAD in link.features else 1
        self._window = self._desk.window
        self._look_at = Deadline(config.BAR_INTERVAL)  # all of them
        self._carried = 0  # bytes of those that are over
        self._unreadable: list[tuple[int, Path]] = []  # tried again once those before are over

    def start(self) -> None:
        """Start the senders."""
        self._desk.streams.start()

    def close(self) -> None:
        """Say goodbye, end the senders, release everything.

        Goodbye says that the last verdict was read: a session that broke off must not say it.
        """
        self._link.ending.set()
        self._desk.streams.stop()
        with contextlib.suppress(TransferError):
            if self._coordinator.dialogue.idle:
                self._desk.confirm()
                self._coordinator.send(Goodbye())
        for delivery in self._window.values():
            delivery.close()
        self._desk.streams.close()
        self._desk.waker.close()

    def send_all(self, outcomes: Outcomes) -> None:
        """Send the files whose fate is not known, and note what becomes of each.

        Raises below ``TransferError`` what ends the session.
        """
        try:
            files = outcomes.unknown
            while outcomes.left:
                self._begin_some(files, outcomes)
                self._go_on(outcomes)
        except ConnectionLostError as error:
            self._lose(outcomes, error)
            raise

    def _begin_some(self, files: Iterator[tuple[int, Path]], outcomes: Outcomes) -> None:
        """Announce as many of the next files as there is room for."""
        while self._has_room():
            index, path = self._unreadable.pop() if self._unreadable else next(files, (-1, Path()))
            if index < 0:
                return
            self._begin(Delivery(index, path, self._desk), outcomes)

    def _has_room(self) -> bool:
        """Whether another file may be announced; a large one is sent by itself."""
        window = self._window.values()
        if not window:
            return True
        if self._unreadable or len(window) >= self._most or any(one.queued for one in window):
            return False
        return sum(one.unread for one in window) <= config.ANNOUNCE_BELOW

    def _begin(self, delivery: Delivery, outcomes: Outcomes) -> None:
        """Announce a file; one that cannot be read is left until its turn comes."""
        if not self._window:
            self._desk.streams.begin(self._carried)
        elif not delivery.readable:
            self._unreadable.append((delivery.index, delivery.path))
            return
        self._window[delivery.index] = delivery
        self._step(delivery, outcomes)
        self._present()

    def _go_on(self, outcomes: Outcomes) -> None:
        """Hear the server and our threads, and have the files go on of which there is news."""
        if not self._window:
            return
        self._desk.patience.check()
        self._desk.patience.check_server(self._link.silent_at)
        self._desk.streams.check()
        message = self._hear()
        if message:
            number = getattr(message, "file", None)
            for one in [one for one in self._window.values() if one.file == number]:
                self._step(one, outcomes, message)
        if not self._coordinator.unsent:
            self._desk.stirred.extend(one for one in self._window.values() if one.listing)
        while self._desk.stirred:
            one = self._desk.stirred.popleft()
            if self._window.get(one.index) is one:
                self._step(one, outcomes)
        if self._look_at.passed:
            self._look_at.put_off()
            for one in list(self._window.values()):
                self._step(one, outcomes)
            self._adapt()

    def _step(self, delivery: Delivery, outcomes: Outcomes, message: Message | None = None) -> None:
        """Have a file go on; an error that concerns only this file is an outcome like another."""
        try:
            outcome: Outcome | None = delivery.take(message)
        except (RejectedError, SourceError, IntegrityError) as error:
            outcome = error
        if outcome:
            self._end(delivery, outcomes, outcome)

    def _end(self, delivery: Delivery, outcomes: Outcomes, outcome: Outcome) -> None:
        """Note what became of a file."""
        shown = delivery is next(iter(self._window.values()))
        del self._window[delivery.index]
        self._carried += delivery.carried
        self._desk.patience.end_file(delivery.index)
        if shown:
            self._desk.progress.end()
        outcomes.note(outcome, delivery.index)
        self._present()

    def _present(self) -> None:
        """Show the first of the files under way in the bar."""
        for first in self._window.values():
            first.present()
            return

    def _lose(self, outcomes: Outcomes, error: ConnectionLostError) -> None:
        """End the files under way with the session; some cannot go on in another one."""
        for delivery in list(self._window.values()):
            try:
                delivery.lose(error)
            except ConnectionLostError:
                continue
            except (SourceError, RejectedError, IntegrityError) as outcome:
                self._end(delivery, outcomes, outcome)

    def _adapt(self) -> None:
        """Use as many streams as pay; at the end, help blocks that lag."""
        window = self._window.values()
        self._desk.streams.adapt(self._carried + sum(one.carried for one in window))
        uploads = [one.upload for one in window if one.upload]
        if all(upload.all_hashed for upload in uploads):
            self._desk.streams.help(uploads)

    def _hear(self) -> Message | None:
        """Wait a moment for the server or a thread of ours; return the message that came, if any.

        A PING is answered.
        """
        coordinator = self._coordinator
        message = coordinator.receive()
        if message is None:
            self._desk.confirm()
            write = not coordinator.flush()
            coordinator.wait(config.BAR_INTERVAL, write=write, waker=self._desk.waker)
            self._desk.waker.quiet()
            message = coordinator.receive()
        if message:
            raise_error(message)
        if isinstance(message, Ping) and not coordinator.unsent:  # one unsent answer is enough
            coordinator.send(numbered(Pong(), message.file))
        return message


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
