# SPDX-License-Identifier: MIT
"""What is fuzzed. A target takes bytes and raises AssertionError, or anything that it should have refused in form."""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.fernet import Fernet, MultiFernet

from textgate import admin, client, gateway_outcomes, sms
from textgate.accounts import MAX_NAME_BYTES, is_askable
from textgate.codes import TYPED_MAX_LENGTH, is_recovery_form, normalise
from textgate.config import Config, parse_config
from textgate.credentials import load_credential
from textgate.decoys import decoy_key
from textgate.directory import parse_phones
from textgate.errors import ConfigError, CredentialError, MsisdnError, ProtocolError, TextgateError, VaultError
from textgate.gateway_outcomes import Outcome, Reading
from textgate.journal_reader import parse_since
from textgate.msisdn import parse_msisdn
from textgate.printable import FIELD_MAX_LENGTH, printable_field
from textgate.protocol import CODE_FIELD, FIELDS, REQUEST_MAX_BYTES, Verb, parse_request
from textgate.secret import Secret
from textgate.session import build_session
from textgate.store import encode_user
from textgate.vault import Vault, parse_keys

Target = Callable[[bytes], None]

_HELPER = Path(__file__).parents[2] / "pam_helper/textgate_pam.py"
_REASON = re.compile(r"[a-z0-9_]{1,40}")
_VAULT = Vault(parse_keys(Secret("k1:" + "5a" * 32)))
_SEALER = MultiFernet([Fernet(b"A" * 43 + b"=")])
TEXT_MAX_BYTES = 1024
NAME_MAX_LENGTH = 64
TOO_LONG = "too long"  # what stands for something that can be no code


def _load_helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("textgate_pam", _HELPER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helper = _load_helper()


def _harmless(error: TextgateError) -> None:
    """A message may be shown: printable, and not as long as what was sent."""
    assert error.message.isprintable(), ascii(error.message)
    assert error.hint is None or error.hint.isprintable()


# --- The auth socket. ---


def auth_socket(data: bytes) -> None:
    """One whole request, from bytes to a session."""
    try:
        request = parse_request(data)
    except ProtocolError as error:
        assert _REASON.fullmatch(error.reason)
        return
    assert len(data) <= REQUEST_MAX_BYTES
    assert set(request.fields) <= FIELDS
    assert (request.code is not None) == (request.verb is Verb.CHECK)
    fields = dict(request.fields) | ({} if request.code is None else {CODE_FIELD: request.code.reveal()})
    again = {f"{name}={value}" for name, value in fields.items()}
    assert set(data.decode().split("\0")[1:]) == again  # nothing was lost, nothing was made up
    assert repr(request.code) in ("None", "<secret>")
    try:
        session = build_session(request.fields, ("sshd",))
    except ProtocolError as error:
        assert _REASON.fullmatch(error.reason)
        return
    assert re.fullmatch(r"[0-9a-f]{32}", session.session_id)
    assert session.source is None or session.service == "sshd"
    assert session.key_fingerprint is None or re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", session.key_fingerprint)
    name(session.user.encode())


def name(data: bytes) -> None:
    """A user name, in each place where it is written."""
    user = data.decode(errors="surrogateescape")
    assert re.fullmatch(r"~[0-9a-f]{4}", decoy_key(user, _VAULT))
    shown = printable_field(user)
    assert shown.isprintable() and len(shown) <= FIELD_MAX_LENGTH
    if is_askable(user):
        assert user.isprintable() and len(user.encode()) <= MAX_NAME_BYTES and not set(user) & set("/:\0\n")
        assert re.fullmatch(r"[A-Za-z0-9_.%-]+", encode_user(user))
    assert re.fullmatch(r"[A-Za-z0-9._@-]{1,64}|\(unusual name\)", helper.name_or_mark(data))


def session(data: bytes) -> None:
    """The fields of a session alone, so that no format stands in their way."""
    values = data.decode(errors="replace").split("\0")
    names = ("SSH_AUTH_INFO_0", "SSH_CONNECTION", "PAM_USER", "PAM_SERVICE", "PAM_TTY", "PPID", "PPID_START")
    usual = {"PAM_USER": "alice", "PAM_SERVICE": "sshd", "PAM_TTY": "ssh", "PPID": "1", "PPID_START": "1"}
    fields = usual | dict(zip(names, values, strict=False))
    with contextlib.suppress(ProtocolError):
        built = build_session(fields, ("sshd",))
        assert built.source is None or (fields["PAM_SERVICE"], fields["PAM_TTY"]) == ("sshd", "ssh")
        assert built == build_session(fields, ("sshd",))


def typed_code(data: bytes) -> None:
    """What somebody types at the prompt."""
    text = data.decode(errors="replace")
    code = normalise(text).reveal()
    assert len(code) <= TYPED_MAX_LENGTH
    assert code == TOO_LONG or not set(code) & set(" -\t\r\n")
    assert not (is_recovery_form(Secret(code)) and code.isdigit())


# --- The admin socket. ---


def admin_socket(data: bytes) -> None:
    """One line, and the arguments as the verbs read them."""
    try:
        verb, arguments = admin.parse_line(data)
    except ProtocolError as error:
        assert _REASON.fullmatch(error.reason)
        return
    assert verb in admin.VERBS
    assert set(arguments) <= admin.VERBS[verb].arguments
    unused: Any = None
    call = admin.Call(arguments, unused, unused)
    for argument in admin.VERBS[verb].arguments:
        with contextlib.suppress(ProtocolError):
            value = call.text(argument, 64)
            assert 0 < len(value) <= 64
            value.encode()


# --- Files. ---


def config(data: bytes) -> None:
    """The configuration."""
    text = data.decode(errors="replace")
    try:
        found = parse_config(text, config_path="/etc/textgate/textgate.toml")
    except ConfigError as error:
        _harmless(error)
        assert error.faults
        return
    assert isinstance(found, Config)
    assert 6 <= found.codes.digits <= 8 and found.codes.life_s <= 600
    assert not list(sms.template_faults(found.gateway.text, digits=found.codes.digits))


def phones(data: bytes) -> None:
    """The phones file: a hostile line beside a good one."""
    table = parse_phones(data, "DK")
    assert not set(table.numbers) & table.unusable
    for user, number in table.numbers.items():
        assert re.fullmatch(r"[1-9][0-9]{6,14}", number.reveal())
        assert is_askable(user) and " " not in user
    for fault in table.faults:
        assert fault.isprintable() and not re.search(r"[0-9]{8}", fault)


def number(data: bytes) -> None:
    """A phone number as people write it."""
    text = data.decode(errors="replace")
    for region in ("", "DK"):
        try:
            found = parse_msisdn(text, region)
        except MsisdnError as error:
            _harmless(error)
            continue
        assert parse_msisdn("+" + found.reveal(), "") == found
        assert found.reveal() not in f"{found!r} {found}"


def keys(data: bytes) -> None:
    """The key file, and a record that somebody has put into Redis."""
    text = data.decode(errors="replace")
    try:
        parse_keys(Secret(text))
    except CredentialError as error:
        _harmless(error)
    try:
        _VAULT.open(text, user="alice", purpose="fuzz")
    except VaultError as error:
        _harmless(error)
    else:
        raise AssertionError("a record that was never sealed did open")
    with contextlib.suppress(CredentialError):
        load_credential(text, "/nonexistent", environ={"CREDENTIALS_DIRECTORY": "/nonexistent"})


# --- The gateway. ---


def gateway_answers(data: bytes) -> None:
    """Status and body of an answer, read as each of the three kinds."""
    status = 200 if not data or data[0] < 128 else 200 + data[0]
    body = data[1:]
    for read in (gateway_outcomes.read_rest_answer, gateway_outcomes.read_messaging_answer):
        reading: Reading = read(status, body)
        assert isinstance(reading.outcome, Outcome)
        assert reading.outcome is not Outcome.SENT or status // 100 == 2
        assert reading.cost is None or reading.cost >= 0
        for shown in (reading.code, reading.incident, reading.currency, *map(str, reading.message_ids)):
            assert shown is None or (shown.isprintable() and len(shown) <= 64)
    credit = gateway_outcomes.read_credit_answer(status, body, clock_skew_s=None)
    assert credit.amount is None or credit.amount.is_finite()
    header = body.decode("latin-1")
    gateway_outcomes.parse_date(header)
    wait_s = gateway_outcomes.parse_retry_after(header, now_at=0.0)
    assert wait_s is None or 0 <= wait_s < float("inf")


def text_template(data: bytes) -> None:
    """[gateway] text: what has no fault can be filled in, in one part."""
    template = data.decode(errors="replace")
    if list(sms.template_faults(template, digits=8)):
        return
    text = sms.render(template, code="12345678", host="h" * 100, service="s" * 100)
    assert text.count("12345678") >= 1
    size = sms.septets(text)
    assert size is not None and size <= sms.ONE_PART_SEPTETS


# --- The helper. ---


def helper_answer(data: bytes) -> None:
    """What the helper makes of the daemon's answer: only two words are a yes, only printable text is shown."""
    for verb, yes in (("begin", b"skip"), ("check", b"pass")):
        try:
            status, text = helper.judge(verb, data)
        except ValueError:
            continue
        assert (status == 0) == (data.split(b"\n")[0] == yes)
        shown = helper.printable(text)
        assert len(shown.encode()) <= TEXT_MAX_BYTES
        assert all(line.isprintable() and line for line in shown.splitlines())
        assert shown == "" or shown.endswith("\n")


def helper_input(data: bytes) -> None:
    """What the helper reads: its environment, /proc/PID/stat and its command line."""
    with contextlib.suppress(ValueError):
        found = helper.pick(data)
        assert all(b"\0" not in value for value in found.values())
    with contextlib.suppress(ValueError):
        assert all(number.isdigit() for number in helper.stat_fields(data)[1:])
    options = helper.parse(data.decode(errors="replace").split("\0"))
    if options is not None:
        verb, path, deadline_s, _ = options
        assert verb in ("begin", "check") and path.startswith("/") and 0 < deadline_s <= 300


# --- The Python API, and the command. ---


def opaque_ids(data: bytes) -> None:
    """Ids and tokens that a browser hands back. Nothing opens but what was sealed."""
    text = data.decode(errors="replace")
    assert client._opened(_SEALER, text) is None
    sealed = client._sealed(_SEALER, {"user": text[:NAME_MAX_LENGTH]})
    assert client._opened(_SEALER, sealed) == {"user": text[:NAME_MAX_LENGTH]}
    at = len(text) % len(sealed)
    forged = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
    if _from_base64(forged) != _from_base64(sealed):  # the last bits of base64 may differ
        assert client._opened(_SEALER, forged) is None


def _from_base64(text: str) -> bytes | None:
    with contextlib.suppress(binascii.Error):  # a letter in place of the padding
        return base64.urlsafe_b64decode(text)
    return None


def command_line(data: bytes) -> None:
    """Times of `textgate log --since`."""
    import datetime as dt

    with contextlib.suppress(TextgateError):
        parse_since(data.decode(errors="replace"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)).timestamp()


def admin_answer(data: bytes) -> None:
    """What the command makes of the daemon's answer."""
    from textgate.admin_client import _read

    with contextlib.suppress(TextgateError):
        json.dumps(_read(data))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        auth_socket,
        session,
        name,
        typed_code,
        admin_socket,
        config,
        phones,
        number,
        keys,
        gateway_answers,
        text_template,
        helper_answer,
        helper_input,
        opaque_ids,
        command_line,
        admin_answer,
    )
}
