# SPDX-License-Identifier: MIT
"""Ways in which people may write sshd's files, what sshd makes of each, and where textgate is to find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from textgate.pam_stack import FirstFactor
from textgate.sshd_cases import STRANGER, SshLogin
from textgate.sshd_config import METHODS, drop_in_text

OPEN = "PasswordAuthentication yes"
BOB = SshLogin("bob", "client.invalid", "192.0.2.1", "198.51.100.1")
QUOTED_OPEN = '"PasswordAuthentication" yes\n'


@dataclass(frozen=True)
class Spelling:
    """Files below /etc/ssh (or absolute). opens: a login that sshd lets in otherwise; None where there is none.

    told: which list of the verdict has it, "" for none. places: what is named there.
    """

    files: Mapping[str, str]
    opens: SshLogin | None
    told: str
    places: str = ""
    options: str = ""


def block(*lines: str) -> dict[str, str]:
    return {"sshd_config.d/50-x.conf": "\n".join([*lines, ""])}


def of_bob(*lines: str) -> dict[str, str]:
    return block("Match User bob", *lines)


def included(line: str, name: str = "extra/a.conf") -> dict[str, str]:
    return block(line) | {name: f"Match User bob\n{OPEN}\n"}


def opened(files: Mapping[str, str], place: str = "50-x.conf:2", login: SshLogin = BOB) -> Spelling:
    return Spelling(files, login, "opened", place)


def fine(files: Mapping[str, str]) -> Spelling:
    return Spelling(files, None, "")


IN_A_BLOCK = of_bob('"Include" extra/a.conf') | {"extra/a.conf": OPEN}
IN_TWO_BLOCKS = of_bob("Include extra/a.conf") | {"extra/a.conf": f"Match Address 192.0.2.*\n{OPEN}"}
AFTER_A_BLOCK = block("Include extra/a.conf", "X11Forwarding no") | {"extra/a.conf": "Match User bob\nBanner none"}
DEEP = included("Include extra/a.conf", "extra/deep/b.conf") | {"extra/a.conf": 'Include="extra/deep/b.conf"'}
OTHER_FILE = {"other": f"{drop_in_text(FirstFactor.KEY)}Match User bob\n{OPEN}\n"}
CRITERIA = block("Match User b?b Address 192.0.2.0/24 LocalPort 2222", '"KbdInteractiveAuthentication" no')

SPELLINGS: dict[str, Spelling] = {
    # --- Keywords ---
    "plain": opened(of_bob(OPEN)),
    "keyword in quotes": opened(of_bob('"PasswordAuthentication" yes')),
    "half of it in quotes": opened(of_bob('Password"Authentication" yes')),
    "blanks, tabs, equals signs": opened(block("\t Match \t=\tUser bob", "\tPasswordAuthentication\t=  yes")),
    "Match in quotes": opened(block('"Match" User bob', OPEN)),
    "criterion in quotes": opened(block('Match "User" "bob"', OPEN)),
    "criterion with an equals sign": opened(block("Match=User=bob", OPEN)),
    "former name": opened(of_bob("SkeyAuthentication no")),
    "capitals": opened(block("MATCH USER bob", "PASSWORDAUTHENTICATION YES")),
    # --- Values ---
    "value in quotes": opened(of_bob('PasswordAuthentication "yes"')),
    "value in single quotes": opened(of_bob("PasswordAuthentication 'yes'")),
    "good value in single quotes": fine(of_bob(f"AuthenticationMethods '{METHODS[FirstFactor.KEY]}'")),
    "good value, half of it in quotes": fine(of_bob('AuthenticationMethods publickey,"keyboard-interactive:pam"')),
    "comment behind it": fine(block("Match User bob #x", "PasswordAuthentication no #yes")),
    # --- Lines ---
    "carriage returns": opened(block("Match User bob\r", f"{OPEN}\r")),
    "form feed ends no line": fine(of_bob(f"#\f{OPEN}")),
    "other line ends end none": fine(of_bob(f"# \x0b\x85\u2028{OPEN}")),
    "comment that hides nothing": opened(block(f"#\u2028 {OPEN}", "Match User bob", "# \\", OPEN), "50-x.conf:4"),
    # --- Includes ---
    "include": opened(included("Include extra/a.conf"), "extra/a.conf:2"),
    "include in quotes": opened(included('"Include" extra/a.conf'), "extra/a.conf:2"),
    "include of a blank": opened(included('Include "/etc/ssh/extra/a b.conf"', "extra/a b.conf"), "a b.conf:2"),
    "include of a blank with a backslash": opened(
        included("Include extra/a\\ b.conf", "extra/a b.conf"), "a b.conf:2"
    ),
    "include in single quotes": opened(included("Include 'extra/*.conf'"), "extra/a.conf:2"),
    "include of several": opened(included("Include=none.conf extra/?.conf"), "extra/a.conf:2"),
    "include of a range": opened(included("Include extra/[a-c].conf"), "extra/a.conf:2"),
    "include in an include": opened(DEEP, "extra/deep/b.conf:2"),
    "include in a block": opened(IN_A_BLOCK, "extra/a.conf:1"),
    "block in an include in a block": opened(IN_TWO_BLOCKS, "extra/a.conf:2"),
    "block that ends with its file": fine(AFTER_A_BLOCK),
    "include that two globs read otherwise": Spelling(
        included("Include extra/\\a.conf"), BOB, "unclear", "50-x.conf:1"
    ),
    # --- Whom a block is for ---
    "group": opened(block("Match Group bob", '"PasswordAuthentication" yes')),
    "all addresses but ours": Spelling(block("Match Address *,!127.0.0.1", QUOTED_OPEN), STRANGER, "faults"),
    "several criteria": opened(CRITERIA, login=SshLogin("bob", "x", "192.0.2.0", "127.0.0.1", "2222")),
    "domain of routing": opened(block("Match RDomain blue", OPEN), login=SshLogin(rdomain="blue")),
    "group of nobody": Spelling(block("Match Group nobody-s", "Include none.conf"), None, "unclear", "50-x.conf:1"),
    "group of nobody, and of no concern": fine(block("Match Group nobody-s", "X11Forwarding no")),
    # --- All logins ---
    "line that comes first": Spelling({"sshd_config.d/00-a.conf": QUOTED_OPEN}, BOB, "faults", "00-a.conf:1"),
    "option of the unit": Spelling({}, BOB, "faults", "passwordauth", "SSHD_OPTS='-o PasswordAuthentication=yes'"),
    "other file": Spelling(OTHER_FILE, BOB, "opened", "/etc/ssh/other:9", 'SSHD_OPTS="-4 -f /etc/ssh/other"'),
}
