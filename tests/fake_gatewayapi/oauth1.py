# SPDX-License-Identifier: MIT
"""The server's side of OAuth 1.0a, two-legged, written from RFC 5849 alone.

No OAuth library is used: the client signs with one, and the same code on both ends would agree with
itself about its own faults. JSON bodies are not part of the signature (RFC 5849 §3.4.1.3.1).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from .errors import ApiError, coded

Pairs = list[tuple[str, str]]

REQUIRED = (
    "oauth_consumer_key",
    "oauth_nonce",
    "oauth_signature_method",
    "oauth_timestamp",
    "oauth_signature",
)
KNOWN = frozenset({*REQUIRED, "oauth_version", "oauth_token", "oauth_body_hash"})
DEFAULT_PORTS = {"http": "80", "https": "443"}
_HEADER_PAIR = re.compile(r'\s*([^\s=",]+)\s*=\s*"([^"]*)"\s*(?:,|$)')


@dataclass(frozen=True)
class SignedRequest:
    """What the signature covers. `path` and `query` are as sent, `body_pairs` decoded form fields.

    `oauth_header` is what follows the word OAuth in `Authorization`, or None.
    """

    method: str
    scheme: str
    host: str
    path: str
    query: str
    body: bytes = b""
    body_pairs: tuple[tuple[str, str], ...] = ()
    oauth_header: str | None = None


def pct(text: str) -> str:
    """Percent-encode the UTF-8 of text, leaving letters, digits and -._~ (RFC 5849 §3.6)."""
    return quote(text, safe="")


def query_pairs(query: str) -> Pairs:
    """Decoded name-value pairs of a query or form body; 400 if they are not UTF-8."""
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise ApiError(400, "Unreadable parameters") from None


def base_uri(scheme: str, host: str, path: str) -> str:
    """Base string URI (RFC 5849 §3.4.1.2): lower case, without the default port."""
    host = host.lower()
    name, colon, port = host.rpartition(":")
    if colon and port == DEFAULT_PORTS[scheme]:
        host = name
    return f"{scheme}://{host}{path or '/'}"


def normalised(pairs: Iterable[tuple[str, str]]) -> str:
    """Parameters encoded, then sorted, then joined (RFC 5849 §3.4.1.3.2)."""
    encoded = sorted((pct(name), pct(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def base_string(method: str, uri: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Signature base string (RFC 5849 §3.4.1.1)."""
    return "&".join((method.upper(), pct(uri), pct(normalised(pairs))))


def signature(base: str, secret: str) -> str:
    """HMAC-SHA1 in base64; the token secret is empty, so the key ends in "&" (RFC 5849 §3.4.2)."""
    digest = hmac.new(f"{pct(secret)}&".encode(), base.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def parse_header(header: str) -> Pairs:
    """Pairs of an `OAuth …` header in the order sent, without realm (RFC 5849 §3.5.1)."""
    pairs: Pairs = []
    position = 0
    while position < len(header.rstrip()):
        match = _HEADER_PAIR.match(header, position)
        if match is None:
            raise ApiError(400, "Unreadable Authorization header")
        pairs.append((unquote(match[1]), unquote(match[2])))
        position = match.end()
    return [pair for pair in pairs if pair[0].lower() != "realm"]


class NonceBook:
    """Nonces that were used, each kept for `keep_s` seconds. Spending is atomic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen_at: dict[tuple[str, str], float] = {}

    def spend(self, key: str, nonce: str, now: float, keep_s: float) -> bool:
        """Whether this pair is new; it is used from now on."""
        with self._lock:
            old = [pair for pair, at in self._seen_at.items() if at + keep_s < now]
            for pair in old:
                del self._seen_at[pair]
            if (key, nonce) in self._seen_at:
                return False
            self._seen_at[key, nonce] = now
            return True

    def clear(self) -> None:
        """Forget all nonces."""
        with self._lock:
            self._seen_at.clear()


class Verifier:
    """Checks signed requests. `secret_of` gives the shared secret of a key, or None."""

    def __init__(self, secret_of: Callable[[str], str | None]) -> None:
        self._secret_of = secret_of
        self.nonces = NonceBook()

    def verify(self, request: SignedRequest, now: float, window_s: float, strict_body_hash: bool = True) -> str:
        """The consumer key of a good request; raises ApiError for every other.

        Order: parameters, key, signature, timestamp, nonce. The nonce is spent only by a request
        that got that far, so nobody without the secret can burn one.
        """
        oauth = _oauth_pairs(request)
        values = _checked(oauth)
        _check_body_hash(values, request.body, strict_body_hash)
        key = values["oauth_consumer_key"]
        secret = self._secret_of(key)
        if secret is None:
            raise coded("0x0223")
        if not hmac.compare_digest(_expected(request, oauth, secret).encode(), values["oauth_signature"].encode()):
            raise coded("0x0224")
        if not _is_timely(values["oauth_timestamp"], now, window_s):
            raise coded("0x0225")
        # A stamp of now + window stays good for two windows, so nonces are kept as long.
        if not self.nonces.spend(key, values["oauth_nonce"], now, 2 * window_s):
            raise coded("0x0226")
        return key


def is_signed(request: SignedRequest) -> bool:
    """Whether any OAuth parameter came with the request."""
    names = [name for name, _ in (*query_pairs(request.query), *request.body_pairs)]
    return request.oauth_header is not None or any(n.startswith("oauth_") for n in names)


def _oauth_pairs(request: SignedRequest) -> Pairs:
    """The OAuth parameters from the one place that has them; two places are a 400."""
    others = [*query_pairs(request.query), *request.body_pairs]
    outside = [pair for pair in others if pair[0].startswith("oauth_")]
    if request.oauth_header is None:
        return outside
    if outside:
        raise ApiError(400, "OAuth parameters in more than one place")
    return parse_header(request.oauth_header)


def _checked(oauth: Pairs) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in oauth:
        if name in values or name not in KNOWN:
            raise coded("0x0220", name)
        values[name] = value
    for name in REQUIRED:
        if not values.get(name):
            raise coded("0x0222", name)
    if values["oauth_signature_method"] != "HMAC-SHA1":
        raise coded("0x0221", values["oauth_signature_method"])
    if values.get("oauth_version", "1.0") != "1.0":
        raise coded("0x0220", "oauth_version")
    if values.get("oauth_token"):  # two-legged: present and empty is fine, a token is not
        raise coded("0x0220", "oauth_token")
    return values


def _check_body_hash(values: dict[str, str], body: bytes, strict: bool) -> None:
    """The body hash extension: refused when strict, else compared."""
    claimed = values.get("oauth_body_hash")
    if claimed is None:
        return
    if strict:
        raise coded("0x0220", "oauth_body_hash")
    actual = base64.b64encode(hashlib.sha1(body).digest())
    if not hmac.compare_digest(actual, claimed.encode()):
        raise coded("0x0224")


def _expected(request: SignedRequest, oauth: Pairs, secret: str) -> str:
    pairs = [*query_pairs(request.query), *request.body_pairs]
    if request.oauth_header is not None:
        pairs += oauth
    pairs = [pair for pair in pairs if pair[0] != "oauth_signature"]
    uri = base_uri(request.scheme, request.host, request.path)
    return signature(base_string(request.method, uri, pairs), secret)


def _is_timely(stamp: str, now: float, window_s: float) -> bool:
    if re.fullmatch(r"[0-9]{1,12}", stamp) is None:
        return False
    return abs(now - int(stamp)) <= window_s
