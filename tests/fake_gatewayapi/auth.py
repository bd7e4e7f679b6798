# SPDX-License-Identifier: MIT
"""Who sends the request: OAuth1, token header, Basic, parameters; and the Messaging API's way.

Refusing is the normal end of each function; a key comes out of one `return` per way.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from .errors import ApiError, MobileError, coded
from .model import ApiKey, Settings
from .oauth1 import Pairs, SignedRequest, Verifier, is_signed, query_pairs
from .wire import Request

FORM_TYPE = "application/x-www-form-urlencoded"


class Authenticator:
    """Holds the keys, and the old user names with their passwords (`accounts`)."""

    def __init__(self, keys: Sequence[ApiKey], accounts: Mapping[str, str]) -> None:
        self._keys = {key.key: key for key in keys}
        self._accounts = dict(accounts)
        self.oauth1 = Verifier(self._secret_of)

    def rest_key(self, request: Request, scheme: str, now: float, settings: Settings) -> str:
        """Key name (or user name) behind a REST request; raises ApiError."""
        signed = signed_request(request, scheme)
        if is_signed(signed):
            return self.oauth1.verify(signed, now, settings.timestamp_window_s, settings.strict_body_hash)
        way, _, credentials = (request.header("Authorization") or "").partition(" ")
        if way.lower() == "token":
            return self._key_of_token(credentials.strip())
        if way.lower() == "basic":
            return self._basic(credentials.strip())
        if way:
            raise ApiError(401, "Unsupported authentication scheme")
        return self._parameters(dict([*query_pairs(signed.query), *signed.body_pairs]))

    def mobile_key(self, request: Request) -> str:
        """Key name behind a Messaging API request, which takes a token header only."""
        header = request.header("Authorization")
        if header is None:
            raise MobileError(401, {"description": "Unauthorized", "detail": []})
        way, _, token = header.partition(" ")
        try:
            if way.lower() == "token":
                return self._key_of_token(token.strip())
        except ApiError:
            pass
        raise MobileError(403, {"description": "Forbidden", "detail": []})

    def _secret_of(self, key: str) -> str | None:
        return self._keys[key].secret if key in self._keys else None

    def _key_of_token(self, token: str) -> str:
        for key in self._keys.values():
            if hmac.compare_digest(key.token.encode(), token.encode()):
                return key.key
        raise coded("0x0229")

    def _basic(self, credentials: str) -> str:
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise ApiError(401, "Unreadable credentials") from None
        return self._account(user, password) if password else self._key_of_token(user)

    def _parameters(self, fields: Mapping[str, str]) -> str:
        if "token" in fields:
            return self._key_of_token(fields["token"])
        if "user" in fields:
            return self._account(fields["user"], fields.get("password", ""))
        raise ApiError(401, "Unauthorized")

    def _account(self, user: str, password: str) -> str:
        if user not in self._accounts:
            raise coded("0x0210", user)
        if not hmac.compare_digest(self._accounts[user].encode(), password.encode()):
            raise coded("0x0211")
        return user


def signed_request(request: Request, scheme: str) -> SignedRequest:
    """The part of a request that a signature covers."""
    host = request.header("Host")
    if not host:
        raise ApiError(400, "No Host header")
    way, _, rest = (request.header("Authorization") or "").partition(" ")
    return SignedRequest(
        method=request.method,
        scheme=scheme,
        host=host,
        path=request.path,
        query=request.query,
        body=request.body,
        body_pairs=tuple(form_pairs(request)),
        oauth_header=rest if way.lower() == "oauth" else None,
    )


def form_pairs(request: Request) -> Pairs:
    """Decoded fields of a form body, none for other types."""
    if request.media_type != FORM_TYPE:
        return []
    try:
        return query_pairs(request.body.decode("ascii"))
    except UnicodeDecodeError:
        raise ApiError(400, "Unreadable form") from None
