# SPDX-License-Identifier: MIT
"""What a machine needs around textgate: the fake GatewayAPI as a service in it, a configuration, people with phones.

gateway = Gateway.start(machine)             # a systemd service of the machine: it is there again after a reboot
machine.install(deb)
configure(machine, gateway)                  # credentials, textgate.toml, phones; starts what an installation enables
gateway.code(ALICE_MSISDN)                   # the code of the newest text
log_in(machine, gateway).status == 0         # a login by the PAM helper, without PAM
add_load_users(machine, 50)
with Load.start(machine, at_once=50) as load:    # logins by the socket's own protocol, many at once
    ...
    assert load.result()["failed"] == []
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .machines import REPOSITORY, Machine, MachineError

ALICE, ALICE_MSISDN = "alice", "4512345601"
PLACE = "/opt/textgate-tests"
KEYS = {"key": "system-test-key", "secret": "system-test-secret", "token": "system-test-token"}
API_PORT, CONTROL_PORT = 8025, 8026

# The daemon first: systemd stops it first and starts it last.
RESTART = ("systemctl", "restart", "textgated.service", "textgate-redis.service")

_UNIT = f"""\
[Unit]
Description=fake GatewayAPI
Before=textgated.service
[Service]
WorkingDirectory={PLACE}
ExecStart=/usr/bin/python3 -B -m fake_gatewayapi serve --port {API_PORT} --control-port {CONTROL_PORT} \
    --keys-file /etc/fake-gatewayapi.json --ready-file /run/fake-gatewayapi.json --credit 100000
[Install]
WantedBy=multi-user.target
"""
_ASK = """\
import sys, urllib.request
method, path, body = sys.argv[1:]
request = urllib.request.Request(f"http://127.0.0.1:%d{path}", body.encode() or None, method=method)
sys.stdout.write(urllib.request.urlopen(request, timeout=60).read().decode())
"""

# Tests log in more often than people do, and from one place.
UNTHROTTLED = """\
send_spacing_s = 0
sends_per_15_minutes = 1000
sends_per_day = 10000
sends_per_phone_per_day = 100000
sends_per_source_per_hour = 1000000
sends_per_host_per_minute = 1000000
sends_per_country_per_day = 1000000
sends_per_day_in_all = 1000000
spend_per_day = 100000
"""


class Gateway:
    """The fake GatewayAPI in a machine."""

    url = f"http://127.0.0.1:{API_PORT}"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @classmethod
    def start(cls, machine: Machine) -> Self:
        """Copy it in and start it; needs python3 in the machine."""
        machine.copy_in(REPOSITORY / "tests" / "fake_gatewayapi", f"{PLACE}/fake_gatewayapi")
        machine.write("/etc/fake-gatewayapi.json", json.dumps({"keys": [KEYS]}), mode=0o600)
        machine.write("/etc/systemd/system/fake-gatewayapi.service", _UNIT)
        machine.run("systemctl daemon-reload && systemctl enable -q --now fake-gatewayapi")
        machine.wait_until(["test", "-e", "/run/fake-gatewayapi.json"])
        return cls(machine)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call a verb of its control interface (fake_gatewayapi/control.py)."""
        argv = [
            "/usr/bin/python3",
            "-I",
            "-B",
            "-c",
            _ASK % CONTROL_PORT,
            method,
            path,
            json.dumps(body) if body else "",
        ]
        return json.loads(self._machine.run(argv).stdout)

    def texts(self, msisdn: str) -> list[str]:
        """All texts to a number."""
        return [str(row["text"]) for row in self.ask("GET", f"/texts?msisdn={msisdn}")["texts"]]

    def code(self, msisdn: str) -> str:
        """The code in the newest text to a number."""
        return str(self.ask("GET", f"/code?msisdn={msisdn}")["code"])


def configure(machine: Machine, gateway: Gateway, *, limits: str = UNTHROTTLED, more: str = "") -> None:
    """What `textgate setup` asks for, by hand; textgate is running when this returns.

    limits: lines below [limits]. more: further sections of textgate.toml.
    """
    for name in ("key", "secret"):
        machine.write(f"/etc/textgate/credentials/gatewayapi-{name}", KEYS[name] + "\n", mode=0o600)
    machine.write(
        "/etc/textgate/textgate.toml",
        f'[limits]\nallowed_countries = ["DK"]\n{limits}\n[gateway]\nurl = "{gateway.url}"\n{more}',
    )
    machine.write("/etc/textgate/phones", f"{ALICE}: +{ALICE_MSISDN}\n", mode=0o640, owner="root:textgate")
    machine.run(["systemctl", "start", "textgated.socket", "textgated-admin.socket"])
    machine.run(RESTART)


@dataclass(frozen=True)
class Answer:
    """What the PAM helper did: status 0 lets in, everything else does not. text: what the person is shown."""

    status: int
    text: str


def helper(machine: Machine, verb: str, code: str = "", *, user: str = ALICE, login: int = 1) -> Answer:
    """Run the PAM helper as pam_exec does in an ssh login; `login` tells logins apart."""
    items = {
        "PAM_USER": user,
        "PAM_SERVICE": "sshd",
        "PAM_TTY": "ssh",
        "PAM_RHOST": "192.0.2.9",
        "PAM_TYPE": "auth",
        "SSH_CONNECTION": f"192.0.2.9 {40000 + login} 192.0.2.1 22",
    }
    settings = [f"{name}={value}" for name, value in items.items()]
    # A login is known by who runs the helper, too: here it is systemd each time.
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
    argv = [*run, "env", "-i", *settings, "/usr/libexec/textgate/pam-helper", verb]
    done = machine.run(argv, stdin=code + "\0" if verb == "check" else "", check=False)
    return Answer(done.status, done.stdout)


def log_in(machine: Machine, gateway: Gateway, *, login: int = 1) -> Answer:
    """A whole login of alice with the right code: the answer that let her in, or the one that did not."""
    asked = helper(machine, "begin", login=login)
    if "code" not in asked.text.lower() or not gateway.texts(ALICE_MSISDN):
        return asked
    return helper(machine, "check", gateway.code(ALICE_MSISDN), login=login)


@dataclass
class Load:
    """Logins of many people at once, each of them begin, the texted code, check, over and over until `result`."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, machine: Machine, *, at_once: int) -> Self:
        """Returns when each of the people load1, load2, … (see `add_load_users`) has logged in once."""
        argv = ["/usr/bin/python3", "-I", "-B", f"{PLACE}/login_load.py", str(at_once)]
        pipe = subprocess.PIPE
        load = cls(machine.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe))
        stdout = load.process.stdout
        if stdout is None or not stdout.readline().startswith("going"):
            raise MachineError(f"the load did not start\n{load.process.communicate()[1]}")
        return load

    def result(self, *, within_s: float = 60.0) -> dict[str, Any]:
        """Let all end the login they are at: {"passed": count, "failed": [what, …], "slowest_s": longest answer}."""
        stdout, stderr = self.process.communicate(timeout=within_s)  # closes its standard input, which ends it
        if stderr or not stdout:
            raise MachineError(f"the load broke\n{stdout}{stderr}")
        found: dict[str, Any] = json.loads(stdout)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def add_load_users(machine: Machine, count: int) -> None:
    """People load1 … with phones, and the program that logs them in."""
    machine.copy_in(REPOSITORY / "tests" / "system" / "login_load.py", f"{PLACE}/login_load.py")
    machine.run(f"for n in $(seq {count}); do useradd load$n; done")
    phones = "".join(f"load{number}: +{load_msisdn(number)}\n" for number in range(1, count + 1))
    machine.write(
        "/etc/textgate/phones", machine.read("/etc/textgate/phones") + phones, mode=0o640, owner="root:textgate"
    )


def load_msisdn(number: int) -> str:
    """The phone of load<number>."""
    return f"45{23000000 + number}"
