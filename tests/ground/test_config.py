"""The settings and their defaults."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

import config
from config import ClientSettings, ServerSettings
from protocol import DIGEST_SIZES


def test_the_users_card_is_the_default() -> None:
    """Host, port, sizes, streams and workers are those of the specification."""
    client, server = ClientSettings(), ServerSettings()
    assert (client.server, client.port, client.user) == ("localhost", 4455, "user1")
    assert (server.hosts[0], server.port, server.output) == ("localhost", 4455, Path("output"))
    assert (client.chunk_size, client.block_size) == (1024 * 50, 1024 * 200)
    assert (client.streams, server.workers) == (4, 10)
    assert (client.digest, client.timeout) == ("md5", 30.0)


@pytest.mark.parametrize("own", [ClientSettings(), ServerSettings()])
def test_settings_cannot_be_changed(own: ClientSettings | ServerSettings) -> None:
    """A thread needs no lock for settings, because they never change."""
    for item in fields(own):
        with pytest.raises(FrozenInstanceError):
            setattr(own, item.name, None)


def test_the_password_is_not_in_the_representation_of_settings() -> None:
    """Settings may be logged without giving the password away."""
    assert "s3cret" not in repr(ClientSettings(password="s3cret"))


def test_the_default_block_size_is_one_that_may_be_chosen() -> None:
    """The limits of the block size hold the default, and a block holds a chunk."""
    assert config.MIN_BLOCK_SIZE <= config.BLOCK_SIZE <= config.MAX_BLOCK_SIZE
    assert config.CHUNK_SIZE <= config.BLOCK_SIZE


def test_the_default_number_of_streams_is_one_that_may_be_chosen() -> None:
    """The limit of the streams holds the default."""
    assert 1 <= config.STREAMS <= config.MAX_STREAMS


@pytest.mark.parametrize("field", ClientSettings.FIELDS)
@pytest.mark.parametrize("value", [["x"], b"x", float("nan")])
def test_a_setting_of_a_wrong_kind_is_named(field: str, value: object) -> None:
    """Said where it is made, and not by a thread of the transfer in a traceback."""
    with pytest.raises(ValueError, match=f"^{field} must be "):
        ClientSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("streams", 0), ("streams", 65), ("streams", True), ("streams", "4"), ("limit", "5M"),
        ("limit", 0), ("limit", 5e6), ("port", 0), ("port", 65536), ("port", None), ("server", ""),
        ("server", None), ("block_size", 1), ("block_size", 2**30), ("chunk_size", 0),
        ("chunk_size", "auto"), ("digest", "crc32"), ("timeout", 0), ("timeout", -1),
        ("timeout", float("inf")), ("timeout", "30"), ("resume", 1), ("tls", "yes"),
        ("ca", "cert.pem"), ("congestion", None), ("user", ""), ("token", ""),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(field: str, value: object) -> None:
    """No streams, say, would leave the client waiting without end."""
    with pytest.raises(ValueError, match=f"^{field} must be .+"):
        ClientSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("streams", None),
        ("block_size", None),
        ("chunk_size", None),
        ("limit", None),
        ("timeout", 1),
        ("ca", None),
    ],
)
def test_a_setting_that_may_be_left_out_is_taken(field: str, value: Any) -> None:
    """``None`` is a choice of its own; a whole number is a number of seconds."""
    assert getattr(ClientSettings(**{field: value}), field) == value


def test_both_tables_of_digests_have_the_same_names() -> None:
    """The settings check a digest, the protocol knows how long it is."""
    assert set(config.DIGESTS) == set(DIGEST_SIZES)
