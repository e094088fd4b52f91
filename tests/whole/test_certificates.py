"""Certificates: those that are not to be trusted, and those that are renewed."""

from __future__ import annotations

import signal
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import config
from lft.wire.tls import server_tls
from protocol import IntegrityOk
from tests.support.accounts import VERIFIER, Serve
from tests.support.certificates import Pair, Pki, tls, tls_options
from tests.support.files import random_file, received
from tests.support.local import StartLocal
from tests.support.outputs import lines
from tests.support.processes import ServerProcess, StartServer, run_client
from tests.support.rawpeer import Peer
from tests.support.waiting import eventually

# --- certificates that are not to be trusted ----------------------------------------------------


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("localhost", {"not_after": "past"}, "certificate has expired; the server needs a new one"),
        ("elsewhere.example", {}, "give --server the name that it is for"),
        ("localhost", None, "issuer certificate; if it is the server's own, give --ca"),
    ],
    ids=["expired", "wrong host", "untrusted"],
)
def test_a_certificate_that_is_not_to_be_trusted_is_exit_3(
    start_local: StartLocal,
    tmp_path: Path,
    host: str,
    options: dict[str, str] | None,
    words: str,
) -> None:
    """27: the client says why, once, and sends nothing."""
    own = Pki(tmp_path)
    dates = {"not_after": datetime(2020, 1, 2), "not_before": datetime(2020, 1, 1)}
    pair = own.issue("bad", host, **(dates if options else {}))
    (tmp_path / "foreign").mkdir()
    ca = own.ca if options is not None else Pki(tmp_path / "foreign").ca
    local = start_local(**tls(pair))
    done = run_client(local.port, random_file(tmp_path / "x", 10), "--ca", ca)
    assert done.returncode == 3
    assert "certificate is not to be trusted" in done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert received(local.output) == []


# --- a renewed certificate ----------------------------------------------------------------------


@pytest.fixture
def renewable(start_server: StartServer, pki: Pki, tmp_path: Path) -> tuple[ServerProcess, Pair]:
    """A real server whose certificate can be exchanged."""
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    _exchange(pair, pki.server)
    return start_server(*tls_options(pair)), pair


def _exchange(pair: Pair, new: Pair) -> None:
    pair.cert.write_bytes(new.cert.read_bytes())
    pair.key.write_bytes(new.key.read_bytes())


def _shown(server: ServerProcess) -> str:
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def test_sighup_brings_a_new_certificate_without_a_restart(
    renewable: tuple[ServerProcess, Pair], pki: Pki
) -> None:
    """27: new connections see it, and logins are bound to it; a session goes on."""
    server, pair = renewable
    assert _shown(server) == pki.server.cert.read_text()
    with Peer(server.port, ca=pki.ca).log_in("user1", "password1") as before:
        _exchange(pair, pki.other)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "has been read again" in server.log, "the new certificate")
        assert _shown(server) == pki.other.cert.read_text()
        with Peer(server.port, ca=pki.ca) as after:
            after.log_in("user1", "password1")
        upload = before.start("x", b"x" * 10)
        upload.send(before.attach(), 0)
        assert isinstance(upload.complete(), IntegrityOk)


def test_sighup_with_a_broken_certificate_keeps_the_old_one(
    renewable: tuple[ServerProcess, Pair], pki: Pki
) -> None:
    """27: one line says so."""
    server, pair = renewable
    pair.key.write_bytes(pki.other.key.read_bytes())
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "stays in use" in server.log, "the complaint")
    assert _shown(server) == pki.server.cert.read_text()
    eventually(lambda: server.log.count("stays in use") == 1)


def test_a_certificate_replaced_while_it_is_read_does_not_break_logins(
    serve: Serve, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27: logins are bound to the one that is shown, whichever of the two that is."""
    pair = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    _exchange(pair, pki.server)
    load = server_tls

    def replaced(cert: Path, key: Path) -> ssl.SSLContext:
        context = load(cert, key)
        _exchange(pair, pki.other)
        return context

    monkeypatch.setattr("lft.wire.tls.server_tls", replaced)
    local = serve({"alice": VERIFIER}, **tls(pair))
    with Peer(local.port, ca=pki.ca) as peer:
        peer.log_in()


# --- a certificate that ends --------------------------------------------------------------------


def ending_in(folder: Path, **distance: int) -> Pair:
    """Issue a certificate that ends so far from now."""
    now = datetime.now(timezone.utc)
    return Pki(folder).issue(
        "ending", not_before=now - timedelta(days=90), not_after=now + timedelta(**distance)
    )


@pytest.mark.parametrize(
    ("distance", "words"),
    [({"days": 13}, "it expires on 20"), ({"hours": -1}, "it expired on 20")],
    ids=["soon", "over"],
)
def test_a_certificate_that_ends_is_warned_of_at_the_start(
    start_server: StartServer, tmp_path: Path, distance: dict[str, int], words: str
) -> None:
    """27: the operator hears of it before the clients do."""
    pair = ending_in(tmp_path, **distance)
    server = start_server(*tls_options(pair))
    eventually(lambda: f"WARNING server      ⚠️ TLS certificate {pair.cert}: {words}" in server.log)


def test_a_certificate_that_ends_is_warned_of_when_it_is_read_again(
    renewable: tuple[ServerProcess, Pair], tmp_path: Path
) -> None:
    """27: the wrong file was copied."""
    server, pair = renewable
    assert "expire" not in server.log
    _exchange(pair, ending_in(tmp_path, days=2))
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "it expires on 20" in server.log, "the warning")


def test_a_certificate_that_ends_is_warned_of_again_and_again(
    start_local: StartLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """27: once a day, which is a short one here."""
    monkeypatch.setattr(config, "CERTIFICATE_LOOK_EVERY", 0.02)
    start_local(**tls(ending_in(tmp_path, days=2)))
    eventually(lambda: len(lines(caplog, "it expires on")) > 2, "the warnings")
