# SPDX-License-Identifier: MIT
"""The admin socket: one JSON object a line in, one out. PROTOCOL.md describes each verb.

`VERBS` says for each verb who may call it and what does it. The socket's mode lets root and the admin group
connect; what spends money or changes who gets in is root's alone.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import __version__, codes
from .audit import Audit, Event, Priority
from .errors import MsisdnError, ProtocolError, RefusedError, StoreUnavailable, TextgateError
from .gateway_outcomes import Outcome, SendReason
from .msisdn import parse_msisdn
from .peercred import PeerCred, peer_credentials
from .protocol import Why, Word
from .secret import Secret
from .verifier import Attempt, note_send, reseal_secrets, user_key
from .wiring import Services

VERSION = 1
LINE_MAX_BYTES = 16384
IDLE_TIMEOUT_S = 10.0  # a command sends its requests at once; a person thinks in the command, not on the socket
REQUESTS_MAX = 100  # on one connection
USER_MAX_LENGTH = 256
SERVICE = "textgate-enrol"
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can write halves of characters, which nothing behind this can
TEST_TEXT = "This is a test of login codes on {host}. Nothing is to be done."


class Counts:
    """How often what happened since the start. Thread-safe."""

    def __init__(self) -> None:
        self._counter: Counter[str] = Counter()
        self._passed_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self.started_at = time.time()

    def add(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counter[name] += 1

    def note_pass(self, service: str) -> None:
        """Remember that a right code was given in a PAM service just now."""
        with self._lock:
            self._passed_at[service] = time.time()

    def passed_at(self, service: str) -> float | None:
        """Unix time of the last right code in a service since the start; None if there was none."""
        with self._lock:
            return self._passed_at.get(service)

    def read(self) -> dict[str, int]:
        """All counts, by name."""
        with self._lock:
            return dict(sorted(self._counter.items()))


@dataclass(frozen=True)
class Daemon:
    """What the verbs see of the daemon. reload raises TextgateError for files at fault, and then nothing changes."""

    services: Callable[[], Services]
    counts: Counts
    audit: Audit
    reload: Callable[[], None]


@dataclass(frozen=True)
class Call:
    """One request, its peer, and what its handler may use."""

    arguments: Mapping[str, Any]
    peer: PeerCred
    daemon: Daemon

    @property
    def services(self) -> Services:
        """The parts as they are now; a verb that reloads sees the new ones afterwards."""
        return self.daemon.services()

    @property
    def audit(self) -> Audit:
        """Where events go."""
        return self.daemon.audit

    def text(self, name: str, longest: int) -> str:
        """A string argument. Raises ProtocolError when it is missing, no text, empty, or longer than `longest`."""
        value = self.arguments.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= longest or _SURROGATE.search(value):
            raise ProtocolError(f"argument_{name}")
        return value


@dataclass(frozen=True)
class AdminVerb:
    """A verb: its handler, its arguments, whether only root may call it, what the journal says of it afterwards.

    done: None for those that only look, and are called over and over by monitoring and by a try's timer.
    """

    handler: Callable[[Call], dict[str, Any]]
    arguments: frozenset[str]
    is_root_only: bool
    done: str | None = "verb done"
    priority: Priority = Priority.INFO


def serve(connection: socket.socket, daemon: Daemon) -> None:
    """Answer the requests of one connection until it is closed, idle for too long, or breaks a rule."""
    peer = peer_credentials(connection)
    connection.settimeout(IDLE_TIMEOUT_S)
    with connection.makefile("rb") as lines:
        for _ in range(REQUESTS_MAX):
            try:
                line = lines.readline(LINE_MAX_BYTES + 1)
            except OSError:
                return
            if not line:
                return
            answer, is_usable = _answer(line, peer, daemon)
            try:
                connection.sendall(json.dumps({"v": VERSION} | answer).encode() + b"\n")
            except OSError:
                return
            if not is_usable:
                return


def _answer(untrusted_line: bytes, peer: PeerCred, daemon: Daemon) -> tuple[dict[str, Any], bool]:
    """The answer to one line, and whether the connection may go on."""
    audit = daemon.audit
    try:
        word, arguments = parse_line(untrusted_line)
        verb = VERBS[word]
        if verb.is_root_only and peer.uid != 0:
            audit.event(
                Event.ADMIN, "verb refused", priority=Priority.WARNING, verb=word, uid=peer.uid, reason="not_root"
            )
            return _error("forbidden", f"{word} is for root", "run it with sudo"), True
        result = verb.handler(Call(arguments, peer, daemon))
    except ProtocolError as error:
        audit.event(
            Event.PROTOCOL, "admin request refused", priority=Priority.WARNING, uid=peer.uid, reason=error.reason
        )
        return _error("protocol", error.message, "is textgate of the same version as textgated?"), False
    except TextgateError as error:
        kind = _KINDS.get(type(error), "failed")
        audit.event(
            Event.ADMIN, "verb not done", priority=Priority.NOTICE,
            verb=word, uid=peer.uid, result="refused", reason=kind,
        )  # fmt: skip
        return _error(kind, error.message, error.hint), True
    if verb.done is not None:
        changed = {name: result[name] for name in _NOTED if name in result}
        audit.event(Event.ADMIN, verb.done, priority=verb.priority, verb=word, uid=peer.uid, result="ok", **changed)
    return {"ok": True, "result": result}, True


_NOTED = ("user", "resealed", "current", "changed", "unreadable")  # of a result, for the journal
_KINDS = {RefusedError: "refused", MsisdnError: "usage", StoreUnavailable: "store_away"}


def _error(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"ok": False, "error": {"kind": kind, "message": message, "hint": hint}}


def parse_line(untrusted_line: bytes) -> tuple[str, Mapping[str, Any]]:
    """One line -> verb and arguments.

    Raises ProtocolError: too_long, not_json, version, verb, arguments (an unknown one).
    """
    if len(untrusted_line) > LINE_MAX_BYTES or not untrusted_line.endswith(b"\n"):
        raise ProtocolError("too_long")
    try:
        request = json.loads(untrusted_line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ProtocolError("not_json") from None
    if not isinstance(request, dict) or request.pop("v", None) != VERSION:
        raise ProtocolError("version")
    word = request.pop("verb", None)
    if not isinstance(word, str) or word not in VERBS:
        raise ProtocolError("verb")
    if not set(request) <= VERBS[word].arguments:
        raise ProtocolError("arguments")
    return word, request


# --- The verbs ---


def _status(call: Call) -> dict[str, Any]:
    """What the daemon is doing and whether its parts answer."""
    store: dict[str, Any]
    try:
        health = call.services.store.health()
        store = {
            "is_up": True,
            "version": health.version,
            "is_durable": health.is_durable,
            "used_memory_bytes": health.used_memory_bytes,
        }
    except StoreUnavailable as error:
        store = {"is_up": False, "error": error.message}
    credit = call.services.gateway.credit()
    return {
        "version": __version__,
        "started_at": round(call.daemon.counts.started_at),
        "config": call.services.config.path,
        "counts": call.daemon.counts.read(),
        "store": store,
        "gateway": {
            # None where the account can't be asked.
            "is_up": None if credit.reason is SendReason.UNSUPPORTED else credit.amount is not None,
            "reason": credit.reason.value,
            "credit": None if credit.amount is None else str(credit.amount),
            "currency": credit.currency,
            "clock_skew_s": credit.clock_skew_s,
        },
    }


def _send_test(call: Call) -> dict[str, Any]:
    """Text a sentence without a code and say how the gateway took it."""
    services = call.services
    phone = parse_msisdn(call.text("number", 64), services.config.phones.default_region)
    _require_country(services, phone)
    text = TEST_TEXT.format(host=socket.gethostname().partition(".")[0][:40])
    result = services.gateway.send(
        phone.reveal(), Secret(text), validity_s=services.config.codes.life_s, userref=codes.new_id()
    )
    note_send(call.audit, result, user=None, service="send-test", phone=phone)
    if result.outcome is Outcome.REFUSED:
        code = f" {result.code}" if result.code else ""
        raise RefusedError(f"the gateway did not send it: {result.reason.value}{code}", hint="see: textgate status")
    return {
        "outcome": result.outcome.value,
        "reason": result.reason.value,
        "message_ids": list(result.message_ids),
        "phone": phone.masked,
        "cost": None if result.cost is None else str(result.cost),
        "currency": result.currency,
        "duration_ms": round(result.duration_s * 1000),
        "is_known_number": phone.is_known,
    }


def _prove_begin(call: Call) -> dict[str, Any]:
    """Text a code to a number that is to become a user's. Goes through the limits of a login."""
    session_id = codes.new_id()
    attempt, is_known = _proving(call, session_id)
    reply = call.services.verifier.begin_attempt(attempt)
    if reply.word is not Word.ASK or reply.why is Why.THROTTLED:
        raise RefusedError(reply.text.rstrip("."), hint="see: textgate status")
    return {
        "session_id": session_id,
        "user": attempt.user,
        "text": reply.text,
        "phone": str(attempt.phone),
        "is_known_number": is_known,
    }


def _prove_check(call: Call) -> dict[str, Any]:
    """Check the code that `prove-begin` texted. is_proved false: wrong, and `text` says what to do."""
    attempt, _ = _proving(call, call.text("session_id", 64))
    reply = call.services.verifier.check_attempt(attempt, Secret(call.text("code", 512)))
    return {"is_proved": reply.word is Word.PASS, "text": reply.text}


def _proving(call: Call, session_id: str) -> tuple[Attempt, bool]:
    """The attempt that proves a number, of a user who exists; and whether the number is of a known range."""
    services = call.services
    user = _known_user(call)
    phone = parse_msisdn(call.text("number", 64), services.config.phones.default_region)
    _require_country(services, phone)
    attempt = Attempt(
        user=user,
        user_key=user_key(user),
        session_id=f"prove-{session_id}",
        service=SERVICE,
        source=None,
        phone=phone,
        reason="enrolment",
        has_failmode=False,
    )
    return attempt, phone.is_known


def _require_country(services: Services, phone: Any) -> None:
    if not services.verifier.is_allowed_country(phone):
        raise RefusedError(
            f"texts to {phone.country} are not allowed", hint="add it to [limits] allowed_countries and reload"
        )


def _unlock(call: Call) -> dict[str, Any]:
    """End a user's lockout and forget what was counted against him."""
    user = _known_user(call)
    call.services.store.unlock(user_key(user))
    return {"user": user}


def _recovery(call: Call) -> dict[str, Any]:
    """Make new recovery codes for a user; the former ones are void. They are shown this once and kept as hashes."""
    verifier = call.services.verifier
    user = _known_user(call)
    fresh = [codes.new_recovery_code() for _ in range(codes.RECOVERY_COUNT)]
    tags = [verifier.recovery_tags(user_key(user), codes.normalise(code.reveal()))[0] for code in fresh]
    call.services.store.set_recovery(user_key(user), tags, now_ms=time.time_ns() // 1_000_000)
    return {"user": user, "codes": [code.reveal() for code in fresh]}


def _reload(call: Call) -> dict[str, Any]:
    """Read configuration, credentials and phones again, as SIGHUP does; but a fault is told to the caller."""
    call.daemon.reload()
    return {"current_key": call.services.vault.current_key}


def _reseal(call: Call) -> dict[str, Any]:
    """Seal every user's secret with today's key. Those that don't open are left as they are, and counted."""
    services = call.services
    counted = reseal_secrets(services.store, services.vault)
    counts = {name: counted[name] for name in ("resealed", "current", "changed", "unreadable")}
    return {"current_key": services.vault.current_key} | counts


def _forget(call: Call) -> dict[str, Any]:
    """Let go of a user's secret, such as one whose key is lost: the next text makes a new one."""
    user = _known_user(call)
    call.services.store.forget_secret(user_key(user))
    return {"user": user}


def _known_user(call: Call) -> str:
    """The canonical name of the argument `user`. Raises RefusedError for one that NSS doesn't know."""
    user = call.services.verifier.canonical_user(call.text("user", USER_MAX_LENGTH))
    if user is None:
        raise RefusedError("no such user on this machine", hint="see: getent passwd")
    return user


def _last_pass(call: Call) -> dict[str, Any]:
    """When the last right code was given in a PAM service, since the daemon's start."""
    return {"at": call.daemon.counts.passed_at(call.text("service", USER_MAX_LENGTH))}


VERBS: Mapping[str, AdminVerb] = {
    "status": AdminVerb(_status, frozenset(), is_root_only=False, done=None),
    "unlock": AdminVerb(
        _unlock, frozenset({"user"}), is_root_only=False, done="user unlocked", priority=Priority.NOTICE
    ),
    "last-pass": AdminVerb(_last_pass, frozenset({"service"}), is_root_only=True, done=None),
    "recovery": AdminVerb(
        _recovery, frozenset({"user"}), is_root_only=True, done="recovery codes made", priority=Priority.NOTICE
    ),
    "reload": AdminVerb(_reload, frozenset(), is_root_only=True),
    "forget": AdminVerb(
        _forget, frozenset({"user"}), is_root_only=True, done="secret forgotten", priority=Priority.NOTICE
    ),
    "reseal": AdminVerb(
        _reseal, frozenset(), is_root_only=True, done="secrets sealed anew", priority=Priority.NOTICE
    ),
    "send-test": AdminVerb(_send_test, frozenset({"number"}), is_root_only=True),
    "prove-begin": AdminVerb(_prove_begin, frozenset({"user", "number"}), is_root_only=True),
    "prove-check": AdminVerb(_prove_check, frozenset({"user", "number", "session_id", "code"}), is_root_only=True),
}
