# SPDX-License-Identifier: MIT
"""What the store's scripts must answer, in plain Python: dictionaries in place of Redis.

Written from the limits' words and not from the Lua: `test_state_machine.py` has both do the same and compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from textgate.limits import DAY_MS, Rules
from textgate.store import BeginState, Begun, CheckState, Taken

IN_FLIGHT_MS, KNOWN_MS = 15_000, 90 * DAY_MS


@dataclass
class Place:
    """The machine itself, one known address, or all strangers. Logs are id -> time."""

    wrong: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    row: int = 0
    row_at: int = 0
    lockouts: int = 0
    locked_until: int = 0


@dataclass
class User:
    """All that is kept of one user."""

    sealed: str = ""
    counter: int = 0
    challenges: dict[str, dict[str, Any]] = field(default_factory=dict)  # by session
    recovery: set[str] = field(default_factory=set)
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
        return user, user.places.setdefault(source if is_known else "strangers", Place())

    def _lock(self, place: Place, now: int) -> int:
        length = min(self.rules.lockout_ms * 2**place.lockouts, self.rules.lockout_max_ms)
        place.lockouts, place.row, place.locked_until = place.lockouts + 1, 0, now + length
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

    def begin(self, name: str, session: str, *, now_ms: int, challenge_id: str, phone_tags: Any, rules: Rules,
              source: str, sealed: str, is_anew: bool) -> Begun | None:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Begun(BeginState.LOCKED, until_ms=until, row=row)
        old = user.challenges.get(session)
        is_live = old is not None and self._is_good(old, phone_tags, now_ms) and old["tries"] > 0 and (
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
        user.sealed = user.sealed or sealed
        user.counter += 1
        user.challenges[session] = {
            "id": challenge_id, "counter": user.counter, "expires": now_ms + rules.life_ms, "tries": rules.tries,
            "tag": phone_tags[0], "send": "pending", "former": dict(old, former=None) if old and is_live else None,
        }  # fmt: skip
        for one in (place, user.all):
            one.texts[challenge_id] = now_ms
        is_stranger = place is user.places.get("strangers")
        return Begun(BeginState.NEW, challenge_id, user.counter, user.sealed, "pending", is_live=is_live,
                     is_stranger=is_stranger)  # fmt: skip

    @staticmethod
    def _is_good(challenge: dict[str, Any], phone_tags: Any, now: int) -> bool:
        return challenge["expires"] > now and challenge["tag"] in phone_tags

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

    def take_try(self, name: str, session: str, *, now_ms: int, try_id: str, phone_tags: Any, rules: Rules,
                 source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Taken(CheckState.LOCKED, until_ms=until, row=row)
        challenge = user.challenges.get(session)
        if not challenge or not self._is_good(challenge, phone_tags, now_ms):
            return Taken(CheckState.NONE)
        if challenge["tries"] <= 0:
            return Taken(CheckState.SPENT, send=challenge["send"])
        challenge["tries"] -= 1
        self._count(user, place, try_id, now_ms)
        return Taken(CheckState.TRY, challenge["id"], challenge["counter"], user.sealed, challenge["tries"],
                     challenge["send"])  # fmt: skip

    @staticmethod
    def _count(user: User, place: Place, try_id: str, now: int) -> None:
        place.row, place.row_at = place.row + 1, now
        place.wrong[try_id] = user.all.wrong[try_id] = now

    def consume(self, name: str, session: str, *, now_ms: int, challenge_id: str, try_id: str, is_right: bool,
                rules: Rules, source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        if place.locked_until > now_ms:
            return Taken(CheckState.LOCKED, until_ms=place.locked_until, row="wrong_in_a_row")
        challenge = user.challenges.get(session)
        if not challenge or challenge["id"] != challenge_id or challenge["expires"] <= now_ms:
            return Taken(CheckState.USED)
        del user.challenges[session]
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

    def take_recovery(self, name: str, session: str, *, now_ms: int, try_id: str, recovery_tags: Any, rules: Rules,
                      source: str) -> Taken:  # fmt: skip
        user, place = self._find(name, source, now_ms)
        until, row = self._locked(user, place, now_ms)
        if until:
            return Taken(CheckState.LOCKED, until_ms=until, row=row)
        self._count(user, place, try_id, now_ms)
        if not user.recovery & set(recovery_tags):
            return self.confirm_wrong(name, session, now_ms=now_ms, rules=rules, source=source)
        user.recovery -= set(recovery_tags)
        user.challenges.pop(session, None)
        self._forgive(user, place, source, now_ms, try_id)
        return Taken(CheckState.PASS, tries_left=len(user.recovery))

    def set_recovery(self, name: str, tags: Any, *, now_ms: int) -> None:
        self.users.setdefault(name, User()).recovery = set(tags)

    def unlock(self, name: str) -> None:
        user = self.users.setdefault(name, User())
        user.places, user.all = {}, Place()
