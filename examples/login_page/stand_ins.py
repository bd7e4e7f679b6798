# SPDX-License-Identifier: MIT
"""What the demo runs on: a Redis of its own, a stand-in for GatewayAPI that prints the texts, one user.

Both stand-ins are those of the tests, so this works in a checkout only.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from fake_gatewayapi import ApiKey, FakeGatewayAPI
from private_redis import PrivateRedis
from textgate.client import AuthClient

USERS = {"alice": "wonderland"}
PHONES = {"alice": "+45 12 34 56 78"}


def is_password(username: str, password: str) -> bool:
    """A real site compares hashes (scrypt, argon2), and takes as long for a name that it doesn't know."""
    return hmac.compare_digest(USERS.get(username, "").encode(), password.encode())


@contextlib.contextmanager
def demo_client() -> Iterator[AuthClient]:
    """A client inside the `with` block; each text is printed as a phone would show it."""
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        sys.exit("login_page: error: redis-server is missing\nhint: apt-get install redis-server")
    key = ApiKey("demo-key", secrets.token_hex(16), secrets.token_hex(16))
    with PrivateRedis() as redis, FakeGatewayAPI(keys=[key]) as gateway:
        printer = threading.Thread(target=_print_texts, args=(gateway,), daemon=True)
        printer.start()
        with AuthClient.from_settings(
            store_url=redis.url,
            vault_key=f"demo:{secrets.token_hex(32)}",
            gateway_key=key.key,
            gateway_secret=key.secret,
            allowed_countries=["DK"],
            passwords=is_password,
            phones=PHONES.get,
            options={"gateway": {"url": gateway.url, "sender": "Example"}},
            audience="login-page",
        ) as client:
            yield client


def _print_texts(gateway: FakeGatewayAPI) -> None:
    seen_count = 0
    while True:
        for message in gateway.wait_for_more(seen_count, timeout=60):
            seen_count += 1
            print(f"[phone +{message.msisdn}] {message.text}", flush=True)
