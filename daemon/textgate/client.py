# SPDX-License-Identifier: MIT
"""`AuthClient`: the two steps as a Python API, on the very core that PAM uses.

    client = AuthClient("/etc/myapp/textgate.toml")
    user_id = client.step_one("alice", password)       # the password was right: a code is on its way
    token = client.step_two(user_id, code)             # the code was right: an authentication token
    claims = client.verify_token(token)                # claims.user == "alice"

Limits, lockouts, encryption and the journal are those of the daemon; the process needs only a Redis, a vault key and
credentials of the gateway, and no privileges. A code goes out when, and only when, the password was right. No
exception tells an unknown user from a known one: both are `WrongPassword` with a wrong password, and behave alike
after a right one. A token comes from one place (`step_two`), after the core has said that the code was right;
whatever breaks on the way there is an exception, and none of them carries password, code or number.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from types import TracebackType
from typing import Any, Protocol, TypeVar

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from . import codes, texts, wiring
from .accounts import NssAccounts
from .audit import Audit, Event, Priority, choose_sink
from .audit_digest import Digest
from .config import DEFAULT_PATH, Config, config_from_mapping
from .directory import build_directory
from .errors import DirectoryError, MsisdnError, StoreUnavailable, TextgateError
from .gateway import GatewayCredentials
from .limits import Address
from .msisdn import Msisdn, parse_msisdn
from .password_limits import PasswordLimits
from .policy import Account
from .protocol import Reply, Why, Word
from .secret import Secret
from .session import Session, source_of
from .store import Store
from .verifier import (
    Accounts,
    Attempt,
    Clock,
    Directory,
    reseal_secrets,
    told,
    where,
)
from .wiring import Keys

__all__ = [
    "AuthClient",
    "AuthError",
    "BadToken",
    "Busy",
    "CodeExpired",
    "GatewayCredentials",
    "GatewayRefused",
    "GatewayUnknown",
    "Keys",
    "Locked",
    "PamPasswords",
    "Passwords",
    "PasswordsAway",
    "StoreAway",
    "Throttled",
    "TokenClaims",
    "WrongCode",
    "WrongPassword",
]

DEFAULT_SERVICE = "textgate-api"
DEFAULT_AUDIENCE = "textgate"
TOKEN_LIFE_S = 8 * 3600
USER_ID_LIFE_S = 900  # from password to token; more than the longest life of a code ([codes] life_s)
OPAQUE_MAX_LENGTH = 4096  # of what comes back from outside: an id or a token
NAME_MAX_BYTES = 256
PASSWORD_MAX_BYTES = 1024  # whatever checks it hashes it, which takes as long as it is long

WRONG_PASSWORD = "User name or password is not right."  # noqa: S105  # a sentence
PASSWORDS_AWAY = "Passwords can't be checked at the moment. Try again later, or ask your administrator."

T = TypeVar("T")


# --- How a login can end ---


class AuthError(TextgateError):
    """The login didn't get on; `str()` is a sentence for the person, the same for known and unknown users.

    wait_s: seconds until it makes sense to try again, 0 if waiting doesn't help. user_id: set where the password was
    right and the login can still go on to step two or `resend`, None otherwise.
    """

    def __init__(self, message: str, *, wait_s: float = 0.0, user_id: str | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.user_id = user_id


class WrongPassword(AuthError):
    """User name and password don't belong together, or there is no such user. Nothing was texted."""


class PasswordsAway(AuthError):
    """The password check itself failed: it raised an exception, or answered neither True nor False."""


class WrongCode(AuthError):
    """The code is not right; another try is left."""


class CodeExpired(AuthError):
    """No code is waiting: it was used, has expired, or its tries are spent. Start again with step one."""


class Locked(AuthError):
    """Too many wrong codes; see wait_s."""


class Throttled(AuthError):
    """Too many texts, or too many wrong passwords, in a short time; see wait_s.

    With a user_id, a recovery code still works, and so does a code that `resend` was to replace.
    """


class Busy(AuthError):
    """Too many logins at this moment. user_id is set."""


class GatewayRefused(AuthError):
    """The code was certainly not texted. user_id is set: a recovery code works, and `resend` tries again."""


class GatewayUnknown(AuthError):
    """Nobody knows whether the code was texted. user_id is set, and good for step two if it arrives."""


class StoreAway(AuthError):
    """Redis can't be reached or used, or users or phones can't be looked up: nobody gets in until that is mended."""


class BadToken(AuthError):
    """Not a token of ours for this audience, or expired, or revoked."""


_ERRORS: Mapping[Why, type[AuthError]] = {
    Why.WRONG: WrongCode,
    Why.NONE_WAITING: CodeExpired,
    Why.TRIES_SPENT: CodeExpired,
    Why.LOCKED: Locked,
    Why.THROTTLED: Throttled,
    Why.NOT_SENT: GatewayRefused,
    Why.SEND_UNKNOWN: GatewayUnknown,
    Why.BUSY: Busy,
    Why.STORE_AWAY: StoreAway,
}
_GOES_ON = frozenset((Throttled, Busy, GatewayRefused, GatewayUnknown))
_TEXTED = frozenset((Why.CODE_SENT, Why.CODE_ON_ITS_WAY))


@dataclass(frozen=True)
class TokenClaims:
    """What a good token says. expires_at: Unix seconds. token_id: what `revoke` remembers."""

    user: str
    audience: str
    expires_at: int
    token_id: str


# --- What a program brings along ---


class Passwords(Protocol):
    """The first factor."""

    def __call__(self, username: str, password: str, /) -> bool:
        """True if the password is the user's, False if not. Called from many threads.

        Should take as long for unknown users as for known ones, and know a user by one spelling only: limits go by
        the name as it was typed. Any other answer, and any exception, is `PasswordsAway`.
        """


class PamPasswords:
    """Checks passwords by a PAM service through python-pam. The service must not include textgate's own lines.

    Raises TextgateError when python-pam or libpam isn't there.
    """

    def __init__(self, service: str = DEFAULT_SERVICE) -> None:
        self._service = service
        try:
            import pam

            self._make: Callable[[], Any] = pam.PamAuthenticator
            self._make()
        except (ImportError, OSError, AttributeError):
            raise TextgateError("python-pam can't be used", hint="pip install 'textgate[pam]'") from None

    def __call__(self, username: str, password: str, /) -> bool:
        """Whether PAM takes the password and says that the account is in order."""
        return self._make().authenticate(username, password, service=self._service, resetcreds=False) is True


class _NamedAccounts:
    """Users of a program of its own: whoever the password check knows. Names are taken as they are."""

    def lookup(self, user: str) -> Account | None:
        """An account without groups."""
        return Account(name=user, uid=-1, gid=-1, groups=frozenset()) if _is_name(user) else None


class _CallableDirectory:
    """Phones from a callable of the program."""

    def __init__(self, phones: Callable[[str], str | None], default_region: str, audit: Audit) -> None:
        self._phones = phones
        self._default_region = default_region
        self._audit = audit

    def lookup(self, user: str) -> Msisdn | None:
        """The number; None also for one that can't be one, which the journal tells. Raises DirectoryError."""
        try:
            number = self._phones(user) if user else None
            return parse_msisdn(number, self._default_region) if number else None
        except MsisdnError as error:
            self._audit.event(Event.FAULT, "phone", priority=Priority.ERROR, user=user, reason=error.message)
            return None
        except Exception as error:  # its message may hold the number
            reason = f"the phones callable failed: {type(error).__name__}"
        raise DirectoryError(reason)


class AuthClient:
    """The two steps. Thread-safe; make one for the process and keep it. A context manager, or call `close`.

    A server that forks makes it after the fork, in each worker: it has threads and connections.
    """

    def __init__(
        self,
        config: Config | str = DEFAULT_PATH,
        *,
        passwords: Passwords | None = None,
        phones: Callable[[str], str | None] | None = None,
        service: str = DEFAULT_SERVICE,
        audience: str = DEFAULT_AUDIENCE,
        token_life_s: int = TOKEN_LIFE_S,
        keys: Keys | None = None,
        audit: Audit | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Put the parts together; connects to nothing yet.

        config: a `Config`, or the path of a textgate.toml: its [store], [vault], [gateway], [phones], [codes],
        [limits] and [refused] count here as they do for the daemon. Its [exempt], [required] and [failmode] don't:
        everybody gives a code.
        passwords: any callable (username, password) -> bool; users are then whoever it knows. By default (and with
        `PamPasswords`) PAM with `service`, and users are the machine's.
        phones: a callable user -> number or None, in place of [phones].
        service: a name for journal and texts, and the default PAM service. audience: whom ids and tokens are for;
        clients of another audience refuse them. token_life_s: seconds a token is good for.
        keys: secrets at hand, in place of systemd credentials and files.
        Raises ConfigError, CredentialError, ValueError, or TextgateError if python-pam is wanted and not there.
        """
        if token_life_s <= 0 or not _is_name(audience) or not _is_name(service):
            raise ValueError("token_life_s must be above 0, audience and service short names")
        environ = os.environ if environ is None else environ
        self._config = wiring.load_config(config) if isinstance(config, str) else config
        self._audit = audit or Audit(choose_sink("auto", dict(environ)))
        self._passwords = PamPasswords(service) if passwords is None else passwords
        self._service = service
        self._audience = audience
        self._token_life_s = token_life_s
        accounts: Accounts = NssAccounts() if isinstance(self._passwords, PamPasswords) else _NamedAccounts()
        if phones is None:
            directory: Directory = build_directory(self._config.phones, accounts, on_fault=self._note_phones)
        else:
            directory = _CallableDirectory(phones, self._config.phones.default_region, self._audit)
        self._services = wiring.build_services(
            self._config,
            self._audit,
            environ,
            keys=keys,
            clock=clock,
            accounts=accounts,
            directory=directory,
        )
        self._clock: Clock = clock or self._services.history
        self._limits = PasswordLimits(self._services.store, self._services.vault)
        self._digest = Digest(self._audit, self._services.alarms.after)
        self._user_ids = _sealer(self._services.vault.derive_keys("api-user-id"))
        self._tokens = _sealer(self._services.vault.derive_keys("api-token"))

    @classmethod
    def from_settings(
        cls,
        *,
        store_url: str,
        vault_key: Secret | str,
        allowed_countries: Sequence[str],
        phones: Callable[[str], str | None],
        passwords: Passwords | None = None,
        gateway_key: Secret | str | None = None,
        gateway_secret: Secret | str | None = None,
        gateway_token: Secret | str | None = None,
        store_password: Secret | str | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        service: str = DEFAULT_SERVICE,
        audience: str = DEFAULT_AUDIENCE,
        token_life_s: int = TOKEN_LIFE_S,
        audit: Audit | None = None,
        clock: Clock | None = None,
    ) -> AuthClient:
        """A client from values, without any file.

        store_url: such as "unix:///run/myapp/redis.sock" or "rediss://myapp@redis.example:6379", without a password.
        vault_key: "k1:" and 64 random hex digits; further lines are older keys. allowed_countries: ["DK", "SE"].
        gateway_key and gateway_secret, or gateway_token: from GatewayAPI's dashboard.
        options: anything else that textgate.toml can say: {"gateway": {"sender": "MyApp"}, "codes": {"tries": 2}}.
        The rest as for `AuthClient`. Raises ConfigError, CredentialError, ValueError, TextgateError.
        """
        document: dict[str, Any] = {name: dict(section) for name, section in (options or {}).items()}
        document.setdefault("store", {})["url"] = store_url
        document.setdefault("limits", {})["allowed_countries"] = list(allowed_countries)
        document.setdefault("gateway", {}).setdefault("auth", "oauth1" if gateway_token is None else "token")
        return cls(
            config_from_mapping(document, config_path="settings"),
            passwords=passwords,
            phones=phones,
            service=service,
            audience=audience,
            token_life_s=token_life_s,
            keys=Keys(
                vault=_secret(vault_key),
                gateway=GatewayCredentials(*map(_secret_or_none, (gateway_key, gateway_secret, gateway_token))),
                store_password=_secret_or_none(store_password),
            ),
            audit=audit,
            clock=clock,
        )

    def __enter__(self) -> AuthClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the texts under way and let go of Redis and the gateway. Logins that come later are refused."""
        self._services.close()
        self._digest.flush()

    # --- The two steps ---

    def step_one(self, username: str, password: str, *, source: str | None = None) -> str:
        """Check the password and text a code to the user's phone.

        source: the client's address, for limits and journal, such as "192.0.2.7". Without it the owner and strangers
        share their limits, so that whoever knows a name can keep its owner out.
        Returns the id of the user that matched: opaque, good once, for a quarter of an hour; pass it to `step_two`.
        Raises WrongPassword, PasswordsAway, Locked, Throttled, Busy, GatewayRefused, GatewayUnknown, StoreAway;
        ValueError for a source that is no address, TypeError for a name or password that is no text.
        """
        typed = Secret(_text(password))
        del password
        session = self._session(_text(username), _address(source), codes.new_id())
        self._check_password(session, typed)
        _attempt, reply = self._ask(session, self._services.verifier.begin_attempt)
        user_id = self._user_id(session)
        if reply.word is Word.ASK and reply.why in _TEXTED:
            return user_id
        raise _error(reply, user_id)

    def step_two(self, user_id: str, code: str) -> str:
        """Check the code and give a token.

        user_id: what `step_one` returned. code: as typed; spaces and dashes are fine. A recovery code does as well.
        Returns an opaque signed token with an expiry. The id is used up by it.
        Raises WrongCode, CodeExpired, Locked, GatewayRefused, StoreAway; TypeError for a code that is no text.
        """
        # What is no UTF-8 can be no code, and is counted as a wrong one.
        typed = Secret(_text(code).encode("utf-8", "replace").decode())
        del code
        session = self._opened_session(user_id)
        if not codes.normalise(typed.reveal()).reveal():  # the core would take it for the wish for a new text
            raise WrongCode(texts.WRONG)
        attempt, reply = self._ask(session, lambda asked: self._services.verifier.check_attempt(asked, typed))
        if not (reply.word is Word.PASS and reply.why is Why.RIGHT and attempt.user is not None):
            raise _error(reply, user_id)
        # Used up, before the token is out: no `resend` makes a second login of it.
        ends_at_ms = self._now_ms() + USER_ID_LIFE_S * 1000
        self._stored(
            lambda store: store.revoke_token(session.session_id, now_ms=self._now_ms(), ends_at_ms=ends_at_ms)
        )
        return self._token(attempt.user)

    def resend(self, user_id: str) -> None:
        """Text a new code for a login under way; only the newest one counts.

        Raises Throttled, Locked, Busy, GatewayRefused, GatewayUnknown, StoreAway, CodeExpired.
        """
        session = self._opened_session(user_id)
        _attempt, reply = self._ask(session, lambda asked: self._services.verifier.check_attempt(asked, Secret("")))
        if reply.why not in _TEXTED:
            raise _error(reply, user_id)

    # --- Tokens ---

    def verify_token(self, token: str) -> TokenClaims:
        """What a token says, if it is good now. Whether the user still exists is not asked again.

        Raises BadToken for one that isn't ours, is for another audience, has expired or was revoked; StoreAway when
        that can't be looked up.
        """
        claims = self._claims(token)
        if self._stored(lambda store: store.is_token_revoked(claims.token_id)):
            raise BadToken("The login has ended. Log in again.")
        return claims

    def revoke(self, token: str) -> None:
        """Make a token useless from now on, on every host that shares the Redis. Raises BadToken or StoreAway."""
        claims = self._claims(token)
        now_ms = self._now_ms()
        # As long as a token can live by the store's time, however the clocks of machines jump meanwhile.
        ends_at_ms = now_ms + max(self._token_life_s * 1000, claims.expires_at * 1000 - self._clock.wall_ms())
        self._stored(lambda store: store.revoke_token(claims.token_id, now_ms=now_ms, ends_at_ms=ends_at_ms))
        self._audit.event(Event.CHECK, "token revoked", user=claims.user, service=self._service, result="ok")

    def _token(self, user: str) -> str:
        expires_at = self._now_s() + self._token_life_s
        return _sealed(
            self._tokens,
            {
                "user": user,
                "audience": self._audience,
                "expires_at": expires_at,
                "token_id": codes.new_id(),
                **self._until(self._token_life_s),
            },
        )

    def _claims(self, untrusted_token: str) -> TokenClaims:
        found = _opened(self._tokens, untrusted_token)
        if found is None or found["audience"] != self._audience:
            raise BadToken("This is not a login to this service. Log in again.")
        if found["expires_at"] <= self._now_s() or self._is_over(found):
            raise BadToken("The login has expired. Log in again.")
        return TokenClaims(
            user=found["user"],
            audience=found["audience"],
            expires_at=found["expires_at"],
            token_id=found["token_id"],
        )

    # --- Keys ---

    def reseal(self) -> int:
        """Seal every user's secret with the first vault key, so that the older ones can be taken away.

        Returns how many secrets don't open with any key at hand; 0 is well. Raises StoreAway.
        """
        return self._stored(lambda store: reseal_secrets(store, self._services.vault)["unreadable"])

    # --- The password ---

    def _check_password(self, session: Session, password: Secret) -> None:
        """Return for the right password and for nothing else. Counted first, checked second."""
        now_ms = self._now_ms()
        count = self._stored(lambda _: self._limits.take(session, is_name=_is_name(session.user), now_ms=now_ms))
        if count.wait_ms:
            wait_s = count.wait_ms / 1000
            self._note_refusal(session, "too many wrong passwords", "throttled_password")
            raise Throttled(f"Too many wrong passwords. Wait {texts.duration(wait_s)} and try again.", wait_s=wait_s)
        is_right = self._is_right(session.user, password)
        if is_right is not False:
            self._stored(lambda _: self._limits.give_back(count))
        if is_right is None:
            raise PasswordsAway(PASSWORDS_AWAY)
        if not is_right:
            self._note_refusal(session, "wrong password", "password")
            raise WrongPassword(WRONG_PASSWORD)

    def _is_right(self, untrusted_user: str, password: Secret) -> bool | None:
        """What the check says; None if it can't be told. Asked only for what can be a name and a password.

        An empty password is never one: LDAP servers take it for "let me look around" and say yes (RFC 4513 §5.1.2).
        """
        if not (_is_name(untrusted_user) and _is_password(password)):
            return False
        try:
            answer: object = self._passwords(untrusted_user, password.reveal())
        except Exception as error:  # its message may hold the password
            self._note_fault("the password check failed", type(error).__name__, where(error))
            return None
        if answer is True or answer is False:
            return answer
        self._note_fault("the password check answered neither True nor False", type(answer).__name__, None)
        return None

    # --- Pieces ---

    def _session(self, user: str, source: Address | None, session_id: str) -> Session:
        return Session(
            user=user, service=self._service, tty="", source=source, key_fingerprint=None, session_id=session_id
        )

    def _user_id(self, session: Session) -> str:
        return _sealed(
            self._user_ids,
            {
                "user": session.user,
                "session": session.session_id,
                "source": str(session.source) if session.source else None,
                "audience": self._audience,
                "service": self._service,
                "at": self._now_s(),
                **self._until(USER_ID_LIFE_S),
            },
        )

    def _opened_session(self, untrusted_user_id: str) -> Session:
        """The login that an id of step one stands for. Raises CodeExpired for anything else; StoreAway."""
        found = _opened(self._user_ids, untrusted_user_id)
        if (
            found is None
            or (found["audience"], found["service"]) != (self._audience, self._service)
            or found["at"] + USER_ID_LIFE_S <= self._now_s()
            or self._is_over(found)
            or self._stored(lambda store: store.is_token_revoked(found["session"]))
        ):
            raise CodeExpired(texts.NONE_WAITING)
        return self._session(found["user"], _address(found["source"]), found["session"])

    def _ask(self, session: Session, step: Callable[[Attempt], Reply]) -> tuple[Attempt, Reply]:
        """One step of the core. Everybody gives a code here, and no failmode lets anybody in. Raises StoreAway."""
        try:
            attempt = replaced(self._services.verifier.resolve(session), has_failmode=False)
            return attempt, step(attempt)
        except Exception as error:  # users, phones or secrets can't be read; whatever it is, it is a refusal
            self._note_fault("login refused", told(error), where(error))
        raise StoreAway(texts.STORE_AWAY)

    def _stored(self, action: Callable[[Store], T]) -> T:
        """What the store says. Raises StoreAway."""
        try:
            return action(self._services.store)
        except StoreUnavailable as error:
            self._note_fault("store away", told(error), None)
        raise StoreAway(texts.STORE_AWAY)

    def _note_phones(self, faults: tuple[str, ...]) -> None:
        for fault in faults:
            self._audit.event(Event.FAULT, "phones file", priority=Priority.ERROR, reason=fault)

    def _note_fault(self, message: str, reason: str, at: str | None) -> None:
        """Summed up as well: while a part is away each try of anybody's is a fault, and none is counted."""
        self._digest.event(
            Event.FAULT, message, priority=Priority.ALERT, service=self._service, result="deny", reason=reason, at=at
        )

    def _note_refusal(self, session: Session, message: str, reason: str) -> None:
        """Without the name: it may be a password, typed into the wrong field. Anybody can bring it about, so it is
        summed up."""
        self._digest.event(
            Event.BEGIN, message, priority=Priority.NOTICE,
            service=self._service, source=session.source, result="deny", reason=reason,
        )  # fmt: skip

    def _until(self, life_s: int) -> dict[str, int]:
        """What ends an id or a token, beside this machine's clock: the store's time, and its epoch."""
        return {"ends_at_ms": self._now_ms() + life_s * 1000, "epoch": self._epoch()}

    def _is_over(self, found: Mapping[str, Any]) -> bool:
        """Whether it has ended by the store's time, or was made before the store went back: then nobody knows whether
        it was used or revoked. An earlier version sealed neither.
        """
        ends_at_ms, epoch = found.get("ends_at_ms"), found.get("epoch")
        return (ends_at_ms is not None and ends_at_ms <= self._now_ms()) or epoch not in (None, self._epoch())

    def _now_ms(self) -> int:
        """The store's time. Raises StoreAway."""
        return self._stored(lambda _store: self._clock.now_ms())

    def _epoch(self) -> int:
        """The store's epoch. Raises StoreAway."""
        return self._stored(lambda _store: self._services.history.epoch())

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1000


def _error(reply: Reply, user_id: str) -> AuthError:
    """The exception for a reply that isn't a yes."""
    kind = _ERRORS.get(reply.why, AuthError)
    return kind(reply.text, wait_s=reply.wait_s, user_id=user_id if kind in _GOES_ON else None)


# --- What comes from outside ---


def _text(untrusted: str) -> str:
    """Itself. Raises TypeError, without the value, for what is no text: a number out of JSON has lost its zeros."""
    if not isinstance(untrusted, str):
        raise TypeError("name, password and code are texts")
    return untrusted


def _is_name(untrusted: str) -> bool:
    """Whether it can be a name: 1 to 256 bytes of printable UTF-8."""
    return 0 < _size_bytes(untrusted) <= NAME_MAX_BYTES and untrusted.isprintable()


def _is_password(password: Secret) -> bool:
    """Whether it can be one: 1 to 1024 bytes of UTF-8 without a zero."""
    return 0 < _size_bytes(password.reveal()) <= PASSWORD_MAX_BYTES and "\0" not in password.reveal()


def _size_bytes(text: str) -> int:
    """Its length in UTF-8, or 0 if it can't be written in it."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _address(source: str | None) -> Address | None:
    """An address. Raises ValueError for what isn't one: it would count as a login at the machine itself."""
    address = source_of(source) if source is not None else None
    if source is not None and address is None:
        raise ValueError("source must be an IP address")
    return address


# --- What goes out and comes back ---


def _sealer(keys: tuple[bytes, ...]) -> MultiFernet:
    """Seals under the first key, opens under any: authenticated and not to be read from outside."""
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in keys])


def _sealed(sealer: MultiFernet, fields: Mapping[str, Any]) -> str:
    return sealer.encrypt(json.dumps(fields, ensure_ascii=False).encode()).decode()


def _opened(sealer: MultiFernet, untrusted: str) -> dict[str, Any] | None:
    """What was sealed, or None for anything that this process's key didn't seal for this purpose."""
    if not isinstance(untrusted, str) or len(untrusted) > OPAQUE_MAX_LENGTH or not untrusted.isascii():
        return None
    try:
        opened: dict[str, Any] = json.loads(sealer.decrypt(untrusted.encode()))
    except (InvalidToken, ValueError):
        return None
    return opened


# --- Putting it together ---


def _secret(value: Secret | str) -> Secret:
    return value if isinstance(value, Secret) else Secret(value)


def _secret_or_none(value: Secret | str | None) -> Secret | None:
    return None if value is None else _secret(value)
