# SPDX-License-Identifier: MIT
"""Lets a person log in herself: tmux with the login on one side and the phone on the other."""

from __future__ import annotations

import curses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rig.people import ALICE
from rig.process import RigError
from rig.sshd import HOST, Sshd

from .screen import introduction

PHONE_COLUMNS = 48
PHONE_ROWS = 11
SIDE_BY_SIDE_COLUMNS = 60 + 1 + PHONE_COLUMNS
TESTS = Path(__file__).resolve().parents[1]
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x07\x08\r]")

# No key is taken away from the person, and what she reads stays in place when the window changes.
_CONFIG = """\
set -g default-terminal screen-256color
set -g prefix None
set -g prefix2 None
set -g status-left ""
set -g status-right ""
set -g window-status-format ""
set -g window-status-current-format " textgate demo "
set -g escape-time 0
set -g pane-border-style fg=colour8
set -g pane-active-border-style fg=colour8
"""

# 255 is ssh's own word for "not logged in"; any other status is that of the last command in the session.
_LOGIN = """\
#!/bin/sh
trap 'exit 1' INT HUP TERM
trap '{end}' EXIT
clear
cat {introduction}
while :; do
    {ssh}
    [ $? = 255 ] || exit 0
    printf '\\nNot logged in. Press Enter to try again, or q and Enter to end the demo: '
    read -r answer || exit 1
    [ "$answer" != q ] || exit 1
    printf '$ {ssh}\\n'
done
"""


def log_in(sshd: Sshd, *, control_url: str | None, phone: str, password: str) -> bool:
    """Returns when the person has left; whether a line of her session said root. Raises RigError if tmux can't run.

    control_url: of the fake whose texts are shown beside it, None for real texts.
    """
    directory = Path(tempfile.mkdtemp(prefix="demo-"))
    try:
        socket, record = directory / "tmux.sock", directory / "record"
        (directory / "tmux.conf").write_text(_CONFIG)
        words = introduction(port=sshd.port, password=password, phone=phone, is_real=control_url is None)
        (directory / "introduction").write_text(words)
        login = directory / "login"
        login.write_text(
            _LOGIN.format(
                end=f"tmux -S {socket} kill-server",
                introduction=directory / "introduction",
                ssh=f"ssh {ALICE.name}@{HOST} -p {sshd.port}",
            )
        )
        tmux = ["tmux", "-S", str(socket), "-f", str(directory / "tmux.conf")]
        steps = [["new-session", f"exec sh {login}"], ["pipe-pane", f"exec cat >{record}"]]
        if control_url is not None:
            steps += [_split(_phone_command(control_url)), ["select-pane", "-t", "0"]]
        _run(tmux, steps)
        return "root" in _lines(record)
    finally:
        shutil.rmtree(directory)


def _phone_command(control_url: str) -> str:
    argv = [sys.executable, "-B", "-m", "fake_gatewayapi", "phone", "--control", control_url, "--follow"]
    return f"PYTHONPATH={shlex.quote(str(TESTS))} exec {shlex.join([*argv, '--msisdn', str(ALICE.msisdn)])}"


def _split(command: str) -> list[str]:
    """The phone on the right where there is room, else below."""
    if shutil.get_terminal_size().columns >= SIDE_BY_SIDE_COLUMNS:
        return ["split-window", "-h", "-l", str(PHONE_COLUMNS), command]
    return ["split-window", "-v", "-l", str(PHONE_ROWS), command]


def _run(tmux: Sequence[str], steps: Sequence[Sequence[str]]) -> None:
    words = list(steps[0])
    for step in steps[1:]:
        words += [";", *step]
    try:
        done = subprocess.run([*tmux, *words], env=os.environ | {"TERM": _terminal_kind()}, check=False)
    except FileNotFoundError:
        raise RigError("tmux is not installed") from None
    if done.returncode not in (0, 1):  # 1: it was ended, which is how the person leaves
        raise RigError(f"tmux failed ({done.returncode})")


def _terminal_kind() -> str:
    """TERM if this machine knows it; else the one that nearly all others are like."""
    kind = os.environ.get("TERM", "")
    try:
        curses.setupterm(kind)
    except curses.error:
        return "xterm-256color"
    return kind


def _lines(record: Path) -> set[str]:
    """What stood alone on a line of the session."""
    try:
        text = record.read_text(errors="replace")
    except OSError:
        return set()
    return {line.strip() for line in _CONTROL.sub("", text).splitlines()}
