# SPDX-License-Identifier: MIT
"""The rules, their order, and the one place where a failure can let anybody in."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.config import Config
from textgate.policy import RULES, Account, Decision, FailKind, Verdict, apply_failmode, decide
from textgate.session import Session

KEY = "SHA256:" + "A" * 43
OTHER_KEY = "SHA256:" + "B" * 43
ALICE = Account("alice", 1000, 1000, frozenset({"alice", "staff"}))
SKIP, REFUSE, REQUIRE = Decision.SKIP, Decision.REFUSE, Decision.REQUIRE
ALL = {"users": ("alice",), "groups": ("staff",)}


def _session(
    user: str = "alice", service: str = "sshd", source: str | None = None, key: str | None = None
) -> Session:
    return Session(user, service, "ssh", ipaddress.ip_address(source) if source else None, key, "0" * 32)


def _config(**sections: dict[str, Any]) -> Config:
    base = Config(path="test")
    changed = {name: dataclasses.replace(getattr(base, name), **values) for name, values in sections.items()}
    return dataclasses.replace(base, **changed)


def _networks(*texts: str) -> dict[str, Any]:
    return {"networks": tuple(ipaddress.ip_network(text) for text in texts)}


TABLE = [
    # configuration, session, decision, reason
    ({}, {}, REQUIRE, "required"),  # nothing configured: everybody, everywhere
    # refused
    ({"refused": {"users": ("alice",)}}, {}, REFUSE, "refused_user"),
    ({"refused": {"users": ("alice2", "Alice", "ali")}}, {}, REQUIRE, "required"),  # names are whole and exact
    ({"refused": {"groups": ("staff",)}}, {}, REFUSE, "refused_group"),
    ({"refused": {"groups": ("staf", "STAFF")}}, {}, REQUIRE, "required"),
    # exempt
    ({"exempt": {"users": ("alice",)}}, {}, SKIP, "exempt_user"),
    ({"exempt": {"users": ("alice2",)}}, {}, REQUIRE, "required"),
    ({"exempt": {"groups": ("staff",)}}, {}, SKIP, "exempt_group"),
    ({"exempt": {"groups": ("admin",)}}, {}, REQUIRE, "required"),
    ({"exempt": {"key_fingerprints": (KEY,)}}, {"key": KEY}, SKIP, "exempt_key"),
    ({"exempt": {"key_fingerprints": (KEY,)}}, {"key": OTHER_KEY}, REQUIRE, "required"),
    ({"exempt": {"key_fingerprints": (KEY,)}}, {"key": KEY.lower()}, REQUIRE, "required"),
    ({"exempt": {"key_fingerprints": (KEY,)}}, {}, REQUIRE, "required"),  # a password login
    # networks: IPv4, first and last address, the neighbours
    ({"exempt": _networks("192.0.2.0/28")}, {"source": "192.0.2.0"}, SKIP, "exempt_network"),
    ({"exempt": _networks("192.0.2.0/28")}, {"source": "192.0.2.15"}, SKIP, "exempt_network"),
    ({"exempt": _networks("192.0.2.0/28")}, {"source": "192.0.2.16"}, REQUIRE, "required"),
    ({"exempt": _networks("192.0.2.0/28")}, {"source": "192.0.1.255"}, REQUIRE, "required"),
    ({"exempt": _networks("192.0.2.0/28")}, {}, REQUIRE, "required"),  # no ssh, no source
    ({"exempt": _networks("0.0.0.0/0", "::/0")}, {}, REQUIRE, "required"),  # not even in "everywhere"
    ({"exempt": _networks("0.0.0.0/0")}, {"source": "2001:db8::1"}, REQUIRE, "required"),
    ({"exempt": _networks("::/0")}, {"source": "192.0.2.1"}, REQUIRE, "required"),
    ({"exempt": _networks("198.51.100.1", "2001:db8::/64")}, {"source": "2001:db8::ffff"}, SKIP, "exempt_network"),
    ({"exempt": _networks("2001:db8::/64")}, {"source": "2001:db8:0:1::"}, REQUIRE, "required"),
    # required users and groups
    ({"required": {"users": ("alice",)}}, {}, REQUIRE, "required"),
    ({"required": {"users": ("bob",)}}, {}, SKIP, "not_required"),
    ({"required": {"groups": ("staff",)}}, {}, REQUIRE, "required"),
    ({"required": {"groups": ("admin",)}}, {}, SKIP, "not_required"),
    ({"required": {"users": ("bob",), "groups": ("staff",)}}, {}, REQUIRE, "required"),  # either is enough
    ({"required": {"users": ("bob",), "groups": ("admin",)}}, {}, SKIP, "not_required"),
    # required services
    ({"required": {"services": ("sshd", "sudo")}}, {"service": "sudo"}, REQUIRE, "required"),
    ({"required": {"services": ("sshd",)}}, {"service": "sudo"}, SKIP, "not_required"),
    ({"required": {"services": ("sudo",)}}, {"service": "sudo-i"}, SKIP, "not_required"),
    ({"required": {"services": ("SSHD",)}}, {}, REQUIRE, "required"),  # PAM's names are lower case
    ({"required": {"services": ("sshd",)}}, {"service": "SSHD"}, REQUIRE, "required"),
    ({"required": {"users": ("alice",), "services": ("sudo",)}}, {}, SKIP, "not_required"),  # both must hold
    ({"required": {"users": ("bob",), "services": ("sshd",)}}, {}, SKIP, "not_required"),
    # order: refused before exempt before required
    ({"refused": {"users": ("alice",)}, "exempt": ALL, "required": {"users": ("bob",)}}, {}, REFUSE, "refused_user"),
    ({"refused": {"groups": ("staff",)}, "exempt": ALL}, {}, REFUSE, "refused_group"),
    ({"refused": {"groups": ("staff",)}, "required": {"services": ("sudo",)}}, {}, REFUSE, "refused_group"),
    (
        {"refused": {"users": ("alice",)}, "exempt": {"key_fingerprints": (KEY,)}},
        {"key": KEY},
        REFUSE,
        "refused_user",
    ),
    (
        {"refused": {"users": ("alice",)}, "exempt": _networks("::/0")},
        {"source": "2001:db8::1"},
        REFUSE,
        "refused_user",
    ),
    ({"exempt": {"users": ("alice",)}, "required": {"users": ("alice",)}}, {}, SKIP, "exempt_user"),
]


@pytest.mark.parametrize(("sections", "login", "decision", "reason"), TABLE)
def test_decide_follows_the_table(
    sections: dict[str, Any], login: dict[str, Any], decision: Decision, reason: str
) -> None:
    assert decide(_session(**login), ALICE, _config(**sections)) == Verdict(decision, reason)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"exempt": ALL | _networks("0.0.0.0/0") | {"key_fingerprints": (KEY,)}},
        {"required": {"users": ("bob",)}},
        {"required": {"services": ("sudo",)}},
    ],
)
def test_decide_refuses_unknown_user_whatever_is_exempt(sections: dict[str, Any]) -> None:
    verdict = decide(_session(source="192.0.2.1", key=KEY), None, _config(**sections))
    assert verdict == Verdict(REFUSE, "unknown_user")


def test_decide_names_refused_user_without_account() -> None:
    verdict = decide(_session(), None, _config(refused={"users": ("alice",)}))
    assert verdict == Verdict(REFUSE, "refused_user")


@pytest.mark.parametrize(
    ("sections", "decision"),
    [
        # NSS may know a user by another name than was typed. Against him count both, for him the account's.
        ({"refused": {"users": ("alice",)}}, REFUSE),
        ({"refused": {"users": ("ALICE",)}}, REFUSE),
        ({"required": {"users": ("alice",)}}, REQUIRE),
        ({"required": {"users": ("ALICE",)}}, REQUIRE),
        ({"exempt": {"users": ("alice",)}}, SKIP),
        ({"exempt": {"users": ("ALICE",)}}, REQUIRE),
    ],
)
def test_decide_uses_the_accounts_name(sections: dict[str, Any], decision: Decision) -> None:
    assert decide(_session("ALICE"), ALICE, _config(**sections)).decision is decision


@pytest.mark.parametrize(
    ("sections", "decision", "reason"),
    [
        # A group without a name may be any group. That counts against the login wherever groups count against it.
        ({}, REQUIRE, "required"),
        ({"refused": {"groups": ("contractors",)}}, REFUSE, "groups_unknown"),
        ({"refused": {"groups": ("contractors",)}, "exempt": {"users": ("alice",)}}, REFUSE, "groups_unknown"),
        ({"refused": {"users": ("bob",)}}, REQUIRE, "required"),
        ({"exempt": {"groups": ("admin",)}}, REQUIRE, "required"),
        ({"exempt": {"groups": ("staff",)}}, SKIP, "exempt_group"),  # a group that is known is known
        ({"required": {"groups": ("admin",)}}, REQUIRE, "required"),
        ({"required": {"users": ("bob",)}}, SKIP, "not_required"),
    ],
)
def test_decide_takes_unnamed_group_against_the_login(
    sections: dict[str, Any], decision: Decision, reason: str
) -> None:
    account = dataclasses.replace(ALICE, has_unnamed_groups=True)
    assert decide(_session(), account, _config(**sections)) == Verdict(decision, reason)


def test_rules_run_from_refuse_to_skip() -> None:
    """No SKIP stands above a REFUSE, and REQUIRE is what is left when no rule applies."""
    order = [verdict.decision for _, verdict in RULES]
    assert order == sorted(order, key=[REFUSE, SKIP].index)


_LISTS = st.lists(st.sampled_from(["alice", "bob", "staff", "admin"]), max_size=2).map(tuple)


@given(_LISTS, _LISTS, _LISTS, _LISTS, st.booleans())
def test_refused_always_wins(
    users: tuple[str, ...], groups: tuple[str, ...], exempt: tuple[str, ...], required: tuple[str, ...], unnamed: bool
) -> None:
    config = _config(
        refused={"users": users, "groups": groups},
        exempt={"users": exempt, "groups": exempt},
        required={"users": required},
    )
    account = dataclasses.replace(ALICE, has_unnamed_groups=unnamed)
    is_refused = "alice" in (*users, *groups) or "staff" in groups or (unnamed and bool(groups))
    assert (decide(_session(), account, config).decision is REFUSE) is is_refused


# --- failmode. ---


@pytest.mark.parametrize("kind", FailKind)
@pytest.mark.parametrize(
    ("modes", "services", "service", "is_safe"),
    [
        ("secure", (), "sshd", False),  # the default
        ("secure", ("sshd",), "sshd", False),
        ("safe", (), "sshd", False),  # no service named: none
        ("safe", ("sudo",), "sshd", False),
        ("safe", ("sshd",), "sshd", True),
        ("safe", ("sshd",), "SSHD", False),
        ("safe", ("sshd",), "", False),
        ("safe", ("sudo",), "sudo", False),  # of the machine itself: it has a list of its own
        ("safe", ("login",), "login", False),
    ],
)
def test_failmode_lets_in_only_where_both_say_so(
    kind: FailKind, modes: str, services: tuple[str, ...], service: str, is_safe: bool
) -> None:
    config = _config(failmode={"store": modes, "gateway": modes, "safe_services": services})
    expected = Verdict(SKIP, f"{kind.value}_failmode") if is_safe else Verdict(REFUSE, f"{kind.value}_away")
    assert apply_failmode(kind, service, config) == expected


@pytest.mark.parametrize(("safe", "secure"), [(FailKind.STORE, FailKind.GATEWAY), (FailKind.GATEWAY, FailKind.STORE)])
def test_failmode_of_one_kind_is_not_the_others(safe: FailKind, secure: FailKind) -> None:
    config = _config(failmode={safe.value: "safe", "safe_services": ("sshd",)})
    assert apply_failmode(safe, "sshd", config).decision is SKIP
    assert apply_failmode(secure, "sshd", config).decision is REFUSE


@pytest.mark.parametrize(
    ("service", "is_safe"), [("sudo", True), ("sudo-i", False), ("su", False), ("sshd", False), ("SUDO", False)]
)
def test_failmode_of_local_services_needs_a_word_of_its_own(service: str, is_safe: bool) -> None:
    config = _config(failmode={"store": "safe", "safe_local_services": ("sudo", "sshd")})
    assert (apply_failmode(FailKind.STORE, service, config).decision is SKIP) is is_safe


def test_other_ssh_services_are_those_of_the_configuration() -> None:
    config = _config(
        services={"ssh": ("sshd-two",)}, failmode={"store": "safe", "safe_services": ("sshd", "sshd-two")}
    )
    assert apply_failmode(FailKind.STORE, "sshd-two", config).decision is SKIP
    assert apply_failmode(FailKind.STORE, "sshd", config).decision is REFUSE


def test_failmode_is_secure_by_default() -> None:
    assert {apply_failmode(kind, "sshd", Config(path="test")).decision for kind in FailKind} == {REFUSE}
