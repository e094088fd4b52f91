"""Who may come in: credentials, the SCRAM login, and a small command line for the credential file.

What lives here: salted verifiers and the file that keeps them, both sides of SCRAM-SHA-256
(RFC 5802, RFC 7677), passwords read the same way everywhere. What does not: sockets, and any
logging of secrets.

No password crosses the wire and none is kept: the server holds what RFC 5802 calls StoredKey and
ServerKey, from which neither the password nor a login can be made.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import getpass
import hashlib
import hmac
import json
import os
import secrets
import stat
import stringprep
import sys
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, Mapping

from config import make_output_safe, printable
from protocol import AuthenticationError, TransferError, UsageError, is_loopback

ITERATIONS = 100_000  # about 25 ms once per login, a hundred thousand times that for a guesser
MIN_ITERATIONS = 4096  # the least RFC 7677 allows; less would be an attack on the password
MAX_ITERATIONS = 10_000_000  # a server asking for more wants to keep our processor busy
MAX_CREDENTIALS_FILE = 16 * 1024 * 1024  # bytes: a hundred thousand users
MAX_USER_NAME = 255  # characters
MAX_NONCE = 256  # characters of one side's nonce: what is made of it still fits a message
PRIORITIES = range(-100, 101)
DEMO_ACCOUNTS = {"admin": ("admin123", 1), "user1": ("password1", 0)}  # for loopback only
PASSWORD_VARIABLE = "LFT_PASSWORD"  # noqa: S105  (a name, not a password)

_BAD_LOGIN = "unknown user or wrong password"

# --- credentials --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credential:
    """A stored identity: a salted verifier (RFC 5802, section 3), never a password."""

    priority: int
    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def make(cls, password: str, priority: int = 0, iterations: int = ITERATIONS) -> Credential:
        """Make the verifier of ``password`` with a salt of its own."""
        salt = secrets.token_bytes(16)
        salted = _salted(password, salt, iterations)
        stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        return cls(priority, iterations, salt, stored, _hmac(salted, b"Server Key"))


Credentials = Dict[str, Credential]


def demo_credentials() -> Credentials:
    """Return the accounts for trying it out; the caller sees to it that it is on loopback."""
    return {
        name: Credential.make(password, priority)
        for name, (password, priority) in DEMO_ACCOUNTS.items()
    }


def load_credentials(path: Path) -> Credentials:
    """Read a credential file. Raises ``UsageError`` that says what is wrong with it."""
    try:
        document = json.loads(_read_private(path))
        return {name: _from_json(name, entry) for name, entry in document["users"].items()}
    except OSError as error:
        raise UsageError(f"credential file {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(f"credential file {path}: damaged, or not a credential file") from None


def _read_private(path: Path) -> bytes:
    """Read a file that only its owner may read, never through a symlink."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, MAX_CREDENTIALS_FILE)
    finally:
        os.close(descriptor)


def _check_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"credential file {path}: not a regular file")
    if facts.st_mode & 0o077:
        raise UsageError(f"credential file {path}: others can read it; chmod 600 {path}")
    if facts.st_size > MAX_CREDENTIALS_FILE:
        raise UsageError(f"credential file {path}: too large")


def save_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file anew, mode 0600, in one step: a reader sees the old or the new one."""
    users = {name: _to_json(credential) for name, credential in sorted(credentials.items())}
    text = json.dumps({"version": 1, "users": users}, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_private(temporary, text.encode())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"credential file {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something went wrong
            temporary.unlink()


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _to_json(credential: Credential) -> dict[str, object]:
    return {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for key, value in asdict(credential).items()
    }


def _from_json(name: str, entry: dict[str, object]) -> Credential:
    priority, iterations = entry["priority"], entry["iterations"]
    keys = [_unbase64(entry[key]) for key in ("salt", "stored_key", "server_key")]
    if type(priority) is not int or type(iterations) is not int or not _is_user_name(name):
        raise ValueError("not a number")
    if priority not in PRIORITIES or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError("out of range")
    if [len(key) for key in keys[1:]] != [32, 32] or not keys[0]:
        raise ValueError("not a verifier")
    return Credential(priority, iterations, *keys)


def _is_user_name(name: str) -> bool:
    return 0 < len(name) <= MAX_USER_NAME and printable(name) == name


def check_user_name(name: str) -> None:
    """Raise ``UsageError`` for a name that cannot be one."""
    if not _is_user_name(name) or not _is_user_name(saslprep(name)):
        raise UsageError(f"a user name has 1 to {MAX_USER_NAME} printable characters")


# --- SCRAM-SHA-256 ------------------------------------------------------------------------------

_NO_BINDING = "n,,"  # gs2-header: this client does not bind the login to a TLS channel


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right))


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def _unbase64(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not text")
    return base64.b64decode(text.encode("ascii"), validate=True)


def saslprep(text: str) -> str:
    """Bring a name or password into one form (RFC 4013), so that every keyboard gives the same.

    Raises ``UsageError`` for characters that must not stand in one.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    if any(_prohibited(char) for char in normal) or not _one_direction(normal):
        raise UsageError("a name or password contains characters that are not allowed in one")
    return normal


def _prohibited(char: str) -> bool:
    # A.1, "unassigned in Unicode 3.2", is not checked: newer characters are fine in a password
    tables = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    return any(table(char) for table in tables)


def _one_direction(text: str) -> bool:
    """Check RFC 3454, section 6: right-to-left text stands alone, from first to last character."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return True
    if any(stringprep.in_table_d2(char) for char in text):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


def _attributes(message: str, names: str, *, extensions: bool = False) -> list[str]:
    """Split ``r=...,s=...`` into values; the attributes must be ``names``, in that order."""
    parts = message.split(",")
    if len(parts) < len(names) or (len(parts) > len(names) and not extensions):
        raise AuthenticationError("malformed login message")
    if any(part[:2] != f"{name}=" for part, name in zip(parts, names)):
        raise AuthenticationError("malformed login message")
    return [part[2:] for part in parts[: len(names)]]


def _nonce() -> str:
    return secrets.token_urlsafe(18)


class ScramClient:
    """The client's side of one login: ``first``, then ``respond``, then ``check_server``."""

    def __init__(self, user: str, password: str, nonce: str | None = None) -> None:
        check_user_name(user)
        self._password = password
        self._nonce = nonce or _nonce()
        name = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={name},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> str:
        """Return the client-first-message."""
        return _NO_BINDING + self._first_bare

    def respond(self, server_first: str) -> str:
        """Prove that we know the password: turn server-first into client-final-message.

        Raises ``AuthenticationError`` for a challenge that no honest server would send.
        """
        nonce, salt, iterations = self._challenge(server_first)
        without_proof = f"c={base64.b64encode(_NO_BINDING.encode()).decode()},r={nonce}"
        signed = f"{self._first_bare},{server_first},{without_proof}".encode()
        salted = _salted(self._password, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={base64.b64encode(_xor(client_key, signature)).decode()}"

    def _challenge(self, server_first: str) -> tuple[str, bytes, int]:
        nonce, salt_text, count = _attributes(server_first, "rsi", extensions=True)
        if len(nonce) > 2 * MAX_NONCE or len(salt_text) > MAX_NONCE:
            raise AuthenticationError("malformed login message")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise AuthenticationError("the server did not take up our challenge")
        try:
            salt, iterations = _unbase64(salt_text), int(count) if len(count) < 10 else 0
        except ValueError:
            raise AuthenticationError("malformed login message") from None
        if not salt or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise AuthenticationError("the server asks for an unreasonable password computation")
        return nonce, salt, iterations

    def check_server(self, server_final: str) -> None:
        """Raise ``AuthenticationError`` unless the server knows our verifier too."""
        (signature,) = _attributes(server_final, "v", extensions=True)
        expected = base64.b64encode(self._server_signature).decode()
        if not expected or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise AuthenticationError("the server cannot prove that it knows this account")


class ScramServer:
    """The server's side of one login: ``challenge``, then ``verify``.

    An unknown user gets the same messages and costs the same work as a wrong password.
    """

    def __init__(
        self, credentials: Mapping[str, Credential], secret: bytes, nonce: str | None = None
    ) -> None:
        self._credentials = credentials
        self._secret = secret  # makes the salt of unknown users, the same at each attempt
        self._extension = nonce or _nonce()
        self._transcript = ""
        self._nonce = ""
        self._known = False
        self._credential: Credential
        self.user = ""

    def challenge(self, client_first: str) -> str:
        """Turn client-first into server-first-message. Raises ``AuthenticationError``."""
        if not client_first.startswith(_NO_BINDING):
            raise AuthenticationError("malformed login message")
        bare = client_first[len(_NO_BINDING) :]
        name, nonce = _attributes(bare, "nr", extensions=True)
        if not 0 < len(nonce) <= MAX_NONCE or len(name) > 3 * MAX_USER_NAME:
            raise AuthenticationError("malformed login message")
        self.user = name.replace("=2C", ",").replace("=3D", "=")
        self._known = self.user in self._credentials
        self._credential = self._credentials.get(self.user) or self._stand_in()
        self._nonce = nonce + self._extension
        salt = base64.b64encode(self._credential.salt).decode()
        server_first = f"r={self._nonce},s={salt},i={self._credential.iterations}"
        self._transcript = f"{bare},{server_first}"
        return server_first

    def _stand_in(self) -> Credential:
        salt = _hmac(self._secret, self.user.encode())[:16]
        return Credential(0, ITERATIONS, salt, salt * 2, salt * 2)

    def verify(self, client_final: str) -> str:
        """Check the proof; return server-final-message. Raises ``AuthenticationError``."""
        binding, nonce, proof_text = _attributes(client_final, "crp")
        try:
            proof = _unbase64(proof_text)
        except (binascii.Error, ValueError):
            proof = b""
        signed = f"{self._transcript},{client_final.rpartition(',p=')[0]}".encode()
        client_key = _xor(proof, _hmac(self._credential.stored_key, signed))
        found = hashlib.sha256(client_key).digest()
        right = hmac.compare_digest(found, self._credential.stored_key) and len(proof) == 32
        bound = binding == base64.b64encode(_NO_BINDING.encode()).decode()
        if not (right and bound and self._known and nonce == self._nonce):
            raise AuthenticationError(_BAD_LOGIN)
        return f"v={base64.b64encode(_hmac(self._credential.server_key, signed)).decode()}"

    @property
    def priority(self) -> int:
        """The account's priority, once it has been verified."""
        return self._credential.priority


# --- passwords ----------------------------------------------------------------------------------


def read_password(user: str, file: Path | None, server: str) -> str:
    """Find the password of ``user`` at ``server``: file, environment, demo account, prompt.

    The demo accounts' own are for loopback. Raises ``UsageError`` where there is none to be had.
    """
    if file is not None:
        return _password_from_file(file)
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if user in DEMO_ACCOUNTS and is_loopback(server):
        return DEMO_ACCOUNTS[user][0]
    return _prompt(user)


def _new_password(user: str, file: Path | None) -> str:
    """Find the password to give ``user``; asks twice where it has to ask."""
    if file is not None:
        password = _password_from_file(file)
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    else:
        password = _prompt(user)
        if _prompt(user, "once more") != password:
            raise UsageError("the two passwords differ")
    if not saslprep(password):
        raise UsageError("an empty password lets everyone in")
    return password


def _password_from_file(file: Path) -> str:
    try:
        text = file.read_bytes()[:4096].decode("utf-8")
    except OSError as error:
        raise UsageError(f"password file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"password file {file}: not UTF-8 text") from None
    return text.split("\n")[0].rstrip("\r")


def _prompt(user: str, remark: str = "") -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            f"no password for {printable(user)}: use --password-file or {PASSWORD_VARIABLE}"
        )
    return getpass.getpass(f"Password of {printable(user)} {remark}".rstrip() + ": ")


# --- the command line of the credential file ----------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Manage the credential file of server.py.")
    commands = parser.add_subparsers(dest="command", metavar="add|remove|list")
    add = commands.add_parser("add", help="add a user, or give one a new password")
    remove = commands.add_parser("remove", help="remove a user")
    listing = commands.add_parser("list", help="list users and their priorities")
    for command in (add, remove):
        command.add_argument("name", metavar="NAME")
    add.add_argument("--priority", type=int, default=0, metavar="N", help="higher goes first (0)")
    add.add_argument("--password-file", type=Path, metavar="FILE")
    for command in (add, remove, listing):
        command.add_argument("--credentials", type=Path, required=True, metavar="FILE")
    return parser


def _add(arguments: argparse.Namespace) -> None:
    check_user_name(arguments.name)
    if arguments.priority not in PRIORITIES:
        raise UsageError(f"a priority is a number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    path: Path = arguments.credentials
    credentials = load_credentials(path) if os.path.lexists(path) else {}
    name = saslprep(arguments.name)
    password = _new_password(name, arguments.password_file)
    credentials[name] = Credential.make(password, arguments.priority)
    save_credentials(path, credentials)


def _remove(arguments: argparse.Namespace) -> None:
    credentials = load_credentials(arguments.credentials)
    if credentials.pop(saslprep(arguments.name), None) is None:
        raise UsageError(f"no user {printable(arguments.name)} in {arguments.credentials}")
    save_credentials(arguments.credentials, credentials)


def _list(arguments: argparse.Namespace) -> None:
    for name, credential in sorted(load_credentials(arguments.credentials).items()):
        print(f"{printable(name)}\tpriority {credential.priority}")


def main(argv: list[str] | None = None) -> int:
    """Run ``python auth.py``; return its exit code."""
    make_output_safe()
    parser = _parser()
    arguments = parser.parse_args(argv)
    actions = {"add": _add, "remove": _remove, "list": _list}
    if arguments.command is None:
        parser.error("say add, remove or list")
    try:
        actions[arguments.command](arguments)
    except TransferError as error:
        print(f"auth.py: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
