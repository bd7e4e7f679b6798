# SPDX-License-Identifier: MIT
"""What a second factor adds to a login: PAM authentications through libpam, ours beside others, in one run.

Each round authenticates once with every stack, beginning with another one each time. What counts is the cost over a
stack of pam_permit alone, in units of "two bare Pythons": pam_exec twice with a Python that does nothing, the least
that two steps in Python can cost.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyotp

from rig.pam import PAM_DIRECTORY

from .native import program
from .setting import GATEWAY_PORT, STUB, Setting, server
from .stats import deviation, paired_ratio

BAR_RATIO = 1.10
ROUNDS, ROUNDS_QUICK, WARM_UP_ROUNDS = 400, 60, 5
FILES = Path("/etc/textgate-bench")
HELPER = "/usr/libexec/textgate/pam-helper"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
BASE, UNIT, OURS = "permit", "two-pythons", "textgate-stub"

_PYTHON = "/usr/bin/python3 -I -S -c pass"


@dataclass(frozen=True)
class Stack:
    """One PAM service. lines: its auth lines. answers: as native/login.c takes them."""

    name: str
    what: str
    lines: str
    answers: str = "-"

    @property
    def service(self) -> str:
        """Its file in /etc/pam.d."""
        return f"bench-{self.name}"


def stacks() -> tuple[Stack, ...]:
    """All that is compared. The first is what the others are built on."""
    block = (PAM_DIRECTORY / "textgate").read_text()
    return (
        Stack(BASE, "pam_permit alone", "auth required pam_permit.so\n"),
        Stack("two-trues", "pam_exec /bin/true, twice", _twice("quiet /bin/true")),
        Stack(UNIT, "pam_exec python3 -I -S -c pass, twice", _twice(f"quiet {_PYTHON}")),
        Stack(
            "two-pythons-piped",
            "the same, with the pipes that ours need",
            f"auth optional pam_exec.so quiet stdout seteuid {_PYTHON}\n"
            f"auth optional pam_exec.so quiet stdout expose_authtok seteuid {_PYTHON}\nauth required pam_permit.so\n",
            str(FILES / "any.answers"),
        ),
        Stack(
            OURS,
            "textgate's block, a daemon that says yes at once",
            block.replace(HELPER, f"{HELPER} --socket {STUB}"),
            str(FILES / "any.answers"),
        ),
        Stack("textgate", "textgate's block, textgated, Redis, a gateway without delay", block, "texted"),
        Stack(
            "pam-oath",
            "pam_oath (HOTP)",
            f"auth required pam_oath.so usersfile={FILES}/oath window=5 digits=6\n",
            str(FILES / "oath.answers"),
        ),
        Stack(
            "pam-google",
            "pam_google_authenticator (HOTP)",
            f"auth required pam_google_authenticator.so secret={FILES}/google user=root\n",
            str(FILES / "google.answers"),
        ),
    )


def run(setting: Setting, *, is_quick: bool) -> dict[str, Any]:
    """Measure; answers the result for report.py. Raises RuntimeError if an authentication didn't succeed."""
    rounds = WARM_UP_ROUNDS + (ROUNDS_QUICK if is_quick else ROUNDS)
    compared = stacks()
    _write_files(compared, rounds)
    with server("daemon", STUB):
        output = subprocess.run(
            [program("login"), str(rounds), str(GATEWAY_PORT), "bench0", *map(str, setting.pids),
             *(f"{stack.service}={stack.answers}" for stack in compared)],
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout  # fmt: skip
    return _summed_up(compared, output)


def _twice(command: str) -> str:
    return 2 * f"auth optional pam_exec.so {command}\n" + "auth required pam_permit.so\n"


def _write_files(compared: Sequence[Stack], rounds: int) -> None:
    FILES.mkdir(mode=0o700, exist_ok=True)
    for stack in compared:
        (PAM_DIRECTORY / stack.service).write_text(stack.lines)
    hotp = pyotp.HOTP(SECRET)
    codes = [hotp.at(counter) for counter in range(rounds + 1)]
    files = {
        "any.answers": "123456\n" * 2 * rounds,
        "oath": f"HOTP bench0 - {pyotp.OTP(SECRET).byte_secret().hex()}\n",
        "oath.answers": "".join(f"{code}\n" for code in codes),
        "google": f'{SECRET}\n" HOTP_COUNTER 1\n" WINDOW_SIZE 5\n',
        "google.answers": "".join(f"{code}\n" for code in codes[1:]),
    }
    for name, text in files.items():
        path = FILES / name
        path.write_text(text)
        path.chmod(0o600)


def _summed_up(compared: Sequence[Stack], output: str) -> dict[str, Any]:
    """native/login.c's lines -> the result."""
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in output.splitlines():
        number, service, status, *times = line.split()
        if status != "0":
            raise RuntimeError(f"{service}: PAM status {status} in round {number}")
        if int(number) < WARM_UP_ROUNDS:
            continue
        for name, time_ns in zip(("wall", "cpu", "daemon", "redis"), times, strict=True):
            measured[service][name].append(int(time_ns) / 1e6)
    base, unit = (measured[f"bench-{name}"] for name in (BASE, UNIT))
    return {
        "rounds": len(base["wall"]),
        "bar_ratio": BAR_RATIO,
        "stacks": {stack.name: _row(stack, measured[stack.service], unit, base) for stack in compared},
    }


def _row(
    stack: Stack, values: dict[str, list[float]], unit: dict[str, list[float]], base: dict[str, list[float]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"what": stack.what}
    for kind in ("wall", "cpu"):
        over = [value - floor for value, floor in zip(values[kind], base[kind], strict=True)]
        row[kind] = {
            "median_ms": median(values[kind]),
            "mad_ms": deviation(values[kind]),
            "over_permit_ms": median(over),
            "ratio": vars(paired_ratio(values[kind], unit[kind], base[kind])),
        }
    if stack.name == "textgate":
        row["daemon_cpu_ms"], row["redis_cpu_ms"] = median(values["daemon"]), median(values["redis"])
    return row
