# SPDX-License-Identifier: MIT
"""Who is at the other end of a Unix socket: the kernel's word of when it connected (unix(7), SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("iII")


@dataclass(frozen=True)
class PeerCred:
    """Process, user and group id of a peer."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> PeerCred:
    """The peer of a connected Unix socket; on any other socket uid and gid are 4294967295, which are nobody's."""
    return PeerCred(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
