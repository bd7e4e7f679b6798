# SPDX-License-Identifier: MIT
"""A code is good for the connection that asked for it, and in it for as many attempts as there are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig import from_port
from rig.daemon import Daemon
from rig.pam import FirstFactor
from rig.people import ALICE
from rig.phone import Phone
from rig.prompts import CODE, PROOF, PROVE
from rig.sshd import HOST, Sshd, free_port

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

WRONG = "That code is not right."
FACTORS = pytest.mark.parametrize("first_factor", [FirstFactor.KEY, FirstFactor.PASSWORD])


def through(sshd: Sshd, own_port: int) -> Sequence[str]:
    """ssh options by which a connection comes from this port."""
    return (f"ProxyCommand=/usr/bin/python3 {from_port.__file__} {own_port} {HOST} {sshd.port}",)


@FACTORS
def test_code_of_a_connection_that_ended_is_no_good_in_the_next_from_the_same_port(
    start_sshd: StartSshd, daemon: Daemon, phone: Phone, gateway: FakeGatewayAPI, first_factor: FirstFactor
) -> None:
    sshd = start_sshd(first_factor)
    has_key = first_factor is FirstFactor.KEY
    own_port = free_port()
    with sshd.login(ALICE, PROVE, has_key=has_key, options=through(sshd, own_port)) as terminal:
        if not has_key:
            terminal.answer("Password: ", ALICE.password)
        terminal.expect(CODE)
        first = phone.next_code()
    with sshd.login(ALICE, PROVE, has_key=has_key, options=through(sshd, own_port)) as terminal:
        if not has_key:
            terminal.answer("Password: ", ALICE.password)
        terminal.answer(CODE, first)
        terminal.expect(WRONG)
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    assert len(gateway.accepted) == 2
    ports = re.findall(rf"Connection from {re.escape(HOST)} port (\d+)", sshd.process.tail())
    assert ports[-2:] == [str(own_port)] * 2  # both did come from there


@FACTORS
def test_next_attempt_in_a_connection_goes_on_with_the_code_that_was_texted(
    start_sshd: StartSshd,
    configure: Configure,
    daemon: Daemon,
    phone: Phone,
    gateway: FakeGatewayAPI,
    first_factor: FirstFactor,
) -> None:
    """sshd makes a new process for each attempt; the connection's own stays."""
    configure({"limits": {"send_spacing_s": 60}})
    sshd = start_sshd(first_factor)
    has_key = first_factor is FirstFactor.KEY
    with sshd.login(ALICE, PROVE, has_key=has_key) as terminal:
        if not has_key:
            terminal.answer("Password: ", ALICE.password)
        for _ in range(3):
            terminal.answer(CODE, "")  # too early for another text, and no wrong code
        if not has_key:
            terminal.answer("Password: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    assert len(gateway.accepted) == 1


def test_two_connections_at_once_have_a_code_each(sshd: Sshd, phone: Phone) -> None:
    with sshd.login(ALICE, PROVE) as first:
        first.expect(CODE)
        code = phone.next_code()
        with sshd.login(ALICE, PROVE) as second:
            second.answer(CODE, code)
            second.expect(WRONG)
            first.enter(code)
            first.expect(PROOF)
            second.answer(CODE, phone.next_code())
            second.expect(PROOF)
