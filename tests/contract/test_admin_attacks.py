# SPDX-License-Identifier: MIT
"""What a member of the admin group can do to textgated with everything that the socket allows: nothing that lasts.

The attackers are processes of another user id that speak to a running daemon, as they would.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI
from textgate import texts
from textgate.admin_client import call
from textgate.admin_limits import REQUESTS, UNLOCKS_OF_ONE
from textgate.errors import DaemonUnavailable, RefusedError, ThrottledError

from .test_server import (
    OTHER_USER,
    PHONE,
    USER,
    WITHIN_S,
    Place,
    as_nobody,
    gateway,
    gateway_of_the_run,
    place,
)

__all__ = ["gateway", "gateway_of_the_run", "place"]  # fixtures

GROUP = 1  # of `Place.configure`
AT_ONCE_S = 2.0  # what `pam_revert` waits for
IDLE = 24  # 4 threads and 20 in line were all there was

CONNECT_AND_WAIT = textwrap.dedent("""
    # As a member of the group: connections that say nothing, until standard input ends.
    import os, socket, sys
    os.setgroups([1]); os.setgid(1); os.setuid(int(sys.argv[3]))
    kept = []
    for _ in range(int(sys.argv[2])):
        kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        kept[-1].connect(sys.argv[1])
        kept[-1].send(sys.argv[4].encode())
    print("connected", flush=True)
    sys.stdin.read()
""")

CONNECT_FOR_EVER = textwrap.dedent("""
    # As a member of the group: a new connection with a request, over and over.
    import os, socket, sys
    os.setgroups([1]); os.setgid(1); os.setuid(65534)
    print("connected", flush=True)
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(sys.argv[1])
                connection.send(b'{"v": 1, "verb": "status"}\\n')
            except OSError:
                pass
""")


@contextlib.contextmanager
def member(code: str, *arguments: object) -> Iterator[None]:
    """An attacker at work."""
    argv = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"connected\n"
        try:
            yield
        finally:
            process.kill()


def as_member(place: Place, *lines: Mapping[str, object]) -> list[dict[str, Any]]:
    """The answers that another user of the group gets on one connection."""
    data = b"".join(json.dumps({"v": 1, **line}).encode() + b"\n" for line in lines)
    answers = as_nobody(place.admin, data, groups=[GROUP]).stdout.splitlines()
    return [json.loads(answer) for answer in answers]


def kinds(answers: Sequence[dict[str, Any]]) -> list[str]:
    return ["ok" if answer["ok"] else answer["error"]["kind"] for answer in answers]


# --- Connections ---


@pytest.mark.parametrize("sent", ["", '{"v": 1, "verb": "status"'], ids=["silent", "half a line"])
def test_idle_connections_of_the_group_keep_nobody_out(place: Place, gateway: FakeGatewayAPI, sent: str) -> None:
    with place.run() as daemon:
        assert daemon.ask("begin", service="sudo", PAM_TTY="")[0] == "ask"
        assert daemon.check(gateway.last_code(PHONE), service="sudo", PAM_TTY="")[0] == "pass"
        with member(CONNECT_AND_WAIT, place.admin, IDLE, 65534, sent):
            asked = call(str(place.admin), "last-pass", AT_ONCE_S, service="sudo")
            assert asked["at"] is not None  # or `textgate pam try` would be taken back although somebody got in
            assert call(str(place.admin), "status", AT_ONCE_S)["store"]["is_up"] is True
            assert kinds(as_member(place, {"verb": "status"})) == ["ok"]  # even who is under the same user id


def test_many_members_at_once_keep_neither_root_nor_another_member_out(place: Place) -> None:
    with place.run(), contextlib.ExitStack() as stack:
        for uid in range(60_000, 60_012):
            stack.enter_context(member(CONNECT_AND_WAIT, place.admin, 8, uid, ""))
        assert call(str(place.admin), "status", AT_ONCE_S)["store"]["is_up"] is True
        assert kinds(as_member(place, {"verb": "status"})) == ["ok"]


def test_idle_connections_of_root_keep_root_not_out(place: Place) -> None:
    with place.run(), contextlib.ExitStack() as stack:
        from .test_server import Peer

        for _ in range(200):
            stack.enter_context(Peer(place.admin))
        assert call(str(place.admin), "status", AT_ONCE_S)["store"]["is_up"] is True


def test_flood_of_connections_holds_up_neither_root_nor_logins(place: Place, gateway: FakeGatewayAPI) -> None:
    with place.run() as daemon, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(member(CONNECT_FOR_EVER, place.admin))
        for number in range(5):
            assert call(str(place.admin), "status", WITHIN_S)["store"]["is_up"] is True
            assert daemon.ask("begin", port=51000 + number) == ("ask", texts.SENT)
            assert daemon.check(gateway.last_code(PHONE), port=51000 + number)[0] == "pass"


def test_verbs_of_root_that_take_long_do_not_keep_a_try_from_being_confirmed(
    place: Place, gateway: FakeGatewayAPI
) -> None:
    from .test_server import Peer, held_gateway

    place.configure(gateway={"send_wait_s": 8})
    with place.run(), held_gateway(gateway) as wait_reached, contextlib.ExitStack() as stack:
        line = json.dumps({"v": 1, "verb": "send-test", "number": f"+{PHONE}"}).encode() + b"\n"
        for _ in range(12):
            stack.enter_context(Peer(place.admin)).send(line)
        wait_reached()
        assert call(str(place.admin), "last-pass", AT_ONCE_S, service="sudo") == {"at": None}


# --- Requests ---


def test_requests_of_the_group_are_limited_and_those_of_root_are_not(place: Place) -> None:
    with place.run():
        most = REQUESTS[0].most
        answers = as_member(place, *[{"verb": "status"}] * (most + 5))
        assert kinds(answers)[: most + 1] == ["ok"] * most + ["throttled"]
        error = answers[most]["error"]
        assert error["wait_s"] > 0
        assert error["message"].startswith("too many requests")
        for _ in range(3 * most):
            call(str(place.admin), "status", AT_ONCE_S)


def test_throttled_member_hears_how_long_to_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.run():
        as_member(place, {"verb": "unlock", "user": USER})
        [answer] = as_member(place, {"verb": "unlock", "user": USER})
        assert answer["error"]["kind"] == "throttled"
        assert 0 < answer["error"]["wait_s"] <= UNLOCKS_OF_ONE.window_s
        assert "root" in answer["error"]["hint"]
        from textgate.admin_client import _read

        with pytest.raises(ThrottledError) as caught:
            _read(json.dumps(answer).encode())
        assert caught.value.wait_s == answer["error"]["wait_s"]
        assert isinstance(caught.value, RefusedError)


# --- unlock ---


def test_unlock_by_the_group_gives_no_more_guesses_than_a_day_has(place: Place, gateway: FakeGatewayAPI) -> None:
    """Who has alice's password and is in the group, too: `unlock` before each text gave 222 guesses in 3 s."""
    place.configure(limits={"send_spacing_s": 0, "sends_per_15_minutes": 100, "sends_per_day": 100})
    guesses = 0
    with place.run() as daemon:
        for number in range(30):
            as_member(place, {"verb": "unlock", "user": USER})
            port = 51000 + number
            if daemon.ask("begin", port=port)[0] != "ask":
                continue
            right = gateway.last_code(PHONE)
            wrong = "000000" if right != "000000" else "000001"
            for _ in range(3):
                guesses += daemon.check(wrong, port=port)[1] in (texts.WRONG, texts.TRIES_SPENT)
        assert guesses <= 20


def test_unlock_by_the_group_is_once_in_some_minutes_for_a_user(place: Place) -> None:
    with place.run() as daemon:
        first, second, other = as_member(
            place, *({"verb": "unlock", "user": user} for user in (USER, USER, OTHER_USER))
        )
        assert kinds([first, second, other]) == ["ok", "throttled", "ok"]
        assert first["result"] == {"user": USER, "is_day_forgotten": False}
        assert [daemon.admin("unlock", user=USER)["result"]["is_day_forgotten"] for _ in range(3)] == [True] * 3
        assert daemon.wait_event("admin", verb="unlock", uid="0")["PRIORITY"] == "5"


def test_group_ends_a_lockout_and_root_a_used_up_day(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(limits={"wrong_per_day": 1, "wrong_in_a_row": 1})
    with place.run() as daemon:
        daemon.ask("begin")
        assert daemon.check("000000x")[1].startswith("Too many wrong codes in a row")
        assert daemon.ask("begin", port=51000)[1].startswith("Too many wrong codes in a row")
        assert kinds(as_member(place, {"verb": "unlock", "user": USER})) == ["ok"]
        assert daemon.ask("begin", port=51000)[1].startswith("Too many wrong codes in a day")
        daemon.admin("unlock", user=USER)
        assert daemon.ask("begin", port=51000) == ("ask", texts.SENT)


# --- The gateway's credit ---


def test_status_asks_the_vendor_once_however_often_it_is_asked(place: Place, gateway: FakeGatewayAPI) -> None:
    def asked() -> int:
        return sum(1 for request in gateway.requests if request.path == "/rest/me")

    with place.run() as daemon:
        for _ in range(3):
            as_member(place, *[{"verb": "status"}] * 3)
        first = daemon.admin("status")["result"]["gateway"]
        assert asked() == 1
        assert first["credit_age_s"] >= 0
        fresh = daemon.admin("status", fresh=True)["result"]["gateway"]
        assert (asked(), fresh["credit_age_s"]) == (2, 0)
        assert kinds(as_member(place, {"verb": "status", "fresh": True})) == ["forbidden"]
        assert asked() == 2


# --- The journal ---


def test_flood_of_refusals_is_one_line_and_a_login_is_written(place: Place) -> None:
    """241,900 of them made journald drop what a thief of alice's password did."""
    with place.run() as daemon:
        for _ in range(20):
            as_member(place, *[{"verb": "recovery", "user": USER}] * 5)
        assert daemon.ask("begin", user="nosuchuser")[0] == "ask"
        assert daemon.check("123456", user="nosuchuser")[0] == "deny"
        daemon.wait_event("check", result="deny")
        assert len([entry for entry in daemon.events if entry["TEXTGATE_EVENT"] == "admin"]) <= 12
    told = [entry for entry in daemon.events if entry.get("TEXTGATE_TIMES")]
    assert not told  # killed before it could sum up; the next test stops in order


def test_what_was_not_written_is_summed_up_with_who_did_it(place: Place) -> None:
    import signal

    with place.run() as daemon:
        for _ in range(20):
            as_member(place, *[{"verb": "recovery", "user": USER}] * 2)
        daemon.signal(signal.SIGTERM)
        assert daemon.exit_code() == 0
    written = daemon.find("admin", verb="recovery")
    summed = [entry for entry in written if entry.get("TEXTGATE_TIMES")]
    assert len(written) - len(summed) == 5
    assert sum(int(entry["TEXTGATE_TIMES"]) for entry in summed if entry["TEXTGATE_UID"] == "65534") >= 1
    throttled = daemon.find("admin", reason="throttled")
    assert throttled
    assert all(entry["TEXTGATE_UID"] == "65534" for entry in throttled)


def test_client_says_when_nobody_answers(tmp_path: Path) -> None:
    started_at = time.monotonic()
    with pytest.raises(DaemonUnavailable):
        call(str(tmp_path / "nowhere.sock"), "status", 0.5)
    assert time.monotonic() - started_at < WITHIN_S
