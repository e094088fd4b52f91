"""TCP as the system runs it: what it measures of a connection, and what it lets us choose."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from pathlib import Path

import config
from lft.terminal import printable

# Linux's struct tcp_info (linux/tcp.h): where a field begins, and what it is made of
_MICROSECONDS, _TWO_OF_MICROSECONDS = struct.Struct("=I"), struct.Struct("=QQ")
_ROUND_TRIP = 68, _MICROSECONDS  # tcpi_rtt
_LEAST_ROUND_TRIP = 148, _MICROSECONDS  # tcpi_min_rtt
_BUSY_AND_NO_ROOM = 168, _TWO_OF_MICROSECONDS  # tcpi_busy_time, tcpi_rwnd_limited (Linux 4.9)


_SYSTEM = Path("/proc/sys/net/ipv4")  # Linux


def check_congestion(name: str) -> str:
    """Return ``name`` if the system lets us use that congestion control; "" is always right.

    Raises ``ValueError`` that says which ones there are.
    """
    if name in ("", config.CONGESTION):  # the usual one is used where it can be
        return name
    if sys.platform != "linux":
        raise ValueError("this system does not let programs choose the congestion control")
    with contextlib.closing(socket.socket()) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except (OSError, ValueError) as error:  # ValueError: it has a NUL or half a character
            raise ValueError(_no_congestion(name, getattr(error, "errno", None))) from None
    return name


def _no_congestion(name: str, code: int | None) -> str:
    """Say why ``name`` cannot be used, and what can."""
    refused = code in (errno.EPERM, errno.EACCES)
    why = "is for the administrator only" if refused else "is not known to this system"
    kind = "allowed" if refused or os.geteuid() else "available"
    with contextlib.suppress(OSError):
        there = (_SYSTEM / f"tcp_{kind}_congestion_control").read_text("ascii")
        why += f", which has {', '.join(sorted(there.split()))}"
    return f"{printable(name)!r} {why}"


class Tcp:
    """What the system measures of one TCP connection, and what it lets us choose.

    Any thread may ask, of a closed socket too: where the system does not say, and for a socket that
    is not TCP, there is a neutral answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def tune(self) -> None:
        """Set what every connection needs: no delay for small frames, a watch on dead peers.

        Buffer sizes stay alone: setting one turns the system's own tuning off.
        """
        sock, tcp = self._socket, socket.IPPROTO_TCP
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            sock.setsockopt(tcp, socket.TCP_KEEPIDLE, config.KEEPALIVE_IDLE)
            sock.setsockopt(tcp, socket.TCP_KEEPINTVL, config.KEEPALIVE_INTERVAL)
            sock.setsockopt(tcp, socket.TCP_KEEPCNT, config.KEEPALIVE_PROBES)
            sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, config.UNANSWERED_TIMEOUT * 1000)

    @property
    def round_trip(self) -> float:
        """The seconds there and back; 0 where the system does not say."""
        return self._info(*_ROUND_TRIP)[0] / 1e6

    @property
    def queueing(self) -> float:
        """How many times its least the round trip takes; 1 where the system does not say."""
        (now,), (least,) = self._info(*_ROUND_TRIP), self._info(*_LEAST_ROUND_TRIP)
        return now / least if now and least else 1.0

    @property
    def waits(self) -> tuple[float, float]:
        """The seconds with data under way, and those of them in which the peer had no room.

        Zeros where the system does not say.
        """
        busy, no_room = self._info(*_BUSY_AND_NO_ROOM)
        return busy / 1e6, no_room / 1e6

    def _info(self, offset: int, fields: struct.Struct) -> tuple[int, ...]:
        """Read ``fields`` of the system's own record of the connection; zeros if there is none."""
        info, size = b"", offset + fields.size
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # not TCP, or closed
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
        return tuple(fields.unpack_from(info.ljust(size, b"\0"), offset))

    @property
    def congestion(self) -> str:
        """The congestion control, such as ``cubic``; "" where the system does not say."""
        name = b""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # not TCP, or closed
                name = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return name.partition(b"\0")[0].decode("ascii", "replace")

    def choose_congestion(self, name: str) -> None:
        """Use the congestion control ``name``, where the system allows it; "" changes nothing."""
        if sys.platform == "linux" and name:
            with contextlib.suppress(OSError):  # unknown here, or for the administrator only
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())

    def keep_unsent(self, most: int) -> None:
        """Let the system take only about ``most`` bytes more than it can send now.

        What it has taken is bound to this connection, however slow that turns out to be. The size
        of its buffer, and with it the window, stays the system's own choice.
        """
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, most)
