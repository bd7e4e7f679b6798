# SPDX-License-Identifier: MIT
"""[failmode] safe, everywhere and for everything; and a user of the machine who makes a part fail on purpose.

Each does what any user can: bind every free port, fill the file system that Redis writes to, open connections to the
gateway until it takes no more. Nobody gets in by it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon, Event, Values
from rig.logins import Doors
from rig.people import BOB
from rig.phone import Phone
from rig.process import run_as
from rig.redis_server import RedisServer
from textgate import texts

Configure = Callable[[Values], Event]
SAFE: Values = {
    "failmode": {
        "store": "safe",
        "gateway": "safe",
        "safe_services": ["sshd"],
        "safe_local_services": ["sudo"],
        "away_after_s": 5,
    }
}
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
BIND_ALL = """
import socket, sys
low, high = map(int, sys.argv[1:])
held = []
for port in range(low, high + 1):
    held.append(socket.socket())
    try:
        held[-1].bind(("0.0.0.0", port))
    except OSError:  # taken already
        pass
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def few_ports() -> Iterator[tuple[int, int]]:
    """A world whose ephemeral ports are soon used up; it has a network of its own."""
    former = PORT_RANGE.read_text()
    low, high = 61000, 61031
    PORT_RANGE.write_text(f"{low} {high}")
    try:
        yield low, high
    finally:
        PORT_RANGE.write_text(former)


@contextmanager
def all_bound(low: int, high: int) -> Iterator[None]:
    """As BOB: every port of a range, for as long as the block lasts."""
    argv = [*run_as(BOB.name), sys.executable, "-c", BIND_ALL, str(low), str(high)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bob:
        assert bob.stdout is not None
        assert bob.stdin is not None
        assert bob.stdout.readline() == b"held\n"
        yield
        bob.stdin.close()


def test_who_binds_all_ports_gets_nobody_in(
    *, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure(SAFE)  # and a gateway without an open connection
    with few_ports() as (low, high), all_bound(low, high):
        doors.keep_out("sudo", texts.NOT_SENT, texts.NOT_SENT, within_s=6)
        assert daemon.wait_event("send", result="refused")["reason"] == "shortage"
    assert daemon.find_events("fail_open") == []
    doors.log_in("sudo", phone)


def test_who_uses_up_the_gateways_connections_gets_nobody_in(
    *, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure(SAFE)
    former, gateway.settings.connection_limit = gateway.settings.connection_limit, 0
    try:
        doors.open("sudo").expect(texts.ON_ITS_WAY, within_s=6)
    finally:
        gateway.settings.connection_limit = former
    assert daemon.wait_event("send")["reason"] == "reset"
    assert daemon.find_events("fail_open") == []
    doors.log_in("ssh", phone)


@contextmanager
def small_file_system(kind: str) -> Iterator[Path]:
    """A file system with next to no room."""
    folder = Path(tempfile.mkdtemp(prefix="rig-small-"))
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=1777", "none", str(folder)]
    else:
        image = folder.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(folder)]
    subprocess.run(command, check=True)
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
        folder.with_suffix(".img").unlink(missing_ok=True)


def fill(folder: Path) -> Path:
    """As BOB: a file that takes all the room there is."""
    filler = folder / "mine"
    script = f"dd if=/dev/zero of={filler} bs=64k; dd if=/dev/zero of={filler} bs=512 oflag=append conv=notrunc"
    subprocess.run([*run_as(BOB.name), "sh", "-c", script], capture_output=True, check=False)
    return filler


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_who_fills_the_file_system_of_redis_gets_nobody_in(
    *, kind: str, configure: Configure, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    socket_path = Path("/run/textgate-redis/small.sock")
    with small_file_system(kind) as folder:
        (folder / "redis").mkdir()
        with RedisServer(socket_path, directory=folder / "redis") as server:
            configure({**SAFE, "store": {"url": server.url}})
            doors.log_in("sudo", phone)
            filler = fill(folder)
            # What is left in the last block of its file takes some more; then it can't keep what it was told.
            with contextlib.suppress(redis.RedisError):
                for _ in range(100):
                    server.client.set("filler", "x" * 512)
            server.process.wait()
            login = doors.open("sudo")
            login.expect(texts.STORE_AWAY)
            login.try_code("000000", texts.STORE_AWAY)
            doors.keep_out("ssh", texts.STORE_AWAY, texts.STORE_AWAY)
            server.stop()
            server.start()  # as systemd does, and then it writes and ends again
            doors.keep_out("sudo", texts.STORE_AWAY, texts.STORE_AWAY)
            assert daemon.find_events("fail_open") == []
            filler.unlink()
            server.stop()
            server.start()
            doors.log_in("ssh", phone)
