# SPDX-License-Identifier: MIT
"""`python3 -m fake_gatewayapi serve` and `… phone`: the fake as a process, and a phone to look at.

Secrets come from a file, never from the command line or the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import FrameType
from typing import Any

EPILOG = """\
keys file (JSON):
  {"keys": [{"key": "…", "secret": "…", "token": "…"}], "webhook_secret": "…"}
  If it does not exist it is written, mode 0600, with random values.

ready file (JSON), written when both ports answer:
  {"url": "http://127.0.0.1:…", "control_url": "http://127.0.0.1:…", "pid": …, "keys_file": "…", "ca_file": …}

control interface: GET / of control_url lists its verbs, for example
  curl -s $CONTROL/texts
  curl -s $CONTROL/faults -d '{"kind": "delay", "accept": true, "options": {"seconds": 5}}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit status: 0 ended as asked, 1 could not start, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fake_gatewayapi",
        description="A fake of GatewayAPI on 127.0.0.1: takes texts, sends none, costs nothing.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the fake until SIGTERM or Ctrl-C",
        description="Run the fake until SIGTERM or Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_serve_options(serve)
    phone = commands.add_parser(
        "phone",
        help="show the texts that a running fake accepted",
        description="Show the texts that a running fake accepted: a phone on a terminal, else one line each.",
    )
    phone.add_argument("--control", required=True, metavar="URL", help="control_url of the ready file")
    phone.add_argument(
        "--follow", action="store_true", help="go on showing until SIGTERM, Ctrl-C or the end of the fake"
    )
    phone.add_argument("--count", type=_positive, metavar="N", help="wait for N texts, then end")
    phone.add_argument("--msisdn", metavar="DIGITS", help="only texts to this number")
    phone.set_defaults(run=_run_phone)
    return parser


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--port", type=int, default=0, help="of the API (default: a free one)")
    serve.add_argument("--control-port", type=int, default=0, help="of the control interface (default: a free one)")
    serve.add_argument("--keys-file", type=Path, required=True, metavar="FILE", help="keys, see below")
    serve.add_argument("--ready-file", type=Path, metavar="FILE", help="written once all is ready, see below")
    serve.add_argument("--credit", type=_decimal, default=Decimal("100.00"), help="on the account (default: 100.00)")
    serve.add_argument("--currency", choices=("DKK", "EUR"), default="DKK", help="of the account (default: DKK)")
    serve.add_argument("--clock-offset-s", type=float, default=0.0, metavar="S", help="let its clock be off")
    serve.add_argument(
        "--tls",
        choices=("trusted", "self-signed", "wrong-name", "expired"),
        help="speak HTTPS with such a certificate; ca_file is what clients should trust",
    )
    serve.add_argument("--webhook", metavar="URL", help="post delivery reports there (loopback only)")
    serve.add_argument(
        "--reports",
        choices=("wall", "virtual"),
        default="wall",
        help="when: as time passes, or when told by POST /advance (default: wall)",
    )
    serve.set_defaults(run=_run_serve)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError from None


# --- serve -----------------------------------------------------------------------------------


def _run_serve(options: argparse.Namespace) -> int:
    # Blocked before any thread starts, so that only sigwait() below gets them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    from .control import ControlServer
    from .reports import Webhook
    from .server import FakeGatewayAPI

    try:
        keys, webhook_secret = _load_keys(options.keys_file)
        fake = FakeGatewayAPI(
            keys=keys,
            credit=options.credit,
            currency=options.currency,
            port=options.port,
            tls=options.tls,
            reports=options.reports,
        )
        fake.clock_offset_s = options.clock_offset_s
        if options.webhook:
            fake.webhook = Webhook(options.webhook, webhook_secret)
        with fake, ControlServer(fake, options.control_port) as control:
            ready = {
                "url": fake.url,
                "control_url": control.url,
                "pid": os.getpid(),
                "keys_file": str(options.keys_file.resolve()),
                "ca_file": str(fake.ca_file) if options.tls else None,
            }
            _announce(ready, options.ready_file)
            signal.sigwait(signals)
    except (OSError, ValueError) as error:
        print(f"fake_gatewayapi: error: cannot start: {error}", file=sys.stderr)
        print("hint: is the port free, and the keys file as `serve --help` says?", file=sys.stderr)
        return 1
    return 0


def _load_keys(path: Path) -> tuple[list[Any], str]:
    """Keys and webhook secret of a file, which is made if there is none."""
    from .model import ApiKey

    if not path.exists():
        _write_new_keys(path)
    try:
        content = json.loads(path.read_text("utf-8"))
        keys = [ApiKey(str(row["key"]), str(row["secret"]), str(row["token"])) for row in content["keys"]]
        return keys, str(content.get("webhook_secret", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("the keys file cannot be used") from None  # its content stays out of messages


def _write_new_keys(path: Path) -> None:
    key = {"key": secrets.token_urlsafe(18), "secret": secrets.token_urlsafe(36), "token": secrets.token_urlsafe(36)}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"keys": [key], "webhook_secret": secrets.token_urlsafe(36)}, file)


def _announce(ready: dict[str, Any], path: Path | None) -> None:
    """Write the ready file in one step, so that nobody reads half of it; then say so."""
    if path is not None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(ready), "utf-8")
        temporary.replace(path)
    print(f"fake_gatewayapi: {ready['url']}, control {ready['control_url']}", flush=True)


# --- phone -----------------------------------------------------------------------------------


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # the same orderly end as Ctrl-C: the cursor comes back


def _run_phone(options: argparse.Namespace) -> int:
    from .phone import run

    signal.signal(signal.SIGTERM, _end)
    return run(options.control, options.follow, options.count, options.msisdn)


if __name__ == "__main__":
    sys.exit(main())
