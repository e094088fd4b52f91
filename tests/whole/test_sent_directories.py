"""Whole directories, from the command line to the output directory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Callable, Sequence

import pytest

import config
from client import send_files
from config import ClientSettings
from lft.client.interrupt import CancelledError
from lft.client.progress import Progress
from lft.client.receipt import Receipt
from lft.client.trees import Tree
from lft.wire.codecs import FEATURES
from lft.wire.frames import encode
from protocol import (
    TREES,
    ConnectionLostError,
    FileReady,
    FileStart,
    IntegrityOk,
    ManifestPart,
    Rejected,
    RejectedError,
    SourceError,
    TransferComplete,
)
from tests.support.certificates import Pki, tls
from tests.support.directories import make_tree
from tests.support.files import random_file, received
from tests.support.impostor import Impostor
from tests.support.local import ServerThread, StartLocal
from tests.support.outputs import lines, verdict_line
from tests.support.processes import ServerProcess, run_client
from tests.support.waiting import PATIENCE

OLD = 1_700_000_000_987_654_321


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with some of everything that can be kept."""
    made = make_tree(
        tmp_path / "top", ["a/b/", "a/x", "z\\w", "ä/ö 😀", ".hidden", "-dash", "con."]
    )
    for number, size in enumerate([0, 1, 50_000, 700_000, 0]):
        random_file(made / "a" / f"f{number}", size, seed=number)
    (made / "a/link").symlink_to("../z\\w")
    (made / "nowhere").symlink_to("a/none")
    (made / "a/f2").chmod(0o751)
    for path in sorted(made.rglob("*"), reverse=True):
        os.utime(path, ns=(OLD, OLD + len(path.name)), follow_symlinks=False)
    (made / "a/b").chmod(0o500)
    os.utime(made, ns=(OLD, OLD))
    return made


def check_arrived(top: Path, receipt: Receipt, output: Path) -> None:
    """See that a directory stands in ``output`` just as it is, with its proof beside it."""
    saved = output / receipt.saved_as
    compare = ["rsync", "-anci", "--delete", f"{top}/", f"{saved}/"]
    assert subprocess.run(compare, capture_output=True, check=True).stdout == b""
    subprocess.run(["diff", "-r", "--no-dereference", top, saved], check=True)
    sums = saved.with_name(f"{saved.name}.{receipt.algorithm}").absolute()
    check = [f"{receipt.algorithm}sum", "--check", "--quiet", str(sums)]
    subprocess.run(check, cwd=saved, check=True)
    assert hashlib.new(receipt.algorithm, sums.read_bytes()).hexdigest() == receipt.digest
    (found,) = (path for path in received(output) if path.is_dir())
    assert found == saved


Meddle = Callable[[Callable[[], object], int], None]


@pytest.fixture
def meddle_while_read(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    """Have something done to a directory before each of the first so many reads from it."""
    read_run = Tree.read_run

    def begin(meddle: Callable[[], object], times: int) -> None:
        left = [meddle] * times

        def read(tree: Tree, views: Sequence[memoryview], offset: int) -> None:
            if left:
                left.pop()()
            read_run(tree, views, offset)

        monkeypatch.setattr(Tree, "read_run", read)

    return begin


@pytest.mark.parametrize("options", [{}, {"digest": "sha256", "compress": True, "streams": 1}])
def test_a_directory_arrives_as_it_is(
    local: ServerThread, top: Path, options: dict[str, object]
) -> None:
    """Names, bits, times, links, what is empty; and ``md5sum -c`` finds nothing wrong."""
    (receipt,) = send_files([top], local.client(**options))
    check_arrived(top, receipt, local.output)
    assert (receipt.files, receipt.entries, receipt.left_out) == (11, 16, 0)


def test_it_arrives_through_tls(start_local: StartLocal, top: Path, pki: Pki) -> None:
    """In records, as all else."""
    local = start_local(**tls(pki.server))
    (receipt,) = send_files([top], local.client(ca=pki.ca, server="localhost"))
    check_arrived(top, receipt, local.output)


def test_the_verdict_counts_its_files(server: ServerProcess, top: Path) -> None:
    """In the line for people, and in the object for programs."""
    done = run_client(server.port, top, "--quiet")
    assert done.returncode == 0, done.stderr
    verdict, _, name = verdict_line(done.stdout)
    assert (verdict, name) == ("INTEGRITY_OK", "top")
    assert " s, 11 files, saved as server_received_" in done.stdout
    told = json.loads(run_client(server.port, top, "--json").stdout)
    assert (told["files"], told["entries"], told["left_out"]) == (11, 16, 0)
    assert told["durable"]
    assert told["preserved"]
    single = json.loads(run_client(server.port, top / "a/x", "--json").stdout)
    assert (single["files"], single["entries"]) == (1, None)


def test_an_empty_directory_arrives(local: ServerThread, tmp_path: Path) -> None:
    """It has nothing to prove, and is there."""
    top = make_tree(tmp_path / "top", [])
    (receipt,) = send_files([top], local.client())
    assert (receipt.bytes, receipt.files, receipt.entries) == (0, 0, 0)
    assert os.listdir(local.output / receipt.saved_as) == []
    assert receipt.digest == hashlib.md5().hexdigest()


def test_directories_and_files_go_together(
    server: ServerProcess, top: Path, tmp_path: Path
) -> None:
    """In the order given; what cannot be sent keeps nothing else back."""
    file, missing = random_file(tmp_path / "file", 300_000), tmp_path / "missing"
    done = run_client(server.port, file, missing, top, top / "a", "--exclude", "f*", "--json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["name"] for one in told] == ["missing", "top", "a"]
    assert [one["verdict"] for one in told] == [None, "INTEGRITY_OK", "INTEGRITY_OK"]
    assert done.returncode == 2
    assert told[1]["files"] == 6


def test_the_directory_in_which_we_are_has_its_own_name(
    local: ServerThread, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another one is given."""
    monkeypatch.chdir(top / "a")
    receipts = [*send_files([".."], local.client()), *send_files(["."], local.client(name="b c"))]
    assert [receipt.name for receipt in receipts] == ["top", "b c"]
    assert receipts[1].saved_as.endswith("_b c")


@pytest.mark.parametrize(
    "meddle",
    [
        lambda top: random_file(top / "a/f3", 700_001, seed=9),
        lambda top: random_file(top / "a/x", 10),
        lambda top: (top / "a/f3").unlink(),
        lambda top: (top / "a").rename(top / "c"),
        lambda top: (top / "a/f0").write_bytes(b"no longer empty"),
    ],
)
def test_what_changes_while_it_is_sent_is_sent_again(
    local: ServerThread, top: Path, meddle: Callable[[Path], object],
    meddle_while_read: Meddle, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Said by name, in the same run; what arrives is what there is in the end."""
    meddle_while_read(lambda: meddle(top), 1)
    (receipt,) = send_files([top], local.client())
    check_arrived(top, receipt, local.output)
    (line,) = lines(caplog, "changed while it was sent")
    assert "a" in line
    assert "what changed is sent again" in line


def test_what_changes_all_the_time_is_not_published(
    local: ServerThread, top: Path, meddle_while_read: Meddle, caplog: pytest.LogCaptureFixture
) -> None:
    """After some rounds the next argument has its turn; later the same command goes on."""

    def grow() -> None:
        with open(top / "z\\w", "ab") as file:
            file.write(b"x")

    file = random_file(top.parent / "file", 10)
    outcomes: list[object] = []
    meddle_while_read(grow, 99)
    with pytest.raises(SourceError, match=r"z\\w \(changed\); the same command goes on where"):
        send_files([top, file], local.client(), None,
                   lambda _, outcome: outcomes.append(outcome))  # fmt: skip
    assert [type(outcome) for outcome in outcomes] == [SourceError, Receipt]
    assert len(lines(caplog, "is sent again")) == config.TREE_ROUNDS
    assert [path.name[-4:] for path in received(local.output)] == ["file"]
    meddle_while_read(grow, 0)
    (receipt,) = send_files([top], local.client())
    assert receipt.resumed_bytes > 600_000
    check_arrived(top, receipt, local.output)


def test_an_interrupted_directory_goes_on(local: ServerThread, tmp_path: Path) -> None:
    """Only what is missing is sent, also after some of it has changed."""
    top = make_tree(tmp_path / "top", [f"d{n % 5}/{n:03}" for n in range(50)])
    for n in range(50):
        random_file(top / f"d{n % 5}/{n:03}", 60_000, seed=n)
    stop = threading.Event()

    class Stop(Progress):
        def move(self, acknowledged: int, sent: int, verified: int = 0) -> None:
            if acknowledged > 1_500_000:
                stop.set()

    with pytest.raises(CancelledError):
        send_files([top], local.client(limit=2_000_000, block_size=20_000), Stop(), cancel=stop)
    (top / "d4/049").unlink()
    random_file(top / "d0/000", 59_000)
    (receipt,) = send_files([top], local.client(block_size=20_000))
    assert receipt.resumed_bytes > 1_000_000
    assert receipt.sent_bytes < receipt.bytes - 1_000_000
    check_arrived(top, receipt, local.output)


def test_a_refused_directory_keeps_nothing_else_back(
    start_local: StartLocal, top: Path, tmp_path: Path
) -> None:
    """Each of its files must be allowed; the session goes on with the next argument."""
    local = start_local(allow_ext=(".txt",))
    allowed = random_file(tmp_path / "a.txt", 10)
    outcomes: list[object] = []
    with pytest.raises(RejectedError):
        send_files([top, allowed], local.client(), report=lambda _, one: outcomes.append(one))
    assert [type(outcome) for outcome in outcomes] == [RejectedError, Receipt]


def deep_tree(top: Path) -> Path:
    """Make a directory whose manifest has more bytes than the system's buffers hold."""
    below = top
    for _ in range(14):
        below /= "d" * 200
    below.mkdir(parents=True)
    for number in range(3000):
        (below / f"{number}".zfill(150)).touch()
    return top


def test_a_server_that_refuses_early_is_heard(tmp_path: Path) -> None:
    """It need not read all that is in a directory before it says no."""

    def refuse(server: Impostor) -> None:
        server.let_in()
        assert isinstance(server.control.answer(PATIENCE), FileStart)
        server.control.send(Rejected("quota", "you have used up all of it"))

    impostor = Impostor(refuse, [*FEATURES, TREES])
    with pytest.raises(RejectedError, match="used up"):
        send_files([deep_tree(tmp_path / "top")], ClientSettings(port=impostor.port))
    impostor.close()


def test_a_server_that_does_not_read_what_is_in_a_directory_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waits for as long as for any answer."""
    monkeypatch.setattr(config, "PATIENCE", 1)
    impostor = Impostor(lambda server: server.let_in(), [*FEATURES, TREES])
    with pytest.raises(ConnectionLostError, match="did not answer for"):
        send_files([deep_tree(tmp_path / "top")], ClientSettings(port=impostor.port, timeout=0.5))
    impostor.close()


def test_an_old_server_is_told_from_one_that_takes_directories(top: Path) -> None:
    """The user hears what to do."""
    impostor = Impostor(lambda server: server.let_in())
    done = run_client(impostor.port, top)
    impostor.close()
    assert done.returncode == 4
    assert done.stdout.startswith("REJECTED the server is too old to take directories; pack it")


def test_a_server_that_is_ready_at_once_is_heard(tmp_path: Path) -> None:
    """Its answer may be here before the client has looked up from telling what is in it."""
    top, ready = make_tree(tmp_path / "top", ["empty"]), FileReady(1, ())
    (top / "empty").write_bytes(b"")

    def hurry(server: Impostor) -> None:
        server.let_in()
        server.control.push(encode(ready))
        assert isinstance(server.control.answer(PATIENCE), FileStart)
        assert isinstance(server.control.answer(PATIENCE), ManifestPart)
        server.control.dialogue.sent(ready)
        said = server.control.answer(PATIENCE)
        assert isinstance(said, TransferComplete)
        server.control.send(IntegrityOk("x", 0, said.digest, 0, True))

    impostor = Impostor(hurry, [*FEATURES, TREES])
    (receipt,) = send_files([top], ClientSettings(port=impostor.port, timeout=1.0))
    impostor.close()
    assert receipt.saved_as == "x"
