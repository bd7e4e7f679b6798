# SPDX-License-Identifier: MIT
"""A private Redis (or Valkey) on a Unix socket, set up as the packaged one: all is on disk, nothing is evicted."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import redis

from .people import DAEMON_USER
from .process import Process, Program, RigError

SOCKET = Path("/run/textgate-redis/redis.sock")


class RedisServer:
    """A context manager. Its data outlive `stop` and `kill`, until `close` or the end of the `with` block."""

    def __init__(self, socket_path: Path = SOCKET, *, directory: Path | None = None) -> None:
        """directory: an empty one for its data, in place of a new one; `close` empties it."""
        self.socket_path = socket_path
        self._directory = directory
        self._process: Process | None = None
        self._client: Any = None

    @property
    def url(self) -> str:
        """As redis-py and [store] url take it."""
        return f"unix://{self.socket_path}"

    @property
    def client(self) -> Any:
        """A redis-py client with texts decoded, for a test's own look into the store."""
        if self._client is None:
            self._client = redis.Redis(
                unix_socket_path=str(self.socket_path), decode_responses=True, socket_timeout=5
            )
        return self._client

    @property
    def process(self) -> Process:
        """The running server. Raises RigError when it is stopped."""
        if self._process is None:
            raise RigError("redis is not running")
        return self._process

    def start(self) -> Self:
        """Run it on the data of before, if any; ready when this returns."""
        self.socket_path.parent.mkdir(mode=0o750, exist_ok=True)
        shutil.chown(self.socket_path.parent, DAEMON_USER, DAEMON_USER)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="rig-redis-"))
        shutil.chown(self._directory, DAEMON_USER, DAEMON_USER)
        self._process = Process.start(Program(self.socket_path.stem, self._argv(self._directory), user=DAEMON_USER))
        return self

    def stop(self) -> None:
        """End it in order; nothing happens when it is not running."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self._process = None

    def pause(self) -> None:
        """It takes connections and answers nothing, until `resume`."""
        self.process.pause()

    def resume(self) -> None:
        """The end of `pause`."""
        self.process.resume()

    def flush(self) -> None:
        """Empty it, as if all its data were lost."""
        self.client.flushall()

    def clear(self) -> None:
        """Empty it but for the record of its history: the daemon, which runs on, would take it for lost."""
        record = self.client.hgetall("textgate:store")
        self.client.flushall()
        if record:
            self.client.hset("textgate:store", mapping=record)

    def set_readonly(self, is_readonly: bool) -> None:
        """Refuse writes (READONLY), as a replica does, or take them again."""
        # Port 1 answers to nobody: a replica without a master keeps what it has.
        self.client.execute_command(*(("REPLICAOF", "127.0.0.1", "1") if is_readonly else ("REPLICAOF", "NO", "ONE")))

    def set_full(self, is_full: bool) -> None:
        """Refuse writes (OOM), as when memory is used up, or take them again."""
        self.client.config_set("maxmemory", 1 if is_full else 0)

    def recover(self) -> None:
        """Undo `pause`, `kill`, `stop`, `set_readonly` and `set_full`, whichever of them were used, and empty it."""
        if self._process is None or not self._process.is_running:
            self.start()
        self.resume()
        self.set_readonly(False)
        self.set_full(False)
        self.clear()

    def close(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.resume()
        self.stop()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=self._directory.is_mount())
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _argv(self, directory: Path) -> tuple[str, ...]:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise RigError("neither redis-server nor valkey-server is installed")
        settings = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(directory),
            "supervised": "systemd",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "databases": "1",
        }
        return (program, *(word for name, value in settings.items() for word in (f"--{name}", value)))
