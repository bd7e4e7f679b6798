# SPDX-License-Identifier: MIT
"""Who needs no code, as real programs tell it, and that nobody can make himself one of them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon
from rig.pam import PAM_DIRECTORY, FirstFactor
from rig.people import ALICE, BOB, DAVE, Person
from rig.phone import Phone
from rig.prompts import (
    ANY_PROMPT,
    AS_PEOPLE_SEE_IT,
    CODE,
    ONE_ROUND,
    PROOF,
    PROVE,
    SU,
    SUDO,
    Way,
    all_shown,
    fingerprint,
    refuse_to_answer,
)
from rig.sshd import Sshd
from rig.terminal import ENTER, Terminal, sudo

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

INSIDE = "10.20.30.0/24"
FROM_INSIDE = "10.20.30.40 50000 10.20.30.1 22"


def auth_info(person: Person) -> str:
    """What sshd would say of a login with this person's key."""
    return "publickey " + " ".join(person.key_path.with_suffix(".pub").read_text().split()[:2])


def expect_no_code(terminal: Terminal, daemon: Daemon, gateway: FakeGatewayAPI, reason: str) -> None:
    """In, without any prompt or word, and nothing was texted."""
    assert all_shown(terminal) == PROOF
    assert daemon.wait_event("begin", result="skip")["reason"] == reason
    assert gateway.requests == []


def expect_code(terminal: Terminal, phone: Phone) -> None:
    """A code is asked for, and the texted one lets in."""
    terminal.answer(CODE, phone.next_code())
    terminal.expect(PROOF)


# --- ssh. ---


@pytest.mark.parametrize(
    ("exempt", "reason"),
    [
        ({"users": ["alice"]}, "exempt_user"),
        ({"groups": ["sudo"]}, "exempt_group"),
        ({"networks": ["127.0.0.0/8"]}, "exempt_network"),
        ({"networks": ["::/0", "127.0.0.1"]}, "exempt_network"),
    ],
)
def test_exempt_people_get_in_with_the_first_factor_alone(
    sshd: Sshd,
    configure: Configure,
    daemon: Daemon,
    gateway: FakeGatewayAPI,
    exempt: dict[str, object],
    reason: str,
) -> None:
    configure({"exempt": exempt})
    with sshd.login(ALICE, PROVE, options=AS_PEOPLE_SEE_IT) as terminal:
        expect_no_code(terminal, daemon, gateway, reason)


@pytest.mark.parametrize(
    "exempt",
    [
        {"users": ["alic", "alicea", "bob"]},
        {"groups": ["textgate-admin", "bob"]},
        {"networks": ["128.0.0.0/8", "::1", "127.0.0.2"]},
    ],
)
def test_who_is_not_named_is_asked(sshd: Sshd, configure: Configure, phone: Phone, exempt: dict[str, object]) -> None:
    configure({"exempt": exempt})
    with sshd.login(ALICE, PROVE) as terminal:
        expect_code(terminal, phone)


def test_exempt_user_still_needs_the_first_factor(
    start_sshd: StartSshd, configure: Configure, daemon: Daemon
) -> None:
    configure({"exempt": {"users": ["alice"]}})
    with start_sshd(FirstFactor.PASSWORD).login(ALICE, PROVE, has_key=False, options=ONE_ROUND) as terminal:
        terminal.answer("Password: ", "wrong")
        assert terminal.expect_end() == 255
    assert daemon.find_events("begin") == []


@pytest.mark.parametrize("expose", ["no", "yes"])
def test_exempt_key_needs_no_code_and_other_keys_do(
    start_sshd: StartSshd, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, phone: Phone, expose: str
) -> None:
    configure({"exempt": {"key_fingerprints": [fingerprint(BOB)]}})
    sshd = start_sshd(FirstFactor.KEY, [f"ExposeAuthInfo {expose}"])
    with sshd.login(BOB, PROVE, options=AS_PEOPLE_SEE_IT) as terminal:
        expect_no_code(terminal, daemon, gateway, "exempt_key")
    with sshd.login(ALICE, PROVE) as terminal:
        expect_code(terminal, phone)


def test_owner_of_an_exempt_key_is_asked_where_he_comes_without_it(
    start_sshd: StartSshd, configure: Configure, phone: Phone
) -> None:
    configure({"exempt": {"key_fingerprints": [fingerprint(ALICE)]}})
    with start_sshd(FirstFactor.ANY).login(ALICE, PROVE, has_key=False) as terminal:
        terminal.answer("Password: ", ALICE.password)
        expect_code(terminal, phone)


def test_certificate_of_an_exempt_key_is_not_the_key(
    start_sshd: StartSshd, configure: Configure, phone: Phone, tmp_path: Path
) -> None:
    authority, key = tmp_path / "authority", tmp_path / "key"
    for path in (authority, key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "x", "-n", "alice", key.with_suffix(".pub")], check=True
    )
    said = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout
    configure({"exempt": {"key_fingerprints": [said.split()[1]]}})
    sshd = start_sshd(FirstFactor.KEY, [f"TrustedUserCAKeys {authority}.pub"])
    argv = [word.replace(str(ALICE.key_path), str(key)) for word in sshd.ssh_argv(ALICE, PROVE)]
    with Terminal(argv) as terminal:
        expect_code(terminal, phone)


def test_client_cannot_make_up_where_it_comes_from(start_sshd: StartSshd, configure: Configure, phone: Phone) -> None:
    configure({"exempt": {"networks": [INSIDE], "key_fingerprints": [fingerprint(BOB)]}})
    sshd = start_sshd(FirstFactor.KEY, ["AcceptEnv *", "PermitUserEnvironment yes"])
    folder = Path("/home/alice/.ssh")
    (folder / "environment").write_text(
        f"SSH_CONNECTION={FROM_INSIDE}\nSSH_AUTH_INFO_0={auth_info(BOB)}\nPAM_USER=dave\n"
    )
    sent = f"SetEnv=SSH_CONNECTION='{FROM_INSIDE}' SSH_AUTH_INFO_0='{auth_info(BOB)}' PAM_USER=dave PAM_SERVICE=x"
    try:
        with sshd.login(ALICE, PROVE, options=(sent,)) as terminal:
            expect_code(terminal, phone)
    finally:
        (folder / "environment").unlink()


def test_session_of_an_exempt_network_is_asked_by_sudo(
    sshd: Sshd, sudo_lines: str, configure: Configure, daemon: Daemon, phone: Phone
) -> None:
    configure({"exempt": {"networks": ["127.0.0.0/8"], "key_fingerprints": [fingerprint(ALICE)]}})
    argv = sshd.ssh_argv(ALICE, "sudo", "-k", "whoami")
    with Terminal([argv[0], "-t", *argv[1:]]) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect("root\n")
    assert daemon.find_events("begin", service="sshd", result="skip")
    assert daemon.find_events("check", service="sudo", result="pass")


# --- Required. ---


@pytest.mark.parametrize(
    "required", [{"users": ["bob"]}, {"groups": ["textgate-admin"]}, {"services": ["sudo", "login"]}]
)
def test_where_the_code_is_required_of_others_nobody_else_is_asked(
    sshd: Sshd, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI, required: dict[str, object]
) -> None:
    configure({"required": required})
    with sshd.login(ALICE, PROVE, options=AS_PEOPLE_SEE_IT) as terminal:
        expect_no_code(terminal, daemon, gateway, "not_required")


@pytest.mark.parametrize("required", [{"users": ["alice"]}, {"groups": ["sudo"]}, {"services": ["SSHD".lower()]}])
def test_of_whom_the_code_is_required_is_asked(
    sshd: Sshd, configure: Configure, phone: Phone, required: dict[str, object]
) -> None:
    configure({"required": required})
    with sshd.login(ALICE, PROVE) as terminal:
        expect_code(terminal, phone)


# --- sudo and su: nothing that a user can set is believed. ---


@pytest.fixture
def exempt_by_ssh(configure: Configure) -> None:
    """What sshd alone can know exempts: a network, and Bob's key."""
    configure({"exempt": {"networks": [INSIDE, "127.0.0.0/8"], "key_fingerprints": [fingerprint(BOB)]}})


FORGED = {
    "SSH_CONNECTION": FROM_INSIDE,
    "PAM_USER": "dave",
    "PAM_SERVICE": "sshd",
    "PAM_TTY": "ssh",
    "PAM_TYPE": "auth",
    "PAM_RHOST": "10.20.30.40",
}


@pytest.mark.usefixtures("sudo_lines", "exempt_by_ssh")
def test_environment_of_who_calls_sudo_exempts_nobody(phone: Phone, daemon: Daemon) -> None:
    with sudo(ALICE, "sh", "-c", PROVE, environment=FORGED | {"SSH_AUTH_INFO_0": auth_info(BOB)}) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        expect_code(terminal, phone)
    passed = daemon.wait_event("check", result="pass")
    assert (passed["user"], passed["service"], passed["source"]) == ("alice", "sudo", "")


@pytest.mark.usefixtures("sudo_lines", "exempt_by_ssh")
def test_assignments_on_the_command_line_of_sudo_exempt_nobody(phone: Phone) -> None:
    words = [f"{name}={value}" for name, value in (FORGED | {"SSH_AUTH_INFO_0": auth_info(BOB)}).items()]
    with sudo(ALICE, *words, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        expect_code(terminal, phone)


@pytest.mark.usefixtures("su_lines", "exempt_by_ssh")
def test_environment_of_who_calls_su_exempts_nobody(phone: Phone) -> None:
    environment = FORGED | {"SSH_AUTH_INFO_0": auth_info(BOB)}
    argv = ["su", "--preserve-environment", ALICE.name, "--command", PROVE]
    with Terminal(argv, user=BOB.name, environment=environment) as terminal:
        terminal.expect_match(ANY_PROMPT)
        terminal.enter(ALICE.password)
        expect_code(terminal, phone)


@pytest.fixture
def user_environment(sudo_lines: str, su_lines: str) -> Iterator[None]:
    """pam_env reads a user's own file above the block, which the manual warns of."""
    text = "".join(f'{name} DEFAULT="{value}"\n' for name, value in FORGED.items())
    file = Path("/home/alice/.pam_environment")
    file.write_text(text + f'SSH_AUTH_INFO_0 DEFAULT="{auth_info(BOB)}"\n')
    with contextlib.ExitStack() as stack:
        stack.callback(file.unlink)
        for service in ("sudo", "su"):
            stack.enter_context(first_line(service, "auth required pam_env.so user_readenv=1"))
        yield


@contextlib.contextmanager
def first_line(service: str, line: str) -> Iterator[None]:
    """Inside the `with` block the service's PAM file begins with this line."""
    path = PAM_DIRECTORY / service
    before = path.read_text()
    path.write_text(f"{line}\n{before}")
    try:
        yield
    finally:
        path.write_text(before)


@pytest.mark.usefixtures("user_environment", "exempt_by_ssh")
@pytest.mark.parametrize("way", [SUDO, SU], ids=["sudo", "su"])
def test_environment_that_pam_reads_from_a_home_exempts_nobody(phone: Phone, daemon: Daemon, way: Way) -> None:
    with way.start(ALICE) as terminal:
        terminal.enter(phone.next_code())
        terminal.expect(PROOF)
    assert daemon.find_events("begin", result="skip") == []


@pytest.fixture(scope="module")
def pam_environ(world: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PAM module that puts into the PAM environment whatever its line says."""
    module = tmp_path_factory.mktemp("pam") / "pam_environ.so"
    source = Path(__file__).with_name("pam_aids") / "pam_environ.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", module, source, "-lpam"], check=True)
    return module


@pytest.mark.usefixtures("exempt_by_ssh", "sudo_lines")
def test_ssh_variables_in_the_pam_environment_of_sudo_exempt_nobody(
    pam_environ: Path, phone: Phone, daemon: Daemon
) -> None:
    line = f"auth required {pam_environ} [SSH_CONNECTION={FROM_INSIDE}] [SSH_AUTH_INFO_0={auth_info(BOB)}]"
    with first_line("sudo", line), SUDO.start(ALICE) as terminal:
        terminal.enter(phone.next_code())
        terminal.expect(PROOF)
    assert daemon.wait_event("check", result="pass")["source"] == ""


@pytest.mark.usefixtures("exempt_by_ssh", "sudo_lines")
@pytest.mark.parametrize("name", ["PAM_USER", "PAM_SERVICE", "PAM_TTY", "PAM_TYPE"])
def test_pam_environment_that_poses_as_what_pam_says_itself_is_refused(
    pam_environ: Path, gateway: FakeGatewayAPI, daemon: Daemon, name: str
) -> None:
    line = f"auth required {pam_environ} [SSH_CONNECTION={FROM_INSIDE}] [{name}={FORGED[name]}]"
    with first_line("sudo", line), SUDO.start(ALICE) as terminal:
        assert "The code service does not answer. Ask your administrator.\n" in terminal.shown
        assert refuse_to_answer(terminal, ENTER) != 0
    assert daemon.find_events("begin") == daemon.find_events("check") == []
    assert gateway.requests == []


@pytest.mark.usefixtures("sudo_lines")
def test_exempt_user_and_group_count_in_sudo_too(
    configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    configure({"exempt": {"users": ["alice"]}})
    with sudo(ALICE, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        assert all_shown(terminal) == f"[sudo] password for alice: \n{PROOF}"
    assert daemon.wait_event("begin", result="skip")["service"] == "sudo"
    assert gateway.requests == []


def test_refusal_outranks_exemption(
    sshd: Sshd, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    configure(
        {
            "refused": {"users": ["dave"]},
            "exempt": {
                "users": ["dave"],
                "groups": ["textgate-admin"],
                "networks": ["127.0.0.0/8"],
                "key_fingerprints": [fingerprint(DAVE)],
            },
        }
    )
    with sshd.login(DAVE, PROVE, options=ONE_ROUND) as terminal:
        for _ in range(3):
            terminal.answer(CODE, "000000")
        assert terminal.expect_end() == 255
    assert gateway.requests == []
    assert daemon.find_events("begin", result="skip") == []
