"""Kills servers during uploads over HTTP, and sends them requests that are damaged and cut.

    python tests/tools/websweep.py                   100 kills, 20,000 requests
    python tests/tools/websweep.py --kills 1000      more
    python tests/tools/websweep.py --seed 7          the same plan as the last time with 7
    python tests/tools/websweep.py --short           a few seconds

Kills: a client sends a file by tus, in pieces of any length, with or without checksums and a
digest of its own. At a random instant the server is killed with ``kill -9`` and started again; the
client asks for the offset and goes on from there. At the end there has to be one published file
more, with the right bytes; those from before are still there; nothing is left in ``.partial``
except what an upload has left whose id its client never heard.

Requests: valid ones of all kinds (files, history, tus, logins) with bits flipped, pieces taken
out, doubled or put in from elsewhere, cut anywhere, sent in fragments; the connection ends
politely, with FIN or with RST. Afterwards the server answers; nothing has had the status 500; its
log has no traceback; its threads and connections are back where they were.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.files import received
from tests.support.processes import ServerProcess
from tests.support.tus import KIND, UPLOADS, Tus, checksum, metadata
from tests.support.waiting import PATIENCE, eventually
from tests.support.web import ADMIN, Browser, basic, http_port, request

SIZE = 3_000_000
LOST = (OSError, AssertionError, ValueError)  # what a connection to a killed server ends with


class ViolationError(Exception):
    """Something is not as it has to be."""


class House:
    """A server that is killed and started again on the same directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it."""
        self.server = ServerProcess(self._folder, "--http", "0")
        self.port = http_port(self.server)

    def kill(self) -> None:
        """End it in the midst of whatever it does."""
        self.server.stop(signal.SIGKILL)
        self.check_log()

    def check_log(self) -> None:
        """Raise ``ViolationError`` for what no client may cause."""
        for word in ("Traceback", "internal error"):
            if word in self.server.log:
                raise ViolationError(self.server.log)


# --- kills --------------------------------------------------------------------------------------


class Sender:
    """A client of tus that goes on until its file is there."""

    def __init__(self, house: House, chance: random.Random) -> None:
        self._house = house
        self._chance = chance
        self._data = chance.randbytes(chance.choice((SIZE, SIZE // 3, 1)))
        self._place = ""
        self._said = {"filename": "x.bin"}
        if chance.random() < 0.5:
            self._said["sha256"] = hashlib.sha256(self._data).hexdigest()
        self._checks = chance.random() < 0.5
        self.unheard = 0  # uploads whose id got lost

    def send(self) -> None:
        """Send it all, beside kills. Raises ``ViolationError``."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                with Browser(self._house.port) as browser:
                    if self._go_on(Tus(browser)):
                        return
            except LOST:
                time.sleep(0.01)
        raise ViolationError("a client does not come to its end")

    def _go_on(self, tus: Tus) -> bool:
        if not self._place:
            self.unheard += 1
            said = metadata(**self._said)
            answer = tus.ask("POST", UPLOADS, Upload_Length=len(self._data), Upload_Metadata=said)
            self._place = answer.fields["location"]
            self.unheard -= 1
        answer = tus.ask("HEAD", self._place)
        if answer.status == 404:
            raise ViolationError(f"the upload {self._place} is lost")
        at = int(answer.fields["upload-offset"])
        while at < len(self._data):
            piece = self._data[at : at + self._chance.randrange(1, 1_000_000)]
            check = checksum(piece) if self._checks else {}
            answer = tus.patch(self._place, at, piece, **check)
            if answer.status != 204:
                return False
            at += len(piece)
        return True

    @property
    def digest(self) -> str:
        """Of what it sends."""
        return hashlib.sha256(self._data).hexdigest()


def sweep(folder: Path, seed: str, kills: int) -> None:
    """Kill a server so many times. Raises ``ViolationError``."""
    house, there, unheard, done = House(folder), [], 0, 0
    while done < kills:
        chance = random.Random(f"{seed}-kill-{done}")
        sender = Sender(house, chance)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sender.send)
            for _ in range(chance.randrange(1, 4)):
                time.sleep(chance.uniform(0.0, 0.15))
                house.kill()
                house.start()
                done += 1
            sending.result()
        unheard += sender.unheard
        there.append(sender.digest)
        _check_output(house.server.output, there, unheard)
    house.kill()


def _check_output(output: Path, there: list[str], unheard: int) -> None:
    found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in received(output)]
    if sorted(found) != sorted(there):
        raise ViolationError(f"{len(there)} files were sent, and {len(found)} are there, or wrong")
    left = [path.name for path in (output / ".partial").glob("*.part")]
    if len([name for name in left if os.stat(output / ".partial" / name).st_nlink == 1]) > unheard:
        raise ViolationError(f"left over: {left}")


# --- requests -----------------------------------------------------------------------------------


def _valid(chance: random.Random, place: str) -> bytes:
    """Return a request that the server understands."""
    login = chance.choice((ADMIN, basic(), {"Cookie": "lft_session=x"}, {}))
    tus = {**login, "Tus-Resumable": "1.0.0"}
    kind = {name.replace("_", "-"): value for name, value in KIND.items()}
    body = chance.randbytes(chance.randrange(2000))
    length = {"Content-Length": str(len(body))}
    paths = ("/", "/page/page.js", "/api/v1/files", "/api/v1/files/x", "/api/v1/history",
             "/api/v1/history?format=csv", "/api/v1/transfers", "/metrics", "/healthz")  # fmt: skip
    makers = (
        lambda: request(chance.choice(("GET", "HEAD")), chance.choice(paths), login),
        lambda: request("GET", "/api/v1/files/x", {**login, "Range": "bytes=1-2,4-"}),
        lambda: request("POST", UPLOADS, {**tus, "Upload-Length": "99", **length, **kind}, body),
        lambda: request("HEAD", place, tus),
        lambda: request("PATCH", place, {**tus, **kind, "Upload-Offset": "0", **length}, body),
        lambda: request("DELETE", place, tus),
        lambda: request("OPTIONS", UPLOADS, tus),
        lambda: request("POST", "/api/v1/session", {}, {"data": "n,,n=admin,r=abcdefgh"}),
    )
    return chance.choice(makers)()


def _damaged(chance: random.Random, data: bytes) -> bytes:
    """Return a request with something wrong in it, or none of it."""
    for _ in range(chance.randrange(3)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        how = chance.randrange(5)
        if how == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[end:]
        elif how == 2:
            data = data[:end] + data[at:]
        elif how == 3:
            data = data[:at] + chance.choice(_WILD) + data[at:]
        else:
            data = data[:at] or data
    return data


_WILD = (
    b"\r\n", b"\n", b"\0", b"\xff" * 9, b"Content-Length: 9" * 2, b"Transfer-Encoding: chunked\r\n",
    b"Host: x\r\n", b"%00", b"../" * 9, b"x" * 20_000, b"GET / HTTP/1.1\r\n\r\n", b"9" * 30,
)  # fmt: skip


def _talk(port: int, chance: random.Random, place: str) -> int:
    """Send some requests on one connection, as far as the server lets; return their number."""
    number = chance.randrange(1, 5)
    data = b"".join(_damaged(chance, _valid(chance, place)) for _ in range(number))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        with contextlib.suppress(OSError):
            for piece in _pieces(chance, data):
                sock.sendall(piece)
        end = chance.randrange(3)
        if end == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == 1:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(5)
                _judge(b"".join(iter(lambda: sock.recv(65536), b"")))
    return number


def _pieces(chance: random.Random, data: bytes) -> Iterator[bytes]:
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    for start, end in zip((0, *cuts), (*cuts, len(data))):
        yield data[start:end]


def _judge(said: bytes) -> None:
    if said and not said.startswith(b"HTTP/1.1 "):
        raise ViolationError(f"no answer of HTTP: {said[:200]!r}")
    if b"HTTP/1.1 500 " in said:
        raise ViolationError(f"an error of the server's own: {said[:500]!r}")


def fuzz(folder: Path, seed: str, requests: int) -> None:
    """Send so many requests. Raises ``ViolationError``."""
    house, sent, number = House(folder), 0, 0
    with Browser(house.port) as browser:
        place = Tus(browser, ADMIN).create(10_000)
    (house.server.output / "x").write_bytes(b"some bytes")
    sockets, threads = _sockets(house), house.server.threads
    while sent < requests:
        number += 1
        sent += _talk(house.port, random.Random(f"{seed}-request-{number}"), place)
    with Browser(house.port) as browser:
        if browser.get("/api/v1/files/x", ADMIN).body != b"some bytes":
            raise ViolationError("a file is not sent any more")
    eventually(lambda: _sockets(house) <= sockets, "the connections to be closed")
    if house.server.threads > threads:
        raise ViolationError("threads have been left")
    if house.server.stop() != 0:
        raise ViolationError(house.server.log)
    house.check_log()


def _sockets(house: House) -> int:
    """Count the connections; files of uploads stay open for a while."""
    folder, found = f"/proc/{house.server.process.pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
    return found


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill servers during uploads over HTTP.")
    parser.add_argument("--kills", type=int, metavar="N", help="of the server (100)")
    parser.add_argument("--requests", type=int, metavar="N", help="that are damaged (20,000)")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="of all of it")
    parser.add_argument("--short", action="store_true", help="2 kills, 300 requests")
    given = parser.parse_args()
    kills, requests = (2, 300) if given.short else (100, 20_000)
    kills = kills if given.kills is None else given.kills
    requests = requests if given.requests is None else given.requests
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        try:
            for name in ("kills", "requests"):
                (Path(place) / name).mkdir()
            sweep(Path(place) / "kills", given.seed, kills)
            print(f"{kills} kills: nothing wrong, lost or twice", flush=True)
            fuzz(Path(place) / "requests", given.seed, requests)
            print(f"{requests} requests: the server is as it was")
        except ViolationError as error:
            print(f"websweep.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
