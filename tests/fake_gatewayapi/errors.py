# SPDX-License-Identifier: MIT
"""The error codes of GatewayAPI and the body that carries them.

One table holds every code with its HTTP status and its wording. `code` and `variables` are left out
of the body when they are empty, and `%1` stays unreplaced: both as the service does it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection

# code -> (HTTP status, message as returned)
CODES: dict[str, tuple[int, str]] = {
    "0x0210": (401, "Invalid username: %1"),
    "0x0211": (401, "Invalid password"),
    "0x0212": (401, "Invalid IP-address: %1"),
    "0x0213": (403, "Unauthorized IP-address: %1"),
    "0x0214": (403, "Temporary blacklist for MSISDN %1 with hash %2"),
    "0x0215": (403, "MSISDN %1 blacklisted"),
    "0x0216": (403, "Insufficient credit"),
    "0x0217": (403, "Unauthorized destination: country %1"),
    "0x0218": (422, "Unknown message class id %1"),
    "0x0219": (403, "E-mail not enabled for account"),
    "0x021A": (403, "HLR not enabled for account"),
    "0x021B": (403, "Phonebook not enabled for account"),
    "0x021C": (403, "MMS not enabled for account"),
    "0x021D": (403, "SMS not enabled for account"),
    "0x021E": (500, "Message class %1 is not configured for %2"),
    "0x021F": (403, "Unauthorized operator: MCC %1, MNC %2"),
    "0x0220": (400, "Unsupported parameter %1"),
    "0x0221": (400, "Unsupported signature method %1"),
    "0x0222": (400, "Missing required parameter %1"),
    "0x0223": (401, "Invalid Consumer Key"),
    "0x0224": (401, "Invalid signature"),
    "0x0225": (401, "Expired timestamp"),
    "0x0226": (401, "Invalid / used nonce"),
    "0x0229": (401, "Invalid token"),
    "0x022A": (403, "Account frozen, contact support"),
    "0x0310": (
        422,
        "A message contains the same recipient more than once. MSISDNs %1 is duplicated",
    ),
    "0x0311": (422, "Priority %1 not available"),
    "0x0312": (422, "Messages filtered based on content"),
}

# What an injected error puts where the message has %1 and %2.
SAMPLE_VARIABLES: dict[str, tuple[str, ...]] = {
    "0x0210": ("nobody",),
    "0x0212": ("192.0.2.4",),
    "0x0213": ("192.0.2.4",),
    "0x0214": ("4512345678", "d41d8cd9"),
    "0x0215": ("4512345678",),
    "0x0217": ("DK",),
    "0x0218": ("gold",),
    "0x021E": ("secret", "DK"),
    "0x021F": ("238", "01"),
    "0x0220": ("oauth_colour",),
    "0x0221": ("PLAINTEXT",),
    "0x0222": ("oauth_nonce",),
    "0x0310": ("4512345678",),
    "0x0311": ("URGENT",),
}


class ApiError(Exception):
    """A refusal of the API: HTTP status, code ("" for none), message, variables."""

    def __init__(self, status: int, message: str, code: str = "", variables: Collection[str] = ()) -> None:
        super().__init__(f"{status} {code or 'without code'}")
        self.status = status
        self.code = code
        self.message = message
        self.variables = tuple(variables)


class MobileError(Exception):
    """A refusal of the Messaging API, which has bodies of its own."""

    def __init__(self, status: int, body: dict[str, object]) -> None:
        super().__init__(f"{status} of the Messaging API")
        self.status = status
        self.body = body


def coded(code: str, *variables: str) -> ApiError:
    """The error with this code, status and wording from the table."""
    status, message = CODES[code]
    return ApiError(status, message, code, variables)


def sample(code: str) -> ApiError:
    """The error with this code and made-up variables, for injection."""
    return coded(code, *SAMPLE_VARIABLES.get(code, ()))


def error_body(error: ApiError, omit: Collection[str] = ()) -> bytes:
    """The JSON body; each has a new `incident_uuid`. `omit` names members to leave out."""
    body: dict[str, object] = {
        "code": error.code,
        "incident_uuid": str(uuid.uuid4()),
        "message": error.message,
        "variables": list(error.variables),
    }
    kept = {name: value for name, value in body.items() if value and name not in omit}
    return json.dumps(kept).encode()
