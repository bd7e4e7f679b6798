# SPDX-License-Identifier: MIT
"""GatewayAPI refuses, breaks, hangs, drips, floods, lies or is not there while people log in.

Three ends. Refused: nothing went out, the person is told so. Unknown: the text may have gone out; the person is told
that it is on its way, and if it comes its code works. Late: told when the code is typed. In none of them does anybody
get in without the code or wait for longer than the daemon waits for the gateway, and the next login works.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI, Fault
from rig.daemon import Daemon, Event, Values
from rig.logins import GUESSES, STEP_S, Doors
from rig.people import ALICE, BOB, CAROL
from rig.phone import Phone
from rig.redis_server import RedisServer
from textgate import texts

Configure = Callable[[Values], Event]
Inject = Callable[[FakeGatewayAPI], Fault]
SEND_WAIT_S = 2.0
"""[gateway] send_wait_s as it is by default: the longest that a login waits for the gateway."""
SHORT: Values = {
    "gateway": {"send_wait_s": 0.3, "connect_timeout_s": 0.5, "read_timeout_s": 0.6, "total_timeout_s": 0.8}
}
"""Where a test has to wait for the end of them."""
TOTAL_S = 0.8


def fault(kind: str, count: int | None = None, **options: Any) -> Inject:
    """For every text until it is taken away."""
    return lambda gateway: gateway.inject(kind, count, **options)


# --- Refused. ---

REFUSED: dict[str, Inject] = {
    "401 unknown key": fault("error", code="0x0223"),
    "401 wrong signature": fault("error", code="0x0224"),
    "401 clock off": fault("clock", seconds=7200),
    "401 nonce used": fault("replay"),
    "403 no credit": fault("credit"),
    "403 frozen": fault("error", code="0x022A"),
    "403 number refused": fault("error", code="0x0215"),
    "422 content": fault("error", code="0x0312"),
    "500 that is a refusal": fault("error", code="0x021E"),
    "429": fault("429"),
    "503 come again in a minute": fault("503", retry_after=60),
    "429 come again in an age": fault("429", retry_after="huge"),
    "301": fault("redirect", status=301),
    "302": fault("redirect", status=302),
    "307": fault("redirect", status=307),
    "308": fault("redirect", status=308),
    "port closed": fault("refuse"),
}


@pytest.mark.parametrize("inject", REFUSED.values(), ids=REFUSED)
def test_refused_text_is_told_and_nobody_gets_in(
    inject: Inject, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    inject(gateway)
    doors.keep_out("pam", texts.NOT_SENT, texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
    assert daemon.wait_event("send", user="alice")["result"] == "refused"
    assert phone.texts == []
    gateway.clear_faults()
    doors.log_in("pam", phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize("name", ["401 unknown key", "403 no credit", "port closed"])
def test_refused_text_is_told_at_a_real_door(
    *, door: str, name: str, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    REFUSED[name](gateway)
    doors.keep_out(door, texts.NOT_SENT, texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
    gateway.clear_faults()
    doors.log_in(door, phone)


def test_account_that_ran_dry_is_an_alert(
    daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    gateway.credit = gateway.credit * 0
    doors.keep_out("ssh", texts.NOT_SENT, texts.NOT_SENT)
    assert daemon.wait_event("send", reason="credit").fields["PRIORITY"] == "1"
    gateway.reset()
    doors.log_in("ssh", phone)


def test_gateway_with_a_certificate_of_its_own_is_sent_nothing(
    configure: Configure, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    with FakeGatewayAPI(tls="self-signed") as impostor:
        configure({"gateway": {"url": impostor.url}})
        doors.keep_out("ssh", texts.NOT_SENT, texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
        assert daemon.wait_event("send", reason="tls")["result"] == "refused"
        assert impostor.requests == []
    configure({})
    doors.log_in("ssh", phone)


def test_text_that_is_taken_at_the_second_attempt_is_sent(
    daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    for kind in ("429", "replay", "500"):
        gateway.inject(kind, 1)
        doors.log_in("pam", phone)


# --- Unknown. ---

UNKNOWN: dict[str, Inject] = {
    "500": fault("500"),
    "500 of a proxy": fault("500", body="html"),
    "502": fault("502"),
    "503": fault("503"),
    "504": fault("504"),
    "reset": fault("reset"),
    "reset in the head": fault("reset", at="mid-header"),
    "reset in the body": fault("reset", at="mid-body"),
    "closed": fault("close"),
    "closed in the body": fault("close", at="mid-body"),
    **{f"malformed {what}": fault("malformed", what=what) for what in
       ("cut", "html", "empty", "wrong-type", "not-utf8", "bom", "nan", "deep", "huge-int")},
    **{f"odd {what}": fault("odd", what=what) for what in
       ("empty-ids", "no-ids", "two-ids", "string-ids", "204", "202")},
    "cut short": fault("truncated"),
    "cut short in chunks": fault("truncated", how="chunked"),
    "100 MB": fault("oversize"),
    "headers without end": fault("oversize", what="headers"),
}  # fmt: skip


def accepted(inject: Inject, gateway: FakeGatewayAPI) -> Fault:
    """The same fault, after the service took the text."""
    found = inject(gateway)
    found.is_accepting = True
    return found


@pytest.mark.parametrize("inject", UNKNOWN.values(), ids=UNKNOWN)
def test_text_of_unknown_end_is_on_its_way_and_its_code_works(
    inject: Inject, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    accepted(inject, gateway)
    login = doors.open("pam")
    login.expect(texts.ON_ITS_WAY, within_s=SEND_WAIT_S + 2)
    assert daemon.wait_event("send", user="alice")["result"] == "unknown"
    login.try_code(GUESSES[0], texts.WRONG)
    login.type(phone.next_code())
    login.expect_in()
    gateway.clear_faults()
    doors.log_in("pam", phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize("name", ["500", "503", "reset", "100 MB"])
def test_text_of_unknown_end_at_a_real_door(
    *, door: str, name: str, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    UNKNOWN[name](gateway)  # this time it never comes
    login = doors.open(door)
    login.expect(texts.ON_ITS_WAY, within_s=SEND_WAIT_S + 2)
    for guess in GUESSES[:2]:
        login.try_code(guess, texts.WRONG)
    login.type(GUESSES[2])
    login.expect_out(texts.TRIES_SPENT)
    gateway.clear_faults()
    accepted(UNKNOWN[name], gateway)
    login = doors.open(door)
    login.expect(texts.ON_ITS_WAY, within_s=SEND_WAIT_S + 2)
    login.type(phone.next_code())
    login.expect_in()


def test_flood_does_not_fill_the_daemon(daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone) -> None:
    before = peak_kib(daemon.process.pid)
    for what in ("body", "headers"):
        gateway.inject("oversize", 1, accept=True, what=what)
        login = doors.open("pam")
        login.expect(texts.ON_ITS_WAY)
        login.type(phone.next_code())
        login.expect_in()
    assert peak_kib(daemon.process.pid) < before + 10_000


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had."""
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found)


# --- Hanging, dripping, late. ---

HANGING: dict[str, Inject] = {
    "before it reads": fault("delay", where="before-read"),
    "before it answers": fault("delay"),
    "in its answer": fault("delay", where="between"),
    "drip": fault("drip", interval_s=0.1),
    "drip in the body": fault("drip", interval_s=0.1, where="body"),
    "drip without end": fault("oversize", what="drip"),
}


@pytest.mark.parametrize("inject", HANGING.values(), ids=HANGING)
def test_hanging_gateway_is_given_up_in_time_and_its_code_works(
    *, inject: Inject, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure(SHORT)
    found = accepted(inject, gateway)
    began_at = time.monotonic()
    login = doors.open("pam")
    login.expect(texts.ON_ITS_WAY)
    event = daemon.wait_event("send", user="alice")
    assert time.monotonic() - began_at < TOTAL_S + 2
    assert (event["result"], event["reason"] in ("timeout", "deadline")) == ("unknown", True)
    found.release()  # the service accepts what it reads late
    login.type(phone.next_code())
    login.expect_in()
    gateway.clear_faults()
    doors.log_in("pam", phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_login_waits_two_seconds_for_a_hanging_gateway_by_default(
    door: str, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    gateway.inject("delay", accept=True)
    began_at = time.monotonic()
    login = doors.open(door)
    login.expect(texts.ON_ITS_WAY, within_s=SEND_WAIT_S + 2)
    assert time.monotonic() - began_at >= SEND_WAIT_S
    login.type(phone.next_code())
    login.expect_in()
    gateway.clear_faults()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_text_that_is_taken_late_lets_in(
    *, door: str, configure: Configure, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure({"gateway": {"send_wait_s": 0.2}})
    held = gateway.inject("delay", then="process")
    login = doors.open(door)
    login.expect(texts.ON_ITS_WAY)
    login.try_code(GUESSES[0], texts.WRONG)
    held.release()
    login.type(phone.next_code())
    login.expect_in()


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_text_that_is_refused_late_is_told_at_the_check(
    *, door: str, configure: Configure, gateway: FakeGatewayAPI, redis_server: RedisServer, doors: Doors, phone: Phone
) -> None:
    configure({"gateway": {"send_wait_s": 0.2}})
    gateway.credit = gateway.credit * 0
    held = gateway.inject("delay", then="process")
    login = doors.open(door)
    login.expect(texts.ON_ITS_WAY)
    held.release()
    wait_for_send(redis_server, "refused:credit")
    for guess in GUESSES[:2]:
        login.try_code(guess, texts.NOT_SENT)
    login.type(GUESSES[2])
    login.expect_out(texts.NOT_SENT)
    gateway.reset()
    doors.log_in(door, phone)


def wait_for_send(server: RedisServer, state: str) -> None:
    """Wait until it is noted how the one text of alice's ended; the event comes a moment before."""
    deadline = time.monotonic() + STEP_S
    (key,) = server.client.keys(f"textgate:{{{ALICE.name}}}:challenge:*")
    while str(server.client.hget(key, "send")).partition("#")[0] != state:  # its proof stands behind it
        assert time.monotonic() < deadline, server.client.hget(key, "send")
        time.sleep(0.005)


def test_many_hanging_texts_leave_room_for_logins_that_need_none(
    *, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure({"gateway": {"send_wait_s": 0, "connections": 2}, "exempt": {"users": [BOB.name]}})
    daemon.restart()
    gateway.inject("delay", None)
    logins = [doors.open("pam") for _ in range(6)]  # more than there are connections for
    for login in logins:
        login.expect(texts.ON_ITS_WAY, within_s=10)
    doors.open("pam", BOB).expect_in()
    gateway.clear_faults()
    configure({})
    daemon.restart()
    doors.log_in("ssh", phone)


# --- [failmode] ---

SAFE: Values = {"failmode": {"gateway": "safe", "safe_local_services": ["sudo"]}}


def test_failmode_safe_lets_in_where_it_is_named_and_nowhere_else(
    *, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    configure(SAFE)
    with gateway.refusing():
        doors.open("sudo").expect_in(within_s=SEND_WAIT_S + 2)
        event = daemon.wait_event("fail_open", user="alice", service="sudo", result="pass")
        assert event.fields["PRIORITY"] == "1"
        doors.keep_out("ssh", texts.NOT_SENT, texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
        login = doors.open("sudo", CAROL)  # no phone: she could not get in if all were well
        login.expect(texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
        login.try_code(GUESSES[0], texts.NOT_SENT)
    assert len(daemon.find_events("fail_open")) == 1
    doors.log_in("sudo", phone)
    assert len(daemon.find_events("fail_open")) == 1


@pytest.mark.parametrize("name", ["401 unknown key", "403 no credit", "403 number refused", "422 content", "429"])
def test_failmode_safe_opens_no_door_that_somebody_could_bring_about(
    *, name: str, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors
) -> None:
    configure(SAFE)
    REFUSED[name](gateway)
    doors.keep_out("sudo", texts.NOT_SENT, texts.NOT_SENT, within_s=SEND_WAIT_S + 2)
    assert daemon.find_events("fail_open") == []


def test_failmode_safe_opens_no_door_where_the_gateway_took_the_request_and_fell_silent(
    *, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, redis_server: RedisServer, doors: Doors
) -> None:
    configure({"gateway": SHORT["gateway"], **SAFE})
    gateway.inject("delay", None)
    login = doors.open("sudo")
    login.expect(texts.ON_ITS_WAY)
    login.try_code(GUESSES[0], texts.WRONG)  # it may still come
    event = daemon.wait_event("send", result="unknown")
    wait_for_send(redis_server, f"unknown:{event['reason']}")
    login.try_code(GUESSES[1], texts.WRONG)
    assert daemon.find_events("fail_open") == []
