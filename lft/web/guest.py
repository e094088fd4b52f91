"""A connection on which HTTP is spoken: one request after the other, in short units of work."""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import config
from lft.server.guests import Guest, Next
from lft.server.log_limit import speaking_for
from lft.web.head import Head, parse_head
from lft.web.outgoing import Outgoing
from lft.web.problem import HttpError
from lft.web.request import Caller, Door, Intake, Later
from lft.web.response import Response, problem_response
from lft.wire.channel import Channel
from lft.wire.proxy_protocol import Origin
from protocol import ConnectionLostError, RemoteProtocolError

if TYPE_CHECKING:
    from lft.web.site import Admitted, Site

log = logging.getLogger("http")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpGuest(Guest):
    """One connection, and the request that is read or answered on it.

    Its methods run on its owner: a worker, or main while none serves it.
    """

    def __init__(self, connection: Channel, site: Site) -> None:
        super().__init__(connection, site.settings.login_timeout)
        self._site = site
        self.door = self._find_door()
        self._out = Outgoing(connection)
        self._data = bytearray()  # received, and not understood yet
        self._searched = 0  # of it, for the end of a head
        self._head: Head | None = None  # of the request that is served
        self._admitted: Admitted | None = None
        self._left = 0  # bytes of its body that are still to come
        self._counted = 0  # of them, since the deadline was put off
        self._intake: Intake | None = None
        self._rests = False  # for a while, in this unit
        self._waited = False  # the request has had to wait for its login
        self._closing = False  # nothing is read behind this request
        self._done = False
        self._caller: Caller | None = None  # of the last request that had one

    def introduce(self, origin: Origin) -> None:
        super().introduce(origin)
        self.door = self._find_door()

    def _find_door(self) -> Door:
        """Say from where its requests come; the demo accounts are for this machine alone."""
        secure, demo = self.connection.secure, self._site.settings.credentials is None
        private = self.is_local or (secure and not demo)
        return Door(self.address, self.port, secure, private)

    @property
    def user(self) -> str | None:
        return self._caller.user if self._caller else None

    @property
    def priority(self) -> int:
        return self._caller.credential.priority if self._caller else 0

    @property
    def done(self) -> bool:
        return self._done

    @property
    def busy(self) -> bool:
        """Whether a request is being served that ends by itself."""
        return self._head is not None or self._out.wants_room

    @property
    def has_news(self) -> bool:
        stream = self._out.stream
        return stream is not None and not self._out.wants_room and stream.has_news

    @property
    def due_at(self) -> float:
        stream = self._out.stream
        return stream.next_at if stream and not self._out.wants_room else float("inf")

    @property
    def events(self) -> int:
        if self._out.wants_room and not self._done:
            return selectors.EVENT_WRITE  # what it sends meanwhile stays with the system
        return super().events

    # -- units of work

    def serve(self) -> Next:
        try:
            return self._serve()
        except ConnectionLostError as error:
            log.debug("%s", error)
        except RemoteProtocolError as error:  # of TLS
            log.warning("%s: %s", self.name, error)
            self._end()
            return Next.WAIT
        except OSError as error:  # of the disk, in the midst of a body: only the end tells
            log.warning("%s: %s", self.name, error.strerror)
        except Exception:
            log.exception("%s: internal error", self.name)
        return Next.LOST

    def _serve(self) -> Next:
        """Do a few steps; after a pause there is more to do, even if nothing comes meanwhile.

        A pause may be over before main hears of it: main would otherwise wait for the client.
        """
        self._rests = False
        for _ in range(config.REQUESTS_PER_UNIT):
            if self._out.busy:
                goes_on = self._send()
            elif self._closing:
                self._end()
                return Next.WAIT
            else:
                goes_on = self._read_on()
            if not goes_on or self.paused_until > time.monotonic():
                return Next.AGAIN if self._rests else Next.WAIT
            if self._site.work.pressed:
                break
        return Next.AGAIN

    def pause(self, seconds: float) -> bool:
        self._rests = super().pause(seconds)
        return self._rests

    def _send(self) -> bool:
        """Send on; return whether that brought it further."""
        if self._out.stream and not self._out.wants_room:
            self._hear_end()
        moves_file = self._out.sends_file
        sent = self._out.go_on(self._site.portion(self._caller))
        self._counted += sent
        if self._counted >= config.RECEIVE_SIZE or not self._out.busy:
            self._counted = 0
            self._put_off()
        # events and tables are too little to hold a transfer up for them
        pause = self._site.charge(self._caller, sent) if moves_file else 0.0
        self.deadline += pause
        self.pause(pause)
        return sent > 0 or not self._out.busy

    def _hear_end(self) -> None:
        """Notice that the client has gone; what it says while it hears a stream is dropped."""
        if self.connection.read(config.MAX_HEAD):
            self._closing = True

    def _put_off(self) -> None:
        """Give the client the time for its next step."""
        if self._out.wants_room or self._left:
            seconds = self._site.settings.block_timeout
        elif self._out.stream:
            seconds = float("inf")
        else:
            seconds = config.HTTP_IDLE
        self.deadline = time.monotonic() + seconds

    def _read_on(self) -> bool:
        """Read, and answer if a request is complete; return whether to go on."""
        try:
            if self._head is None and not self._read_head():
                return False
            response = self._answer()
        except Later as later:
            self._waited = later.counted
            self.deadline = time.monotonic() + later.seconds + self._site.settings.login_timeout
            return self.pause(later.seconds)
        except HttpError as error:
            response = problem_response(error)
        except ConnectionLostError:
            raise
        except Exception:
            log.exception("%s: internal error", self.name)
            reason = "internal error of the server"
            response = problem_response(HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, reason))
        if response is None:
            return False
        self._begin(response)
        return True

    # -- in

    def _read_head(self) -> bool:
        """Read the head of the next request; return whether it is here."""
        parsed = parse_head(self._data) if self._data else None
        while parsed is None:
            data = self._receive()
            if not data:
                return False
            if not self._data:  # from its first byte on it has a deadline that nothing puts off
                self.deadline = time.monotonic() + self._site.settings.login_timeout
            self._searched = len(self._data)
            self._data += data
            parsed = parse_head(self._data, self._searched)
        self._head, size = parsed
        del self._data[:size]
        self._left, self._counted, self._waited = self._head.length, 0, False
        return True

    def _receive(self) -> bytes:
        """Return what has come; wait for it only while no other needs the worker."""
        data = self.connection.read(config.MAX_HEAD)
        if not data and self._site.work.linger(self.connection, config.LINGER):
            data = self.connection.read(config.MAX_HEAD)
        return data

    def _answer(self) -> Response | None:
        """Do what the request wants; ``None`` while it is not complete.

        Raises ``HttpError``, and ``Later`` where it has to wait.
        """
        if self._intake:
            return self._take_body(self._intake)
        if self._admitted is None:
            assert self._head is not None  # it has been read
            self._admitted = self._site.admit(self._head, self.door, waited=self._waited)
            self._caller = self._admitted.caller or self._caller
        admitted = self._admitted
        body = self._read_little() if admitted.takes_little else b""
        if body is None:
            return None
        answer = admitted.handle(self.door, body, waited=self._waited)
        if isinstance(answer, Response):
            return answer
        self._intake = answer
        self._begin_body()
        return self._take_body(answer)

    def _read_little(self) -> bytes | None:
        """Return a small body; ``None`` while it is not complete."""
        if len(self._data) < self._left:
            self._begin_body()
        while len(self._data) < self._left:
            data = self._receive()
            if not data:
                return None
            self._data += data
        return bytes(self._data[: self._left])

    def _begin_body(self) -> None:
        """Have a client send the body that waits for our word (RFC 9110, 10.1.1), once."""
        head = self._head
        if head and head.expects_continue and len(self._data) < self._left:
            self._head = head._replace(expects_continue=False)
            self.connection.push(_CONTINUE)
        if self._intake:
            self._put_off()

    def _take_body(self, intake: Intake) -> Response | None:
        """Hand on what has come of a body; return the answer once that was all."""
        while self._left:
            size = self._fill(intake.room())
            if not size:
                return None
            self._left -= size
            self._counted += size
            seconds = intake.filled(size)
            if self._counted >= config.RECEIVE_SIZE or seconds:
                self._put_off()
                self._counted = 0
                self.deadline += seconds
            if self.pause(seconds):
                return None
        return intake.finish()

    def _fill(self, room: memoryview) -> int:
        """Fill ``room`` with bytes of the body; return how many there are now."""
        room = room[: self._left]
        if self._data:
            size = min(len(room), len(self._data))
            room[:size] = self._data[:size]
            del self._data[:size]
            return size
        size = self.connection.receive_into(room)
        if not size and self._site.work.linger(self.connection, config.LINGER):
            size = self.connection.receive_into(room)
        return size

    # -- out

    def _begin(self, response: Response) -> None:
        """Begin to send the answer to the request that is served now, which ends with it."""
        head, self._head = self._head, None
        self._admitted = None
        self._drop_intake()
        known = min(self._left, len(self._data))
        del self._data[:known]
        whole = self._left == known
        self._left = 0
        keeps = head is not None and head.keep_alive and whole
        self._closing = not keeps or self._site.stopping
        bodiless = head is not None and head.method == "HEAD"
        wishes = head.fields.get("connection", "") if head else ""
        connection = "close" if self._closing else "keep-alive" if wishes else ""
        self._out.begin(response, connection, bodiless=bodiless)
        self._put_off()
        self._site.note(self.name, head, response.status)

    # -- the end

    def _end(self) -> None:
        self.release()
        self._done = True

    def _drop_intake(self) -> None:
        intake, self._intake = self._intake, None
        if intake:
            intake.abandon()

    def release(self) -> None:
        """Let go of what belongs to the request that is served."""
        self._drop_intake()
        self._out.release()

    def refuse(self, code: str, reason: str) -> None:
        """Say our last words to a client that waits for an answer; others just see the end."""
        words = self._head is not None or self._data
        if words and not self._out.busy:
            status = _REFUSED.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
            self._left = 1  # whatever it was: the connection ends
            with speaking_for(self.network), contextlib.suppress(ConnectionLostError):
                self._begin(problem_response(HttpError(status, reason)))
        self._end()


_REFUSED = {
    "timeout": HTTPStatus.REQUEST_TIMEOUT,
    "shutdown": HTTPStatus.SERVICE_UNAVAILABLE,
}
