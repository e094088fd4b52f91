"""The states of the dialogue, and which message leads to which."""

from __future__ import annotations

import itertools

import pytest

from protocol import (
    Dialogue,
    FileStart,
    LocalProtocolError,
    ManifestPart,
    RemoteProtocolError,
    Side,
    State,
)
from tests.support.dialogue import LEGAL, WAYS, example_of
from tests.support.messages import VERBS

ILLEGAL = [case for case in itertools.product(State, Side, VERBS) if case not in LEGAL]


def say(dialogue: Dialogue, speaker: Side, verb: str) -> None:
    """Let ``speaker`` say something, as this side of the dialogue sees it."""
    step = dialogue.sent if speaker is dialogue.side else dialogue.received
    step(example_of(verb))


def dialogue_in(state: State, side: Side) -> Dialogue:
    """Return ``side``'s view of a dialogue that has come to ``state`` in the ordinary way."""
    dialogue = Dialogue(side)
    for speaker, verb in WAYS[state]:
        say(dialogue, speaker, verb)
    assert dialogue.state is state
    return dialogue


def name_of(value: object) -> str:
    """Name a case of a test by its state, side or verb."""
    return str(value.value) if isinstance(value, (State, Side)) else str(value)


def test_every_state_can_be_reached() -> None:
    """There is no state that a dialogue cannot come to."""
    assert set(WAYS) == set(State)


def test_every_message_may_be_said_somewhere() -> None:
    """Every message has a place in the rules, and the rules know no other."""
    assert {verb for _, _, verb in LEGAL} == set(VERBS)


@pytest.mark.parametrize(("state", "speaker", "verb"), list(LEGAL), ids=name_of)
def test_a_message_in_place_leads_on(state: State, speaker: Side, verb: str) -> None:
    """Both sides come to the state that the rules name."""
    for side in Side:
        dialogue = dialogue_in(state, side)
        assert dialogue.allows(example_of(verb)) == (side is speaker or may_say(state, side, verb))
        say(dialogue, speaker, verb)
        assert dialogue.state is LEGAL[state, speaker, verb]


def may_say(state: State, side: Side, verb: str) -> bool:
    """Whether the rules let ``side`` say this."""
    return (state, side, verb) in LEGAL


@pytest.mark.parametrize(("state", "speaker", "verb"), ILLEGAL, ids=name_of)
def test_a_message_out_of_place_names_who_is_at_fault(
    state: State, speaker: Side, verb: str
) -> None:
    """FAULTS 7: the speaker has made a local error, the listener sees a remote one."""
    for side, fault in ((speaker, LocalProtocolError), (speaker.other, RemoteProtocolError)):
        dialogue = dialogue_in(state, side)
        assert side is not speaker or not dialogue.allows(example_of(verb))
        words = f"^the {speaker.value} sent {verb} in state {state.value}$"
        with pytest.raises(fault, match=words) as caught:
            say(dialogue, speaker, verb)
        assert type(caught.value) is fault
        assert dialogue.state is state


def test_a_whole_session_with_two_directories_is_legal() -> None:
    """The dialogue at the top of protocol.py, message by message."""
    session = """client HELLO, server HELLO, client AUTH_START, server AUTH_CHALLENGE,
        client AUTH_RESPONSE, server AUTH_OK, client FILE_START, client MANIFEST,
        server QUEUED, server QUEUED,
        server FILE_READY, server VERIFYING, server MISSING, client TRANSFER_COMPLETE,
        server VERIFYING, server MISSING, client TRANSFER_COMPLETE, server VERIFYING,
        server INTEGRITY_OK, client FILE_START, server REJECTED, client GOODBYE"""
    both = [Dialogue(side) for side in Side]
    for step in session.split(","):
        side, verb = step.split()
        for dialogue in both:
            say(dialogue, Side(side), verb)
    assert [dialogue.state for dialogue in both] == [State.CLOSED, State.CLOSED]


@pytest.mark.parametrize("entries", [None, 0])
def test_a_file_and_an_empty_directory_need_no_manifest(entries: int | None) -> None:
    """They are asked for at once; a MANIFEST would be out of place."""
    start = FileStart("a", 0, 204800, "md5", "0" * 32, True)
    start = start if entries is None else start.replace(entries=entries)
    dialogue = dialogue_in(State.READY, Side.SERVER)
    dialogue.received(start)
    assert dialogue.state is State.ASKED
    with pytest.raises(RemoteProtocolError, match="sent MANIFEST in state asked"):
        say(dialogue, Side.CLIENT, "MANIFEST")


def test_a_manifest_has_as_many_entries_as_announced() -> None:
    """The dialogue counts them; one more breaks the rules."""
    dialogue = dialogue_in(State.READY, Side.SERVER)
    dialogue.received(FileStart("a", 0, 204800, "md5", "0" * 32, True, entries=3))
    for left in (2, 1):
        say(dialogue, Side.CLIENT, "MANIFEST")
        assert dialogue.state is State.LISTING, left
    two = ManifestPart((("d", "a", 0o755, 0), ("d", "b", 0o755, 0)))
    with pytest.raises(RemoteProtocolError, match="more entries than were announced"):
        dialogue.received(two)


def test_a_dialogue_shows_side_and_state() -> None:
    """The representation tells the side and the state, for a debugger."""
    assert repr(dialogue_in(State.READY, Side.SERVER)) == "<Dialogue of the server, ready>"


def test_each_side_has_another() -> None:
    """The other side of the other side is the first one."""
    assert [side.other for side in (Side.CLIENT, Side.SERVER)] == [Side.SERVER, Side.CLIENT]
