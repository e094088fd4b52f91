"""Clients that others have written: they fetch and send, are cut, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from config import BLOCK_SIZE
from tests.support.files import md5, part_files, random_file, received
from tests.support.processes import ServerProcess, StartServer
from tests.support.tus import USER1
from tests.support.uploaders import (
    PIECE,
    Uploader,
    finish,
    install_tus_js_client,
    tus_js_client,
    tuspy,
)
from tests.support.waiting import PATIENCE, eventually

LOGIN = USER1["Authorization"]
SIZE = 3 * 1024 * 1024


class Website:
    """A real server with an HTTP side on a port that it keeps."""

    def __init__(self, start: StartServer) -> None:
        self._start = start
        self.port = 0  # until one is found
        self.url = ""

    def start(self, *options: str) -> ServerProcess:
        """Start it."""
        self.server = self._start("--http", str(self.port), *options)
        assert self.server.process.stdout is not None
        line = self.server.process.stdout.readline()
        assert line.startswith("HTTP on "), line
        self.port = int(line.rpartition(":")[2])
        self.url = f"http://localhost:{self.port}/api/v1"
        return self.server

    def publish(self, folder: Path) -> tuple[str, Path]:
        """Put a file where it can be fetched by tuspy; return its URL and the file."""
        source = random_file(folder / "source.bin", SIZE)
        assert finish(self.begin(tuspy(), source)) == (0, SIZE)
        (path,) = received(self.server.output)
        return f"{self.url}/files/{path.name}", source

    def begin(self, uploader: Uploader, source: Path) -> subprocess.Popen[str]:
        """Begin to send a file, or go on; beside it is kept where it goes."""
        storage = source.with_name(source.name + ".places")
        command = uploader(f"{self.url}/uploads", LOGIN, str(source), str(storage))
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(name="site")
def _site(start_server: StartServer) -> Website:
    return Website(start_server)


def run(*command: str | Path) -> None:
    """Run a client to its end, which is a good one."""
    subprocess.run(
        [*map(str, command)], check=True, timeout=PATIENCE, capture_output=True, text=True
    )


def curl(url: str, path: Path) -> None:
    run("curl", "-sSf", "-C", "-", "-H", f"Authorization: {LOGIN}", "-o", path, url)


def wget(url: str, path: Path) -> None:
    run("wget", "-q", "-c", f"--header=Authorization: {LOGIN}", "-O", path, url)


def aria2c(url: str, path: Path, *options: str) -> None:
    path.with_name(path.name + ".aria2").unlink(missing_ok=True)
    run(
        "aria2c", "-q", "-c", "-x4", "-s4", "-k1M", f"--header=Authorization: {LOGIN}",
        "-d", path.parent, "-o", path.name, *options, url,
    )  # fmt: skip


@pytest.mark.parametrize("client", [curl, wget, aria2c])
def test_a_download_that_was_cut_goes_on(
    site: Website, tmp_path: Path, client: Callable[[str, Path], None]
) -> None:
    """By its range; what is there is not fetched again, and the whole is right."""
    site.start()
    url, source = site.publish(tmp_path)
    path = tmp_path / "fetched.bin"
    path.write_bytes(source.read_bytes()[: SIZE // 3])
    client(url, path)
    assert md5(path) == md5(source)


def test_a_download_in_four_parts_at_once_is_right(site: Website, tmp_path: Path) -> None:
    """Ranges of one file, each on a connection of its own."""
    site.start("--log-level", "debug")
    url, source = site.publish(tmp_path)
    path = tmp_path / "fetched.bin"
    aria2c(url, path, "--max-overall-download-limit=2M")  # so that one is not done before others
    assert md5(path) == md5(source)
    assert site.server.log.count(": 206") >= 2


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where tus-js-client is installed."""
    folder = tmp_path_factory.mktemp("npm")
    install_tus_js_client(folder)
    return folder


@pytest.mark.parametrize("options", ["{}", "{'upload_checksum': True}"])
def test_an_upload_whose_tuspy_was_killed_goes_on(
    site: Website, tmp_path: Path, options: str
) -> None:
    """The same command again sends what was missing."""
    goes_on_after_a_kill(site, tmp_path, tuspy(options))


@pytest.mark.parametrize("most", [PIECE, "Infinity"])
def test_an_upload_whose_tus_js_client_was_killed_goes_on(
    site: Website, tmp_path: Path, npm: Path, most: str
) -> None:
    """The same command again sends what was missing; in pieces, or all of it in one request."""
    goes_on_after_a_kill(site, tmp_path, tus_js_client(npm, most))


def goes_on_after_a_kill(site: Website, folder: Path, uploader: Uploader) -> None:
    """Kill a client in the middle of an upload, and start it again."""
    server = site.start("--limit", "3M")
    source = random_file(folder / "source.bin", SIZE)
    process = site.begin(uploader, source)
    eventually(lambda: claimed(server) > 5 * 36)
    process.kill()
    process.communicate()
    assert received(server.output) == []
    first, last = finish(site.begin(uploader, source))
    assert (first >= 5 * BLOCK_SIZE, last) == (True, SIZE)
    (path,) = received(server.output)
    assert md5(path) == md5(source)
    assert len(part_files(server.output)) <= 1  # it was one upload


def test_tuspy_outlives_a_kill_of_the_server(site: Website, tmp_path: Path) -> None:
    """It asks the new one for the offset and goes on; nothing is there twice."""
    outlives_a_kill(site, tmp_path, tuspy("{'retries': 60, 'retry_delay': 0.5}"))


def test_tus_js_client_outlives_a_kill_of_the_server(
    site: Website, tmp_path: Path, npm: Path
) -> None:
    """As tuspy does."""
    outlives_a_kill(site, tmp_path, tus_js_client(npm))


def outlives_a_kill(site: Website, folder: Path, uploader: Uploader) -> None:
    """Kill the server in the middle of an upload, and start another."""
    server = site.start("--limit", "3M")
    source = random_file(folder / "source.bin", SIZE)
    process = site.begin(uploader, source)
    eventually(lambda: claimed(server) > 5 * 36)
    os.kill(server.process.pid, signal.SIGKILL)
    server.stop()
    server = site.start()
    assert finish(process) == (0, SIZE)
    (path,) = received(server.output)
    assert md5(path) == md5(source)


def claimed(server: ServerProcess) -> int:
    """Return the bytes of records in the journal."""
    journals = (server.output / ".partial").glob("*.journal")
    return sum(len(path.read_bytes().partition(b"\n")[2]) for path in journals)
