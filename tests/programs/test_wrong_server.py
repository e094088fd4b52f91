"""A client at a server that is not the one it wants: it says so, and what to do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests.support.certificates import Pair, Pki, tls, tls_options
from tests.support.files import random_file
from tests.support.local import StartLocal
from tests.support.processes import StartServer, run_client
from tests.support.waiting import PATIENCE, eventually
from tests.tools.proxy import reserve_port

Answer = Callable[[socket.socket], None]


@contextlib.contextmanager
def service(answer: Answer) -> Iterator[int]:
    """Run another program's server, which gives ``answer`` to each client; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, contextlib.suppress(OSError):
                        client.settimeout(PATIENCE)
                        answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE)


def says(words: bytes) -> Answer:
    """Make the answer of a service that says ``words``, whatever it hears."""

    def answer(client: socket.socket) -> None:
        client.sendall(words)
        while client.recv(4096):
            pass

    return answer


@pytest.mark.parametrize(
    ("words", "spoken"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the peer speaks SSH, not this protocol"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the peer speaks HTTP, not this protocol"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "the peer speaks TLS, not this protocol"),
        (b"220 mail.example ESMTP\r\n", "a frame of impossible length"),
    ],
)
def test_the_port_of_another_program_is_said(tmp_path: Path, words: bytes, spoken: str) -> None:
    """At once, with what it speaks, and what may be wrong."""
    with service(says(words)) as port:
        done = run_client(port, random_file(tmp_path / "x", 10), "--timeout", "60")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    place = f"127.0.0.1:{port}"
    assert f"{place}: {spoken}; is that the port of a server.py?\n" in done.stderr
    assert "goes on" not in done.stderr


def test_a_silent_service_may_be_another_program(tmp_path: Path) -> None:
    """One that waits for the end of a line, such as a web server, which never comes."""
    with service(says(b"")) as port:
        done = run_client(port, random_file(tmp_path / "x", 10), "--timeout", "2")
    assert done.returncode == 5
    words = f"127.0.0.1:{port} did not answer for 2 s; is that the port of a server.py?\n"
    assert done.stderr.endswith(words)


def test_a_server_that_is_not_there_brings_what_to_do(tmp_path: Path) -> None:
    """Start it, or look at the port."""
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        done = run_client(port, random_file(tmp_path / "x", 10), "--timeout", "2")
    words = f"localhost:{port}: nothing listens there; start server.py there, or check --port\n"
    assert done.stderr.endswith(words)
    assert f"localhost:{port}: nothing listens there: trying again, for 2 s\n" in done.stderr


def test_a_wrong_password_names_the_account(start_server: StartServer, tmp_path: Path) -> None:
    """Whoever gave no --user may not know that there is a usual one."""
    path, wrong = random_file(tmp_path / "x", 10), {"LFT_PASSWORD": "wrong"}
    done = run_client(start_server().port, path, variables=wrong)
    assert done.returncode == 3
    assert done.stderr.endswith("unknown user or wrong password (--user user1)\n")
    assert done.stderr.count("\n") == 1


def test_a_plain_client_at_a_tls_port_is_told_what_to_add(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27: the server can be reached, so that is not what is said; exit 2, as for wrong options."""
    server = start_server(*tls_options(pki.server))
    done = run_client(server.port, random_file(tmp_path / "x", 10))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    words = "TLS is spoken here: add --tls, or --ca FILE where the certificate is self-signed\n"
    assert done.stderr.endswith(words)


def test_a_tls_client_at_a_plain_port_is_told_what_to_leave_out(
    start_server: StartServer, pki: Pki, tmp_path: Path
) -> None:
    """27: and what the server needs for it."""
    done = run_client(start_server().port, random_file(tmp_path / "x", 10), "--ca", pki.ca)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(
        "the server does not speak TLS: leave out --tls and --ca, or have it started with "
        "--tls-cert and --tls-key\n"
    )


def test_a_server_with_an_old_tls_is_no_unreachable_one(pki: Pki, tmp_path: Path) -> None:
    """27: that the versions do not match, in words."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.server.cert, pki.server.key)

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(client, server_side=True)

    with service(answer) as port:
        done = run_client(port, random_file(tmp_path / "x", 10), "--ca", pki.ca)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no version of it in common; update the older of the two" in done.stderr


@pytest.fixture
def self_signed(tmp_path: Path) -> Pair:
    """A certificate as the README has it made."""
    pair = Pair(tmp_path / "own.pem", tmp_path / "own.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-keyout", pair.key, "-out", pair.cert, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@pytest.mark.parametrize("option", ["--tls", "--ca"])
def test_a_self_signed_certificate_brings_the_option_that_trusts_it(
    start_local: StartLocal, self_signed: Pair, pki: Pki, tmp_path: Path, option: str
) -> None:
    """27: with --tls, and with the certificate of another server."""
    local, source = start_local(**tls(self_signed)), random_file(tmp_path / "x", 10)
    done = run_client(local.port, source, *([option] if option == "--tls" else [option, pki.ca]))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "is not to be trusted: self" in done.stderr
    assert "if it is the server's own, give --ca a file with it, or with" in done.stderr
    assert run_client(local.port, source, "--ca", self_signed.cert).returncode == 0


def test_an_unknown_host_is_final_within_three_seconds(tmp_path: Path) -> None:
    """It is not tried again, whatever the timeout is; the option to look at is named."""
    began, path = time.monotonic(), random_file(tmp_path / "x", 10)
    done = run_client(1, path, "--server", "..", "--timeout", "300")
    assert time.monotonic() - began < PATIENCE
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "goes on" not in done.stderr


def test_a_link_local_address_without_its_link_is_hopeless_at_once(tmp_path: Path) -> None:
    """The line shows what is missing; no password is asked for."""
    done = run_client(1, random_file(tmp_path / "x", 10), "--server", "[fe80::1]", "--user", "ann")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "needs the network interface, such as fe80::1%eth0\n" in done.stderr


def test_host_and_port_may_come_together(start_server: StartServer, tmp_path: Path) -> None:
    """As other programs have it."""
    server = start_server()
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--server",
                      f"127.0.0.1:{server.port}")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_server_on_ipv6_says_so_as_it_can_be_typed(
    start_server: StartServer, tmp_path: Path
) -> None:
    """In brackets, on both sides."""
    server = start_server("--host", "[::1]")
    assert server.first_line == f"Listening on [::1]:{server.port}\n"
    done = run_client(server.port, random_file(tmp_path / "x", 10), "--server", "[::1]")
    assert done.returncode == 0, done.stderr
    assert f"logged in at [::1]:{server.port} as user1" in done.stderr
    eventually(lambda: "[::1]:" in server.log, "the client's address")
