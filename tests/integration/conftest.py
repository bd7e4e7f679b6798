# SPDX-License-Identifier: MIT
"""The real programs for the tests in this folder: Redis, textgated, the fake GatewayAPI, sshd, PAM files, phones.

Redis, the gateway and the daemon run for the whole session; each test finds them running, empty and with the default
configuration, whatever the one before did to them. All of it happens in a private world (tests/rig/world.py): outside
of one the tests that need it fail, they are not skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import CONFIG_PATH, Daemon, Event, Values, write_config, write_credentials, write_phones
from rig.logins import Doors
from rig.pam import FirstFactor, pam_lines
from rig.people import ALICE, Person, is_in_world
from rig.phone import Phone
from rig.redis_proxy import URL as PROXY_URL
from rig.redis_proxy import RedisProxy
from rig.redis_server import RedisServer
from rig.sshd import Sshd

Configure = Callable[[Values], Event]
StartSshd = Callable[..., Sshd]
PhoneOf = Callable[[Person], Phone]

# Tests log in more often than people: how texts are throttled is tested where a test sets these itself.
UNTHROTTLED: Values = {"limits": {"send_spacing_s": 0, "sends_per_15_minutes": 1000, "sends_per_day": 10000}}


@pytest.fixture(scope="session")
def world() -> None:
    """Everything that changes the machine depends on this."""
    if not is_in_world():
        pytest.fail("this test runs in a private world only\nhint: make integration", pytrace=False)


@pytest.fixture(scope="session")
def no_fail_delay(world: None) -> Iterator[None]:
    """pam_unix and su answer a refusal at once, where they would let somebody who guesses wait for seconds."""
    changes: dict[Path, Callable[[str], str]] = {
        Path("/etc/pam.d/common-auth"): lambda text: text.replace("pam_unix.so", "pam_unix.so nodelay"),
        Path("/etc/login.defs"): lambda text: f"{text}\nFAIL_DELAY 0\n",
    }
    before = {path: path.read_text() for path in changes}
    for path, change in changes.items():
        path.write_text(change(before[path]))
    yield
    for path, text in before.items():
        path.write_text(text)


@pytest.fixture(scope="session")
def running_gateway(world: None) -> Iterator[FakeGatewayAPI]:
    with FakeGatewayAPI() as running:
        yield running


@pytest.fixture(scope="session")
def running_redis(world: None) -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="session")
def running_daemon(running_gateway: FakeGatewayAPI, running_redis: RedisServer) -> Iterator[Daemon]:
    key = running_gateway.keys[0]
    write_credentials(key.key, key.secret, key.token)
    write_phones()
    write_config(running_gateway.url, UNTHROTTLED)
    with Daemon() as running:
        yield running


@pytest.fixture
def gateway(running_gateway: FakeGatewayAPI) -> FakeGatewayAPI:
    """The fake GatewayAPI, without texts and faults."""
    running_gateway.reset()
    return running_gateway


@pytest.fixture
def redis_server(running_redis: RedisServer) -> Iterator[RedisServer]:
    """Redis, running and empty."""
    running_redis.recover()
    yield running_redis
    running_redis.recover()


@pytest.fixture
def daemon(running_daemon: Daemon, redis_server: RedisServer, gateway: FakeGatewayAPI) -> Iterator[Daemon]:
    """textgated, running, with the rig's configuration and phones."""
    if not running_daemon.is_running:
        running_daemon.start()
    running_daemon.forget()
    yield running_daemon
    if running_daemon.is_running:
        running_daemon.resume()


@pytest.fixture
def configure(daemon: Daemon, gateway: FakeGatewayAPI) -> Iterator[Configure]:
    """Call it with sections to change; the daemon has them when it returns, but [daemon], which takes a restart."""

    def change(values: Values) -> Event:
        write_config(gateway.url, merged(UNTHROTTLED, values))
        return daemon.reload()

    before = CONFIG_PATH.read_text()
    yield change
    if CONFIG_PATH.read_text() != before:
        write_config(gateway.url, UNTHROTTLED)
        write_phones()
        if daemon.is_running:
            daemon.resume()
            daemon.reload()


@pytest.fixture
def phone_of(gateway: FakeGatewayAPI) -> PhoneOf:
    """The phone of a person."""
    return lambda person: Phone(gateway, person)


@pytest.fixture
def phone(phone_of: PhoneOf) -> Phone:
    """Alice's phone."""
    return phone_of(ALICE)


@pytest.fixture
def start_sshd(daemon: Daemon) -> Iterator[StartSshd]:
    """Call it with a FirstFactor and lines of sshd_config; one server at a time, for they share /etc/pam.d/sshd."""
    with contextlib.ExitStack() as stack:

        def start(first_factor: FirstFactor = FirstFactor.KEY, settings: Sequence[str] = ()) -> Sshd:
            return stack.enter_context(Sshd(first_factor, settings))

        yield start


@pytest.fixture
def sshd(start_sshd: StartSshd) -> Sshd:
    """An sshd that takes a key and then a code."""
    return start_sshd(FirstFactor.KEY)


@pytest.fixture
def sudo_lines(daemon: Daemon) -> Iterator[str]:
    """sudo asks for the password and then a code."""
    with pam_lines("sudo", FirstFactor.PASSWORD) as lines:
        yield lines


@pytest.fixture
def su_lines(daemon: Daemon) -> Iterator[str]:
    """su asks for the password and then a code."""
    with pam_lines("su", FirstFactor.PASSWORD) as lines:
        yield lines


@pytest.fixture
def doors(daemon: Daemon) -> Iterator[Doors]:
    """Opens logins at sshd, sudo and pamtester."""
    with Doors() as opened:
        yield opened


@pytest.fixture
def redis_proxy(configure: Configure) -> Iterator[RedisProxy]:
    """Something between textgated and Redis that spoils what passes; a wait for Redis ends after a second."""
    with RedisProxy() as proxy:
        configure({"store": {"url": PROXY_URL, "timeout_s": 1}})
        yield proxy
        proxy.clear()
        configure({})


def merged(*all_values: Values) -> dict[str, dict[str, object]]:
    """Sections of a configuration laid over each other, the last one on top."""
    sections: dict[str, dict[str, object]] = {}
    for values in all_values:
        for section, keys in values.items():
            sections.setdefault(section, {}).update(keys)
    return sections
