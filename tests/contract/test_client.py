# SPDX-License-Identifier: MIT
"""`AuthClient` on a real Redis and the fake GatewayAPI: what each login ends with, what goes out, what is told."""

from __future__ import annotations

import pickle
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import textgate
from fake_gatewayapi import FakeGatewayAPI
from fakes import FakeClock, Journal
from private_redis import PrivateRedis
from textgate import client as module
from textgate.client import (
    PASSWORD_MAX_BYTES,
    TOKEN_LIFE_S,
    USER_ID_LIFE_S,
    AuthClient,
    AuthError,
    BadToken,
    Busy,
    CodeExpired,
    GatewayRefused,
    GatewayUnknown,
    Locked,
    PamPasswords,
    PasswordsAway,
    StoreAway,
    Throttled,
    WrongCode,
    WrongPassword,
)
from textgate.errors import ConfigError, CredentialError, StoreUnavailable, TextgateError
from textgate.password_limits import (
    WRONG_BY_STRANGERS,
    WRONG_PER_PLACE,
    WRONG_PER_SOURCE,
    WRONG_WITHOUT_SOURCE,
)
from textgate.secret import Secret
from textgate.verifier import user_key

# Debian 12's redis-py leaves the socket of a failed connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ALICE, BOB = "4512345678", "4587654321"
PHONES = {"alice": f"+{ALICE}", "bob": f"+{BOB}", "nophone": None, "dear": "+79161234567", "typo": "+45 12"}
PASSWORD = "correct horse"
VAULT_KEY = "k1:" + "ab" * 32
NEW_VAULT_KEY = "k2:" + "cd" * 32
SOURCE = "192.0.2.7"
LATER_MS = 60_000  # past the spacing of two texts


def is_password(username: str, password: str) -> bool:
    """Everybody's password; `ghost` is nobody's name."""
    return username != "ghost" and password == PASSWORD


@dataclass
class World:
    """A Redis, a gateway, a clock and a journal, and clients that live in it."""

    redis: PrivateRedis
    fake: FakeGatewayAPI
    clock: FakeClock = field(default_factory=FakeClock)
    journal: Journal = field(default_factory=Journal)
    made: list[AuthClient] = field(default_factory=list)

    def client(self, *, options: dict[str, dict[str, Any]] | None = None, **settings: Any) -> AuthClient:
        """A client with the world's parts; `settings` replaces any of `from_settings`."""
        gateway = {"url": self.fake.url, "send_wait_s": 8}
        merged = {"gateway": gateway | (options or {}).get("gateway", {})}
        merged |= {name: section for name, section in (options or {}).items() if name != "gateway"}
        given: dict[str, Any] = {
            "store_url": self.redis.url,
            "vault_key": VAULT_KEY,
            "gateway_key": "test-key",
            "gateway_secret": Secret("test-secret"),
            "allowed_countries": ("DK",),
            "passwords": is_password,
            "phones": PHONES.get,
            "options": merged,
            "audit": self.journal.audit,
            "clock": self.clock,
        }
        client = AuthClient.from_settings(**given | settings)
        self.made.append(client)
        return client

    def log_in(self, client: AuthClient, user: str = "alice", phone: str = ALICE, source: str | None = SOURCE) -> str:
        """Both steps; the token."""
        return client.step_two(client.step_one(user, PASSWORD, source=source), self.fake.last_code(phone))


@pytest.fixture
def world(redis_server: PrivateRedis) -> Iterator[World]:
    with FakeGatewayAPI() as fake:
        made = World(redis_server, fake)
        yield made
        fake.clear_faults()
        redis_server.recover()
        for client in made.made:
            client.close()


@pytest.fixture
def client(world: World) -> AuthClient:
    return world.client()


def other_than(code: str) -> str:
    """A code that is wrong for sure."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"


# --- Both steps ---


def test_password_and_code_give_token(world: World, client: AuthClient) -> None:
    token = world.log_in(client)
    claims = client.verify_token(token)
    assert (claims.user, claims.audience) == ("alice", "textgate")
    assert claims.expires_at == world.clock.now_ms() // 1000 + TOKEN_LIFE_S
    assert [message.msisdn for message in world.fake.accepted] == [ALICE]


def test_auth_client_is_found_at_the_top_of_the_package() -> None:
    assert textgate.AuthClient is AuthClient


def test_text_goes_out_only_after_right_password(world: World, client: AuthClient) -> None:
    with pytest.raises(WrongPassword):
        client.step_one("alice", "wrong")
    assert world.fake.requests == []
    client.step_one("alice", PASSWORD)
    assert len(world.fake.accepted) == 1


@pytest.mark.parametrize("typed", ["{code}", " {code} ", "{half}-{rest}", "{half} {rest}\n"])
def test_code_is_taken_as_people_type_it(world: World, client: AuthClient, typed: str) -> None:
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    assert client.step_two(user_id, typed.format(code=code, half=code[:3], rest=code[3:]))


def test_ids_and_tokens_show_no_name_and_differ(world: World, client: AuthClient) -> None:
    first = client.step_one("alice", PASSWORD)
    world.clock.move_ms(LATER_MS)
    second = client.step_one("alice", PASSWORD)
    token = client.step_two(second, world.fake.last_code(ALICE))
    assert first != second
    assert not any("alice" in opaque for opaque in (first, second, token))


def test_code_of_one_login_is_no_good_for_another(world: World, client: AuthClient) -> None:
    first = client.step_one("alice", PASSWORD)
    first_code = world.fake.last_code(ALICE)
    world.clock.move_ms(LATER_MS)
    second = client.step_one("alice", PASSWORD)
    second_code = world.fake.last_code(ALICE)
    with pytest.raises(WrongCode):
        client.step_two(first, second_code)
    with pytest.raises(WrongCode):
        client.step_two(second, first_code)
    assert client.step_two(second, second_code)


def test_second_code_of_one_user_is_no_good_for_another_user(world: World, client: AuthClient) -> None:
    alice = client.step_one("alice", PASSWORD)
    client.step_one("bob", PASSWORD)
    with pytest.raises(WrongCode):
        client.step_two(alice, world.fake.last_code(BOB))


def test_right_code_works_once(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    client.step_two(user_id, code)
    with pytest.raises(CodeExpired):
        client.step_two(user_id, code)


def test_parallel_checks_of_right_code_give_one_token(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    barrier = threading.Barrier(8)

    def check() -> str | None:
        barrier.wait(10)
        try:
            return client.step_two(user_id, code)
        except AuthError:
            return None

    with ThreadPoolExecutor(8) as pool:
        tokens = [future.result() for future in [pool.submit(check) for _ in range(8)]]
    assert len([token for token in tokens if token]) == 1


def test_many_users_log_in_at_the_same_time(world: World) -> None:
    users = {f"user{number}": f"45123456{number:02d}" for number in range(16)}
    client = world.client(phones=lambda user: f"+{users[user]}")

    def log_in(user: str) -> str:
        return client.verify_token(world.log_in(client, user, users[user])).user

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(log_in, users)) == list(users)


def test_recovery_code_stands_in_for_text(world: World, client: AuthClient) -> None:
    services = client._services
    key = user_key("alice")
    services.verifier.new_recovery(key, [Secret("abcd-efgh-2345")])
    token = client.step_two(client.step_one("alice", PASSWORD), "ABCD-efgh-2345")
    assert client.verify_token(token).user == "alice"
    world.clock.move_ms(LATER_MS)
    with pytest.raises(WrongCode):
        client.step_two(client.step_one("alice", PASSWORD), "abcd-efgh-2345")


def test_recovery_code_works_when_nothing_can_be_texted(world: World, client: AuthClient) -> None:
    services = client._services
    key = user_key("alice")
    services.verifier.new_recovery(key, [Secret("abcd-efgh-2345")])
    world.fake.credit = world.fake.credit * 0
    with pytest.raises(GatewayRefused) as caught:
        client.step_one("alice", PASSWORD)
    assert caught.value.user_id is not None
    assert client.step_two(caught.value.user_id, "abcd-efgh-2345")


# --- The password ---


@pytest.mark.parametrize("user", ["alice", "ghost", "nophone"])
def test_wrong_password_is_told_alike_for_known_and_unknown(world: World, client: AuthClient, user: str) -> None:
    with pytest.raises(WrongPassword) as caught:
        client.step_one(user, "wrong", source=SOURCE)
    assert str(caught.value) == "User name or password is not right."
    assert caught.value.user_id is None
    assert world.fake.requests == []


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", ""),  # "look around" to an LDAP server, which says yes
        ("", PASSWORD),
        ("al\0ice", PASSWORD),
        ("alice", "correct\0horse"),
        ("alice\n", PASSWORD),
        ("a" * 257, PASSWORD),
        ("é" * 129, PASSWORD),  # bytes count, not characters
        ("alice", "x" * (PASSWORD_MAX_BYTES + 1)),
        ("\ud800", PASSWORD),  # can't be written in UTF-8
        ("alice", "\ud800"),
    ],
)
def test_what_can_be_no_name_or_password_never_reaches_the_check(world: World, user: str, password: str) -> None:
    asked: list[str] = []

    def says_yes(username: str, _password: str) -> bool:
        asked.append(username)
        return True

    with pytest.raises(WrongPassword):
        world.client(passwords=says_yes).step_one(user, password)
    assert asked == []
    assert world.fake.requests == []


def test_longest_names_get_in(world: World) -> None:
    for name in ("a" * 256, "😀" * 64, "a b@c.example/d:e", 'q"\\'):
        client = world.client(phones=lambda _user: PHONES["alice"])
        assert client.verify_token(world.log_in(client, name)).user == name


@pytest.mark.parametrize("answer", [None, 1, "yes", "wrong password", object()])
def test_only_true_is_a_yes(world: World, answer: Any) -> None:
    with pytest.raises(PasswordsAway) as caught:
        world.client(passwords=lambda _user, _password: answer).step_one("alice", PASSWORD)
    assert caught.value.user_id is None
    assert world.fake.requests == []


def test_broken_password_check_is_a_denial_that_tells_nothing(world: World) -> None:
    def breaks(_username: str, password: str) -> bool:
        raise ValueError(f"can't handle {password}")

    with pytest.raises(PasswordsAway) as caught:
        world.client(passwords=breaks).step_one("alice", PASSWORD)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert world.fake.requests == []
    [entry] = world.journal.find("fault")
    assert entry["reason"] == "ValueError"
    assert PASSWORD not in world.journal.text()


def test_exceptions_leave_no_password_and_no_code_in_our_frames(world: World, client: AuthClient) -> None:
    """Error reporters show the local variables of each frame."""
    user_id = client.step_one("alice", PASSWORD)
    wrong = other_than(world.fake.last_code(ALICE))
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("open sesame", lambda: client.step_one("alice", "open sesame")),
        (wrong, lambda: client.step_two(user_id, wrong)),
    ]
    for secret, attempt in attempts:
        with pytest.raises(AuthError) as caught:
            attempt()
        frames = [frame for frame, _line in traceback.walk_tb(caught.value.__traceback__)]
        ours = [frame for frame in frames if "textgate" in frame.f_globals.get("__name__", "")]
        assert ours
        assert not [frame for frame in ours if secret in map(str, frame.f_locals.values())]


def test_wrong_passwords_are_counted_per_user_and_source(world: World, client: AuthClient) -> None:
    for user in ("alice", "ghost"):  # told alike
        for _ in range(WRONG_PER_PLACE):
            with pytest.raises(WrongPassword):
                client.step_one(user, "wrong", source=SOURCE)
        with pytest.raises(Throttled) as caught:
            client.step_one(user, PASSWORD, source=SOURCE)
        assert caught.value.wait_s > 0
        assert caught.value.user_id is None
    assert world.fake.requests == []
    assert client.step_one("alice", PASSWORD, source="198.51.100.1")  # the owner, from elsewhere


def test_wrong_passwords_are_counted_per_source_over_all_users(client: AuthClient) -> None:
    for number in range(WRONG_PER_SOURCE):
        with pytest.raises(WrongPassword):
            client.step_one(f"user{number}", "wrong", source=SOURCE)
    with pytest.raises(Throttled):
        client.step_one("alice", PASSWORD, source=SOURCE)


def test_wrong_passwords_are_counted_per_user_over_all_strange_sources(client: AuthClient) -> None:
    for number in range(WRONG_BY_STRANGERS):
        with pytest.raises(WrongPassword):
            client.step_one("alice", "wrong", source=f"198.51.100.{number}")
    with pytest.raises(Throttled):
        client.step_one("alice", PASSWORD, source="203.0.113.9")


def test_without_a_source_owner_and_strangers_share_one_limit(client: AuthClient) -> None:
    for _ in range(WRONG_WITHOUT_SOURCE):
        with pytest.raises(WrongPassword):
            client.step_one("alice", "wrong")
    with pytest.raises(Throttled):
        client.step_one("alice", PASSWORD)
    assert client.step_one("alice", PASSWORD, source=SOURCE)


def test_right_passwords_are_not_counted(world: World) -> None:
    client = world.client(options={"limits": {"send_spacing_s": 0, "sends_per_day": 1000}})
    for _ in range(WRONG_PER_PLACE + 1):
        world.log_in(client)


def test_outage_of_the_password_check_is_not_counted(world: World) -> None:
    is_broken = True

    def check(username: str, password: str) -> bool:
        if is_broken:
            raise ConnectionError
        return is_password(username, password)

    client = world.client(passwords=check)
    for _ in range(WRONG_PER_PLACE + 1):
        with pytest.raises(PasswordsAway):
            client.step_one("alice", PASSWORD, source=SOURCE)
    is_broken = False
    assert client.step_one("alice", PASSWORD, source=SOURCE)


def test_typed_name_is_kept_nowhere(world: World, client: AuthClient) -> None:
    """It may be a password in the wrong field."""
    with pytest.raises(WrongPassword):
        client.step_one("hunter2!", "x", source=SOURCE)
    assert "hunter2" not in world.journal.text()
    assert not [key for key in world.redis.client.keys("*") if "hunter2" in key]


@pytest.mark.parametrize("value", [123456, None, b"correct horse", {"$ne": ""}])
def test_what_is_no_text_is_refused_without_being_quoted(world: World, client: AuthClient, value: Any) -> None:
    user_id = client.step_one("alice", PASSWORD)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: client.step_one(value, PASSWORD),
        lambda: client.step_one("alice", value),
        lambda: client.step_two(user_id, value),
    )
    for attempt in attempts:
        with pytest.raises(TypeError) as caught:
            attempt()
        assert str(value) not in str(caught.value)
    assert len(world.fake.accepted) == 1


@pytest.mark.parametrize("source", ["", "unknown", "192.0.2.7, 198.51.100.1", "192.0.2.7:443"])
def test_source_that_is_no_address_is_refused(world: World, client: AuthClient, source: str) -> None:
    with pytest.raises(ValueError, match="source must be an IP address"):
        client.step_one("alice", PASSWORD, source=source)
    assert world.fake.requests == []


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7", "fe80::1%eth0", None])
def test_login_keeps_its_source_in_both_steps(world: World, client: AuthClient, source: str | None) -> None:
    assert client.verify_token(world.log_in(client, source=source))


# --- PAM ---


class FakePam:
    """python-pam, with one user."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, bool]] = []

    def PamAuthenticator(self) -> FakePam:
        return self

    def authenticate(self, username: str, password: str, *, service: str, resetcreds: bool) -> bool:
        self.calls.append((username, password, service, resetcreds))
        return (username, password) == ("root", PASSWORD)


@pytest.fixture
def fake_pam(monkeypatch: pytest.MonkeyPatch) -> FakePam:
    fake = FakePam()
    monkeypatch.setitem(sys.modules, "pam", fake)
    return fake


@pytest.mark.parametrize("is_explicit", [False, True])
def test_pam_is_asked_by_default_and_its_users_are_the_machines(
    world: World, fake_pam: FakePam, is_explicit: bool
) -> None:
    """root is in the group root, here as everywhere: [refused] groups must know it."""
    passwords = PamPasswords() if is_explicit else None
    client = world.client(
        passwords=passwords, phones=lambda _user: f"+{ALICE}", options={"refused": {"groups": ["root"]}}
    )
    user_id = client.step_one("root", PASSWORD)
    assert world.fake.requests == []
    with pytest.raises(WrongCode):
        client.step_two(user_id, "123456")
    assert fake_pam.calls == [("root", PASSWORD, "textgate-api", False)]
    assert world.journal.find("check")[-1]["reason"] == "refused_group"


def test_pam_service_is_of_choice(world: World, fake_pam: FakePam) -> None:
    client = world.client(passwords=None, service="myapp", phones=lambda _user: f"+{ALICE}")
    assert client.verify_token(world.log_in(client, "root")).user == "root"
    with pytest.raises(WrongPassword):
        client.step_one("root", "wrong")
    assert {call[2] for call in fake_pam.calls} == {"myapp"}


def test_pam_that_says_anything_but_true_says_no(fake_pam: FakePam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_pam, "authenticate", lambda *_args, **_options: 1)
    assert PamPasswords()("root", PASSWORD) is False


def test_missing_python_pam_is_told_when_the_client_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pam", None)
    with pytest.raises(TextgateError, match="python-pam") as caught:
        world.client(passwords=None)
    assert caught.value.hint == "pip install 'textgate[pam]'"


def test_real_python_pam_says_no_to_nobodys_password() -> None:
    """Through libpam itself; the service `other` denies or knows no such user."""
    assert PamPasswords("textgate-no-such-service")("textgate-nobody", "x") is False


# --- Those who can't pass ---


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("nophone", {}),
        ("dear", {}),  # a country that isn't allowed
        ("typo", {}),  # a number that can't be one
        ("alice", {"refused": {"users": ["alice"]}}),
    ],
)
def test_who_cant_pass_is_told_what_everybody_is_told(world: World, user: str, options: dict[str, Any]) -> None:
    client = world.client(options=options)
    user_id = client.step_one(user, PASSWORD)
    with pytest.raises(WrongCode) as caught:
        client.step_two(user_id, "123456")
    assert str(caught.value) == "That code is not right."
    assert world.fake.requests == []


@pytest.mark.parametrize(
    "section",
    [{"exempt": {"users": ["alice"]}}, {"exempt": {"networks": ["192.0.2.0/24"]}}, {"required": {"users": ["bob"]}}],
)
def test_nobody_is_exempt_here(world: World, section: dict[str, Any]) -> None:
    client = world.client(options=section)
    user_id = client.step_one("alice", PASSWORD, source=SOURCE)
    with pytest.raises(WrongCode):
        client.step_two(user_id, other_than(world.fake.last_code(ALICE)))


def test_changed_number_makes_code_useless(world: World) -> None:
    phones = {"alice": f"+{ALICE}"}
    client = world.client(phones=phones.get)
    user_id = client.step_one("alice", PASSWORD)
    phones["alice"] = f"+{BOB}"
    with pytest.raises(CodeExpired):
        client.step_two(user_id, world.fake.last_code(ALICE))


def test_broken_phones_callable_is_a_denial_that_tells_nothing(world: World) -> None:
    def breaks(_user: str) -> str | None:
        raise LookupError(f"row {ALICE}")

    with pytest.raises(StoreAway) as caught:
        world.client(phones=breaks).step_one("alice", PASSWORD)
    assert caught.value.__context__ is None
    assert ALICE not in world.journal.text()
    assert world.journal.find("fault")[0]["reason"] == "the phones callable failed: LookupError"


def test_number_that_cant_be_one_is_in_the_journal_without_itself(world: World, client: AuthClient) -> None:
    client.step_one("typo", PASSWORD)
    [entry] = world.journal.find("fault")
    assert (entry["user"], entry["reason"]) == ("typo", "the phone number is too short for its country")


# --- Limits ---


def test_wrong_codes_spend_the_tries_then_lock(world: World) -> None:
    client = world.client(options={"limits": {"wrong_in_a_row": 4}})
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    for expected in (WrongCode, WrongCode, CodeExpired):
        with pytest.raises(expected):
            client.step_two(user_id, other_than(code))
    with pytest.raises(CodeExpired):
        client.step_two(user_id, code)
    world.clock.move_ms(LATER_MS)
    user_id = client.step_one("alice", PASSWORD)
    with pytest.raises(Locked):
        client.step_two(user_id, other_than(world.fake.last_code(ALICE)))
    with pytest.raises(Locked) as caught:
        client.step_two(user_id, world.fake.last_code(ALICE))
    assert caught.value.wait_s == 300
    sent_count = len(world.fake.accepted)
    with pytest.raises(Locked):
        client.step_one("alice", PASSWORD)
    with pytest.raises(Locked):
        client.resend(user_id)
    assert len(world.fake.accepted) == sent_count


def test_second_text_too_soon_is_throttled(world: World, client: AuthClient) -> None:
    client.step_one("alice", PASSWORD)
    with pytest.raises(Throttled) as caught:
        client.step_one("alice", PASSWORD)
    assert 0 < caught.value.wait_s <= 30
    assert caught.value.user_id is not None
    assert len(world.fake.accepted) == 1


def test_code_expires(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    world.clock.move_ms(300_000)
    with pytest.raises(CodeExpired):
        client.step_two(user_id, world.fake.last_code(ALICE))


def test_code_is_good_to_its_last_moment(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    world.clock.move_ms(299_999)
    assert client.step_two(user_id, world.fake.last_code(ALICE))


@pytest.mark.parametrize("code", ["", " ", "-", "\u2011 \t"])
def test_empty_code_is_wrong_and_texts_nothing(world: World, client: AuthClient, code: str) -> None:
    user_id = client.step_one("alice", PASSWORD)
    world.clock.move_ms(LATER_MS)
    with pytest.raises(WrongCode):
        client.step_two(user_id, code)
    assert len(world.fake.accepted) == 1


@pytest.mark.parametrize("code", ["1" * 100_000, "\0", "１２３４５６", "\ud800", "' OR 1"])
def test_junk_is_a_wrong_code_and_counts(world: World, client: AuthClient, code: str) -> None:
    user_id = client.step_one("alice", PASSWORD)
    for expected in (WrongCode, WrongCode, CodeExpired):
        with pytest.raises(expected):
            client.step_two(user_id, code)


def test_budget_of_all_users_throttles(world: World) -> None:
    client = world.client(options={"limits": {"sends_per_host_per_minute": 1}})
    client.step_one("alice", PASSWORD)
    with pytest.raises(Throttled):
        client.step_one("bob", PASSWORD)
    assert len(world.fake.accepted) == 1


def test_client_that_was_closed_refuses(world: World, client: AuthClient) -> None:
    client.close()
    with pytest.raises(Busy):
        client.step_one("alice", PASSWORD)
    assert world.fake.requests == []


# --- Resending ---


def test_resend_texts_a_new_code_and_only_that_counts(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    first = world.fake.last_code(ALICE)
    world.clock.move_ms(LATER_MS)
    client.resend(user_id)
    second = world.fake.last_code(ALICE)
    assert first != second
    with pytest.raises(WrongCode):
        client.step_two(user_id, first)
    assert client.step_two(user_id, second)


def test_resend_too_soon_leaves_the_last_code_good(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    with pytest.raises(Throttled, match="The last one is still good"):
        client.resend(user_id)
    assert client.step_two(user_id, world.fake.last_code(ALICE))


def test_resend_after_the_login_texts_nothing(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    client.step_two(user_id, world.fake.last_code(ALICE))
    world.clock.move_ms(LATER_MS)
    with pytest.raises(CodeExpired):
        client.resend(user_id)
    assert len(world.fake.accepted) == 1


def test_id_is_used_up_even_with_a_live_challenge(world: World, client: AuthClient) -> None:
    """A `resend` beside the right code may open another challenge for the same login."""
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    client.step_two(user_id, code)
    world.clock.move_ms(LATER_MS)
    other = client.step_one("alice", PASSWORD)  # a challenge of another login, copied to the used one
    source_key, target_key = (
        f"textgate:{{alice}}:challenge:{module._opened(client._user_ids, opaque)['session']}"  # type: ignore[index]
        for opaque in (other, user_id)
    )
    world.redis.client.copy(source_key, target_key)
    with pytest.raises(CodeExpired):
        client.step_two(user_id, world.fake.last_code(ALICE))


def test_resend_long_after_the_password_texts_nothing(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    world.clock.move_ms(USER_ID_LIFE_S * 1000)
    with pytest.raises(CodeExpired):
        client.resend(user_id)
    assert len(world.fake.accepted) == 1


# --- The gateway ---


def test_gateway_that_refuses(world: World, client: AuthClient) -> None:
    world.fake.credit = world.fake.credit * 0
    with pytest.raises(GatewayRefused) as caught:
        client.step_one("alice", PASSWORD)
    assert str(caught.value) == "The login code could not be texted. Try again later, or ask your administrator."
    world.fake.reset()
    assert caught.value.user_id is not None
    client.resend(caught.value.user_id)
    assert client.step_two(caught.value.user_id, world.fake.last_code(ALICE))


def test_gateway_that_cant_be_reached(world: World, client: AuthClient) -> None:
    with world.fake.refusing(), pytest.raises(GatewayRefused):
        client.step_one("alice", PASSWORD)


def test_text_that_may_have_gone_out_can_still_be_answered(world: World, client: AuthClient) -> None:
    world.fake.inject("reset", accept=True)
    with pytest.raises(GatewayUnknown) as caught:
        client.step_one("alice", PASSWORD)
    assert caught.value.user_id is not None
    token = client.step_two(caught.value.user_id, world.fake.last_code(ALICE))
    assert client.verify_token(token).user == "alice"


def test_unknown_end_of_a_resend_names_the_same_login(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    world.clock.move_ms(LATER_MS)
    world.fake.inject("reset", accept=True)
    with pytest.raises(GatewayUnknown) as caught:
        client.resend(user_id)
    assert caught.value.user_id == user_id
    assert client.step_two(user_id, world.fake.last_code(ALICE))


def test_slow_gateway_holds_nobody_up(world: World) -> None:
    client = world.client(options={"gateway": {"send_wait_s": 0.05}})
    fault = world.fake.inject("delay", accept=True)
    user_id = client.step_one("alice", PASSWORD)
    world.fake.wait_for_texts(1)
    assert client.step_two(user_id, world.fake.last_code(ALICE))
    world.fake.remove(fault)


@pytest.mark.parametrize("part", ["store", "gateway"])
def test_no_failmode_lets_anybody_in(world: World, part: str) -> None:
    failmode = {"store": "safe", "gateway": "safe", "safe_services": ["textgate-api"]}
    client = world.client(options={"failmode": failmode})
    if part == "gateway":
        with world.fake.refusing():
            with pytest.raises(GatewayRefused) as caught:
                client.step_one("alice", PASSWORD)
            assert caught.value.user_id is not None
            for attempt in (lambda user_id: client.step_two(user_id, "123456"), client.resend):
                world.clock.move_ms(LATER_MS)
                with pytest.raises(AuthError):
                    attempt(caught.value.user_id)
    else:
        user_id = client.step_one("alice", PASSWORD)
        world.redis.stop()
        with pytest.raises(StoreAway):
            client.step_two(user_id, world.fake.last_code(ALICE))
        with pytest.raises(StoreAway):
            client.step_one("alice", PASSWORD)
    assert world.journal.find("fail_open") == []


# --- The store ---


def break_redis(redis: PrivateRedis, how: str) -> None:
    """As named."""
    {
        "gone": redis.stop,
        "readonly": lambda: redis.set_readonly(True),
        "silent": redis.pause,
    }[how]()


@pytest.mark.parametrize("how", ["gone", "readonly", "silent"])
def test_every_step_is_denied_without_store(world: World, how: str) -> None:
    client = world.client()
    token = world.log_in(client)
    user_id = client.step_one("bob", PASSWORD)
    sent_count = len(world.fake.accepted)
    world.clock.move_ms(LATER_MS)
    if how == "silent":
        client = world.client(options={"store": {"timeout_s": 0.05}})
    break_redis(world.redis, how)
    attempts: list[Callable[[], object]] = [
        lambda: client.step_one("alice", PASSWORD),
        lambda: client.step_two(user_id, world.fake.last_code(BOB)),
        lambda: client.resend(user_id),
        lambda: client.revoke(token),
    ]
    if how != "readonly":  # reading is all that this one needs
        attempts.append(lambda: client.verify_token(token))
    for attempt in attempts:
        with pytest.raises(StoreAway) as caught:
            attempt()
        assert caught.value.user_id is None
        assert "redis" not in str(caught.value).lower()
    assert len(world.fake.accepted) == sent_count


def test_no_password_is_checked_without_store(world: World) -> None:
    """An oracle that no limit bounds would be worse than an outage."""
    asked: list[str] = []

    def check(username: str, _password: str) -> bool:
        asked.append(username)
        return True

    client = world.client(passwords=check)
    world.redis.stop()
    with pytest.raises(StoreAway):
        client.step_one("alice", PASSWORD)
    assert asked == []


def test_token_is_not_given_when_the_id_cant_be_used_up(
    world: World, client: AuthClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = client.step_one("alice", PASSWORD)
    store = client._services.store

    def fails(*_args: object, **_options: object) -> None:
        raise StoreUnavailable("redis: ConnectionError")

    monkeypatch.setattr(store, "revoke_token", fails)
    with pytest.raises(StoreAway):
        client.step_two(user_id, world.fake.last_code(ALICE))


def test_secret_sealed_with_another_key_is_a_denial(world: World, client: AuthClient) -> None:
    """Two programs with vault keys of their own can't share a Redis."""
    client.step_one("alice", PASSWORD)
    world.clock.move_ms(LATER_MS)
    stranger = world.client(vault_key=NEW_VAULT_KEY)
    with pytest.raises(StoreAway):
        stranger.step_one("alice", PASSWORD)
    assert len(world.fake.accepted) == 1
    assert "vault-key" in world.journal.alerts[-1]["reason"]


def test_emptied_redis_lets_nobody_in(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    world.redis.client.flushall()
    with pytest.raises(CodeExpired):
        client.step_two(user_id, code)


# --- Ids ---


def forged(opaque: str) -> str:
    """The same with one bit of its text changed."""
    at = len(opaque) // 2
    return opaque[:at] + ("A" if opaque[at] != "A" else "B") + opaque[at + 1 :]


@pytest.mark.parametrize(
    "make",
    [forged, lambda _id: "", lambda _id: "x" * 5000, lambda _id: "é", lambda _id: None, lambda good: good[:-4]],
)
def test_foreign_ids_and_tokens_are_refused(world: World, client: AuthClient, make: Callable[[str], Any]) -> None:
    user_id = client.step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    with pytest.raises(CodeExpired):
        client.step_two(make(user_id), code)
    with pytest.raises(CodeExpired):
        client.resend(make(user_id))
    token = client.step_two(user_id, code)
    for step in (client.verify_token, client.revoke):
        with pytest.raises(BadToken):
            step(make(token))


def test_id_is_no_token_and_token_is_no_id(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    with pytest.raises(BadToken):
        client.verify_token(user_id)
    token = client.step_two(user_id, world.fake.last_code(ALICE))
    with pytest.raises(CodeExpired):
        client.resend(token)


@pytest.mark.parametrize("other", [{"audience": "wiki"}, {"service": "wiki"}, {"vault_key": NEW_VAULT_KEY}])
def test_id_of_another_program_is_refused(world: World, client: AuthClient, other: dict[str, Any]) -> None:
    """The other program may know other people by the same names, and other passwords."""
    user_id = world.client(**other).step_one("alice", PASSWORD)
    code = world.fake.last_code(ALICE)
    world.clock.move_ms(LATER_MS)
    with pytest.raises(CodeExpired):
        client.step_two(user_id, code)
    with pytest.raises(CodeExpired):
        client.resend(user_id)
    assert len(world.fake.accepted) == 1


def test_id_works_in_another_process_with_the_same_key(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD)
    assert world.client().step_two(user_id, world.fake.last_code(ALICE))


# --- Tokens ---


def test_token_expires(world: World) -> None:
    client = world.client(token_life_s=600)
    token = world.log_in(client)
    world.clock.move_ms(599_999)
    client.verify_token(token)
    world.clock.move_ms(1)
    with pytest.raises(BadToken):
        client.verify_token(token)
    with pytest.raises(BadToken):
        client.revoke(token)


@pytest.mark.parametrize("other", [{"audience": "wiki"}, {"vault_key": NEW_VAULT_KEY}])
def test_token_of_another_program_is_refused(world: World, client: AuthClient, other: dict[str, Any]) -> None:
    token = world.log_in(client)
    stranger = world.client(**other)
    with pytest.raises(BadToken):
        stranger.verify_token(token)
    with pytest.raises(BadToken):
        stranger.revoke(token)
    assert client.verify_token(token)


def test_revoked_token_is_refused_everywhere(world: World, client: AuthClient) -> None:
    token, other = world.log_in(client), world.log_in(client, "bob", BOB)
    client.revoke(token)
    for some in (client, world.client()):
        with pytest.raises(BadToken):
            some.verify_token(token)
    assert client.verify_token(other).user == "bob"
    ends_at_ms = [end for _, end in world.redis.client.zrange("textgate:revoked", 0, -1, withscores=True)]
    assert max(ends_at_ms) == world.clock.now_ms() + TOKEN_LIFE_S * 1000


def test_token_that_redis_forgot_to_be_revoked_ends_by_itself(world: World, client: AuthClient) -> None:
    """What a Redis that was taken over can bring back, and for how long."""
    token = world.log_in(client)
    client.revoke(token)
    world.redis.client.delete("textgate:revoked")
    assert client.verify_token(token).user == "alice"
    world.clock.move_ms(TOKEN_LIFE_S * 1000)
    with pytest.raises(BadToken):
        client.verify_token(token)


@pytest.mark.parametrize("by_ms", [-TOKEN_LIFE_S * 2000, -1000])
def test_token_and_id_that_have_ended_stay_so_when_the_clock_is_set_back(
    world: World, client: AuthClient, by_ms: int
) -> None:
    user_id, token = client.step_one("bob", PASSWORD), world.log_in(client)
    world.clock.move_ms(TOKEN_LIFE_S * 1000)
    world.clock.jump_ms(by_ms)
    with pytest.raises(BadToken):
        client.verify_token(token)
    with pytest.raises(CodeExpired):
        client.resend(user_id)


def test_revoked_token_stays_so_over_a_jump_of_the_clock(world: World, client: AuthClient) -> None:
    token = world.log_in(client)
    client.revoke(token)
    world.clock.jump_ms(TOKEN_LIFE_S * 1000)
    client.revoke(world.log_in(client, "bob", BOB))  # which lets go of what has ended
    world.clock.jump_ms(-TOKEN_LIFE_S * 1000)
    with pytest.raises(BadToken):
        client.verify_token(token)


def test_store_that_was_emptied_ends_the_tokens_of_before(world: World, client: AuthClient) -> None:
    """Which of them were revoked, nobody knows any longer."""
    token = world.log_in(client)
    world.redis.client.flushall()
    world.clock.move_ms(LATER_MS)
    assert world.log_in(client, "bob", BOB)
    with pytest.raises(BadToken):
        client.verify_token(token)


def test_keys_can_be_changed_without_losing_a_login(world: World, client: AuthClient) -> None:
    user_id, token = client.step_one("bob", PASSWORD), world.log_in(client)
    rotated = world.client(vault_key=f"{NEW_VAULT_KEY}\n{VAULT_KEY}\n")
    assert rotated.verify_token(token).user == "alice"
    newest = rotated.step_two(user_id, world.fake.last_code(BOB))
    with pytest.raises(BadToken):  # sealed with the new key
        client.verify_token(newest)
    with pytest.raises(BadToken):  # once the old key is taken away
        world.client(vault_key=NEW_VAULT_KEY).verify_token(token)


def test_old_key_can_go_once_all_is_sealed_anew(world: World, client: AuthClient) -> None:
    world.log_in(client)
    stranger = world.client(vault_key="k3:" + "ef" * 32)
    assert stranger.reseal() == 1  # tells, and breaks nothing
    world.log_in(client)
    assert world.client(vault_key=f"{NEW_VAULT_KEY}\n{VAULT_KEY}").reseal() == 0
    renewed = world.client(vault_key=NEW_VAULT_KEY)
    assert renewed.verify_token(world.log_in(renewed)).user == "alice"


# --- What is told, kept and left behind ---


def test_journal_has_neither_code_nor_password_nor_number(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD, source=SOURCE)
    code = world.fake.last_code(ALICE)
    with pytest.raises(WrongCode):
        client.step_two(user_id, other_than(code))
    client.revoke(client.step_two(user_id, code))
    text = world.journal.text()
    assert [entry["reason"] for entry in world.journal.find("check", result="pass")] == ["code"]
    assert SOURCE in text
    assert not [secret for secret in (code, other_than(code), PASSWORD, ALICE, user_id) if secret in text]


def test_redis_has_neither_secret_nor_code_nor_number(world: World, client: AuthClient) -> None:
    user_id = client.step_one("alice", PASSWORD, source=SOURCE)
    client_of_redis = world.redis.client
    kept: list[str] = []
    for key in client_of_redis.keys("*"):
        kept.append(key)
        if client_of_redis.type(key) == "hash":
            kept += [f"{name}={value}" for name, value in client_of_redis.hgetall(key).items()]
    text = "\n".join(kept)
    assert "challenge" in text
    assert not [secret for secret in (world.fake.last_code(ALICE), PASSWORD, ALICE, user_id) if secret in text]


def test_repr_shows_no_secret(world: World, client: AuthClient) -> None:
    keys = module.Keys(Secret(VAULT_KEY), module.GatewayCredentials(Secret("test-key"), Secret("test-secret"), None))
    for shown in (repr(client), repr(keys), repr(PamPasswords.__new__(PamPasswords)), repr(client._services)):
        assert not [secret for secret in ("ab" * 32, "test-secret", "test-key") if secret in shown]


@pytest.mark.parametrize("kind", [GatewayUnknown, Throttled, WrongCode, AuthError])
def test_exceptions_travel_between_processes(kind: type[AuthError]) -> None:
    error = pickle.loads(pickle.dumps(kind("A sentence.", wait_s=1.5, user_id="id")))
    assert (type(error), str(error), error.wait_s, error.user_id) == (kind, "A sentence.", 1.5, "id")


def test_end_of_the_block_ends_threads_and_connections(world: World) -> None:
    before = set(threading.enumerate())
    with world.client() as client:
        world.log_in(client)
        assert [thread for thread in threading.enumerate() if thread not in before and "send" in thread.name]
    left = [thread for thread in threading.enumerate() if thread not in before and "fake" not in thread.name]
    assert left == []
    assert len(world.redis.client.client_list()) == 1  # the test's own


def test_texts_under_way_are_finished_at_the_end(world: World) -> None:
    with world.client(options={"gateway": {"send_wait_s": 0}}) as client:
        client.step_one("alice", PASSWORD)
    assert len(world.fake.accepted) == 1


# --- Settings ---


def test_settings_are_checked_and_every_fault_named(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        world.client(allowed_countries=[], options={"codes": {"digits": 5}, "gatway": {}})
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"vault_key": "secret"}, {"gateway_secret": None}, {"gateway_key": None}, {"vault_key": "k1:" + "xy" * 32}],
)
def test_keys_are_checked_and_not_quoted(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(CredentialError) as caught:
        world.client(**wrong)
    assert not [secret for secret in ("xyxy", "test-secret") if secret in str(caught.value)]


@pytest.mark.parametrize(
    "wrong", [{"token_life_s": 0}, {"audience": ""}, {"service": ""}, {"audience": "x" * 257}, {"service": "a\nb"}]
)
def test_values_without_sense_are_refused(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token_life_s must be"):
        world.client(**wrong)


def test_api_token_is_enough_for_the_gateway(world: World) -> None:
    client = world.client(gateway_key=None, gateway_secret=None, gateway_token="test-token")
    assert world.log_in(client)


def test_client_reads_the_daemons_kind_of_files(world: World, tmp_path: Path) -> None:
    for name, content in {
        "vault-key": VAULT_KEY,
        "gatewayapi-key": "test-key",
        "gatewayapi-secret": "test-secret\n",
        "phones": f"alice: +{ALICE}\n",
        "textgate.toml": f"""
            [store]
            url = "{world.redis.url}"
            [gateway]
            url = "{world.fake.url}"
            [limits]
            allowed_countries = ["DK"]
            [phones]
            file = "{tmp_path}/phones"
            [vault]
            key_file = "{tmp_path}/vault-key"
        """,
    }.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    with AuthClient(
        str(tmp_path / "textgate.toml"),
        passwords=is_password,
        environ={"CREDENTIALS_DIRECTORY": str(tmp_path)},
        audit=world.journal.audit,
    ) as client:
        assert client.verify_token(world.log_in(client)).user == "alice"


DOCS = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()


def test_client_works_as_a_redis_user_of_little_power(world: World) -> None:
    command = re.search(r"ACL SETUSER myapp(?: .*\n)+", DOCS)
    assert command is not None
    password = "acl-pass-1"
    world.redis.client.execute_command(*command[0].replace("PASSWORD", password).split())
    try:
        url = world.redis.url.replace("unix://", "unix://myapp@")
        client = world.client(store_url=url, store_password=password)
        client.revoke(world.log_in(client, source=SOURCE))
        world.clock.move_ms(LATER_MS)
        user_id = client.step_one("alice", PASSWORD, source=SOURCE)
        world.clock.move_ms(LATER_MS)
        client.resend(user_id)
        with pytest.raises(WrongCode):
            client.step_two(user_id, other_than(world.fake.last_code(ALICE)))
    finally:
        world.redis.client.execute_command("ACL", "DELUSER", "myapp")


def test_docs_name_every_exception() -> None:
    kinds = {name for name in module.__all__ if issubclass(getattr(module, name), AuthError)} - {"AuthError"}
    assert set(re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE)) == kinds
