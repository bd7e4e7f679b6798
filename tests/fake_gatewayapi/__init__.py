# SPDX-License-Identifier: MIT
"""A fake of GatewayAPI, for tests and for the demo: real HTTP on loopback, no SMS, no cost.

    with FakeGatewayAPI(keys=[ApiKey("key", "secret", "token")]) as fake:
        ...                                  # a client sends to fake.url + "/rest/mtsms"
        fake.wait_for_texts(1, timeout=5)
        code = fake.last_code("4512345678")

Standard library only, and no OAuth library at all: see `oauth1.py`. As a process of its own:
`python3 -m fake_gatewayapi serve --help`. Where the service's doing is not known, what is done here
is an assumption; `Settings` offers the other reading.
"""

from .delivery import Delivery
from .faults import Fault
from .model import AcceptedMessage, ApiKey, RecordedRequest, Settings
from .reports import ReportAttempt, Webhook
from .server import FakeGatewayAPI

__all__ = [
    "AcceptedMessage",
    "ApiKey",
    "Delivery",
    "FakeGatewayAPI",
    "Fault",
    "RecordedRequest",
    "ReportAttempt",
    "Settings",
    "Webhook",
]
