"""The settings of TLS, from certificates and keys in PEM files."""

from __future__ import annotations

import base64
import math
import re
import secrets
import ssl
from pathlib import Path
from typing import NamedTuple

import config
from config import ServerSettings
from lft.wire.channel_binding import server_end_point
from lft.wire.host_names import host_names
from lft.wire.validity import Validity
from protocol import AuthenticationError, UsageError

TlsContext = ssl.SSLContext
MAX_PEM_FILE = 1024 * 1024  # bytes of a certificate chain or a key


def server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the server's context, with a certificate (and chain) and its key in PEM form.

    Raises ``UsageError`` if they cannot be used; never asks for the password of a key.
    """
    _read_pem(cert, "TLS certificate", "CERTIFICATE")
    _read_pem(key, "TLS key", "PRIVATE KEY")
    asked = []

    def no_password() -> bytes:
        asked.append(True)  # Python 3.7 turns an exception here into a SystemError
        return secrets.token_hex(16).encode()

    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    try:
        context.load_cert_chain(cert, key, password=no_password)
    except OSError as error:  # an SSLError is one
        if asked:
            raise UsageError(
                f"TLS key {key}: it is encrypted; the server needs one without a password"
            ) from None
        raise UsageError(f"TLS certificate {cert} and key {key}: {_tls_reason(error)}") from None
    return context


def _tls_reason(error: OSError) -> str:
    """Put OpenSSL's error about a certificate and its key into plain words."""
    if not isinstance(error, ssl.SSLError):
        return str(error.strerror)
    reason = (error.reason or "damaged").replace("_", " ").lower()
    if "mismatch" in reason or reason == "no certificate assigned":  # RSA and ECDSA, for example
        return "they do not belong together"
    return reason


def certificate_binding(cert: Path) -> bytes:
    """Return the binding (RFC 5929) of a server that shows ``cert``. Raises ``UsageError``."""
    try:
        return server_end_point(_certificates(cert)[0])
    except AuthenticationError:
        raise _damaged(cert) from None


def _certificates(path: Path) -> list[bytes]:
    """Return the certificate in a file and its chain, in DER form. Raises ``UsageError``."""
    found = _read_pem(path, "TLS certificate", "CERTIFICATE")
    try:
        return [base64.b64decode("".join(text.split()), validate=True) for text in found]
    except ValueError:
        raise _damaged(path) from None


def _damaged(cert: Path) -> UsageError:
    return UsageError(f"TLS certificate {cert}: damaged")


def _validity(path: Path) -> Validity:
    """Return when the certificate in a file and its chain are good. Raises ``UsageError``."""
    try:
        return Validity.of_all(Validity.of(one) for one in _certificates(path))
    except ValueError:  # OpenSSL has taken it: only its end will come as a surprise
        return Validity(0.0, math.inf)


def _names(path: Path) -> tuple[str, ...]:
    """Return the host names in the certificate of a file. Raises ``UsageError``."""
    try:
        return host_names(_certificates(path)[0])
    except (ValueError, IndexError):  # OpenSSL has taken it: it is known by its address alone
        return ()


def client_tls(ca: Path | None = None) -> ssl.SSLContext:
    """Return the client's context, which always checks the chain and the host name.

    ``ca``, a file of certificates in PEM form, replaces the authorities that the system trusts.
    Raises ``UsageError`` if it cannot be used.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # it checks both
    if ca is None:
        context.load_default_certs()
        return context
    _read_pem(ca, "CA file", "CERTIFICATE")
    try:
        context.load_verify_locations(ca)
    except OSError:  # an SSLError is one
        raise UsageError(f"CA file {ca}: damaged") from None
    return context


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    """Allow TLS 1.3 only, or 1.2 if OpenSSL has no 1.3; no compression, no renegotiation."""
    if hasattr(context, "minimum_version"):
        newest = ssl.TLSVersion.TLSv1_3 if ssl.HAS_TLSv1_3 else ssl.TLSVersion.TLSv1_2
        context.minimum_version = newest
    else:  # Python 3.7 with OpenSSL 1.1.0f or older
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    return context


def _read_pem(path: Path, what: str, kind: str) -> list[str]:
    """Return each ``kind`` in a PEM file, at least one.

    Raises ``UsageError``, which calls the file ``what``.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_PEM_FILE).decode("latin-1")  # any text may stand around it
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from None
    found = re.findall(f"-----BEGIN [A-Z0-9 ]*{kind}-----(.*?)-----END", text, re.DOTALL)
    if not found:
        raise UsageError(f"{what} {path}: there is no {kind.lower()} in PEM form in it")
    return found


class Tls(NamedTuple):
    """The server's certificate, ready for use."""

    context: ssl.SSLContext
    binding: bytes  # of logins to this certificate (RFC 5929)
    validity: Validity
    names: tuple[str, ...] = ()  # of the hosts that the certificate is for

    @classmethod
    def load(cls, settings: ServerSettings) -> Tls:
        """Read the certificate and the key that the settings name. Raises ``UsageError``."""
        cert, key = settings.tls_cert, settings.tls_key
        if cert is None or key is None:
            raise UsageError("--tls-cert and --tls-key go together")
        for _ in range(config.CERTIFICATE_TRIES):
            binding = certificate_binding(cert)
            context = server_tls(cert, key)
            validity = _validity(cert)
            if certificate_binding(cert) == binding:  # otherwise it has just been replaced
                return cls(context, binding, validity, _names(cert))
        raise UsageError(f"TLS certificate {cert}: it is replaced all the time")
