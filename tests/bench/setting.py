# SPDX-License-Identifier: MIT
"""The world of the benchmarks: many users with phones, textgated as it is shipped, Redis that syncs each answer.

Only the limits on texts are raised, for nobody logs in a thousand times a day. The daemon logs to a journal that
forgets, as under systemd it would to one that doesn't.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rig.daemon import Daemon, Values, write_config, write_credentials, write_phones
from rig.people import is_in_world
from rig.process import Process, Program, RigError
from rig.redis_server import RedisServer

from .native import program

USER_COUNT = 256
FIRST_MSISDN = 4512000000  # as in native/responder.h
FIRST_UID = 20000
GATEWAY_PORT = 8480
JOURNAL = Path("/run/systemd/journal/socket")
STUB = Path("/run/textgate-bench/stub.sock")
SERVER_WITHIN_S = 10.0

_MANY = 1_000_000
_UNTHROTTLED: Values = {
    "limits": {
        "send_spacing_s": 0,
        "sends_per_15_minutes": 1000,
        "sends_per_day": 10_000,
        "sends_per_phone_per_day": 100_000,
        "sends_per_source_per_hour": _MANY,
        "sends_per_host_per_minute": _MANY,
        "sends_per_country_per_day": _MANY,
        "sends_per_day_in_all": _MANY,
        "spend_per_day": _MANY,
    }
}


@dataclass(frozen=True)
class Setting:
    """What runs."""

    daemon: Daemon
    redis: RedisServer

    @property
    def pids(self) -> tuple[int, int]:
        """The daemon and Redis."""
        return self.daemon.process.pid, self.redis.process.pid


@contextlib.contextmanager
def running() -> Iterator[Setting]:
    """Users, Redis, journal and daemon; the gateway comes with the load generators, on GATEWAY_PORT."""
    if not is_in_world():
        raise RigError("benchmarks run in a private world only; use: make bench")
    make_users()
    lengthen_queues()
    write_credentials("k" * 24, "s" * 64)
    write_config(f"http://127.0.0.1:{GATEWAY_PORT}", _UNTHROTTLED)
    with server("journal", JOURNAL), RedisServer() as redis, Daemon(arguments=("--log", "journal")) as daemon:
        yield Setting(daemon, redis)


def make_users() -> None:
    """bench0 and so on, each with a group of its own and a phone. Made once in a world."""
    passwd = Path("/etc/passwd")
    if "\nbench0:" in passwd.read_text():
        return
    ids = {f"bench{n}": FIRST_UID + n for n in range(USER_COUNT)}
    with passwd.open("a") as file:
        file.writelines(f"{name}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin\n" for name, uid in ids.items())
    with Path("/etc/group").open("a") as file:
        file.writelines(f"{name}:x:{uid}:\n" for name, uid in ids.items())
    write_phones((), {name: f"+{FIRST_MSISDN + n}" for n, name in enumerate(ids)})


def lengthen_queues() -> None:
    """Let as many records wait for the journal as systemd does; else the daemon waits for it after eleven of them.

    Only in a network of the world's own, whose setting ends with it.
    """
    interfaces = {line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    if interfaces == {"lo"}:
        Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512\n")


@contextlib.contextmanager
def server(kind: str, path: Path) -> Iterator[Process]:
    """native/serve.c: "daemon" answers yes to everything, "journal" forgets everything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    process = Process.start(Program(f"serve-{kind}", (program("serve"), kind, str(path))), is_notifying=False)
    try:
        process.wait_for(lambda: "ready" in process.lines or None, SERVER_WITHIN_S, "readiness")
        yield process
    finally:
        process.stop()
        path.unlink(missing_ok=True)
