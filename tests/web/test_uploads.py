"""Uploads by tus, request by request."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

import config
from lft.store.history import History, Query
from lft.web.fields import repr_digest
from tests.support.certificates import Pki, tls
from tests.support.files import part_files, received
from tests.support.local import ServerThread, StartLocal
from tests.support.tus import KIND, UPLOADS, USER1, Tus, checksum, metadata
from tests.support.waiting import eventually
from tests.support.web import ADMIN, Answer, Browser, web_port

DATA = os.urandom(500_000)
SHA = hashlib.sha256(DATA).hexdigest()
WEB = ("localhost", 0)


@pytest.fixture(name="tus")
def _tus(browser: Browser) -> Tus:
    return Tus(browser)


def unfinished(output: Path) -> list[str]:
    """Return what there is of unfinished files."""
    known = (".part", ".journal", ".upload")
    return [path.name for path in (output / ".partial").iterdir() if path.suffix in known]


def verdict(answer: Answer) -> tuple[str, str]:
    """Return verdict and proof."""
    return answer.fields["lft-verdict"], answer.fields["lft-proof"]


# --- the protocol -------------------------------------------------------------------------------


def test_options_tell_what_is_spoken(browser: Browser) -> None:
    """Before any login."""
    answer = browser.ask("OPTIONS", UPLOADS)
    assert answer.status == 204
    assert answer.fields["tus-version"] == "1.0.0"
    extensions = "creation,creation-with-upload,checksum,expiration,termination"
    assert answer.fields["tus-extension"] == extensions
    assert "sha1" in answer.fields["tus-checksum-algorithm"].split(",")


def test_a_file_arrives_in_pieces(site: ServerThread, tus: Tus) -> None:
    """Of any size; the last one is answered once the file has its final name."""
    place = tus.create(len(DATA), "a b.bin")
    assert not place.startswith("http")
    assert tus.patch(place, 0, DATA[:300_001]).status == 204
    assert tus.offset(place) == 300_001
    answer = tus.patch(place, 300_001, DATA[300_001:])
    assert answer.status == 204
    assert answer.fields["upload-offset"] == str(len(DATA))
    (path,) = received(site.output)
    assert path.name.endswith("_a b.bin")
    assert path.read_bytes() == DATA
    assert answer.fields["lft-saved-as"].replace("%20", " ") == path.name
    assert answer.fields["lft-digest"] == f"sha256 {SHA}"


def test_the_first_bytes_may_come_with_the_creation(site: ServerThread, tus: Tus) -> None:
    """Creation With Upload."""
    fields = {**KIND, "Upload_Length": len(DATA)}
    answer = tus.ask("POST", UPLOADS, DATA[:70_000], **fields)
    assert (answer.status, answer.fields["upload-offset"]) == (201, "70000")
    place = answer.fields["location"]
    assert tus.patch(place, 70_000, DATA[70_000:]).status == 204
    whole = tus.ask("POST", UPLOADS, DATA, **fields)
    assert (whole.status, whole.fields["lft-proof"]) == (201, "server-only")
    assert [path.read_bytes() for path in received(site.output)] == [DATA] * 2


def test_an_empty_file_arrives(site: ServerThread, tus: Tus) -> None:
    """With its creation: there is nothing to send."""
    tus.create(0)
    (path,) = received(site.output)
    assert path.read_bytes() == b""


def test_head_tells_all_of_an_upload(tus: Tus) -> None:
    """Its length, its metadata as they were given, and that no cache may keep the answer."""
    place = tus.create(9, "naïve.bin", kind="x")
    answer = tus.ask("HEAD", place)
    assert answer.fields["upload-length"] == "9"
    assert answer.fields["upload-metadata"] == metadata(filename="naïve.bin", kind="x")
    assert answer.fields["cache-control"] == "no-store"
    assert answer.fields["tus-resumable"] == "1.0.0"
    assert answer.fields["upload-expires"].endswith(" GMT")


def test_a_wrong_offset_is_refused(tus: Tus) -> None:
    """The answer says the right one."""
    place = tus.create(10)
    answer = tus.patch(place, 3, b"abc")
    assert (answer.status, answer.fields["upload-offset"]) == (409, "0")


def test_a_post_may_stand_for_another_method(tus: Tus) -> None:
    """For what lets no PATCH through."""
    place = tus.create(10)
    fields = {**KIND, "Upload_Offset": 0}
    answer = tus.ask("POST", place, b"abc", X_HTTP_Method_Override="PATCH", **fields)
    assert (answer.status, answer.fields["upload-offset"]) == (204, "3")
    assert tus.ask("POST", place, X_HTTP_Method_Override="DELETE").status == 204


def test_another_version_is_refused(browser: Browser) -> None:
    """And told which one is spoken."""
    answer = browser.ask("POST", UPLOADS, {**USER1, "Upload-Length": "1"})
    assert (answer.status, answer.fields["tus-version"]) == (412, "1.0.0")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Upload_Length": "x"},
        {"Upload_Length": -1},
        {"Upload_Length": 1, "Upload_Metadata": "a !"},
        {"Upload_Length": 1, "Upload_Metadata": metadata(filename="..")},
        {"Upload_Length": 1, "Upload_Metadata": metadata(sha256="zz")},
        {"Upload_Length": 1, "Upload_Metadata": metadata(filename="x" * 2000)},
        {"Upload_Defer_Length": 1},
    ],
)
def test_an_upload_that_cannot_be_is_refused(
    site: ServerThread, tus: Tus, fields: dict[str, Any]
) -> None:
    """With a reason, and nothing left behind."""
    answer = tus.ask("POST", UPLOADS, **fields)
    assert answer.status == 400
    assert answer.json()["detail"]
    assert unfinished(site.output) == []


# --- checksums and proofs -----------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_wrong_checksum_undoes_its_patch(site: ServerThread, tus: Tus, algorithm: str) -> None:
    """None of its bytes count, and the right ones go in their place."""
    place = tus.create(len(DATA))
    assert tus.patch(place, 0, DATA[:1000], **checksum(DATA[:1000], algorithm)).status == 204
    wrong = tus.patch(place, 1000, b"?" * 450_000, **checksum(DATA[1000:451_000], algorithm))
    assert wrong.status == 460
    assert tus.offset(place) == 1000
    answer = tus.patch(place, 1000, DATA[1000:], **checksum(DATA[1000:], algorithm))
    assert verdict(answer) == ("STORED", "chunk-checksums")
    assert received(site.output)[0].read_bytes() == DATA


def test_the_journal_claims_no_block_before_its_checksum(
    site: ServerThread, tus: Tus, browser: Browser
) -> None:
    """A PATCH with a checksum that is cut leaves nothing that could be gone on with."""
    place = tus.create(len(DATA))
    with Browser(web_port(site)) as other:
        Tus(other).begin_patch(place, len(DATA), DATA[:450_000], **checksum(DATA))
        (part,) = part_files(site.output)
        eventually(lambda: part.read_bytes()[:400_000] == DATA[:400_000])
    journal = part.with_suffix(".journal").read_bytes()
    assert journal.endswith(b"\n")  # one line, and no record
    assert tus.offset(place) == 0


def test_only_a_digest_of_the_clients_makes_integrity_ok(tus: Tus) -> None:
    """From the metadata, from Repr-Digest, or none: a receipt does not say more than was shown."""
    place = tus.create(len(DATA), sha256=SHA)
    assert verdict(tus.patch(place, 0, DATA)) == ("INTEGRITY_OK", "client-digest")
    place = tus.create(len(DATA), md5=hashlib.md5(DATA).hexdigest())
    assert verdict(tus.patch(place, 0, DATA)) == ("INTEGRITY_OK", "client-digest")
    place = tus.create(len(DATA))
    answer = tus.patch(place, 0, DATA, Repr_Digest=repr_digest(SHA))
    assert verdict(answer) == ("INTEGRITY_OK", "client-digest")
    place = tus.create(len(DATA))
    assert verdict(tus.patch(place, 0, DATA)) == ("STORED", "server-only")
    place = tus.create(len(DATA))
    tus.patch(place, 0, DATA[:9], **checksum(DATA[:9]))
    assert verdict(tus.patch(place, 9, DATA[9:])) == ("STORED", "server-only")


def test_another_digest_than_the_clients_publishes_nothing(site: ServerThread, tus: Tus) -> None:
    """As on the wire: nothing of it is kept."""
    place = tus.create(len(DATA), sha256=hashlib.sha256(b"other").hexdigest())
    answer = tus.patch(place, 0, DATA)
    assert answer.status == 422
    assert received(site.output) == []
    eventually(lambda: unfinished(site.output) == [])


# --- whose upload it is -------------------------------------------------------------------------


def test_the_owner_is_checked_on_every_verb(tus: Tus, browser: Browser) -> None:
    """Another user hears what one hears of an upload that never was, whatever rights it has."""
    place, admin = tus.create(10), Tus(browser, ADMIN)
    for other in (place, f"{UPLOADS}/{'0' * 32}"):
        answers = [
            admin.ask("HEAD", other), admin.patch(other, 0, b"x"), admin.ask("DELETE", other)
        ]  # fmt: skip
        assert [answer.status for answer in answers] == [404] * 3
    assert tus.offset(place) == 0


def test_upload_ids_are_random(tus: Tus) -> None:
    """No id says anything about another one."""
    ids = {tus.create(1).rpartition("/")[2] for _ in range(8)}
    assert len(ids) == 8
    assert all(len(one) >= 32 for one in ids)
    assert len({one[:4] for one in ids}) == 8


def test_nobody_sends_without_a_login(browser: Browser) -> None:
    """Only what OPTIONS says is for all."""
    fields = {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}
    assert browser.ask("POST", UPLOADS, fields).status == 401


# --- limits -------------------------------------------------------------------------------------


def test_the_body_limit_comes_before_hashing(site: ServerThread, tus: Tus) -> None:
    """What cannot belong to the file is refused before a byte of it is read."""
    place = tus.create(10)
    kind = {**KIND, "Upload_Offset": 0}
    answer = tus.ask("PATCH", place, Content_Length=11, Expect="100-continue", **kind)
    assert (answer.status, answer.fields["connection"]) == (413, "close")
    with Browser(web_port(site)) as other:
        again = Tus(other)
        assert again.offset(place) == 0
        fields = {**KIND, "Upload_Length": 5}
        answer = again.ask("POST", UPLOADS, Content_Length=6, Expect="100-continue", **fields)
        assert answer.status == 413


def test_the_limits_of_the_wire_hold_for_uploads(start_local: StartLocal) -> None:
    """Size and extension, before a byte is sent, and the content once its beginning is here."""
    site = start_local(http=WEB, max_file_size=1000, allow_ext=(".png", ".txt"))
    with Browser(web_port(site)) as browser:
        tus = Tus(browser)
        for size, name, status in ((1001, "x.txt", 413), (10, "x.exe", 415)):
            said = metadata(filename=name)
            answer = tus.ask("POST", UPLOADS, Upload_Length=size, Upload_Metadata=said)
            assert answer.status == status, answer
        answer = tus.patch(tus.create(100, "x.png"), 0, b"no picture" * 10)
        assert answer.status == 415
        assert browser.ask("OPTIONS", UPLOADS).fields["tus-max-size"] == "1000"
        assert received(site.output) == []


def test_an_upload_beyond_the_disk_is_refused(tus: Tus) -> None:
    """Before it begins, with a status that says so."""
    answer = tus.ask("POST", UPLOADS, Upload_Length=2**40)
    assert answer.status == 507


# --- interruptions ------------------------------------------------------------------------------


def test_a_cut_patch_keeps_what_came(site: ServerThread, tus: Tus) -> None:
    """All bytes that arrived count, where no checksum was to follow."""
    place = tus.create(len(DATA))
    with Browser(web_port(site)) as other:
        Tus(other).begin_patch(place, len(DATA), DATA[:250_000])
        (part,) = part_files(site.output)
        eventually(lambda: part.read_bytes()[:200_000] == DATA[:200_000])
    eventually(lambda: tus.offset(place) == 250_000)
    assert tus.patch(place, 250_000, DATA[250_000:]).status == 204
    assert received(site.output)[0].read_bytes() == DATA


def test_the_newest_request_ends_an_older_one_that_hangs(site: ServerThread, tus: Tus) -> None:
    """A client whose connection died comes back long before the server knows of that."""
    place = tus.create(len(DATA))
    with Browser(web_port(site)) as old:
        Tus(old).begin_patch(place, len(DATA), DATA[:250_000])
        (part,) = part_files(site.output)
        eventually(lambda: part.read_bytes()[:200_000] == DATA[:200_000])
        offset = tus.offset(place)
        assert tus.patch(place, offset, DATA[offset : offset + 9]).status == 204
        old.send(DATA[250_000:260_000])
        assert old.answer("PATCH").status == 409
        assert tus.patch(place, offset + 9, DATA[offset + 9 :]).status == 204
    assert received(site.output)[0].read_bytes() == DATA


def test_the_offset_after_a_restart_is_the_last_right_block(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """What the part file has is hashed before it is relied on; metadata and proof stay, too."""
    first = start_local(http=WEB, output=tmp_path / "o")
    with Browser(web_port(first)) as browser:
        tus = Tus(browser)
        place = tus.create(len(DATA), sha256=SHA)
        tus.patch(place, 0, DATA[:450_000])
    first.stop()
    (part,) = (tmp_path / "o" / ".partial").glob("*.part")
    with part.open("r+b") as file:
        file.seek(config.BLOCK_SIZE + 5)
        file.write(b"????")
    second = start_local(http=WEB, output=tmp_path / "o")
    with Browser(web_port(second)) as browser:
        tus = Tus(browser)
        assert tus.offset(place) == config.BLOCK_SIZE
        assert "sha256" in tus.ask("HEAD", place).fields["upload-metadata"]
        answer = tus.patch(place, config.BLOCK_SIZE, DATA[config.BLOCK_SIZE :])
        assert verdict(answer) == ("INTEGRITY_OK", "client-digest")
    assert received(second.output)[0].read_bytes() == DATA


def test_a_finished_upload_is_still_known_after_a_restart(
    start_local: StartLocal, tmp_path: Path
) -> None:
    """A client that has missed the last answer asks again, and sends nothing twice."""
    first = start_local(http=WEB, output=tmp_path / "o")
    with Browser(web_port(first)) as browser:
        tus = Tus(browser)
        place = tus.create(len(DATA))
        tus.patch(place, 0, DATA)
        assert tus.offset(place) == len(DATA)
    first.stop()
    second = start_local(http=WEB, output=tmp_path / "o")
    with Browser(web_port(second)) as browser:
        tus = Tus(browser)
        assert tus.offset(place) == len(DATA)
        assert tus.patch(place, len(DATA), b"", Content_Length=0).status == 204
        assert tus.ask("DELETE", place).status == 204
        assert tus.ask("HEAD", place).status == 404
    assert len(received(second.output)) == 1


def test_an_upload_that_rests_goes_on(start_local: StartLocal) -> None:
    """It gives its place up when nothing comes, and has it again when its client asks."""
    site = start_local(http=WEB, stall_timeout=0.2)
    with Browser(web_port(site)) as browser:
        tus = Tus(browser)
        place = tus.create(len(DATA))
        tus.patch(place, 0, DATA[:300_000], **checksum(DATA[:300_000]))
        eventually(lambda: not site.server.admission.active())
        assert tus.offset(place) == config.BLOCK_SIZE
        rest = DATA[config.BLOCK_SIZE :]
        answer = tus.patch(place, config.BLOCK_SIZE, rest, **checksum(rest))
        assert verdict(answer) == ("STORED", "chunk-checksums")


def test_an_upload_that_has_nothing_yet_is_not_forgotten(start_local: StartLocal) -> None:
    """Its client was told an id that is good for days."""
    site = start_local(http=WEB, stall_timeout=0.2)
    with Browser(web_port(site)) as browser:
        tus = Tus(browser)
        place = tus.create(len(DATA))
        eventually(lambda: not site.server.admission.active())
        assert tus.patch(place, tus.offset(place), DATA).status == 204


def test_any_server_of_a_shared_directory_goes_on(start_local: StartLocal, tmp_path: Path) -> None:
    """With what another one has let go, or this one itself; and each can give it up."""
    both = {"http": WEB, "output": tmp_path / "o", "shared": True}
    ports = [web_port(start_local(**both)) for _ in range(2)]
    with Browser(ports[0]) as one, Browser(ports[1]) as two:
        first, second = Tus(one), Tus(two)
        place, other = first.create(len(DATA), sha256=SHA), first.create(10)
        first.patch(place, 0, DATA[:450_000])
        eventually(lambda: second.ask("HEAD", place).status == 200)
        assert second.offset(place) == 2 * config.BLOCK_SIZE
        answer = second.patch(place, 2 * config.BLOCK_SIZE, DATA[2 * config.BLOCK_SIZE :])
        assert verdict(answer) == ("INTEGRITY_OK", "client-digest")
        assert first.offset(place) == len(DATA)
        assert second.ask("DELETE", other).status == 204
        assert first.ask("HEAD", other).status == 404


def test_requests_may_come_to_one_server_after_the_other(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lets an upload go soon after its last request, which is no outcome; one file arrives."""
    monkeypatch.setattr(config, "UPLOAD_RESTS_AFTER", 0.2)
    data = os.urandom(5 * config.BLOCK_SIZE)
    both = {"http": WEB, "output": tmp_path / "o", "shared": True}
    sites = [start_local(**both) for _ in range(2)]
    with Browser(web_port(sites[0])) as one, Browser(web_port(sites[1])) as two:
        clients = [Tus(one), Tus(two)]
        place = clients[0].create(len(data))
        for number in range(5):
            tus, start = clients[number % 2], number * config.BLOCK_SIZE
            assert tus.offset(place) == start
            answer = tus.patch(place, start, data[start : start + config.BLOCK_SIZE])
            assert answer.status == 204
        assert clients[1].offset(place) == len(data)
    assert [path.read_bytes() for path in received(sites[0].output)] == [data]
    history = History(sites[0].output)
    eventually(lambda: [one.outcome for one in history.page(Query()).entries] == ["received"])


def test_an_upload_that_was_begun_anew_beside_another_is_one_upload(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stood still had it: its half counts no more, and goes with the upload."""
    monkeypatch.setattr(config, "HELD_LEAST", 0.2)
    both = {"http": WEB, "output": tmp_path / "o", "shared": True}
    frozen, site = start_local(**both), start_local(**both)
    monkeypatch.setattr(frozen.server.lifecycle, "expire", lambda _: None)
    with Browser(web_port(frozen)) as one, Browser(web_port(site)) as two:
        place, tus = Tus(one).create(len(DATA)), Tus(two)
        Tus(one).patch(place, 0, DATA[:450_000])
        assert tus.offset(place) == 0
        frozen.stop()
        assert tus.patch(place, 0, DATA[:210_000]).status == 204
    site.stop()
    assert len(part_files(site.output)) == 2
    with Browser(web_port(start_local(**both))) as browser:
        tus = Tus(browser)
        assert tus.offset(place) == config.BLOCK_SIZE  # of the newer one
        assert tus.ask("DELETE", place).status == 204
    assert unfinished(site.output) == []


def test_an_upload_that_is_given_up_leaves_nothing(site: ServerThread, tus: Tus) -> None:
    """Termination."""
    place = tus.create(len(DATA))
    tus.patch(place, 0, DATA[:300_000])
    assert tus.ask("DELETE", place).status == 204
    assert tus.ask("HEAD", place).status == 404
    eventually(lambda: unfinished(site.output) == [])


def test_a_file_sent_both_ways_arrives_twice(site: ServerThread, tus: Tus) -> None:
    """Neither door goes on with what the other has left."""
    from client import send_files  # noqa: PLC0415

    place = tus.create(len(DATA), "same.bin")
    tus.patch(place, 0, DATA[:450_000])
    source = site.output.parent / "same.bin"
    source.write_bytes(DATA)
    (receipt,) = send_files([source], site.client())
    assert receipt.resumed_bytes == 0
    assert tus.patch(place, 450_000, DATA[450_000:]).status == 204
    assert [path.read_bytes() for path in received(site.output)] == [DATA] * 2


def test_a_queued_upload_begins_when_there_is_a_place(start_local: StartLocal) -> None:
    """Its creation is answered at once; bytes wait for the place."""
    site = start_local(http=WEB, max_active=1)
    with Browser(web_port(site)) as one, Browser(web_port(site)) as two:
        first, second = Tus(one), Tus(two)
        place, later = first.create(len(DATA)), second.create(len(DATA))
        second.begin_patch(later, len(DATA), DATA)
        assert first.patch(place, 0, DATA).status == 204
        assert two.answer("PATCH").status == 204


# --- beside the wire ----------------------------------------------------------------------------


def test_the_history_tells_of_uploads(site: ServerThread, tus: Tus) -> None:
    """Of those that arrived and of those that were refused, with their door."""
    tus.patch(tus.create(len(DATA), "x.bin"), 0, DATA)
    tus.ask("POST", UPLOADS, Upload_Length=2**40, Upload_Metadata=metadata(filename="large.bin"))
    history = History(site.output)
    eventually(lambda: len(history.page(Query()).entries) == 2)
    refused, arrived = history.page(Query()).entries
    assert (arrived.outcome, arrived.name, arrived.door) == ("received", "x.bin", "tus")
    assert (arrived.digest, arrived.wire_bytes) == (SHA, len(DATA))
    assert arrived.address in ("127.0.0.1", "::1")
    assert (refused.outcome, refused.code, refused.door) == ("refused", "space", "tus")


def test_the_history_tells_what_a_digest_was_compared_with(site: ServerThread, tus: Tus) -> None:
    """And which digest it is, over all of the file: as the answer has it, and Repr-Digest."""
    md5 = hashlib.md5(DATA).hexdigest()
    answers = [
        tus.patch(tus.create(len(DATA), md5=md5), 0, DATA),
        tus.patch(tus.create(len(DATA)), 0, DATA, **checksum(DATA)),
        tus.patch(tus.create(len(DATA)), 0, DATA),
    ]
    history = History(site.output)
    eventually(lambda: len(history.page(Query()).entries) == 3)
    noted = history.page(Query()).entries[::-1]
    assert [(one.proof, one.algorithm, one.digest) for one in noted] == [
        ("client-digest", "md5", md5), ("chunk-checksums", "sha256", SHA),
        ("server-only", "sha256", SHA),
    ]  # fmt: skip
    for one, answer in zip(noted, answers):
        fetched = tus.browser.get(f"/api/v1/files/{one.saved_as}", USER1)
        assert answer.fields["lft-digest"] == f"{one.algorithm} {one.digest}"
        given = repr_digest(SHA) if one.algorithm == "sha256" else None
        assert answer.fields.get("repr-digest") == fetched.fields.get("repr-digest") == given
        assert hashlib.new(one.algorithm, fetched.body).hexdigest() == one.digest


def test_the_limit_of_the_server_holds_for_uploads(start_local: StartLocal) -> None:
    """It rests between two pieces, and no worker waits with it."""
    site = start_local(http=WEB, limit=300_000)
    with Browser(web_port(site)) as browser:
        tus = Tus(browser)
        place, began = tus.create(len(DATA)), time.monotonic()
        tus.patch(place, 0, DATA[:400_000])
        tus.patch(place, 400_000, DATA[400_000:])
    assert time.monotonic() - began > (len(DATA) - 300_000 * config.BURST) / 300_000 - 0.7


def test_uploads_and_downloads_go_over_tls(start_local: StartLocal, pki: Pki) -> None:
    """With the certificate of the wire."""
    site = start_local(http=WEB, **tls(pki.server))
    with Browser(web_port(site), ca=pki.ca) as browser:
        tus = Tus(browser)
        answer = tus.patch(tus.create(len(DATA)), 0, DATA)
        path = answer.fields["lft-saved-as"]
        assert browser.get(f"/api/v1/files/{path}", USER1).body == DATA
        part = browser.get(f"/api/v1/files/{path}", {**USER1, "Range": "bytes=400000-"})
        assert part.body == DATA[400_000:]
