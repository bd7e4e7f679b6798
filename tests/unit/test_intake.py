# SPDX-License-Identifier: MIT
"""Requests are read without a worker, each in its time, and the one that has waited longest makes room."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from textgate import intake as module
from textgate.errors import ProtocolError
from textgate.intake import Intake
from textgate.protocol import REQUEST_MAX_BYTES

TIMEOUT_S = 2.0


class Scene:
    """An intake whose time stands still, and the ends of its connections."""

    def __init__(self) -> None:
        self.now_at = 100.0
        self.requests: list[bytes] = []
        self.faults: list[str] = []
        self.peers: list[socket.socket] = []
        self.intake = Intake(
            timeout_s=TIMEOUT_S, on_request=self._request, on_fault=self._fault, clock=lambda: self.now_at
        )

    def _request(self, connection: socket.socket, untrusted: bytes, accepted_at: float) -> None:
        assert accepted_at <= self.now_at
        self.requests.append(untrusted)
        connection.close()

    def _fault(self, connection: socket.socket, error: ProtocolError) -> None:
        self.faults.append(error.reason)
        connection.close()

    def connect(self, sent: bytes = b"", *, is_whole: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        theirs.sendall(sent)
        if is_whole:
            theirs.shutdown(socket.SHUT_WR)
        self.intake.add(ours)
        return theirs


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.now_at += TIMEOUT_S
    scene.intake.finish()
    for peer in scene.peers:
        peer.close()


def test_whole_request_is_handed_over_at_once(scene: Scene) -> None:
    scene.connect(b"all of it", is_whole=True)
    assert (scene.requests, scene.intake.wait_s()) == ([b"all of it"], None)


def test_request_in_pieces_is_put_together(scene: Scene) -> None:
    peer = scene.connect(b"one ")
    peer.sendall(b"two ")
    scene.intake.read()
    assert scene.requests == []
    peer.sendall(b"three")
    peer.shutdown(socket.SHUT_WR)
    scene.intake.read()
    assert scene.requests == [b"one two three"]


def test_time_is_for_the_whole_request(scene: Scene) -> None:
    peer = scene.connect(b"x")
    scene.now_at += TIMEOUT_S - 0.1
    peer.sendall(b"x")
    scene.intake.read()
    scene.intake.expire()
    assert scene.faults == []
    assert scene.intake.wait_s() == pytest.approx(0.1)
    scene.now_at += 0.1
    scene.intake.expire()
    assert scene.faults == ["too_slow"]


def test_request_that_is_too_long_ends(scene: Scene) -> None:
    peer = scene.connect(b"x" * 1000)
    peer.setblocking(False)
    sent = 1000
    while not scene.faults:
        sent += peer.send(b"x" * 50_000)
        scene.intake.read()
    assert (scene.faults, sent > REQUEST_MAX_BYTES) == (["too_long"], True)


def test_peer_that_is_cut_off_is_broken(scene: Scene) -> None:
    peer = scene.connect(b"x")
    scene.intake._unfinished[next(iter(scene.intake._unfinished))].connection.send(b"unread")
    peer.close()  # with bytes unread: a reset
    scene.intake.read()
    assert scene.faults == ["broken"]


def test_oldest_makes_room_and_the_newest_is_served(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNFINISHED_MAX", 3)
    peers = [scene.connect(b"%d" % number) for number in range(5)]
    assert scene.faults == ["too_slow"] * 2
    for peer in peers[2:]:
        peer.shutdown(socket.SHUT_WR)
    scene.intake.read()
    assert scene.requests == [b"2", b"3", b"4"]


def test_finish_waits_for_those_who_are_at_it_and_no_longer(scene: Scene) -> None:
    peer = scene.connect(b"half ")
    scene.connect()
    peer.sendall(b"and half")
    peer.shutdown(socket.SHUT_WR)
    scene.now_at += TIMEOUT_S
    scene.intake.finish()
    assert (scene.requests, scene.faults) == ([b"half and half"], ["too_slow"])
