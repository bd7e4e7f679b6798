# SPDX-License-Identifier: MIT
"""What sshd's files say, and what `sshd -T` says of them."""

from __future__ import annotations

import pytest

from textgate.pam_stack import FirstFactor
from textgate.sshd_config import (
    FIRST_LINE,
    METHODS,
    Setting,
    drop_in_text,
    effective,
    effective_faults,
    kept_out_by,
    match_faults,
    proves_first,
    read_settings,
    wanted,
)


def output(first_factor: FirstFactor, **others: str) -> str:
    """As `sshd -T` prints it."""
    rows = {**wanted(first_factor), "port": "22", **others}
    return "".join(f"{keyword} {value}\n" for keyword, value in rows.items())


def settings(text: str, condition: str = "") -> list[Setting]:
    lines = ((f"f:{number}", line) for number, line in enumerate(text.splitlines(), start=1))
    return list(read_settings(lines, condition=condition, matches=(condition,) if condition else ()))


def lists(**patterns: str) -> dict[str, str]:
    """As `effective` reads what `sshd -T` says; patterns of a keyword with blanks between them."""
    return effective("".join(f"{key} {one}\n" for key, ones in patterns.items() for one in ones.split(" ")))


def test_all_patterns_of_a_list_are_read() -> None:
    assert lists(allowusers="alice bob", port="22 23") == {"allowusers": "alice\nbob", "port": "22"}
    assert effective("allowgroups domain users\nallowgroups sudo\n") == {"allowgroups": "domain users\nsudo"}


@pytest.mark.parametrize(
    ("patterns", "keyword"),
    [
        ({}, None),
        ({"allowusers": "bob alice"}, None),
        ({"allowusers": "bob"}, "AllowUsers"),
        ({"allowusers": "Alice ALICE alic alicee"}, "AllowUsers"),
        ({"allowusers": "al*"}, None),
        ({"allowusers": "*"}, None),
        ({"allowusers": "?lic?"}, None),
        ({"allowusers": "?alice alice? a.ice"}, "AllowUsers"),
        ({"allowusers": "!bob"}, "AllowUsers"),  # a letter like any other: nobody is called that
        ({"allowusers": "bob alice@192.0.2.0/24"}, None),  # from there he gets in
        ({"allowusers": "bob@192.0.2.0/24"}, "AllowUsers"),
        ({"allowusers": "*@192.0.2.1"}, None),
        ({"denyusers": "bob"}, None),
        ({"denyusers": "bob alice"}, "DenyUsers"),
        ({"denyusers": "a*"}, "DenyUsers"),
        ({"denyusers": "!bob !alice"}, None),
        ({"denyusers": "alice@192.0.2.1 *@192.0.2.0/24"}, None),  # from elsewhere he gets in
        ({"denyusers": "alice@*"}, "DenyUsers"),
        ({"denyusers": "alice", "allowusers": "alice"}, "DenyUsers"),
        ({"allowgroups": "admins sudo"}, None),
        ({"allowgroups": "s?do"}, None),
        ({"allowgroups": "alice"}, None),  # the primary one counts
        ({"allowgroups": "admins"}, "AllowGroups"),
        ({"allowgroups": "!admins"}, "AllowGroups"),
        ({"denygroups": "admins"}, None),
        ({"denygroups": "su*"}, "DenyGroups"),
        ({"denygroups": "sudo", "allowgroups": "sudo"}, "DenyGroups"),
        ({"allowusers": "alice", "denygroups": "sudo"}, "DenyGroups"),
        ({"allowgroups": "sudo", "denyusers": "alice"}, "DenyUsers"),
        ({"allowusers": "bob", "allowgroups": "sudo"}, "AllowUsers"),
        ({"allowusers": "alice", "allowgroups": "admins"}, "AllowGroups"),
    ],
)
def test_who_is_kept_out_by_name_or_group(patterns: dict[str, str], keyword: str | None) -> None:
    assert kept_out_by(lists(**patterns), "alice", {"alice", "sudo"}) == keyword


@pytest.mark.parametrize(
    ("methods", "proves"),
    [
        ("publickey,keyboard-interactive:pam", True),
        ("publickey,keyboard-interactive:pam gssapi-with-mic,keyboard-interactive:pam", True),
        ("publickey,keyboard-interactive:pam keyboard-interactive:pam", False),
        ("keyboard-interactive:pam,publickey", False),
        ("any", False),
        (None, False),
    ],
)
def test_sshd_that_wants_a_proof_before_it_comes_to_pam(methods: str | None, proves: bool) -> None:
    assert proves_first({} if methods is None else {"authenticationmethods": methods}) is proves


def test_names_with_an_at_sign_and_groups_with_blanks() -> None:
    assert kept_out_by(lists(allowusers="a@corp"), "a@corp", ()) == "AllowUsers"  # that is `a`, from a host `corp`
    assert kept_out_by(lists(allowusers="a@corp@192.0.2.1"), "a@corp", ()) is None
    assert kept_out_by(effective("allowgroups domain users\n"), "a", {"domain users"}) is None
    assert kept_out_by(effective("allowgroups domain users\n"), "a", {"domain", "users"}) == "AllowGroups"


@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_drop_in_says_what_is_wanted(first_factor: FirstFactor) -> None:
    text = drop_in_text(first_factor)
    assert text.startswith(FIRST_LINE + "\n")
    assert {one.keyword: one.value for one in settings(text)} == dict(wanted(first_factor))
    assert list(effective_faults(output(first_factor), first_factor)) == []


def test_no_method_lists_a_code_alone_and_each_asks_pam() -> None:
    for methods in METHODS.values():
        for way in methods.split():
            assert way.endswith("keyboard-interactive:pam")
    assert METHODS[FirstFactor.KEY] == "publickey,keyboard-interactive:pam"


@pytest.mark.parametrize(
    "keyword", ["usepam", "kbdinteractiveauthentication", "passwordauthentication", "authenticationmethods"]
)
def test_what_is_otherwise_in_effect_is_told_with_its_line(keyword: str) -> None:
    said = output(FirstFactor.KEY, **{keyword: "other"})
    (fault,) = effective_faults(said, FirstFactor.KEY, settings(f"Port 22\n{keyword} other\n"))
    assert keyword in fault
    assert fault.endswith("by f:2")
    (fault,) = effective_faults(said, FirstFactor.KEY)
    assert " by " not in fault


def test_missing_settings_are_faults() -> None:
    assert len(list(effective_faults("", FirstFactor.KEY))) == 4


def test_other_pam_service_is_a_fault() -> None:
    assert list(effective_faults(output(FirstFactor.KEY, pamservicename="sshd"), FirstFactor.KEY)) == []
    said = output(FirstFactor.KEY, pamservicename="ssh2")
    (fault,) = effective_faults(said, FirstFactor.KEY)
    assert "ssh2" in fault
    assert list(effective_faults(said, FirstFactor.KEY, guarded=["ssh2"])) == []  # which asks for a code
    (fault,) = effective_faults(output(FirstFactor.KEY), FirstFactor.KEY, guarded=["ssh2"])
    assert "sshd" in fault


def test_first_value_counts() -> None:
    assert effective("usepam yes\nUsePAM no\nport 22\n") == {"usepam": "yes", "port": "22"}


@pytest.mark.parametrize(
    ("line", "keyword", "value"),
    [
        ("PasswordAuthentication no", "passwordauthentication", "no"),
        ('  passwordauthentication\t"no"  ', "passwordauthentication", "no"),
        ("PasswordAuthentication=yes", "passwordauthentication", "yes"),
        ("PasswordAuthentication = yes # why", "passwordauthentication", "yes"),
        ("ChallengeResponseAuthentication no", "kbdinteractiveauthentication", "no"),
        ("AuthenticationMethods  publickey,password   none", "authenticationmethods", "publickey,password none"),
    ],
)
def test_lines_are_read_as_people_write_them(line: str, keyword: str, value: str) -> None:
    assert settings(f"# comment\n\n{line}\n") == [Setting("f:3", keyword, value, "")]


OPEN = "Match User alice\n  {}\n"


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        (OPEN.format("PasswordAuthentication yes"), True),
        (OPEN.format("PasswordAuthentication no"), False),
        (OPEN.format("KbdInteractiveAuthentication no"), True),
        (OPEN.format("ChallengeResponseAuthentication no"), True),
        (OPEN.format("AuthenticationMethods publickey"), True),
        (OPEN.format("AuthenticationMethods any"), True),
        (OPEN.format("AuthenticationMethods publickey,keyboard-interactive:pam"), False),
        (OPEN.format("X11Forwarding no"), False),
        ("PasswordAuthentication yes\n", False),  # `sshd -T` tells of this one
    ],
)
def test_match_blocks_that_go_without_a_code_are_found(text: str, is_open: bool) -> None:
    found = list(match_faults(settings(text), FirstFactor.KEY))
    assert bool(found) is is_open
    if is_open:
        assert found[0].startswith("f:2: ")
        assert "User alice" in found[0]


@pytest.mark.parametrize(
    ("methods", "is_open"),
    [
        (METHODS[FirstFactor.ANY], False),
        (METHODS[FirstFactor.KEY], False),  # stricter, and no fault
        ("keyboard-interactive:pam publickey,keyboard-interactive:pam", False),
        ("publickey", True),
        ("publickey,keyboard-interactive:pam publickey", True),
        ("keyboard-interactive", True),
        ("any", True),
        ("", True),
    ],
)
def test_some_of_the_ways_are_as_good_as_all(methods: str, is_open: bool) -> None:
    block = settings(f'Match User x\nAuthenticationMethods "{methods}"\n')
    assert bool(list(match_faults(block, FirstFactor.ANY))) is is_open
    said = output(FirstFactor.ANY, authenticationmethods=methods)
    assert bool(list(effective_faults(said, FirstFactor.ANY))) is is_open


def test_file_included_in_a_match_block_is_in_it() -> None:
    assert list(match_faults(settings("PasswordAuthentication yes\n", "Group x"), FirstFactor.KEY))
