# SPDX-License-Identifier: MIT
"""What the store's scripts must answer, in plain Python: dictionaries in place of Redis.

Written from the limits' words and not from the Lua: `test_state_machine.py` has both do the same and compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from textgate.limits import DAY_MS, Rules
from textgate.store import BeginState, Begun, CheckState, Proposal, Taken

LONGEST_LIFE_MS = 660_000
IN_FLIGHT_MS, KNOWN_MS, ROW_MS = 15_000, 90 * DAY_MS, 2 * DAY_MS


@dataclass
class Place:
    """The machine itself, one known address, or all strangers. Logs are id -> time."""

    wrong: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    row: int = 0
    row_at: int = 0
    lockouts: int = 0
    locked_until: int = 0
    kept_until: int = 0  # then row and lockouts are forgotten


@dataclass
class User:
    """All that is kept of one user."""

    sealed: str = ""
    counter: int = 0
    challenges: dict[str, dict[str, Any]] = field(default_factory=dict)  # by session
    recovery: dict[str, str] = field(default_factory=dict)  # keyed hash -> what proves it
    known: dict[str, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    all: Place = field(default_factory=Place)


def free_at(log: dict[str, int], most: int, window: int, now: int) -> int:
    """When fewer than `most` are younger than a window; 0 for now."""
    times = sorted((at for at in log.values() if at > now - DAY_MS), reverse=True)
    until = times[most - 1] + window if len(times) >= most else 0
    return until if until > now else 0


class Model:
    """Each method is a step of the store, with the same arguments and answers."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.users: dict[str, User] = {}

    def _find(self, name: str, source: str, now: int) -> tuple[User, Place]:
        user = self.users.setdefault(name, User())
        is_known = source == "" or user.known.get(source, -KNOWN_MS) > now - KNOWN_MS
        place = user.places.setdefault(source if is_known else "strangers", Place())
        if 0 < place.kept_until <= now:
            place.row = place.row_at = place.lockouts = place.locked_until = place.kept_until = 0
        return user, place

    def _lock(self, place: Place, now: int) -> int:
        length = min(self.rules.lockout_ms * 2**place.lockouts, self.rules.lockout_max_ms)
        place.lockouts, place.row, place.locked_until = place.lockouts + 1, 0, now + length
        place.kept_until = now + max(ROW_MS, 2 * length)
        return place.locked_until

    def _locked(self, user: User, place: Place, now: int) -> tuple[int, str]:
        if place.locked_until > now:
            return place.locked_until, "wrong_in_a_row"
        until = max(
            free_at(place.wrong, self.rules.wrong_per_place, DAY_MS, now),
            free_at(user.all.wrong, self.rules.wrong_per_day, DAY_MS, now),
        )
        if until:
            return until, "wrong_per_day"
        if place.row >= self.rules.wrong_in_a_row:
            if place.row_at + IN_FLIGHT_MS <= now:
                return self._lock(place, now), "wrong_in_a_row"
            return place.row_at + IN_FLIGHT_MS, "under_way"
        return 0, ""

    def _forgive(self, user: User, place: Place, source: str, now: int, try_id: str) -> None:
        for one in (user.all, *user.places.values()):
            one.wrong.pop(try_id, None)
        place.row = place.lockouts = 0
        if source:
            user.known[source] = now

    def begin(self, name: str, session: str, *, now_ms: int, wall_ms: int, proposal: Proposal, phone_tags: Any,
              rules: Rules, source: str, sealed: str, is_anew: bool) -> Begun | None:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Begun(BeginState.LOCKED, until_ms=until, row=row)
        old = user.challenges.get(session)
        if old and not self._is_alive(old, now_ms, wall_ms):
            old = user.challenges.pop(session) and None
        is_live = old is not None and old["tag"] in phone_tags and old["tries"] > 0 and (
            not old["send"].startswith("refused"))  # fmt: skip
        if old and is_live and not is_anew:
            return Begun(BeginState.LIVE, old["id"], old["counter"], user.sealed, old["send"])
        waits = [
            (max(free_at(place.texts, limit.most, limit.window_ms, now_ms),
                 free_at(user.all.texts, limit.most_in_all, limit.window_ms, now_ms) if limit.most_in_all else 0),
             -at, limit.name)
            for at, limit in enumerate(rules.sends)
        ]  # fmt: skip
        until, _, row = max(waits)
        if until:
            return Begun(BeginState.THROTTLED, until_ms=until, row=row, is_live=is_live)
        if not user.sealed and not sealed:
            return None
        if proposal.counter <= user.counter:
            return Begun(BeginState.COUNTER_USED, counter=user.counter)
        user.sealed = user.sealed or sealed
        user.counter = proposal.counter
        user.challenges[session] = {
            "id": proposal.challenge_id, "counter": user.counter, "expires": proposal.expires_at_ms,
            "expires_wall": proposal.expires_wall_ms, "mac": proposal.mac, "tries": rules.tries,
            "tag": phone_tags[0], "send": "pending", "former": dict(old, former=None) if old and is_live else None,
        }  # fmt: skip
        for one in (place, user.all):
            one.texts[proposal.challenge_id] = now_ms
        is_stranger = place is user.places.get("strangers")
        return Begun(BeginState.NEW, proposal.challenge_id, user.counter, user.sealed, "pending", is_live=is_live,
                     is_stranger=is_stranger)  # fmt: skip

    @staticmethod
    def _is_alive(challenge: dict[str, Any], now: int, wall: int) -> bool:
        expires, expires_wall = int(challenge["expires"]), int(challenge["expires_wall"])
        return now < expires and wall < expires_wall <= wall + LONGEST_LIFE_MS

    def settle_send(self, name: str, session: str, *, challenge_id: str, send: str, is_refused: bool,
                    source: str) -> None:  # fmt: skip
        user, _ = self._find(name, source, 0)
        if is_refused:
            for one in (user.all, *user.places.values()):
                one.texts.pop(challenge_id, None)
        challenge = user.challenges.get(session)
        if challenge and challenge["id"] == challenge_id:
            challenge["send"] = send
            former = challenge.pop("former", None)
            if is_refused and former:
                user.challenges[session] = former

    def take_try(self, name: str, session: str, *, now_ms: int, wall_ms: int, try_id: str, phone_tags: Any,
                 rules: Rules, source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Taken(CheckState.LOCKED, until_ms=until, row=row)
        challenge = user.challenges.get(session)
        if challenge and not self._is_alive(challenge, now_ms, wall_ms):
            challenge = user.challenges.pop(session) and None
        if not challenge or challenge["tag"] not in phone_tags:
            return Taken(CheckState.NONE)
        if challenge["tries"] <= 0:
            return Taken(CheckState.SPENT, send=challenge["send"])
        challenge["tries"] -= 1
        self._count(user, place, try_id, now_ms)
        return Taken(CheckState.TRY, challenge["id"], challenge["counter"], user.sealed, challenge["tries"],
                     challenge["send"], phone_tag=challenge["tag"], expires_at_ms=challenge["expires"],
                     expires_wall_ms=challenge["expires_wall"], mac=challenge["mac"])  # fmt: skip

    def _count(self, user: User, place: Place, try_id: str, now: int) -> None:
        place.row, place.row_at = place.row + 1, now
        place.kept_until = now + max(ROW_MS, self.rules.lockout_max_ms)
        place.wrong[try_id] = user.all.wrong[try_id] = now

    def consume(self, name: str, session: str, *, now_ms: int, wall_ms: int, challenge_id: str, try_id: str,
                is_right: bool, rules: Rules, source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        if place.locked_until > now_ms:
            return Taken(CheckState.LOCKED, until_ms=place.locked_until, row="wrong_in_a_row")
        challenge = user.challenges.get(session)
        if not challenge or challenge["id"] != challenge_id:
            return Taken(CheckState.USED)
        del user.challenges[session]
        if not self._is_alive(challenge, now_ms, wall_ms):
            return Taken(CheckState.USED)
        for one in (user.all, *user.places.values()):
            one.texts.pop(challenge_id, None)
        self._forgive(user, place, source, now_ms, try_id)
        return Taken(CheckState.PASS)

    def confirm_wrong(self, name: str, session: str, *, now_ms: int, rules: Rules, source: str) -> Taken:
        _, place = self._find(name, source, now_ms)
        if place.locked_until > now_ms or place.row >= rules.wrong_in_a_row:
            until = place.locked_until if place.locked_until > now_ms else self._lock(place, now_ms)
            return Taken(CheckState.LOCKED, until_ms=until, row="wrong_in_a_row")
        return Taken(CheckState.WRONG)

    def take_recovery(self, name: str, session: str, *, now_ms: int, try_id: str, recovery_tags: Any,
                      recovery_hashes: Any, rules: Rules, source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Taken(CheckState.LOCKED, until_ms=until, row=row)
        self._count(user, place, try_id, now_ms)
        held = {tag: user.recovery[tag] for tag in recovery_tags if tag in user.recovery}
        right = [tag for tag, value in held.items() if sha1(value.encode()).hexdigest() in recovery_hashes]
        if not right:
            ended = self.confirm_wrong(name, session, now_ms=now_ms, rules=rules, source=source)
            return Taken(CheckState.VOID) if held and ended.state is CheckState.WRONG else ended
        value = user.recovery.pop(right[-1])
        user.challenges.pop(session, None)
        self._forgive(user, place, source, now_ms, try_id)
        return Taken(CheckState.PASS, tries_left=len(user.recovery), tag=right[-1], value=value)

    def set_recovery(self, name: str, values: dict[str, str]) -> None:
        self.users.setdefault(name, User()).recovery = dict(values)

    def unlock(self, name: str) -> None:
        user = self.users.setdefault(name, User())
        user.places, user.all = {}, Place()
