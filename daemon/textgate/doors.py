# SPDX-License-Identifier: MIT
"""The doors of a machine: which PAM services lead to a shell or to root, and whether a password alone opens them.

DOORS is the one table of services that textgate knows; `pam try` refuses those in it that can't ask for a code, and
`pam status`, `doctor` and `setup` list the others. A service that is not in it counts as a door: nobody knows that it
is none. Whether a stack opens is played through as in `pam_stack.ways_around`. No file is touched here.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .pam_stack import Rule, opens_while_refused


class Leads(Enum):
    """Where a service leads whoever gets through it."""

    ROOT = "root"  # to root, for the administrator's own password
    SHELL = "shell"  # to a shell of the user, or to files of the user that come to the same
    NOTHING = "nothing"  # to neither
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Service:
    """A row of DOORS. what: what people call it. why: why it needs no code, or why it can't ask for one.

    programs: patterns of files, one of which is there when the program behind it is installed; () for always.
    can_ask: whether textgate's lines work in it. is_by_name: whether the program asks for these names, whatever
    files there are: where one is missing, libpam asks `other`. has_pam: whether it asks PAM at all.
    """

    names: Sequence[str]
    leads: Leads
    what: str = ""
    why: str = ""
    programs: Sequence[str] = ()
    can_ask: bool = True
    is_by_name: bool = False
    has_pam: bool = True


_ONE_PROMPT = "it can ask for one password and no more"
_BY_FTP = "by way of the user's files, which FTP writes"
_NOBODY = "it authenticates nobody"
_NO_PAM = "it checks passwords by itself, and asks no PAM"
_SETTINGS = "it opens what its own settings open without a password"
_FOR_ROOT = "it lets root through and nobody else"
_SUDO = ("/usr/bin/sudo", "/usr/bin/sudo-rs")
_AGENT = ("/usr/lib/polkit-1/polkit-agent-helper-1", "/usr/libexec/polkit-agent-helper-1",
          "/usr/lib/policykit-1/polkit-agent-helper-1")  # fmt: skip

DOORS: Sequence[Service] = (
    Service(("sudo",), Leads.ROOT, "with `sudo`", programs=_SUDO, is_by_name=True),
    Service(("sudo-i",), Leads.ROOT, "with `sudo -i`", programs=_SUDO, is_by_name=True),
    Service(("polkit-1",), Leads.ROOT, "with systemd-run, run0, pkexec and desktop programs", programs=_AGENT,
            is_by_name=True),
    Service(("doas",), Leads.ROOT, "with `doas`", programs=("/usr/bin/doas",), is_by_name=True),
    Service(("sshd",), Leads.SHELL, "by ssh", programs=("/usr/sbin/sshd",), is_by_name=True),
    Service(("dropbear",), Leads.SHELL, "by ssh", _NO_PAM,
            ("/etc/init.d/dropbear", "/usr/lib/systemd/system/dropbear.service"), can_ask=False, is_by_name=True,
            has_pam=False),
    Service(("login",), Leads.SHELL, "on the console", programs=("/usr/bin/login", "/bin/login"), is_by_name=True),
    Service(("remote",), Leads.SHELL, "over the network", programs=("/usr/sbin/*telnetd",), is_by_name=True),
    Service(("su", "su-l"), Leads.SHELL, "of whomever the password belongs to, root too",
            programs=("/usr/bin/su", "/bin/su", "/usr/bin/su-rs"), is_by_name=True),
    Service(("cockpit",), Leads.SHELL, "in the browser",
            programs=("/usr/lib/cockpit/cockpit-session", "/usr/libexec/cockpit-session"), is_by_name=True),
    Service(("gdm-password", "gdm-fingerprint", "gdm-smartcard", "gdm-smartcard-pkcs11-exclusive",
             "gdm-smartcard-sssd-exclusive", "gdm-smartcard-sssd-or-password"), Leads.SHELL,
            "on the login screen", programs=("/usr/sbin/gdm3",)),
    Service(("lightdm",), Leads.SHELL, "on the login screen", programs=("/usr/sbin/lightdm",), is_by_name=True),
    Service(("greetd",), Leads.SHELL, "on the login screen", programs=("/usr/sbin/greetd",), is_by_name=True),
    Service(("sddm",), Leads.SHELL, "on the login screen", _ONE_PROMPT, ("/usr/bin/sddm",), can_ask=False,
            is_by_name=True),
    Service(("lxdm",), Leads.SHELL, "on the login screen", _ONE_PROMPT, ("/usr/sbin/lxdm",), can_ask=False),
    Service(("xdm", "wdm", "slim"), Leads.SHELL, "on the login screen", _ONE_PROMPT,
            ("/usr/bin/xdm", "/usr/bin/wdm", "/usr/bin/slim"), can_ask=False),
    Service(("xrdp-sesman",), Leads.SHELL, "on a desktop over the network", _ONE_PROMPT, ("/usr/sbin/xrdp-sesman",),
            can_ask=False),
    Service(("vsftpd",), Leads.SHELL, _BY_FTP, _ONE_PROMPT, ("/usr/sbin/vsftpd",), can_ask=False),
    Service(("proftpd",), Leads.SHELL, _BY_FTP, _ONE_PROMPT, ("/usr/sbin/proftpd",),
            can_ask=False),
    Service(("pure-ftpd",), Leads.SHELL, _BY_FTP, _ONE_PROMPT, ("/usr/sbin/pure-ftpd*",),
            can_ask=False),
    # What follows needs no code.
    Service(("atd", "cron", "crond", "systemd-user"), Leads.NOTHING, why=_NOBODY, can_ask=False),
    Service(("gdm-launch-environment", "greetd-greeter", "lightdm-greeter", "sddm-greeter"), Leads.NOTHING,
            why=_NOBODY, can_ask=False),
    Service(("gdm-autologin", "lightdm-autologin", "sddm-autologin"), Leads.NOTHING, why=_SETTINGS, can_ask=False),
    Service(("runuser", "runuser-l", "chpasswd", "newusers"), Leads.NOTHING, why=_FOR_ROOT, can_ask=False),
    Service(("passwd",), Leads.NOTHING, why="it changes the user's own password, and opens nothing", can_ask=False),
    Service(("chfn", "chsh"), Leads.NOTHING, why="it changes the user's own entry, and opens nothing"),
    Service(("i3lock", "kde", "physlock", "swaylock", "vlock", "xlock", "xscreensaver", "gtklock", "hyprlock",
             "waylock", "cinnamon-screensaver", "gnome-screensaver", "mate-screensaver", "xfce4-screensaver"),
            Leads.NOTHING, why="it shows again a session that is open already; and it runs as the user, who can't "
            "reach textgate's socket", can_ask=False),
    Service(("dovecot", "imap", "pop3", "smtp", "exim4"), Leads.NOTHING,
            why=f"it opens mail and no shell; {_ONE_PROMPT}", can_ask=False),
    Service(("openvpn", "ppp"), Leads.NOTHING, why=f"it opens a network and no shell; {_ONE_PROMPT}", can_ask=False),
    Service(("samba",), Leads.NOTHING, why="it checks passwords of its own", can_ask=False),
    Service(("cups",), Leads.NOTHING, why=f"it opens the settings of printers; {_ONE_PROMPT}", can_ask=False),
    Service(("saslauthd",), Leads.NOTHING, why=f"it answers other programs, and opens no shell; {_ONE_PROMPT}",
            can_ask=False),
    Service(("textgate-api",), Leads.NOTHING, why="programs with AuthClient use it, and ask for the code themselves",
            can_ask=False),
    Service(("other",), Leads.NOTHING, why="it is for programs without a service of their own"),
)  # fmt: skip

_BY_NAME: Mapping[str, Service] = {name: service for service in DOORS for name in service.names}
UNSUITABLE: Mapping[str, str] = {name: one.why for name, one in _BY_NAME.items() if not one.can_ask}
_COPY = re.compile(r".*[.](bak|old|orig|save|rpmnew|rpmsave|ucf-\w+)")


def service_of(name: str) -> Service:
    """What textgate knows of a service."""
    if _COPY.fullmatch(name):
        return Service((name,), Leads.NOTHING, why="by its name it is a copy of another file")
    return _BY_NAME.get(name, Service((name,), Leads.UNKNOWN))


NO_FILE = "there is no file of its own, and PAM goes by `other`"
NOT_ASKED = "it has textgate's lines, but [required] services leaves it out"


class State(Enum):
    """How a door is."""

    GUARDED = "guarded"
    OPEN = "open"  # a password alone opens it
    LEFT_OPEN = "left open"  # as the configuration says
    CLOSED = "closed"  # a password alone does not open it, and it asks for no code
    NEEDS_NONE = "needs none"
    ABSENT = "absent"  # the program behind it is not installed


@dataclass(frozen=True)
class Door:
    """A service as it is on a machine. why: of its state, where that needs a reason.

    guard: the service to guard for it: itself, or one that it goes through, as su-l goes through su.
    """

    name: str
    service: Service
    state: State
    why: str = ""
    guard: str = ""

    @property
    def is_root(self) -> bool:
        """Whether it leads to root for the administrator's own password."""
        return self.service.leads is Leads.ROOT


def message_of(door: Door) -> str:
    """An open door, in one sentence."""
    if door.service.leads is Leads.UNKNOWN:
        text = f"{door.name} is no service that textgate knows, and a password alone may open it"
    else:
        what = "root" if door.is_root else "a shell"
        text = f"{door.name} gives {what} for a password alone ({door.service.what})"
    return f"{text}: {door.why}" if door.why else text


def remedy_of(door: Door, config_path: str) -> str:
    """What is to be done about an open door."""
    leave = f"name it in [services] left_open of {config_path}"
    if door.why == NO_FILE:
        path = f"/etc/pam.d/{door.name}"
        return (
            f"put {path} back: `dpkg -S {path}` names its package; then: apt install --reinstall "
            f"-o Dpkg::Options::=--force-confmiss PACKAGE; or, where no package has it: cp /etc/pam.d/login {path}"
        )
    if not door.service.has_pam:
        return f"{door.service.why}: remove it; or let it take keys alone (-s), and {leave}"
    if not door.service.can_ask:
        line = "auth requisite pam_succeed_if.so quiet uid >= 1000 user notingroup sudo"
        return f"{door.service.why}; to keep administrators out, put `{line}` above all its lines; or {leave}"
    if door.why == NOT_ASKED:
        return f"add {door.name} to [required] services in {config_path}"
    if door.why:
        return f"mend that line of its file; or {leave}"
    command = f"textgate pam try {door.guard or door.name}"
    return command if door.is_root else f"{command}; or, if that is meant, {leave}"


# --- Whether a password alone opens a stack ---

# Modules that ask for something else than a password, and let through without it only where an option says so.
_OTHER_PROOFS = frozenset(
    f"pam_{name}.so"
    for name in ("duo", "fprintd", "google_authenticator", "oath", "p11", "pkcs11", "poldi", "ssh_agent_auth", "u2f",
                 "yubico")
)  # fmt: skip
_SKIPPED_BY = frozenset({"alwaysok", "nullok", "nouserok"})


@dataclass(frozen=True)
class _Person:
    """Somebody who becomes root, as far as that is the same for all of them."""

    name: str | None
    uid: int | None
    group: str


_ADMINISTRATORS = (_Person("root", 0, "root"), _Person(None, None, "sudo"))


def opens_for_password(rules: Sequence[Rule]) -> bool:
    """Whether an administrator's password alone gets through this stack. Raises StackError as `ways_around`."""
    return any(opens_while_refused(rules, _Answers(person)) for person in _ADMINISTRATORS)


@dataclass(frozen=True)
class _Answers:
    """What modules can answer to a person with a password and nothing else; None for whatever they like."""

    person: _Person

    def __call__(self, rule: Rule) -> Sequence[str] | None:
        module = rule.module.rpartition("/")[2]
        if module in _OTHER_PROOFS and _SKIPPED_BY.isdisjoint(rule.arguments):
            return ("auth_err",)
        if module == "pam_succeed_if.so":
            is_met = _is_met(self.person, rule.arguments)
            return None if is_met is None else ("success",) if is_met else ("auth_err",)
        return None


def _is_met(person: _Person, arguments: Sequence[str]) -> bool | None:
    """The conditions of pam_succeed_if(8), all of which must hold; None where that can't be known."""
    words = [word for word in arguments if word not in _FLAGS]
    if len(words) % 3 or "use_uid" in words:
        return None
    results = [_holds(person, *words[at : at + 3]) for at in range(0, len(words), 3)]
    if False in results:
        return False
    return None if None in results else True


_FLAGS = frozenset({"audit", "debug", "quiet", "quiet_fail", "quiet_success"})
_FIRST_UID = 1000  # of people: UID_MIN of login.defs(5)


def _holds(person: _Person, name: str, operator: str, value: str) -> bool | None:
    if name == "uid" and value.isdigit():
        return _uid_holds(person, operator, int(value))
    if name == "user" and operator in ("ingroup", "notingroup"):
        is_in = True if person.group in value.split(":") else None
        return None if is_in is None else operator == "ingroup"
    if name == "user" and operator in ("=", "!=", "in", "notin", "=~", "!~"):
        is_it = _is_named(person, operator, value)
        return None if is_it is None else is_it is (operator in ("=", "in", "=~"))
    return None


def _is_named(person: _Person, operator: str, value: str) -> bool | None:
    """Whether it is this person whom a name, a list of names or a pattern means."""
    if person.name is not None:
        names = value.split(":") if operator in ("in", "notin") else [value]
        return any(fnmatch.fnmatchcase(person.name, one) if "~" in operator else one == person.name for one in names)
    return False if value == "root" else None


def _uid_holds(person: _Person, operator: str, value: int) -> bool | None:
    lowest, highest = (person.uid, person.uid) if person.uid is not None else (_FIRST_UID, None)
    if operator in (">=", ">"):
        bound = value if operator == ">=" else value + 1
        return True if lowest >= bound else False if highest is not None and highest < bound else None
    if operator in ("<", "<="):
        bound = value if operator == "<" else value + 1
        return False if lowest >= bound else True if highest is not None and highest < bound else None
    if operator in ("eq", "=", "ne", "!="):
        is_equal = False if lowest > value else lowest == value if highest is not None else None
        return None if is_equal is None else is_equal is (operator in ("eq", "="))
    return None


# --- sshd ---

_ASKING = frozenset({"password", "keyboard-interactive", "keyboard-interactive:pam"})


def sshd_takes_passwords(effective: Mapping[str, str]) -> bool:
    """Whether sshd lets somebody in for a password and nothing else. effective: what `sshd -T` says."""
    takes = {
        "password": effective.get("passwordauthentication", "yes") != "no",
        "keyboard-interactive": effective.get("kbdinteractiveauthentication", "yes") != "no",
    }
    ways = effective.get("authenticationmethods", "any").split()
    if ways == ["any"]:
        return any(takes.values())
    return any(
        all(method in _ASKING and takes[method.partition(":")[0]] for method in way.split(",")) for way in ways
    )


def open_doors(doors: Collection[Door], *, root_only: bool = False) -> Iterator[Door]:
    """Those that a password alone opens, and that nobody has said to leave so."""
    return (door for door in doors if door.state is State.OPEN and (door.is_root or not root_only))
