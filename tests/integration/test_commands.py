# SPDX-License-Identifier: MIT
"""The `textgate` command as people run it, beside the real daemon: what it says, its JSON, its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import (
    ADMIN_SOCKET,
    COMMAND,
    CONFIG_PATH,
    CREDENTIALS,
    PHONES_PATH,
    Daemon,
    textgate,
    write_phones,
)
from rig.pam import FirstFactor
from rig.people import ALICE, BOB, CAROL, DAVE, Person
from rig.phone import Phone, code_in, wrong_code
from rig.process import run_as
from rig.prompts import CODE, PROOF, PROVE, SUDO
from rig.redis_server import RedisServer
from rig.sshd import Sshd
from rig.terminal import CTRL_C, Terminal

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("daemon", "no_fail_delay")

OK, FAILURE, USAGE, CONFIG, AWAY, REFUSED = range(6)
NEW_NUMBER = "+45 12 34 56 91"
NEW_MSISDN = 4512345691


def run(*arguments: str, person: Person | None = None, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command for a person to read; root if nobody is named."""
    front = [] if person is None else run_as(person.name)
    return subprocess.run(
        [*front, COMMAND, *arguments], input=given, capture_output=True, text=True, timeout=30, check=False, cwd="/"
    )


@pytest.fixture
def phones() -> Iterator[Path]:
    """The phones file, put back after the test."""
    yield PHONES_PATH
    write_phones()


@pytest.fixture
def config() -> Iterator[Path]:
    """The configuration, put back after the test; the daemon is not told."""
    before = CONFIG_PATH.read_text()
    yield CONFIG_PATH
    CONFIG_PATH.write_text(before)


# --- check-config. ---


def test_check_config_says_ok_and_counts_the_phones() -> None:
    done = run("check-config")
    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout == "/etc/textgate/textgate.toml: ok; 3 users with a phone in /etc/textgate/phones\n"
    answer = textgate("check-config")
    assert answer.exit_code == OK
    assert answer.data == {"config": str(CONFIG_PATH), "is_ok": True, "faults": [], "warnings": [], "phone_count": 3}


def test_check_config_names_every_fault_of_the_configuration_at_once(config: Path) -> None:
    config.write_text('[limits]\nallowed_countries = "DK"\nwrong_in_row = 5\n[codes]\nlife_s = 601\n[gatway]\n')
    done = run("check-config")
    assert (done.returncode, done.stdout) == (CONFIG, "")
    for key in ("allowed_countries", "wrong_in_row", "life_s", "gatway"):
        assert re.search(rf"(?m)^textgate: error: {CONFIG_PATH}: .*{key}", done.stderr), key
    answer = textgate("check-config")
    assert answer.exit_code == CONFIG
    assert len(answer.data["error"]["faults"]) == 4


def test_check_config_names_the_faults_of_phones_and_credentials(phones: Path) -> None:
    phones.write_text(f"alice: 12\nbob +45 12 34 56 79\ndave: {DAVE.phone}\n")
    key = CREDENTIALS / "gatewayapi-key"
    key.chmod(0o644)
    try:
        done = run("check-config")
        answer = textgate("check-config")
    finally:
        key.chmod(0o600)
    assert done.returncode == answer.exit_code == CONFIG
    assert len(done.stderr.splitlines()) == len(answer.data["faults"]) == 3
    assert str(key) in done.stderr
    assert done.stderr.count(str(phones)) == 2
    assert "56 79" not in done.stderr + answer.output  # a number is no word for a fault
    assert answer.data["is_ok"] is False


def test_check_config_of_a_file_that_is_not_there() -> None:
    done = run("--config", "/nowhere/textgate.toml", "check-config")
    assert (done.returncode, done.stdout) == (CONFIG, "")
    assert done.stderr.startswith("textgate: error: /nowhere/textgate.toml: can't be read: No such file")


def test_check_config_without_rights_says_what_it_could_not_read() -> None:
    done = run("check-config", person=ALICE)
    assert done.returncode == CONFIG
    assert "Traceback" not in done.stderr
    assert str(CREDENTIALS) in done.stderr


# --- status. ---


def test_status_shows_that_all_parts_work() -> None:
    done = run("status")
    assert (done.returncode, done.stderr) == (OK, "")
    assert re.search(r"(?m)^redis +\d\S*, durable *$", done.stdout)
    assert re.search(r"(?m)^gateway +ok, credit \d", done.stdout)
    data = textgate("status").data
    assert (data["config"], data["store"]["is_up"], data["gateway"]["is_up"]) == (str(CONFIG_PATH), True, True)


def test_status_counts_what_was_answered(sudo_lines: str, phone: Phone) -> None:
    before = textgate("status").data["counts"]
    with SUDO.start() as terminal:
        terminal.enter(wrong_code(code := phone.next_code()))
        terminal.answer(CODE, code)
        terminal.expect(PROOF)
    after = textgate("status").data["counts"]
    replies = ("reply_ask", "reply_skip", "reply_deny", "reply_pass")
    assert [after.get(name, 0) - before.get(name, 0) for name in replies] == [1, 0, 1, 1]


def test_status_fails_and_says_so_when_a_part_is_away(redis_server: RedisServer, gateway: FakeGatewayAPI) -> None:
    redis_server.stop()
    done = run("status")
    assert done.returncode == FAILURE
    assert re.search(r"(?m)^redis +AWAY: ", done.stdout)
    redis_server.start()
    with gateway.refusing():
        assert run("status").returncode == 0  # an answer of less than a minute ago
        done = run("status", "--fresh")
        answer = textgate("status")
    assert done.returncode == answer.exit_code == FAILURE
    assert re.search(r"(?m)^gateway +NOT USABLE: ", done.stdout)
    assert answer.data["gateway"]["is_up"] is False
    assert run("status").returncode == FAILURE  # and that of a moment ago is shown as well
    assert run("status", "--fresh").returncode == OK


# --- Who may. ---


@pytest.mark.parametrize(
    "words", [("status",), ("unlock", "alice"), ("recovery", "alice"), ("send-test", NEW_NUMBER)]
)
def test_ordinary_users_do_not_get_through_to_the_daemon(words: tuple[str, ...]) -> None:
    done = run(*words, person=ALICE)
    assert (done.returncode, done.stdout) == (AWAY, "")
    assert done.stderr == (
        f"textgate: error: {ADMIN_SOCKET}: permission denied\n"
        "hint: run it with sudo, or join the group textgate-admin\n"
    )


def test_admin_group_may_look_and_unlock_but_neither_spend_nor_change_who_gets_in(gateway: FakeGatewayAPI) -> None:
    for words in (("status",), ("unlock", "alice")):
        assert run(*words, person=DAVE).returncode == OK, words
    requests = len(gateway.requests)
    for words in (("recovery", "alice"), ("send-test", NEW_NUMBER)):
        done = run(*words, person=DAVE)
        assert (done.returncode, done.stdout) == (FAILURE, ""), words
        assert done.stderr == f"textgate: error: {words[0]} is for root\nhint: run it with sudo\n"
        answer = textgate(*words, person=DAVE)
        assert answer.data == {"error": {"message": f"{words[0]} is for root", "hint": "run it with sudo"}}
    assert len(gateway.requests) == requests


@pytest.mark.parametrize("words", [("enrol", "alice", NEW_NUMBER), ("login-test", "alice", "sudo")])
def test_what_is_roots_tells_others_so(words: tuple[str, ...], gateway: FakeGatewayAPI) -> None:
    done = run(*words, person=DAVE)
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert done.stderr.endswith("hint: run it with sudo\n")
    assert gateway.requests == []


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("unlock", "alice"),
        ("recovery", "alice"),
        ("send-test", NEW_NUMBER),
        ("enrol", "alice", NEW_NUMBER),
    ],
)
def test_commands_say_when_the_daemon_is_away(daemon: Daemon, words: tuple[str, ...]) -> None:
    daemon.close()
    done = run(*words)
    assert (done.returncode, done.stdout) == (AWAY, "")
    assert done.stderr.startswith(f"textgate: error: textgated can't be reached at {ADMIN_SOCKET}: ")
    assert "\nhint: " in done.stderr
    answer = textgate(*words)
    assert answer.exit_code == AWAY
    assert set(answer.data) == {"error"}


# --- enrol. ---


def test_enrolled_number_gets_the_codes_of_the_next_login(
    phones: Path, sshd: Sshd, phone: Phone, gateway: FakeGatewayAPI
) -> None:
    with Terminal([COMMAND, "enrol", "carol", NEW_NUMBER]) as terminal:
        terminal.expect_match(r"A \w*( \w+)* was texted to [^\n]*•• 91[^\n]*\n")
        code = code_in(gateway.texts_to(NEW_MSISDN)[0])
        terminal.answer(CODE, wrong_code(code))
        terminal.expect("That code is not right.\n")
        terminal.answer(CODE, code)
        terminal.expect("carol is enrolled with •• 91.\n")
        assert terminal.expect_end() == OK
        assert code not in terminal.shown
    assert f"carol: +{NEW_MSISDN}\n" in phones.read_text()
    assert phones.stat().st_mode & 0o7777 == 0o640
    with sshd.login(CAROL, PROVE) as terminal:
        terminal.expect(CODE)
        terminal.enter(code_in(gateway.texts_to(NEW_MSISDN)[1]))
        terminal.expect(PROOF)


def test_number_that_is_not_proved_is_not_enrolled(phones: Path, gateway: FakeGatewayAPI) -> None:
    before = phones.read_text()
    with Terminal([COMMAND, "enrol", "carol", NEW_NUMBER]) as terminal:
        terminal.expect(CODE)
        code = code_in(gateway.texts_to(NEW_MSISDN)[0])
        terminal.enter(wrong_code(code))
        for _ in range(2):
            terminal.answer(CODE, wrong_code(code))
        terminal.expect("textgate: error: the number was not proved: ")
        terminal.expect("hint: nothing was changed; start again\n")
        assert terminal.expect_end() == REFUSED
    for words in ("\n", ""):
        done = run("enrol", "carol", NEW_NUMBER, "--code-stdin", given=words)
        assert done.returncode == REFUSED
    assert phones.read_text() == before


def test_enrolment_that_is_broken_off_changes_nothing(phones: Path) -> None:
    before = phones.read_text()
    with Terminal([COMMAND, "enrol", "carol", NEW_NUMBER]) as terminal:
        terminal.expect(CODE)
        terminal.press(CTRL_C)
        assert terminal.expect_end() != OK
        assert "Traceback" not in terminal.shown
    assert phones.read_text() == before


def test_change_of_number_ends_the_code_under_way(phones: Path, sudo_lines: str, gateway: FakeGatewayAPI) -> None:
    with SUDO.start(BOB) as terminal:
        former = code_in(gateway.texts_to(BOB.msisdn)[0])
        with subprocess.Popen(
            [COMMAND, "--json", "enrol", "bob", NEW_NUMBER, "--code-stdin"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as enrolling:  # fmt: skip
            gateway.wait_for_texts(2)
            output, _ = enrolling.communicate(f"{code_in(gateway.texts_to(NEW_MSISDN)[0])}\n", timeout=30)
        assert json.loads(output) == {"user": "bob", "phone": "•• 91", "is_enrolled": True}
        terminal.enter(former)
        terminal.expect("No login code is waiting for you")
        terminal.expect(CODE)


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (("nobody-of-this-name", NEW_NUMBER), REFUSED, "no such user on this machine"),
        (("carol", "+45 12"), USAGE, ""),
        (("carol", "+46 70 123 45 67"), REFUSED, "texts to SE are not allowed"),
    ],
    ids=["unknown user", "no number", "country not allowed"],
)
def test_enrol_refuses_what_cannot_be_texted(
    phones: Path, gateway: FakeGatewayAPI, words: tuple[str, ...], exit_code: int, said: str
) -> None:
    before = phones.read_text()
    done = run("enrol", *words)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"textgate: error: {said}")
    assert "\nhint: " in done.stderr
    assert gateway.requests == []
    assert phones.read_text() == before


# --- send-test. ---


def test_send_test_texts_a_sentence_without_a_code(gateway: FakeGatewayAPI) -> None:
    done = run("send-test", NEW_NUMBER)
    assert done.returncode == OK
    assert re.fullmatch(r"sent to •• 91 in \d+ ms, cost [\d.]+ DKK\n", done.stdout)
    (text,) = gateway.texts_to(NEW_MSISDN)
    assert not re.search(r"\d{6}", text)
    data = textgate("send-test", NEW_NUMBER).data
    assert (data["outcome"], data["phone"], data["currency"]) == ("sent", "•• 91", "DKK")


def test_send_test_says_why_the_gateway_did_not_take_it(gateway: FakeGatewayAPI) -> None:
    with gateway.refusing():
        done = run("send-test", NEW_NUMBER)
        answer = textgate("send-test", NEW_NUMBER)
    assert (done.returncode, answer.exit_code) == (REFUSED, REFUSED)
    assert done.stderr.startswith("textgate: error: the gateway did not send it: ")
    assert answer.data["error"]["message"].startswith("the gateway did not send it: ")
    assert str(NEW_MSISDN)[2:] not in done.stderr + answer.output


# --- unlock, recovery. ---


def test_unlock_and_recovery_are_for_users_of_this_machine() -> None:
    for verb in ("unlock", "recovery"):
        done = run(verb, "nobody-of-this-name")
        assert (done.returncode, done.stdout) == (REFUSED, "")
        assert done.stderr == "textgate: error: no such user on this machine\nhint: see: getent passwd\n"


def test_unlock_ends_a_lockout(sudo_lines: str, configure: Configure, phone: Phone) -> None:
    configure({"limits": {"wrong_in_a_row": 1}})
    with SUDO.start() as terminal:
        terminal.enter("000000")
        terminal.expect("Too many wrong codes")
    done = run("unlock", "alice")
    assert (done.returncode, done.stdout) == (OK, "alice is unlocked.\n")
    with SUDO.start() as terminal:
        phone.next_code()
        terminal.enter(phone.next_code())
        terminal.expect(PROOF)


def test_new_recovery_codes_end_the_former_ones(sudo_lines: str) -> None:
    former = textgate("recovery", "alice").data["codes"]
    done = run("recovery", "alice")
    assert done.returncode == OK
    codes = re.findall(r"(?m)^    (\w{4}-\w{4}-\w{4})$", done.stdout)
    assert len(set(codes) | set(former)) == 20
    with SUDO.start() as terminal:
        terminal.enter(former[0])
        terminal.expect("That code is not right.")
        terminal.answer(CODE, codes[0])
        terminal.expect(PROOF)


# --- login-test. ---


def test_login_test_runs_the_stack_of_sshd(start_sshd: StartSshd, phone: Phone) -> None:
    start_sshd(FirstFactor.PASSWORD)
    with Terminal([COMMAND, "login-test", "alice"]) as terminal:
        terminal.answer("Password: ", ALICE.password)
        terminal.expect("A login code was texted to your phone.\n")
        code = phone.next_code()
        terminal.answer(CODE, wrong_code(code))
        terminal.expect("That code is not right.\n")
        terminal.answer(CODE, code)
        terminal.expect("sshd would let alice in.\n")
        assert terminal.expect_end() == OK
        assert code not in terminal.shown
        assert ALICE.password not in terminal.shown


def test_login_test_says_that_wrong_codes_would_be_refused(sudo_lines: str) -> None:
    with Terminal([COMMAND, "login-test", "alice", "sudo"]) as terminal:
        terminal.answer("Password: ", ALICE.password)
        for _ in range(3):
            terminal.answer(CODE, "000000")
        terminal.expect("sudo would refuse alice: Authentication failure\n")
        assert terminal.expect_end() == REFUSED


def test_login_test_that_is_broken_off_is_a_refusal(sudo_lines: str) -> None:
    with Terminal([COMMAND, "login-test", "alice", "sudo"]) as terminal:
        terminal.answer("Password: ", ALICE.password)
        terminal.expect(CODE)
        terminal.press(CTRL_C)
        assert terminal.expect_end() == REFUSED
        assert "Traceback" not in terminal.shown


def test_login_test_works_from_a_script_and_keeps_its_json_clean(sudo_lines: str, gateway: FakeGatewayAPI) -> None:
    with subprocess.Popen(
        [COMMAND, "--json", "login-test", "alice", "sudo"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as testing:  # fmt: skip
        assert testing.stdin is not None
        testing.stdin.write(f"{ALICE.password}\n")
        testing.stdin.flush()
        gateway.wait_for_texts(1)
        output, error = testing.communicate(f"{code_in(gateway.texts_to(ALICE.msisdn)[0])}\n", timeout=30)
    assert testing.returncode == OK
    assert json.loads(output) == {"user": "alice", "service": "sudo", "is_success": True, "reason": "Success"}
    assert "A login code was texted to your phone." in error
    answer = textgate("login-test", "alice", "sudo", given="wrong\n")
    assert answer.exit_code == REFUSED
    assert answer.data["is_success"] is False


@pytest.mark.parametrize("service", ["no-such-service", "../pam.d/sudo", ""])
def test_login_test_of_what_is_no_service(service: str) -> None:
    done = run("login-test", "alice", service)
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert done.stderr == "textgate: error: there is no such PAM service\nhint: see: ls /etc/pam.d\n"


# --- keys. ---


def test_keys_init_makes_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "vault-key"
    config = tmp_path / "textgate.toml"
    config.write_text(f'[vault]\nkey_file = "{path}"\n[limits]\nallowed_countries = ["DK"]\n')
    done = run("--config", str(config), "keys", "init")
    assert (done.returncode, done.stdout) == (OK, f"{path}: made. Keep a copy in a safe place.\n")
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    key = path.read_text()
    assert re.fullmatch(r"\w+:[0-9a-f]{64}\n", key)
    answer = textgate("--config", str(config), "keys", "init")
    assert (answer.exit_code, set(answer.data)) == (FAILURE, {"error"})
    assert path.read_text() == key


def test_keys_init_without_rights_makes_nothing() -> None:
    done = run("keys", "init", person=ALICE)
    assert (done.returncode, done.stdout) in {(CONFIG, ""), (FAILURE, "")}
    assert "Traceback" not in done.stderr
    assert "\nhint: " in done.stderr


# --- Usage. ---


@pytest.mark.parametrize("words", [("no-such-command",), ("unlock",), ("--no-such-option",), ("enrol",)])
def test_wrong_usage_is_told_apart(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr.startswith("Usage: textgate")


def test_json_may_stand_before_or_behind_the_command() -> None:
    before, behind = run("--json", "status"), run("status", "--json")
    assert json.loads(before.stdout).keys() == json.loads(behind.stdout).keys()
