# SPDX-License-Identifier: MIT
"""The admin socket: one JSON object a line in, one out. PROTOCOL.md describes each verb.

`VERBS` says for each verb who may call it and what does it. The socket's mode lets root and the admin group
connect; what spends money or changes who gets in is root's alone. How often the others may call is in
`admin_limits`, and `admin_desk` has the connections.
"""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import __version__, codes
from .admin_limits import AdminLimits
from .audit import Audit, Event, Priority
from .audit_digest import Digest
from .counts import Counts
from .credit_cache import CreditCache
from .errors import MsisdnError, ProtocolError, RefusedError, StoreUnavailable, TextgateError, ThrottledError
from .gateway_outcomes import Outcome, SendReason
from .msisdn import parse_msisdn
from .peercred import PeerCred
from .protocol import Why, Word
from .secret import Secret
from .verifier import Attempt, note_send, reseal_secrets, user_key
from .wiring import Services

VERSION = 1
LINE_MAX_BYTES = 16384
USER_MAX_LENGTH = 256
SERVICE = "textgate-enrol"
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can write halves of characters, which nothing behind this can
TEST_TEXT = "This is a test of login codes on {host}. Nothing is to be done."


@dataclass(frozen=True)
class Daemon:
    """What the verbs see of the daemon. reload raises TextgateError for files at fault, and then nothing changes.

    digest: where what can be repeated at will is told; what changes something goes to `audit` itself.
    """

    services: Callable[[], Services]
    counts: Counts
    audit: Audit
    digest: Digest
    reload: Callable[[], None]
    limits: AdminLimits = field(default_factory=AdminLimits)
    credit: CreditCache = field(default_factory=CreditCache)


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
    is_instant: it looks at nothing outside, so it needs no worker and waits for none.
    """

    handler: Callable[[Call], dict[str, Any]]
    arguments: frozenset[str]
    is_root_only: bool
    done: str | None = "verb done"
    priority: Priority = Priority.INFO
    is_instant: bool = False


def answer(untrusted_line: bytes, peer: PeerCred, daemon: Daemon) -> tuple[dict[str, Any], bool]:
    """The answer to one line, and whether the connection may go on."""
    word: str | None = None
    try:
        daemon.limits.take_request(peer.uid)
        word, arguments = parse_line(untrusted_line)
        verb = VERBS[word]
        if peer.uid != 0 and (verb.is_root_only or "fresh" in arguments):
            daemon.digest.event(
                Event.ADMIN, "verb refused", priority=Priority.WARNING, verb=word, uid=peer.uid, reason="not_root"
            )
            what = word if verb.is_root_only else "--fresh"
            return _error("forbidden", f"{what} is for root", "run it with sudo"), True
        result = verb.handler(Call(arguments, peer, daemon))
    except ProtocolError as error:
        daemon.digest.event(
            Event.PROTOCOL, "admin request refused", priority=Priority.WARNING, uid=peer.uid, reason=error.reason
        )
        return _error("protocol", error.message, "is textgate of the same version as textgated?"), False
    except TextgateError as error:
        kind = _KINDS.get(type(error), "failed")
        daemon.digest.event(
            Event.ADMIN, "verb not done", priority=Priority.NOTICE,
            verb=word, uid=peer.uid, result="refused", reason=kind,
        )  # fmt: skip
        return error_answer(error), word is not None
    if verb.done is not None:
        changed = {name: result[name] for name in _NOTED if name in result}
        daemon.audit.event(
            Event.ADMIN, verb.done, priority=verb.priority, verb=word, uid=peer.uid, result="ok", **changed
        )
    return {"ok": True, "result": result}, True


def is_instant(untrusted_line: bytes) -> bool:
    """Whether a line asks for something that takes no time and waits for nothing outside."""
    try:
        return VERBS[parse_line(untrusted_line)[0]].is_instant
    except ProtocolError:
        return False


_NOTED = ("user", "resealed", "current", "changed", "unreadable")  # of a result, for the journal
_KINDS = {RefusedError: "refused", MsisdnError: "usage", StoreUnavailable: "store_away", ThrottledError: "throttled"}


def error_answer(error: TextgateError) -> dict[str, Any]:
    """What the peer is told of an error; `throttled` with how many seconds to wait."""
    answer = _error(_KINDS.get(type(error), "failed"), error.message, error.hint)
    if isinstance(error, ThrottledError):
        answer["error"]["wait_s"] = math.ceil(error.wait_s)
    return answer


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
    seen = call.services.history.seen
    noticed = {"noticed": seen.noticed or None, "noticed_at": seen.noticed_at_s or None}
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
    store |= noticed
    # `fresh` is root's; whatever else stands there asks for nothing.
    credit, age_s = call.daemon.credit.read(call.services.gateway, is_fresh=call.arguments.get("fresh") is True)
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
            "credit_age_s": round(age_s),
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
    """End a user's lockouts and forget what was counted against them; but what counts for the day only for root.

    Otherwise a member of the group who has the first factor as well would have a day's guesses with each unlock.
    """
    user, is_root = _known_user(call), call.peer.uid == 0
    call.daemon.limits.take_unlock(call.peer.uid, user)
    call.services.store.unlock(user_key(user), is_day_forgotten=is_root)
    return {"user": user, "is_day_forgotten": is_root}


def _recovery(call: Call) -> dict[str, Any]:
    """Make new recovery codes for a user; the former ones are void. They are shown this once and kept as hashes."""
    verifier = call.services.verifier
    user = _known_user(call)
    fresh = [codes.new_recovery_code() for _ in range(codes.RECOVERY_COUNT)]
    verifier.new_recovery(user_key(user), fresh)
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
    "status": AdminVerb(_status, frozenset({"fresh"}), is_root_only=False, done=None),
    "unlock": AdminVerb(
        _unlock, frozenset({"user"}), is_root_only=False, done="user unlocked", priority=Priority.NOTICE
    ),
    "last-pass": AdminVerb(_last_pass, frozenset({"service"}), is_root_only=True, done=None, is_instant=True),
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
