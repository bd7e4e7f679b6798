# SPDX-License-Identifier: MIT
"""Every door of a machine: what its service files say on Debian 12 and 13, and what is said of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from textgate.config import parse_config
from textgate.doctor_doors import door_findings, door_lines, door_rows, level_of, suggestions, wishes_of
from textgate.door_survey import Wishes, survey
from textgate.doors import DOORS, UNSUITABLE, Door, Leads, State, opens_for_password, service_of, sshd_takes_passwords
from textgate.guard_faults import Level
from textgate.pam_admin import PamAdmin
from textgate.pam_files import PamAdminError, check_service
from textgate.pam_stack import FirstFactor, read_stack

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = (
    "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
)
USUAL = "@include common-auth\n"
ROOTOK = "auth sufficient pam_rootok.so\n"

# The auth lines of Debian's own files. Those of a server with nothing installed beside sshd and sudo:
STOCK: Mapping[str, str] = {
    "chfn": ROOTOK + USUAL,
    "chpasswd": ROOTOK,
    "chsh": "auth required pam_shells.so\n" + ROOTOK + USUAL,
    "common-auth": COMMON,
    "login": "auth optional pam_faildelay.so delay=3000000\nauth requisite pam_nologin.so\n" + USUAL,
    "newusers": ROOTOK,
    "other": USUAL,
    "passwd": "@include common-password\n",
    "common-password": "password required pam_unix.so\n",
    "runuser": ROOTOK + "session required pam_unix.so\n",
    "runuser-l": "auth include runuser\n",
    "sshd": USUAL,
    "su": ROOTOK + USUAL,
    "su-l": "auth include su\n",
    "sudo": USUAL,
    "sudo-i": USUAL,
    "textgate": BLOCK,
}
VENDOR: Mapping[str, str] = {"systemd-user": "session required pam_unix.so\n"}
PROGRAMS = ("usr/bin/sudo", "usr/bin/login", "usr/bin/su", "usr/sbin/sshd")

# And those of packages that bring a service: file, program, and how it is with sudo guarded.
BROUGHT: Mapping[str, tuple[str, str, State, Level]] = {
    "atd": (USUAL, "", State.NEEDS_NONE, Level.OK),
    "cockpit": ("auth required pam_sepermit.so\nauth substack common-auth\nauth optional pam_ssh_add.so\n",
                "usr/lib/cockpit/cockpit-session", State.OPEN, Level.WARNING),
    "cron": (USUAL, "", State.NEEDS_NONE, Level.OK),
    "cups": (USUAL, "", State.NEEDS_NONE, Level.OK),
    "doas": (USUAL, "usr/bin/doas", State.OPEN, Level.FAILURE),
    "gdm-autologin": ("auth required pam_permit.so\n", "", State.NEEDS_NONE, Level.OK),
    "gdm-fingerprint": ("auth requisite pam_nologin.so\nauth required pam_fprintd.so\n", "usr/sbin/gdm3",
                        State.CLOSED, Level.OK),
    "gdm-password": ("auth requisite pam_nologin.so\nauth required pam_succeed_if.so user != root quiet_success\n"
                     + USUAL, "usr/sbin/gdm3", State.OPEN, Level.WARNING),
    "greetd": ("auth include login\n", "usr/sbin/greetd", State.OPEN, Level.WARNING),
    "greetd-greeter": ("session required pam_unix.so\n", "", State.NEEDS_NONE, Level.OK),
    "i3lock": ("auth include login\n", "", State.NEEDS_NONE, Level.OK),
    "lightdm": ("auth requisite pam_nologin.so\n" + USUAL, "usr/sbin/lightdm", State.OPEN, Level.WARNING),
    "lightdm-greeter": ("auth required pam_permit.so\n", "", State.NEEDS_NONE, Level.OK),
    "polkit-1": (USUAL, "usr/lib/polkit-1/polkit-agent-helper-1", State.OPEN, Level.FAILURE),
    "proftpd": ("auth required pam_listfile.so item=user sense=deny file=/etc/ftpusers onerr=succeed\n" + USUAL,
                "usr/sbin/proftpd", State.OPEN, Level.WARNING),
    "remote": ("auth requisite pam_nologin.so\n" + USUAL, "usr/sbin/telnetd", State.OPEN, Level.WARNING),
    "sddm": (USUAL, "usr/bin/sddm", State.OPEN, Level.WARNING),
    "vsftpd": ("auth required pam_listfile.so item=user sense=deny file=/etc/ftpusers onerr=succeed\n" + USUAL
               + "auth required pam_shells.so\n", "usr/sbin/vsftpd", State.OPEN, Level.WARNING),
    "xrdp-sesman": ("auth required pam_env.so readenv=1\n" + USUAL, "usr/sbin/xrdp-sesman", State.OPEN,
                    Level.WARNING),
    "xscreensaver": (USUAL, "", State.NEEDS_NONE, Level.OK),
    # Services that nobody told textgate of, and files that are none.
    "sshd-internal": (USUAL, "", State.OPEN, Level.WARNING),
    "sudo.bak": (USUAL, "", State.NEEDS_NONE, Level.OK),
    "nonsense": ("auth what pam_unix.so\n", "", State.OPEN, Level.WARNING),
    "closed": ("auth requisite pam_deny.so\n", "", State.CLOSED, Level.OK),
    "no-lines": ("account required pam_permit.so\n", "", State.OPEN, Level.WARNING),  # libpam asks `other`
}  # fmt: skip

KEYS_ONLY = "passwordauthentication no\nkbdinteractiveauthentication no\n"


class Yard:
    """A machine of files. release: 13 keeps polkit's file where the vendor's are; 12 may have it in /etc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sshd = KEYS_ONLY
        self.admin = PamAdmin(str(root), self.run)
        for name, text in STOCK.items():
            self.write(f"etc/pam.d/{name}", text)
        for name, text in VENDOR.items():
            self.write(f"usr/lib/pam.d/{name}", text)
        for program in PROGRAMS:
            self.write(program, "")

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        return 0, self.sshd if arguments[:2] == ["sshd", "-T"] else ""

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def bring(self, name: str, *, folder: str = "etc/pam.d") -> None:
        text, program, *_ = BROUGHT[name]
        self.write(f"{folder}/{name}", text)
        if program:
            self.write(program, "")

    def guard(self, *services: str) -> None:
        for service in services:
            self.admin.enable(service, FirstFactor.PASSWORD, now_at=1)

    def doors(self, wishes: Wishes | None = None) -> dict[str, Door]:
        return {door.name: door for door in survey(self.admin, wishes or Wishes())}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_doors_of_a_stock_server(yard: Yard) -> None:
    """Debian 12 and 13 alike: both have these files and no others."""
    by_state: dict[State, set[str]] = {}
    for name, door in yard.doors().items():
        by_state.setdefault(door.state, set()).add(name)
    assert by_state == {
        State.OPEN: {"login", "su", "su-l", "sudo", "sudo-i"},
        State.CLOSED: {"sshd"},
        State.NEEDS_NONE: {
            "chfn", "chpasswd", "chsh", "newusers", "other", "passwd", "runuser", "runuser-l", "systemd-user",
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", list(BROUGHT))
def test_service_that_a_package_brings(yard: Yard, name: str) -> None:
    _, program, state, level = BROUGHT[name]
    yard.bring(name)
    yard.guard("sudo", "sudo-i")
    doors = yard.doors()
    assert (doors[name].state, level_of(doors[name], doors.values())) == (state, level)
    found = [one for one in door_findings(doors.values()) if one.service == name]
    assert [one.level for one in found] == ([level] if state is State.OPEN else [])
    assert all(one.remedy and one.fault == "door-open" for one in found)
    if program:
        (yard.root / program).unlink()
        assert yard.doors()[name].state is State.ABSENT


@pytest.mark.parametrize("folder", ["etc/pam.d", "usr/lib/pam.d"])
def test_polkit_is_a_door_and_can_be_guarded_wherever_its_file_is(yard: Yard, folder: str) -> None:
    """Debian's polkitd has it in /usr/lib/pam.d; a file in /etc/pam.d goes before it."""
    yard.bring("polkit-1", folder=folder)
    before = (yard.root / folder / "polkit-1").read_text()
    yard.guard("sudo", "sudo-i")
    door = yard.doors()["polkit-1"]
    assert (door.state, door.service.leads) == (State.OPEN, Leads.ROOT)
    (found,) = [one for one in door_findings(yard.doors().values()) if one.service == "polkit-1"]
    assert found.level is Level.FAILURE
    assert found.remedy == "textgate pam try polkit-1"
    assert check_service("polkit-1") == "polkit-1"
    yard.guard("polkit-1")
    assert yard.doors()["polkit-1"].state is State.GUARDED
    assert (yard.root / "etc/pam.d/polkit-1").read_text().startswith("@include common-auth\n# textgate: begin")
    yard.admin.disable("polkit-1")
    assert (yard.root / folder / "polkit-1").read_text() == before
    assert (yard.root / "etc/pam.d/polkit-1").exists() is (folder == "etc/pam.d")


def test_cockpit_is_guarded_once_its_file_says_include(yard: Yard) -> None:
    yard.bring("cockpit")
    with pytest.raises(PamAdminError, match="after a wrong password too") as caught:
        yard.guard("cockpit")
    assert "or a `substack`" in (caught.value.hint or "")
    yard.write("etc/pam.d/cockpit", BROUGHT["cockpit"][0].replace("substack", "include"))
    yard.guard("cockpit")
    assert yard.doors()["cockpit"].state is State.GUARDED


def test_telnet_goes_by_a_service_for_which_debian_has_no_file(yard: Yard) -> None:
    """`login -h` of Debian 13 asks `remote`, and not the guarded `login`."""
    yard.guard("sudo", "sudo-i", "login")
    yard.write("usr/sbin/telnetd", "")
    (found,) = [one for one in door_findings(yard.doors().values()) if one.service == "remote"]
    assert found.level is Level.WARNING
    assert "/etc/pam.d/remote" in (found.remedy or "")


@pytest.mark.parametrize("name", ["sudo-i", "sudo", "su-l", "login", "polkit-1"])
def test_program_whose_file_is_gone_goes_by_other(yard: Yard, name: str) -> None:
    """libpam asks `other` where a service has no file, and Debian's asks for a password."""
    yard.bring("polkit-1")
    yard.guard(*({"sudo", "sudo-i", "login", "su", "polkit-1"} - {name}))
    (yard.root / "etc/pam.d" / name).unlink()
    door = yard.doors()[name]
    (found,) = [one for one in door_findings(yard.doors().values()) if one.level is not Level.OK]
    assert (door.state, found.service) == (State.OPEN, name)
    assert found.level is (Level.FAILURE if door.is_root else Level.WARNING)
    assert "there is no file of its own, and PAM goes by `other`" in found.message
    assert "--force-confmiss" in (found.remedy or "")
    yard.write("etc/pam.d/other", "auth requisite pam_deny.so\n")
    assert yard.doors()[name].state is State.CLOSED


def test_program_that_asks_no_pam_is_a_door(yard: Yard) -> None:
    yard.guard("sudo", "sudo-i")
    assert "dropbear" not in yard.doors()
    yard.write("etc/init.d/dropbear", "")
    (found,) = [one for one in door_findings(yard.doors().values()) if one.service == "dropbear"]
    assert found.level is Level.WARNING
    assert (found.remedy or "").startswith("it checks passwords by itself, and asks no PAM: remove it")
    assert yard.doors(Wishes(["dropbear"]))["dropbear"].state is State.LEFT_OPEN


def test_program_that_was_installed_by_hand_is_a_door(yard: Yard) -> None:
    yard.bring("doas")
    (yard.root / "usr/bin/doas").unlink()
    assert yard.doors()["doas"].state is State.ABSENT
    yard.write("usr/local/bin/doas", "")
    assert yard.doors()["doas"].state is State.OPEN


def test_half_of_sudo_is_a_failure(yard: Yard) -> None:
    yard.guard("sudo")
    found = {one.service: one for one in door_findings(yard.doors().values())}
    assert found["sudo-i"].level is Level.FAILURE
    assert {name for name, one in found.items() if one.level is Level.WARNING} == {"login", "su", "su-l"}


def test_door_to_root_is_a_warning_where_sudo_asks_for_no_code(yard: Yard) -> None:
    yard.bring("polkit-1")
    yard.guard("login")
    levels = {one.service: one.level for one in door_findings(yard.doors().values())}
    assert levels["polkit-1"] is levels["sudo"] is Level.WARNING


def test_nothing_is_said_where_nothing_is_guarded(yard: Yard) -> None:
    assert list(door_findings(yard.doors().values())) == []
    assert {row["level"] for row in door_rows(yard.doors().values())} == {"ok"}


def test_no_way_in_by_a_password_is_said_only_when_it_is_true(yard: Yard) -> None:
    said = "every service that a password alone would open has textgate's lines"
    yard.guard("sudo", "sudo-i", "su")
    assert said not in [one.message for one in door_findings(yard.doors().values())]
    yard.guard("login")
    assert [(one.level, one.message) for one in door_findings(yard.doors().values())] == [(Level.OK, said)]
    yard.bring("polkit-1")
    assert said not in [one.message for one in door_findings(yard.doors().values())]


def test_door_is_guarded_by_the_service_that_it_goes_through(yard: Yard) -> None:
    yard.bring("greetd")
    yard.guard("sudo", "sudo-i")
    remedies = {one.service: one.remedy or "" for one in door_findings(yard.doors().values())}
    assert remedies["su-l"].startswith("textgate pam try su;")
    assert remedies["greetd"].startswith("textgate pam try login;")
    assert remedies["login"].startswith("textgate pam try login;")
    yard.guard("su", "login")
    assert {yard.doors()[name].state for name in ("su", "su-l", "login", "greetd")} == {State.GUARDED}


def test_remedy_for_what_cannot_ask_mends_it(yard: Yard) -> None:
    yard.bring("vsftpd")
    yard.guard("sudo", "sudo-i")
    (found,) = [one for one in door_findings(yard.doors().values()) if one.service == "vsftpd"]
    assert found.remedy is not None
    assert found.remedy.startswith("it can ask for one password and no more")
    line = found.remedy.split("`")[1]
    yard.write("etc/pam.d/vsftpd", f"{line}\n{BROUGHT['vsftpd'][0]}")
    assert yard.doors()["vsftpd"].state is State.CLOSED


def test_file_that_cannot_be_read_for_certain_counts_as_open(yard: Yard) -> None:
    yard.bring("nonsense")
    yard.guard("sudo")
    (found,) = [one for one in door_findings(yard.doors().values()) if one.service == "nonsense"]
    assert "/etc/pam.d/nonsense:1: has an unknown control" in found.message
    assert (found.remedy or "").startswith("mend that line")


def test_what_is_left_open_on_purpose_is_told_without_a_warning(yard: Yard) -> None:
    yard.bring("polkit-1")
    yard.guard("sudo", "sudo-i", "su")
    text = '[limits]\nallowed_countries = ["DK"]\n[services]\nleft_open = ["login", "polkit-1"]\n'
    doors = yard.doors(wishes_of(parse_config(text, config_path="x")))
    found = {one.service: one for one in door_findings(doors.values())}
    assert (found["login"].level, found["login"].fault) == (Level.OK, "door-left-open")
    assert "left_open" in found["login"].message
    assert found["polkit-1"].level is Level.WARNING  # root for sudo's password stays in sight
    assert doors["login"].state is State.LEFT_OPEN
    yard.guard("login")
    assert yard.doors(Wishes(["login"]))["login"].state is State.GUARDED


def test_guarded_service_in_which_the_configuration_asks_for_no_code_is_open(yard: Yard) -> None:
    yard.guard("sudo", "sudo-i")
    text = '[limits]\nallowed_countries = ["DK"]\n[required]\nservices = ["sudo"]\n'
    doors = yard.doors(wishes_of(parse_config(text, config_path="x")))
    assert (doors["sudo"].state, doors["sudo-i"].state) == (State.GUARDED, State.OPEN)
    (found,) = [one for one in door_findings(doors.values(), "x.toml") if one.service == "sudo-i"]
    assert found.level is Level.FAILURE
    assert found.remedy == "add sudo-i to [required] services in x.toml"


def test_sshd_without_passwords_is_no_door_for_them(yard: Yard) -> None:
    assert yard.doors()["sshd"].state is State.CLOSED
    yard.sshd = "passwordauthentication yes\nkbdinteractiveauthentication no\n"
    assert yard.doors()["sshd"].state is State.OPEN
    yard.guard("sudo", "sudo-i")
    levels = {one.service: one.level for one in door_findings(yard.doors().values())}
    assert levels["sshd"] is Level.WARNING


@pytest.mark.parametrize(
    ("settings", "takes"),
    [
        ({}, True),  # sshd's own defaults
        ({"passwordauthentication": "no"}, True),
        ({"passwordauthentication": "no", "kbdinteractiveauthentication": "no"}, False),
        ({"authenticationmethods": "publickey"}, False),
        ({"authenticationmethods": "publickey,password"}, False),
        ({"authenticationmethods": "publickey,password password"}, True),
        ({"authenticationmethods": "password,keyboard-interactive:pam"}, True),
        ({"authenticationmethods": "keyboard-interactive:pam", "kbdinteractiveauthentication": "no"}, False),
    ],
)
def test_sshd_settings(settings: dict[str, str], takes: bool) -> None:
    assert sshd_takes_passwords(settings) is takes


@pytest.mark.parametrize(
    ("lines", "is_open"),
    [
        ("auth required pam_unix.so\n", True),
        ("auth required pam_sss.so\n", True),
        ("auth required pam_unknown.so\n", True),
        ("auth required pam_deny.so\n", False),
        ("auth sufficient pam_rootok.so\n", False),
        ("auth required pam_unix.so\nauth required pam_google_authenticator.so\n", False),
        ("auth required pam_unix.so\nauth required pam_google_authenticator.so nullok\n", True),
        ("auth sufficient pam_unix.so\nauth required pam_u2f.so\n", True),
        ("auth required pam_unix.so\nauth required pam_u2f.so nouserok\n", True),
        ("auth required pam_fprintd.so\n", False),
        ("auth requisite pam_unix.so\n@include textgate\n", False),
        # Who is kept out: root by name or number, the others by their group; both, or it is open.
        ("auth requisite pam_succeed_if.so quiet user notingroup sudo\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so uid >= 1000\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so uid >= 1000 user notingroup sudo\nauth required pam_unix.so\n", False),
        ("auth requisite pam_succeed_if.so user != root user notingroup wheel:sudo\nauth required pam_unix.so\n",
         False),
        ("auth required pam_succeed_if.so uid > 999 user notingroup sudo\nauth required pam_unix.so\n", False),
        ("auth optional pam_succeed_if.so uid >= 1000 user notingroup sudo\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so use_uid uid >= 1000 user notingroup sudo\nauth required pam_unix.so\n",
         True),
        ("auth requisite pam_succeed_if.so uid >= 1000 user notingroup staff\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so uid < 100\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so uid eq 5\nauth required pam_unix.so\n", False),
        ("auth requisite pam_succeed_if.so uid ne 0 user notingroup sudo\nauth required pam_unix.so\n", False),
        ("auth requisite pam_succeed_if.so user in bob:carol\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so user notin root:bob user notingroup sudo\nauth required pam_unix.so\n",
         False),
        ("auth requisite pam_succeed_if.so user = root uid > 0\nauth required pam_unix.so\n", False),
        ("auth requisite pam_succeed_if.so user !~ r* user notingroup sudo\nauth required pam_unix.so\n", False),
        ("auth requisite pam_succeed_if.so shell = /bin/false\nauth required pam_unix.so\n", True),
        ("auth requisite pam_succeed_if.so uid\nauth required pam_unix.so\n", True),
    ],
)  # fmt: skip
def test_stacks_that_a_password_alone_opens(lines: str, is_open: bool) -> None:
    files = {"service": lines, "textgate": BLOCK}
    assert opens_for_password(read_stack("service", files.__getitem__)) is is_open


def test_table_names_each_service_once_and_says_why() -> None:
    names = [name for service in DOORS for name in service.names]
    assert len(set(names)) == len(names)
    for service in DOORS:
        assert service.why or (service.can_ask and service.leads is not Leads.NOTHING), service.names
        assert service.what or service.leads is Leads.NOTHING, service.names
    assert "polkit-1" not in UNSUITABLE
    assert service_of("something").leads is Leads.UNKNOWN


def test_what_is_shown_to_people_and_programs(yard: Yard) -> None:
    yard.bring("polkit-1")
    yard.bring("sshd-internal")
    yard.guard("sudo", "sudo-i")
    lines = list(door_lines(yard.doors().values(), "x.toml"))
    assert lines[:2] == [
        "\nA password alone opens:",
        "polkit-1     gives root for a password alone (with systemd-run, run0, pkexec and desktop programs)",
    ]
    assert "sshd-internal is no service that textgate knows, and a password alone may open it" in lines
    assert "chpasswd, newusers, runuser, runuser-l: it lets root through and nobody else" in lines
    rows = {row["service"]: row for row in door_rows(yard.doors().values(), "x.toml")}
    assert set(rows) == {*STOCK, *VENDOR, "polkit-1", "sshd-internal"} - {
        "common-auth",
        "common-password",
        "textgate",
    }
    assert {rows["sudo"]["state"], rows["login"]["state"], rows["chfn"]["state"]} == {"guarded", "open", "needs none"}
    assert [rows[name]["leads_to"] for name in ("polkit-1", "login", "chfn", "sshd-internal")] == [
        "root", "shell", "nothing", "unknown",
    ]  # fmt: skip
    assert rows["polkit-1"]["level"] == "failure"


def test_setup_suggests_every_door_to_root_and_names_the_others(yard: Yard) -> None:
    assert suggestions(yard.doors().values())[0] == ["sshd", "sudo", "sudo-i"]
    for name in ("polkit-1", "cockpit", "vsftpd"):
        yard.bring(name)
    suggested, others = suggestions(yard.doors().values())
    assert suggested == ["sshd", "sudo", "sudo-i", "polkit-1"]
    assert [one.partition(" ")[0] for one in others] == ["cockpit", "login", "su", "su-l"]
