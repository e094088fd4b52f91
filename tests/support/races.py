"""Two clients that ask two servers for the same thing at the same time."""

from __future__ import annotations

import threading
from typing import Callable, Sequence

from protocol import Cancel, FileReady, Message, Rejected
from tests.support.local import ServerThread
from tests.support.rawpeer import Peer
from tests.support.waiting import PATIENCE, eventually


def race(
    servers: Sequence[ServerThread], ask: Callable[[Peer], Message], rounds: int
) -> list[list[str]]:
    """Ask each server at once, as often as ``rounds``; return the kinds of answers of each round.

    A file that may come is cancelled before the next round.
    """
    answers: list[list[Message]] = [[] for _ in servers]
    starts = threading.Barrier(len(servers), timeout=PATIENCE)

    def run(server: ServerThread, heard: list[Message]) -> None:
        with Peer(server.port).log_in() as peer:
            for _ in range(rounds):
                starts.wait()
                heard.append(ask(peer))
                starts.wait()
                if isinstance(heard[-1], FileReady):
                    peer.control.send(Cancel())
                    assert isinstance(peer.answer(), Rejected)
                    eventually(lambda: server.server.parts.in_use == 0)

    threads = [threading.Thread(target=run, args=both) for both in zip(servers, answers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [sorted(type(one).__name__ for one in both) for both in zip(*answers)]
