# SPDX-License-Identifier: MIT
"""Many logins at once: one code passes once, every guess counts whatever session it comes from, one text per session.

The wide ones speak the helper's protocol on the real socket, from threads that start together; the others are real
ssh logins side by side.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from rig.daemon import AUTH_SOCKET, Daemon, Event, Values
from rig.logins import SENT, STEP_S, Doors
from rig.people import ALICE, BOB, DAVE, Person
from rig.phone import Phone, wrong_code
from textgate import texts

Configure = Callable[[Values], Event]
LIMIT_S = 30.0
CHECK_COUNT = 200
LOCKED = "Too many wrong codes"


@dataclass(frozen=True)
class Session:
    """One login as the helper tells of it. number: of the process that runs PAM."""

    number: int
    person: Person = ALICE
    service: str = "sudo"

    def ask(self, verb: str, code: str | None = None) -> tuple[str, str]:
        """One request on a connection of its own; word and text of the answer."""
        fields = {
            "PAM_USER": self.person.name,
            "PAM_SERVICE": self.service,
            "PAM_TYPE": "auth",
            "PAM_TTY": "/dev/pts/9",
            "PPID": str(self.number),
            "PPID_START": "4711",
        } | ({} if code is None else {"CODE": code})
        request = "\0".join([f"textgate/1 {verb}", *(f"{name}={value}" for name, value in fields.items())])
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(str(AUTH_SOCKET))
            connection.sendall(request.encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(8192):
                answer += chunk
        word, _, text = answer.decode().partition("\n")
        return word, text

    def begin(self) -> None:
        """Get a code texted."""
        assert self.ask("begin") == ("ask", SENT)


def together(calls: Sequence[Callable[[], tuple[str, str]]]) -> list[tuple[str, str]]:
    """The answers of calls that all start at the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], tuple[str, str]]) -> tuple[str, str]:
        barrier.wait(LIMIT_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("attempt", range(3))
def test_one_right_code_passes_once_of_two_hundred_times_at_once(
    attempt: int, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    session = Session(1000 + attempt)
    session.begin()
    code = phone.next_code()
    answers = together([lambda: session.ask("check", code)] * CHECK_COUNT)
    words = Counter(word for word, _ in answers)
    assert words == {"pass": 1, "deny": CHECK_COUNT - 1}
    assert all(text for word, text in answers if word == "deny")
    assert session.ask("check", code) == ("deny", texts.NONE_WAITING)
    assert len(daemon.find_events("check", result="pass")) == 1
    doors.log_in("sudo", phone)  # those that came too late were no wrong codes that lock out


def test_a_hundred_guesses_at_once_have_the_tries_of_one_text(
    configure: Configure, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    configure({"limits": {"wrong_in_a_row": 100, "wrong_per_day": 1000}})  # so that nothing else holds them up
    session = Session(2000)
    session.begin()
    code = phone.next_code()
    answers = together([lambda: session.ask("check", wrong_code(code))] * 100)
    assert Counter(answers) == {("deny", texts.WRONG): 2, ("deny", texts.TRIES_SPENT): 98}
    assert len(daemon.find_events("check", reason="wrong")) == 3
    assert session.ask("check", code) == ("deny", texts.TRIES_SPENT)
    doors.log_in("sudo", phone)


def test_guesses_of_many_sessions_count_together(daemon: Daemon, doors: Doors, phone: Phone) -> None:
    sessions = [Session(3000 + number) for number in range(12)]
    for session in sessions:
        session.begin()
    codes = [phone.next_code() for _ in sessions]
    calls = [
        lambda session=session, code=code: session.ask("check", wrong_code(code))
        for session, code in zip(sessions, codes, strict=True)
        for _ in range(3)
    ]
    answers = together(calls)
    assert {word for word, _ in answers} == {"deny"}
    told = Counter(text.partition(".")[0].split(" in a ")[0] for _, text in answers)
    heard_wrong = told[texts.WRONG.rstrip(".")] + told[texts.TRIES_SPENT.partition(".")[0]]
    assert heard_wrong <= 4  # the fifth locked out
    for session, code in zip(sessions, codes, strict=True):
        word, text = session.ask("check", code)
        assert (word, text.startswith(LOCKED)) == ("deny", True)
    word, text = Session(3999).ask("begin")
    assert (word, text.startswith(LOCKED)) == ("deny", True)
    assert daemon.find_events("check", result="pass") == []
    assert Session(4000, BOB).ask("begin") == ("ask", SENT)  # nobody else is


def test_guesses_of_two_ssh_logins_lock_a_third_one_out(daemon: Daemon, doors: Doors, phone: Phone) -> None:
    first = doors.open("ssh")
    first.expect(SENT)
    first_code = phone.next_code()
    second = doors.open("ssh")
    second.expect(SENT)
    second_code = phone.next_code()
    for login, code in ((first, first_code), (second, second_code)) * 2:
        login.try_code(wrong_code(code), texts.WRONG)
    first.type(wrong_code(first_code))
    first.expect_out(None)
    second.type(second_code)
    second.expect_out(None)
    assert doors.open("ssh").told().startswith(LOCKED)
    assert daemon.find_events("check", result="pass") == []


def test_begin_of_one_session_texts_once_however_often_it_is_asked(
    daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    session = Session(5000)
    answers = together([lambda: session.ask("begin")] * 50)
    assert {word for word, _ in answers} == {"ask"}
    assert len(phone.texts) == 1
    assert session.ask("check", phone.next_code()) == ("pass", "")


def test_code_of_one_login_is_wrong_in_another(daemon: Daemon, doors: Doors, phone: Phone) -> None:
    first = doors.open("ssh")
    first.expect(SENT)
    first_code = phone.next_code()
    second = doors.open("ssh")
    second.expect(SENT)
    second_code = phone.next_code()
    first.try_code(second_code, texts.WRONG)
    second.try_code(first_code, texts.WRONG)
    first.type(first_code)
    first.expect_in()
    second.type(second_code)
    second.expect_in()


def test_many_people_log_in_side_by_side(daemon: Daemon, doors: Doors, phone_of: Callable[[Person], Phone]) -> None:
    rounds = 3
    phones = [phone_of(person) for person in (ALICE, BOB, DAVE)]
    for _ in range(rounds):
        logins = [(phone, doors.open("ssh", phone.person)) for phone in phones]
        for _, login in logins:
            login.expect(SENT, within_s=3 * STEP_S)
        for phone, login in logins:
            login.type(phone.next_code())
        for _, login in logins:
            login.expect_in(within_s=3 * STEP_S)
    assert len(daemon.find_events("check", result="pass")) == rounds * len(phones)
