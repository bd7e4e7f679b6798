# SPDX-License-Identifier: MIT
"""A Redis (or Valkey) of a test's own: on a Unix socket in a temporary folder, with faults to order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

READY_WITHIN_S = 20.0


class PrivateRedis:
    """A context manager. Data stay over `stop`, `kill` and `start`, until the end of the `with` block."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="textgate-redis-"))
        self.socket_path = self._folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(
            unix_socket_path=str(self.socket_path),
            decode_responses=True,
            socket_timeout=10,
            encoding_errors="replace",
        )

    @property
    def url(self) -> str:
        """As [store] url takes it."""
        return f"unix://{self.socket_path}"

    def start(self) -> Self:
        """Run it; it answers when this returns."""
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise RuntimeError("neither redis-server nor valkey-server is installed")
        settings = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "supervised": "systemd",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "no",  # a killed process loses nothing that it wrote; only a power cut would
            "save": "",
            "maxmemory-policy": "noeviction",
            "databases": "1",
        }
        argv = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
        notify_path = self._folder / "notify.sock"
        notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(notify_path))
            notify.settimeout(READY_WITHIN_S)
            environment = {"PATH": os.defpath, "NOTIFY_SOCKET": str(notify_path)}
            self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
            while b"READY=1" not in notify.recv(4096):
                pass
        return self

    def stop(self) -> None:
        """End it in order; nothing happens when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It takes connections and answers nothing, until `resume`. Returns once it stands still."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """The end of `pause`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def set_readonly(self, is_readonly: bool) -> None:
        """Refuse writes as a replica does, or take them again."""
        # Port 1 answers to nobody: a replica without a master keeps what it has.
        self.client.execute_command(*(("REPLICAOF", "127.0.0.1", "1") if is_readonly else ("REPLICAOF", "NO", "ONE")))

    def set_full(self, is_full: bool) -> None:
        """Have no memory left, or enough again."""
        self.client.config_set("maxmemory", 1 if is_full else 0)

    def recover(self) -> None:
        """Undo all of the above and empty it."""
        if self._process is None:
            self.start()
        self.resume()
        self.set_readonly(False)
        self.set_full(False)
        self.clear()

    def clear(self) -> None:
        """Empty it but for the record of its history: a daemon that runs on would take it for lost."""
        record = self.client.hgetall("textgate:store")
        self.client.flushall()
        if record:
            self.client.hset("textgate:store", mapping=record)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.resume()
        self.kill()
        self.client.close()
        shutil.rmtree(self._folder)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(READY_WITHIN_S)
            self._process = None
            self.client.connection_pool.disconnect()
