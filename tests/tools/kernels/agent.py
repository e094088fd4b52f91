"""The first process of a machine: it sets up the network, then runs what it is asked to run.

Its arguments are the machine's number and the folder with ``lib/modules``. A connection to port
9999 of the control network brings a command for bash and is then closed for sending; the answer is
all that the command says, a zero byte, and its exit code. The root file system is the host's,
read-only.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

PORT = 9999
DATA, CONTROL = "10.77.0", "10.78.0"  # the networks; a machine's last number is 10 and its own
BEGIN = """
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for place in /run /mnt /var/tmp /var/lib/nfs; do mount -t tmpfs none $place; done
mkdir -p /dev/shm /mnt/nfs /mnt/disk; hostname machine{number}; ip link set lo up
ip address add {data}.1{number}/24 dev vec0; ip link set vec0 up
ip address add {control}.1{number}/24 dev vec1; ip link set vec1 up
for module in nfsv4 nfsd ext4; do modprobe -d {modules} $module; done
"""


def _answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        command = ["/bin/bash", "-c", stream.read().decode()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        stream.write(done.stdout + done.stderr + b"\0%d" % done.returncode)


def main() -> None:
    """Run for as long as the machine does."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    number, modules = sys.argv[1:3]
    begin = BEGIN.format(number=number, modules=modules, data=DATA, control=CONTROL)
    subprocess.run(["/bin/bash", "-c", begin], check=False)
    listener = socket.create_server((f"{CONTROL}.1{number}", PORT))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
