"""How often a client waits for an answer: on a far link each time costs a round trip.

Each turn here is what the client says without having heard anything more, and what it then hears;
a client that wanted another answer in between would wait for ever. To these round trips comes the
one in which TCP connects. lft/README.md has the sums beside those of other tools.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from client import send_files
from lft.accounts.tokens import make_token
from tests.support.accounts import ALICE_ALONE, PASSWORD, Serve
from tests.support.files import md5, random_file, received
from tests.support.lockstep import Lockstep
from tests.support.waiting import PATIENCE

Turn = Tuple[List[str], List[str]]

BY_PASSWORD: list[Turn] = [
    (["HELLO", "AUTH_START"], ["HELLO", "AUTH_CHALLENGE"]),
    (["AUTH_RESPONSE"], ["AUTH_OK"]),
]
BY_TOKEN: list[Turn] = [
    (["HELLO"], ["HELLO"]),
    (["AUTH_START"], ["AUTH_OK"]),
]
DATA = ["HELLO", "ATTACH"] * 4  # on the data connections, which hear nothing in these tests
FIRST_FILE: Turn = (["FILE_START", *DATA], ["FILE_READY"])
NEXT_FILE: Turn = (["FILE_START"], ["FILE_READY"])
BLOCKS: Turn = (["BLOCK", "BLOCK", "TRANSFER_COMPLETE"], ["VERIFYING", "INTEGRITY_OK"])
THE_END: Turn = (["GOODBYE"], [])

PROOFS: dict[str, dict[str, Any]] = {
    "password": {"user": "alice", "password": PASSWORD},
    "token": {"token": make_token(ALICE_ALONE, "alice", 86400)},
}


@pytest.mark.parametrize(("proof", "login"), [("password", BY_PASSWORD), ("token", BY_TOKEN)])
def test_blocks_leave_after_three_round_trips_and_the_verdict_comes_with_the_fourth(
    serve: Serve, tmp_path: Path, proof: str, login: list[Turn]
) -> None:
    """Two of the login, one of FILE_START; no block waits for an answer on its connection.

    Of a second file the blocks leave after one round trip.
    """
    sources = [random_file(tmp_path / name, 300_000) for name in ("one", "two")]
    local = serve(ALICE_ALONE)
    turns = [*login, FIRST_FILE, BLOCKS, NEXT_FILE, BLOCKS, THE_END]
    with ThreadPoolExecutor(1) as pool, Lockstep(local.port) as network:
        settings = local.client(port=network.port, **PROOFS[proof])
        sending = pool.submit(send_files, sources, settings)
        for says, hears in turns:
            network.turn(says, hears)
        receipts = sending.result(PATIENCE)
    assert [receipt.verdict for receipt in receipts] == ["INTEGRITY_OK"] * 2
    assert {md5(path) for path in received(local.output)} == {md5(path) for path in sources}
