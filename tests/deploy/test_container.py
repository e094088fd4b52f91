"""The container file: its own lines, carried out without a container engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import List, Tuple

from lft.accounts.passwords import PASSWORD_VARIABLE
from tests.support.accounts import PASSWORD
from tests.support.files import random_file
from tests.support.jail import USER, container, open_folder, owned
from tests.support.network import check_one
from tests.support.processes import ROOT, ServerProcess, run_client
from tests.support.waiting import PATIENCE

FILE = ROOT / ".github" / "deploy" / "Containerfile"
Lines = List[Tuple[str, str]]


def lines() -> Lines:
    """Return the instructions of the file and what stands behind each."""
    text = FILE.read_text(encoding="utf-8")
    parts = [line.partition(" ") for line in text.splitlines() if line and line[0] != "#"]
    return [(word, rest) for word, _, rest in parts]


def the(name: str) -> str:
    """Return what stands behind the one instruction of a name."""
    (found,) = [rest for word, rest in lines() if word == name]
    return found


def build(root: Path) -> None:
    """Copy what the file copies, and run what it runs with the Python of this machine."""
    root.mkdir()
    for word, rest in lines():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, root / target.strip("/"), into=target.endswith("/"))
        if word == "RUN":
            command = [one.replace("/app", str(root / "app")) for one in json.loads(rest)]
            subprocess.run(["/usr/bin/" + command[0], *command[1:]], check=True)


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        assert into, f"{target}: a file and its folder are told apart by the slash"
        shutil.copy(source, target)


def test_the_container_serves_without_root_on_a_read_only_system(
    users_file: Path, tmp_path: Path
) -> None:
    """As ``--read-only`` has it: only /data can be written to; SIGTERM ends process 1."""
    source = random_file(tmp_path / "x.bin", 1_000_000)
    with open_folder() as folder:
        root, data = folder / "root", folder / "output"
        build(root)
        secret = root / "run" / "secrets" / "users.json"
        secret.parent.mkdir(parents=True)
        owned(Path(shutil.copy(users_file, secret)), 0o400)
        data.mkdir()
        owned(data, 0o750)
        command = [*json.loads(the("ENTRYPOINT")), *json.loads(the("CMD"))]
        assert command[command.index("--output") + 1] == the("VOLUME")
        jailed = container(root, data, the("USER"), *command)
        server = ServerProcess(folder, program=jailed, sees=the("VOLUME"))
        done = run_client(server.port, source, "--user", "alice",
                          variables={PASSWORD_VARIABLE: PASSWORD})  # fmt: skip
        assert done.returncode == 0, done.stderr
        check_one(data, source)
        pid = server.process.pid
        (first,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert Path(f"/proc/{first}").stat().st_uid == USER
        os.kill(int(first), getattr(signal, the("STOPSIGNAL")))
        assert server.process.wait(PATIENCE) == 0, server.log
        server.stop()


def test_the_user_is_a_number_and_not_root() -> None:
    """Kubernetes' ``runAsNonRoot`` cannot look names up, nor can the owner of a volume."""
    assert the("USER") == f"{USER}:{USER}"
