# SPDX-License-Identifier: MIT
"""The ways into a machine as a person takes them: ssh, sudo, su and login, each on a terminal of its own.

doors = Doors.prepare(machine, gateway)      # alice: sudo, an ssh key, a password; root: a password; both have phones
with doors.ssh("alice", "publickey", "keyboard-interactive") as login:
    login.answer("Code: ", doors.next_code(ALICE_MSISDN))
    assert login.is_in()
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import pexpect

from .machines import Machine
from .setting import ALICE, ALICE_MSISDN, PLACE, Gateway

ROOT_MSISDN = "4512345602"
PASSWORDS = {ALICE: "alices-password", "root": "roots-password"}
MSISDNS = {ALICE: ALICE_MSISDN, "root": ROOT_MSISDN}
KEY = f"{PLACE}/id_ed25519"
PROVE, PROOF = "echo in-$((6*7))", "in-42"
CODE = "Code: "
PASSWORD = r"[Pp]assword[^:\r\n]*: "
TEXT_WITHIN_S = 15.0


class Login:
    """A program that asks on a terminal, or a session that it opened."""

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal

    def expect(self, pattern: str, *, within_s: float = 30.0) -> str:
        """Wait until a regular expression is shown; what was shown before it."""
        self._terminal.expect(pattern, timeout=within_s)
        return str(self._terminal.before)

    def answer(self, prompt: str, text: str) -> None:
        """Wait for a prompt and type a line."""
        self.expect(prompt)
        self._terminal.sendline(text)

    def say(self, text: str) -> None:
        """Type a line."""
        self._terminal.sendline(text)

    def press(self, key: str) -> None:
        """Press a key with Ctrl."""
        self._terminal.sendcontrol(key)

    def is_in(self, *, within_s: float = 30.0) -> bool:
        """Whether the proof of a session is shown before the program ends, or asks on."""
        return bool(self._terminal.expect([PROOF, pexpect.EOF, CODE, PASSWORD], timeout=within_s) == 0)

    def is_out(self, *, within_s: float = 30.0) -> bool:
        """Whether the program ends without any proof of a session, whatever it asks before."""
        while True:
            found = self._terminal.expect([pexpect.EOF, PROOF, CODE, PASSWORD], timeout=within_s)
            if found < 2:
                return bool(found == 0)
            self._terminal.sendline("")

    @property
    def screen(self) -> str:
        """What was shown last."""
        return f"{self._terminal.before}{self._terminal.after}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.close(force=True)


class Doors:
    """All of them. Texts are counted, so that `next_code` never takes a former one."""

    def __init__(self, machine: Machine, gateway: Gateway) -> None:
        self.machine = machine
        self.gateway = gateway
        self._read_count = {msisdn: len(gateway.texts(msisdn)) for msisdn in MSISDNS.values()}

    @classmethod
    def prepare(cls, machine: Machine, gateway: Gateway) -> Self:
        """People who can use the doors, in a machine where alice has a password and a phone."""
        machine.run(["usermod", "-aG", "sudo", ALICE])
        machine.run(["chpasswd"], stdin=f"root:{PASSWORDS['root']}\n")
        machine.run(f"test -e {KEY} || ssh-keygen -q -t ed25519 -N '' -f {KEY}")
        machine.run(
            f"install -d -m 0700 -o {ALICE} -g {ALICE} /home/{ALICE}/.ssh"
            f" && install -m 0600 -o {ALICE} -g {ALICE} {KEY}.pub /home/{ALICE}/.ssh/authorized_keys"
        )
        machine.run(f"touch /home/{ALICE}/.hushlogin")
        phones = machine.read("/etc/textgate/phones")
        if "root:" not in phones:
            machine.write(
                "/etc/textgate/phones", f"{phones}root: +{ROOT_MSISDN}\n", mode=0o640, owner="root:textgate"
            )
        return cls(machine, gateway)

    def next_code(self, user: str = ALICE) -> str:
        """The code of the next text to somebody; waits for it."""
        msisdn = MSISDNS[user]
        deadline = time.monotonic() + TEXT_WITHIN_S
        while True:
            texts = self.gateway.texts(msisdn)
            if len(texts) > self._read_count[msisdn]:
                self._read_count[msisdn] += 1
                found = re.search(r"\d{6}", texts[self._read_count[msisdn] - 1])
                assert found
                return found[0]
            if time.monotonic() > deadline:
                raise TimeoutError("no text came")
            time.sleep(0.1)

    def text_count(self, user: str = ALICE) -> int:
        """How many texts somebody got."""
        return len(self.gateway.texts(MSISDNS[user]))

    def skip_texts(self) -> None:
        """What was texted before is no concern of what follows."""
        self._read_count = {msisdn: len(self.gateway.texts(msisdn)) for msisdn in MSISDNS.values()}

    # --- The doors ---

    def ssh(self, *methods: str, user: str = ALICE, command: str = PROVE, own: Sequence[str] = ()) -> Login:
        """An ssh client that offers these methods only. own: options that go before the usual ones."""
        options = [
            "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "NumberOfPasswordPrompts=1",
            f"PreferredAuthentications={','.join(methods)}", f"IdentityFile={KEY}", "IdentitiesOnly=yes",
            f"PubkeyAuthentication={'yes' if 'publickey' in methods else 'no'}",
        ]  # fmt: skip
        words = [word for option in (*own, *options) for word in ("-o", option)]
        return Login(self.machine.spawn(["ssh", "-tt", *words, f"{user}@localhost", command]))

    def sudo(self, *, is_login: bool = False) -> Login:
        """alice's sudo, or sudo -i; earlier answers count for nothing."""
        words = f"sudo -k; sudo {'-i ' if is_login else ''}sh -c '{PROVE}'"
        return Login(self.machine.spawn(words, user=ALICE))

    def su(self) -> Login:
        """alice becomes root with su -."""
        return self._on_terminal(f"su - root -c '{PROVE}'", user=ALICE)

    def login(self, user: str = ALICE) -> Login:
        """login, as getty starts it."""
        return self._on_terminal(f"exec login -p {user}", user="root")

    def _on_terminal(self, command: str, *, user: str) -> Login:
        """A terminal of the machine's own, which su and login look for by name."""
        return Login(self.machine.spawn(["script", "-qec", command, "/dev/null"], user=user))


# One whole login by each door: opens it and answers all but the code.
Opening = Callable[[Doors], Login]


def sudo_to_code(doors: Doors, *, is_login: bool = False) -> Login:
    """sudo, its password given."""
    login = doors.sudo(is_login=is_login)
    login.answer(PASSWORD, PASSWORDS[ALICE])
    return login


def su_to_code(doors: Doors) -> Login:
    """su, root's password given."""
    login = doors.su()
    login.answer(PASSWORD, PASSWORDS["root"])
    return login


def login_to_code(doors: Doors) -> Login:
    """login, alice's password given."""
    login = doors.login()
    login.answer(PASSWORD, PASSWORDS[ALICE])
    return login
