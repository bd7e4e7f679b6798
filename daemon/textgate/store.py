# SPDX-License-Identifier: MIT
"""Challenges, counters and lockouts in Redis. STORE.md lists every key.

Each step is one Lua script, so that parallel logins, on one host or many, can't come between its parts.
All keys of a user share the hash tag {user}. Every fault of Redis, from a refused connection to a full memory, is
StoreUnavailable, which callers turn into a denial. Times are the store's own (store_clock.py), but for `wall_ms`, the
clock of this machine. What Redis answers lets nobody in by itself: see proofs.py.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from .away import is_absence
from .config import StoreConfig
from .errors import StoreUnavailable, StoreUnsound
from .limits import Budget, Rules, Scope
from .printable import printable
from .secret import Secret


class BeginState(Enum):
    """How `begin` ended."""

    NEW = "new"
    LIVE = "live"
    THROTTLED = "throttled"
    LOCKED = "locked"
    COUNTER_USED = "counter_used"


class CheckState(Enum):
    """How a step of a check ended."""

    TRY = "try"
    NONE = "none"
    SPENT = "spent"
    LOCKED = "locked"
    WRONG = "wrong"
    VOID = "void"
    USED = "used"
    PASS = "pass"  # noqa: S105  # the name of a state


@dataclass(frozen=True)
class Begun:
    """Answer of `begin`. NEW and LIVE have a challenge; THROTTLED and LOCKED say until when; COUNTER_USED, which
    counter was the last one.

    until_ms: Unix time in milliseconds. row: name of the limit that throttles or locks. is_live: with THROTTLED,
    whether the session's last code still works; with NEW, whether it does again if this text is refused. is_stranger:
    with NEW, whether the login comes from an address that no right code came from. sealed: the user's secret as the
    vault sealed it.
    """

    state: BeginState
    challenge_id: str = ""
    counter: int = -1
    sealed: str = ""
    send: str = ""
    until_ms: int = 0
    row: str = ""
    is_live: bool = False
    is_stranger: bool = False


@dataclass(frozen=True)
class Taken:
    """Answer of a step of a check; only TRY has a challenge to compare with. row: name of the limit that locks.

    phone_tag, expires_at_ms, expires_wall_ms, mac: of the challenge, for `Proofs`. tag, value: the recovery code that
    was used up, and what proves it.
    """

    state: CheckState
    challenge_id: str = ""
    counter: int = -1
    sealed: str = ""
    tries_left: int = 0
    send: str = ""
    until_ms: int = 0
    row: str = ""
    phone_tag: str = ""
    expires_at_ms: int = 0
    expires_wall_ms: int = 0
    mac: str = ""
    tag: str = ""
    value: str = ""


@dataclass(frozen=True)
class Proposal:
    """What the daemon wants of a new challenge, and its proof of it; the store takes it as it is or not at all.

    expires_at_ms: by the store's time; expires_wall_ms: by this machine's clock.
    """

    challenge_id: str
    counter: int
    expires_at_ms: int
    expires_wall_ms: int
    mac: str


@dataclass(frozen=True)
class StoreHealth:
    """What `status` shows of Redis."""

    version: str
    is_durable: bool
    used_memory_bytes: int


def encode_user(user: str) -> str:
    """A user name as it stands in a key: everything but letters, digits, `_`, `.` and `-` is percent-encoded."""
    return quote(user, safe="").replace("~", "%7E")


class Store:
    """The state of all logins. Thread-safe: each call takes a connection of its own from the pool.

    Connects at the first call. Raises ValueError for a URL that redis-py can't use.
    """

    def __init__(self, config: StoreConfig, *, connections: int, password: Secret | None = None) -> None:
        # No retries in the client: a script whose answer was lost may have run, and must not run twice unseen.
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "retry_on_error": []} | _nameless()
        if not config.url.startswith("unix:"):  # a Unix socket's connect keeps to socket_timeout, and knows no other
            options["socket_connect_timeout"] = config.timeout_s
        if password is not None:
            options["password"] = password.reveal()
        try:
            pool = redis.BlockingConnectionPool.from_url(
                config.url,
                max_connections=connections,
                timeout=config.timeout_s,
                socket_timeout=config.timeout_s,
                decode_responses=True,
                **options,
            )
            pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but knows every option of a URL
        except (ValueError, TypeError, redis.RedisError):
            raise ValueError("the URL can't be used") from None  # without a word of it
        kwargs = pool.connection_kwargs
        self.address: str | tuple[str, int] = kwargs.get("path") or (kwargs["host"], int(kwargs.get("port", 6379)))
        where = self.address if isinstance(self.address, str) else ":".join(map(str, self.address))
        self.name = f"{where}/{kwargs.get('db') or 0}"  # without a password: with another one it is the same store
        self._redis: Any = redis.Redis(connection_pool=pool)
        self._scripts = {
            name: self._redis.register_script(head + _source("prelude") + _source(name))
            for name, head in _SCRIPTS.items()
        }
        self._charge_script = self._redis.register_script(_GROWING + _source("slices") + _source("charge"))
        self._reseal_script = self._redis.register_script(_source("reseal"))
        self._adjust_script = self._redis.register_script(_BOUNDED + _source("slices") + _source("adjust"))
        self._tick_script = self._redis.register_script(_BOUNDED + _source("tick"))
        self._revoke_script = self._redis.register_script(_GROWING + _source("revoke"))
        self._adopt_script = self._redis.register_script(_BOUNDED + _source("adopt"))

    def begin(
        self,
        user_key: str,
        session_id: str,
        *,
        now_ms: int,
        wall_ms: int,
        proposal: Proposal,
        phone_tags: Sequence[str],
        rules: Rules,
        source: str = "",
        sealed: str = "",
        is_anew: bool = False,
    ) -> Begun | None:
        """Get the session's live challenge or make a new one; None means: call again with a sealed secret, and
        COUNTER_USED: call again with a higher counter.

        source: where the login comes from, as `limits.source_key` writes it; "" at the machine itself.
        is_anew: make a new one even if one is live. A new challenge is charged to the send limits.
        """
        answer = self._run(
            "begin",
            user_key,
            session_id,
            rules.as_arguments()
            | {
                "now_ms": now_ms,
                "wall_ms": wall_ms,
                "source": source,
                "phone_tags": list(phone_tags),
                "sealed": sealed,
                "is_anew": is_anew,
            }
            | dataclasses.asdict(proposal),
        )
        match answer:
            case ["need_secret"]:
                return None
            case ["counter_used", int(counter)]:
                return Begun(BeginState.COUNTER_USED, counter=counter)
            case ["locked", int(until_ms), str(row)]:
                return Begun(BeginState.LOCKED, until_ms=until_ms, row=row)
            case ["throttled", int(until_ms), str(row), int(is_live)]:
                return Begun(BeginState.THROTTLED, until_ms=until_ms, row=row, is_live=bool(is_live))
            case ["live", str(found_id), int(counter), str(found_sealed), str(send)]:
                return Begun(BeginState.LIVE, found_id, counter, found_sealed, send)
            case ["new", str(found_id), int(counter), str(found_sealed), int(is_live), int(is_stranger)]:
                return Begun(
                    BeginState.NEW,
                    found_id,
                    counter,
                    found_sealed,
                    "pending",
                    is_live=bool(is_live),
                    is_stranger=bool(is_stranger),
                )
        raise _unsound("begin")

    def settle_send(
        self, user_key: str, session_id: str, *, challenge_id: str, send: str, is_refused: bool, source: str = ""
    ) -> None:
        """Note how the text of a challenge ended.

        A refused one is given back to the send limits, and the code that it was to replace goes on.
        """
        arguments = {
            "now_ms": 0,
            "source": source,
            "challenge_id": challenge_id,
            "send": send,
            "is_refused": is_refused,
        }
        self._run("settle_send", user_key, session_id, arguments)

    def take_try(
        self,
        user_key: str,
        session_id: str,
        *,
        now_ms: int,
        wall_ms: int,
        try_id: str,
        phone_tags: Sequence[str],
        rules: Rules,
        source: str = "",
    ) -> Taken:
        """Take one try of the session's challenge, counted as wrong from this moment on."""
        arguments = rules.as_arguments() | {
            "now_ms": now_ms,
            "wall_ms": wall_ms,
            "source": source,
            "try_id": try_id,
            "phone_tags": list(phone_tags),
        }
        answer = self._run("take_try", user_key, session_id, arguments)
        match answer:
            case ["locked", int(until_ms), str(row)]:
                return Taken(CheckState.LOCKED, until_ms=until_ms, row=row)
            case ["none"]:
                return Taken(CheckState.NONE)
            case ["spent", str(send)]:
                return Taken(CheckState.SPENT, send=send)
            case [
                "try", str(challenge_id), int(counter), str(sealed), int(tries_left), str(send),
                str(phone_tag), int(expires_at_ms), int(expires_wall_ms), str(mac),
            ]:  # fmt: skip
                return Taken(
                    CheckState.TRY,
                    challenge_id,
                    counter,
                    sealed,
                    tries_left,
                    send,
                    phone_tag=phone_tag,
                    expires_at_ms=expires_at_ms,
                    expires_wall_ms=expires_wall_ms,
                    mac=mac,
                )
        raise _unsound("take_try")

    def consume(
        self,
        user_key: str,
        session_id: str,
        *,
        now_ms: int,
        wall_ms: int,
        challenge_id: str,
        try_id: str,
        rules: Rules,
        source: str = "",
        is_right: bool = True,
    ) -> Taken:
        """Use the challenge up after a right code. PASS comes once for each challenge, whoever asks.

        is_right: False lets in without one, for [failmode]: the try no longer counts, but nothing else is forgiven.
        """
        arguments = rules.as_arguments() | {
            "now_ms": now_ms,
            "wall_ms": wall_ms,
            "source": source,
            "challenge_id": challenge_id,
            "try_id": try_id,
            "is_right": is_right,
        }
        return self._ended("consume", self._run("consume", user_key, session_id, arguments))

    def confirm_wrong(self, user_key: str, session_id: str, *, now_ms: int, rules: Rules, source: str = "") -> Taken:
        """After a wrong code: WRONG, or LOCKED if it filled the row."""
        arguments = rules.as_arguments() | {"now_ms": now_ms, "source": source}
        return self._ended("confirm_wrong", self._run("confirm_wrong", user_key, session_id, arguments))

    def take_recovery(
        self,
        user_key: str,
        session_id: str,
        *,
        now_ms: int,
        try_id: str,
        recovery_tags: Sequence[str],
        recovery_hashes: Sequence[str],
        rules: Rules,
        source: str = "",
    ) -> Taken:
        """Count a recovery code, look it up, use it up: PASS (tries_left: how many codes remain), WRONG or LOCKED;
        VOID if it is there with another value than one with these SHA-1 sums.
        """
        arguments = rules.as_arguments() | {
            "now_ms": now_ms,
            "source": source,
            "try_id": try_id,
            "recovery_tags": list(recovery_tags),
            "recovery_hashes": list(recovery_hashes),
        }
        answer = self._run("take_recovery", user_key, session_id, arguments)
        match answer:
            case ["pass", int(left), str(tag), str(value)]:
                return Taken(CheckState.PASS, tries_left=left, tag=tag, value=value)
            case ["void"]:
                return Taken(CheckState.VOID)
            case ["pass"]:  # without what proves it
                raise _unsound("take_recovery")
        return self._ended("take_recovery", answer)

    def set_recovery(self, user_key: str, values: Mapping[str, str]) -> None:
        """Replace a user's recovery codes by these: keyed hash -> what proves it. None takes them all away."""
        key = _user_keys(user_key, "-")[_RECOVERY_KEY]

        def replace() -> None:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.delete(key)
                if values:
                    pipeline.hset(key, mapping=dict(values))
                pipeline.execute()

        self._call(replace)

    def count_recovery(self, user_key: str) -> int:
        """How many recovery codes a user has left."""
        return int(self._call(lambda: self._redis.hlen(_user_keys(user_key, "-")[_RECOVERY_KEY])))

    def unlock(self, user_key: str, *, is_day_forgotten: bool = True) -> None:
        """End a user's lockouts at every place, and forget the wrong codes and texts that were counted there.

        is_day_forgotten: False ends the lockouts and no more, so that a day never has more guesses than a day's.
        """

        def forget() -> None:
            places = ("", *self._redis.zrange(_user_keys(user_key, "-")[_KNOWN_KEY], 0, -1))
            counted = {key for place in places for key in _user_keys(user_key, "-", place)[_FIRST_COUNTED_KEY:]}
            self._redis.delete(*(key for key in counted if is_day_forgotten or key.endswith(":guard")))

        self._call(forget)

    # --- Secrets under a new key ---

    def sealed_secrets(self) -> Iterator[tuple[str, str]]:
        """Every user's key and sealed secret, in no order; one made meanwhile may be missing."""
        for key in self._keys("textgate:{*}:hotp"):
            sealed = self._call(functools.partial(self._redis.hget, key, "secret"))
            if sealed:
                yield key.removeprefix("textgate:{").removesuffix("}:hotp"), str(sealed)

    def _keys(self, pattern: str) -> Iterator[str]:
        cursor: int = 0
        while True:
            found = self._call(functools.partial(self._redis.scan, cursor, match=pattern, count=500))
            cursor = int(found[0])
            yield from map(str, found[1])
            if cursor == 0:
                return

    def forget_secret(self, user_key: str) -> None:
        """Drop a user's secret and counter, which live in one key; codes under way are dead with them."""
        self._call(lambda: self._redis.delete(_user_keys(user_key, "-", "")[0]))

    def reseal(self, user_key: str, *, former: str, sealed: str) -> bool:
        """Replace a sealed secret by the same one under another key; False if it has changed meanwhile."""
        key = _user_keys(user_key, "-")[0]
        return bool(self._call(lambda: self._reseal_script(keys=[key], args=[former, sealed])))

    # --- Budgets that many users share ---

    def charge(self, budgets: Sequence[Budget], *, now_ms: int) -> tuple[Budget, int] | None:
        """Pay a text from all its budgets, or from none.

        Returns None when it is paid, else the budget that is used up and when to try again (Unix ms). Each budget is
        one atomic step; a text that finds one used up gives back what it took from the others.
        """

        calls = [
            (
                _budget_key(budget),
                (now_ms, budget.window_ms, budget.most, budget.amount, int(budget.pays), _kept_ms(budget)),
            )
            for budget in budgets
        ]
        answers = list(zip(budgets, map(int, self._run_many(self._charge_script, calls)), strict=True))
        refused = [(budget, free_at_ms) for budget, free_at_ms in answers if free_at_ms > 0]
        if not refused:
            return None
        paid = [(budget, -budget.amount) for budget, free_at_ms in answers if free_at_ms == 0 and budget.pays]
        self.adjust(paid, charged_at_ms=now_ms)
        return max(refused, key=lambda pair: pair[1])

    def adjust(self, differences: Sequence[tuple[Budget, int]], *, charged_at_ms: int) -> None:
        """Correct what `charge` took at charged_at_ms: give back (negative) or take more."""

        calls = [
            (_budget_key(budget), (charged_at_ms, budget.window_ms, difference, _kept_ms(budget)))
            for budget, difference in differences
            if difference
        ]
        self._run_many(self._adjust_script, calls)

    def script(self, source: str) -> Callable[[Sequence[str], Sequence[object]], Any]:
        """A script of another module, to be called with its keys and arguments; a full Redis refuses it."""
        registered = self._redis.register_script(_GROWING + source)
        return lambda keys, arguments: self._call(lambda: registered(keys=keys, args=arguments))

    def revoke_token(self, token_id: str, *, now_ms: int, ends_at_ms: int) -> None:
        """Remember that a token of the Python API is revoked, until it would have ended anyway."""
        self._call(lambda: self._revoke_script(keys=[_REVOKED], args=[now_ms, token_id, ends_at_ms]))

    def is_token_revoked(self, token_id: str) -> bool:
        """Whether `revoke_token` was called for it; an earlier version wrote a key for each."""
        is_noted = self._call(lambda: self._redis.zscore(_REVOKED, token_id)) is not None
        return is_noted or bool(self._call(lambda: self._redis.exists(f"{_REVOKED}:{token_id}")))

    # --- The store's own time and history, for store_clock.py ---

    def is_adopted(self) -> bool:
        """Whether what an earlier version left was taken over, for good (store_upgrade.py)."""
        return self._call(lambda: self._redis.hget(_RECORD, "adopted")) is not None

    def note_adopted(self) -> None:
        """From now on it is."""
        self._call(lambda: self._redis.hset(_RECORD, "adopted", "1"))

    def tick(self, *arguments: str | int) -> tuple[int, str, int, int, str]:
        """One step of the store's time: time (ms), id, epoch, mark, finding. arguments: those of lua/tick.lua."""
        answer = self._call(lambda: self._tick_script(keys=[_RECORD], args=list(arguments)))
        match answer:
            case [int(at_ms), str(store_id), int(epoch), int(mark), str(finding)]:
                return at_ms, store_id, epoch, mark, finding
        raise _unsound("tick")

    def hashes(self, kind: str) -> Iterator[tuple[str, str, dict[str, str]]]:
        """User's key, what follows `kind` in the key, and fields, of each `recovery` or `challenge:` there is."""
        for key in self._keys(f"textgate:{{*}}:{kind}*"):
            user_key, _, rest = key.removeprefix("textgate:{").partition("}:")
            found = self._call(functools.partial(self._redis.hgetall, key))
            yield user_key, rest.removeprefix(kind), dict(found)

    def adopt(self, user_key: str, name: str, *, unchanged: tuple[str, str], written: tuple[str, str]) -> bool:
        """Write a field of a user's hash if another field still holds what it held; False if it doesn't."""
        key = f"textgate:{{{user_key}}}:{name}"
        return bool(self._call(lambda: self._adopt_script(keys=[key], args=[*unchanged, *written])))

    def health(self) -> StoreHealth:
        """Whether Redis answers and keeps what it is told. Raises StoreUnavailable if it doesn't answer."""
        info: Mapping[str, Any] = self._call(self._redis.info)
        return StoreHealth(
            version=printable(str(info.get("valkey_version") or info.get("redis_version", "")), most=64),
            is_durable=bool(info.get("aof_enabled")) and info.get("aof_last_write_status") == "ok",
            used_memory_bytes=int(info.get("used_memory", 0)),
        )

    def close(self) -> None:
        """Close the connections of the pool."""
        self._redis.connection_pool.disconnect()

    @staticmethod
    def _ended(script: str, answer: Any) -> Taken:
        match answer:
            case ["locked", int(until_ms), str(row)]:
                return Taken(CheckState.LOCKED, until_ms=until_ms, row=row)
            case ["pass" | "used" | "wrong" as state]:
                return Taken(CheckState(state))
        raise _unsound(script)

    def _run(self, script: str, user_key: str, session_id: str, arguments: Mapping[str, object]) -> Any:
        keys = _user_keys(user_key, session_id, str(arguments["source"]))
        return self._call(lambda: self._scripts[script](keys=keys, args=[json.dumps(arguments)]))

    def _run_many(self, script: Any, calls: Sequence[tuple[str, tuple[object, ...]]]) -> list[Any]:
        """One script once for each key, all in one round trip; their answers in order.

        Not the client's own way, which asks before each pipeline whether Redis has the script.
        """
        answers: list[Any] = self._call(lambda: self._pipelined(script, calls))
        missed = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missed:  # none of these has run
            self._call(lambda: self._redis.script_load(script.script))
            again = self._call(lambda: self._pipelined(script, [calls[number] for number in missed]))
            for number, answer in zip(missed, again, strict=True):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise StoreUnavailable(f"redis: {type(answer).__name__}")
        return answers

    def _pipelined(self, script: Any, calls: Sequence[tuple[str, tuple[object, ...]]]) -> list[Any]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key, arguments in calls:
                pipeline.evalsha(script.sha, 1, key, *arguments)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            return answers

    @staticmethod
    def _call(action: Any) -> Any:
        try:
            return action()
        except (redis.RedisError, OSError, UnicodeDecodeError) as error:
            # The class alone: messages of Redis can quote arguments.
            raise StoreUnavailable(f"redis: {type(error).__name__}", is_absent=_is_absent(error)) from None


def _nameless() -> dict[str, None]:
    """What keeps redis-py, from 5.0 on, from telling its name when it connects: a line in ACL LOG each time."""
    kind: Any = getattr(redis.connection, "AbstractConnection", redis.connection.Connection)
    known = inspect.signature(kind.__init__).parameters
    if "driver_info" in known and known["driver_info"].default is not None:  # 8: the other two are about to go
        return {"driver_info": None}
    return {name: None for name in ("lib_name", "lib_version") if name in known}


def _is_absent(error: Exception) -> bool:
    """Whether nobody took the connection. redis-py has a class for it that says many other things as well: a pool
    that is used up, too many clients, a password; and its word for a host that did not answer is the message."""
    if type(error) is redis.TimeoutError:
        return str(error) == "Timeout connecting to server"
    return type(error) is redis.ConnectionError and is_absence(error.__cause__ or error.__context__)


# First lines of scripts (Redis 7). Without one, a full Redis would refuse no script whose first write frees memory.
# What begins something new is refused then; what ends a login under way is not, for it adds next to nothing.
_GROWING, _BOUNDED = "#!lua\n", "#!lua flags=allow-oom\n"
_SCRIPTS = {
    "begin": _GROWING,
    "settle_send": _BOUNDED,
    "take_try": _BOUNDED,
    "consume": _BOUNDED,
    "confirm_wrong": _BOUNDED,
    "take_recovery": _BOUNDED,
}


_RECORD, _REVOKED = "textgate:store", "textgate:revoked"
_DAY_MS = 86_400_000
_KEPT_LONG_MS = 400 * _DAY_MS  # as TTL_MS in lua/prelude.lua: no jump of a clock by less than that forgets a budget


def _kept_ms(budget: Budget) -> int:
    """How long Redis keeps a budget. Of addresses there may be very many, so theirs are cleaned up soon."""
    return 2 * budget.window_ms + (2 * _DAY_MS if budget.scope is Scope.SOURCE else _KEPT_LONG_MS)


def _unsound(script: str) -> StoreUnsound:
    return StoreUnsound(f"the store's {script} script gave an unknown answer")


def _source(name: str) -> str:
    return (files(__package__) / "lua" / f"{name}.lua").read_text()


def _budget_key(budget: Budget) -> str:
    return f"textgate:budget:{budget.scope.value}:{{{encode_user(budget.subject)}}}"


def _user_keys(user_key: str, session_id: str, source: str = "") -> list[str]:
    """The keys of a user in the order in which lua/prelude.lua names them. source: where the login comes from."""
    kept = f"textgate:{{{user_key}}}"
    return [
        f"{kept}:hotp",
        f"{kept}:challenge:{session_id}",
        f"{kept}:known",
        f"{kept}:recovery",
        f"{kept}:wrong",
        f"{kept}:unanswered",
        *(f"{kept}:{place}:{kind}" for place in (f"at:{source or 'here'}", "strangers") for kind in _COUNTED),
    ]


_COUNTED = ("guard", "wrong", "unanswered")  # of each place
_KNOWN_KEY, _RECOVERY_KEY, _FIRST_COUNTED_KEY = 2, 3, 4  # places in the list above
