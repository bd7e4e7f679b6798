# SPDX-License-Identifier: MIT
"""The demo in its world: starts the real parts, has somebody log in, and reports what the parts say of it.

    inside.py DESCRIPTOR     where the report goes, as one JSON object

What was proved is taken from the daemon's events, from the texts that the gateway took, and from what sudo printed,
never from the fact that a step was played.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import guided, player
from demo.screen import say
from fake_gatewayapi import FakeGatewayAPI
from fake_gatewayapi.control import ControlServer
from rig.daemon import Daemon, Values, write_config, write_credentials, write_phones
from rig.pam import FirstFactor, pam_lines
from rig.people import ALICE, KEPT, is_in_world
from rig.process import RigError
from rig.redis_server import RedisServer
from rig.sshd import Sshd, openssh_version
from rig.terminal import ScreenError

REAL_URL = "https://gatewayapi.com"


@dataclass(frozen=True)
class Parts:
    """What runs. gateway and control_url: of the fake, None with real texts. phone: alice's number as written."""

    daemon: Daemon
    sshd: Sshd
    gateway: FakeGatewayAPI | None
    control_url: str | None
    phone: str
    versions: str


def main(descriptor: int) -> int:
    """Play; the exit status says only whether a report was written."""
    if not is_in_world():
        sys.exit("inside.py: error: this is run by `make demo`")
    missed: str | None = None
    facts: dict[str, object] = {"proved": [], "text_count": 0}
    with contextlib.ExitStack() as stack:
        try:
            parts = stack.enter_context(_parts())
        except (RigError, OSError, ValueError) as error:
            missed = f"the parts did not start: {error}"
        else:
            try:
                facts["proved"], missed = _prove(parts, _log_in(parts))
            except (RigError, ScreenError) as error:
                missed = str(error)
            facts["text_count"] = _text_count(parts)
            if missed is not None:
                say(f"\nthe daemon's log:\n{parts.daemon.tail()}", "dim")
    with os.fdopen(descriptor, "w") as pipe:
        json.dump({**facts, "missed": missed}, pipe)
    return 0


@contextlib.contextmanager
def _parts() -> Iterator[Parts]:
    """Gateway, Redis, daemon and sshd, started in this order and ended in the other."""
    is_real = (KEPT / "GATEWAYAPI_KEY").exists()
    with contextlib.ExitStack() as stack:
        gateway, control_url = None, None
        if is_real:
            phone, values = _real_phone()
            write_credentials(*(_kept(name) for name in ("GATEWAYAPI_KEY", "GATEWAYAPI_SECRET")))
            write_config(REAL_URL, values)
        else:
            gateway = stack.enter_context(FakeGatewayAPI())
            control_url = stack.enter_context(ControlServer(gateway)).url
            phone = ALICE.phone or ""
            key = gateway.keys[0]
            write_credentials(key.key, key.secret)
            write_config(gateway.url)
        write_phones((), {ALICE.name: phone})
        redis = stack.enter_context(RedisServer())
        daemon = stack.enter_context(Daemon())
        sshd = stack.enter_context(Sshd(FirstFactor.KEY))
        stack.enter_context(pam_lines("sudo", FirstFactor.PASSWORD))
        sshd.make_known_to_clients(ALICE)
        yield Parts(daemon, sshd, gateway, control_url, phone, _versions(redis, daemon))


def _versions(redis: RedisServer, daemon: Daemon) -> str:
    """What runs, for the first line of a transcript."""
    store, own = redis.client.info("server")["redis_version"], daemon.wait_event("service")["version"]
    return f"textgated {own}, Redis {store}, OpenSSH {'.'.join(map(str, openssh_version()))}"


def _kept(name: str) -> str:
    return (KEPT / name).read_text().strip()


def _real_phone() -> tuple[str, Values]:
    """The number to text for real, and a configuration that allows its country only. Raises ValueError."""
    import phonenumbers

    written = _kept("PHONE")
    try:
        number = phonenumbers.parse(written)
    except phonenumbers.NumberParseException:
        raise ValueError("PHONE is not a number such as +45 12 34 56 78") from None
    region = phonenumbers.region_code_for_number(number)
    return written, {"limits": {"allowed_countries": [region] if region else ["*"]}}


def _is_guided() -> bool:
    """Whether a person is there to log in."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _log_in(parts: Parts) -> bool:
    """Whether `sudo whoami` said root, in the hands of a person or played."""
    if _is_guided():
        return guided.log_in(parts.sshd, control_url=parts.control_url, phone=parts.phone, password=ALICE.password)
    if parts.gateway is None:
        raise RigError("real texts need a terminal")
    say(f"A private world with {parts.versions} and a fake GatewayAPI.\n", "dim")
    return player.log_in(parts.sshd, parts.gateway)


# --- What was proved. ---


def _prove(parts: Parts, was_root: bool) -> tuple[list[str], str | None]:
    """What the parts bear out, and the first step that they don't."""
    daemon = parts.daemon
    passed = {service: bool(daemon.find_events("check", user="alice", service=service, result="pass", reason="code"))
              for service in ("sshd", "sudo")}  # fmt: skip
    was_refused = bool(daemon.find_events("check", user="alice", result="deny", reason="wrong"))
    steps = (
        (passed["sshd"], "key + texted code → ssh login"),
        (passed["sudo"] and was_root, "password + texted code → sudo root"),
        (was_refused, "a wrong code was refused"),
    )
    # A person may do without a wrong code; the player types one.
    needed = steps[:-1] if _is_guided() else steps
    missed = next((f"this did not happen: {words}" for is_proved, words in needed if not is_proved), None)
    if missed is None and _text_count(parts) < 2:
        missed = "there were two codes, but no two texts"
    return [words for is_proved, words in steps if is_proved], missed


def _text_count(parts: Parts) -> int:
    """Texts that the gateway took: by its own word where it is the fake, else by the daemon's."""
    noted = len(parts.daemon.find_events("send", user="alice", result="sent"))
    if parts.gateway is None:
        return noted
    taken = len(parts.gateway.texts_to(ALICE.msisdn))
    if taken != noted:
        raise RigError(f"the daemon noted {noted} texts, the gateway took {taken}")
    return taken


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
