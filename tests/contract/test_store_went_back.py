# SPDX-License-Identifier: MIT
"""Backups put back, emptied and other stores, clones, upgrades: what is noticed, what is void, and who gets in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.store_aids import Backup, FakeHands
from contract.test_verifier import PASS, Door
from fakes import Journal
from private_redis import PrivateRedis
from textgate import codes
from textgate.limits import DAY_MS
from textgate.proofs import Proofs
from textgate.protocol import Word
from textgate.seen import NAME, Seen, read_seen
from textgate.spent import Spent
from textgate.store_clock import StoreClock
from textgate.store_upgrade import adopt_unproved
from textgate.verifier import SECRET_PURPOSE, user_key

LATER_MS = 61_000  # than the least time between two texts
RECORD = "textgate:store"


class House(Door):
    """A door with the store's own clock, of a host that can be started anew."""

    history: StoreClock

    def __init__(self, url: str, folder: Path, hands: FakeHands | None = None) -> None:
        super().__init__(url)
        self.hands, self.folder = hands or FakeHands(), folder
        self.start()

    def start(self) -> None:
        """The daemon is started: it has only its file and Redis."""
        self.history = self.clock = StoreClock(
            self.store,
            self.journal.audit,
            hands=self.hands.hands,
            path=self.folder / NAME,
            adopt=lambda epoch: adopt_unproved(self.store, Proofs(self.vault), epoch),
        )
        self.spent = Spent()
        self.build()

    def stop(self) -> None:
        """As a stop in order."""
        self.history.save()

    def log_in(self, session: str) -> str:
        """A login with the code that was texted, which is returned."""
        self.hands.pass_ms(LATER_MS)
        self.begin(session=session)
        assert self.check(self.code(), session=session) == PASS
        return self.code()

    def recovery_code(self, user: str = "alice") -> str:
        """A new one, the only one of a user."""
        code = codes.new_recovery_code()
        self.verifier.new_recovery(user_key(user), [code])
        return code.reveal()

    def findings(self) -> list[str]:
        """What was found of the store, as the journal's alerts say."""
        return [entry["reason"] for entry in self.journal.alerts if entry["event"] == "store" and entry["epoch"]]

    def close(self) -> None:
        """Let go of everything."""
        self.alarms.close()
        self.store.close()


@pytest.fixture
def house(redis_server: PrivateRedis, tmp_path: Path) -> Iterator[House]:
    redis_server.client.flushall()
    house = House(redis_server.url, tmp_path)
    yield house
    house.close()
    redis_server.client.flushall()


# --- A backup that is put back ---


@pytest.mark.parametrize("is_running", [True, False], ids=["while it runs", "while it is stopped"])
def test_backup_put_back_brings_no_code_again_and_is_an_alert(
    house: House, redis_server: PrivateRedis, is_running: bool
) -> None:
    house.log_in("s0")
    backup = Backup(redis_server)
    before = [house.log_in(f"s{number}") for number in range(1, 4)]
    house.stop()
    backup.put_back()
    if not is_running:
        house.start()
    after = [house.log_in(f"t{number}") for number in range(3)]
    assert not set(before) & set(after)
    assert house.findings() == ["older"]
    seen = read_seen(house.folder / NAME)
    assert (seen.epoch, seen.noticed, seen.noticed_at_s > 0) == (2, "older", True)


@pytest.mark.parametrize("is_running", [True, False], ids=["while it runs", "while it is stopped"])
def test_recovery_codes_of_before_are_void(house: House, redis_server: PrivateRedis, is_running: bool) -> None:
    used, bobs = house.recovery_code(), house.recovery_code("bob")
    backup = Backup(redis_server)
    assert house.check(used) == PASS
    house.stop()
    backup.put_back()
    if not is_running:
        house.start()
    assert house.check(used, session="s2").word is Word.DENY
    assert house.check(bobs, "bob").word is Word.DENY
    assert house.findings() == ["older"]
    assert house.check(house.recovery_code(), session="s3") == PASS


def test_code_under_way_at_a_restore_is_void(house: House, redis_server: PrivateRedis) -> None:
    house.log_in("s0")
    house.hands.pass_ms(LATER_MS)
    house.begin(session="s1")
    code = house.code()
    backup = Backup(redis_server)
    assert house.check(code, session="s1") == PASS
    backup.put_back()
    house.spent = Spent()  # not by this process's own memory
    house.build()
    assert house.check(code, session="s1").word is Word.DENY
    assert house.findings() == ["older"]


def test_restore_in_the_very_moment_of_a_login_lets_nobody_in(
    house: House, redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the code's use and the yes."""
    house.history.confirm()
    backup = Backup(redis_server)
    house.begin()
    consume = house.store.consume

    def consume_and_restore(*arguments: Any, **options: Any) -> Any:
        ended = consume(*arguments, **options)
        backup.put_back()
        return ended

    monkeypatch.setattr(house.store, "consume", consume_and_restore)
    assert house.check(house.code()).word is Word.DENY
    assert house.findings() == ["older"]


def test_recovery_code_used_on_this_host_stays_used_over_a_crash(house: House, redis_server: PrivateRedis) -> None:
    recovery = house.recovery_code()
    kept = redis_server.client.hgetall("textgate:{alice}:recovery")
    assert house.check(recovery) == PASS
    house.start()
    redis_server.client.hset("textgate:{alice}:recovery", mapping=kept)
    assert house.check(recovery, session="s2").word is Word.DENY


def test_several_hosts_notice_a_restore_and_all_void_what_was_before(
    house: House, redis_server: PrivateRedis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = House(redis_server.url, tmp_path_factory.mktemp("other"), FakeHands("boot-other"))
    other.key_lines = house.key_lines
    other.build()
    recovery = house.recovery_code()
    backup = Backup(redis_server)
    other.history.confirm()
    house.history.confirm()
    backup.put_back()
    house.history.confirm()
    other.history.confirm()
    assert (house.findings(), other.findings()) == (["older"], ["elsewhere"])
    for one in (house, other):
        assert one.check(recovery, session=one.hands.boot).word is Word.DENY
    assert read_seen(other.folder / NAME).epoch == read_seen(house.folder / NAME).epoch == 2
    other.close()


# --- Emptied, another one, gone on ---


def test_emptied_redis_is_an_alert_and_lets_nobody_in(house: House, redis_server: PrivateRedis) -> None:
    old = Backup(redis_server)
    recovery = house.recovery_code()
    house.begin()
    redis_server.client.flushall()
    assert house.check(house.code()).word is Word.DENY
    assert house.check(recovery).word is Word.DENY
    assert house.findings() == ["emptied"]
    house.log_in("s2")
    redis_server.client.hset(RECORD, mapping={"epoch": 1, "mark": 1})  # what is put back later is older still
    house.history.confirm()
    assert house.findings() == ["emptied", "older"]
    old.put_back()


def test_another_redis_is_an_alert(house: House, redis_server: PrivateRedis) -> None:
    recovery = house.recovery_code()
    redis_server.client.hset(RECORD, mapping={"id": "another", "mark": 10**6})
    assert house.check(recovery).word is Word.DENY
    assert house.findings() == ["other"]


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_host_that_is_given_another_url_voids_nobodys_codes(
    house: House, redis_server: PrivateRedis, tmp_path: Path, how: str
) -> None:
    """A host that had a Redis of its own is made one of several that share one: nothing went back."""
    recovery = house.recovery_code()
    folder = tmp_path / "other host"
    folder.mkdir()
    with PrivateRedis() as own:
        joining = House(own.url, folder, FakeHands("boot-of-the-other"))
        joining.log_in("s1")
        joining.stop()
        joining.store.close()
    former, joining.store = joining.history, house.store
    if how == "restart":
        joining.start()
    else:
        hands = joining.hands.hands
        audit, path = joining.journal.audit, folder / NAME
        joining.history = StoreClock(house.store, audit, hands=hands, path=path, former=former)
    joining.history.confirm()
    joining.history.save()
    assert joining.findings() == []
    assert [entry["reason"] for entry in joining.journal.find("service")] == ["another_url"]
    assert house.check(recovery) == PASS
    assert house.findings() == []
    joining.start()
    joining.history.confirm()
    assert len(joining.journal.find("service")) == 1
    joining.alarms.close()


def test_store_that_goes_on_is_no_finding(house: House) -> None:
    recovery = house.recovery_code()
    for number in range(3):
        house.log_in(f"s{number}")
        house.stop()
        house.hands.pass_ms(DAY_MS)
        house.hands.reboot(f"boot-{number + 2}")
        house.start()
    assert house.check(recovery) == PASS
    assert house.findings() == []
    assert read_seen(house.folder / NAME).epoch == 1


# --- A record that somebody has written into ---


@pytest.mark.parametrize("number", [2**51, 2**52 - 1, 2**52, 2**53 - 2, 2**53, 2**62])
@pytest.mark.parametrize("field", ["epoch", "mark", "at_ms"])
def test_number_that_cannot_be_is_not_remembered(
    house: House, redis_server: PrivateRedis, field: str, number: int
) -> None:
    """Nobody gets in as long as it stands there; once it is gone, all is as before, over restarts too."""
    used, unused = house.recovery_code(), house.recovery_code("bob")
    backup = Backup(redis_server)
    assert house.check(used) == PASS
    record = redis_server.client.hgetall(RECORD)
    redis_server.client.hset(RECORD, field, number)
    for _ in range(2):
        assert house.check(unused, user="bob").word is Word.DENY
        house.stop()
        house.hands.reboot("boot-2")
        house.start()
    kept = redis_server.client.hgetall("textgate:{bob}:recovery")
    backup.put_back()
    redis_server.client.delete("textgate:{bob}:recovery")
    redis_server.client.hset("textgate:{bob}:recovery", mapping=kept)
    redis_server.client.delete(RECORD)
    redis_server.client.hset(RECORD, mapping=record)
    assert house.check(used).word is Word.DENY, "a used recovery code is good again"
    assert not house.journal.find("fault")
    assert house.check(unused, user="bob") == PASS


# --- What can't be noticed ---


def test_folder_that_is_lost_believes_the_store_as_at_a_first_start(house: House) -> None:
    recovery = house.recovery_code()
    house.stop()
    (house.folder / NAME).unlink()
    house.start()
    assert house.check(recovery) == PASS
    assert house.findings() == []


def test_whole_machine_put_back_goes_unnoticed_but_brings_no_code_again(
    house: House, redis_server: PrivateRedis
) -> None:
    """Redis and the daemon's folder from one backup: recovery codes used since are good again, as STORE.md says."""
    recovery = house.recovery_code()
    house.stop()
    backup, kept = Backup(redis_server), (house.folder / NAME).read_bytes()
    before = [house.log_in(f"s{number}") for number in range(3)]
    assert house.check(recovery) == PASS
    backup.put_back()
    (house.folder / NAME).write_bytes(kept)
    house.hands.reboot("boot-2")
    redis_server.client.hincrby(RECORD, "wall_ms", -DAY_MS)  # it was a day ago
    house.hands.jump_ms(DAY_MS)
    house.start()
    assert not set(before) & {house.log_in(f"t{number}") for number in range(3)}
    assert house.findings() == []
    assert house.check(recovery, session="again") == PASS


def test_clones_text_different_codes(house: House, redis_server: PrivateRedis) -> None:
    """The same secrets and the same counters, at other moments; in the very same millisecond it is the same code."""
    house.log_in("s0")
    house.stop()
    backup, kept = Backup(redis_server), (house.folder / NAME).read_bytes()
    moment = house.hands.monotonic_ms, house.hands.wall_ms
    one = [house.log_in(f"s{number}") for number in range(1, 4)]
    backup.put_back()
    (house.folder / NAME).write_bytes(kept)
    house.hands.monotonic_ms, house.hands.wall_ms = moment
    house.hands.pass_ms(1)
    house.start()
    assert not set(one) & {house.log_in(f"t{number}") for number in range(3)}


# --- The file ---


def test_damaged_file_is_an_alert_and_keeps_nobody_out(house: House) -> None:
    house.stop()
    (house.folder / NAME).write_text("junk")
    house.start()
    house.log_in("s1")
    (entry,) = house.journal.find("fault")
    assert "is damaged" in entry["reason"]


def test_file_that_cannot_be_written_is_told_once_and_keeps_nobody_out(house: House) -> None:
    house.folder = house.folder / "nowhere"
    house.start()
    recovery = house.recovery_code()
    assert house.check(recovery) == PASS
    house.log_in("s1")
    (entry,) = house.journal.find("fault")
    assert entry["reason"].endswith("can't be written: No such file or directory")


def test_what_was_seen_is_handed_on_at_a_reload(house: House) -> None:
    start_ms = house.history.now_ms()
    house.history.use_recovery("k1.x")
    house.hands.pass_ms(3)
    clock = StoreClock(house.store, Journal().audit, former=house.history)
    assert clock.seen == house.history.seen != Seen()
    assert clock.now_ms() == start_ms + 3
    assert not clock.use_recovery("k1.x")


# --- What an installed earlier version left ---


def _as_before(server: PrivateRedis, house: House) -> tuple[str, str]:
    """A recovery code, and a code under way in session s1, as that version wrote them. Both are returned."""
    recovery, secret = codes.new_recovery_code(), codes.new_secret()
    tag = house.verifier.recovery_tags("alice", codes.normalise(recovery.reveal()))[0]
    sealed = house.vault.seal(secret, user="alice", purpose=SECRET_PURPOSE)
    phone_tag = house.verifier._phone_tags(house.verifier.resolve(house.session()))[0]
    ends_at_ms = server.client.time()[0] * 1000 + 200_000
    challenge = {"id": "c1", "counter": 7, "expires_at_ms": ends_at_ms, "tries_left": 3, "phone_tag": phone_tag}
    server.client.flushall()
    server.client.hset("textgate:{alice}:hotp", mapping={"secret": sealed, "counter": 7})
    server.client.hset("textgate:{alice}:challenge:s1", mapping={**challenge, "send": "pending"})
    server.client.hset("textgate:{alice}:recovery", tag, "1700000000000")
    return recovery.reveal(), codes.hotp(secret, 7, digits=6).reveal()


def test_upgrade_keeps_recovery_codes_and_codes_under_way(house: House, redis_server: PrivateRedis) -> None:
    recovery, code = _as_before(redis_server, house)
    house.start()
    assert house.check(code) == PASS
    assert house.check(recovery, session="s2") == PASS
    assert house.findings() == []
    house.log_in("s3")
    assert int(redis_server.client.hget("textgate:{alice}:hotp", "counter")) > 1_600_000_000_000


@pytest.mark.parametrize("is_file_lost", [False, True])
def test_what_looks_like_an_earlier_version_later_on_is_void(
    house: House, redis_server: PrivateRedis, is_file_lost: bool
) -> None:
    """Once a store was taken over, nothing without a proof is believed: somebody may have written it into Redis."""
    house.history.confirm()
    house.stop()
    record = redis_server.client.hgetall(RECORD)
    recovery, code = _as_before(redis_server, house)
    redis_server.client.hset(RECORD, mapping=record)
    if is_file_lost:
        (house.folder / NAME).unlink()
    house.start()
    assert house.check(code).word is Word.DENY
    assert house.check(recovery, session="s2").word is Word.DENY
