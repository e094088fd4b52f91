"""Talks nonsense to the server and to the client in every state of the protocol.

    python tests/tools/fuzz.py                       100,000 messages, 200 sick servers
    python tests/tools/fuzz.py --messages 5000       fewer
    python tests/tools/fuzz.py --seed 7              the same plan as the last time with 7
    python tests/tools/fuzz.py --short               some seconds: for the gate
    python tests/tools/fuzz.py --replay FILE         what a violation has left, again

The server's side: two real ``server.py`` processes with ten workers, one of which speaks TLS, take
turns. A round is some groups at once, each a session, part of one, or a stranger: logins (password,
token, guesses that are made to wait), uploads over several data connections in any order, resumes
of what other rounds left, crowds that queue, plain noise. Between a valid dialogue and the wire
each message may be flipped in some bits, truncated, repeated, dropped, replaced by or joined with
any other message of either side, given a wrong length, a wild value, a deep nesting, a missing or a
double key; blocks, which come raw or compressed, get wild headers, foreign transfers, the codec
*held*, one that they are not of, bombs; events swap places. What is left is cut at random places
and sent, the groups interleaved; each connection ends at random: politely, with FIN, or with RST.

Where TLS is spoken, all of this takes place in channels of TLS 1.3. Their records, from ClientHello
on, are disturbed in the same ways, and have wild types, versions and lengths; handshakes are given
up after any of them; some groups speak no TLS at all, as some do where there is none.

After each round: the server lives; its threads and open files, as /proc tells, are back where they
were, and the threads sleep; ``.partial`` holds only part files with journals; its log has no
traceback and no internal error, and nobody was told of one; what it said was well-formed; what it
published is byte for byte a file that a dialogue was about; a normal transfer works (now and then
by ``client.py``).

At last enemies come (``enemies.py``), each kind beside a normal transfer: silent strangers, block
headers without blocks, half messages, tokens that expire, KeyUpdates without end. The server has to
be as it was afterwards. The short form has one kind for each server.

The client's side: ``client.send_files`` against a server that does all that is right, with what it
says disturbed in the same ways, half of the time over TLS. Only exceptions below ``TransferError``
may come out, within a bounded time and memory, and no thread or open file may stay behind.

How it knows where it has been: the server process is ``server.main`` with a counter around
the two functions that receive, so the states are the server's own and not what we believe. A state
in which nothing was ever taken or nothing was ever refused, a step of the handshake at which nobody
ever left or broke a record, or an answer that never came, is a failure of this program. (The short
form does not ask for every answer, nor for a broken record in every state; and what else its
seconds miss is only said, as long as it is little.)

What it does not say: what the disk does meanwhile (``sweep.py``); and no number of messages proves
that there is no other. A seed gives the same plan and not the same microsecond: what needs a race
may not come again with the first replay.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterable, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from protocol import State
from tests.tools.fuzzing.counting import HANDSHAKE, KINDS, Counts, serve
from tests.tools.fuzzing.patient import Patient
from tests.tools.fuzzing.plans import Plan, load_plan, make_plan, save_plan
from tests.tools.fuzzing.rounds import Round
from tests.tools.fuzzing.sick import TRAPS
from tests.tools.fuzzing.target import Target
from tests.tools.fuzzing.words import ViolationError

FEW = 8  # places that the short form may miss: a side that is not fuzzed at all has 18 and more
SAMPLES, CASES = 100_000, 200
SHORT_MESSAGES, SHORT_CASES = 4000, 6 * len(TRAPS)

# Where a message may meet the server; the states it passes through within one call are not here.
SERVER_STATES = (
    State.NEW, State.OPEN, State.LOGIN, State.CHALLENGED, State.PROVING, State.READY, State.ASKED,
    State.RECEIVING, State.VERIFYING, State.CANCELLING, State.STREAMING,
)  # fmt: skip

# Only GOODBYE may be said there, which nobody waits for.
CLOSED_BOOK = (State.LOGIN.value, State.PROVING.value)

# Where a connection stays until something comes, so that a broken record can find it there.
RESTING = (
    State.NEW, State.OPEN, State.CHALLENGED, State.READY, State.RECEIVING, State.STREAMING,
)  # fmt: skip
CLIENT_STATES = (
    State.GREETED, State.LOGIN_AHEAD, State.LOGIN, State.PROVING, State.ASKED, State.RECEIVING,
    State.VERIFYING, State.CANCELLING, State.ATTACHING, State.STREAMING,
)  # fmt: skip
ANSWERS = (
    "HELLO", "AUTH_CHALLENGE", "AUTH_OK", "ATTACHED", "QUEUED", "FILE_READY", "REJECTED", "MISSING",
    "INTEGRITY_OK", "INTEGRITY_FAILED", "ERROR", "ack",
)  # fmt: skip


def note(text: str) -> None:
    """Say how it goes."""
    print(text, file=sys.stderr, flush=True)


def fuzz_servers(targets: Sequence[Target], seed: str, messages: int) -> None:
    """Go on for so many messages. Raises ``ViolationError``."""
    sent, number = 0, 0
    while sent < messages:
        number += 1
        plan = make_plan(seed, number, len(targets[0].jwt))
        perform(targets[plan.secure], plan, number)
        sent += plan.messages
        if number % 20 == 0:
            note(f"{sent} messages in {number} rounds")


def let_enemies_in(target: Target, seed: str, *, short: bool) -> None:
    """Have each kind of enemy at a server; the short form has one. Raises ``ViolationError``."""
    kinds = sorted(target.kinds)
    random.Random(seed).shuffle(kinds)
    for number, kind in enumerate(kinds[:1] if short else kinds):
        try:
            target.besiege(kind, number)
        except ViolationError as error:
            raise ViolationError(f"beside {kind} enemies: {error}") from None


def perform(target: Target, plan: Plan, number: int) -> None:
    """Do one round and look at the server. A violation leaves the plan in a file."""
    target.rounds += 1
    target.messages += plan.messages
    try:
        Round(plan, target).perform()
        target.check(number)
    except ViolationError as error:
        path = kept(f"server-{plan.seed}")
        save_plan(path, plan, str(error))
        raise ViolationError(f"round {plan.seed}: {error}\nreplay with --replay {path}") from None


def fuzz_client(patient: Patient, seeds: Iterable[str]) -> None:
    """Try one sick server for each seed. Raises ``ViolationError``."""
    for number, seed in enumerate(seeds, 1):
        server = patient.try_server(seed)
        try:
            patient.judge(server)
        except ViolationError as error:
            path = kept(f"client-{seed}")
            said = [[connection, data.hex()] for connection, data in server.said]
            path.write_text(json.dumps({"client": seed, "why": str(error), "said": said}, indent=0))
            raise ViolationError(f"server {seed}: {error}\nreplay with --replay {path}") from None
        if number % 50 == 0:
            note(f"{number} sick servers")


def kept(name: str) -> Path:
    """Return a place for what led to a violation."""
    descriptor, path = tempfile.mkstemp(".json", f"fuzz-{name}-")
    os.close(descriptor)
    return Path(path)


def show(title: str, counts: Counts, states: Sequence[State], steps: Sequence[str]) -> list[str]:
    """Print how often each place was met; return those that were missed."""
    print(f"{title:<22}" + "".join(f"{kind:>9}" for kind in KINDS))
    missed = []
    for name in [*steps, *(state.value for state in states)]:
        print(f"  {name:<20}" + "".join(f"{counts[name][kind]:>9}" for kind in KINDS))
        wanted = ["refused"] if name in CLOSED_BOOK else ["taken", "refused"]
        if name in steps:
            wanted = ["taken", "broken", "cut"]
        missed += [f"{title} {name} ({kind})" for kind in wanted if not counts[name][kind]]
    return missed


def show_words(title: str, words: collections.Counter[str]) -> None:
    """Print how often each was heard."""
    print(f"{title}: " + ", ".join(f"{word} {count}" for word, count in words.most_common()))


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Fuzz both sides; return the exit code. Raises ``ViolationError``."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        targets = []
        for name in ("plain", "TLS"):
            targets.append(Target(folder / name, secure=name == "TLS"))
            stack.callback(targets[-1].kill)
        fuzz_servers(targets, arguments.seed, arguments.messages)
        for target in targets:
            let_enemies_in(target, f"{arguments.seed} {target.name}", short=arguments.short)
        counts = [target.stop() for target in targets]
    patient = Patient(folder)
    fuzz_client(patient, (f"{arguments.seed}-{at}" for at in range(arguments.cases)))
    print(f"seed {arguments.seed}: {arguments.cases} sick servers, "
          f"{time.monotonic() - began:.0f} s, no violation")  # fmt: skip
    missed = []
    for target, own in zip(targets, counts):
        print(f"{target.name}: {target.messages} messages in {target.rounds} rounds")
        missed += show(f"{target.name}, the server", own, SERVER_STATES, HANDSHAKE * target.secure)
        show_words("it said", target.heard)
        show_words("enemies", target.enemies)
        if not arguments.short:  # seconds do not always bring two transfers to wait for a place
            missed += [
                f"{target.name}, answer {word}" for word in ANSWERS if not target.heard[word]
            ]
    if not arguments.short:
        broken = [one.value for one in RESTING if not counts[1][one.value]["broken"]]
        missed += [f"TLS, {state} (broken)" for state in broken]
    missed += show("the client", patient.counts, CLIENT_STATES, ())
    show_words("send_files ended with", patient.outcomes)
    for one in missed:
        print(f"NEVER REACHED: {one}")
    return 1 if len(missed) > (FEW if arguments.short else 0) else 0


def replay(path: Path, folder: Path, times: int) -> int:
    """Do again what led to a violation, some times. Raises ``ViolationError``."""
    values = json.loads(path.read_text())
    note(f"then: {values['why']}")
    if "client" in values:
        fuzz_client(Patient(folder), [values["client"]] * times)
        return 0
    plan = load_plan(values)
    target = Target(folder / "server", secure=plan.secure)
    try:
        for number in range(1, times + 1):
            perform(target, plan, number)
        target.stop()
    finally:
        target.kill()
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Talk nonsense to both sides.")
    add = parser.add_argument
    # fmt: off
    add("--messages", type=int, metavar="N", help=f"to send to the server ({SAMPLES})")
    add("--cases", type=int, metavar="N", help=f"sick servers for the client ({CASES})")
    add("--seed", default=f"{random.randrange(10**6)}", help="of an earlier run")
    add("--short", action="store_true", help="some seconds")
    add("--replay", type=Path, metavar="FILE", help="what a violation has left")
    add("--times", type=int, default=20, metavar="N", help="how often to replay it (20)")
    # fmt: on
    arguments = parser.parse_args(argv)
    if arguments.messages is None:
        arguments.messages = SHORT_MESSAGES if arguments.short else SAMPLES
    if arguments.cases is None:
        arguments.cases = SHORT_CASES if arguments.short else CASES
    return arguments


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["--serve"]:
        return serve(Path(argv[1]), argv[2:])
    arguments = parse(argv)
    note(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        try:
            if arguments.replay:
                return replay(arguments.replay, Path(name), arguments.times)
            return run(arguments, Path(name))
        except ViolationError as error:
            print(f"VIOLATION: {error}")
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
