# SPDX-License-Identifier: MIT
"""The configuration: every option's bounds, every fault at once, and nothing that is silently off."""

from __future__ import annotations

import dataclasses
import ipaddress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate import config
from textgate.config import SECTIONS, Config, cautions, parse_config
from textgate.errors import ConfigError, ExitCode

SMALLEST = '[limits]\nallowed_countries = ["DK"]\n'  # the one key that has no default to start with


def _parse(text: str) -> Config:
    return parse_config(text, config_path="test.toml")


def _faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        _parse(text)
    assert caught.value.path == "test.toml"
    assert caught.value.exit_code is ExitCode.CONFIG
    return caught.value.faults


def _with(section: str, line: str) -> str:
    """A configuration with one line in a section that is otherwise at its defaults."""
    return f"{SMALLEST}{line}\n" if section == "limits" else f"{SMALLEST}[{section}]\n{line}\n"


# --- The whole. ---


def test_smallest_configuration_is_the_defaults() -> None:
    parsed = _parse(SMALLEST)
    expected = Config(path="test.toml", limits=dataclasses.replace(Config("").limits, allowed_countries=("DK",)))
    assert parsed == expected


def test_empty_configuration_is_refused_because_no_country_may_be_texted() -> None:
    (fault,) = _faults("")
    assert fault.startswith("[limits] allowed_countries: name the countries")


def test_defaults_deny() -> None:
    """What nobody configured lets nobody in and texts nobody."""
    defaults = Config(path="")
    assert {field.name: getattr(defaults.exempt, field.name) for field in dataclasses.fields(defaults.exempt)} == {
        "users": (),
        "groups": (),
        "networks": (),
        "key_fingerprints": (),
    }
    assert (defaults.required.users, defaults.required.groups, defaults.required.services) == ((), (), ())
    assert (defaults.failmode.store, defaults.failmode.gateway) == ("secure", "secure")
    assert defaults.failmode.safe_services == ()
    assert defaults.limits.allowed_countries == ()
    assert defaults.phones.sources == ("file",)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_passes_its_own_check(section: str) -> None:
    for field in dataclasses.fields(SECTIONS[section]):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert field.metadata["parse"](default) == field.default, field.name


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_is_explained(section: str) -> None:
    for field in dataclasses.fields(SECTIONS[section]):
        assert field.metadata["doc"].strip(), field.name


def test_configuration_stays_as_it_is() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _parse(SMALLEST).codes.tries = 99  # type: ignore[misc]


def test_every_fault_is_reported_at_once_with_its_key() -> None:
    faults = _faults(
        '[codes]\ndigits = 5\nlife = 300\n[gateway]\napi = "soap"\n[limit]\n[limits]\nallowed_countries = 1'
    )
    assert [fault.split(":")[0] for fault in faults] == [
        "[limit]",
        "[gateway] api",
        "[codes] digits",
        "[codes] life",
        "[limits] allowed_countries",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[limit]", "[limit]: no such section; did you mean limits?"),
        ("[xyzzy]", "[xyzzy]: no such section"),
        ("sender = 1", "[sender]: no such section"),  # a key above every section
        ("[codes]\ndigit = 6", "[codes] digit: no such key; did you mean digits?"),
        ("[codes]\nxyzzy = 6", "[codes] xyzzy: no such key"),
        ("[exempt]\nuser = []", "[exempt] user: no such key; did you mean users?"),
        ("[Codes]", "[Codes]: no such section; did you mean codes?"),
    ],
)
def test_unknown_name_is_a_fault(text: str, fault: str) -> None:
    assert fault in _faults(text)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000], ids=["nesting", "digits"])
def test_toml_without_end_is_a_config_error(text: str) -> None:
    assert _faults(text) == ("not a sensible TOML file: a number or a nesting without end",)


def test_country_that_is_none_is_a_fault() -> None:
    faults = _faults('[limits]\nallowed_countries = ["DK", "UK"]')
    assert faults == (
        "[limits] allowed_countries: entry 2 must be a country code of two capitals such as "
        '"DK" or "GB" (or "*" for all)',
    )


def test_group_may_have_a_blank() -> None:
    config = parse_config(_with("required", 'groups = ["domain users"]'), config_path="x")
    assert config.required.groups == ("domain users",)


@pytest.mark.parametrize("value", ["5", "[]", '"x"', "[{}]"])
def test_section_that_is_no_table_is_a_fault(value: str) -> None:
    assert "[codes]: must be a table, written as [codes]" in _faults(f"codes = {value}\n{SMALLEST}")


@pytest.mark.parametrize(
    "text",
    [
        "[codes",
        "= 1",
        "[codes]\ndigits = ",
        "[codes]\ndigits = 6\ndigits = 7",
        "[codes]\n[codes]",
        "x = 1979-99-99",
        "\0",
    ],
)
def test_broken_toml_is_one_fault(text: str) -> None:
    (fault,) = _faults(text)
    assert fault.startswith("not valid TOML: ")


def test_broken_toml_names_its_line() -> None:
    assert "at line 3, column" in _faults("[codes]\n\ndigits 6\n")[0]


@given(st.text(max_size=80))
def test_parse_survives_junk(junk: str) -> None:
    with pytest.raises(ConfigError):
        _parse(junk)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 10**6), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_OPTIONS = [field for kind in SECTIONS.values() for field in dataclasses.fields(kind)]


@given(st.sampled_from(_OPTIONS), _JSON)
def test_every_check_survives_junk(option: dataclasses.Field[Any], junk: Any) -> None:
    try:
        hash(option.metadata["parse"](junk))
    except ValueError as error:
        assert str(error)


# --- Each option: at its bounds, and one step over them. ---

TAKEN = [
    # section, line, value
    ("daemon", 'auth_socket = "/run/x"', "/run/x"),
    ("daemon", 'admin_group = "adm"', "adm"),
    ("daemon", "workers = 1", 1),
    ("daemon", "workers = 1000", 1000),
    ("daemon", "queue = 0", 0),
    ("daemon", "queue = 10000", 10000),
    ("daemon", "read_timeout_s = 0.1", 0.1),
    ("daemon", "read_timeout_s = 30", 30.0),
    ("daemon", "stop_timeout_s = 1", 1.0),
    ("store", 'url = "rediss://redis.example:6380/0"', "rediss://redis.example:6380/0"),
    ("store", 'url = "redis://textgate@redis.example"', "redis://textgate@redis.example"),
    ("store", "timeout_s = 0.05", 0.05),
    ("gateway", 'url = "https://gatewayapi.eu/"', "https://gatewayapi.eu"),
    ("gateway", 'url = "http://127.0.0.1:8080"', "http://127.0.0.1:8080"),
    ("gateway", 'url = "http://[::1]:8080"', "http://[::1]:8080"),
    ("gateway", 'url = "http://localhost:8080"', "http://localhost:8080"),
    ("gateway", 'auth = "token"', "token"),
    ("gateway", 'sender = "Example 1"', "Example 1"),
    ("gateway", 'sender = "abc"', "abc"),
    ("gateway", 'sender = "12345678901"', "12345678901"),
    ("gateway", 'sender = "123456789012345"', "123456789012345"),
    ("gateway", 'text = "{code}"', "{code}"),
    ("gateway", "connections = 40", 40),
    ("gateway", "send_wait_s = 0", 0.0),
    ("gateway", "send_wait_s = 8", 8.0),
    ("codes", "digits = 6", 6),
    ("codes", "digits = 8", 8),
    ("codes", "life_s = 60", 60),
    ("codes", "life_s = 600", 600),
    ("codes", "tries = 1", 1),
    ("codes", "tries = 5", 5),
    ("limits", "wrong_in_a_row = 100", 100),
    ("limits", "send_spacing_s = 0", 0),
    ("required", 'users = ["alice", "EXAMPLE\\\\bob", "æ"]', ("alice", "EXAMPLE\\bob", "æ")),
    ("required", 'services = ["sudo-i"]', ("sudo-i",)),
    ("exempt", 'networks = ["192.0.2.0/24", "2001:db8::/32"]', ("192.0.2.0/24", "2001:db8::/32")),
    ("exempt", 'networks = ["192.0.2.1"]', ("192.0.2.1/32",)),
    ("exempt", f'key_fingerprints = ["SHA256:{"A" * 43}"]', (f"SHA256:{'A' * 43}",)),
    ("phones", 'sources = ["gecos", "file"]', ("gecos", "file")),
    ("phones", 'default_region = "DK"', "DK"),
    ("phones", 'default_region = ""', ""),
    ("failmode", 'safe_services = ["sudo"]', ("sudo",)),
    ("failmode", 'safe_local_services = ["login"]', ("login",)),
    ("failmode", "away_after_s = 5", 5.0),
]


@pytest.mark.parametrize(("section", "line", "value"), TAKEN)
def test_option_takes_value(section: str, line: str, value: Any) -> None:
    taken = getattr(getattr(_parse(_with(section, line)), section), line.split(" ", maxsplit=1)[0])
    if line.startswith("networks"):
        taken = tuple(str(network) for network in taken)
    assert taken == value
    assert type(taken) is type(value)


REFUSED = [
    # section, line, words of the fault
    ("daemon", 'auth_socket = "run/x"', "must be an absolute path"),
    ("daemon", 'auth_socket = ""', "must be an absolute path"),
    ("daemon", 'auth_socket = "/run/\\u0000x"', "must be an absolute path"),
    ("daemon", "auth_socket = 1", "must be an absolute path"),
    ("daemon", 'admin_group = ""', "must be a name"),
    ("daemon", "workers = 0", "must be a whole number from 1 to 1000"),
    ("daemon", "workers = 1001", "must be a whole number from 1 to 1000"),
    ("daemon", "workers = true", "must be a whole number"),
    ("daemon", "workers = 1.0", "must be a whole number"),
    ("daemon", 'workers = "1"', "must be a whole number"),
    ("daemon", "queue = -1", "must be a whole number"),
    ("daemon", "read_timeout_s = 0.09", "must be a number of seconds from 0.1 to 30"),
    ("daemon", "read_timeout_s = 30.1", "must be a number of seconds"),
    ("daemon", "read_timeout_s = nan", "must be a number of seconds"),
    ("daemon", "read_timeout_s = inf", "must be a number of seconds"),
    ("daemon", "read_timeout_s = true", "must be a number of seconds"),
    ("daemon", 'read_timeout_s = "1"', "must be a number of seconds"),
    ("store", 'url = "http://redis.example"', "must be a Redis URL"),
    ("store", 'url = "/run/redis.sock"', "must be a Redis URL"),
    ("store", "url = 6379", "must be a Redis URL"),
    ("store", 'url = "redis://:hunter2@redis.example"', "must not hold a password"),
    ("store", 'url = "unix://x:hunter2@/run/redis.sock"', "must not hold a password"),
    ("gateway", 'api = "soap"', 'must be one of "rest", "messaging"'),
    ("gateway", "api = []", "must be one of"),
    ("gateway", 'url = "https://:pw@gatewayapi.com"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com?"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com#"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com:abc"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com:65536"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com\\n"', "must be an address"),
    ("store", 'url = "redis://127.0.0.1?password=x"', "must not hold a password"),
    ("store", 'url = "redis://127.0.0.1?password="', "must not hold a password"),
    ("services", 'ssh = ["SSHD"]', "entry 1 must be a PAM service in lower case"),
    ("limits", 'spend_per_day = "1e999990"', "must be an amount"),
    ("limits", "spend_per_day = 1.5", "must be an amount"),  # a float can't hold money exactly
    ("gateway", 'url = "http://gatewayapi.com"', "must be https"),  # keys would go out in clear text
    ("gateway", 'url = "http://127.0.0.1.example"', "must be https"),
    ("gateway", 'url = "https://user:hunter2@gatewayapi.com"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com/rest"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com/?a=1"', "must be an address"),
    ("gateway", 'url = "https://gatewayapi.com/#a"', "must be an address"),
    ("gateway", 'url = "https://"', "must be an address"),
    ("gateway", 'url = "gatewayapi.com"', "must be an address"),
    ("gateway", 'url = "file:///etc/passwd"', "must be an address"),
    ("gateway", "url = 1", "must be an address"),
    ("gateway", 'sender = "ab"', "must be 3 to 11"),
    ("gateway", 'sender = "twelve chars"', "must be 3 to 11"),
    ("gateway", 'sender = "12"', "must be 3 to 11"),
    ("gateway", 'sender = "1234567890123456"', "must be 3 to 11"),
    ("gateway", 'sender = "123 456"', "must be 3 to 11"),  # no letter among them
    ("gateway", 'sender = "textgæte"', "must be 3 to 11"),
    ("gateway", "sender = 12345", "must be 3 to 11"),
    ("gateway", 'text = ""', "must be a text of 1 to 500 characters"),
    ("gateway", f'text = "{{code}}{"x" * 495}"', "must be a text of 1 to 500 characters"),
    ("gateway", "connections = 41", "must be a whole number from 1 to 40"),
    ("gateway", "send_wait_s = 8.1", "must be a number of seconds from 0 to 8"),
    ("codes", "digits = 5", "must be a whole number from 6 to 8"),
    ("codes", "digits = 9", "must be a whole number from 6 to 8"),
    ("codes", "life_s = 59", "must be a whole number from 60 to 600"),
    ("codes", "life_s = 601", "must be a whole number from 60 to 600"),
    ("codes", "tries = 0", "must be a whole number from 1 to 5"),
    ("codes", "tries = 6", "must be a whole number from 1 to 5"),
    ("limits", "wrong_in_a_row = 0", "must be a whole number from 1 to 100"),
    ("limits", "wrong_per_day = 1001", "must be a whole number from 1 to 1000"),
    ("required", 'users = "alice"', "must be a list"),  # a string is a list of letters to Python
    ("required", 'users = ["alice", "b c"]', "entry 2 must be a name"),
    ("required", 'users = ["a:b"]', "entry 1 must be a name"),
    ("required", 'users = ["a/b"]', "entry 1 must be a name"),
    ("required", "users = [1]", "entry 1 must be a name"),
    ("required", f'users = ["{"u" * 257}"]', "entry 1 must be a name"),
    ("exempt", 'networks = ["192.0.2.1/24"]', "entry 1 must be an address or network"),  # host bits: which was meant?
    ("exempt", 'networks = ["::/0", "office"]', "entry 2 must be an address or network"),
    ("exempt", 'networks = ["192.0.2.0/33"]', "entry 1 must be an address or network"),
    ("exempt", 'networks = [""]', "entry 1 must be an address or network"),
    ("exempt", "networks = [1]", "entry 1 must be an address or network"),  # 1 is 0.0.0.1 to Python
    ("exempt", f'key_fingerprints = ["SHA256:{"A" * 42}"]', "entry 1 must be a key fingerprint"),
    ("exempt", f'key_fingerprints = ["SHA256:{"A" * 43}="]', "entry 1 must be a key fingerprint"),
    ("exempt", f'key_fingerprints = ["MD5:{"A" * 43}"]', "entry 1 must be a key fingerprint"),
    ("exempt", f'key_fingerprints = ["SHA256:{"A" * 43}\\n"]', "entry 1 must be a key fingerprint"),
    ("phones", 'sources = ["ldap"]', "entry 1 must be one of"),
    ("phones", "sources = []", "must name at least one source"),
    ("phones", 'default_region = "dk"', "must be a country code"),
    ("phones", 'default_region = "DNK"', "must be a country code"),
    ("phones", 'default_region = "UK"', "must be a country code"),  # it is GB
    ("failmode", 'store = "open"', "must be one of"),
]


@pytest.mark.parametrize(("section", "line", "words"), REFUSED)
def test_option_refuses_value(section: str, line: str, words: str) -> None:
    faults = _faults(_with(section, line))
    assert faults[0].startswith(f"[{section}] {line.split(' ', maxsplit=1)[0]}: ")
    assert words in faults[0]
    assert not any("hunter2" in fault for fault in faults)


@pytest.mark.parametrize("country", ["dk", "DNK", "", "D", "45", "**", "DK\n"])
def test_allowed_country_is_two_capitals_or_a_star(country: str) -> None:
    faults = _faults(f"[limits]\nallowed_countries = [{country!r}]".replace("'", '"'))
    assert "[limits] allowed_countries: entry 1 must be a country code" in faults[0]
    assert _parse('[limits]\nallowed_countries = ["*"]').limits.allowed_countries == ("*",)


def test_network_that_is_an_address_is_that_address_alone() -> None:
    (network,) = _parse(_with("exempt", 'networks = ["192.0.2.1"]')).exempt.networks
    assert ipaddress.ip_address("192.0.2.1") in network
    assert network.num_addresses == 1


@pytest.mark.parametrize(
    ("value", "amount"),
    [(0, "0"), (25, "25"), ("25.00", "25.00"), ("0.001", "0.001")],
)
def test_money_takes_amount(value: object, amount: str) -> None:
    assert config.money(value) == Decimal(amount)


@pytest.mark.parametrize("value", [-1, "-0.01", 25.0, True, "", "x", "NaN", "Infinity", None, []])
def test_money_refuses_value(value: object) -> None:
    with pytest.raises(ValueError, match="must be an amount"):
        config.money(value)


# --- Faults of several keys together. ---

TOGETHER = [
    # lines of [gateway] and others, the fault
    ('[gateway]\napi = "messaging"', '[gateway] auth: must be "token"'),
    ('[gateway]\npriority = "URGENT"', "[gateway] priority: the urgent two"),
    ('[gateway]\npriority = "VERY_URGENT"', "[gateway] priority: the urgent two"),
    ("[gateway]\nconnect_timeout_s = 16", "[gateway] connect_timeout_s: must not be longer"),
    ("[gateway]\ntotal_timeout_s = 60\n[codes]\nlife_s = 60", "[gateway] total_timeout_s: must be shorter"),
    ("lockout_s = 301\nlockout_max_s = 300", "[limits] lockout_s: must not be longer"),
    ('[gateway]\ntext = "no code"', "[gateway] text: must hold {code} exactly once"),
    ('[gateway]\ntext = "{code} {code}"', "[gateway] text: must hold {code} exactly once"),
    ('[gateway]\ntext = "{code} {user}"', "[gateway] text: may hold"),
    ('[gateway]\ntext = "{code} ☎"', "[gateway] text: has a character"),
    ('[failmode]\nstore = "safe"', "[failmode] safe_services: name the services"),
    ('[failmode]\ngateway = "safe"', "[failmode] safe_services: name the services"),
]


@pytest.mark.parametrize(("lines", "words"), TOGETHER)
def test_keys_that_contradict_each_other_are_a_fault(lines: str, words: str) -> None:
    (fault,) = _faults(f"{SMALLEST}{lines}\n")
    assert fault.startswith(words)


@pytest.mark.parametrize(
    "lines",
    [
        '[gateway]\napi = "messaging"\nauth = "token"',
        '[gateway]\npriority = "URGENT"\nmessage_class = "premium"',
        "[gateway]\nconnect_timeout_s = 15",
        "[gateway]\ntotal_timeout_s = 59.9\n[codes]\nlife_s = 60",
        "lockout_s = 300\nlockout_max_s = 300",
        '[failmode]\nstore = "safe"\nsafe_services = ["sshd"]',
        '[failmode]\nstore = "safe"\nsafe_local_services = ["login"]',
        '[failmode]\nstore = "safe"\nsafe_services = ["sudo"]',  # of an earlier version: see cautions
    ],
)
def test_keys_that_agree_are_taken(lines: str) -> None:
    assert _parse(f"{SMALLEST}{lines}\n").limits.allowed_countries == ("DK",)


# --- What is no fault, and is said all the same. ---


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('store = "safe"\nsafe_services = ["sudo", "sshd", "su"]', "[failmode] safe_services: sudo, su: not in"),
        ('gateway = "safe"\nsafe_local_services = ["sshd"]', "[failmode] safe_local_services: sshd: in"),
    ],
)
def test_safe_service_in_the_other_list_is_no_fault_and_is_said(lines: str, words: str) -> None:
    (caution,) = cautions(_parse(f"{SMALLEST}[failmode]\n{lines}\n"))
    assert caution.startswith(words)


@pytest.mark.parametrize(
    "lines",
    ["", 'store = "safe"\nsafe_services = ["sshd"]\nsafe_local_services = ["login"]', 'safe_services = ["sudo"]'],
)
def test_nothing_is_said_where_all_is_as_it_is_meant(lines: str) -> None:
    assert cautions(_parse(f"{SMALLEST}[failmode]\n{lines}\n")) == ()
