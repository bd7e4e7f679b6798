# SPDX-License-Identifier: MIT
"""What PAM says -> Session: what is believed, what makes two requests one login, and what junk becomes."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.errors import ProtocolError
from textgate.session import PLAIN_KEY_TYPES, Session, build_session, key_fingerprint, session_id, source_address

SSHD = ("sshd",)
CONNECTION = "192.0.2.7 50022 198.51.100.1 22"


def _blob(key_type: str, rest: bytes = b"\0\0\0\x20" + bytes(32)) -> str:
    name = key_type.encode()
    return base64.b64encode(len(name).to_bytes(4, "big") + name + rest).decode()


KEY_LINE = f"publickey ssh-ed25519 {_blob('ssh-ed25519')}"

SSH = {
    "PAM_USER": "alice",
    "PAM_SERVICE": "sshd",
    "PAM_TTY": "ssh",
    "PAM_RHOST": "192.0.2.7",
    "PAM_TYPE": "auth",
    "SSH_CONNECTION": CONNECTION,
    "SSH_AUTH_INFO_0": KEY_LINE,
    "PPID": "4711",
    "PPID_START": "123456",
}
SUDO = {
    "PAM_USER": "alice",
    "PAM_SERVICE": "sudo",
    "PAM_TTY": "/dev/pts/3",
    "PAM_RUSER": "alice",
    "PAM_TYPE": "auth",
    "PPID": "4711",
    "PPID_START": "123456",
}


def _build(base: Mapping[str, str], **changes: str) -> Session:
    return build_session({**base, **changes}, SSHD)


# --- What is believed. ---


def test_ssh_login_has_source_and_key() -> None:
    session = _build(SSH)
    assert (session.user, session.service, session.tty) == ("alice", "sshd", "ssh")
    assert session.source == ipaddress.ip_address("192.0.2.7")
    assert session.key_fingerprint is not None


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (SSH, {"PAM_SERVICE": "sudo"}),  # a user's own environment, through sudo
        (SSH, {"PAM_SERVICE": "sshd2"}),  # not a configured service
        (SSH, {"PAM_SERVICE": "SSHD"}),
        (SSH, {"PAM_TTY": "/dev/pts/3"}),
        (SSH, {"PAM_TTY": "SSH"}),
        (SSH, {"PAM_TTY": "ssh "}),
        (SSH, {"PAM_TTY": ""}),
    ],
)
def test_ssh_fields_are_not_believed_elsewhere(base: Mapping[str, str], changes: dict[str, str]) -> None:
    session = _build(base, **changes)
    assert session.source is None
    assert session.key_fingerprint is None
    # Nor do they choose the session: a made-up connection must not lead to somebody's live challenge.
    assert session.session_id == _build(base, **changes, SSH_CONNECTION="203.0.113.9 1 203.0.113.1 22").session_id
    assert session.session_id != _build(SSH).session_id


def test_ssh_fields_are_believed_in_no_service_if_none_is_configured() -> None:
    session = build_session(SSH, ())
    assert (session.source, session.key_fingerprint) == (None, None)


def test_remote_host_and_user_of_pam_are_not_a_source() -> None:
    assert _build(SUDO, PAM_RHOST="192.0.2.7").source is None


def test_key_is_believed_without_a_readable_connection() -> None:
    session = _build(SSH, SSH_CONNECTION="UNKNOWN 65535 UNKNOWN 65535")  # sshd -i on a pipe
    assert session.source is None
    assert session.key_fingerprint is not None


# --- Which requests are one login. ---


def test_ssh_attempts_in_one_connection_are_one_session() -> None:
    again = _build(SSH, PAM_RHOST="client.example", SSH_AUTH_INFO_0="")
    assert again.session_id == _build(SSH).session_id


def test_sudo_attempts_of_one_process_are_one_session() -> None:
    assert _build(SUDO).session_id == _build(SUDO, PAM_USER="bob").session_id


def test_session_of_another_boot_or_machine_is_another_one() -> None:
    ids = {build_session(base, SSHD, boot).session_id for base in (SSH, SUDO) for boot in ("0a" * 16, "0b" * 16)}
    assert len(ids) == 4


def test_session_is_the_same_for_every_user() -> None:
    """The store keeps users apart by its keys."""
    assert _build(SSH, PAM_USER="bob").session_id == _build(SSH).session_id


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (SSH, {"SSH_CONNECTION": "192.0.2.7 50023 198.51.100.1 22"}),  # the next connection
        (SSH, {"SSH_CONNECTION": "192.0.2.8 50022 198.51.100.1 22"}),
        (SSH, {"PPID": "4712"}),  # the next connection from the same port
        (SSH, {"PPID_START": "123999"}),
        (SUDO, {"PAM_RHOST": "192.0.2.7"}),  # a program that authenticates for several people in one process
        (SUDO, {"PAM_RUSER": "bob"}),
        (SUDO, {"PPID": "4712"}),
        (SUDO, {"PPID_START": "123457"}),  # the pid came round again
        (SUDO, {"PAM_TTY": "/dev/pts/4"}),
        (SUDO, {"PAM_SERVICE": "su"}),
        (SUDO, {"PPID": "47111", "PPID_START": "23456"}),  # the same digits, cut elsewhere
    ],
)
def test_other_login_is_another_session(base: Mapping[str, str], changes: dict[str, str]) -> None:
    assert _build(base, **changes).session_id != _build(base).session_id


def test_ssh_without_readable_connection_goes_by_process() -> None:
    first = _build(SSH, SSH_CONNECTION="")
    assert first.session_id == _build(SSH, SSH_CONNECTION="UNKNOWN 65535 UNKNOWN 65535").session_id
    assert first.session_id != _build(SSH, SSH_CONNECTION="", PPID="4712").session_id


def test_session_id_is_32_hex_digits_and_stays_what_it_is() -> None:
    """Written out, so that an upgrade which changes it is noticed: it ends every login under way."""
    boot = "0b" * 16
    session = build_session(SSH, SSHD, boot)
    assert session.session_id == session_id(("ssh", boot, "sshd", CONNECTION, "4711", "123456"))
    parts = b"3:ssh32:" + boot.encode() + b"4:sshd31:" + CONNECTION.encode() + b"4:47116:123456"
    assert session.session_id == hashlib.sha256(parts).hexdigest()[:32]


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_session_ids_of_different_parts_differ(one: list[str], other: list[str]) -> None:
    assert (session_id(tuple(one)) == session_id(tuple(other))) is (one == other)


def test_session_id_keeps_parts_apart() -> None:
    assert session_id(("a", "bc")) != session_id(("ab", "c"))
    assert session_id(("1:a",)) != session_id(("", "a"))
    assert session_id(("a",)) != session_id(("a", ""))


# --- What is refused. ---


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PAM_USER", None, "no_user"),
        ("PAM_USER", "", "no_user"),
        ("PAM_SERVICE", None, "no_service"),
        ("PAM_SERVICE", "", "no_service"),
        ("PAM_SERVICE", "a b", "bad_service"),
        ("PAM_SERVICE", "a/b", "bad_service"),
        ("PAM_SERVICE", "sshd\n", "bad_service"),
        ("PAM_SERVICE", "sshđ", "bad_service"),
        ("PAM_SERVICE", "s" * 257, "bad_service"),
        ("PPID", None, "no_ppid"),
        ("PPID", "0", "bad_ppid"),  # only a parent outside of the pid namespace
        ("PPID", "-1", "bad_ppid"),
        ("PPID", "04711", "bad_ppid"),  # a second way to write the same
        ("PPID", "4711\n", "bad_ppid"),
        ("PPID", "٤", "bad_ppid"),
        ("PPID", "1" * 11, "bad_ppid"),
        ("PPID_START", None, "no_ppid_start"),
        ("PPID_START", "00", "bad_ppid_start"),
        ("PPID_START", "1.5", "bad_ppid_start"),
        ("PPID_START", "1" * 21, "bad_ppid_start"),
    ],
)
def test_missing_or_malformed_field_is_refused_with_fixed_reason(name: str, value: str | None, reason: str) -> None:
    fields = {**SSH, name: value} if value is not None else {k: v for k, v in SSH.items() if k != name}
    with pytest.raises(ProtocolError) as caught:
        build_session(fields, SSHD)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "value"),
    [("PPID", "1"), ("PPID", "1" * 10), ("PPID_START", "0"), ("PPID_START", "1" * 20), ("PAM_SERVICE", "s" * 256)],
)
def test_field_at_its_bound_is_taken(name: str, value: str) -> None:
    assert len(_build(SUDO, **{name: value}).session_id) == 32


def test_tty_may_be_missing() -> None:
    assert build_session({k: v for k, v in SUDO.items() if k != "PAM_TTY"}, SSHD).tty == ""


def test_session_does_not_show_what_was_typed() -> None:
    shown = repr(_build(SUDO, PAM_USER="\x1b[2Jevil", PAM_TTY="\x1b[2Jtty"))
    assert "evil" not in shown
    assert "tty" not in shown


_VALUES = st.one_of(st.text(max_size=40), st.sampled_from([*SSH.values()]))


@given(st.dictionaries(st.sampled_from([*SSH, "OTHER"]), _VALUES, max_size=9))
def test_build_survives_junk(fields: dict[str, str]) -> None:
    try:
        session = build_session(fields, SSHD)
    except ProtocolError as error:
        assert error.reason in {f"{a}_{b}" for a in ("no", "bad") for b in ("user", "service", "ppid", "ppid_start")}
    else:
        assert len(session.session_id) == 32


# --- SSH_CONNECTION. ---


@pytest.mark.parametrize(
    ("connection", "source"),
    [
        (CONNECTION, "192.0.2.7"),
        ("2001:db8::7 50022 2001:db8::1 22", "2001:db8::7"),
        ("fe80::7%eth0 50022 fe80::1%eth0 22", "fe80::7"),  # scope dropped
        ("::ffff:192.0.2.7 50022 ::ffff:198.51.100.1 22", "192.0.2.7"),  # IPv4 on a socket for both
        ("::ffff:c000:207 1 ::1 22", "192.0.2.7"),
        ("::192.0.2.7 1 ::1 22", "::c000:207"),  # "compatible", not "mapped": another address
        ("", None),
        ("192.0.2.7", None),
        ("192.0.2.7 50022", None),
        (CONNECTION + " 1", None),
        (CONNECTION + " ", None),
        (" " + CONNECTION, None),
        ("192.0.2.7\t50022 198.51.100.1 22", None),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("host.example 1 198.51.100.1 22", None),
        ("192.0.2.7 1 host.example 22", None),
        ("192.0.2.07 1 198.51.100.1 22", None),  # octal to some readers
        ("192.0.2 1 198.51.100.1 22", None),
        ("3221225991 1 198.51.100.1 22", None),
        ("192.0.2.0/24 1 198.51.100.1 22", None),
        ("192.0.2.7 x 198.51.100.1 22", None),
        ("192.0.2.7 1 198.51.100.1 222222", None),
        ("192.0.2.7 1 198.51.100.1 ٢٢", None),
        ("192.0.2.7 1 198.51.100.1 22\n", None),
        ("٢٠٠.0.2.7 1 198.51.100.1 22", None),
    ],
)
def test_source_is_the_peer_of_a_well_formed_connection(connection: str, source: str | None) -> None:
    assert source_address(connection) == (ipaddress.ip_address(source) if source else None)


@given(st.text(max_size=60))
def test_source_survives_junk(junk: str) -> None:
    assert source_address(junk) is None


# --- SSH_AUTH_INFO_0. ---


def test_fingerprint_is_what_ssh_keygen_prints() -> None:
    """A key made by OpenSSH 9.2p1 and the line of its `ssh-keygen -l`."""
    assert key_fingerprint(KEYGEN_LINE) == KEYGEN_FINGERPRINT


KEYGEN_LINE = "publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEaEddVv5XxmrnU/CvViGbB/wskAXf/SDRmKgcSG83cF"
KEYGEN_FINGERPRINT = "SHA256:Mfmeh7J66XBIz7qLDB6EnQ73GquV+AHzz7BEv1ZjrFw"


@pytest.mark.parametrize("key_type", sorted(PLAIN_KEY_TYPES))
def test_fingerprint_of_every_plain_key_type(key_type: str) -> None:
    fingerprint = key_fingerprint(f"publickey {key_type} {_blob(key_type)}\n")
    assert fingerprint is not None
    assert len(fingerprint) == len("SHA256:") + 43
    assert "=" not in fingerprint


CERTIFICATE = "ssh-ed25519-cert-v01@openssh.com"
OTHER_LINE = f"publickey ssh-rsa {_blob('ssh-rsa')}"


@pytest.mark.parametrize(
    "auth_info", [f"password\n{KEY_LINE}\n", f"{KEY_LINE}\nkeyboard-interactive/pam\n", KEY_LINE]
)
def test_fingerprint_beside_other_methods(auth_info: str) -> None:
    assert key_fingerprint(auth_info) == key_fingerprint(KEY_LINE) is not None


@pytest.mark.parametrize(
    "auth_info",
    [
        "",
        "password",
        "publickey",
        "publickey ssh-ed25519",
        "publickey ssh-ed25519 ",
        f"{KEY_LINE}\n{OTHER_LINE}",  # two keys: which one would count?
        f"{OTHER_LINE}\n{KEY_LINE}",
        f"{KEY_LINE}\n{KEY_LINE}",
        f"{KEY_LINE}\npublickey",
        f"publickey {CERTIFICATE} {_blob(CERTIFICATE)}",
        f"publickey ssh-ed25519 {_blob(CERTIFICATE)}",  # a certificate under a plain name
        f"publickey ssh-rsa {_blob('ssh-ed25519')}",  # the blob says another type
        f"publickey ssh-dss {_blob('ssh-dss')}",
        f"hostbased ssh-ed25519 {_blob('ssh-ed25519')}",  # the host's key, not the user's
        f"Publickey ssh-ed25519 {_blob('ssh-ed25519')}",
        f" {KEY_LINE}",
        f"{KEY_LINE} comment",
        f"{KEY_LINE}\r",
        KEY_LINE.replace(" ", "\t"),
        KEY_LINE.replace(" ", "  "),
        f"publickey ssh-ed25519 {_blob('ssh-ed25519')[:-1]}",  # padding lost
        f"publickey ssh-ed25519 {_blob('ssh-ed25519')[:8]}!{_blob('ssh-ed25519')[8:]}",
        "publickey ssh-ed25519 æøå=",
        "publickey ssh-ed25519 AAAA",  # shorter than its own length says
    ],
)
def test_fingerprint_of_anything_doubtful_is_none(auth_info: str) -> None:
    assert key_fingerprint(auth_info) is None


@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map(lambda t: f"publickey ssh-ed25519 {t}")))
def test_fingerprint_survives_junk(junk: str) -> None:
    assert key_fingerprint(junk) is None
