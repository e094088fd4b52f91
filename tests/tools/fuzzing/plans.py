"""The plan of a round: its groups, and the messages of each."""

from __future__ import annotations

import contextlib
import functools
import json
import random
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import config
from lft.accounts.scram import ScramClient
from lft.wire.codecs import COMPRESSIONS, FEATURES
from lft.wire.frames import encode
from protocol import (
    CODEC_HELD,
    CODEC_RAW,
    TOKEN,
    VERSION,
    Attach,
    AuthResponse,
    AuthStart,
    Cancel,
    Goodbye,
    Hello,
    Message,
    Pong,
    TransferComplete,
)
from tests.tools.fuzzing.mutations import Mutator
from tests.tools.fuzzing.words import (
    CONTENTS,
    PASSWORD,
    STRANGERS,
    USERS,
    ZEROS,
    Content,
    final_mark,
    jwt_mark,
    number_mark,
    token_mark,
)

ROUND_GROUPS = 12
TOUR_ROUNDS = 4  # the first ones, which also visit every state on purpose


@dataclass
class Event:
    """One thing that happens on one connection.

    ``open`` (data: address it comes from, and how often a record is disturbed if it speaks TLS),
    ``login`` (data: user and nonce), ``send`` (number: messages in it), ``hear`` (number: answers
    to wait for; a handshake counts as one), ``close``, ``reset``, ``shut``.
    """

    kind: str
    actor: int
    data: bytes = b""
    number: int = 1
    cuts: tuple[int, ...] = ()


class Group:
    """Plans what one session does, or what pretends to be one."""

    def __init__(
        self, rng: random.Random, session: int, actors: Iterator[int], *, secure: bool
    ) -> None:
        self.rng, self.session, self._actors, self.secure = rng, session, actors, secure
        self.mutator = Mutator(rng, rng.choice((0.0, 0.02, 0.1, 0.5)))
        self.records = rng.choice((0.0, 0.0, 0.0, 0.02, 0.1))  # how often one is disturbed
        self._calm = rng.random() < 0.7  # whether logins go well: else few would come further
        self.events: list[Event] = []
        self.user = rng.choice(USERS)
        self.number = number_mark(session)
        self._address = f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        self._opened: list[int] = []
        self.polite = False  # whether nothing but its messages is wrong with it

    def add(self, kind: str, actor: int, data: bytes = b"", number: int = 1) -> None:
        """Plan one event."""
        self.events.append(Event(kind, actor, data, number))

    def open(self) -> int:
        """Plan a new connection; return its actor."""
        actor = next(self._actors)
        self._opened.append(actor)
        rate = f" {0.0 if self.polite else self.records}" if self.secure else ""
        self.add("open", actor, f"{self._address}{rate}".encode())
        if self.secure:
            self.add("hear", actor)
        return actor

    def say(self, actor: int, *said: Message | bytes, hear: int = 0) -> None:
        """Plan to say something, disturbed or not, all in one piece or cut; then to listen."""
        whole = [one if isinstance(one, bytes) else encode(one) for one in said]
        frames = self.mutator.disturb(whole)
        data = b"".join(frames)
        self.add("send", actor, data, len(frames))
        if len(data) > 1 and self.rng.random() < 0.3:
            some = self.rng.sample(range(1, len(data)), min(3, len(data) - 1))
            self.events[-1].cuts = tuple(sorted(some))
        if hear and (frames == whole or self.rng.random() < 0.3):
            self.add("hear", actor, number=hear)

    def log_in(self, user: str = "") -> int:
        """Plan a login with a password; return the coordinator."""
        actor = self.open()
        nonce = f"{self.rng.getrandbits(96):024x}"
        user = user or self.user
        self.add("login", actor, f"{user} {nonce}".encode())
        login = ScramClient(user, PASSWORD, nonce, binding=b"" if self.secure else None)
        with self._calmly():
            self.say(actor, Hello(VERSION, FEATURES), hear=1)
            self.say(actor, AuthStart(login.mechanism, login.first()), hear=1)
            self.say(actor, AuthResponse(final_mark(actor, bound=self.secure)), hear=1)
        return actor

    @contextlib.contextmanager
    def _calmly(self) -> Iterator[None]:
        """Disturb nothing for a while, in a group that is to come further."""
        before = self.mutator
        if self._calm:
            self.mutator = Mutator(self.rng, 0.0)
        yield
        self.mutator = before

    def attach(self) -> int:
        """Plan a data connection."""
        actor = self.open()
        with self._calmly():
            self.say(actor, Hello(VERSION, FEATURES), hear=1)
            self.say(actor, Attach(token_mark(self.session)), hear=1)
        return actor

    def end(self) -> None:
        """Plan the end of every connection, and let some events change places."""
        if self.polite:
            for actor in self._opened:
                self.add("close", actor)
            return
        for actor in self.rng.sample(self._opened, len(self._opened)):
            self.add(self.rng.choice(("close", "reset", "shut", "close")), actor)
        for _ in range(self.rng.choice((0, 0, 0, 1, 3))):
            at = self.rng.randrange(len(self.events))
            pair = self.events[at : at + 2]
            self.events[at : at + 2] = self.rng.choice([pair[::-1], pair[:1], [*pair, pair[0]]])


def plan_stranger(group: Group) -> None:
    """Noise, or another protocol, before or after HELLO."""
    actor = group.open()
    if group.rng.random() < 0.5:
        group.say(actor, Hello(VERSION, FEATURES), hear=1)
    for _ in range(group.rng.randrange(1, 4)):
        data = group.rng.choice([group.mutator.noise(2000), *STRANGERS])
        group.say(actor, data, hear=group.rng.randrange(2))


def plan_handshake(group: Group) -> None:
    """A handshake, most of its records disturbed, that is given up or gone on with."""
    group.records = group.rng.choice((0.0, 0.6))
    actor = group.open()
    if group.rng.random() < 0.5:
        del group.events[-1]  # it does not wait for the server's part
    if group.rng.random() < 0.3:
        group.say(actor, group.mutator.other(), hear=1)


def plan_outsider(group: Group, words: bytes) -> None:
    """Somebody who speaks no TLS, or not a word."""
    group.mutator, group.polite, group.secure = Mutator(group.rng, 0.0), True, False
    actor = group.open()
    if words:
        group.say(actor, words, hear=1)


def plan_nonsense(group: Group, depth: int) -> None:
    """What can be no frame, in every state in which the server waits for one."""
    group.mutator, group.polite = Mutator(group.rng, 0.0), True
    if depth < 3:
        actor = group.open()
        binding = b"" if group.secure else None
        login = ScramClient(group.user, PASSWORD, f"{group.session}", binding=binding)
        words = [Hello(VERSION, FEATURES), AuthStart(login.mechanism, login.first())]
        for word in words[:depth]:
            group.say(actor, word, hear=1)
    else:
        actor = group.log_in()
    if depth == 4:
        group.say(actor, CONTENTS[-1].start(resume=False), hear=1)
    if depth == 5:
        actor = group.attach()
    group.say(actor, bytes(64), hear=1)


def plan_walk(group: Group) -> None:
    """Any messages in any order, from any point of a valid beginning on."""
    depth = group.rng.randrange(4)
    actor = group.log_in() if depth > 1 else group.open()
    if depth == 1:
        group.say(actor, Hello(VERSION, FEATURES), hear=1)
    if depth == 3:
        content = group.rng.choice(CONTENTS)
        group.say(actor, content.start(resume=False), hear=1)
        actor = group.rng.choice([actor, group.attach()])
    for _ in range(group.rng.randrange(1, 6)):
        group.say(actor, group.mutator.other(), hear=group.rng.randrange(2))


def plan_upload(group: Group) -> None:
    """Files over a few data connections, in any order, with some of it missing or twice."""
    coordinator = group.log_in()
    streams = [group.attach() for _ in range(group.rng.randrange(1, 4))]
    for _ in range(group.rng.randrange(1, 4)):
        content = group.rng.choice(CONTENTS)
        complete = TransferComplete(group.number, content.digest)
        if group.rng.random() < 0.3:
            group.say(coordinator, content.begin(), hear=1)
            complete = complete.replace(size=content.size)
        else:
            group.say(coordinator, content.start(resume=group.rng.random() < 0.6), hear=1)
        plan_blocks(group, streams, content)
        if group.rng.random() < 0.1:
            group.say(coordinator, Cancel())
        group.say(coordinator, complete, hear=1)
        if group.rng.random() < 0.5:  # after a MISSING
            plan_blocks(group, streams, content)
            group.say(coordinator, complete, hear=1)
    if group.rng.random() < 0.5:
        group.say(coordinator, Goodbye())


def plan_blocks(group: Group, streams: list[int], content: Content) -> None:
    """Blocks of a file: all or most, raw, held or compressed, over all streams."""
    chosen = [at for at in range(len(content.blocks)) if group.rng.random() < 0.95]
    if group.rng.random() < 0.5:
        group.rng.shuffle(chosen)
    codecs = [CODEC_HELD] if group.rng.random() < 0.3 else [CODEC_RAW, *COMPRESSIONS.values()]
    while chosen:
        size = group.rng.randrange(1, 12)
        batch, chosen = chosen[:size], chosen[size:]
        frames = [content.frame(at, group.number, group.rng.choice(codecs)) for at in batch]
        stream = group.rng.choice(streams)
        group.say(stream, *frames, hear=len(frames) * group.rng.randrange(2))


def plan_at_once(group: Group, wanted: tuple[Message, int] | None = None) -> None:
    """Several messages in one segment: they find the server in states that last an instant."""
    if wanted:
        group.mutator, group.polite = Mutator(group.rng, 0.0), True
    coordinator = group.log_in()
    content = CONTENTS[group.rng.randrange(3, len(CONTENTS))]
    start, complete = content.start(resume=True), TransferComplete(group.number, content.digest)
    words: list[Message | bytes] = [Pong(), Goodbye(), Cancel(), group.mutator.other()]
    last, choice = wanted or (group.rng.choice(words), group.rng.randrange(6))
    if choice == 0:  # asked
        first = [] if wanted else [group.rng.choice(words)]
        group.say(coordinator, start, *first, last, hear=1)
        return
    group.say(coordinator, start, hear=1)
    if choice == 1:  # cancelling
        group.say(coordinator, Cancel(), last, hear=1)
    elif choice == 2:  # verifying: nothing has come, so the answer is MISSING
        group.say(coordinator, complete, complete, last, hear=1)
    else:  # verifying, with everything there
        stream = group.attach()
        frames = [content.frame(at, group.number) for at in range(len(content.blocks))]
        group.say(stream, *frames, hear=len(frames))
        wrong = TransferComplete(group.number, ZEROS)
        group.say(coordinator, wrong if choice == 3 else complete, last, hear=1)
    group.say(coordinator, start, hear=1)


def plan_guesser(group: Group, *, by_token: bool) -> None:
    """Wrong proofs until the server lets them wait, and something said meanwhile."""
    user = f"nobody{group.rng.randrange(10**6)}"
    group.mutator, group.polite = Mutator(group.rng, 0.0), True
    for last in (False, False, True):
        if by_token:
            actor = group.open()
            group.say(actor, Hello(VERSION, FEATURES), hear=1)
            group.say(actor, AuthStart(TOKEN, "e30.e30.e30"), hear=0 if last else 1)
        else:
            actor = group.log_in(user)
            if last:
                del group.events[-1]
        if last:
            words: list[Message | bytes] = [Goodbye(), group.mutator.noise(), *[Pong()] * 18]
            group.say(actor, group.rng.choice(words), hear=1)


def plan_token(group: Group, length: int) -> None:
    """A login with a token, a file, and a cancelled one."""
    actor = group.open()
    group.say(actor, Hello(VERSION, FEATURES), hear=1)
    group.say(actor, AuthStart(TOKEN, jwt_mark(length)), hear=1)
    content = group.rng.choice(CONTENTS)
    group.say(actor, content.start(resume=False), hear=1)
    group.say(actor, TransferComplete(group.number, ZEROS), hear=1)
    group.say(actor, Cancel(), hear=1)


def plan_crowd(group: Group) -> None:
    """More files at once than the server takes at a time."""
    group.mutator, group.records = Mutator(group.rng, 0.005), 0.0
    actors = [group.log_in(USERS[at]) for at in range(config.MAX_ACTIVE_TRANSFERS + 2)]
    for actor in actors:
        group.say(actor, group.rng.choice(CONTENTS[3:]).start(resume=False), hear=1)
    for actor in actors[::2]:
        group.say(actor, Cancel(), hear=1)


class Plan(NamedTuple):
    """A round: groups of events that go on side by side, and the seed of how they mix."""

    seed: str
    secure: bool  # whether it is for the server that speaks TLS
    groups: list[list[Event]]

    @property
    def messages(self) -> int:
        """How many are sent."""
        events = [event for group in self.groups for event in group]
        return sum(event.number for event in events if event.kind == "send")


def make_plan(seed: str, number: int, jwt_length: int) -> Plan:
    """Plan a round; the first ones have all that there is. Every other one is for TLS."""
    secure = number % 2 == 0
    rng = random.Random(f"{seed}-{number}")
    actors = iter(range(1000))
    token = functools.partial(plan_token, length=jwt_length)
    plans = [plan_upload] * 5 + [plan_at_once] * 3 + [plan_walk] * 3 + [plan_stranger, token]
    plans += [plan_handshake] * 2 * secure
    chosen: list[Callable[[Group], None]] = [rng.choice(plans) for _ in range(ROUND_GROUPS)]
    rare: list[Callable[[Group], None]] = [plan_crowd]
    rare += [functools.partial(plan_guesser, by_token=one) for one in (True, False)]
    chosen += [one for one in rare if number <= TOUR_ROUNDS or rng.random() < 0.05]
    if number <= TOUR_ROUNDS:
        words = (Goodbye(), Hello(VERSION, FEATURES), Pong())
        chosen += [functools.partial(plan_at_once, wanted=(word, at))
                   for at in range(6) for word in words]  # fmt: skip
        chosen += [functools.partial(plan_nonsense, depth=depth) for depth in range(6)]
        chosen += [functools.partial(plan_outsider, words=words) for words in (b"", bytes(64))]
        chosen += [plan_handshake] * 8 * secure
    groups = []
    for session, plan in enumerate(chosen):
        odd = plan in plans and rng.random() < 0.05  # speaks TLS where nobody does, or the reverse
        group = Group(rng, session, actors, secure=secure is not odd)
        plan(group)
        group.end()
        groups.append(group.events)
    return Plan(f"{seed}-{number}", secure, groups)


def save_plan(path: Path, plan: Plan, why: str) -> None:
    """Write a plan so that ``load_plan`` reads it."""
    groups = [
        [[*astuple(e)[:2], e.data.hex(), e.number, e.cuts] for e in group] for group in plan.groups
    ]
    values = {"seed": plan.seed, "secure": plan.secure, "why": why, "groups": groups}
    path.write_text(json.dumps(values, indent=0))


def load_plan(values: dict[str, Any]) -> Plan:
    """Return a plan that was written by ``save_plan``."""
    groups = [
        [Event(kind, actor, bytes.fromhex(data), number, tuple(cuts))
         for kind, actor, data, number, cuts in group]
        for group in values["groups"]
    ]  # fmt: skip
    return Plan(values["seed"], values["secure"], groups)
