# SPDX-License-Identifier: MIT
"""Who is at the other end, by the kernel's word."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from textgate.peercred import PeerCred, peer_credentials


def test_peer_of_a_socket_pair_is_this_process() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_credentials(one) == PeerCred(os.getpid(), os.geteuid(), os.getegid())


def test_large_ids_are_not_negative() -> None:
    class Connection:
        def getsockopt(self, _level: int, _name: int, _size: int) -> bytes:
            return struct.pack("iII", 1, 4294967294, 4294967295)

    assert peer_credentials(Connection()) == PeerCred(1, 4294967294, 4294967295)  # type: ignore[arg-type]


def test_socket_that_is_not_connected_has_no_peer() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as alone:
        assert peer_credentials(alone).pid == 0
        assert peer_credentials(alone).uid == 0xFFFFFFFF  # nobody, and never root


def test_network_socket_has_nobody_at_the_other_end() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        assert {peer_credentials(near).uid, peer_credentials(far).uid} == {0xFFFFFFFF}


def test_thing_without_peer_credentials_is_an_error() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as closed:
        pass
    with pytest.raises(OSError, match="descriptor"):
        peer_credentials(closed)
