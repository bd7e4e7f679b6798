# SPDX-License-Identifier: MIT
"""systemd-creds(1) for unit tests: what it makes opens on the same machine and under the same name only.

The real one is used by the tests on booted machines.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

BY_HOST = bytes.fromhex("5a1c6a86df9d4096b1d5a65e0862f19a")


class FakeSystemdCreds:
    """machine: what the key stands for. is_able: there is a key. calls: argument lists, as `ps` shows them."""

    def __init__(self, machine: str = "this") -> None:
        self.machine = machine
        self.is_able = True
        self.loses_bytes = False
        self.calls: list[list[str]] = []

    def pipe(self, arguments: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        """In the place of `programs.pipe_program`."""
        self.calls.append(list(arguments))
        _, verb, *options, source, target = arguments
        assert (source, target) == ("-", "-")
        name = next(word.partition("=")[2] for word in options if word.startswith("--name="))
        if not self.is_able:
            return 1, b"", "No encryption key available.\n"
        head = BY_HOST + f"{self.machine}\0{name}\0".encode()
        if verb == "encrypt":
            assert "--with-key=host" in options
            return 0, base64.encodebytes(head + bytes(byte ^ 0x55 for byte in data)), "used anyway\n"
        opened = base64.b64decode(data)
        if not opened.startswith(head):
            return 1, b"", "\x1b[31mFailed to determine local credential key: No such file or directory\n"
        plain = bytes(byte ^ 0x55 for byte in opened.removeprefix(head))
        return 0, plain[1:] if self.loses_bytes else plain, ""
