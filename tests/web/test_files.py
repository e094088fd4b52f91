"""Listing and fetching files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Iterator

import pytest

from client import send_files
from lft.accounts.account import Accounts, Credential
from lft.store.database import Database
from lft.store.history import RECEIVED, Outcome
from lft.store.journal import Journal
from lft.store.paths import PARTIAL
from lft.web.fields import repr_digest
from tests.support.files import received
from tests.support.local import ServerThread, StartLocal
from tests.support.partfiles import leave_part
from tests.support.tus import Tus
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Answer, Browser, basic, request, web_port

WEB = ("localhost", 0)
FILES = "/api/v1/files"
DATA = os.urandom(300_000)
USER1 = basic()
ANN = basic("ann", "secret")
ANNEX = basic("annex", "secret")
READER = basic("reader", "secret")


def accounts() -> Accounts:
    """Make users with directories of their own, and one that may read all."""
    one = Credential.make("secret", iterations=4096)
    return Accounts({
        "ann": one.replace(directory="ann"),
        "annex": one.replace(directory="annex"),
        "reader": one.replace(may=("read-all",)),
    })  # fmt: skip


@pytest.fixture(name="sent")
def _sent(site: ServerThread, tmp_path: Path) -> Path:
    """Send a file by the wire; return it as it was published."""
    source = tmp_path / "näme.bin"
    source.write_bytes(DATA)
    send_files([source], site.client(digest="sha256"))
    (path,) = received(site.output)
    return path


@pytest.fixture(name="shared")
def _shared(start_local: StartLocal, tmp_path: Path) -> Iterator[tuple[Path, Browser]]:
    """A server with users that have directories, and a file in each."""
    users = accounts()
    site = start_local(lambda: users, http=("localhost", 0), credentials=tmp_path / "unused")
    for name in ("ann", "annex"):
        (site.output / name).mkdir()
        (site.output / name / "file").write_bytes(name.encode())
    (site.output / "root").write_bytes(b"root")
    with Browser(web_port(site)) as browser:
        yield site.output, browser


def fetch(browser: Browser, path: Path, login: dict[str, str] = USER1, **fields: str) -> Answer:
    """Fetch a file of the output directory."""
    own = {name.replace("_", "-"): value for name, value in fields.items()}
    return browser.get(f"{FILES}/{path.name}".replace("ä", "%C3%A4"), {**login, **own})


def names(browser: Browser, query: str = "", login: dict[str, str] = USER1) -> list[str]:
    """List a directory."""
    answer = browser.get(FILES + query, login)
    assert answer.status == 200, answer
    return [entry["name"] for entry in answer.json()["entries"]]


# --- fetching -----------------------------------------------------------------------------------


def test_a_file_is_fetched_as_it_was_sent(sent: Path, browser: Browser) -> None:
    """With its original name, its digest and what tells its state."""
    answer = fetch(browser, sent)
    assert (answer.status, answer.body) == (200, DATA)
    assert "filename*=UTF-8''n%C3%A4me.bin" in answer.fields["content-disposition"]
    assert answer.fields["repr-digest"] == repr_digest(hashlib.sha256(DATA).hexdigest())
    assert answer.fields["accept-ranges"] == "bytes"
    assert answer.fields["etag"].startswith('"')
    assert answer.fields["last-modified"].endswith(" GMT")


def test_head_is_get_without_the_file(sent: Path, browser: Browser) -> None:
    """The same fields, and no bytes behind them."""
    path = f"{FILES}/{sent.name}".replace("ä", "%C3%A4")
    get, head = browser.get(path, USER1), browser.ask("HEAD", path, USER1)
    assert (head.status, head.body) == (200, b"")
    assert {**get.fields, "date": ""} == {**head.fields, "date": ""}


def test_a_part_of_a_file_is_fetched(sent: Path, browser: Browser) -> None:
    """A single range; several get the whole file, and one beyond it is refused."""
    answer = fetch(browser, sent, Range="bytes=100000-")
    assert (answer.status, answer.body) == (206, DATA[100_000:])
    assert answer.fields["content-range"] == f"bytes 100000-{len(DATA) - 1}/{len(DATA)}"
    answer = fetch(browser, sent, Range="bytes=0-0,5-9")
    assert (answer.status, answer.body) == (200, DATA)
    answer = fetch(browser, sent, Range=f"bytes={len(DATA)}-")
    assert (answer.status, answer.fields["content-range"]) == (416, f"bytes */{len(DATA)}")


def test_conditions_are_kept(sent: Path, browser: Browser) -> None:
    """304 for what the client has, 412 for what is not as it thinks, the whole for an old range."""
    fields = fetch(browser, sent).fields
    answer = fetch(browser, sent, If_None_Match=fields["etag"])
    assert (answer.status, answer.body, answer.fields["etag"]) == (304, b"", fields["etag"])
    assert fetch(browser, sent, If_Modified_Since=fields["last-modified"]).status == 304
    assert fetch(browser, sent, If_Match='"other"').status == 412
    part = fetch(browser, sent, Range="bytes=1-2", If_Range=fields["etag"])
    assert (part.status, part.body) == (206, DATA[1:3])
    assert fetch(browser, sent, Range="bytes=1-2", If_Range='"other"').status == 200


def test_an_empty_file_is_fetched(site: ServerThread, browser: Browser) -> None:
    """It has a length of its own: none."""
    Tus(browser).create(0)
    answer = fetch(browser, received(site.output)[0])
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("name", ["page.html", "image.svg", "page.xhtml", "script.js"])
def test_uploaded_html_and_svg_never_run(site: ServerThread, browser: Browser, name: str) -> None:
    """A browser saves them; should it show one all the same, nothing in it has any right."""
    tus = Tus(browser)
    data = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    tus.patch(tus.create(len(data), name), 0, data)
    answer = fetch(browser, received(site.output)[0])
    assert answer.body == data
    assert answer.fields["content-type"] == "application/octet-stream"
    assert answer.fields["content-disposition"].startswith("attachment")
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert answer.fields["content-security-policy"].startswith("sandbox")


def test_the_descriptor_of_a_file_is_given_back(sent: Path, browser: Browser) -> None:
    """Whatever the answer is."""

    def open_now() -> list[str]:
        links = (f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd"))
        return [one for one in map(_target, links) if one.endswith(sent.name)]

    requests: list[dict[str, str]] = [{}, {"Range": "bytes=9999999-"}, {"If_None_Match": "*"}]
    for fields in (*requests, {"If_Match": "none"}):
        fetch(browser, sent, USER1, **fields)
    browser.ask("HEAD", f"{FILES}/{sent.name}".replace("ä", "%C3%A4"), USER1)
    eventually(lambda: open_now() == [])


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


# --- who may have what --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "..%2fsecret", "%2e%2e/secret", "%2e%2e%2fsecret", "ann/../../secret",
        "ann/%2e%2e/root", "/etc/passwd", "%2fetc%2fpasswd", "ann//file", "ann/./file", "ann%00",
        "ann%5c..%5cfile", ".partial/lock", "%2epartial/lock", "ann/file/", "ann%2ffile",
    ],
)  # fmt: skip
def test_encoded_and_plain_ways_out_of_the_directory_lead_nowhere(
    shared: tuple[Path, Browser], path: str
) -> None:
    """The answer is that of a file that is not there."""
    output, browser = shared
    (output.parent / "secret").write_bytes(b"secret")
    answer = browser.get(f"{FILES}/{path}", READER)
    assert answer.status in (400, 404)
    assert b"secret" not in answer.body


def test_symlinks_are_neither_listed_nor_fetched(shared: tuple[Path, Browser]) -> None:
    """As leaf and as ancestor."""
    output, browser = shared
    (output / "ann" / "leaf").symlink_to(output / "annex" / "file")
    (output / "ann" / "folder").symlink_to(output / "annex")
    assert names(browser, "", ANN) == ["file"]
    for path in ("ann/leaf", "ann/folder", "ann/folder/file"):
        assert browser.get(f"{FILES}/{path}", ANN).status == 404
    assert browser.get(f"{FILES}?dir=ann/folder", ANN).status == 404


def test_ann_is_not_annex(shared: tuple[Path, Browser]) -> None:
    """A directory whose name begins alike is another one."""
    _, browser = shared
    assert browser.get(f"{FILES}/ann/file", ANN).body == b"ann"
    assert browser.get(f"{FILES}/annex/file", ANN).status == 404
    assert browser.get(f"{FILES}/ann/file", ANNEX).status == 404
    assert browser.get(f"{FILES}?dir=annex", ANN).status == 404


def test_forbidden_and_absent_answer_alike(shared: tuple[Path, Browser]) -> None:
    """Byte for byte, except the time."""
    _, browser = shared
    forbidden = browser.get(f"{FILES}/annex/file", ANN)
    absent = browser.get(f"{FILES}/annex/none", ANN)
    assert forbidden._replace(fields={}) == absent._replace(fields={})
    assert {**forbidden.fields, "date": ""} == {**absent.fields, "date": ""}
    assert browser.get(f"{FILES}?dir=annex", ANN).body == forbidden.body
    assert browser.get(f"{FILES}?dir=none", ANN).body == forbidden.body


def test_the_right_to_read_all_is_explicit(shared: tuple[Path, Browser]) -> None:
    """It opens every directory, and shows nothing that is hidden."""
    _, browser = shared
    assert names(browser, "", READER) == ["ann", "annex", "root"]
    assert names(browser, "?dir=annex", READER) == ["file"]
    assert browser.get(f"{FILES}/annex/file", READER).body == b"annex"


def test_without_a_directory_users_have_what_they_sent(
    site: ServerThread, sent: Path, browser: Browser
) -> None:
    """The output directory is shared: the history tells whose each file is."""
    Tus(browser, ADMIN).create(0, "other")
    (site.output / "stray").write_bytes(b"stray")
    (site.output / "ann").mkdir()
    assert names(browser) == [sent.name]
    others = set(names(browser, "", ADMIN)) - {sent.name}
    assert {"ann", "stray"} < others
    for name in others:
        assert browser.get(f"{FILES}/{name}", USER1).status == 404
    assert fetch(browser, sent, ADMIN).body == DATA


def test_without_a_history_users_without_a_directory_are_told_why_they_see_nothing(
    site: ServerThread, sent: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else says whose a file is. Who may read all sees all, without digests."""
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    eventually(lambda: names(browser, "", ADMIN) == [sent.name])
    for answer in (browser.get(FILES, USER1), fetch(browser, sent)):
        assert answer.status == 501
        assert "sqlite3" in answer.json()["detail"]
    assert fetch(browser, sent, ADMIN).body == DATA


def test_a_directory_that_was_sent_is_the_senders_with_all_in_it(
    start_local: StartLocal, output: Path
) -> None:
    """And so are the sums beside it; the digest of those is told."""
    outcome = Outcome(1, RECEIVED, "user1", "d", 3, "received_d", "ab", "md5", files=1)
    database = Database(output)
    database.add([outcome])
    database.close()
    (output / "received_d" / "in").mkdir(parents=True)
    (output / "received_d" / "in" / "x").write_bytes(b"abc")
    (output / "received_d.md5").write_bytes(b"sums")
    with Browser(web_port(start_local(http=WEB, output=output))) as browser:
        assert names(browser) == ["received_d", "received_d.md5"]
        (entry, _) = browser.get(FILES, USER1).json()["entries"]
        assert (entry["kind"], entry["digest"], entry["size"]) == ("directory", "ab", None)
        assert names(browser, "?dir=received_d/in") == ["x"]
        assert browser.get(f"{FILES}/received_d/in/x", USER1).body == b"abc"
        assert browser.get(f"{FILES}/received_d.md5", USER1).body == b"sums"
        assert browser.get(f"{FILES}/received_d", USER1).status == 404


def test_nobody_reads_without_a_login(sent: Path, browser: Browser) -> None:
    """Neither files nor their names."""
    assert browser.get(FILES).status == 401
    assert fetch(browser, sent, {}).status == 401


# --- listing ------------------------------------------------------------------------------------


def test_an_entry_says_what_is_known_of_a_file(sent: Path, browser: Browser) -> None:
    """Size, time, original name, the digest of the history, and where to fetch it."""
    (entry,) = browser.get(FILES, USER1).json()["entries"]
    assert entry["original_name"] == "näme.bin"
    assert (entry["size"], entry["kind"]) == (len(DATA), "file")
    assert entry["modified"] == pytest.approx(sent.stat().st_mtime)
    assert entry["digest"] == hashlib.sha256(DATA).hexdigest()
    assert entry["algorithm"] == "sha256"
    assert browser.get(entry["href"], USER1).body == DATA


def test_a_digest_of_other_bytes_is_not_told(sent: Path, browser: Browser) -> None:
    """Of a file that has another size by now."""
    with sent.open("ab") as file:
        file.write(b"more")
    (entry,) = browser.get(FILES, USER1).json()["entries"]
    assert entry["digest"] is None
    assert "repr-digest" not in fetch(browser, sent).fields


def test_pages_follow_one_another(shared: tuple[Path, Browser]) -> None:
    """By the Link field as by the cursor in the page."""
    output, browser = shared
    for number in range(7):
        (output / "ann" / f"f{number}").touch()
    found, target = [], f"{FILES}?limit=3&sort=-name"
    while target:
        answer = browser.get(target, ANN)
        found += [entry["name"] for entry in answer.json()["entries"]]
        link = answer.fields.get("link", "")
        assert bool(link) == (answer.json()["next"] is not None)
        target = link.partition("<")[2].partition(">")[0]
    assert found == ["file", *(f"f{number}" for number in reversed(range(7)))]


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=x", "?sort=owner", "?after=x", "?other=1",
              "?sort=size&after=WyJ4Il0"],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(browser: Browser, query: str) -> None:
    """With a reason that says what it may be."""
    answer = browser.get(FILES + query, USER1)
    assert answer.status == 400
    assert answer.json()["detail"]


def test_unfinished_files_are_listed_apart(site: ServerThread, browser: Browser) -> None:
    """With their progress, for those who may know of them."""
    tus = Tus(browser)
    place = tus.create(len(DATA), "half.bin")
    tus.patch(place, 0, DATA[:250_000])
    told = browser.get(FILES, USER1).json()
    assert told["entries"] == []
    (one,) = told["unfinished"]
    assert (one["name"], one["size"], one["state"]) == ("half.bin", len(DATA), "arriving")
    assert 0 < one["received"] < len(DATA)
    assert place.endswith(one["upload"])
    (seen,) = browser.get(FILES, ADMIN).json()["unfinished"]
    assert (seen["user"], seen["upload"]) == ("user1", None)


def test_unfinished_files_are_looked_at_in_short_steps(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk the only worker has time for others between two of them."""
    output, number, looked = tmp_path / "output", 50, []
    (output / PARTIAL).mkdir(parents=True)
    for unique in range(number):
        leave_part(output, unique=str(unique), name=f"{unique}.bin")

    def count(journal: Journal) -> int:
        looked.append(journal)
        time.sleep(0.02)
        return 1

    monkeypatch.setattr(Journal, "count", count)
    site = start_local(http=WEB, workers=1, output=output)
    eventually(lambda: site.server.parts.scanned)
    with Browser(web_port(site)) as browser, Browser(web_port(site)) as other:
        browser.send(request("GET", FILES, ADMIN))
        eventually(lambda: looked)
        assert other.get("/healthz").status == 200
        assert len(looked) < number
        assert len(browser.answer().json()["unfinished"]) == number


def test_get_changes_nothing(sent: Path, browser: Browser) -> None:
    """Neither a listing nor a file."""
    before = os.listdir(sent.parent), sent.stat()
    names(browser)
    fetch(browser, sent)
    now = os.listdir(sent.parent), sent.stat()
    assert now[0] == before[0]
    assert now[1].st_mtime_ns == before[1].st_mtime_ns
