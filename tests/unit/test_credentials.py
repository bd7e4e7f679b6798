# SPDX-License-Identifier: MIT
"""Credentials: where they are looked for, who may have them, and that nothing of them gets out."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textgate.credentials import MAX_BYTES, load_credential
from textgate.errors import CredentialError, ExitCode

WORD = "kx7-SECRET-9q"
NAME = "gatewayapi-key"


@pytest.fixture
def fallback(tmp_path: Path) -> Path:
    """A credential's file as the manual says to make it."""
    path = tmp_path / "fallback"
    _put(path, f"{WORD}\n".encode())
    return path


@pytest.fixture
def systemd(tmp_path: Path) -> Path:
    """A credential directory as systemd makes it, empty."""
    path = tmp_path / "credentials"
    path.mkdir()
    return path


def _put(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _refusal(path: Path, words: str, **environ: str) -> CredentialError:
    """Load, and check that it is refused in these words, with the file named and nothing of it told."""
    with pytest.raises(CredentialError, match=words) as caught:
        load_credential(NAME, str(path), environ=environ)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert WORD not in shown
    assert WORD not in repr(caught.value.__context__)
    assert caught.value.exit_code is ExitCode.CONFIG
    return caught.value


def test_systemds_credential_comes_first(fallback: Path, systemd: Path) -> None:
    _put(systemd / NAME, b"from systemd\n", 0o440)  # an ACL shows as a group bit there
    secret = load_credential(NAME, str(fallback), environ={"CREDENTIALS_DIRECTORY": str(systemd)})
    assert secret.reveal() == "from systemd"


@pytest.mark.parametrize("directory", ["", "credentials", "./credentials", "/nonexistent", None])
def test_file_is_read_where_systemd_passed_nothing(fallback: Path, directory: str | None) -> None:
    environ = {} if directory is None else {"CREDENTIALS_DIRECTORY": directory}
    assert load_credential(NAME, str(fallback), environ=environ).reveal() == WORD


def test_relative_credential_directory_is_not_believed(
    fallback: Path, systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(systemd / NAME, b"planted")
    monkeypatch.chdir(systemd.parent)
    assert load_credential(NAME, str(fallback), environ={"CREDENTIALS_DIRECTORY": "credentials"}).reveal() == WORD


def test_file_is_read_if_systemd_passed_others(fallback: Path, systemd: Path) -> None:
    _put(systemd / "other", b"other")
    assert load_credential(NAME, str(fallback), environ={"CREDENTIALS_DIRECTORY": str(systemd)}).reveal() == WORD


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_empty_credential_of_systemd_stands_for_a_missing_file(fallback: Path, systemd: Path, content: bytes) -> None:
    _put(systemd / NAME, content)
    error = _refusal(fallback, f"{NAME}: is not set: ", CREDENTIALS_DIRECTORY=str(systemd))
    assert (str(fallback) in error.message, error.hint) == (True, "textgate setup")


@pytest.mark.parametrize("content", [b"\xff" + WORD.encode(), b"x" * (MAX_BYTES + 1)])
def test_bad_credential_of_systemd_does_not_fall_back(fallback: Path, systemd: Path, content: bytes) -> None:
    _put(systemd / NAME, content)
    error = _refusal(fallback, ": is ", CREDENTIALS_DIRECTORY=str(systemd))
    assert str(systemd / NAME) in error.message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"x", "x"),
        (b"x\n", "x"),  # one line feed is the editor's
        (b"x\n\n", "x\n"),  # two are somebody's
        (b"x\r\n", "x\r"),
        (b" x \n", " x "),
        (b"a\nb\n", "a\nb"),
        ("æøå".encode(), "æøå"),
        (b"x" * MAX_BYTES, "x" * MAX_BYTES),  # the largest
    ],
)
def test_content_is_text_without_one_line_feed(fallback: Path, content: bytes, text: str) -> None:
    _put(fallback, content)
    assert load_credential(NAME, str(fallback), environ={}).reveal() == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b" \t\r\n", "is empty"),
        (WORD.encode() + b"\xff", "is not UTF-8"),
        (WORD.encode("utf-16"), "is not UTF-8"),
        ((WORD * MAX_BYTES).encode(), "is larger than"),
        (b"x" * (MAX_BYTES + 1), "is larger than"),
    ],
)
def test_bad_content_is_refused(fallback: Path, content: bytes, words: str) -> None:
    _put(fallback, content)
    assert str(fallback) in _refusal(fallback, words).message


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_file_of_its_owner_alone_is_taken(fallback: Path, mode: int) -> None:
    fallback.chmod(mode)
    assert load_credential(NAME, str(fallback), environ={}).reveal() == WORD


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o440])
def test_file_open_to_others_is_refused(fallback: Path, mode: int) -> None:
    fallback.chmod(mode)
    error = _refusal(fallback, "is open to other users")
    assert error.hint == f"chmod 0600 {fallback}"


def test_file_of_somebody_else_is_refused(fallback: Path) -> None:
    with pytest.raises(CredentialError, match="belongs to another user") as caught:
        load_credential(NAME, str(fallback), environ={}, trusted_uids=frozenset({os.geteuid() + 1}))
    assert caught.value.hint == f"chown root {fallback}"


def test_missing_file_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    error = _refusal(tmp_path / "missing", "no such file")
    assert error.hint is not None
    assert f"LoadCredential={NAME}" in error.hint


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)  # a reader would wait for a writer
    _refusal(pipe, "is not a plain file")
    _refusal(Path("/dev/null"), "is not a plain file")
    _refusal(tmp_path, "can't be read: Is a directory")
    _refusal(pipe / "below", "can't be read: Not a directory")


def test_link_is_as_good_as_its_target(fallback: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(fallback)
    assert load_credential(NAME, str(link), environ={}).reveal() == WORD
    fallback.chmod(0o644)
    _refusal(link, "is open to other users")


@pytest.mark.parametrize("name", ["", ".", "..", "../key", "a/b", "/etc/shadow", ".hidden", "a\0b", "a\n", "a" * 256])
def test_name_that_leaves_the_directory_is_refused(fallback: Path, systemd: Path, name: str) -> None:
    _put(systemd.parent / "key", b"outside")
    with pytest.raises(CredentialError, match="a credential's name"):
        load_credential(name, str(fallback), environ={"CREDENTIALS_DIRECTORY": str(systemd)})


def test_secret_does_not_show_itself(fallback: Path) -> None:
    assert WORD not in repr(load_credential(NAME, str(fallback), environ={}))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64))
def test_load_survives_junk(fallback: Path, content: bytes) -> None:
    _put(fallback, content)
    try:
        text = load_credential(NAME, str(fallback), environ={}).reveal()
    except CredentialError as error:
        assert error.message.startswith(f"{fallback}: is ")
    else:
        assert text.encode() in (content, content[:-1])
