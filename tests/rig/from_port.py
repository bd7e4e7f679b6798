# SPDX-License-Identifier: MIT
"""Carries an ssh client's bytes from a source port of its choice (ProxyCommand python3 from_port.py OWN HOST PORT).

The connection is reset at the end, which leaves no TIME_WAIT behind: the next one can come from this port at once.
Runs under any python3, with nothing else of this repository.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

STDIN, STDOUT = 0, 1


def main(own_port: int, host: str, port: int) -> None:
    """Carry bytes both ways until either side ends."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.bind(("", own_port))
        connection.connect((host, port))
        while True:
            ready, _, _ = select.select([STDIN, connection.fileno()], [], [])
            if STDIN in ready:
                if not (typed := os.read(STDIN, 65536)):
                    return
                connection.sendall(typed)
            if connection.fileno() in ready:
                if not (shown := connection.recv(65536)):
                    return
                os.write(STDOUT, shown)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
