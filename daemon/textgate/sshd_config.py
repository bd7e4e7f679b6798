# SPDX-License-Identifier: MIT
"""What sshd must be told for logins with a code, and whether its files and `sshd -T` say so.

Text in, findings out; no file is touched here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .pam_stack import FirstFactor
from .sshd_words import keyword_of, words_of

DROP_IN = "/etc/ssh/sshd_config.d/00-textgate.conf"  # sshd takes the first value it finds, so it comes first
SSH_DIR = "/etc/ssh"  # what an Include without a leading / is below of
MAIN_FILE = f"{SSH_DIR}/sshd_config"
FIRST_LINE = "# Made by `textgate pam`; take it out with `textgate pam disable sshd`."

METHODS: Mapping[FirstFactor, str] = {
    FirstFactor.KEY: "publickey,keyboard-interactive:pam",
    FirstFactor.PASSWORD: "keyboard-interactive:pam",
    FirstFactor.ANY: "publickey,keyboard-interactive:pam keyboard-interactive:pam",
}

# Who may log in at all, in the order in which sshd asks. `sshd -T` prints each pattern on a line of its own.
_LISTS: Mapping[str, str] = {name.lower(): name for name in ("DenyUsers", "AllowUsers", "DenyGroups", "AllowGroups")}

_PROOFS = frozenset({"publickey", "hostbased", "gssapi-with-mic"})  # methods of sshd's own that prove who somebody is


@dataclass(frozen=True)
class Setting:
    """One line of sshd's files. keyword: in lower case. condition: of the Match block it is in, "" outside of any.

    matches: what follows `Match`, as it stands there, of the block and of those that its file is included in, from
    the outermost. words: the value's. is_clear: whether all of it was understood.
    """

    place: str
    keyword: str
    value: str
    condition: str
    matches: tuple[str, ...] = ()
    words: tuple[str, ...] = field(default=(), compare=False)
    is_clear: bool = True


def drop_in_text(first_factor: FirstFactor) -> str:
    """The file for sshd_config.d."""
    return f"""\
{FIRST_LINE}
# The code is asked for by PAM, through keyboard-interactive. PasswordAuthentication would ask PAM a second time in a
# way that can't ask for a code.
UsePAM yes
KbdInteractiveAuthentication yes
PasswordAuthentication no
AuthenticationMethods {METHODS[first_factor]}
"""


def wanted(first_factor: FirstFactor) -> dict[str, str]:
    """Keyword -> value that must be in effect."""
    return {
        "usepam": "yes",
        "kbdinteractiveauthentication": "yes",
        "passwordauthentication": "no",
        "authenticationmethods": METHODS[first_factor],
    }


def effective(output: str) -> dict[str, str]:
    """What `sshd -T` prints, keyword -> value; the first one where a keyword comes twice.

    All of them for DenyUsers, AllowUsers, DenyGroups and AllowGroups: one pattern a line.
    """
    found: dict[str, str] = {}
    for line in output.splitlines():
        keyword, _, value = line.strip().partition(" ")
        keyword, value = keyword.lower(), value.strip()
        if keyword in _LISTS and keyword in found:
            found[keyword] += f"\n{value}"
        found.setdefault(keyword, value)
    return found


def proves_first(found: Mapping[str, str]) -> bool:
    """Whether sshd itself has asked for a first factor, such as a key, whenever it comes to PAM.

    found: as `effective` gives it.
    """
    ways = found.get("authenticationmethods", "any").split()
    return all(way.partition(",")[0] in _PROOFS for way in ways)


def kept_out_by(found: Mapping[str, str], user: str, groups: Collection[str]) -> str | None:
    """The keyword by which sshd keeps a user out, whatever he can show; None if it doesn't (sshd_config(5)).

    found: as `effective` gives it for this user. groups: names of all of his, the primary one's too.
    """
    patterns = {keyword: found.get(keyword, "").splitlines() for keyword in _LISTS}
    is_kept_out = {
        "denyusers": any(_denies(user, pattern) for pattern in patterns["denyusers"]),
        "allowusers": not any(_allows(user, pattern) for pattern in patterns["allowusers"]),
        "denygroups": any(matches_pattern(group, pattern) for group in groups for pattern in patterns["denygroups"]),
        "allowgroups": not any(
            matches_pattern(group, pattern) for group in groups for pattern in patterns["allowgroups"]
        ),
    }
    return next((name for keyword, name in _LISTS.items() if patterns[keyword] and is_kept_out[keyword]), None)


# Where the HOST of USER@HOST decides, nobody knows beforehand where somebody will come from. What lets him in from
# somewhere is a way in; what keeps him out from somewhere closes none.


def _allows(user: str, pattern: str) -> bool:
    if "@" not in pattern:
        return matches_pattern(user, pattern)
    # With more than one @, releases of sshd differ in which of them it is.
    return any(matches_pattern(user, name) for name in (pattern.partition("@")[0], pattern.rpartition("@")[0]))


def _denies(user: str, pattern: str) -> bool:
    name, _, host = pattern.partition("@")
    return host in ("", "*") and matches_pattern(user, name)


def matches_pattern(name: str, pattern: str) -> bool:
    """sshd's match_pattern: * and ? alone. A ! is a letter here; it negates in lists with commas, and in HOST."""
    wild = {"*": ".*", "?": "."}
    return re.fullmatch("".join(wild.get(char, re.escape(char)) for char in pattern), name, re.DOTALL) is not None


def effective_faults(
    output: str, first_factor: FirstFactor, settings: Iterable[Setting] = (), guarded: Collection[str] = ("sshd",)
) -> Iterator[str]:
    """What is wrong in the output of `sshd -T` for logins with a code.

    settings: of its files, to name the line. guarded: PAM services that ask for a code, and let nobody around it.
    """
    found, places = effective(output), list(settings)
    for keyword, value in wanted(first_factor).items():
        if not _is_as_wanted(keyword, found.get(keyword, ""), first_factor):
            places_of = [
                one.place
                for one in places
                if one.keyword == _canonical(keyword) and not _is_as_wanted(keyword, one.value, first_factor)
            ]
            by = f", by {places_of[0]}" if places_of else ""
            yield f"{keyword} is `{found.get(keyword, 'unset')}` in effect and not `{value}`{by}"
    service = pam_service(found)
    if service not in guarded:
        yield f"its PAM service is {service} (PAMServiceName), which does not ask for a code"


def _is_as_wanted(keyword: str, value: str, first_factor: FirstFactor) -> bool:
    """Whether a value asks for a code. Some of the ways of AuthenticationMethods are as good as all of them."""
    value = value.lower()
    if keyword == "authenticationmethods":
        ways = set(value.split())
        return bool(ways) and ways <= set(METHODS[first_factor].split())
    return value == wanted(first_factor)[keyword]


def pam_service(found: Mapping[str, str]) -> str:
    """The PAM service that sshd uses. Releases before 10 go by the name of their program, and print none."""
    return found.get("pamservicename", "sshd")


def earlier_faults(settings: Iterable[Setting], first_factor: FirstFactor) -> Iterator[str]:
    """Lines that sshd takes in place of the drop-in's. Its own test names none when what is left makes no sense."""
    firsts: dict[str, Setting] = {}
    for setting in settings:
        if not setting.matches:
            firsts.setdefault(setting.keyword, setting)
    keys = {} if first_factor is FirstFactor.PASSWORD else {"pubkeyauthentication": "yes"}
    for keyword, value in (wanted(first_factor) | keys).items():
        first = firsts.get(keyword)
        if first and first.value.lower() != value:
            yield f"{first.place}: {keyword} {first.value}"


def match_faults(settings: Iterable[Setting], first_factor: FirstFactor) -> Iterator[str]:
    """Lines in Match blocks by which some logins go without a code, whoever meets them."""
    for setting in settings:
        if opens(setting, first_factor):
            yield f"{setting.place}: {setting.keyword} {setting.value}, for Match {setting.condition}"


def opens(setting: Setting, first_factor: FirstFactor) -> bool:
    """Whether a line is in a Match block and means logins without a code."""
    if not setting.matches:
        return False
    keywords = ("passwordauthentication", "kbdinteractiveauthentication", "authenticationmethods")
    return setting.keyword in keywords and not _is_as_wanted(setting.keyword, setting.value, first_factor)


def is_of_concern(setting: Setting) -> bool:
    """Whether a line can have a say in whether a code is asked for."""
    return not setting.is_clear or setting.keyword in _OF_CONCERN


_OF_CONCERN = frozenset(
    {*wanted(FirstFactor.KEY), "include", "pamservicename", "permitemptypasswords", "gssapiauthentication"}
)


def read_settings(
    lines: Iterable[tuple[str, str]], *, condition: str = "", matches: tuple[str, ...] = ()
) -> Iterator[Setting]:
    """The settings of one file, Include and Match among them (their keywords are "include" and "match").

    lines: place and text of each. condition, matches: as of the Match block in which the file is included.
    """
    outer = matches
    for place, raw in lines:
        try:
            found = keyword_of(raw)
            if found is None:
                continue
            keyword, rest = found
            words = tuple(words_of(rest))
        except ValueError:
            yield Setting(place, "", raw.strip(), condition, matches, is_clear=False)
            continue
        if keyword == "match":
            condition, matches = " ".join(words), (*outer, rest)
        yield Setting(place, _canonical(keyword), " ".join(words), condition, matches, words)


def _canonical(keyword: str) -> str:
    """sshd's former names count as the present ones."""
    return {
        "challengeresponseauthentication": "kbdinteractiveauthentication",
        "skeyauthentication": "kbdinteractiveauthentication",
        "dsaauthentication": "pubkeyauthentication",
    }.get(keyword, keyword)
