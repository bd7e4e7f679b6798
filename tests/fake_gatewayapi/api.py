# SPDX-License-Identifier: MIT
"""The API itself: from a request to an answer, in the fixed order of checks.

Route and method, authentication, body (400), schema (422), class and priority, duplicates, content,
country and blacklist, credit, accept. The first failing check answers; nothing is accepted then.
No socket here: `server.py` reads and writes, and injects faults around this.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .account import Account, Receipt, automatic_encoding
from .auth import FORM_TYPE, Authenticator, form_pairs
from .countries import country_of, price_list
from .delivery import Event, Network
from .errors import ApiError, MobileError, coded, error_body
from .model import AcceptedMessage, Draft, RecordedRequest, Settings
from .oauth1 import query_pairs
from .validate import (
    expand_form,
    load_json,
    mobile_bad_json,
    mobile_draft,
    mobile_drafts,
    rest_drafts,
)
from .wire import Response

_KNOWN_CLASSES = frozenset({"standard", "premium", "secret", "charge"})
_PRIORITIES = frozenset({"BULK", "NORMAL", "URGENT", "VERY_URGENT"})
_PREMIUM_PRIORITIES = frozenset({"URGENT", "VERY_URGENT"})
_LINK = re.compile(r"(?:https?://|\bwww\.)([^\s/:?#]+)", re.IGNORECASE)
_MESSAGE_PATH = re.compile(r"/rest/mtsms/([0-9]{1,18})", re.ASCII)
_MESSAGE_ROUTE = "/rest/mtsms/<id>"

Handler = Callable[["Api", RecordedRequest, float], Response]


class Api:
    """Answers requests. `life_now` is the clock of the texts, not the one signatures meet."""

    def __init__(
        self,
        authenticator: Authenticator,
        account: Account,
        network: Network,
        *,
        settings: Callable[[], Settings],
        life_now: Callable[[], float],
        on_accept: Callable[[Sequence[AcceptedMessage]], None],
        on_cancel: Callable[[Sequence[AcceptedMessage]], None],
    ) -> None:
        self._authenticator = authenticator
        self._account = account
        self._network = network
        self._settings = settings
        self._life_now = life_now
        self._on_accept = on_accept
        self._on_cancel = on_cancel
        self.scheme = "http"

    def handle(self, request: RecordedRequest, now: float) -> Response:
        """The answer; notes verdict, error code and ids on the request. now: for signatures."""
        try:
            response = _route(request)(self, request, now)
        except ApiError as error:
            response = Response(error.status, error_body(error), code=error.code)
        except MobileError as error:
            response = Response(error.status, json.dumps(error.body).encode())
        request.error_code = response.code
        if request.verdict == "nothing":
            request.verdict = "ok" if response.status < 300 else "refused"
        return response

    # --- routes, named in _ROUTES ------------------------------------------------------------

    def send_rest(self, request: RecordedRequest, now: float) -> Response:
        """POST /rest/mtsms, and GET with the message in the query."""
        key = self._rest_key(request, now)
        drafts = rest_drafts(self._rest_root(request))
        settings = self._settings()
        for check in (_check_class, _check_duplicates, _check_content, _check_destination):
            for draft in drafts:
                check(draft, settings)
        receipt = self._accept(request, drafts, "rest", key)
        return self._success(self._rest_body(receipt, drafts))

    def message(self, request: RecordedRequest, now: float) -> Response:
        """GET /rest/mtsms/<id>: known only once it was sent."""
        self._rest_key(request, now)
        messages = self._account.find(_message_id(request))
        sent_at = self._network.sent_at(messages[0]) if messages else None
        if sent_at is None or self._life_now() < sent_at + self._settings().report_lag_s:
            raise ApiError(404, "Not found")
        return self._success([self._message_body(messages)])

    def cancel(self, request: RecordedRequest, now: float) -> Response:
        """DELETE /rest/mtsms/<id>."""
        self._rest_key(request, now)
        messages = self._account.find(_message_id(request))
        if not messages:
            raise ApiError(404, "Not found")
        if not self._network.cancel(messages[0], self._life_now()):
            raise ApiError(410, "Gone")
        self._on_cancel(messages)
        return Response(204, headers=())

    def me(self, request: RecordedRequest, now: float) -> Response:
        """GET /rest/me: the balance."""
        self._rest_key(request, now)
        credit = self._account.credit
        shown = str(credit) if self._settings().credit_as_string else float(credit)
        return self._success({"credit": shown, "currency": self._account.currency, "id": 1})

    def prices(self, _request: RecordedRequest, _now: float) -> Response:
        """GET /api/prices/list/sms/json: open to all."""
        return self._success(price_list())

    def hlr(self, request: RecordedRequest, now: float) -> Response:
        """POST /rest/hlr: not part of this account."""
        self._rest_key(request, now)
        raise coded("0x021A")

    def email(self, request: RecordedRequest, now: float) -> Response:
        """POST /rest/email: not part of this account."""
        self._rest_key(request, now)
        raise coded("0x0219")

    def send_mobile(self, request: RecordedRequest, _now: float) -> Response:
        """POST /mobile/single."""
        key = self._authenticator.mobile_key(request)
        draft = mobile_draft(_mobile_root(request), self._life_now())
        receipt = self._accept_mobile(request, [draft], key)
        return self._success(_mobile_body(receipt.messages[0]), 202)

    def send_mobile_multi(self, request: RecordedRequest, _now: float) -> Response:
        """POST /mobile/multi."""
        key = self._authenticator.mobile_key(request)
        drafts = mobile_drafts(_mobile_root(request), self._life_now())
        receipt = self._accept_mobile(request, drafts, key)
        return self._success({"responses": [_mobile_body(m) for m in receipt.messages]}, 202)

    # --- steps -------------------------------------------------------------------------------

    def _rest_key(self, request: RecordedRequest, now: float) -> str:
        return self._authenticator.rest_key(request, self.scheme, now, self._settings())

    def _rest_root(self, request: RecordedRequest) -> Any:
        if request.method == "GET":
            return expand_form(query_pairs(request.query))
        if request.media_type == FORM_TYPE:
            return expand_form(form_pairs(request))
        try:
            return load_json(request.body)
        except ValueError:
            raise ApiError(self._settings().bad_json_status, "Invalid JSON body") from None

    def _accept_mobile(self, request: RecordedRequest, drafts: Sequence[Draft], key: str) -> Receipt:
        settings = self._settings()
        encoded = [replace(draft, encoding=automatic_encoding(draft)) for draft in drafts]
        for check in (_check_content, _check_destination):
            for draft in encoded:
                check(draft, settings)
        return self._accept(request, encoded, "mobile", key)

    def _accept(self, request: RecordedRequest, drafts: Sequence[Draft], api: str, key: str) -> Receipt:
        receipt = self._account.accept(drafts, api, key, self._life_now())
        request.verdict = "accepted"
        request.message_ids = receipt.ids
        self._on_accept(receipt.messages)
        return receipt

    def _success(self, body: Any, status: int = 200) -> Response:
        if self._settings().extra_field and isinstance(body, dict):
            body = {**body, "added_later": {"since": 2031, "why": None}}
        return Response(status, json.dumps(body).encode())

    def _rest_body(self, receipt: Receipt, drafts: Sequence[Draft]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "ids": list(receipt.ids),
            "usage": {
                "countries": receipt.parts_by_country,
                "currency": self._account.currency,
                "total_cost": float(receipt.cost),
            },
        }
        if any(draft.extra_details == "recipients_usage" for draft in drafts):
            body["details"] = {"messages": _usage(receipt)}
        return body

    def _message_body(self, messages: Sequence[AcceptedMessage]) -> dict[str, Any]:
        now = self._life_now()
        states = [(message, self._network.state(message, now)) for message in messages]
        recipients = [_recipient_body(message, state, self._network.sent_at(message)) for message, state in states]
        return {**messages[0].fields, "id": messages[0].id, "recipients": recipients}


# (method, path) -> handler. A path that is here with another method gets a 405.
_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/rest/mtsms"): Api.send_rest,
    ("GET", "/rest/mtsms"): Api.send_rest,
    ("GET", _MESSAGE_ROUTE): Api.message,
    ("DELETE", _MESSAGE_ROUTE): Api.cancel,
    ("GET", "/rest/me"): Api.me,
    ("GET", "/api/prices/list/sms/json"): Api.prices,
    ("POST", "/rest/hlr"): Api.hlr,
    ("POST", "/rest/email"): Api.email,
    ("POST", "/mobile/single"): Api.send_mobile,
    ("POST", "/mobile/multi"): Api.send_mobile_multi,
}


def _route(request: RecordedRequest) -> Handler:
    path = _MESSAGE_ROUTE if _MESSAGE_PATH.fullmatch(request.path) else request.path
    handler = _ROUTES.get((request.method, path))
    if handler is not None:
        return handler
    is_known = any(path == known for _, known in _ROUTES)
    raise ApiError(405, "Method not allowed") if is_known else ApiError(404, "Not found")


def _message_id(request: RecordedRequest) -> int:
    return int(request.path.rpartition("/")[2])


def _mobile_root(request: RecordedRequest) -> Any:
    try:
        return load_json(request.body)
    except ValueError:
        raise mobile_bad_json() from None


# --- business rules, in the order they are asked -------------------------------------------------


def _check_class(draft: Draft, settings: Settings) -> None:
    if draft.message_class not in _KNOWN_CLASSES:
        raise coded("0x0218", draft.message_class)
    if draft.message_class not in settings.message_classes:
        raise coded("0x021E", draft.message_class, country_of(draft.recipients[0][0]).code)
    needs_premium = draft.priority in _PREMIUM_PRIORITIES and draft.message_class != "premium"
    if draft.priority not in _PRIORITIES or needs_premium:
        raise coded("0x0311", draft.priority)


def _check_duplicates(draft: Draft, _settings: Settings) -> None:
    seen: set[str] = set()
    for msisdn, _ in draft.recipients:
        if msisdn in seen:
            raise coded("0x0310", msisdn)
        seen.add(msisdn)


def _check_content(draft: Draft, settings: Settings) -> None:
    for _, text in draft.recipients:
        hosts = {host.lower() for host in _LINK.findall(text)}
        has_bad_word = any(word.lower() in text.lower() for word in settings.blocked_words)
        if has_bad_word or hosts - settings.allowed_link_hosts:
            raise coded("0x0312")


def _check_destination(draft: Draft, settings: Settings) -> None:
    for msisdn, text in draft.recipients:
        country = country_of(msisdn).code
        if settings.allowed_countries is not None and country not in settings.allowed_countries:
            raise coded("0x0217", country)
        if msisdn in settings.temporarily_blacklisted:
            raise coded("0x0214", msisdn, hashlib.sha256(text.encode()).hexdigest()[:8])
        if msisdn in settings.blacklisted:
            raise coded("0x0215", msisdn)


# --- parts of bodies -----------------------------------------------------------------------------


def _usage(receipt: Receipt) -> list[dict[str, Any]]:
    return [
        {
            "id": message_id,
            "recipients": [
                {"country": m.country, "msisdn": int(m.msisdn), "parts": m.part_count}
                for m in receipt.messages
                if m.id == message_id
            ],
        }
        for message_id in receipt.ids
    ]


def _recipient_body(message: AcceptedMessage, state: Event, sent_at: float | None) -> dict[str, Any]:
    at, stage = state
    tagvalues = next(
        (r.get("tagvalues") for r in message.fields["recipients"] if str(r["msisdn"]) == message.msisdn),
        None,
    )
    return {
        "country": message.country,
        "csms": message.part_count,
        "dsnerror": stage.error,
        "dsnerrorcode": stage.code,
        "dsnstatus": stage.status,
        "dsntime": float(at),
        "mcc": None,
        "mnc": None,
        "msisdn": int(message.msisdn),
        "senttime": sent_at,
        "tagvalues": tagvalues,
    }


def _mobile_body(message: AcceptedMessage) -> dict[str, Any]:
    return {
        "msg_id": message.id,
        "recipient": int(message.msisdn),
        "reference": message.userref,
    }


def plausible_success(path: str, currency: str) -> Response:
    """An answer that looks like a success although nothing was accepted, for faults."""
    if path == "/mobile/single":
        body: dict[str, Any] = {"msg_id": "01JNN6Z0000000000000000000", "recipient": 4512345678, "reference": None}
        return Response(202, json.dumps(body).encode())
    usage = {"countries": {"DK": 1}, "currency": currency, "total_cost": 0.15}
    return Response(200, json.dumps({"ids": [421332671], "usage": usage}).encode())
