"""Clients that others have written: they fetch and send, are cut, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.support.files import md5, random_file, received
from tests.support.processes import ServerProcess, StartServer
from tests.support.tus import USER1
from tests.support.waiting import PATIENCE, eventually

LOGIN = USER1["Authorization"]
SIZE = 3 * 1024 * 1024

TUSPY = """
import sys
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

url, login, path, storage, options = sys.argv[1:]
client = TusClient(url, headers={"Authorization": login})
uploader = client.uploader(
    path, chunk_size=400_000, store_url=True, url_storage=FileStorage(storage),
    metadata={"filename": "sent.bin"}, **eval(options),
)
uploader.upload()
print(uploader.offset)
"""


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
        self.upload(source, folder / "storage")
        (path,) = received(self.server.output)
        return f"{self.url}/files/{path.name}", source

    def upload(self, source: Path, storage: Path, options: str = "{}") -> None:
        """Send a file by tuspy."""
        assert finish(self.begin_upload(source, storage, options)) == f"{source.stat().st_size}\n"

    def begin_upload(
        self, source: Path, storage: Path, options: str = "{}"
    ) -> subprocess.Popen[str]:
        """Begin to send a file by tuspy."""
        command = [sys.executable, "-c", TUSPY, f"{self.url}/uploads", LOGIN, source, storage]
        return subprocess.Popen([*map(str, command), options], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a client that succeeds; return what it says."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return said


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


@pytest.mark.parametrize("options", ["{}", "{'upload_checksum': True}"])
def test_an_upload_whose_client_was_killed_goes_on(
    site: Website, tmp_path: Path, options: str
) -> None:
    """The same command again sends what was missing."""
    server = site.start("--limit", "3M")
    source, storage = random_file(tmp_path / "source.bin", SIZE), tmp_path / "storage"
    process = site.begin_upload(source, storage, options)
    eventually(lambda: claimed(server) > 5 * 36)
    process.kill()
    process.communicate()
    site.upload(source, storage, options)
    (path,) = received(server.output)
    assert md5(path) == md5(source)


def test_an_upload_outlives_a_kill_of_the_server(site: Website, tmp_path: Path) -> None:
    """The client asks the new one for the offset and goes on; nothing is there twice."""
    server = site.start("--limit", "3M")
    source, storage = random_file(tmp_path / "source.bin", SIZE), tmp_path / "storage"
    process = site.begin_upload(source, storage, "{'retries': 60, 'retry_delay': 0.5}")
    eventually(lambda: claimed(server) > 5 * 36)
    os.kill(server.process.pid, signal.SIGKILL)
    server.stop()
    server = site.start()
    assert finish(process) == f"{SIZE}\n"
    (path,) = received(server.output)
    assert md5(path) == md5(source)


def claimed(server: ServerProcess) -> int:
    """Return the bytes of records in the journal."""
    journals = (server.output / ".partial").glob("*.journal")
    return sum(len(path.read_bytes().partition(b"\n")[2]) for path in journals)
