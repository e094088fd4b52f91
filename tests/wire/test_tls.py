"""TLS contexts: which certificates, keys and peers they accept, and which they refuse."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import shlex
import shutil
import ssl
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import auth
import server as server_module
from config import ServerSettings
from lft.accounts.account import demo_credentials
from lft.wire.channel_binding import server_end_point
from lft.wire.tls import _hardened, certificate_binding, client_tls, server_tls
from protocol import UsageError
from tests.support.certificates import Pki, tls
from tests.support.generated import short


class Identities:
    """An authority and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str = "localhost", **options: Any) -> tuple[Path, Path]:
        """Return certificate and key of a server."""
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        signed = self._authority.issue_cert(name, key_type=trustme.KeyType.ECDSA, **options)
        cert.write_bytes(b"".join(part.bytes() for part in signed.cert_chain_pems))
        signed.private_key_pem.write_to_path(str(key))
        return cert, key


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    """Return one authority for all tests."""
    return Identities(tmp_path_factory.mktemp("tls"))


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; return server and client. Raises what one of them raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    )
    for _ in range(5):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1], ends[0]


def test_client_and_server_agree_on_tls_1_3(identities: Identities) -> None:
    """No compression, and the name and the chain were checked."""
    context = client_tls(identities.ca)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    server, client = shake_hands(server_tls(*identities.issue()), context)
    assert server.version() == client.version() == "TLSv1.3"
    assert client.compression() is None


def test_both_ends_know_the_same_end_point(identities: Identities) -> None:
    """The server computes it from its file, the client from the connection."""
    cert, key = identities.issue()
    _, client = shake_hands(server_tls(cert, key), client_tls(identities.ca))
    der = client.getpeercert(binary_form=True)
    assert der is not None
    assert server_end_point(der) == certificate_binding(cert) == hashlib.sha256(der).digest()


def test_old_tls_is_refused_on_both_sides(identities: Identities) -> None:
    """FAULTS 27: a peer that offers at most TLS 1.2 is refused."""
    for side in ("server", "client"):
        contexts = {"server": server_tls(*identities.issue()), "client": client_tls(identities.ca)}
        contexts[side].minimum_version = ssl.TLSVersion.TLSv1_2
        contexts[side].maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            shake_hands(contexts["server"], contexts["client"])


def test_where_there_is_no_tls_1_3_it_is_1_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.7 with an old OpenSSL."""
    monkeypatch.setattr(ssl, "HAS_TLSv1_3", False)
    assert client_tls().minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_tls().options & ssl.OP_NO_RENEGOTIATION


def test_an_openssl_that_knows_no_minimum_is_told_what_not_to_do() -> None:
    """Older still: a context that has only options."""
    context: Any = SimpleNamespace(options=0)
    _hardened(context)
    assert context.options & ssl.OP_NO_TLSv1_1


@pytest.mark.parametrize("name", ["localhost.example", "127.0.0.1"])
def test_a_certificate_of_another_host_is_refused(identities: Identities, name: str) -> None:
    """FAULTS 27."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_tls(*identities.issue()), client_tls(identities.ca), name)


def test_a_certificate_for_an_address_is_good_for_the_address(identities: Identities) -> None:
    """Servers without a name."""
    server = server_tls(*identities.issue("127.0.0.1"))
    shake_hands(server, client_tls(identities.ca), "127.0.0.1")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
def test_a_certificate_made_as_the_readme_says_works_for_its_name_only(tmp_path: Path) -> None:
    """The client takes the server's own certificate for the authority, and checks the name."""
    readme = Path(auth.__file__).with_name("README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^openssl .*\\\n.*$", readme, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", ""))
    made = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    server = server_tls(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = client_tls(tmp_path / "cert.pem")
    assert shake_hands(server, client, "files.example.org")[0].version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "other.example.org")


def test_an_expired_certificate_is_refused(identities: Identities) -> None:
    """FAULTS 27."""
    old = dt.datetime(2020, 1, 1)
    server = server_tls(*identities.issue("localhost", not_after=old))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(server, client_tls(identities.ca))


def test_a_given_authority_replaces_those_of_the_system(
    identities: Identities, tmp_path: Path
) -> None:
    """With ``--ca`` only that authority is trusted; without it, a private one is not."""
    assert len(client_tls(identities.ca).get_ca_certs()) == 1
    server = server_tls(*identities.issue())
    for context in (client_tls(), client_tls(Identities(tmp_path).ca)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, context)


def test_missing_tls_files_are_named(identities: Identities, tmp_path: Path) -> None:
    """The error says which one, and why."""
    cert, key = identities.issue()
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"^TLS certificate {missing}: No such file"):
        server_tls(missing, key)
    with pytest.raises(UsageError, match=f"^TLS key {missing}: No such file"):
        server_tls(cert, missing)
    with pytest.raises(UsageError, match=f"^CA file {missing}: No such file"):
        client_tls(missing)
    with pytest.raises(UsageError, match="Is a directory"):
        server_tls(tmp_path, key)


def test_a_key_of_another_certificate_is_refused(identities: Identities) -> None:
    """FAULTS 27: the error says so."""
    with pytest.raises(UsageError, match=r"do not belong together$"):
        server_tls(identities.issue("localhost")[0], identities.issue("other")[1])


def test_a_key_of_another_kind_is_refused(identities: Identities, tmp_path: Path) -> None:
    """An RSA key does not fit an ECDSA certificate."""
    key = write_key(tmp_path, serialization.NoEncryption())
    with pytest.raises(UsageError, match=r"do not belong together$"):
        server_tls(identities.issue()[0], key)


def write_key(folder: Path, encryption: serialization.KeySerializationEncryption) -> Path:
    """Write an RSA key in OpenSSL's old form."""
    path = folder / "key.pem"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return path


def test_an_encrypted_key_is_refused_without_a_prompt(
    identities: Identities, tmp_path: Path
) -> None:
    """A server without a terminal would wait for the password for ever."""
    key = write_key(tmp_path, serialization.BestAvailableEncryption(b"s3cret"))
    with pytest.raises(UsageError, match=f"^TLS key {key}: it is encrypted"):
        server_tls(identities.issue()[0], key)


PEM = "-----BEGIN {0}-----\n{1}\n-----END {0}-----\n"
NOT_PEM = ["", "garbage", "-----BEGIN CERTIFICATE-----", "\x00" * 100]
DAMAGED_PEM = [PEM.format("CERTIFICATE", body) for body in ("", "AAAA", "!!!!", "MIIB")]


@pytest.mark.parametrize("content", NOT_PEM + DAMAGED_PEM, ids=short)
def test_what_is_no_certificate_is_refused_in_one_line(
    identities: Identities, tmp_path: Path, content: str
) -> None:
    """As a certificate, as a key, as an authority, and for the end point."""
    path, (cert, key) = tmp_path / "bad.pem", identities.issue()
    path.write_text(content)
    attempts: list[Callable[[], object]] = [
        lambda: server_tls(path, key),
        lambda: server_tls(cert, path),
        lambda: client_tls(path),
        lambda: certificate_binding(path),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match=re.escape(str(path))) as caught:
            attempt()
        assert str(caught.value).isprintable()


def test_a_damaged_key_is_refused(identities: Identities, tmp_path: Path) -> None:
    """The right headers around nonsense."""
    path = tmp_path / "bad.key"
    path.write_text(PEM.format("PRIVATE KEY", "AAAA"))
    with pytest.raises(UsageError, match=re.escape(str(path))):
        server_tls(identities.issue()[0], path)


def test_a_certificate_that_never_stays_the_same_is_refused(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 27: the server does not start, and says why, rather than try for ever."""
    bindings = iter(range(1000))
    monkeypatch.setattr("lft.wire.tls.certificate_binding", lambda _: next(bindings))
    settings = ServerSettings(port=0, output=tmp_path / "output", **tls(pki.server))
    with pytest.raises(UsageError, match="replaced all the time"):
        server_module.Server(settings, demo_credentials)
