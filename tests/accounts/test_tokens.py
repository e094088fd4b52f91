"""Tokens: making, signing, checking and reading them."""

from __future__ import annotations

import base64
import hmac
import json
import re
from pathlib import Path

import jwt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lft.accounts.account import MAX_TIME, Accounts
from lft.accounts.file import CredentialStore, save_credentials
from lft.accounts.keys import hmac_sha256, to_base64url
from lft.accounts.tokens import MAX_TOKEN, make_token, read_token, signing_key, verify_token
from protocol import AuthenticationError, UsageError
from tests.support.generated import quick, short
from tests.support.scram import verifier, wire_text

TOKEN_KEY = bytes(range(32))
NOW = 1_700_000_000

HOLDERS = Accounts(
    {
        "ann": verifier(b"pw"),
        "off": verifier(b"pw").replace(disabled=True),
        "late": verifier(b"pw").replace(expires=NOW),
    },
    token_key=TOKEN_KEY,
)

CLAIMS = {"sub": "ann", "iat": NOW, "exp": NOW + 60, "jti": "1"}
JWT_HEADER = {"alg": "HS256", "typ": "JWT"}


def b64(data: bytes) -> str:
    """Encode as RFC 7515 does."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(
    header: object = JWT_HEADER,
    claims: object = CLAIMS,
    key: bytes | None = None,
    digest: str = "sha256",
) -> str:
    """Make a token by hand, with the right key unless another is given. ``bytes`` are not JSON."""
    user = claims["sub"] if isinstance(claims, dict) and "sub" in claims else "ann"
    owner = HOLDERS.get(user) if isinstance(user, str) else None
    key = signing_key(TOKEN_KEY, owner or HOLDERS["ann"]) if key is None else key
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(hmac.new(key, signed.encode(), digest).digest())}"


def claims_with(without: str = "", **changes: object) -> dict[str, object]:
    """Return claims that are correct except for the changes."""
    return {key: value for key, value in {**CLAIMS, **changes}.items() if key != without}


def test_a_token_lets_its_user_in() -> None:
    """With the account and its limits."""
    token = make_token(HOLDERS, "ann", 60, NOW)
    assert verify_token(token, HOLDERS, NOW) == ("ann", HOLDERS["ann"])


def test_a_token_is_one_for_pyjwt() -> None:
    """RFC 7519, as another library reads it."""
    token = make_token(HOLDERS, "ann", 60)
    claims = jwt.decode(
        token,
        signing_key(TOKEN_KEY, HOLDERS["ann"]),
        algorithms=["HS256"],
        options={"require": ["sub", "iat", "exp", "jti"]},
    )
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 60
    assert jwt.get_unverified_header(token) == JWT_HEADER


def test_a_token_that_pyjwt_has_made_lets_its_user_in() -> None:
    """RFC 7519, as another library writes it, with and without the optional parts."""
    key = signing_key(TOKEN_KEY, HOLDERS["ann"])
    for claims in (CLAIMS, claims_with(nbf=NOW)):
        token = jwt.encode(claims, key, algorithm="HS256")
        assert verify_token(token, HOLDERS, NOW).user == "ann"


def test_the_token_of_the_standard_is_computed_alike() -> None:
    """RFC 7515, appendix A.1: HS256 over the very bytes."""
    key = base64.urlsafe_b64decode(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    )
    header = b'{"typ":"JWT",\r\n "alg":"HS256"}'
    claims = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
    signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert forged(header, claims, key).endswith(f".{signature}")
    assert to_base64url(hmac_sha256(key, f"{b64(header)}.{b64(claims)}".encode())) == signature


def test_each_token_has_a_number_of_its_own() -> None:
    """Two made in one second differ."""
    assert make_token(HOLDERS, "ann", 60, NOW) != make_token(HOLDERS, "ann", 60, NOW)


def test_a_token_made_by_hand_as_the_others_are_is_right() -> None:
    """The token that the cases below change is valid without the change."""
    assert verify_token(forged(), HOLDERS, NOW).user == "ann"
    assert verify_token(forged({"alg": "HS256"}), HOLDERS, NOW).user == "ann"


GOOD = forged()
SIGNED = GOOD.rpartition(".")[0]

BAD_TOKENS = {
    "empty": "",
    "dots": "..",
    "one part": "x",
    "four parts": GOOD + ".x",
    "unsigned": SIGNED + ".",
    "alg none": forged({"alg": "none", "typ": "JWT"}),
    "alg none, unsigned": forged({"alg": "none"}).rpartition(".")[0] + ".",
    "alg None": forged({"alg": None}),
    "alg in small letters": forged({"alg": "hs256"}),
    "alg HS512": forged({"alg": "HS512"}, digest="sha512"),
    "alg RS256": forged({"alg": "RS256"}),
    "alg list": forged({"alg": ["HS256"]}),
    "no alg": forged({"typ": "JWT"}),
    "signed with SHA-512": forged(digest="sha512"),
    "other type": forged({**JWT_HEADER, "typ": "JWE"}),
    "critical header": forged({**JWT_HEADER, "crit": ["exp"]}),
    "key in the header": forged(
        {**JWT_HEADER, "jwk": {"kty": "oct", "k": b64(b"k")}, "kid": "../x"}
    ),
    "header list": forged([]),
    "header twice": forged(b'{"alg":"none","alg":"HS256"}'),
    "other key": forged(key=bytes(32)),
    "the file's key": forged(key=TOKEN_KEY),
    "no key": forged(key=b""),
    "stored key": forged(key=HOLDERS["ann"].stored_key),
    "key of nobody": forged(claims=claims_with(sub="ghost"), key=signing_key(TOKEN_KEY, None)),
    "cut": GOOD[:-1],
    "something behind": GOOD + "A",
    "line behind": GOOD + "\n",
    "padding": GOOD + "=",
    "space before": " " + GOOD,
    "other alphabet": GOOD.replace(
        GOOD[-43:], GOOD[-43:].replace("-", "+").replace("_", "/") + "+"
    ),
    "not canonical": GOOD[:-1] + chr(ord(GOOD[-1]) + 1),
    "not ASCII": GOOD + "é",
    "half a character": GOOD + "\ud800",
    "unknown user": forged(claims=claims_with(sub="ghost")),
    "disabled user": forged(claims=claims_with(sub="off")),
    "expired user": forged(claims=claims_with(sub="late")),
    "user of another key": forged(
        claims=claims_with(sub="off"), key=signing_key(TOKEN_KEY, HOLDERS["ann"])
    ),
    "expired": forged(claims=claims_with(iat=NOW - 60, exp=NOW)),
    "issued in the future": forged(claims=claims_with(iat=NOW + 61, exp=NOW + 99)),
    "not yet": forged(claims=claims_with(nbf=NOW + 61, exp=NOW + 99)),
    "ends before it starts": forged(claims=claims_with(iat=NOW + 30, exp=NOW + 30)),
    "year 10000": forged(claims=claims_with(exp=MAX_TIME + 1)),
    "negative": forged(claims=claims_with(iat=-1)),
    "exp text": forged(claims=claims_with(exp=str(NOW + 60))),
    "exp fraction": forged(claims=claims_with(exp=NOW + 60.5)),
    "exp true": forged(claims=claims_with(exp=True)),
    "exp null": forged(claims=claims_with(exp=None)),
    "exp infinite": forged(claims=json.dumps(claims_with(exp=float("inf"))).encode()),
    "iat text": forged(claims=claims_with(iat="now")),
    "nbf null": forged(claims=claims_with(nbf=None)),
    "sub number": forged(claims=claims_with(sub=1)),
    "sub list": forged(claims=claims_with(sub=["ann"])),
    "sub empty": forged(claims=claims_with(sub="")),
    "sub half a character": forged(claims=claims_with(sub="\ud800")),
    "jti number": forged(claims=claims_with(jti=1)),
    "jti empty": forged(claims=claims_with(jti="")),
    "for another service": forged(claims=claims_with(aud="other")),
    "claim twice": forged(claims=json.dumps(CLAIMS).replace("{", '{"sub":"bob",').encode()),
    "claims list": forged(claims=[]),
    "claims text": forged(claims="x"),
    "claims behind": forged(claims=json.dumps(CLAIMS).encode() + b"{}"),
    "claims not UTF-8": forged(claims=b'{"sub":"\xff"}'),
    "claims in UTF-16": forged(claims=json.dumps(CLAIMS).encode("utf-16")),
    "claims nested": forged(claims=b"[" * 600),
    "long number": forged(claims=b'{"exp":' + b"9" * 600 + b"}"),
    "10 MB": "x" * 10_000_000,
    **{f"no {claim}": forged(claims=claims_with(claim)) for claim in CLAIMS},
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_token_that_is_not_valid_is_refused_in_the_same_words(kind: str) -> None:
    """FAULTS 24: the peer learns nothing but that."""
    with pytest.raises(AuthenticationError) as caught:
        verify_token(BAD_TOKENS[kind], HOLDERS, NOW)
    assert str(caught.value) == "the token is not valid"
    assert caught.value.__suppress_context__


@quick
@given(st.data())
def test_no_token_but_the_right_one_is_accepted(data: st.DataObject) -> None:
    """A stretch of it replaced by anything."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(start + 5, len(GOOD))))
    token = GOOD[:start] + data.draw(wire_text)[:5] + GOOD[end:]
    assume(token != GOOD)
    with pytest.raises(AuthenticationError):
        verify_token(token, HOLDERS, NOW)


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    """A token made by a clock a minute ahead works; an expired one does not."""
    token = forged(claims=claims_with(nbf=NOW + 60, iat=NOW + 60, exp=NOW + 61))
    assert verify_token(token, HOLDERS, NOW).user == "ann"
    assert verify_token(GOOD, HOLDERS, NOW + 59.9).user == "ann"
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, HOLDERS, NOW + 60)


def test_a_renewed_key_ends_all_tokens() -> None:
    """Asking for the key again does not end them."""
    renewed = HOLDERS.with_token_key(renew=True)
    assert renewed.token_key != TOKEN_KEY
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, renewed, NOW)
    assert HOLDERS.with_token_key(renew=False) is HOLDERS


def test_a_new_password_ends_the_users_tokens() -> None:
    """A name that is given to another person does not come with the old owner's tokens."""
    renamed = HOLDERS.with_users({"ann": verifier(b"other")})
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, renamed, NOW)


def test_without_a_key_no_token_is_made_or_accepted() -> None:
    """An empty key is no key: everyone knows it."""
    accounts = Accounts({"ann": HOLDERS["ann"]})
    with pytest.raises(UsageError, match="no key"):
        make_token(accounts, "ann", 60)
    token = forged(key=signing_key(b"", HOLDERS["ann"]))
    with pytest.raises(AuthenticationError):
        verify_token(token, accounts, NOW)


@pytest.mark.parametrize(("user", "why"), [("ghost", "no user"), ("off", "is disabled")])
def test_no_token_is_made_for_who_could_not_use_it(user: str, why: str) -> None:
    """The error is for the administrator, and may say so."""
    with pytest.raises(UsageError, match=why):
        make_token(HOLDERS, user, 60, NOW)


def test_a_name_too_long_for_a_token_is_refused_when_it_is_made() -> None:
    """A token must fit a message; every name of a sane length does."""
    accounts = Accounts({"語" * n: verifier(b"pw") for n in (150, 255)}, token_key=TOKEN_KEY)
    assert len(make_token(accounts, "語" * 150, 60, NOW)) <= MAX_TOKEN
    with pytest.raises(UsageError, match="too long"):
        make_token(accounts, "語" * 255, 60, NOW)


def test_a_store_ends_tokens_without_a_restart(filled_file: Path) -> None:
    """Each login asks the store anew."""
    accounts = Accounts({"ann": HOLDERS["ann"]}, token_key=TOKEN_KEY)
    save_credentials(filled_file, accounts)
    store = CredentialStore(filled_file)
    assert verify_token(GOOD, store.current(), NOW).user == "ann"
    save_credentials(filled_file, accounts.with_token_key(renew=True))
    with pytest.raises(AuthenticationError):
        verify_token(GOOD, store.current(), NOW)


@pytest.mark.parametrize(
    "content", [GOOD, GOOD + "\n", GOOD + "\r\n", f" {GOOD} \nmore"], ids=short
)
def test_a_token_is_the_first_line_of_its_file(tmp_path: Path, content: str) -> None:
    """Without the white space that editors and shells add."""
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    assert read_token(path) == GOOD


@pytest.mark.parametrize(
    "content",
    [b"", b"\n" + GOOD.encode(), b"a.b", b"a.b.c.d", b"a..c", b"\xff.b.c", b"a.b.c d", b"x" * 10**6,
     b"a.b." + b"c" * MAX_TOKEN],
    ids=short,
)  # fmt: skip
def test_a_file_without_a_token_is_an_error_that_does_not_quote_it(
    tmp_path: Path, content: bytes
) -> None:
    """Its content is not quoted: it may be a password or a key."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^token file {re.escape(str(path))}: ") as caught:
        read_token(path)
    assert len(str(caught.value)) < 200


def test_a_token_file_without_end_is_not_read_to_its_end() -> None:
    """``/dev/zero`` has no line end."""
    with pytest.raises(UsageError, match="first line is too long"):
        read_token(Path("/dev/zero"))


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(UsageError, match="missing: No such file"):
        read_token(tmp_path / "missing")
