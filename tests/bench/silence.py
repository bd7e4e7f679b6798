# SPDX-License-Identifier: MIT
"""Whether the time of an answer tells who exists, who has a phone, who is refused: both steps, sort by sort.

Each round asks once for somebody of each sort, in another order each time, against a gateway whose time to answer
varies as a real one's does. What counts is the difference to an ordinary user in the same round; a second ordinary
user shows how large it is where there is nothing to tell.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from fake_gatewayapi import ApiKey, FakeGatewayAPI
from rig.daemon import ADMIN_SOCKET, AUTH_SOCKET, CONFIG_PATH

from .setting import FIRST_MSISDN, GATEWAY_PORT, USER_COUNT, Setting
from .stats import deviation, middle_interval

ROUNDS, ROUNDS_QUICK, WARM_UP_ROUNDS = 120, 30, 3
GATEWAY_S, SPREAD_S = 0.040, 0.004
FIRST_UID = 30000
FORMER = 10_000  # what tells logins of before from those that are measured
BAR_MS = 0.5  # of a median; a single login varies by some ms, and there are twenty a day for one name
SEED = 1
SENT = "ask\nA login code was texted to your phone."
WRONG = "deny\nThat code is not right."

ORDINARY, AGAIN = "ordinary", "ordinary, a second time"
SORTS = {
    ORDINARY: "bench{}",
    AGAIN: "bench{}",
    "without a phone": "quiet{}",
    "unknown": "nobody{}",
    "refused": "refused{}",
}
STEPS = ("begin", "check")


def run(setting: Setting, *, is_quick: bool) -> dict[str, Any]:
    """Measure; answers the result for report.py. Raises RuntimeError if an answer is not what everybody gets."""
    rounds = WARM_UP_ROUNDS + (ROUNDS_QUICK if is_quick else ROUNDS)
    make_quiet_users(rounds)
    refuse([SORTS["refused"].format(number) for number in range(rounds)])
    draw = random.Random(SEED)
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    keys = [ApiKey("k" * 24, "s" * 64, "t" * 32)]
    with FakeGatewayAPI(keys=keys, port=GATEWAY_PORT, credit=Decimal(10**6)) as gateway:
        for number in range(USER_COUNT):  # ordinary users have logged in before; nobody else ever has
            fields = session_of(SORTS[ORDINARY].format(number), FORMER + number)
            ask("begin", fields, SENT)
            ask("check", fields | {"CODE": gateway.last_code(FIRST_MSISDN + number)}, "pass\n")
        for number in range(rounds):
            order = list(SORTS)
            draw.shuffle(order)
            fault = gateway.inject("delay", count=None, accept=True, seconds=draw.gauss(GATEWAY_S, SPREAD_S))
            for sort in order:
                at = USER_COUNT // 2 + number if sort == AGAIN else number
                for step, took_s in zip(STEPS, log_in(SORTS[sort].format(at % USER_COUNT), number), strict=True):
                    if number >= WARM_UP_ROUNDS:
                        times[step][sort].append(took_s * 1000)
            gateway.remove(fault)
    return {"rounds": rounds - WARM_UP_ROUNDS, "bar_ms": BAR_MS, "gateway_ms": GATEWAY_S * 1000,
            "steps": {step: _rows(times[step]) for step in STEPS}}  # fmt: skip


def make_quiet_users(count: int) -> None:
    """Users whom nothing is texted: some without a phone, some in a group that is refused. Once in a world."""
    passwd = Path("/etc/passwd")
    if "\nquiet0:" not in passwd.read_text():
        with passwd.open("a") as file:
            for sort, first in (("quiet", FIRST_UID), ("refused", FIRST_UID + 10_000)):
                file.writelines(f"{sort}{n}:x:{first + n}:{first + n}::/:/usr/sbin/nologin\n" for n in range(count))


def log_in(user: str, number: int) -> tuple[float, float]:
    """A text and a wrong code; answers the seconds that each took."""
    fields = session_of(user, number)
    return ask("begin", fields, SENT), ask("check", fields | {"CODE": "not it"}, WRONG)


def refuse(users: list[str]) -> None:
    """Put them on the list of those who are refused. Raises RuntimeError if the daemon doesn't take it."""
    with CONFIG_PATH.open("a") as file:
        file.write(f"[refused]\nusers = {json.dumps(users)}\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(ADMIN_SOCKET))
        peer.sendall(b'{"v": 1, "verb": "reload"}\n')
        answer = peer.makefile("rb").readline()
    if not json.loads(answer)["ok"]:
        raise RuntimeError(f"no reload: {answer.decode()}")


def session_of(user: str, number: int) -> dict[str, str]:
    """What the helper sends for an ssh login; `number` tells one from another."""
    return {"PAM_USER": user, "PAM_SERVICE": "sshd", "PAM_TTY": "ssh", "PAM_TYPE": "auth", "PPID": "1",
            "PPID_START": "1", "SSH_CONNECTION": f"127.0.0.1 {1024 + number} 127.0.0.1 22"}  # fmt: skip


def ask(verb: str, fields: dict[str, str], wanted: str) -> float:
    """Seconds from the connection to the end of the answer."""
    request = "\0".join([f"textgate/1 {verb}", *(f"{name}={value}" for name, value in fields.items())]).encode()
    begun_at = time.perf_counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(AUTH_SOCKET))
        peer.sendall(request)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := peer.recv(4096):
            answer += chunk
    took_s = time.perf_counter() - begun_at
    if answer.decode() != wanted:
        raise RuntimeError(f"{fields['PAM_USER']}: answered {answer.decode()!r}")
    return took_s


def _rows(times: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    return {
        sort: {
            "median_ms": median(values),
            "mad_ms": deviation(values),
            "over_ordinary_ms": vars(middle_interval([a - b for a, b in zip(values, times[ORDINARY], strict=True)])),
        }
        for sort, values in times.items()
    }
