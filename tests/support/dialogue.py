"""The dialogue written out a second time, and the shortest way to each of its states."""

from __future__ import annotations

from collections import deque
from typing import Tuple

from protocol import MESSAGES, Message, Side, State
from tests.support.messages import EXAMPLES

# Written out a second time, from the design and not from the code: state, who, says what, leads to.
RULES = """
    new         client  HELLO              greeted
    greeted     server  HELLO              open
    open        client  AUTH_START         login
    login       server  AUTH_CHALLENGE     challenged
    login       server  AUTH_OK            ready
    challenged  client  AUTH_RESPONSE      proving
    proving     server  AUTH_OK            ready
    ready       client  FILE_START         listing
    ready       client  HEARD              ready
    ready       client  TRANSFER_COMPLETE  ready
    ready       client  CANCEL             ready
    ready       client  PONG               ready
    ready       client  MANIFEST           ready
    listing     client  MANIFEST           asked
    listing     client  CANCEL             cancelling
    listing     server  REJECTED           ready
    asked       server  QUEUED             asked
    asked       server  FILE_READY         receiving
    asked       server  REJECTED           ready
    asked       client  CANCEL             cancelling
    receiving   client  TRANSFER_COMPLETE  verifying
    receiving   client  CANCEL             cancelling
    receiving   client  PONG               receiving
    receiving   server  PING               receiving
    receiving   server  MISSING            receiving
    receiving   server  VERIFYING          receiving
    receiving   server  INTEGRITY_OK       ready
    receiving   server  INTEGRITY_FAILED   ready
    receiving   server  REJECTED           ready
    verifying   client  TRANSFER_COMPLETE  verifying
    verifying   client  CANCEL             cancelling
    verifying   client  PONG               verifying
    verifying   server  PING               verifying
    verifying   server  MISSING            receiving
    verifying   server  VERIFYING          verifying
    verifying   server  INTEGRITY_OK       ready
    verifying   server  INTEGRITY_FAILED   ready
    verifying   server  REJECTED           ready
    cancelling  server  QUEUED             cancelling
    cancelling  server  FILE_READY         cancelling
    cancelling  server  PING               cancelling
    cancelling  server  MISSING            cancelling
    cancelling  server  VERIFYING          cancelling
    cancelling  server  INTEGRITY_OK       ready
    cancelling  server  INTEGRITY_FAILED   ready
    cancelling  server  REJECTED           ready
    open        client  ATTACH             attaching
    greeted     client  AUTH_START         login-ahead
    login-ahead server  HELLO              login
    greeted     client  ATTACH             attach-ahead
    attach-ahead server HELLO              attaching
    attaching   server  ATTACHED           streaming
"""

Case = Tuple[State, Side, str]


def legal_moves() -> dict[Case, State]:
    """Read the rules; ERROR and GOODBYE end the dialogue from everywhere but its end."""
    moves: dict[Case, State] = {}
    for line in RULES.split("\n")[1:-1]:
        state, side, verb, leads_to = line.split()
        moves[State(state), Side(side), verb] = State(leads_to)
    for state_ in State:
        if state_ is not State.CLOSED:
            moves[state_, Side.SERVER, "ERROR"] = State.CLOSED
            moves[state_, Side.CLIENT, "GOODBYE"] = State.CLOSED
    return moves


LEGAL = legal_moves()


def ways() -> dict[State, list[tuple[Side, str]]]:
    """Find the shortest way from the start to each state, by the rules above."""
    found: dict[State, list[tuple[Side, str]]] = {State.NEW: []}
    waiting = deque([State.NEW])
    while waiting:
        here = waiting.popleft()
        for (state, side, verb), leads_to in LEGAL.items():
            if state is here and leads_to not in found:
                found[leads_to] = [*found[here], (side, verb)]
                waiting.append(leads_to)
    return found


WAYS = ways()


def example_of(verb: str) -> Message:
    """Return a message of this kind, about a file without a number."""
    kind = MESSAGES[verb]
    values = {name: value for name, value in vars(EXAMPLES[kind]).items() if name != "file"}
    return kind(**values)
