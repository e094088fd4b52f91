"""The client: reads a file once, hashes it once, pushes it through several connections at once.

What lives here: the command line, the coordinator's side of the dialogue, the reader, the senders,
the progress bar. What does not: verdicts (the server judges) and the encoding of anything.

Who does what
-------------
The main thread talks on the coordinator connection and moves the bar. One reader thread reads the
file in order, hashes it and puts blocks into a queue; the pool's senders, each with one long-lived
data connection, take blocks from it. The number of buffers between them is fixed, so memory is too.

With ``--streams auto`` main also changes the number of senders at work, by the bytes that are
acknowledged; and it sends the last blocks of a stream that lags another way, too.

Locks: ``BlockQueue`` has one for the queue and the idle senders, ``Upload`` has one for what is not
acknowledged yet, ``Compression`` has one for what is known of the last blocks. None is held while
anything else is done.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # while Python still imports, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Sequence

import config
from config import ClientSettings
from lft.accounts.account import DEMO_ACCOUNTS
from lft.accounts.passwords import PASSWORD_VARIABLE, read_password
from lft.accounts.tokens import read_token
from lft.addresses import resolve
from lft.client.compression import Compression
from lft.client.connect import Patience, connect, prove_password, show_token
from lft.client.demo import _demo_server, _make_sample, _md5_of
from lft.client.progress import Bar, Progress, Reporter
from lft.client.receipt import FailedIntegrityError, Receipt, Report, advice, what_happened
from lft.client.source import Source
from lft.client.streams import Streams
from lft.client.upload import Block, BlockQueue, Reader, Upload
from lft.clock import Deadline, TokenBucket
from lft.files import keep_own_rights
from lft.options import (
    add_log_level,
    argument,
    format_size,
    or_auto,
    parse_size,
    port_argument,
    rate_argument,
    seconds_argument,
)
from lft.terminal import SUCCESS, BarSafeHandler, make_output_safe, printable, setup_logging
from lft.wire.codecs import FEATURES, common_codec
from lft.wire.connection import Connection, raise_error
from lft.wire.sockets import Waker
from protocol import (
    CODEC_RAW,
    DIGEST_SIZES,
    VERSION,
    Cancel,
    ConnectionLostError,
    FileReady,
    FileStart,
    Goodbye,
    Hello,
    IntegrityError,
    IntegrityFailed,
    IntegrityOk,
    Message,
    Missing,
    Ping,
    Pong,
    Queued,
    Rejected,
    RejectedError,
    RemoteProtocolError,
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

DEFAULT_FILE = Path("input") / "big_file.txt"
# rejections after which one should come again
PASSING = ("shutdown", "timeout", "taken", "stale", "busy")
GO_ON = "; the same command goes on where this one stopped"


def send_files(
    paths: Sequence[str | os.PathLike[str]],
    settings: ClientSettings = ClientSettings(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
    report: Report | None = None,
) -> list[Receipt]:
    """Send files through one session, in order, and return a receipt for each.

    A session that is lost is replaced, and the file under way goes on where it stopped. A file that
    is rejected, damaged or changed does not stop the others; the first such error is raised at the
    end. ``report`` is called for each file as soon as its fate is known. Raises only exceptions
    below ``protocol.TransferError``.
    """
    files = deque(Path(path) for path in paths)
    for path in files:
        Source(path).close()  # say what cannot be read before anything is sent
    if files and settings.token is None and settings.password is None:
        # asked for while no server waits for it
        password = read_password(settings.user, None, settings.server)
        settings = dataclasses.replace(settings, password=password)
    outcomes: list[Receipt | TransferError] = []
    patience = Patience(settings)
    while files:
        try:
            with Session(settings, progress or Progress(), patience) as session:
                while files:
                    outcome = _outcome(session, files[0])
                    outcomes.append(outcome)
                    if report:
                        report(files[0], outcome)
                    files.popleft()
                    patience.next_file()
        except ConnectionLostError as error:
            patience.wait(error)
    for outcome in outcomes:
        if isinstance(outcome, TransferError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


def _outcome(session: Session, path: Path) -> Receipt | TransferError:
    """Send one file; an error that concerns only this file is an outcome like another."""
    try:
        return session.send(path)
    except (RejectedError, SourceError, IntegrityError) as error:
        return error


def _tls_context(settings: ClientSettings) -> TlsContext:
    from lft.wire.tls import client_tls  # noqa: PLC0415  (it loads ssl)

    return client_tls(settings.ca)


# --- the session --------------------------------------------------------------------------------


class Session:
    """Logged in on a coordinator connection, with senders that stay for every file. Main's own.

    Use it as a context manager: leaving it says goodbye and ends the threads.
    """

    def __init__(self, settings: ClientSettings, progress: Progress, patience: Patience) -> None:
        self.settings = settings
        self.progress = progress
        self._lost_at = 0.0  # when a lost data connection was last told of
        self._patience = patience
        self.queue = BlockQueue()
        self.streams = Streams(self)
        self.round_trip = 0.0  # seconds
        self.congestion = ""  # what a data connection said of it last
        self.ending = threading.Event()
        self.token = ""
        self.address: tuple[int, Any] = (0, None)  # family and address of the server
        self.bucket = TokenBucket(settings.limit) if settings.limit else None
        self.compression: Compression | None = None
        self.tls = _tls_context(settings) if settings.tls or settings.ca else None
        self._coordinator: Connection | None = None
        self._waker = Waker()

    def __enter__(self) -> Session:
        """Connect, log in, start the senders. Raises below ``TransferError``."""
        try:
            self._log_in()
            self.streams.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye, end the senders, release everything.

        Goodbye says that the last verdict was read: a session that broke off must not say it.
        """
        self.ending.set()
        self.streams.stop()
        if self._coordinator:
            with contextlib.suppress(TransferError):
                if self._coordinator.state is State.READY:
                    self._coordinator.send(Goodbye())
            self._coordinator.close()
        self.streams.close()
        self._waker.close()

    def _log_in(self) -> None:
        settings = self.settings
        self.progress.phase("connecting")
        timeout = self._patience.left()
        coordinator = self._coordinator = connect(settings, timeout, self.tls)
        coordinator.secure_channel(timeout)
        coordinator.send(Hello(VERSION, FEATURES))
        log_in = prove_password if settings.token is None else show_token
        hello, welcome = log_in(coordinator, settings)
        self.token, self.address = welcome.token, coordinator.address
        self.round_trip = coordinator.tcp.round_trip
        self._patience.stood()
        who = "by token" if settings.token else f"as {settings.user}"
        how = " over TLS" if coordinator.secure else ""
        coordinator_log.info("logged in at %s%s %s (priority %d)",
                             coordinator.peer, how, who, welcome.priority)  # fmt: skip
        if settings.compress:
            self.compression = self._choose_compression(hello)

    def _choose_compression(self, hello: Hello) -> Compression | None:
        codec = common_codec(hello.features)
        if codec == CODEC_RAW:
            log.warning("the server takes nothing compressed: blocks go as they are")
            return None
        return Compression(codec, self.settings.streams or config.STREAMS)

    @property
    def _control(self) -> Connection:
        assert self._coordinator is not None  # __enter__ has made it
        return self._coordinator

    @property
    def far(self) -> bool:
        """Whether the server is far away (any)."""
        return self.round_trip >= config.FAR

    def block_size(self, size: int) -> int:
        """Return the bytes of a block for a file of ``size`` bytes.

        It depends on nothing that the link may do: an attempt to go on has to arrive at the same.
        """
        settings, most = self.settings, config.MAX_BLOCK_SIZE
        block_size = settings.block_size or config.BLOCK_SIZE
        if settings.block_size is None:
            while size > block_size * config.AUTO_BLOCKS and block_size < most:
                block_size = min(2 * block_size, most)
        if settings.limit:  # each stream should have something to do in every second
            share = settings.limit // (settings.streams or config.STREAMS)
            block_size = min(block_size, max(config.MIN_BLOCK_SIZE, share))
        return block_size

    def loss_level(self) -> int:
        """Return how loud to tell of a lost data connection: they are often lost together."""
        now, before = time.monotonic(), self._lost_at
        self._lost_at = now
        return logging.DEBUG if now - before < 1 else logging.WARNING

    def send(self, path: Path) -> Receipt:
        """Send one file and return its receipt. Raises below ``TransferError``."""
        source = Source(path)
        began = self._patience.began = self._patience.began or time.monotonic()
        try:
            self.progress.begin(source.name, source.size)
            upload = self._start(source)
            receipt = self._send_upload(upload)
            self.progress.move(source.size)
        except ConnectionLostError:
            raise  # the bar stays: the next session goes on with it
        except BaseException:
            self.progress.end()
            raise
        finally:
            source.close()
        self.progress.end()
        seconds = time.monotonic() - began
        return self._finished(dataclasses.replace(receipt, seconds=seconds))

    def _finished(self, receipt: Receipt) -> Receipt:
        if receipt.verdict == "INTEGRITY_FAILED":
            raise FailedIntegrityError(f"{receipt.name}: the file did not arrive intact", receipt)
        rate = receipt.bytes / max(receipt.seconds, 1e-9)
        why, length = "", receipt.bytes - receipt.resumed_bytes
        if self.settings.compress and length:
            why = f", compressed to {100 * receipt.wire_bytes / length:.0f} %"
        why += advice(receipt.bottleneck, self.settings)
        log.info("%s arrived: %s in %.2f s (%s/s)%s", receipt.name, format_size(receipt.bytes),
                 receipt.seconds, format_size(rate), why, extra=SUCCESS)  # fmt: skip
        return receipt

    def _start(self, source: Source) -> Upload:
        """Announce a file and wait until the server is ready for it."""
        settings = self.settings
        if self._control.state is not State.READY:
            raise ConnectionLostError("the server did not say that the last file is given up")
        self.progress.phase("waiting")
        size, algorithm = self.block_size(source.size), settings.digest
        resume = settings.resume or self._patience.achieved  # at least what we sent ourselves
        head = source.head(size, algorithm)
        self._control.send(FileStart(source.name, source.size, size, algorithm, head, resume))
        position = 0
        while True:
            message = self._control.answer(settings.timeout)
            if isinstance(message, FileReady):
                return self._ready(source, size, message)
            self._patience.moved()
            if isinstance(message, Queued) and message.position != position:
                position = message.position
                coordinator_log.info("waiting for our turn: position %d", position)
            self._refuse_rejected(source.name, message)

    def _ready(self, source: Source, block_size: int, ready: FileReady) -> Upload:
        upload = Upload(source, self.settings.digest, block_size, ready, self._waker.ring)
        if upload.resumed_bytes:
            had, size = format_size(upload.resumed_bytes), format_size(source.size)
            coordinator_log.info("going on with %s: the server has %s of %s",
                                 source.name, had, size)  # fmt: skip
        return upload

    def _send_upload(self, upload: Upload) -> Receipt:
        """Have an upload read, sent and judged; whatever happens, nobody works for it after."""
        self.progress.phase("sending")
        size = upload.blocks.block_size
        buffers = min(self.streams.most + config.READ_AHEAD, config.READ_AHEAD_BYTES // size)
        reader = Reader(upload, self.queue, buffers)
        try:
            reader.start()
            return self._supervise(upload)
        except SourceError:
            self._cancel()
            raise
        finally:
            upload.over = True
            upload.free.put(None)
            if reader.ident is not None:  # not interrupted before it began
                reader.join()
            self.queue.clear()

    def _supervise(self, upload: Upload) -> Receipt:
        """Answer the server while blocks flow; return the verdict's receipt."""
        self.streams.begin()
        complete = claimed = False  # what TRANSFER_COMPLETE has said; the latter since a MISSING
        silence = Deadline(config.PATIENCE * self.settings.timeout)  # senders reconnect meanwhile
        heard = Deadline(self.settings.timeout)  # of the server, once it is its turn
        moved = (0, 0)  # bytes acknowledged, bytes verified
        while True:
            self.streams.check()
            if not claimed and upload.delivered:
                complete = claimed = self._complete(upload, delivered=True)
            elif not complete and upload.read:
                complete = self._complete(upload, delivered=False)
            message = self._next_message()
            if isinstance(message, Missing) and message.transfer == upload.number:
                self._send_again(upload, message)
                claimed = False
            elif message:
                receipt = self._judged(upload, message)
                if receipt:
                    return receipt
            if message or not claimed:
                heard.put_off()
            self.streams.look(upload)
            verified = max(moved[1], message.verified if isinstance(message, Verifying) else 0)
            if (upload.acknowledged, verified) != moved:
                moved = upload.acknowledged, verified
                self.progress.move(moved[0])
                self._patience.moved(*moved)
                silence.put_off()
            if silence.passed or heard.passed:
                raise ConnectionLostError(f"{self._control.peer}: no progress for too long")

    def _next_message(self) -> Message | None:
        """Return the next message, or ``None`` after a moment or when a thread of ours rang."""
        message = self._control.receive()
        if message is None:
            self._control.wait(
                config.BAR_INTERVAL, write=not self._control.flush(), waker=self._waker
            )
            self._waker.quiet()
            message = self._control.receive()
        if message:
            raise_error(message)
        if isinstance(message, Ping) and not self._control.unsent:  # else one answer is on its way
            self._control.send(Pong())
        return message

    def _complete(self, upload: Upload, *, delivered: bool) -> bool:
        """Say that all is read, or delivered: the sooner, the sooner there is a verdict."""
        upload.source.check_unchanged()
        if delivered:
            self.progress.phase("verifying")
        self._control.send(TransferComplete(upload.number, upload.digest, delivered))
        return True

    def _send_again(self, upload: Upload, message: Missing) -> None:
        self.progress.phase("sending")
        for first, end in message.blocks:
            if end > upload.blocks.count:
                raise RemoteProtocolError("the server asks for a block that the file does not have")
            if upload.repairs < config.REPAIRS_TOLD:
                what = what_happened(upload.blocks, first, end, message.reason)
                upload.repaired.append(what)
                log.warning("%s: sent again", what)
            upload.repairs += 1
            for index in range(first, end):
                if upload.ask_again(index):
                    self.queue.put(Block(upload, index))

    @staticmethod
    def _tell_repairs(upload: Upload) -> None:
        """Say that what was repaired is right now."""
        for what in upload.repaired:
            log.info("%s: sent again, ok", what, extra=SUCCESS)
        more = upload.repairs - len(upload.repaired)
        if more > 0:
            log.info("and %d more, all ok", more, extra=SUCCESS)

    def _judged(self, upload: Upload, message: Message) -> Receipt | None:
        """Turn a verdict into a receipt; other messages only show that the server lives."""
        self._refuse_rejected(upload.source.name, message)
        if isinstance(message, IntegrityFailed):
            upload.source.check_unchanged()  # then that was the reason
            log.error("%s: %s", upload.source.name, printable(message.reason))
            return self._receipt(upload, None)
        if not isinstance(message, IntegrityOk):
            return None
        if (message.digest, message.size) != (upload.digest, upload.source.size):
            raise RemoteProtocolError("the server's verdict is about another file")
        self._tell_repairs(upload)
        return self._receipt(upload, message)

    def _receipt(self, upload: Upload, verdict: IntegrityOk | None) -> Receipt:
        waits = self.streams.waits()
        return Receipt(
            verdict="INTEGRITY_OK" if verdict else "INTEGRITY_FAILED",
            name=upload.source.name,
            saved_as=verdict.saved_as if verdict else "",
            bytes=upload.source.size,
            digest=upload.digest,
            algorithm=self.settings.digest,
            seconds=0.0,
            blocks=upload.blocks.count,
            resent_blocks=verdict.resent_blocks if verdict else 0,
            resumed_bytes=upload.resumed_bytes,
            streams=self.streams.count,
            durable=verdict.durable if verdict else False,
            congestion=self.congestion,
            bottleneck=upload.spent.bottleneck(verdict, waits) if verdict else "",
            wire_bytes=upload.wire_bytes,
        )

    def _refuse_rejected(self, name: str, message: Message) -> None:
        if isinstance(message, Rejected) and message.code in PASSING:
            raise ConnectionLostError(f"{name}: {printable(message.reason)}")
        if isinstance(message, Rejected):
            raise RejectedError(message.code, f"{name}: rejected: {printable(message.reason)}")

    def _cancel(self) -> None:
        """Give the file up and wait until the server has: the session is then free for the next."""
        with contextlib.suppress(ConnectionLostError):  # the next file will notice
            deadline = Deadline(self.settings.timeout)
            self._control.send(Cancel())
            while self._control.state is State.CANCELLING:
                self._control.answer(deadline.left())


def _demo(arguments: argparse.Namespace, progress: Progress, reporter: Reporter) -> None:
    """Do the whole main job once: server, sample, transfer, both MD5 sums, throughput."""
    path, *more = arguments.files or [DEFAULT_FILE]
    if more:
        raise UsageError("--demo takes one FILE")
    arguments.user = "user1"
    password, _priority = DEMO_ACCOUNTS[arguments.user]
    if not path.exists():
        _make_sample(path)
    with _demo_server(arguments.log_level) as port:
        settings = dataclasses.replace(_settings(arguments), server="localhost", port=port,
                                       password=password, tls=False, ca=None)  # fmt: skip
        (receipt,) = send_files([path], settings, progress, reporter.report)
    saved = Path("output") / receipt.saved_as
    sums = {name: _md5_of(name) for name in (path, saved)}
    for name, digest in sums.items():
        reporter.say(f"md5 {digest}  {printable(str(name))}")
    if len(set(sums.values())) > 1:
        raise IntegrityError("the two files differ")
    rate = format_size(receipt.bytes / receipt.seconds)
    reporter.say(f"the same: {format_size(receipt.bytes)} in {receipt.seconds:.2f} s ({rate}/s)")


# --- the command line ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    size, number = parse_size, argument
    low, high = config.MIN_BLOCK_SIZE, config.MAX_BLOCK_SIZE
    blocks = or_auto(number(size, low, high, "a block has 4K to 4M"))
    chunks = number(size, 1024, high, "a chunk has 1K to 4M")
    most = config.MAX_STREAMS
    streams = or_auto(number(int, 1, most, f"1 to {most} streams, or auto"))
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Send files and have it proven that they arrived."
    )
    add = parser.add_argument
    # fmt: off
    add("files", nargs="*", type=Path, metavar="FILE", help=f"what to send ({DEFAULT_FILE})")
    add("--server", default=config.DEFAULT_HOST, metavar="HOST",
        help="where server.py runs (localhost)")
    add("--port", type=port_argument(1), default=config.DEFAULT_PORT, help="its port (4455)")
    add("--user", default="user1", metavar="NAME", help="who we are (user1)")
    add("--password-file", type=Path, metavar="FILE",
        help=f"holds the password; else it comes from {PASSWORD_VARIABLE} or a prompt")
    add("--token-file", type=Path, metavar="FILE",
        help="holds a token made with auth.py token, instead of user and password")
    add("--tls", action="store_true", help="encrypt, and check the server's certificate")
    add("--ca", type=Path, metavar="FILE",
        help="trust these certificates instead of the system's; implies --tls")
    add("--streams", type=streams, default=config.STREAMS, metavar="N|auto",
        help="data connections, or as many as pay (4)")
    add("--block-size", type=blocks, default=config.BLOCK_SIZE, metavar="SIZE|auto",
        help="bytes that are sent, checked and repaired together (200K)")
    add("--congestion", default=config.CONGESTION, metavar="NAME",
        help="TCP congestion control on far links, where the system allows it (bbr)")
    add("--chunk-size", type=chunks, default=config.CHUNK_SIZE, metavar="SIZE",
        help="bytes of one send call (50K)")
    add("--digest", choices=list(DIGEST_SIZES), default="md5", help="what proves the file (md5)")
    add("--no-resume", dest="resume", action="store_false",
        help="begin anew, whatever an interrupted attempt has left")
    add("--compress", action="store_true",
        help="compress blocks where that pays: on links slower than this machine compresses")
    add("--limit", type=rate_argument(1024), metavar="RATE",
        help="bytes a second, all streams together, such as 500K or 10M (no limit)")
    add("--timeout", type=seconds_argument(2), default=config.TIMEOUT, metavar="SECONDS",
        help="longest time without progress, at least 2 (30)")
    add("--quiet", action="store_true", help="no bar, and only what goes wrong in the log")
    add("--json", action="store_true", help="one JSON object for each file on standard output")
    add("--demo", action="store_true", help="start a server, send a sample, compare, stop it")
    # fmt: on
    add_log_level(parser)
    return parser


def _settings(arguments: argparse.Namespace) -> ClientSettings:
    """Make the settings of a command line, but for what proves who we are."""
    given = vars(arguments)
    names = {item.name for item in dataclasses.fields(ClientSettings)} - {"password", "token"}
    return ClientSettings(**{name: given[name] for name in names})


def _with_proof(settings: ClientSettings, arguments: argparse.Namespace) -> ClientSettings:
    """Add the token or the password. Raises below ``TransferError`` where there is none."""
    if arguments.token_file:
        return dataclasses.replace(settings, token=read_token(arguments.token_file))
    try:
        password = read_password(arguments.user, arguments.password_file, arguments.server)
    except UsageError:
        resolve(arguments.server, arguments.port)  # that there is no such host is the better news
        raise
    return dataclasses.replace(settings, password=password)


class Interrupt(BaseException):  # no Exception: nothing on its way up may take it for an error
    """The user stopped the program."""

    exit_code = 130


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _handle_signals() -> None:
    """Turn SIGINT and SIGTERM into an exception in the main thread; the second one ends at once."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        for number in _SIGNALS:
            signal.signal(number, lambda *_: os._exit(Interrupt.exit_code))
        raise Interrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def _send(arguments: argparse.Namespace, progress: Progress, reporter: Reporter) -> None:
    files = arguments.files or [DEFAULT_FILE]
    if files == [DEFAULT_FILE] and not DEFAULT_FILE.exists():
        raise UsageError(f"there is no {DEFAULT_FILE}: name a FILE, or try --demo")
    settings = _with_proof(_settings(arguments), arguments)
    send_files(files, settings, progress, reporter.report)


def _run(arguments: argparse.Namespace, handler: BarSafeHandler) -> int:
    """Do what the command line says; say in one line what went wrong, and return the exit code."""
    progress = Bar(handler) if sys.stderr.isatty() and not arguments.quiet else Progress()
    reporter = Reporter(as_json=arguments.json)
    try:
        try:
            (_demo if arguments.demo else _send)(arguments, progress, reporter)
        finally:
            progress.end()
    except TransferError as error:
        if error not in reporter.told:
            log.error("%s%s", error, GO_ON if isinstance(error, ConnectionLostError) else "")
        return error.exit_code
    except OSError as error:  # out of descriptors, say
        log.error("%s", error)
        return UsageError.exit_code
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run ``python client.py``; return its exit code."""
    make_output_safe()
    keep_own_rights()
    arguments = _parser().parse_args(argv)
    if arguments.quiet:
        arguments.log_level = "WARNING"
    handler = setup_logging(arguments.log_level)
    try:
        _handle_signals()
        code = _run(arguments, handler)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the end is near enough
    except Interrupt:
        log.error("interrupted%s", GO_ON)
        return Interrupt.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
