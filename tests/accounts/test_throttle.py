"""Guessing passwords: each failure costs the guesser more time."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest

from client import send_files
from config import (
    FAILURE_COUNTERS,
    FAILURES_HALVE_AFTER,
    FREE_ACCOUNT,
    FREE_ADDRESS,
    FREE_PAIR,
    GUESSES_AT_ONCE,
    LOGIN_TIMEOUT,
    LONGEST_DELAY,
    LONGEST_SHARED_DELAY,
)
from lft.accounts.throttle import LoginDelay
from protocol import MAX_TEXT, AuthenticationError, ConnectionLostError, Goodbye
from tests.support.accounts import PASSWORD, VERIFIER, Serve
from tests.support.files import random_file
from tests.support.local import ServerThread
from tests.support.outputs import lines
from tests.support.rawpeer import Peer, is_open
from tests.support.waiting import PATIENCE, eventually

# --- the delay ----------------------------------------------------------------------------------


class Guesser:
    """Tries to log in, at times that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.delay = LoginDelay(lambda: self.now)

    def __call__(self, times: int, user: str = "ann", address: str = "192.0.2.1") -> list[float]:
        """Fail ``times`` times; return the delays."""
        return [self.delay.attempt(user, address) for _ in range(times)]


def test_the_delay_grows_with_each_failure() -> None:
    """FAULTS 23: two slips are free, then it doubles to its limit and stays there."""
    assert Guesser()(10) == [0, 0, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_many_guesses_at_once_are_no_way_around_the_delay() -> None:
    """20 guesses a second for an hour: no more than 8 in 15 s are judged."""
    guess = Guesser()
    answered = 0
    for _ in range(3600):
        answered += sum(delay < math.inf for delay in guess(20))
        guess.now += 1
    assert answered <= 20 + 3600 / LONGEST_DELAY * GUESSES_AT_ONCE
    assert guess(1, "ann", "192.0.2.2") == [LONGEST_SHARED_DELAY]
    assert guess(1, "bob") == [LONGEST_SHARED_DELAY]  # the address's
    guess.now += LONGEST_DELAY
    assert guess(1) == [LONGEST_DELAY]


def test_the_longest_delay_fits_into_the_time_for_a_login() -> None:
    """Otherwise the right password would come too late after wrong ones."""
    assert LONGEST_DELAY < LOGIN_TIMEOUT


def test_failures_are_forgotten_by_half_a_minute_after_minute() -> None:
    """Whatever goes on meanwhile; in the end nothing is left."""
    guess = Guesser()
    assert guess(8)[-1] == LONGEST_DELAY
    guess.now += FAILURES_HALVE_AFTER
    assert guess(1) == [2]  # 4 of the 8 are left
    guess.now += 10 * FAILURES_HALVE_AFTER
    assert guess(3) == [0, 0, 0.5]


def test_a_neighbour_with_an_old_password_costs_others_little() -> None:
    """A forgotten job at their address tries it every other second, for an hour."""
    guess = Guesser()
    for _ in range(1800):
        guess(1, "job")
        assert guess(1)[0] <= LONGEST_SHARED_DELAY
        guess.delay.succeeded("ann", "192.0.2.1")
        guess.now += 2
    guess.now += 5 * FAILURES_HALVE_AFTER
    assert guess(1, "bob") == [0]


def test_success_takes_back_all_that_the_user_cost_an_address() -> None:
    """Eight slips of the finger of one user use up none of the address's free failures."""
    guess = Guesser()
    guess(8)
    guess.delay.succeeded("ann", "192.0.2.1")
    delays = [guess(1, f"user{number}")[0] for number in range(FREE_ADDRESS + 1)]
    assert delays == [0] * FREE_ADDRESS + [0.5]


def test_success_starts_this_user_at_this_address_anew() -> None:
    """The successful attempt itself counts for nothing."""
    guess = Guesser()
    assert guess(4)[-1] > 0
    guess.delay.succeeded("ann", "192.0.2.1")
    assert guess(2) == [0, 0]


def test_success_of_one_user_does_not_help_to_guess_another_from_the_same_address() -> None:
    """A user cannot clear the address of its failures with a login of its own."""
    guess = Guesser()
    for number in range(30):
        guess(1, f"victim{number}")
        guess(1, "own")
        guess.delay.succeeded("own", "192.0.2.1")
    assert guess(1, "victim") == [LONGEST_SHARED_DELAY]


def test_thousands_of_good_logins_cost_nothing() -> None:
    """A script that sends a file each minute is no guesser."""
    guess = Guesser()
    for _ in range(2000):
        assert guess(1) == [0]
        guess.delay.succeeded("ann", "192.0.2.1")


def test_many_users_from_one_address_are_slow_as_well() -> None:
    """One password tried on every user; a few people behind one address are not."""
    guess = Guesser()
    delays = [guess(1, f"user{i}")[0] for i in range(30)]
    assert delays[:FREE_ADDRESS] == [0] * FREE_ADDRESS
    assert delays[-1] == LONGEST_SHARED_DELAY


def test_the_right_user_elsewhere_still_gets_in() -> None:
    """FAULTS 23: 5,000 failures from 250 addresses cost the owner of the account 2 s."""
    guess = Guesser()
    for number in range(250):
        guess(20, "ann", f"198.51.100.{number}")
    assert guess(1, "ann", "192.0.2.1") == [LONGEST_SHARED_DELAY]
    assert guess(1, "bob", "192.0.2.1") == [0]
    guess.delay.succeeded("ann", "192.0.2.1")  # which does not make guessing elsewhere any faster
    assert guess(1, "ann", "192.0.2.2") == [LONGEST_SHARED_DELAY]


def test_an_address_of_many_is_one_person() -> None:
    """A household has 2**64 addresses of IPv6; an IPv4 address written as IPv6 is one."""
    guess = Guesser()
    assert [guess(1, address=f"2001:db8:0:1::{i}")[0] for i in range(4)][-1] == 1
    assert guess(1, "bob", "2001:db8:0:2::1") == [0]
    assert guess(3, "eve", "::ffff:192.0.2.7")[-1] == 0.5
    assert guess(1, "eve", "192.0.2.7") == [1]
    assert guess(1, "dan", "::ffff:192.0.2.8") == [0]
    assert guess(3, "zoe", "fe80::1%eth0")[-1] == 0.5
    assert guess(3, "kim", "not an address")[-1] == 0.5


def test_a_flood_of_made_up_users_neither_hides_failures_nor_delays_others() -> None:
    """23: 15,000 in half a minute, from everywhere."""
    guess = Guesser()
    guess(8)
    for number in range(15_000):
        guess(1, f"user{number}", f"198.51.{number % 100}.{number % 250}")
        guess.now += 0.002
    assert guess(1) == [8]
    assert guess(1, "bob", "192.0.2.2") == [0]


def test_memory_is_bounded() -> None:
    """A flood of names, each as long as a message allows, takes none."""
    guess = Guesser()
    for number in range(1000):
        guess(1, "\U0001f600" * (MAX_TEXT - 4) + str(number), f"2001:db8:0:{number}::")
    tables = guess.delay._pairs, guess.delay._addresses, guess.delay._users
    sizes = [len(table._counts) for table in tables]
    assert sizes == [4 * FAILURE_COUNTERS, FAILURE_COUNTERS, FAILURE_COUNTERS]


def test_counting_by_many_threads_loses_nothing() -> None:
    """Eight threads, one account."""
    delay = LoginDelay(lambda: 0.0)

    def fail() -> None:
        for _ in range(500):
            delay.attempt("ann", "192.0.2.1")

    crowd = [threading.Thread(target=fail) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(PATIENCE)
    assert delay._users.forgive("ann", 0.0) == 4000


# --- the delay at a server ----------------------------------------------------------------------


def fail(local: ServerThread, times: int, user: str = "alice", address: str = "127.0.0.1") -> None:
    """Let the server remember failed logins."""
    for _ in range(times):
        local.server.login.delays.attempt(user, address)


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_each_wrong_password_costs_more_than_the_one_before(
    serve: Serve, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    """23 and 22: two slips of the finger are free, then the delay doubles, also for no user."""
    local = serve({"alice": VERIFIER})
    for _ in range(FREE_PAIR + 2):
        with Peer(local.port) as peer, pytest.raises(AuthenticationError):
            peer.log_in(user, "wrong")
    waits = [line.rpartition("waits ")[2] for line in lines(caplog, "its login waits")]
    assert waits == ["0.5 s", "1.0 s"]


def test_a_login_that_had_to_wait_gets_in_with_the_right_password(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: a delay is no lock, and it is forgotten with the first success."""
    local = serve({"alice": VERIFIER})
    fail(local, FREE_PAIR)
    for _ in range(2):
        with Peer(local.port) as peer:
            peer.log_in()
    assert len(lines(caplog, "its login waits")) == 1


def test_the_right_user_elsewhere_gets_in_while_another_client_guesses(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: guessing at one address costs the user at another one 2 s at most."""
    local = serve({"alice": VERIFIER})
    fail(local, GUESSES_AT_ONCE)
    fail(local, FREE_ACCOUNT - GUESSES_AT_ONCE - 1, address="127.0.0.3")
    with Peer(local.port) as guesser, Peer(local.port, source="127.0.0.2") as owner:
        guesser.prove(password="wrong")
        fail(local, 1)
        eventually(lambda: lines(caplog, "waits 15.0 s"), "the guesser's delay")
        owner.log_in()
        assert is_open(guesser.control)
    (wait,) = [text for text in lines(caplog, "its login waits") if "127.0.0.2" in text]
    assert float(wait.split()[-2]) <= LONGEST_SHARED_DELAY


def test_of_too_many_logins_that_wait_the_last_is_refused_unseen(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23: the right password is refused as well, in the same words as a wrong one."""
    local = serve({"alice": VERIFIER})
    now = time.monotonic()  # no wait gets shorter, however slow this login is
    monkeypatch.setattr(local.server.login.delays, "_clock", lambda: now)
    fail(local, 100)
    with Peer(local.port) as peer:
        peer.prove()
        with pytest.raises(AuthenticationError, match="too many wrong passwords"):
            peer.control.answer(PATIENCE)


def test_a_login_that_waits_holds_no_worker(serve: Serve, tmp_path: Path) -> None:
    """23: with a single worker another user's transfer runs meanwhile."""
    local = serve({"alice": VERIFIER, "bob": VERIFIER}, workers=1)
    fail(local, 8)
    with Peer(local.port) as waiting:
        waiting.prove()
        settings = local.client(user="bob", password=PASSWORD)
        send_files([random_file(tmp_path / "x", 300_000)], settings)
        assert is_open(waiting.control)


def test_a_client_that_leaves_while_its_login_waits_leaves_no_session(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """23: a GOODBYE in the meantime, even with the right password, is no internal error."""
    local = serve({"alice": VERIFIER})
    fail(local, FREE_PAIR)
    with Peer(local.port) as peer:
        peer.prove()
        peer.control.send(Goodbye())
        eventually(lambda: not local.server.connections.peers, "the connection to be forgotten")
    assert lines(caplog, "internal error") == []
    assert local.server.registry._sessions == {}


def test_a_login_whose_time_is_up_is_not_judged_any_more(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """4 and 23: the deadline ends the login although its password is right."""
    local = serve({"alice": VERIFIER}, login_timeout=1.0)
    fail(local, FREE_PAIR + 2)  # the next waits 2 s: to the time for our last words
    with Peer(local.port) as peer:
        peer.prove()
        with pytest.raises(ConnectionLostError, match="too slow"):
            peer.control.answer(PATIENCE)
        eventually(lambda: not local.server.connections.peers, "the connection to be forgotten")
    assert lines(caplog, "internal error") == []
    assert local.server.registry._sessions == {}
