"""The settings and their defaults."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

import config
from config import ClientSettings, ServerSettings


def test_the_users_card_is_the_default() -> None:
    """Host, port, sizes, streams and workers are those of the specification."""
    client, server = ClientSettings(), ServerSettings()
    assert (client.server, client.port, client.user) == ("localhost", 4455, "user1")
    assert (server.host, server.port, server.output) == ("localhost", 4455, Path("output"))
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
