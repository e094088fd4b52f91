"""GlusterFS without its daemon: a brick, and two mounts of it, as two machines would have them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.support.waiting import PATIENCE, eventually
from tests.tools.sweeping.processes import free_port

_VOLUME = "6a1c2b3d-0000-4000-8000-000000000001"
_BRICK = f"""\
volume posix
  type storage/posix
  option directory %(folder)s/brick
  option volume-id {_VOLUME}
end-volume
volume locks
  type features/locks
  subvolumes posix
end-volume
volume /brick
  type performance/io-threads
  option thread-count 8
  subvolumes locks
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port %(port)s
  option auth.addr./brick.allow 127.0.0.1
  subvolumes /brick
end-volume
"""
_CLIENT = """\
volume client
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port %(port)s
  option remote-subvolume /brick
  option strict-locks on
end-volume
volume utime
  type features/utime
  subvolumes client
end-volume
"""


class Gluster:
    """One directory with two mounts, ``mounts``, until it is left. It needs root and /dev/fuse."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lft-"))
        self._port = free_port()
        self.mounts = [self._folder / "one", self._folder / "two"]
        self._processes: list[subprocess.Popen[bytes]] = []
        for folder in (*self.mounts, self._folder / "brick"):
            folder.mkdir()
        volume = bytes.fromhex(_VOLUME.replace("-", ""))
        os.setxattr(self._folder / "brick", "trusted.glusterfs.volume-id", volume)
        try:
            self._start("glusterfsd", _BRICK)
            eventually(self._listens, "the brick to listen")
            for mount in self.mounts:
                self._start("glusterfs", _CLIENT, str(mount))
                eventually(lambda mount=mount: self._is_mounted(mount), "the mount")  # type: ignore[misc]
        except BaseException:
            self.close()
            raise

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    @staticmethod
    def _is_mounted(mount: Path) -> bool:
        """Return whether it is; a look at the place itself might hang."""
        return f" {mount} " in Path("/proc/self/mounts").read_text(encoding="utf-8")

    def _start(self, program: str, volume: str, *more: str) -> None:
        number = len(self._processes)
        file, log = self._folder / f"{number}.vol", self._folder / f"{number}.log"
        file.write_text(volume % {"folder": self._folder, "port": self._port}, encoding="ascii")
        command = [program, "--no-daemon", "-f", str(file), "-l", str(log), *more]
        self._processes.append(subprocess.Popen(command, start_new_session=True))

    def __enter__(self) -> Gluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount, end its processes, remove all of it."""
        for mount in self.mounts:
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        assert not any(map(self._is_mounted, self.mounts))
        subprocess.run(["rm", "-rf", "--one-file-system", str(self._folder)], check=True)
