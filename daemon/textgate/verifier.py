# SPDX-License-Identifier: MIT
"""The two steps of a login, `begin` and `check`: read, decide, act, in that order.

"No" is the starting value. PASS is returned in two places (`_compare`, `_recover`), SKIP in one (`_begin`), plus the
failmode, which is one function (`_fail_open`). Users who can't pass (unknown, refused, without a phone) go through
the same steps with the same words at the same pace as everybody, but nothing is sent to them and no code is right.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import Protocol

from . import codes, sms, texts
from .audit import Audit, Event, Priority
from .away import AWAY_STATES
from .config import Config
from .decoys import decoy_key
from .errors import DirectoryError, StoreUnavailable, StoreUnsound, TextgateError, VaultError
from .gateway_outcomes import Outcome, SendReason, SendResult
from .limits import Address, Budget, Rules, Scope, budgets, build_rules, micros, source_key
from .msisdn import Msisdn
from .pace import Pace
from .policy import Account, Decision, FailKind, Verdict, apply_failmode, decide
from .proofs import Bound, Proofs
from .protocol import Reply, Why, Word
from .secret import Secret
from .session import Session
from .spent import Spent
from .store import BeginState, Begun, CheckState, Proposal, Store, Taken, encode_user
from .store_clock import StoreClock
from .vault import Vault

SECRET_PURPOSE = "hotp-secret"  # noqa: S105  # names a purpose
PHONE_PURPOSE = "phone"
BUDGET_PURPOSE = "budget"
RECOVERY_PURPOSE = "recovery"
SOURCE_PURPOSE = "source"
NO_PHONE = "none"  # what the phone tag of somebody without a number is made of
_PROPOSALS_MOST = 20  # of a counter, while logins of the same user take theirs at the same moment
NEVER_SENT = "refused:store"  # how a text ended that was never handed to the gateway; none of AWAY_STATES

# What gets the reply of a step that may have to wait.
Later = Callable[[Reply], None]
# Such a step: gives its reply, or None if it is going to call with it.
Step = Callable[[Later], Reply | None]


class Clock(Protocol):
    """The time, injected so that tests can move it."""

    def now_ms(self) -> int:
        """The store's time in ms, which never goes back and no jump of a clock moves. Raises StoreUnavailable."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by this machine's clock, which may jump."""


class History(Protocol):
    """Whether the store is still the one that was left."""

    def epoch(self) -> int:
        """Its epoch, as it was last seen. Raises StoreUnavailable."""

    def confirm(self) -> int:
        """Its epoch, looked at now. Raises StoreUnavailable."""

    def use_recovery(self, tag: str) -> bool:
        """Use a recovery code up on this host. True for the first time."""


class Accounts(Protocol):
    """Who exists on this machine."""

    def lookup(self, user: str) -> Account | None:
        """The account, or None for an unknown user. Raises TextgateError if that can't be told."""


class Directory(Protocol):
    """Whose phone has which number."""

    def lookup(self, user: str) -> Msisdn | None:
        """The number, or None. Raises DirectoryError if the directory can't be read."""


class Alarm(Protocol):
    """Calls back after a time."""

    def after(self, wait_s: float, job: Callable[[], None]) -> None:
        """Run a short job in wait_s seconds, on a thread of its own."""


class Gateway(Protocol):
    """Sends texts."""

    def send(self, msisdn: str, text: Secret, *, validity_s: int, userref: str) -> SendResult:
        """Send one text and say what became of it; never raises for a fault outside."""


class Sender(Protocol):
    """Runs the sending of texts beside the logins."""

    def submit(self, job: Callable[[], SendResult]) -> Future[SendResult] | None:
        """Start a job; None when too many are waiting."""


@dataclass(frozen=True)
class Attempt:
    """One login as the steps need it. `phone` is set exactly when this login may end in PASS.

    user: the name for the journal, None for one that NSS doesn't know. reason: why, in a fixed word.
    """

    user: str | None
    user_key: str
    session_id: str
    service: str
    source: Address | None
    phone: Msisdn | None
    reason: str
    may_recover: bool = False  # whether a recovery code lets in; it needs no phone
    has_failmode: bool = True  # whether [failmode] may speak

    @property
    def may_pass(self) -> bool:
        """Whether a right code lets in."""
        return self.phone is not None


@dataclass(frozen=True)
class Payment:
    """What one text took from the shared budgets, and when."""

    budgets: tuple[Budget, ...]
    charged_at_ms: int


class Unsent:
    """Challenges that the store may have and whose text never goes out: the store went away before it was paid for.

    They wait here until the store can be told. What is lost with the daemon costs no more than the right words later.
    """

    MOST = 1000  # the oldest go first

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, str, str]] = {}  # by challenge: user's key, session, source
        self._lock = threading.Lock()

    def add(self, challenge_id: str, attempt: Attempt) -> None:
        """Remember one. From here on nothing may send its text."""
        with self._lock:
            self._kept[challenge_id] = (attempt.user_key, attempt.session_id, source_key(attempt.source))
            while len(self._kept) > self.MOST:
                del self._kept[next(iter(self._kept))]

    def of_user(self, user_key: str) -> list[tuple[str, str, str]]:
        """A user's, in every session: challenge, session, source."""
        with self._lock:
            kept = [(challenge_id, *whose) for challenge_id, whose in self._kept.items()]
        return [
            (challenge_id, session_id, source) for challenge_id, key, session_id, source in kept if key == user_key
        ]

    def forget(self, challenge_id: str) -> None:
        """The store knows of it."""
        with self._lock:
            self._kept.pop(challenge_id, None)


class Verifier:
    """The core that PAM and the commands share. Thread-safe: what changes is in the store."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        gateway: Gateway,
        sender: Sender,
        directory: Directory,
        accounts: Accounts,
        vault: Vault,
        audit: Audit,
        host: str,
        clock: Clock,
        alarm: Alarm,
        pace: Pace | None = None,
        unsent: Unsent | None = None,
        history: History | None = None,
        spent: Spent | None = None,
        pause: Callable[[float], object] = time.sleep,
        is_store_away: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_store_away: the word of who watches Redis; without one no fault of the store lets anybody in."""
        self._config = config
        self._rules: Rules = build_rules(config.codes, config.limits)
        self._store = store
        self._gateway = gateway
        self._sender = sender
        self._directory = directory
        self._accounts = accounts
        self._vault = vault
        self._audit = audit
        self._host = host
        self._clock = clock
        self._alarm = alarm
        self._pace = pace or Pace()
        self._unsent = unsent or Unsent()
        self._proofs = Proofs(vault)
        self._history = history or StoreClock(store, audit)
        self._spent = spent or Spent()
        self._pause = pause
        self._is_store_away = is_store_away

    # --- The two steps ---

    def begin(self, session: Session) -> Reply:
        """First step: SKIP if no code is needed, ASK with a text on its way, or DENY."""
        return _waited(lambda later: self._begin(session, later))

    def begin_later(self, session: Session, later: Later) -> None:
        """As `begin`, but calls `later` with the reply, once, on whichever thread has it; nobody waits for that.

        Raises what keeps it from a reply, and then does not call.
        """
        _deliver(lambda later: self._begin(session, later), later)

    def check(self, session: Session, untrusted_code: Secret) -> Reply:
        """Second step: PASS for the right code of this very session, else DENY. Every rule is looked at again."""
        return self.check_attempt(self._resolve_check(session, untrusted_code), untrusted_code)

    def check_later(self, session: Session, untrusted_code: Secret, later: Later) -> None:
        """As `check`, in the manner of `begin_later`."""
        attempt = self._resolve_check(session, untrusted_code)
        _deliver(lambda later: self._check(attempt, untrusted_code, later), later)

    def begin_attempt(self, attempt: Attempt) -> Reply:
        """Open a challenge for an attempt whose rules were looked at, and text its code."""
        return _waited(lambda later: self._open_and_text(attempt, later))

    def check_attempt(self, attempt: Attempt, untrusted_code: Secret) -> Reply:
        """Compare a code for an attempt; an empty one asks for a new text."""
        return _waited(lambda later: self._check(attempt, untrusted_code, later))

    # In what follows a reply of None means that `later` will be called with it.

    def _begin(self, session: Session, later: Later) -> Reply | None:
        account, verdict = self._judge(session)
        if verdict.decision is Decision.SKIP:
            # Before the phones are looked at: who needs no code gets in while they can't be read.
            attempt = self._attempt(session, account, verdict, None)
            self._note(Event.BEGIN, "login without a code", attempt, result="skip", reason=verdict.reason)
            return Reply(Word.SKIP, why=Why.NO_CODE_NEEDED)
        return self._open_and_text(self._with_phone(session, account, verdict), later)

    def _open_and_text(self, attempt: Attempt, later: Later) -> Reply | None:
        try:
            begun = self._open(attempt, is_anew=False)
            if begun.state is BeginState.NEW:
                return self._text(attempt, begun, later, is_anew=False)
        except StoreUnsound as error:
            return self._unsound(attempt, error)
        except StoreUnavailable as error:
            return self._store_failed(attempt, Word.SKIP, error)
        if begun.state is BeginState.LIVE:
            self._note(Event.BEGIN, "login goes on with its live code", attempt, result="ask", reason="live")
            return Reply(Word.ASK, texts.STILL_GOOD, Why.CODE_LIVE)
        return self._not_opened(attempt, begun)

    def _check(self, attempt: Attempt, untrusted_code: Secret, later: Later) -> Reply | None:
        typed = codes.normalise(untrusted_code.reveal())
        try:
            if not typed.reveal():
                return self._anew(attempt, later)
            if codes.is_recovery_form(typed):
                return self._recover(attempt, typed)
            return self._take_and_compare(attempt, typed)
        except StoreUnsound as error:
            return self._unsound(attempt, error)
        except StoreUnavailable as error:
            return self._store_failed(attempt, Word.PASS, error)

    # --- Who is it ---

    def resolve(self, session: Session) -> Attempt:
        """Rules and phone of a session. Raises AccountsError or DirectoryError where they can't be read: a denial."""
        account, verdict = self._judge(session)
        return self._with_phone(session, account, verdict)

    def _resolve_check(self, session: Session, untrusted_code: Secret) -> Attempt:
        """As `resolve`; but a recovery code needs no phone, so it does its work while they can't be read as well."""
        account, verdict = self._judge(session)
        try:
            return self._with_phone(session, account, verdict)
        except DirectoryError:
            if not codes.is_recovery_form(codes.normalise(untrusted_code.reveal())):
                raise
            return self._attempt(session, account, verdict, None, reason="phones_away")

    def _judge(self, session: Session) -> tuple[Account | None, Verdict]:
        account = self._accounts.lookup(session.user)
        return account, decide(session, account, self._config)

    def _with_phone(self, session: Session, account: Account | None, verdict: Verdict) -> Attempt:
        """The attempt of a login that must give a code."""
        # Looked up for all of them, so that a broken directory shows alike for known and unknown users.
        phone = self._directory.lookup(account.name if account else "")
        if verdict.decision is Decision.REFUSE:
            return self._attempt(session, account, verdict, None)
        if phone is None:
            return self._attempt(session, account, verdict, None, reason="no_phone")
        if not self.is_allowed_country(phone):
            return self._attempt(session, account, verdict, None, reason="country_not_allowed")
        return self._attempt(session, account, verdict, phone)

    def _attempt(
        self,
        session: Session,
        account: Account | None,
        verdict: Verdict,
        phone: Msisdn | None,
        *,
        reason: str | None = None,
    ) -> Attempt:
        """The values of a session as the steps need them. reason: in place of the verdict's."""
        user = account.name if account else None
        return Attempt(
            user=user,
            user_key=user_key(user) if user else decoy_key(session.user, self._vault),
            session_id=session.session_id,
            service=session.service,
            source=session.source,
            phone=phone,
            reason=reason or verdict.reason,
            may_recover=verdict.decision is not Decision.REFUSE,
        )

    def canonical_user(self, untrusted_user: str) -> str | None:
        """The name under which NSS knows a user, or None."""
        account = self._accounts.lookup(untrusted_user)
        return account.name if account else None

    def is_allowed_country(self, phone: Msisdn) -> bool:
        """Whether texts may go to the phone's country."""
        return self._config.limits.allows(phone.country)

    # --- Opening a challenge ---

    def _open(self, attempt: Attempt, *, is_anew: bool) -> Begun:
        """The store's begin, with a secret made on demand."""
        self._give_back_unsent(attempt)
        challenge_id, tags = codes.new_id(), self._phone_tags(attempt)
        epoch = self._history.confirm()  # a store that went back is noticed before a code is texted, not after
        now_ms, wall_ms = self._clock.now_ms(), self._clock.wall_ms()
        sealed, counter = "", max(now_ms, wall_ms)  # the time: none comes again, whatever Redis has forgotten
        for _ in range(_PROPOSALS_MOST):
            proposal = self._propose(attempt, challenge_id, counter, tags[0], now_ms, wall_ms, epoch)
            try:
                begun = self._store.begin(
                    attempt.user_key,
                    attempt.session_id,
                    now_ms=now_ms,
                    wall_ms=wall_ms,
                    proposal=proposal,
                    phone_tags=tags,
                    rules=self._rules,
                    source=source_key(attempt.source),
                    sealed=sealed,
                    is_anew=is_anew,
                )
            except StoreUnavailable:  # it may have made the challenge all the same
                self._unsent.add(challenge_id, attempt)
                raise
            if begun is None:
                sealed = self._vault.seal(codes.new_secret(), user=attempt.user_key, purpose=SECRET_PURPOSE)
            elif begun.state is BeginState.COUNTER_USED:
                counter = begun.counter + 1
            elif begun.state is BeginState.NEW and (begun.challenge_id, begun.counter) != (challenge_id, counter):
                raise StoreUnsound("the store made another challenge than it was told to")
            else:
                return begun
        raise StoreUnavailable("the store took no counter, or no secret")

    def _propose(
        self, attempt: Attempt, challenge_id: str, counter: int, tag: str, now_ms: int, wall_ms: int, epoch: int
    ) -> Proposal:
        """A new challenge with its proof."""
        ends = now_ms + self._rules.life_ms, wall_ms + self._rules.life_ms
        bound = Bound(attempt.user_key, attempt.session_id, challenge_id, counter, tag, *ends, epoch)
        return Proposal(challenge_id, counter, *ends, self._proofs.of_challenge(bound))

    def _give_back_unsent(self, attempt: Attempt) -> None:
        """Tell the store which challenges of this user are no good, before it is asked for his next step.

        Then none of them is called good, none is charged to his limits, and a code that one was to replace goes on.
        Raises StoreUnavailable.
        """
        for challenge_id, session_id, source in self._unsent.of_user(attempt.user_key):
            self._store.settle_send(
                attempt.user_key,
                session_id,
                challenge_id=challenge_id,
                send=NEVER_SENT,  # without a proof: it chooses words and opens nothing
                is_refused=True,
                source=source,
            )
            self._unsent.forget(challenge_id)

    def _phone_tags(self, attempt: Attempt) -> tuple[str, ...]:
        """Binds a challenge to the number it was sent to: with another number the old codes are dead."""
        number = attempt.phone.reveal() if attempt.phone else NO_PHONE
        return self._vault.tags(f"{attempt.user_key}:{number}", purpose=PHONE_PURPOSE)

    def _anew(self, attempt: Attempt, later: Later) -> Reply | None:
        """An empty answer: a new text, if the limits allow one. It lets nobody in, so it is always a denial."""
        begun = self._open(attempt, is_anew=True)
        if begun.state is BeginState.NEW:
            return self._text(attempt, begun, later, is_anew=True)
        return replaced(self._not_opened(attempt, begun), word=Word.DENY)

    def _not_opened(self, attempt: Attempt, begun: Begun) -> Reply:
        wait_s = self._wait_s(begun.until_ms)
        if begun.state is BeginState.LOCKED:
            self._note(Event.BEGIN, "login refused", attempt, result="deny", reason=_locked_by(begun.row))
            return Reply(Word.DENY, texts.locked(wait_s, begun.row), Why.LOCKED, wait_s)
        reason = f"throttled_{begun.row}"
        self._note(Event.BEGIN, "no text sent", attempt, priority=Priority.NOTICE, result="ask", reason=reason)
        text = texts.throttled_anew(wait_s) if begun.is_live else texts.throttled(wait_s, begun.row)
        return Reply(Word.ASK, text, Why.THROTTLED, wait_s)

    def _wait_s(self, until_ms: int) -> float:
        return max(0, until_ms - self._clock.now_ms()) / 1000

    # --- Texting ---

    def _text(self, attempt: Attempt, begun: Begun, later: Later, *, is_anew: bool) -> Reply | None:
        """Send the code of a new challenge; the reply comes when the gateway has answered, or after send_wait_s.

        is_anew: asked for at the prompt, where only PASS and DENY are answers.
        """
        try:
            code = self._code(attempt.user_key, begun)
            payment = Payment(self._budgets(attempt, is_stranger=begun.is_stranger), self._clock.now_ms())
            refused = self._store.charge(payment.budgets, now_ms=payment.charged_at_ms)
        except TextgateError:
            self._unsent.add(begun.challenge_id, attempt)
            raise
        if refused is not None:
            return self._over_budget(attempt, begun, *refused, is_anew=is_anew)
        future = self._sender.submit(lambda: self._send(attempt, begun, code, payment))
        if future is None:
            self._settle(attempt, begun, "refused:busy", is_refused=True)
            self._pay_back(attempt, payment, None)
            self._note(Event.OVERLOAD, "too many texts waiting", attempt, priority=Priority.ERROR, result="deny")
            return Reply(Word.DENY, texts.BUSY, Why.BUSY)
        once = _Once(later, self._audit)
        future.add_done_callback(
            lambda done: once.answer(lambda: self._told(attempt, begun, done.result(), is_anew=is_anew))
        )
        self._alarm.after(
            self._config.gateway.send_wait_s, lambda: once.answer(lambda: self._on_its_way(attempt, is_anew=is_anew))
        )
        return None

    def _on_its_way(self, attempt: Attempt, *, is_anew: bool) -> Reply:
        """The gateway takes its time; how it ends is told at the check."""
        self._note(Event.BEGIN, "code asked for", attempt, result="ask", reason="send_pending")
        return _on_its_way(Why.CODE_ON_ITS_WAY, is_anew=is_anew)

    def _told(self, attempt: Attempt, begun: Begun, result: SendResult, *, is_anew: bool) -> Reply:
        """The reply when it is known how the text ended."""
        if result.outcome is Outcome.REFUSED:
            if attempt.may_pass and _state(result) in AWAY_STATES:
                return self._gateway_away(attempt, Word.PASS if is_anew else Word.SKIP, result.reason.value)
            self._note(Event.BEGIN, "code not texted", attempt, result="deny", reason=self._reason(attempt, result))
            return Reply(Word.DENY, texts.NOT_SENT_ANEW if begun.is_live else texts.NOT_SENT, Why.NOT_SENT)
        self._note(Event.BEGIN, "code asked for", attempt, result="ask", reason=attempt.reason)
        if result.outcome is Outcome.UNKNOWN:
            return _on_its_way(Why.SEND_UNKNOWN, is_anew=is_anew)
        word = Word.DENY if is_anew else Word.ASK
        return Reply(word, texts.SENT_ANEW if is_anew else texts.SENT, Why.CODE_SENT)

    @staticmethod
    def _reason(attempt: Attempt, result: SendResult) -> str:
        """For the journal: why a login that can't pass can't is worth more than how its pretended text went."""
        return result.reason.value if attempt.may_pass else attempt.reason

    def _budgets(self, attempt: Attempt, *, is_stranger: bool) -> tuple[Budget, ...]:
        """What the text of an attempt is paid from."""
        phone, source = attempt.phone, source_key(attempt.source)
        return budgets(
            self._config.limits,
            phone_tag=self._vault.tags(phone.reveal(), purpose=BUDGET_PURPOSE)[0] if phone else None,
            country=phone.country if phone else self._usual_country(),
            source=attempt.source,
            source_tag=self._vault.tags(source, purpose=SOURCE_PURPOSE)[0] if source else "",
            host=self._host,
            is_stranger=is_stranger,
        )

    def _usual_country(self) -> str | None:
        """Where the phone would be of somebody who has none: he is told what people with such a phone are told."""
        named = [country for country in self._config.limits.allowed_countries if country != "*"]
        return named[0] if named else self._config.phones.default_region or None

    def _over_budget(
        self, attempt: Attempt, begun: Begun, budget: Budget, free_at_ms: int, *, is_anew: bool
    ) -> Reply:
        """A shared budget is used up: nothing goes out, and the user's own limits are not charged for it."""
        reason = f"budget_{budget.scope.value}"
        self._settle(attempt, begun, f"refused:{reason}", is_refused=True)
        is_alarming = budget.scope in (Scope.FLEET, Scope.MONEY, Scope.COUNTRY)
        self._note(
            Event.BUDGET,
            "no text sent: a budget is used up",
            attempt,
            priority=Priority.ALERT if is_alarming else Priority.WARNING,
            result="deny" if is_anew else "ask",
            reason=reason,
        )
        wait_s = self._wait_s(free_at_ms)
        text = texts.throttled_anew(wait_s) if begun.is_live else texts.budget(budget.scope, wait_s)
        return Reply(Word.DENY if is_anew else Word.ASK, text, Why.THROTTLED, wait_s)

    def _pay_back(self, attempt: Attempt, payment: Payment, result: SendResult | None) -> None:
        """Correct the budgets once it is known what a text cost: all of it back if it was certainly not sent."""
        differences: list[tuple[Budget, int]] = []
        if result is None or result.outcome is Outcome.REFUSED:
            differences = [(budget, -budget.amount) for budget in payment.budgets if budget.pays]
        elif result.cost is not None:
            differences = [
                (budget, micros(result.cost) - budget.amount)
                for budget in payment.budgets
                if budget.scope is Scope.MONEY and budget.pays
            ]
        try:
            self._store.adjust(differences, charged_at_ms=payment.charged_at_ms)
        except StoreUnavailable as error:
            # The budgets keep what they took, which errs on the side of spending less.
            self._note(Event.FAULT, "store away", attempt, priority=Priority.ERROR, reason=str(error))

    def _send(self, attempt: Attempt, begun: Begun, code: Secret, payment: Payment) -> SendResult:
        """On a sender's thread: text the code and note how it went."""
        try:
            result = self._send_for_real(attempt.phone, code, begun, attempt) if attempt.phone else self._pretend()
        except Exception as error:  # nobody waits for this thread, so it must say it itself
            self._note(
                Event.FAULT,
                "sending failed",
                attempt,
                priority=Priority.ALERT,
                result="deny",
                reason=told(error),
                at=where(error),
            )
            result = SendResult(Outcome.UNKNOWN, SendReason.INTERNAL, attempt_count=0, duration_s=0)
        if result.outcome is not Outcome.SENT or begun.is_live:
            # "pending" says enough of a text that went out; but one that replaces another settles that one's end.
            self._settle(attempt, begun, _state(result), is_refused=result.outcome is Outcome.REFUSED)
        self._pay_back(attempt, payment, result)
        return result

    def _send_for_real(self, phone: Msisdn, code: Secret, begun: Begun, attempt: Attempt) -> SendResult:
        text = sms.render(self._config.gateway.text, code=code.reveal(), host=self._host, service=attempt.service)
        result = self._gateway.send(
            phone.reveal(), Secret(text), validity_s=self._config.codes.life_s, userref=begun.challenge_id
        )
        self._pace.note(result)
        note_send(self._audit, result, user=attempt.user, service=attempt.service, phone=phone)
        return result

    def _pretend(self) -> SendResult:
        """For a login that can't pass: what a real text would have taken and told, without one."""
        last = self._pace.read()
        self._pause(min(last.duration_s, self._config.gateway.total_timeout_s))
        return last

    def _settle(self, attempt: Attempt, begun: Begun, send: str, *, is_refused: bool) -> None:
        try:
            self._store.settle_send(
                attempt.user_key,
                attempt.session_id,
                challenge_id=begun.challenge_id,
                send=self._proofs.sign_send(begun.challenge_id, send),
                is_refused=is_refused,
                source=source_key(attempt.source),
            )
        except StoreUnavailable as error:
            # The code is out; that the store forgot how it went costs no more than the right words later.
            self._note(Event.FAULT, "store away", attempt, priority=Priority.ERROR, reason=str(error))

    def _code(self, key: str, challenge: Begun | Taken) -> Secret:
        """The code of a challenge. Raises VaultError if the user's secret doesn't open."""
        secret = self._vault.open(challenge.sealed, user=key, purpose=SECRET_PURPOSE)
        return codes.hotp(secret, challenge.counter, digits=self._config.codes.digits)

    # --- Comparing ---

    def _take_and_compare(self, attempt: Attempt, typed: Secret) -> Reply:
        """Count first, compare second (RFC 4226 §7.3)."""
        self._give_back_unsent(attempt)
        try_id = codes.new_id()
        taken = self._store.take_try(
            attempt.user_key,
            attempt.session_id,
            now_ms=self._clock.now_ms(),
            wall_ms=self._clock.wall_ms(),
            try_id=try_id,
            phone_tags=self._phone_tags(attempt),
            rules=self._rules,
            source=source_key(attempt.source),
        )
        send, is_send_proved = self._proofs.read_send(taken.challenge_id, taken.send)
        taken = replaced(taken, send=send)
        if taken.state is CheckState.TRY:
            return self._compare(attempt, taken, try_id, typed, is_send_proved=is_send_proved)
        return self._refused(attempt, taken)

    def _is_sound(self, attempt: Attempt, taken: Taken) -> bool:
        """Whether a challenge is one that was made here, for this very login, in this epoch, and is not over.

        Redis says so too; it is not believed (docs/threat-model.md).
        """
        bound = Bound(
            user_key=attempt.user_key,
            session_id=attempt.session_id,
            challenge_id=taken.challenge_id,
            counter=taken.counter,
            phone_tag=taken.phone_tag,
            expires_at_ms=taken.expires_at_ms,
            expires_wall_ms=taken.expires_wall_ms,
            epoch=self._history.epoch(),
        )
        now_ms = self._clock.now_ms()
        is_over = taken.expires_at_ms <= now_ms or 0 < taken.expires_wall_ms <= self._clock.wall_ms()
        is_ours = self._proofs.is_challenge(bound, taken.mac) and taken.phone_tag in self._phone_tags(attempt)
        if is_ours and not is_over:
            return self._spent.take(taken.challenge_id, most=self._rules.tries, now_ms=now_ms)
        if not is_ours:
            self._note(
                Event.STORE, "the store has a code that textgate did not make, or not since the store went back",
                attempt, priority=Priority.ALERT, result="deny", reason="code_not_ours",
            )  # fmt: skip
        return False

    def _compare(self, attempt: Attempt, taken: Taken, try_id: str, typed: Secret, *, is_send_proved: bool) -> Reply:
        is_sound = self._is_sound(attempt, taken)
        is_right = codes.is_equal(typed, self._code(attempt.user_key, taken)) and is_sound
        # The text may never come: where [failmode] then lets in, it uses the challenge up as a right code does.
        is_away = is_sound and is_send_proved and taken.send in AWAY_STATES
        fails_open = is_away and self._fails_open(FailKind.GATEWAY, attempt)
        now_ms = self._clock.now_ms()
        if attempt.may_pass and (is_right or fails_open):
            ended = self._store.consume(
                attempt.user_key,
                attempt.session_id,
                now_ms=now_ms,
                wall_ms=self._clock.wall_ms(),
                challenge_id=taken.challenge_id,
                try_id=try_id,
                is_right=is_right,
                rules=self._rules,
                source=source_key(attempt.source),
            )
            if ended.state is CheckState.PASS and not self._is_first_use(taken.challenge_id, now_ms):
                ended = Taken(CheckState.USED)
            if ended.state is CheckState.PASS and not is_right:
                return self._fail_open(FailKind.GATEWAY, attempt, Word.PASS, taken.send)
            if ended.state is CheckState.PASS:
                self._note(Event.CHECK, "right code", attempt, result="pass", reason="code")
                return Reply(Word.PASS, why=Why.RIGHT)
        else:
            ended = self._store.confirm_wrong(
                attempt.user_key,
                attempt.session_id,
                now_ms=now_ms,
                rules=self._rules,
                source=source_key(attempt.source),
            )
        if not is_sound and ended.state is CheckState.WRONG:
            ended = replaced(ended, state=CheckState.NONE)
        return self._refused(attempt, replaced(ended, tries_left=taken.tries_left, send=taken.send))

    def _is_first_use(self, challenge_id: str, now_ms: int) -> bool:
        """Whether a code that the store has just used up was used by nobody before.

        The store is looked at once more: its mark is then higher than in any copy that was made before this pass.
        """
        epoch = self._history.epoch()
        return self._spent.use(challenge_id, now_ms=now_ms) and self._history.confirm() == epoch

    def _recover(self, attempt: Attempt, typed: Secret) -> Reply:
        """A recovery code in place of the texted one. Counted, compared and used up in one step of the store."""
        tags = self.recovery_tags(attempt.user_key, typed if attempt.may_recover else codes.new_secret())
        epoch = self._history.confirm()  # codes of a store that went back are void
        taken = self._store.take_recovery(
            attempt.user_key,
            attempt.session_id,
            now_ms=self._clock.now_ms(),
            try_id=codes.new_id(),
            recovery_tags=tags,
            recovery_hashes=self._proofs.recovery_hashes(attempt.user_key, tags, epoch),
            rules=self._rules,
            source=source_key(attempt.source),
        )
        if taken.state is CheckState.PASS and not self._is_recovery(attempt, taken, tags, epoch):
            taken = Taken(CheckState.VOID)
        if taken.state is CheckState.PASS and attempt.may_recover:
            self._note(
                Event.CHECK, "recovery code used", attempt, priority=Priority.NOTICE, result="pass",
                reason="recovery", codes_left=taken.tries_left,
            )  # fmt: skip
            return Reply(Word.PASS, why=Why.RIGHT)
        return self._refused(attempt, replaced(taken, tries_left=1))

    def _is_recovery(self, attempt: Attempt, taken: Taken, tags: tuple[str, ...], epoch: int) -> bool:
        """Whether what the store gave out is a recovery code of this user, and was not used before."""
        is_ours = taken.tag in tags and self._proofs.is_recovery(attempt.user_key, taken.tag, epoch, taken.value)
        if not is_ours:
            self._note(
                Event.STORE, "the store has a recovery code that textgate did not make", attempt,
                priority=Priority.ALERT, result="deny", reason="recovery_not_ours",
            )  # fmt: skip
        return is_ours and self._history.use_recovery(taken.tag) and self._history.confirm() == epoch

    def new_recovery(self, key: str, fresh: Sequence[Secret]) -> None:
        """Make these a user's recovery codes, and the former ones void. Raises StoreUnavailable."""
        epoch = self._history.confirm()
        tags = [self.recovery_tags(key, codes.normalise(code.reveal()))[0] for code in fresh]
        self._store.set_recovery(key, {tag: self._proofs.of_recovery(key, tag, epoch) for tag in tags})

    def recovery_tags(self, key: str, code: Secret) -> tuple[str, ...]:
        """The keyed hashes of a user's recovery code, today's key first."""
        return self._vault.tags(f"{key}:{code.reveal()}", purpose=RECOVERY_PURPOSE)

    def _refused(self, attempt: Attempt, taken: Taken) -> Reply:
        """The words and the journal's reason for every end of a check that is not PASS."""
        wait_s = self._wait_s(taken.until_ms)
        text, why = {
            CheckState.LOCKED: (texts.locked(wait_s, taken.row), Why.LOCKED),
            CheckState.NONE: (texts.NONE_WAITING, Why.NONE_WAITING),
            CheckState.USED: (texts.NONE_WAITING, Why.NONE_WAITING),
            CheckState.SPENT: (texts.TRIES_SPENT, Why.TRIES_SPENT),
            CheckState.WRONG: (texts.WRONG, Why.WRONG)
            if taken.tries_left > 0
            else (texts.TRIES_SPENT, Why.TRIES_SPENT),
            CheckState.VOID: (texts.WRONG, Why.WRONG),
        }.get(taken.state, (texts.INTERNAL, Why.FAILED))
        if taken.send.startswith(Outcome.REFUSED.value) and taken.state in (CheckState.WRONG, CheckState.SPENT):
            text, why = texts.NOT_SENT, Why.NOT_SENT
        is_locked = taken.state is CheckState.LOCKED
        reason = _locked_by(taken.row) if is_locked else taken.state.value
        self._note(
            Event.LOCKOUT if is_locked else Event.CHECK,
            "login refused",
            attempt,
            priority=Priority.WARNING if is_locked else Priority.NOTICE,
            result="deny",
            reason=reason if attempt.may_pass else attempt.reason,
        )
        return Reply(Word.DENY, text, why, wait_s)

    # --- When a part is away ---

    def _fails_open(self, kind: FailKind, attempt: Attempt) -> bool:
        """Whether [failmode] lets this login in when such a part is away."""
        decision = apply_failmode(kind, attempt.service, self._config).decision
        return decision is Decision.SKIP and attempt.may_pass and attempt.has_failmode

    def _unsound(self, attempt: Attempt, error: StoreUnsound) -> Reply:
        """What answers is not textgate's Redis, or not any longer: that is not "away"."""
        self._note(
            Event.STORE, "login refused: the store can't be believed", attempt, priority=Priority.ALERT,
            result="deny", reason=str(error),
        )  # fmt: skip
        return Reply(Word.DENY, texts.STORE_AWAY, Why.STORE_AWAY)

    def _store_failed(self, attempt: Attempt, safe_word: Word, error: StoreUnavailable) -> Reply:
        """A fault of the store is a denial unless nobody takes a connection there, and has not for a while."""
        if error.is_absent and self._is_store_away() and self._fails_open(FailKind.STORE, attempt):
            return self._fail_open(FailKind.STORE, attempt, safe_word, str(error))
        return self._part_away(FailKind.STORE, attempt, str(error))

    def _gateway_away(self, attempt: Attempt, safe_word: Word, cause: str) -> Reply:
        """What a gateway that is away makes of a login (AWAY_STATES)."""
        if self._fails_open(FailKind.GATEWAY, attempt):
            return self._fail_open(FailKind.GATEWAY, attempt, safe_word, cause)
        return self._part_away(FailKind.GATEWAY, attempt, cause)

    def _fail_open(self, kind: FailKind, attempt: Attempt, safe_word: Word, cause: str) -> Reply:
        """The one place where [failmode] lets in."""
        reason = apply_failmode(kind, attempt.service, self._config).reason
        self._note(
            Event.FAIL_OPEN, "LET IN WITHOUT A CODE", attempt, priority=Priority.ALERT, result="pass",
            reason=reason, cause=cause,
        )  # fmt: skip
        return Reply(safe_word, why=Why.FAILED_OPEN)

    def _part_away(self, kind: FailKind, attempt: Attempt, cause: str) -> Reply:
        self._note(
            Event.FAULT, "login refused: a part is away", attempt, priority=Priority.ERROR, result="deny",
            reason=f"{kind.value}_away", cause=cause,
        )  # fmt: skip
        if kind is FailKind.STORE:
            return Reply(Word.DENY, texts.STORE_AWAY, Why.STORE_AWAY)
        return Reply(Word.DENY, texts.NOT_SENT, Why.NOT_SENT)

    def _note(
        self, event: Event, message: str, attempt: Attempt, *, priority: Priority = Priority.INFO, **fields: object
    ) -> None:
        self._audit.event(
            event,
            message,
            priority=priority,
            user=attempt.user or "(unknown)",
            service=attempt.service,
            source=attempt.source,
            phone=attempt.phone.masked if attempt.phone else None,
            **fields,
        )


class _Once:
    """Answers a login once, with whichever of several replies comes first; making one that fails answers DENY."""

    def __init__(self, later: Later, audit: Audit) -> None:
        self._later: Later | None = later
        self._audit = audit
        self._lock = threading.Lock()

    def answer(self, make: Callable[[], Reply]) -> None:
        """Answer with what `make` gives, unless there was an answer before."""
        with self._lock:
            later, self._later = self._later, None
        if later is None:
            return
        try:
            reply = make()
        except Exception as error:
            reply = refusal_for(error, self._audit)
        later(reply)


def _deliver(step: Step, later: Later) -> None:
    """Run a step and call `later` with its reply, unless the step does so itself."""
    reply = step(later)
    if reply is not None:
        later(reply)


def _waited(step: Step) -> Reply:
    """Run a step and wait for its reply."""
    answered: Future[Reply] = Future()
    _deliver(step, answered.set_result)
    return answered.result()


def _on_its_way(why: Why, *, is_anew: bool) -> Reply:
    """A text may still arrive: asked for at the prompt (is_anew) it lets nobody in, so it is a denial there."""
    if is_anew:
        return Reply(Word.DENY, texts.ON_ITS_WAY_ANEW, why)
    return Reply(Word.ASK, texts.ON_ITS_WAY, why)


def user_key(user: str) -> str:
    """The part of a key that names a user NSS knows."""
    return encode_user(user)


def note_send(audit: Audit, result: SendResult, *, user: str | None, service: str, phone: Msisdn) -> None:
    """The journal's line on one text; what needs an administrator is an alert."""
    priority = Priority.INFO if result.outcome is Outcome.SENT else Priority.WARNING
    audit.event(
        Event.SEND,
        "text sent" if result.outcome is Outcome.SENT else "text not known to be sent",
        priority=Priority.ALERT if result.is_alert else priority,
        user=user,
        service=service,
        phone=phone.masked,
        result=result.outcome.value,
        reason=result.reason.value,
        code=result.code,
        http_status=result.http_status,
        incident=result.incident,
        attempts=result.attempt_count,
        message_ids=",".join(str(message_id) for message_id in result.message_ids) or None,
        duration_ms=round(result.duration_s * 1000),
        cost=result.cost,
        currency=result.currency,
    )


def reseal_secrets(store: Store, vault: Vault) -> Counter[str]:
    """Seal every user's secret with the vault's first key. Those that don't open are left as they are.

    Returns how many were "resealed", "current" already, "changed" meanwhile, "unreadable". Raises StoreUnavailable.
    """
    counted: Counter[str] = Counter()
    for key, sealed in store.sealed_secrets():
        if vault.is_current(sealed):
            counted["current"] += 1
            continue
        try:
            secret = vault.open(sealed, user=key, purpose=SECRET_PURPOSE)
        except VaultError:
            counted["unreadable"] += 1
            continue
        fresh = vault.seal(secret, user=key, purpose=SECRET_PURPOSE)
        counted["resealed" if store.reseal(key, former=sealed, sealed=fresh) else "changed"] += 1
    return counted


def refusal_for(error: Exception, audit: Audit) -> Reply:
    """The denial, and the alert, for a login on which something broke that nobody foresaw."""
    audit.event(
        Event.FAULT, "login refused", priority=Priority.ALERT, result="deny", reason=told(error), at=where(error)
    )
    return Reply(Word.DENY, texts.INTERNAL)


def told(error: Exception) -> str:
    """The journal's word for an exception: ours have a message that is safe to show, others only their class."""
    return str(error) if isinstance(error, TextgateError) else type(error).__name__


def where(error: Exception) -> str | None:
    """File and line that raised an exception, which say nothing of what was handled there; None for ours."""
    if isinstance(error, TextgateError) or error.__traceback__ is None:
        return None
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"


def _locked_by(row: str) -> str:
    """The journal's reason for a refusal by one of the limits on wrong codes."""
    return "locked" if row == "wrong_in_a_row" else f"locked_{row}"


def _state(result: SendResult) -> str:
    """How a text ended, as the store keeps it: `OUTCOME:REASON`."""
    return f"{result.outcome.value}:{result.reason.value}"
