# SPDX-License-Identifier: MIT
"""`AuthClient`: the two steps as a Python API, on the very core that PAM uses.

    client = AuthClient("/etc/myapp/textgate.toml")
    user_id = client.step_one("alice", password)       # the password was right: a code is on its way
    token = client.step_two(user_id, code)             # the code was right: an authentication token
    claims = client.verify_token(token)                # claims.user == "alice"

Limits, lockouts, encryption and the journal are those of the daemon; the process needs only a Redis, a vault key and
credentials of the gateway, and no privileges. A code goes out when, and only when, the password was right. No
exception tells an unknown user from a known one: both are `WrongPassword` with a wrong password, and behave alike
after a right one.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from types import TracebackType
from typing import Any, Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from . import texts, wiring
from .accounts import AccountsError
from .audit import Audit, Event, Priority, choose_sink
from .config import DEFAULT_PATH, Config
from .errors import DirectoryError, StoreUnavailable, TextgateError
from .msisdn import Msisdn, parse_msisdn
from .policy import Account
from .protocol import Reply, Why, Word
from .secret import Secret
from .session import Session, source_of
from .verifier import Attempt, Clock, SystemClock

DEFAULT_SERVICE = "textgate-api"
DEFAULT_AUDIENCE = "textgate"
TOKEN_LIFE_S = 8 * 3600
USER_ID_LIFE_S = 3600  # longer than any code lives; the code's own life is what counts
OPAQUE_MAX_LENGTH = 4096
USER_MAX_LENGTH = 256


class AuthError(TextgateError):
    """The login didn't get on. `wait_s`: seconds until it makes sense to try again, 0 if waiting doesn't help."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class WrongPassword(AuthError):
    """User name and password don't belong together, or there is no such user. Nothing was texted."""


class WrongCode(AuthError):
    """The code is not right; another try is left."""


class CodeExpired(AuthError):
    """No code is waiting: it was used, has expired, or its tries are spent. Start again with step one."""


class Locked(AuthError):
    """Too many wrong codes; see wait_s."""


class Throttled(AuthError):
    """Too many texts in a short time; see wait_s. A code texted before still works."""


class Busy(AuthError):
    """Too many logins at this moment."""


class GatewayRefused(AuthError):
    """The code was certainly not texted."""


class GatewayUnknown(AuthError):
    """Nobody knows whether the code was texted. `user_id` is good for step two, if it arrives."""

    def __init__(self, message: str, *, user_id: str) -> None:
        super().__init__(message)
        self.user_id = user_id


class StoreAway(AuthError):
    """Redis can't be reached or can't be used: nobody gets in until it is back."""


class BadToken(AuthError):
    """Not a token of ours for this audience, or expired, or revoked."""


@dataclass(frozen=True)
class TokenClaims:
    """What a good token says. expires_at: Unix seconds. token_id: what `revoke` remembers."""

    user: str
    audience: str
    expires_at: int
    token_id: str


class Passwords(Protocol):
    """The first factor."""

    def __call__(self, username: str, password: str, /) -> bool:
        """Whether the password is the user's. Should take as long for unknown users as for known ones."""


class PamPasswords:
    """Checks passwords by a PAM service through python-pam. The service must not include textgate's own lines."""

    def __init__(self, service: str = DEFAULT_SERVICE) -> None:
        self._service = service

    def __call__(self, username: str, password: str, /) -> bool:
        """Whether PAM accepts the password. Raises TextgateError when python-pam isn't installed."""
        try:
            import pam
        except ImportError:
            raise TextgateError("python-pam is not installed", hint="pip install 'textgate[pam]'") from None
        if "\0" in username or "\0" in password:
            return False
        return bool(pam.PamAuthenticator().authenticate(username, password, service=self._service, resetcreds=False))


class _NamedAccounts:
    """Users of a program of its own: whoever the password check knows. Names are taken as they are."""

    def lookup(self, user: str) -> Account | None:
        """An account without groups."""
        is_name = 0 < len(user) <= USER_MAX_LENGTH and user.isprintable()
        return Account(name=user, uid=-1, gid=-1, groups=frozenset()) if is_name else None


class _CallableDirectory:
    """Phones from a callable of the program."""

    def __init__(self, phones: Callable[[str], str | None], default_region: str) -> None:
        self._phones = phones
        self._default_region = default_region

    def lookup(self, user: str) -> Msisdn | None:
        """The number, or None. Raises MsisdnError for one that can't be one."""
        number = self._phones(user) if user else None
        return parse_msisdn(number, self._default_region) if number else None


class AuthClient:
    """The two steps. Thread-safe; make one for the process and keep it. A context manager, or call `close`."""

    def __init__(
        self,
        config: Config | str = DEFAULT_PATH,
        *,
        passwords: Passwords | None = None,
        phones: Callable[[str], str | None] | None = None,
        service: str = DEFAULT_SERVICE,
        audience: str = DEFAULT_AUDIENCE,
        token_life_s: int = TOKEN_LIFE_S,
        audit: Audit | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Put the parts together; connects to nothing yet.

        config: a `Config`, or the path of a textgate.toml: its [store], [vault], [gateway], [phones], [codes] and
        [limits] count here as they do for the daemon. Its [exempt] and [required] don't: everybody gives a code.
        passwords: any callable (username, password) -> bool; by default PAM with `service`, and then users are the
        machine's. phones: a callable user -> number or None, in place of [phones].
        audience: whom tokens are for; other audiences refuse them. token_life_s: seconds a token is good for.
        Raises ConfigError or CredentialError.
        """
        environ = os.environ if environ is None else environ
        self._config = wiring.load_config(config) if isinstance(config, str) else config
        self._audit = audit or Audit(choose_sink("auto", dict(environ)))
        self._clock = clock or SystemClock()
        self._passwords = passwords or PamPasswords(service)
        self._service = service
        self._audience = audience
        self._token_life_s = token_life_s
        self._services = wiring.build_services(
            self._config,
            self._audit,
            environ,
            clock=self._clock,
            accounts=_NamedAccounts() if passwords else None,
            directory=_CallableDirectory(phones, self._config.phones.default_region) if phones else None,
        )
        vault = self._services.vault
        self._user_ids = _sealer(vault.derive_keys("api-user-id"))
        self._tokens = _sealer(vault.derive_keys("api-token"))

    def __enter__(self) -> AuthClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the texts under way and let go of Redis and the gateway."""
        self._services.close()

    # --- The two steps ---

    def step_one(self, username: str, password: str, *, source: str | None = None) -> str:
        """Check the password and text a code to the user's phone.

        source: the client's address, for limits and journal, such as "192.0.2.7".
        Returns the id of the user that matched, opaque and good for this login only: pass it to `step_two`.
        Raises WrongPassword, Locked, Throttled, Busy, GatewayRefused, GatewayUnknown, StoreAway.
        """
        session = Session(
            user=username,
            service=self._service,
            tty="",
            source=source_of(source) if source else None,
            key_fingerprint=None,
            session_id=secrets.token_hex(16),
        )
        if not self._passwords(username, password):
            self._audit.event(
                Event.BEGIN,
                "wrong password",
                priority=Priority.NOTICE,
                service=self._service,
                source=session.source,
                result="deny",
                reason="password",
            )
            raise WrongPassword("user name or password is not right")
        attempt = self._attempt(session)
        reply = self._services.verifier.begin_attempt(attempt)
        user_id = self._user_ids.encrypt(
            json.dumps(
                {"user": username, "session": session.session_id, "source": source, "at": self._now_s()}
            ).encode()
        ).decode()
        if reply.why is Why.SEND_UNKNOWN:
            raise GatewayUnknown(texts.ON_ITS_WAY, user_id=user_id)
        if reply.word is Word.ASK and reply.why is not Why.THROTTLED:
            return user_id
        raise _error(reply)

    def step_two(self, user_id: str, code: str) -> str:
        """Check the code and give a token.

        user_id: what `step_one` returned. code: as typed; spaces and dashes are fine. A recovery code does as well.
        Returns an opaque signed token with an expiry.
        Raises WrongCode, CodeExpired, Locked, GatewayRefused, StoreAway.
        """
        attempt = self._attempt_of(user_id)
        if not code.strip():
            raise WrongCode(texts.WRONG)
        reply = self._services.verifier.check_attempt(attempt, Secret(code))
        if reply.word is Word.PASS and attempt.user is not None:
            return self._token(attempt.user)
        raise _error(reply)

    def resend(self, user_id: str) -> None:
        """Text a new code for a login under way; only the newest one counts.

        Raises Throttled, Locked, Busy, GatewayRefused, GatewayUnknown, StoreAway, CodeExpired.
        """
        reply = self._services.verifier.check_attempt(self._attempt_of(user_id), Secret(""))
        if reply.why is Why.SEND_UNKNOWN:
            raise GatewayUnknown(reply.text, user_id=user_id)
        if reply.why not in (Why.CODE_SENT, Why.CODE_ON_ITS_WAY):
            raise _error(reply)

    # --- Tokens ---

    def verify_token(self, token: str) -> TokenClaims:
        """What a token says, if it is good now.

        Raises BadToken for one that isn't ours, is for another audience, has expired or was revoked; StoreAway when
        that can't be looked up.
        """
        claims = self._claims(token)
        try:
            is_revoked = self._services.store.is_token_revoked(claims.token_id)
        except StoreUnavailable:
            raise StoreAway(texts.STORE_AWAY) from None
        if is_revoked:
            raise BadToken("the token was revoked")
        return claims

    def revoke(self, token: str) -> None:
        """Make a token useless from now on, on every host that shares the Redis. Raises BadToken or StoreAway."""
        claims = self._claims(token)
        try:
            self._services.store.revoke_token(
                claims.token_id, life_ms=max(1, claims.expires_at * 1000 - self._clock.now_ms())
            )
        except StoreUnavailable:
            raise StoreAway(texts.STORE_AWAY) from None
        self._audit.event(Event.CHECK, "token revoked", user=claims.user, service=self._service, result="ok")

    def _token(self, user: str) -> str:
        claims = {
            "user": user,
            "audience": self._audience,
            "expires_at": self._now_s() + self._token_life_s,
            "token_id": secrets.token_hex(16),
        }
        return self._tokens.encrypt(json.dumps(claims).encode()).decode()

    def _claims(self, untrusted_token: str) -> TokenClaims:
        claims = _opened(self._tokens, untrusted_token)
        if claims is None or claims["audience"] != self._audience:
            raise BadToken("this is not a token for this audience")
        if claims["expires_at"] <= self._now_s():
            raise BadToken("the token has expired")
        return TokenClaims(**claims)

    # --- Pieces ---

    def _attempt_of(self, untrusted_user_id: str) -> Attempt:
        """The login that an id of step one stands for. Raises CodeExpired for anything else."""
        known = _opened(self._user_ids, untrusted_user_id)
        if known is None or known["at"] + USER_ID_LIFE_S <= self._now_s():
            raise CodeExpired(texts.NONE_WAITING)
        return self._attempt(
            Session(
                user=known["user"],
                service=self._service,
                tty="",
                source=source_of(known["source"]) if known["source"] else None,
                key_fingerprint=None,
                session_id=known["session"],
            )
        )

    def _attempt(self, session: Session) -> Attempt:
        """Everybody gives a code here, and no failmode lets anybody in."""
        try:
            attempt, _verdict = self._services.verifier.resolve(session)
        except (AccountsError, DirectoryError):
            raise StoreAway(texts.STORE_AWAY) from None
        return replaced(attempt, has_failmode=False)

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000


_ERRORS: Mapping[Why, type[AuthError]] = {
    Why.WRONG: WrongCode,
    Why.NONE_WAITING: CodeExpired,
    Why.TRIES_SPENT: CodeExpired,
    Why.LOCKED: Locked,
    Why.THROTTLED: Throttled,
    Why.NOT_SENT: GatewayRefused,
    Why.BUSY: Busy,
    Why.STORE_AWAY: StoreAway,
}


def _error(reply: Reply) -> AuthError:
    """The exception for a reply that isn't a yes."""
    return _ERRORS.get(reply.why, AuthError)(reply.text, wait_s=reply.wait_s)


def _sealer(keys: tuple[bytes, ...]) -> MultiFernet:
    """Seals under the first key, opens under any: authenticated and not to be read from outside."""
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in keys])


def _opened(sealer: MultiFernet, untrusted: str) -> dict[str, Any] | None:
    """What was sealed, or None for anything that this process's key didn't seal."""
    if not isinstance(untrusted, str) or len(untrusted) > OPAQUE_MAX_LENGTH or not untrusted.isascii():
        return None
    try:
        opened: dict[str, Any] = json.loads(sealer.decrypt(untrusted.encode()))
    except (InvalidToken, ValueError):
        return None
    return opened
