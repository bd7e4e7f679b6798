# SPDX-License-Identifier: MIT
"""Plays the demo without a person: types what alice would type, and prints what she would see."""

from __future__ import annotations

import re

from fake_gatewayapi import FakeGatewayAPI
from rig.people import ALICE, HOST_NAME
from rig.phone import Phone, code_in, wrong_code
from rig.process import RigError
from rig.sshd import HOST, Sshd
from rig.terminal import Terminal

from .screen import box, painted, say

SHELL_PROMPT = f"{ALICE.name}@{HOST_NAME}:~$ "
CODE_PROMPT = "Code: "
TEXT_WITHIN_S = 5.0
PASSWORD_PROMPT = f"[sudo] password for {ALICE.name}: "


def log_in(sshd: Sshd, gateway: FakeGatewayAPI) -> bool:
    """ssh with key and code, sudo with password and code; whether `sudo whoami` said root. Raises ScreenError."""
    phone = Phone(gateway, ALICE)
    command = ["ssh", f"{ALICE.name}@{HOST}", "-p", str(sshd.port)]
    say(f"$ {' '.join(command)}", "bold")
    with Terminal(command, log=sshd.process.tail) as terminal:
        code = _read_text(terminal, phone)
        _type(terminal, CODE_PROMPT, wrong_code(code), "wrong, on purpose")
        say(_until_code_prompt(terminal))
        _type(terminal, CODE_PROMPT, code, "the code of the text")
        terminal.expect(SHELL_PROMPT)
        _type(terminal, SHELL_PROMPT, "sudo whoami")
        terminal.expect(PASSWORD_PROMPT)
        say(PASSWORD_PROMPT + painted("← her password; as ever, it is not shown", "dim"))
        terminal.enter(ALICE.password)
        code = _read_text(terminal, phone)
        _type(terminal, CODE_PROMPT, code, "the code of the second text")
        answer = terminal.expect(SHELL_PROMPT).strip()
        say(answer)
        _type(terminal, SHELL_PROMPT, "exit")
        terminal.expect_end()
    say()
    return answer == "root"


def _read_text(terminal: Terminal, phone: Phone) -> str:
    """What the terminal shows up to the prompt, and the text that came meanwhile; answers its code."""
    shown = _until_code_prompt(terminal)
    text = phone.next_text(within_s=TEXT_WITHIN_S)
    say(box(f"{ALICE.name}'s phone, {ALICE.phone}", text), "text")
    say(shown)
    return code_in(text)


def _until_code_prompt(terminal: Terminal) -> str:
    """What is shown before a code is asked for. Raises RigError when none is."""
    shown = terminal.expect_match(f"{re.escape(CODE_PROMPT)}|{re.escape(SHELL_PROMPT)}")
    if shown[0] != CODE_PROMPT:
        raise RigError("alice came through without the right code")
    return shown.string_before.strip()


def _type(terminal: Terminal, prompt: str, line: str, remark: str = "") -> None:
    """Type a line at a prompt that was waited for; show both, and in the margin why."""
    say(prompt + line + (painted(f"      ← {remark}", "dim") if remark else ""))
    terminal.enter(line)
