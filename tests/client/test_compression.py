"""Which blocks the client compresses, and which it sends raw."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Iterator

import pytest

import config
from config import KB, MB
from lft.client.compression import Compression
from lft.client.link import Link
from lft.client.sender import Sender
from lft.wire.codecs import compress
from protocol import CODEC_RAW, CODEC_ZLIB
from tests.support.compressed import send_compressed, text, unpacked
from tests.support.files import random_file
from tests.support.local import ServerThread
from tests.tools.proxy import FaultProxy, Kind, Line, Plan

# --- what the client compresses -----------------------------------------------------------------


class Clock:
    """The time, and the processor time of a thread: each block compressed takes ``cost``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cost = 0.0
        self._spent = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def thread_time(self) -> float:
        """Return the processor time; two calls stand around each block."""
        self._spent += self.cost
        return self._spent


class Trial:
    """A ``Compression`` that says what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.tried: list[int] = []  # the lengths that were compressed
        self.levels: list[int] = []
        monkeypatch.setattr("lft.clock.time", self.clock)
        monkeypatch.setattr("lft.client.compression.time", self.clock)
        monkeypatch.setattr("lft.client.sender.time", self.clock)
        monkeypatch.setattr("lft.client.compression.compress", self._record)
        monkeypatch.setattr("lft.client.compression._processors", lambda: 2)  # one second in each
        self.compression = Compression(CODEC_ZLIB, 4)

    def _record(self, codec: int, level: int, view: memoryview) -> memoryview:
        self.tried.append(len(view))
        self.levels.append(level)
        return compress(codec, level, view)

    def pack(self, data: bytes, behind: int = 0) -> bool:
        """Whether ``data`` would be sent compressed."""
        codec, payload = self.compression.pack(memoryview(data), behind)
        if codec != CODEC_RAW:
            assert unpacked(codec, bytes(payload), len(data)) == data
            return True
        assert payload == data
        return False


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A Compression with a clock of its own."""
    return Trial(monkeypatch)


TEXT, NOISE = text(50 * KB), random.Random(1).getrandbits(8 * 50 * KB).to_bytes(50 * KB, "big")
QUICK, THOROUGH = config.COMPRESS_LEVELS["zlib"]


def test_text_is_compressed(trial: Trial) -> None:
    """Every block; a sample of the first one is tried before."""
    assert all(trial.pack(TEXT) for _ in range(10))
    assert trial.tried == [config.COMPRESS_SAMPLE] + [len(TEXT)] * 10


def test_what_cannot_be_compressed_costs_next_to_nothing(trial: Trial) -> None:
    """A sample now and then, and never a whole block."""
    assert not any(trial.pack(NOISE) for _ in range(1000))
    assert set(trial.tried) == {config.COMPRESS_SAMPLE}
    assert len(trial.tried) < 1000 / config.COMPRESS_PAUSE + 10


def test_text_behind_noise_is_compressed_soon(trial: Trial) -> None:
    """A mixed file recovers within the longest pause, and then stays with it."""
    for _ in range(1000):
        trial.pack(NOISE)
    found = [trial.pack(TEXT) for _ in range(100)]
    assert True in found[: config.COMPRESS_PAUSE + 1]
    assert all(found[config.COMPRESS_PAUSE + 1 :])


def test_noise_behind_text_is_noticed_with_one_block(trial: Trial) -> None:
    """One is compressed in vain, and goes raw."""
    trial.pack(TEXT)
    del trial.tried[:]
    assert not any(trial.pack(NOISE) for _ in range(20))
    assert trial.tried.count(len(NOISE)) == 1
    assert trial.tried[0] == len(NOISE)


def test_noise_and_text_in_turn_are_told_apart(trial: Trial) -> None:
    """No rhythm of the file hides the text for ever."""
    found = [trial.pack(NOISE if number % 2 else TEXT) for number in range(200)]
    assert not any(found[1::2])
    assert sum(found[::2]) > 20


def test_a_block_that_hardly_shrinks_goes_raw(trial: Trial) -> None:
    """The server has work with unpacking, too: a few per cent are not worth that."""
    part = len(TEXT) // 40
    trial.pack(TEXT)
    assert not trial.pack(TEXT[:part] + NOISE[part:])
    assert trial.tried[-1] == len(TEXT)  # not only a sample


@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_tiny_block_goes_raw(trial: Trial, size: int) -> None:
    """It cannot shrink, and does not disturb."""
    assert not trial.pack(TEXT[:size])


def test_overdrawn_processor_time_lets_blocks_go_raw(trial: Trial) -> None:
    """Until it is paid for: here every second of two processors allows one."""
    trial.clock.cost = 2.0
    assert trial.pack(TEXT)
    assert not any(trial.pack(TEXT) for _ in range(50))
    trial.clock.now += 3.4  # a sample and a block, less the half second saved up at first
    assert not trial.pack(TEXT)
    trial.clock.now += 0.2
    assert trial.pack(TEXT)


def test_scarce_processor_time_means_a_quick_level(trial: Trial) -> None:
    """The more thorough one only while more than half of what may be saved up is there."""
    trial.pack(TEXT)
    trial.compression.note_wait(90.0, 10.0, behind=2)
    trial.clock.now += 10
    trial.clock.cost = 0.2
    del trial.levels[:]
    for _ in range(5):
        trial.pack(TEXT)
    assert trial.levels == [THOROUGH] * 3 + [QUICK] * 2


def test_a_link_that_no_sender_waits_for_means_raw_blocks(trial: Trial) -> None:
    """Over loopback the file cannot be hashed as fast as it is sent; to compress would cost."""
    for _ in range(1000):
        trial.compression.note_wait(0.001, 0.02, behind=2)
    assert not any(trial.pack(TEXT) for _ in range(100))
    assert trial.tried == []


def test_in_doubt_a_block_goes_raw_only_where_the_link_would_run_dry(trial: Trial) -> None:
    """A slow machine must not fill the buffers of a slow link with raw blocks."""
    for _ in range(1000):
        trial.compression.note_wait(0.0015, 0.0085, behind=2)
    assert not trial.pack(TEXT, behind=config.COMPRESS_BEHIND)
    assert trial.pack(TEXT, behind=config.COMPRESS_BEHIND + 1)


def test_a_link_that_becomes_slow_is_noticed(trial: Trial) -> None:
    """And compression begins again."""
    for _ in range(1000):
        trial.compression.note_wait(0.0, 0.02, behind=2)
    for _ in range(20):
        trial.compression.note_wait(0.05, 0.01, behind=2)
    assert trial.pack(TEXT)


def test_half_of_the_time_spent_waiting_means_a_thorough_level(trial: Trial) -> None:
    """There is time: the link has it."""
    trial.clock.now += 10
    for waited, level in ((0.3, QUICK), (0.7, THOROUGH)):
        for _ in range(1000):
            trial.compression.note_wait(waited / 100, (1 - waited) / 100, behind=50)
        trial.pack(TEXT)
        assert trial.levels[-1] == level


def test_blocks_that_are_on_their_way_keep_compression_up(trial: Trial) -> None:
    """The system's buffers take them without a wait, but the link is behind."""
    for _ in range(1000):
        trial.compression.note_wait(0.0, 0.02, behind=config.COMPRESS_BEHIND + 1)
    assert trial.pack(TEXT)


def test_blocks_that_are_on_their_way_mean_a_thorough_level(trial: Trial) -> None:
    """There is time: the link has enough to do."""
    trial.clock.now += 10
    for _ in range(1000):
        trial.compression.note_wait(0.003, 0.007, behind=2)
    for behind, level in ((config.COMPRESS_BEHIND, QUICK), (config.COMPRESS_BEHIND + 1, THOROUGH)):
        trial.pack(TEXT, behind)
        assert trial.levels[-1] == level


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Note what senders tell of their time: seconds waited, seconds not."""
    found: list[tuple[float, float]] = []
    note_wait = Compression.note_wait

    def note(compression: Compression, waited: float, worked: float, behind: int) -> None:
        found.append((waited, worked))
        note_wait(compression, waited, worked, behind)

    monkeypatch.setattr(Compression, "note_wait", note)
    return found


@pytest.fixture
def sender(trial: Trial, link: Link) -> Iterator[Sender]:
    """A sender that is not connected, and lives by the clock of a trial."""
    one = Sender(link, 0)
    yield one
    one.close()


def test_a_sender_tells_of_its_time_once(
    trial: Trial, sender: Sender, told: list[tuple[float, float]]
) -> None:
    """From one block to the next: what it waited for the link, and the rest."""
    for waited in (0.25, 0.0):
        trial.clock.now += waited + 0.0625
        sender._waited += waited
        sender._tell_wait(trial.compression, 0)
    assert told == [(0.25, 0.0625), (0.0, 0.0625)]


def test_a_pause_between_two_files_does_not_end_compression(
    trial: Trial, sender: Sender, told: list[tuple[float, float]]
) -> None:
    """A minute in which there was nothing to send is not a minute of a fast link."""
    trial.clock.now += 60
    sender._tell_wait(trial.compression, 0)
    assert told == [(0.0, config.COMPRESS_IDLE)]
    assert trial.pack(TEXT)


# --- what a sender tells of its time ------------------------------------------------------------


def test_what_a_limit_takes_counts_as_waiting_for_the_link(
    local: ServerThread, tmp_path: Path, told: list[tuple[float, float]]
) -> None:
    """It is one, to whoever set it: less on the wire is what helps."""
    send_compressed(
        local, random_file(tmp_path / "x", MB), limit=2 * MB, streams=1, block_size=64 * KB
    )
    assert sum(waited for waited, _ in told) > 0.2  # the limit takes half a second in all


def test_a_full_link_counts_as_waiting_for_it(
    local: ServerThread, tmp_path: Path, told: list[tuple[float, float]]
) -> None:
    """The system's buffers are full, and take the next block when the link has room."""
    with FaultProxy(local.port) as proxy:
        proxy.plan(Plan(up=Line(rate=16 * MB)), Kind.DATA)
        send_compressed(local, random_file(tmp_path / "x", 8 * MB), port=proxy.port, streams=1)
    assert sum(waited for waited, _ in told) > 0.05  # the link takes half a second in all
