"""The states of the dialogue, and which message leads to which."""

from __future__ import annotations

import itertools

import pytest

from protocol import (
    MAX_AHEAD,
    Dialogue,
    FileStart,
    Heard,
    LocalProtocolError,
    ManifestPart,
    Message,
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


# --- numbered files -----------------------------------------------------------------------------


def numbered(verb: str, file: int) -> Message:
    """Return a message of this kind about a numbered file, no directory."""
    if verb == "FILE_START":
        return FileStart("x", 5, 1, "md5", "0" * 32, True, file=file)
    return example_of(verb).replace(file=file)


def follow(dialogue: Dialogue, *steps: str) -> None:
    """Let both sides say such as ``client FILE_START 1``."""
    for step in steps:
        side, verb, file = step.split()
        note = dialogue.sent if Side(side) is dialogue.side else dialogue.received
        note(numbered(verb, int(file)))


@pytest.mark.parametrize("side", list(Side))
def test_numbered_files_go_side_by_side(side: Side) -> None:
    """One is announced while another is verified; each has a state of its own."""
    dialogue = dialogue_in(State.READY, side)
    follow(
        dialogue, "client FILE_START 1", "server FILE_READY 1", "client TRANSFER_COMPLETE 1",
        "client FILE_START 2", "client FILE_START 5", "server FILE_READY 5", "server QUEUED 2",
    )  # fmt: skip
    states = [dialogue.state_of(file) for file in (1, 2, 5)]
    assert states == [State.VERIFYING, State.ASKED, State.RECEIVING]
    assert (dialogue.state, dialogue.files, dialogue.idle) == (State.READY, 3, False)
    follow(dialogue, "server INTEGRITY_OK 1", "server REJECTED 2", "server INTEGRITY_OK 5")
    assert (dialogue.files, dialogue.idle) == (0, True)


def test_what_crosses_the_verdict_on_a_numbered_file_is_no_fault() -> None:
    """As with a file without a number: the server ignores it."""
    dialogue = dialogue_in(State.READY, Side.SERVER)
    follow(dialogue, "client FILE_START 1", "server REJECTED 1")
    follow(dialogue, "client CANCEL 1", "client TRANSFER_COMPLETE 1", "client PONG 1")
    dialogue.received(Heard(((1, 2),)))
    assert dialogue.idle


@pytest.mark.parametrize(
    "step",
    [
        "client FILE_START 3",  # again
        "client FILE_START 2",  # lower than one before
        "client PONG 4",  # never announced
        "server FILE_READY 4",
        "server INTEGRITY_OK 3",  # before FILE_READY
    ],
)
def test_a_numbered_message_out_of_place_names_who_is_at_fault(step: str) -> None:
    """The number has to be that of a file under way, and a new one has to be higher."""
    for side in Side:
        dialogue = dialogue_in(State.READY, side)
        follow(dialogue, "client FILE_START 3")
        speaker = Side(step.partition(" ")[0])
        fault = LocalProtocolError if speaker is side else RemoteProtocolError
        with pytest.raises(fault, match=f"the {speaker.value} sent"):
            follow(dialogue, step)
        assert (dialogue.files, dialogue.state_of(3)) == (1, State.ASKED)


def test_no_more_than_so_many_numbered_files_are_under_way() -> None:
    """What a client can have the server remember is bounded."""
    dialogue = dialogue_in(State.READY, Side.SERVER)
    for file in range(1, MAX_AHEAD + 1):
        follow(dialogue, f"client FILE_START {file}")
    with pytest.raises(RemoteProtocolError):
        follow(dialogue, f"client FILE_START {MAX_AHEAD + 1}")
    follow(dialogue, "server REJECTED 7", f"client FILE_START {MAX_AHEAD + 1}")
    assert dialogue.files == MAX_AHEAD


def test_a_file_without_a_number_goes_alone() -> None:
    """Its messages would be taken for those of the session."""
    dialogue = dialogue_in(State.READY, Side.SERVER)
    follow(dialogue, "client FILE_START 1")
    with pytest.raises(RemoteProtocolError):
        say(dialogue, Side.CLIENT, "FILE_START")
    follow(dialogue, "server REJECTED 1")
    say(dialogue, Side.CLIENT, "FILE_START")
    with pytest.raises(RemoteProtocolError):
        follow(dialogue, "client FILE_START 2")


def test_numbers_begin_after_the_login() -> None:
    """Before it there is nothing that they could be about."""
    for state in set(State) - {State.READY}:
        with pytest.raises(RemoteProtocolError):
            follow(dialogue_in(state, Side.SERVER), "client FILE_START 1")


def test_numbered_directories_are_told_side_by_side() -> None:
    """Each has its own entries to tell, whatever stands between them."""
    dialogue = dialogue_in(State.READY, Side.SERVER)
    tree, part = example_of("FILE_START"), example_of("MANIFEST")
    for file in (1, 2):
        dialogue.received(tree.replace(file=file, entries=2))
        dialogue.received(part.replace(file=file))
    assert [dialogue.state_of(file) for file in (1, 2)] == [State.LISTING, State.LISTING]
    dialogue.received(part.replace(file=1))
    assert [dialogue.state_of(file) for file in (1, 2)] == [State.ASKED, State.LISTING]
    with pytest.raises(RemoteProtocolError, match="more entries"):
        dialogue.received(ManifestPart((("d", "x", 0, 0), ("d", "y", 0, 0)), file=2))
