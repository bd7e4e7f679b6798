# SPDX-License-Identifier: MIT
"""What a person does at the prompts of ssh, sudo and su, and the three of them as rows of one table.

Each way logs in with a password and a code, runs `PROVE` and so shows PROOF: no prompt, no refusal and no echo of
what was typed can show that by accident.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from .people import ALICE, BOB, Person
from .sshd import Sshd
from .terminal import ScreenError, Terminal, su, sudo

PROVE = "echo in-$((6*7))"
PROOF = "in-42\n"
CODE = "Code: "
ANY_PROMPT = r"(?:Code|[Pp]assword[^:\n]*): "
PROMPTS_MAX = 30
AS_PEOPLE_SEE_IT = ("LogLevel=INFO",)
"""ssh's own default. The rig's clients are quieter: they leave out what PAM says when it refuses."""
ONE_ROUND = (*AS_PEOPLE_SEE_IT, "NumberOfPasswordPrompts=1")
"""An ssh client that takes the first refusal of the server for an answer."""


@dataclass(frozen=True)
class Way:
    """One program that asks for the password and a code of the person with whose rights the command runs.

    open: run a shell command; answers the terminal before its first prompt.
    """

    service: str
    open: Callable[[Person, str], Terminal]

    def start(self, person: Person = ALICE, command: str = PROVE) -> Terminal:
        """Go as far as the first prompt for a code."""
        terminal = self.open(person, command)
        terminal.expect_match(ANY_PROMPT)
        terminal.enter(person.password)
        terminal.expect(CODE)
        return terminal


def ssh_way(sshd: Sshd) -> Way:
    """ssh with a password, to a server that was started with FirstFactor.PASSWORD."""
    return Way("sshd", lambda person, command: sshd.login(person, command, has_key=False, options=ONE_ROUND))


SUDO = Way("sudo", lambda person, command: sudo(person, "sh", "-c", command))
"""The password and the phone are those of who types the command."""
SU = Way("su", lambda person, command: su(BOB if person != BOB else ALICE, person, command))
"""The password and the phone are those of the target; somebody else types the command."""


def refuse_to_answer(terminal: Terminal, key: str) -> int:
    """Press a key at this prompt and at each that follows, until the program ends; answers its exit status.

    A program that shows its prompt before it reads can lose a Ctrl-C that comes in between, as sudo does; people
    press it again then, and so does this.
    """
    for _ in range(PROMPTS_MAX):
        terminal.press(key)
        try:
            terminal.expect_match(ANY_PROMPT, within_s=0.5)
        except ScreenError:
            with contextlib.suppress(ScreenError):
                return terminal.expect_end(within_s=0.5)
    raise ScreenError(f"it still asks after {PROMPTS_MAX} times:\n{terminal.shown}")


def fingerprint(person: Person) -> str:
    """Of the person's ssh key, as `ssh-keygen -l` prints it."""
    said = subprocess.run(["ssh-keygen", "-lf", person.key_path], check=True, capture_output=True, text=True).stdout
    return said.split()[1]


def all_shown(terminal: Terminal) -> str:
    """Everything on the screen once the program has ended."""
    terminal.expect_end()
    return terminal.shown
