# SPDX-License-Identifier: MIT
"""The key that seals users' secrets: changed while people log in, lost, wrong; and records that were tampered with.

The real daemon and the real command, on a private Redis and a GatewayAPI on loopback.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI
from private_redis import PrivateRedis
from textgate import texts
from textgate.secret import Secret
from textgate.vault import Vault, new_key_line, parse_keys

from .test_server import API_KEY, OTHER_PHONE, OTHER_USER, PHONE, USER, Place, Textgated

HOTP, OTHER_HOTP = f"textgate:{{{USER}}}:hotp", f"textgate:{{{OTHER_USER}}}:hotp"
ALERT = "1"
SENT = ("ask", texts.SENT)
REFUSED = ("deny", texts.INTERNAL)
NONE_WAITING = ("deny", texts.NONE_WAITING)
PASS = ("pass", "")
# Every Linux has these; each has a phone here.
PEOPLE = {
    name: f"45201234{number:02d}" for number, name in enumerate(("daemon", "bin", "sys", "sync", "games", "man"))
}


@pytest.fixture(scope="module")
def gateway_of_the_run() -> Iterator[FakeGatewayAPI]:
    with FakeGatewayAPI(keys=[API_KEY]) as gateway:
        yield gateway


@pytest.fixture
def gateway(gateway_of_the_run: FakeGatewayAPI) -> FakeGatewayAPI:
    gateway_of_the_run.reset()
    return gateway_of_the_run


@pytest.fixture
def place(redis_server: PrivateRedis, gateway: FakeGatewayAPI) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="textgate-test-") as folder:
        yield Place(Path(folder), redis_server.url, gateway.url)


@pytest.fixture
def daemon(place: Place) -> Iterator[Textgated]:
    with place.run() as running:
        yield running


def key_names(place: Place) -> list[str]:
    return [line.partition(":")[0] for line in (place.folder / "vault-key").read_text().split()]


def sealing_keys(redis: PrivateRedis) -> set[str]:
    """The names of the keys under which secrets lie in Redis."""
    return {redis.client.hget(key, "secret").split(".")[1] for key in redis.client.scan_iter("textgate:{*}:hotp")}


def log_in(daemon: Textgated, gateway: FakeGatewayAPI, user: str = USER, phone: str = PHONE, **more: Any) -> None:
    assert daemon.ask("begin", user=user, **more) == SENT
    assert daemon.check(gateway.last_code(phone), user=user, **more) == PASS


# --- A new key. ---


def test_rotation_seals_every_secret_anew_and_keeps_the_former_key(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    log_in(daemon, gateway)
    log_in(daemon, gateway, OTHER_USER, OTHER_PHONE)
    before = place.folder.joinpath("vault-key").read_text()
    assert sealing_keys(redis_server) == {"k1"}
    done = place.command("keys", "rotate")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sealed with k2: 2 anew, 0 already; 0 can't be opened" in done.stdout
    assert key_names(place) == ["k2", "k1"]
    assert place.folder.joinpath("vault-key").read_text().endswith(before)
    assert place.folder.joinpath("vault-key").stat().st_mode & 0o777 == 0o600
    assert sealing_keys(redis_server) == {"k2"}
    (noted,) = daemon.find("admin", resealed="2")
    assert (noted["TEXTGATE_UNREADABLE"], noted["TEXTGATE_UID"]) == ("0", "0")
    log_in(daemon, gateway)


def test_code_texted_before_a_rotation_is_good_after_it(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    assert daemon.ask("begin") == SENT
    for _ in range(2):
        assert place.command("keys", "rotate").returncode == 0
    assert daemon.ask("begin") == ("ask", texts.STILL_GOOD)
    assert daemon.check("000000") == ("deny", texts.WRONG)
    assert daemon.check(gateway.last_code(PHONE)) == PASS


def test_lockout_and_counters_outlive_a_rotation(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    log_in(daemon, gateway)
    counter = redis_server.client.hget(HOTP, "counter")
    for session in range(2):
        daemon.ask("begin", port=50001 + session)
        for _ in range(3):
            locked = daemon.check("000000", port=50001 + session)
    assert locked[1].startswith("Too many wrong codes in a row")
    place.command("keys", "rotate")
    assert int(redis_server.client.hget(HOTP, "counter")) >= int(counter) + 2
    assert daemon.ask("begin", port=50009)[0] == "deny"


def test_no_login_is_lost_while_keys_are_changed_over_and_over(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    place.write("phones", "".join(f"{name}: +{phone}\n" for name, phone in PEOPLE.items()), 0o640)
    place.configure(limits={"sends_per_day": 10_000, "sends_per_source_per_hour": 10_000,
                            "sends_per_host_per_minute": 10_000, "sends_per_phone_per_day": 10_000,
                            "sends_per_country_per_day": 10_000, "sends_per_day_in_all": 10_000,
                            "spend_per_day": 10_000})  # fmt: skip
    daemon.admin("reload")
    gateway.credit = Decimal(1_000_000)
    is_over, lost, counts = threading.Event(), [], dict.fromkeys(PEOPLE, 0)

    def people(user: str, phone: str) -> None:
        while not is_over.is_set():
            port = 40000 + counts[user]
            begun = daemon.ask("begin", user=user, port=port)
            checked = daemon.check(gateway.last_code(phone), user=user, port=port) if begun == SENT else None
            if checked != PASS:
                lost.append((user, begun, checked))
            counts[user] += 1

    threads = [threading.Thread(target=people, args=person) for person in PEOPLE.items()]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 6):
            assert place.command("keys", "rotate").returncode == 0
            assert key_names(place)[0] == f"k{number}"
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert min(counts.values()) >= 2
    assert daemon.find("fault") == []
    assert sealing_keys(redis_server) == {"k5"}


def test_former_key_may_go_once_everything_is_sealed_anew(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    log_in(daemon, gateway)
    codes = daemon.admin("recovery", user=USER)["result"]["codes"]
    place.command("keys", "rotate")
    daemon.ask("begin", port=50001)
    assert daemon.check(codes[0], port=50001) == PASS  # the former key still knows them
    new = place.folder.joinpath("vault-key").read_text().splitlines()[0]
    place.write("vault-key", new + "\n", 0o600)
    daemon.admin("reload")
    log_in(daemon, gateway, port=50002)
    daemon.ask("begin", port=50003)
    assert daemon.check(codes[1], port=50003)[0] == "deny"  # as `keys rotate --help` says


def test_rotation_that_was_cut_off_is_finished_by_reseal(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    log_in(daemon, gateway)
    former = place.folder.joinpath("vault-key").read_text()
    place.write("vault-key", new_key_line("k2").reveal() + "\n" + former, 0o600)  # and there it was killed
    daemon.admin("reload")
    log_in(daemon, gateway, port=50001)
    log_in(daemon, gateway, OTHER_USER, OTHER_PHONE)
    assert sealing_keys(redis_server) == {"k1", "k2"}
    done = place.command("keys", "reseal")
    assert done.returncode == 0
    assert "1 anew, 1 already" in done.stdout
    assert sealing_keys(redis_server) == {"k2"}


def test_rotation_without_a_daemon_changes_the_file_and_says_so(place: Place, gateway: FakeGatewayAPI) -> None:
    done = place.command("keys", "rotate")
    assert done.returncode == 4
    assert "textgated can't be reached" in done.stderr
    assert key_names(place) == ["k2", "k1"]
    with place.run() as daemon:
        log_in(daemon, gateway)
        assert place.command("keys", "reseal").returncode == 0


def test_rotation_of_a_key_from_systemd_says_what_is_left_to_do(place: Place, gateway: FakeGatewayAPI) -> None:
    credentials = place.folder / "credentials"
    credentials.mkdir()
    for name in ("gatewayapi-key", "gatewayapi-secret", "vault-key"):
        (credentials / name).write_bytes((place.folder / name).read_bytes())
    with place.run(environment={"CREDENTIALS_DIRECTORY": str(credentials)}) as daemon:
        log_in(daemon, gateway)
        done = place.command("keys", "rotate")
        assert done.returncode == 1
        assert "textgated has its key from elsewhere" in done.stderr
        assert "restart it" in done.stderr and "textgate keys reseal" in done.stderr
        log_in(daemon, gateway, port=50001)


def test_record_that_does_not_open_is_counted_and_left_as_it_is(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    log_in(daemon, gateway)
    log_in(daemon, gateway, OTHER_USER, OTHER_PHONE)
    broken = redis_server.client.hget(HOTP, "secret")[:-1]
    redis_server.client.hset(HOTP, "secret", broken)
    done = place.command("keys", "rotate")
    assert done.returncode == 1
    assert "1 anew, 0 already; 1 can't be opened" in done.stdout
    assert redis_server.client.hget(HOTP, "secret") == broken


# --- A key that is lost, or wrong; a record that somebody has touched. ---

Spoil = Callable[[str, PrivateRedis, Place], object]


def _put(change: Callable[[str], str]) -> Spoil:
    return lambda sealed, redis, _place: redis.client.hset(HOTP, "secret", change(sealed))


def _part(at: int, change: Callable[[str], str]) -> Callable[[str], str]:
    """A sealed record with one of its four parts changed."""

    def changed(sealed: str) -> str:
        parts = sealed.split(".")
        parts[at] = change(parts[at])
        return ".".join(parts)

    return changed


def _other_letter(text: str) -> str:
    return ("A" if text[0] != "A" else "B") + text[1:]


def _keys(text: str) -> Spoil:
    return lambda _sealed, _redis, place: place.write("vault-key", text + "\n", 0o600)


def _swapped(_sealed: str, redis: PrivateRedis, _place: Place) -> object:
    return redis.client.hset(HOTP, "secret", redis.client.hget(OTHER_HOTP, "secret"))


def _for_other_purpose(sealed: str, redis: PrivateRedis, place: Place) -> object:
    vault = Vault(parse_keys(Secret(place.folder.joinpath("vault-key").read_text())))
    return redis.client.hset(HOTP, "secret", vault.seal(Secret("A" * 32), user=USER, purpose="another"))


def _known_plain(sealed: str, redis: PrivateRedis, _place: Place) -> object:
    """What somebody who can write to Redis would like: a secret of his own."""
    key = Vault(parse_keys(Secret("k1:" + "00" * 32)))
    return redis.client.hset(HOTP, "secret", key.seal(Secret("A" * 32), user=USER, purpose="hotp-secret"))


MISSING = "a sealed record needs a key that is not in vault-key"
CHANGED = "a sealed record does not open: it was changed, moved, or sealed with another key of that name"
MALFORMED = "a sealed record is malformed"
SPOILS: list[tuple[str, Spoil, str]] = [
    ("key gone", _keys("k2:" + "6b" * 32), MISSING),
    ("another key of that name", _keys("k1:" + "6b" * 32), CHANGED),
    ("record of another user", _swapped, CHANGED),
    ("record for another purpose", _for_other_purpose, CHANGED),
    ("record under the attacker's key", _known_plain, CHANGED),
    ("another version", _put(_part(0, lambda _: "v2")), MALFORMED),
    ("another key's name", _put(_part(1, lambda _: "k9")), MISSING),
    ("another nonce", _put(_part(2, _other_letter)), CHANGED),
    ("a nonce too short", _put(_part(2, lambda _: "AAAA")), CHANGED),
    ("another ciphertext", _put(_part(3, _other_letter)), CHANGED),
    ("a ciphertext cut short", _put(_part(3, lambda text: text[:8])), CHANGED),
    ("no ciphertext", _put(_part(3, lambda _: "")), CHANGED),
    ("no base64", _put(_part(3, lambda _: "\x1b[2J")), CHANGED),
    ("nothing", _put(lambda _: ""), MALFORMED),
    ("a secret that is not sealed", _put(lambda _: "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"), MALFORMED),
    ("too many parts", _put(lambda sealed: sealed + ".x"), MALFORMED),
]


@pytest.mark.parametrize(("spoil", "reason"), [row[1:] for row in SPOILS], ids=[row[0] for row in SPOILS])
def test_secret_that_does_not_open_is_an_explained_refusal_and_an_alert(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI, redis_server: PrivateRedis, spoil: Spoil, reason: str
) -> None:
    log_in(daemon, gateway, OTHER_USER, OTHER_PHONE)
    assert daemon.ask("begin") == SENT
    code = gateway.last_code(PHONE)
    good, keys = redis_server.client.hget(HOTP, "secret"), (place.folder / "vault-key").read_text()
    spoil(good, redis_server, place)
    daemon.admin("reload")
    text_count = len(gateway.accepted)
    # Whose key is gone has no code under way either: what ties it to his number was made with that key.
    is_key_gone = keys != (place.folder / "vault-key").read_text()
    assert daemon.check(code) == (NONE_WAITING if is_key_gone else REFUSED)
    assert daemon.ask("begin", port=50001) == REFUSED
    assert len(gateway.accepted) == text_count
    assert daemon.find("check", user=USER, result="pass") == []

    def refusals() -> list[dict[str, str]]:
        return daemon.find("fault") + daemon.find("check", user=USER, result="deny", reason="none")

    daemon.wait(lambda: len(refusals()) == 2, "a word on each refusal")
    for alert in daemon.find("fault"):
        assert alert["TEXTGATE_REASON"] == reason
        assert (alert["TEXTGATE_RESULT"], alert["PRIORITY"]) == ("deny", ALERT)
    assert not re.search(r"[A-Z2-7]{32}|[0-9a-f]{64}", daemon.text())
    # Put back, it works again; and the code that was refused was not used up.
    (place.folder / "vault-key").write_text(keys)
    redis_server.client.hset(HOTP, "secret", good)
    daemon.admin("reload")
    assert daemon.check(code) == PASS


def test_faulty_key_file_is_refused_at_a_reload_and_the_former_key_goes_on(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    log_in(daemon, gateway)
    for content, mode in (("k1:" + "zz" * 32, 0o600), ("", 0o600), ("k1:" + "5a" * 32, 0o644)):
        place.write("vault-key", content, mode)
        answer = daemon.admin("reload")
        assert answer["ok"] is False
        assert "vault-key" in answer["error"]["message"]
        log_in(daemon, gateway, port=50001 + mode + len(content))
    assert len([event for event in daemon.find("service") if "reload failed" in event["MESSAGE"]]) == 3


def test_user_whose_key_is_lost_gets_in_again_once_his_secret_is_forgotten(
    place: Place, daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    log_in(daemon, gateway)
    place.write("vault-key", "k2:" + "6b" * 32 + "\n", 0o600)
    daemon.admin("reload")
    assert daemon.ask("begin", port=50001) == REFUSED
    assert daemon.admin("forget", user=USER) == {"v": 1, "ok": True, "result": {"user": USER}}
    log_in(daemon, gateway, port=50002)
    assert daemon.admin("forget", user="nosuchuser")["ok"] is False
