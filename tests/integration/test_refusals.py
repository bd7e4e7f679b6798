# SPDX-License-Identifier: MIT
"""What must not let in, at real programs: every wrong code, every way to break off, everybody who may not pass.

Most tests here run in ssh, sudo and su alike (the fixture `way`), with a password before the code.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon, textgate, write_phones
from rig.pam import FirstFactor
from rig.people import ALICE, BOB, CAROL, DAVE, Person
from rig.phone import Phone, wrong_code
from rig.prompts import ANY_PROMPT, CODE, ONE_ROUND, PROOF, PROVE, SU, SUDO, Way, all_shown, refuse_to_answer, ssh_way
from rig.redis_server import RedisServer
from rig.sshd import Sshd
from rig.terminal import CTRL_BACKSLASH, CTRL_C, CTRL_D, Terminal

from .conftest import Configure, PhoneOf, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

NONE_WAITING = "No login code is waiting for you: it was used, or has expired. Log in again to get a new one."
NOT_RIGHT = "That code is not right."
LOCKED = r"Too many wrong codes[a-z ]*\. Wait 5 minutes, or ask your administrator\.\n"
THROTTLED = r"No login code was texted: [a-z ]+\. Wait \d+ (seconds|minutes) and try again\.\n"
NOBODY = Person("nobody-of-this-name", groups=(), phone=None)
ROOT = Person("root", groups=(), phone=None)


@pytest.fixture(params=["ssh", "sudo", "su"])
def way(request: pytest.FixtureRequest, sudo_lines: str, su_lines: str) -> Way:
    """ssh, sudo and su, one after the other."""
    if request.param == "ssh":
        return ssh_way(request.getfixturevalue("start_sshd")(FirstFactor.PASSWORD))
    return {"sudo": SUDO, "su": SU}[request.param]


def expect_refusal(terminal: Terminal, daemon: Daemon) -> None:
    """Whatever is asked further is answered by Ctrl-D, and nobody is in at the end."""
    assert refuse_to_answer(terminal, CTRL_D) != 0
    assert PROOF not in terminal.shown
    assert daemon.find_events("check", result="pass") == []


def expect_login(way: Way, phone: Phone, person: Person = ALICE) -> str:
    """A new login of this person works; answers its code."""
    with way.start(person) as terminal:
        phone.read_count = max(phone.read_count, len(phone.texts) - 1)
        code = phone.next_code()
        terminal.enter(code)
        terminal.expect(PROOF)
    return code


# --- The code. ---


def test_three_wrong_codes_are_refused_and_the_next_login_works(way: Way, daemon: Daemon, phone: Phone) -> None:
    with way.start() as terminal:
        code = phone.next_code()
        for digits in (wrong_code(code), code[:-1]):
            terminal.enter(digits)
            terminal.expect(f"{NOT_RIGHT}\n")
            terminal.expect(CODE)
        terminal.enter(code + code[-1])
        terminal.expect("Too many wrong codes for this text.")
        expect_refusal(terminal, daemon)
    expect_login(way, phone)


def test_used_code_is_refused(way: Way, daemon: Daemon, phone: Phone) -> None:
    code = expect_login(way, phone)
    daemon.forget()
    with way.start() as terminal:
        assert phone.next_code() != code
        terminal.enter(code)
        terminal.expect(NOT_RIGHT)
        expect_refusal(terminal, daemon)


def test_late_code_is_refused(way: Way, daemon: Daemon, phone: Phone, redis_server: RedisServer) -> None:
    with way.start() as terminal:
        code = phone.next_code()
        (challenge,) = redis_server.client.keys("textgate:{alice}:challenge:*")
        redis_server.client.hset(challenge, "expires_at_ms", 1)  # as if the code's life were over
        terminal.enter(code)
        terminal.expect(NONE_WAITING)
        terminal.expect(CODE)
        expect_refusal(terminal, daemon)


def test_code_of_another_session_of_the_same_user_is_refused(way: Way, daemon: Daemon, phone: Phone) -> None:
    with way.start() as first:
        code_of_first = phone.next_code()
        with way.start() as second:
            code_of_second = phone.next_code()
            second.enter(code_of_first)
            second.expect(f"{NOT_RIGHT}\n")
            second.expect(CODE)
            first.enter(code_of_second)
            first.expect(f"{NOT_RIGHT}\n")
            first.expect(CODE)
            assert daemon.find_events("check", result="pass") == []
            second.enter(code_of_second)
            second.expect(PROOF)
        first.enter(code_of_first)
        first.expect(PROOF)


def test_code_of_another_user_is_refused(way: Way, daemon: Daemon, phone_of: PhoneOf) -> None:
    with way.start(BOB), way.start(ALICE) as terminal:
        terminal.enter(phone_of(BOB).next_code())
        terminal.expect(NOT_RIGHT)
        expect_refusal(terminal, daemon)


def test_empty_answer_brings_a_new_text_and_ends_the_former_code(way: Way, phone: Phone) -> None:
    with way.start() as terminal:
        former = phone.next_code()
        terminal.enter()
        terminal.expect("A new login code was texted to your phone. Only the newest one counts.")
        terminal.expect(CODE)
        newest = phone.next_code()
        assert newest != former
        terminal.enter(former)
        terminal.expect(NOT_RIGHT)
        terminal.answer(CODE, newest)
        terminal.expect(PROOF)
    assert len(phone.texts) == 2


@pytest.mark.parametrize("typed", ["x" * 511, "' OR 1=1 --", "%s%n", "١٢٣٤٥٦", "\N{GRINNING FACE}", "0", "-"])
def test_strange_answers_are_refused(
    sudo_lines: str, configure: Configure, daemon: Daemon, phone: Phone, typed: str
) -> None:
    with SUDO.start() as terminal:
        terminal.enter(typed)
        terminal.expect_match(r"That code is not right\.|A new login code|Access denied")
        expect_refusal(terminal, daemon)
    assert daemon.is_running
    expect_login(SUDO, phone)


def test_password_is_no_code(way: Way, daemon: Daemon) -> None:
    with way.start() as terminal:
        terminal.enter(ALICE.password)
        terminal.expect(NOT_RIGHT)
        expect_refusal(terminal, daemon)


# --- Breaking off. ---


@pytest.mark.parametrize(
    ("key", "answers"),
    [
        *[pytest.param(CTRL_C, answers, id=f"Ctrl-C at prompt {answers}") for answers in range(4)],
        *[pytest.param(CTRL_D, answers, id=f"Ctrl-D at prompt {answers}") for answers in range(4)],
        pytest.param(CTRL_BACKSLASH, 1, id="Ctrl-backslash at prompt 1"),
    ],
)
def test_breaking_off_at_any_prompt_lets_nobody_in(way: Way, daemon: Daemon, key: str, answers: int) -> None:
    """Prompt 0 is the password's. Where the program asks again, the key is pressed again, as often as it takes."""
    with way.open(ALICE, PROVE) as terminal:
        terminal.expect_match(ANY_PROMPT)
        for answer in (ALICE.password, "000000", "000000")[:answers]:
            terminal.enter(answer)
            terminal.expect(CODE)
        assert refuse_to_answer(terminal, key) != 0
        assert PROOF not in terminal.shown
    assert daemon.find_events("check", result="pass") == []
    assert daemon.find_events("begin", result="skip") == []


def test_terminal_that_is_closed_at_the_prompt_leads_to_nothing(way: Way, daemon: Daemon, phone: Phone) -> None:
    with way.start() as terminal:
        assert terminal.close() != 0
    expect_login(way, phone)
    assert len(daemon.find_events("check")) == 1


# --- Who may not pass sees what everybody sees. ---


@pytest.fixture
def code_only(start_sshd: StartSshd) -> Sshd:
    """An sshd that asks for nothing but a code: no first factor stands before what is compared here."""
    return start_sshd(FirstFactor.KEY, ["AuthenticationMethods keyboard-interactive:pam"])


def seen_by(sshd: Sshd, person: Person, typed: tuple[str, ...], rounds: int) -> str:
    """All that is shown to somebody who types this, with the name taken out."""
    options = (*ONE_ROUND[:-1], f"NumberOfPasswordPrompts={rounds}")
    with sshd.login(person, PROVE, has_key=False, options=options) as terminal:
        for answer in typed:
            terminal.answer(CODE, answer)
        assert terminal.expect_end() == 255
        return terminal.shown.replace(f"{person.name}@", "USER@")


@pytest.mark.parametrize(
    ("typed", "rounds"),
    [
        (("000000",) * 3, 1),
        (("000000", "", "000000"), 1),
        (("",) * 3, 1),
        (("000000",) * 6, 2),  # a lockout at the fifth
    ],
    ids=["wrong codes", "a new text between", "new texts only", "lockout"],
)
def test_those_who_cannot_pass_see_the_same_as_everybody_and_are_texted_nothing(
    code_only: Sshd, configure: Configure, gateway: FakeGatewayAPI, typed: tuple[str, ...], rounds: int
) -> None:
    configure({"refused": {"users": ["dave", "root"]}})
    write_phones(numbers={"root": "+45 12 34 56 90"})
    wanted = seen_by(code_only, ALICE, typed, rounds)
    own = len(gateway.accepted)
    assert own == len(gateway.texts_to(ALICE.msisdn)) >= 1
    assert wanted.endswith("USER@127.0.0.1: Permission denied (keyboard-interactive).\n")
    for person in (NOBODY, CAROL, DAVE, ROOT):
        assert seen_by(code_only, person, typed, rounds) == wanted, person.name
    assert len(gateway.requests) == own


@pytest.mark.parametrize("person", [DAVE, BOB], ids=["refused user", "refused group"])
def test_refused_people_never_get_in_whatever_they_type(
    way: Way, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, person: Person
) -> None:
    configure({"refused": {"users": ["dave"], "groups": ["sudo"]}, "exempt": {"users": ["dave", "bob"]}})
    with way.open(person, PROVE) as terminal:
        terminal.expect_match(ANY_PROMPT)
        terminal.enter(person.password)
        terminal.expect("A login code was texted to your phone.")
        terminal.answer(CODE, "000000")
        terminal.expect(CODE)
        expect_refusal(terminal, daemon)
    assert gateway.requests == []


def test_wrong_password_gets_no_text_and_shows_the_same_for_known_and_unknown_users(
    start_sshd: StartSshd, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    screens = set()
    for person in (ALICE, CAROL, NOBODY, ROOT):
        with sshd.login(person, PROVE, has_key=False, options=ONE_ROUND) as terminal:
            terminal.answer("Password: ", "wrong")
            screens.add(all_shown(terminal).replace(f"{person.name}@", "USER@"))
    assert screens == {"(USER@127.0.0.1) Password: \nUSER@127.0.0.1: Permission denied (keyboard-interactive).\n"}
    assert daemon.events == []
    assert gateway.requests == []


@pytest.fixture
def root_password() -> Iterator[str]:
    """root has a password, a phone and, were sshd to let him, could log in."""
    subprocess.run(["chpasswd"], input="root:open-sesame\n", text=True, check=True)
    write_phones(numbers={"root": "+45 12 34 56 90"})
    yield "open-sesame"
    write_phones()


def test_root_whom_sshd_does_not_let_in_gets_no_text_for_his_password(
    start_sshd: StartSshd, root_password: str, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    with sshd.login(ROOT, PROVE, has_key=False, options=ONE_ROUND) as terminal:
        terminal.answer("Password: ", root_password)
        assert terminal.expect_end() == 255
    assert gateway.requests == []
    assert daemon.events == []


# --- Limits. ---


def test_second_login_within_the_spacing_is_told_to_wait_and_the_first_code_still_works(
    way: Way, configure: Configure, daemon: Daemon, phone: Phone
) -> None:
    configure({"limits": {"send_spacing_s": 30}})
    with way.start() as first:
        code = phone.next_code()
        with way.start() as second:
            assert re.search(THROTTLED, second.shown)
            second.enter(code)  # of the first session
            second.expect(NONE_WAITING)
            expect_refusal(second, daemon)
        first.enter()
        first.expect_match(r"A new login code can be texted in \d+ seconds\. The last one is still good\.")
        first.answer(CODE, code)
        first.expect(PROOF)
    assert len(phone.texts) == 1
    expect_login(way, phone)  # an answered text delays nobody
    assert len(phone.texts) == 2


def test_five_wrong_codes_lock_out_until_an_administrator_unlocks(
    way: Way, configure: Configure, daemon: Daemon, phone: Phone
) -> None:
    configure({"codes": {"tries": 5}})
    with way.start() as waiting:
        good = phone.next_code()
        for wrong_count in (3, 2):
            with way.start() as guessing:
                code = phone.next_code()
                for _ in range(wrong_count):
                    guessing.enter(wrong_code(code))
                    guessing.expect_match(rf"({re.escape(NOT_RIGHT)}|{LOCKED})[^:]*{CODE}|Access denied")
                refuse_to_answer(guessing, CTRL_D)
        daemon.wait_event("lockout", user="alice")
        waiting.enter(good)
        waiting.expect_match(LOCKED)
        expect_refusal(waiting, daemon)
    text_count = len(phone.texts)
    with way.start() as locked:
        assert re.search(LOCKED, locked.shown)
        locked.enter(good)
        locked.expect_match(LOCKED)
        expect_refusal(locked, daemon)
    assert len(phone.texts) == text_count
    assert textgate("unlock", "alice").exit_code == 0
    expect_login(way, phone)


def test_lockout_of_one_user_is_no_other_users(
    sudo_lines: str, configure: Configure, phone_of: PhoneOf, daemon: Daemon
) -> None:
    configure({"limits": {"wrong_in_a_row": 1}})
    with SUDO.start(ALICE) as terminal:
        terminal.enter("000000")
        terminal.expect_match(LOCKED)
    expect_login(SUDO, phone_of(BOB), BOB)


def test_recovery_code_lets_in_once_also_when_no_text_may_go_out(
    way: Way, configure: Configure, daemon: Daemon, phone: Phone
) -> None:
    configure({"limits": {"send_spacing_s": 3600}})
    codes = textgate("recovery", "alice").data["codes"]
    with way.start():
        phone.next_code()
        with way.start() as throttled:
            assert re.search(THROTTLED, throttled.shown)
            throttled.enter(codes[0])
            throttled.expect(PROOF)
    daemon.wait_event("check", result="pass", reason="recovery")
    daemon.forget()
    with way.start() as again:
        again.enter(codes[0])
        again.expect(NOT_RIGHT)
        again.answer(CODE, codes[1][:-1] + ("z" if codes[1][-1] != "z" else "y"))
        again.expect(NOT_RIGHT)
        assert daemon.find_events("check", result="pass") == []
        again.answer(CODE, codes[1].upper().replace("-", " "))
        again.expect(PROOF)


def test_recovery_code_of_another_user_is_refused(sudo_lines: str, daemon: Daemon) -> None:
    codes = textgate("recovery", "bob").data["codes"]
    with SUDO.start(ALICE) as terminal:
        terminal.enter(codes[0])
        terminal.expect(NOT_RIGHT)
        expect_refusal(terminal, daemon)


# --- When the daemon is not there. ---


def test_right_code_works_at_a_prompt_that_the_daemon_did_not_live_to_see_answered(
    way: Way, daemon: Daemon, phone: Phone
) -> None:
    with way.start() as terminal:
        code = phone.next_code()
        daemon.kill()
        terminal.enter(code)  # the helper waits: the socket is there, as with systemd
        daemon.start()
        terminal.expect(PROOF)


def test_nobody_gets_in_while_there_is_no_socket(way: Way, daemon: Daemon) -> None:
    daemon.close()
    with way.start() as terminal:
        assert "The code service does not answer. Ask your administrator.\n" in terminal.shown
        terminal.enter("000000")
        terminal.expect("The code service does not answer.")
        assert refuse_to_answer(terminal, CTRL_D) != 0
        assert PROOF not in terminal.shown
