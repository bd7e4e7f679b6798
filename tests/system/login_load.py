# SPDX-License-Identifier: MIT
"""Runs inside a test machine, under its own Python: logins by the protocol of the auth socket, without PAM.

    login_load.py PEOPLE       that many people log in at once, over and over, until standard input ends

Prints "going" when each has done it once, and one JSON object at the end.

Standard library only. A request waits as long as the PAM helper does by default and no longer.
"""

import itertools
import json
import re
import socket
import sys
import threading
import time
import urllib.request

SOCKET = "/run/textgate/auth.sock"
CONTROL = "http://127.0.0.1:8026"
HELPER_WAITS_S = 10.0


def ask(verb: str, fields: dict[str, str], code: str | None = None) -> str:
    """One request; the answer as text, "" where there was none."""
    parts = [f"textgate/1 {verb}", *(f"{name}={value}" for name, value in fields.items())]
    if code is not None:
        parts.append(f"CODE={code}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(HELPER_WAITS_S)
        connection.connect(SOCKET)
        connection.sendall("\0".join(parts).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(8192):
            answer += chunk
    return answer.decode()


class Texts:
    """All codes that were texted, by number; one thread reads them from the gateway as they come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._codes: dict[str, list[str]] = {}
        after = json.load(urllib.request.urlopen(f"{CONTROL}/status", timeout=30))["accepted_count"]
        threading.Thread(target=self._follow, args=(after,), daemon=True).start()

    def _follow(self, after: int) -> None:
        while True:
            found = json.load(urllib.request.urlopen(f"{CONTROL}/texts?after={after}&wait_s=30", timeout=60))
            after = found["after"]
            with self._changed:
                for row in found["texts"]:
                    self._codes.setdefault(row["msisdn"], []).extend(re.findall(r"\d{6}", row["text"]))
                self._changed.notify_all()

    def next(self, msisdn: str, number: int) -> str:
        """The code of the number-th text to msisdn."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._codes.get(msisdn, ())) >= number, 20):
                raise TimeoutError("no text came")
            return self._codes[msisdn][number - 1]


class Counted:
    """What came of all logins."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.passed = 0
        self.failed: list[str] = []
        self.slowest_s = 0.0


def log_in_often(
    person: int, texts: Texts, counted: Counted, after_first: threading.Barrier, ended: threading.Event
) -> None:
    msisdn = f"45{23000000 + person}"
    for number in itertools.count(1):
        if number > 1 and ended.is_set():
            return
        fields = {
            "PAM_USER": f"load{person}", "PAM_SERVICE": "sshd", "PAM_TTY": "ssh", "PAM_RHOST": "192.0.2.7",
            "PAM_TYPE": "auth", "PPID": "1", "PPID_START": "1",
            "SSH_CONNECTION": f"192.0.2.7 {10000 + person} 192.0.2.1 {number}",
        }  # fmt: skip
        started_at = time.monotonic()
        slowest_s = 0.0
        try:
            answer = ask("begin", fields)
            slowest_s = time.monotonic() - started_at
            if answer.startswith("ask\n"):
                code = texts.next(msisdn, number)
                started_at = time.monotonic()
                answer = ask("check", fields, code)
                slowest_s = max(slowest_s, time.monotonic() - started_at)
            fault = None if answer.startswith("pass\n") else f"answer: {answer!r}"
        except (OSError, TimeoutError) as error:
            fault = f"{type(error).__name__}: {error}"
        with counted.lock:
            counted.slowest_s = max(counted.slowest_s, slowest_s)
            if fault is None:
                counted.passed += 1
            else:
                counted.failed.append(fault)
        if number == 1:
            after_first.wait()


def load(people: int) -> None:
    texts, counted, ended = Texts(), Counted(), threading.Event()
    after_first = threading.Barrier(people + 1)
    arguments = (texts, counted, after_first, ended)
    threads = [threading.Thread(target=log_in_often, args=(person, *arguments)) for person in range(1, people + 1)]
    for thread in threads:
        thread.start()
    after_first.wait()
    print("going", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"passed": counted.passed, "failed": counted.failed, "slowest_s": round(counted.slowest_s, 2)}))


if __name__ == "__main__":
    load(int(sys.argv[1]))
