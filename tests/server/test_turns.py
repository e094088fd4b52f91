"""Turns of owners that want much and little."""

from __future__ import annotations

from lft.server.turns import Slots, Turns


def test_owners_take_turns_whatever_each_of_them_has() -> None:
    """One with many items is no better off than one with a single item."""
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        turns.add(item[0], item)
    assert [turns.take() for _ in range(len(turns))] == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_an_owner_that_comes_again_stands_behind_the_others() -> None:
    """It cannot get two turns in a row by waiting until it has nothing left."""
    turns: Turns[str] = Turns()
    turns.add("a", "a1")
    turns.add("b", "b1")
    assert turns.take() == "a1"
    turns.add("a", "a2")
    assert [turns.first, turns.take(), turns.take()] == ["b1", "b1", "a2"]
    assert len(turns) == 0


def test_what_finds_no_place_gets_one_that_another_leaves() -> None:
    """No thread waits for it, and users take turns at it."""
    slots: Slots[str] = Slots(1)
    assert [slots.enter(item[0], item) for item in ("a1", "a2", "a3", "b1")] == [True] + 3 * [False]
    assert [slots.leave() for _ in range(4)] == [["a2"], ["b1"], ["a3"], []]
    assert slots.enter("c", "c1")


def test_items_that_join_share_a_place() -> None:
    """Up to a number, and none with one that must be alone."""
    slots: Slots[str] = Slots(1)
    for item in ("a0", "a1", "a2", "a3", "LARGE", "a4"):
        slots.enter("a", item)
    taken = [slots.leave(str.islower, 2) for _ in range(5)]
    assert taken == [["a1", "a2"], ["a3"], ["LARGE"], ["a4"], []]
    assert slots.enter("b", "b1")
