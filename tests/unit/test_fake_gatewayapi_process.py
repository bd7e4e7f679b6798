# SPDX-License-Identifier: MIT
"""The fake as a process: its control interface, its commands, and the phone."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests_oauthlib import OAuth1Session

import fake_gatewayapi
from fake_gatewayapi import FakeGatewayAPI
from fake_gatewayapi.__main__ import main
from fake_gatewayapi.client import MSISDN, NOW, RawClient, ask, message
from fake_gatewayapi.control import ControlServer
from fake_gatewayapi.phone import Text, frame, line_of, texts_from

PACKAGE_PARENT = Path(fake_gatewayapi.__file__).parent.parent
# -S leaves out every site directory: the fake must run on the standard library alone.
COMMAND = [sys.executable, "-S", "-m", "fake_gatewayapi"]
ENVIRONMENT = {"PYTHONPATH": str(PACKAGE_PARENT), "PATH": os.environ["PATH"], "TZ": "UTC", "PYTHONUTF8": "1"}


@pytest.fixture
def fake() -> Iterator[FakeGatewayAPI]:
    """A fake whose clock stands at NOW."""
    with FakeGatewayAPI(clock=lambda: NOW) as server:
        yield server


@pytest.fixture
def control(fake: FakeGatewayAPI) -> Iterator[ControlServer]:
    """The control interface of the fake."""
    with ControlServer(fake) as server:
        yield server


def call(url: str, method: str, target: str, body: Any = None, host: str | None = None) -> tuple[int, Any]:
    """Status and value of one control request."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=20)
    with contextlib.closing(connection):
        headers = {"Host": host} if host else {}
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


# --- control --------------------------------------------------------------------------------------


def test_control_lists_its_verbs(control: ControlServer) -> None:
    status, verbs = call(control.url, "GET", "/")
    assert status == 200
    assert "POST /faults" in verbs
    assert all(verbs.values())


def test_control_gives_texts_and_code(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message(userref="u"))
    ask(fake, body=message("other", recipients=[{"msisdn": 4599999999}]))
    _, answer = call(control.url, "GET", "/texts")
    assert [(text["msisdn"], text["text"]) for text in answer["texts"]] == [
        (MSISDN, "123456 is your code"),
        ("4599999999", "other"),
    ]
    assert (answer["texts"][0]["userref"], answer["after"]) == ("u", 2)
    assert call(control.url, "GET", "/texts?after=2")[1] == {"texts": [], "after": 2}
    _, only = call(control.url, "GET", "/texts?msisdn=4599999999")
    assert [text["text"] for text in only["texts"]] == ["other"]
    assert call(control.url, "GET", f"/code?msisdn={MSISDN}") == (200, {"code": "123456"})
    assert call(control.url, "GET", "/code?msisdn=1")[0] == 404


def test_control_waits_for_a_text(fake: FakeGatewayAPI, control: ControlServer) -> None:
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(call(control.url, "GET", "/texts?wait_s=10")))
    waiter.start()
    ask(fake, body=message())
    waiter.join(10)
    assert got[0][1]["after"] == 1


def test_control_shows_requests_and_status(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message())
    _, answer = call(control.url, "GET", "/requests")
    (request,) = answer["requests"]
    assert (request["verdict"], request["status"], request["method"]) == ("accepted", 200, "POST")
    assert json.loads(base64.b64decode(request["body"])) == message()
    status = call(control.url, "GET", "/status")[1]
    assert (status["accepted_count"], status["credit"], status["url"]) == (1, "99.85", fake.url)


def test_control_injects_holds_and_releases(fake: FakeGatewayAPI, control: ControlServer) -> None:
    wish = {"kind": "delay", "accept": True, "path": "/rest/mtsms", "method": "POST", "msisdn": MSISDN}
    _, fault = call(control.url, "POST", "/faults", wish)
    assert ask(fake, "GET", "/rest/me").status == 200
    with RawClient(fake) as client:
        client.send_json(body=message())
        injected = fake.find_fault(fault["id"])
        assert injected is not None
        injected.wait_reached()
        assert call(control.url, "GET", f"/faults/{fault['id']}")[1]["is_holding"] is True
        assert call(control.url, "POST", f"/faults/{fault['id']}/release")[1]["is_holding"] is False
        assert client.receive().status == 200


def test_control_removes_faults(fake: FakeGatewayAPI, control: ControlServer) -> None:
    _, fault = call(control.url, "POST", "/faults", {"kind": "503", "count": None, "options": {"retry_after": 5}})
    assert ask(fake, body=message()).headers["retry-after"] == "5"
    call(control.url, "DELETE", f"/faults/{fault['id']}")
    assert ask(fake, body=message()).status == 200
    call(control.url, "POST", "/faults", {"kind": "refuse", "count": None})
    with pytest.raises(ConnectionRefusedError):
        RawClient(fake)
    call(control.url, "DELETE", "/faults")
    assert ask(fake, body=message()).status == 200


def test_control_sets_credit_clock_and_settings(fake: FakeGatewayAPI, control: ControlServer) -> None:
    call(control.url, "POST", "/credit", {"credit": "0"})
    assert ask(fake, body=message()).json()["code"] == "0x0216"
    call(control.url, "POST", "/clock", {"offset_s": 3600})
    assert ask(fake, body=message()).json()["code"] == "0x0225"
    call(
        control.url, "POST", "/settings", {"allowed_countries": ["SE"], "blacklisted": ["46"], "bad_json_status": 422}
    )
    assert fake.settings.allowed_countries == frozenset({"SE"})
    assert (fake.settings.blacklisted, fake.settings.bad_json_status) == ({"46"}, 422)
    call(control.url, "POST", "/reset")
    assert ask(fake, body=message()).status == 200


def test_control_plans_deliveries(fake: FakeGatewayAPI, control: ControlServer) -> None:
    call(control.url, "POST", "/delivery", {"msisdn": MSISDN, "plan": "undeliverable"})
    call(control.url, "POST", "/webhook", {"url": "http://127.0.0.1:1/", "secret": "s"})
    message_id = ask(fake, body=message()).json()["ids"][0]
    assert call(control.url, "POST", "/advance", {"seconds": 3})[1] == {"advanced_s": 3.0}
    assert ask(fake, "GET", f"/rest/mtsms/{message_id}").json()[0]["recipients"][0]["dsnstatus"] == "UNDELIVERABLE"
    assert len(call(control.url, "GET", "/reports")[1]["reports"]) == 3
    call(control.url, "POST", "/webhook", {"url": None})
    call(control.url, "POST", "/mobile-webhook", {"url": "http://127.0.0.1:1/"})
    assert fake.webhook is None
    assert fake.mobile_webhook is not None


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("POST", "/texts", None, 404),
        ("GET", "/faults/99999", None, 404),
        ("POST", "/faults", {}, 400),
        ("POST", "/faults", {"kind": "earthquake"}, 400),
        ("POST", "/faults", {"kind": "503", "options": {"colour": 1}}, 400),
        ("POST", "/faults", {"kind": "503", "options": 5}, 400),
        ("POST", "/credit", {"credit": "much"}, 400),
        ("POST", "/credit", [], 400),
        ("POST", "/settings", {"colour": 1}, 400),
        ("POST", "/delivery", {"plan": "lost"}, 400),
        ("GET", "/texts?after=x", None, 400),
    ],
)
def test_control_says_what_is_wrong(control: ControlServer, method: str, target: str, body: Any, status: int) -> None:
    found, answer = call(control.url, method, target, body)
    assert (found, set(answer)) == (status, {"error"})


def test_control_answers_only_to_loopback_names(control: ControlServer) -> None:
    assert call(control.url, "GET", "/texts", host="rebound.example:80")[0] == 400


def test_api_port_knows_no_control(fake: FakeGatewayAPI) -> None:
    assert ask(fake, "GET", "/texts").status == 404


# --- commands -------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[dict[str, Any]]:
    """A fake as a process; what its ready file says. Must end well on SIGTERM."""
    ready = folder / "ready.json"
    command = [*COMMAND, "serve", "--keys-file", str(folder / "keys.json"), "--ready-file", str(ready), *options]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("fake_gatewayapi: http")
            yield json.loads(ready.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def send_to(ready: dict[str, Any], text: str) -> int:
    """Send with the real client library and the keys that `serve` made."""
    key = json.loads(Path(ready["keys_file"]).read_text())["keys"][0]
    with OAuth1Session(key["key"], client_secret=key["secret"]) as session:
        session.trust_env = False
        session.verify = ready["ca_file"] or True
        return int(session.post(f"{ready['url']}/rest/mtsms", json=message(text), timeout=10).status_code)


def test_serve_makes_keys_and_takes_texts(tmp_path: Path) -> None:
    with serving(tmp_path) as ready:
        assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
        assert send_to(ready, "654321 is your code") == 200
        assert call(ready["control_url"], "GET", f"/code?msisdn={MSISDN}") == (200, {"code": "654321"})
        keys = (tmp_path / "keys.json").read_text()
    with serving(tmp_path) as ready:  # the second run takes the same keys
        assert (tmp_path / "keys.json").read_text() == keys
        assert send_to(ready, "hi") == 200


def test_serve_obeys_its_options(tmp_path: Path) -> None:
    with serving(tmp_path, "--credit", "0.20", "--currency", "EUR", "--tls", "trusted") as ready:
        assert ready["url"].startswith("https://")
        assert send_to(ready, "hi") == 200
        assert call(ready["control_url"], "GET", "/status")[1]["credit"] == "0.1799"
    with serving(tmp_path, "--clock-offset-s", "3600") as ready:
        assert send_to(ready, "hi") == 401


def test_serve_takes_fixed_ports(tmp_path: Path, fake: FakeGatewayAPI) -> None:
    port = fake.port
    fake.stop()
    with serving(tmp_path, "--port", str(port)) as ready:
        assert ready["url"] == f"http://127.0.0.1:{port}"


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": [{"key": "hush-hush"}]}', '{"keys": ["hush-hush"]}'])
def test_serve_refuses_bad_keys_without_showing_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    result = run_command("serve", "--keys-file", str(tmp_path / "keys.json"))
    assert result.returncode == 1
    assert result.stderr.startswith("fake_gatewayapi: error: cannot start")
    assert "hint: " in result.stderr
    assert "hush-hush" not in result.stderr


def test_serve_says_when_its_port_is_taken(tmp_path: Path, fake: FakeGatewayAPI) -> None:
    result = run_command("serve", "--keys-file", str(tmp_path / "k"), "--port", str(fake.port))
    assert result.returncode == 1
    assert "in use" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["phone", "--help"]])
def test_help_is_there(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: fake_gatewayapi" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["serve", "--keys-file", "k", "--credit", "much"],
        ["phone"],
        ["phone", "--control", "u", "--count", "0"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


# --- phone ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def phone(control_url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A phone as a process, without a terminal."""
    command = [*COMMAND, "phone", "--control", control_url, *options]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line that the phone prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_phone_prints_what_is_there_and_ends(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message())
    result = run_command("phone", "--control", control.url)
    assert result.stdout == "2023-11-14 22:13:20  +4512345678  textgate: 123456 is your code\n"
    assert (result.returncode, result.stderr) == (0, "")


def test_phone_waits_for_count(fake: FakeGatewayAPI, control: ControlServer) -> None:
    with phone(control.url, "--count", "2") as process:
        for text in ("first", "second"):
            ask(fake, body=message(text))
            assert next_line(process).endswith(text)
        assert process.wait(20) == 0


def test_phone_follows_until_sigterm(fake: FakeGatewayAPI, control: ControlServer) -> None:
    with phone(control.url, "--follow") as process:
        ask(fake, body=message("first"))
        assert next_line(process).endswith("first")
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_phone_follows_until_the_fake_is_gone(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with serving(tmp_path) as ready:
            process = stack.enter_context(phone(ready["control_url"], "--follow"))
            send_to(ready, "first")
            assert next_line(process).endswith("first")
        assert process.wait(20) == 0


def test_phone_shows_one_number_only(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message("mine"))
    ask(fake, body=message("theirs", recipients=[{"msisdn": 4599999999}]))
    assert [text.text for text in texts_from(control.url, False, MSISDN)] == ["mine"]


def test_phone_without_fake_is_an_error(fake: FakeGatewayAPI) -> None:
    url = fake.url
    fake.stop()
    result = run_command("phone", "--control", url)
    assert result.returncode == 1
    assert result.stderr.startswith("fake_gatewayapi: error: no fake answers")
    assert "hint: " in result.stderr


def test_phone_draws_a_frame_on_a_terminal(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message())
    ours, theirs = pty.openpty()
    command = [*COMMAND, "phone", "--control", control.url, "--count", "1"]
    environment = {**ENVIRONMENT, "COLUMNS": "60", "LINES": "12"}
    with subprocess.Popen(command, env=environment, stdout=theirs) as process:
        os.close(theirs)
        screen = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal ends
            while part := os.read(ours, 65_536):
                screen += part
        os.close(ours)
        assert process.wait(20) == 0
    last = screen.decode().rpartition("\x1b[2J\x1b[H")[2]
    assert "│ \x1b[1m123456\x1b[0m is your code" in last
    assert last.startswith("╭")
    assert screen.decode().endswith("\x1b[?25h")  # the cursor is back


def texts(count: int) -> list[Text]:
    """Some texts, numbered."""
    return [Text(NOW, MSISDN, "textgate", f"text {i}") for i in range(count)]


@pytest.mark.parametrize(("columns", "rows"), [(24, 3), (46, 24), (46, 10)])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_frame_fits_its_size(columns: int, rows: int, count: int) -> None:
    drawn = frame(texts(count), columns, rows)
    assert {len(row) for row in drawn} == {columns}
    assert len(drawn) == max(5, rows - 1)


def test_frame_keeps_the_newest_text() -> None:
    drawn = "\n".join(frame(texts(50), 46, 12, title=MSISDN))
    assert "text 49" in drawn
    assert "text 40" not in drawn
    assert f"+{MSISDN}" in drawn


def test_frame_wraps_long_texts_and_has_an_ascii_form() -> None:
    long = Text(NOW, MSISDN, "textgate", "word " * 30 + "\n\nend " + "x" * 100)
    drawn = frame([long], 46, 40, "++++-|++")
    assert {len(row) for row in drawn} == {46}
    assert all(row.isascii() for row in drawn)


def test_control_characters_of_a_text_never_reach_the_terminal(fake: FakeGatewayAPI, control: ControlServer) -> None:
    ask(fake, body=message("\x1b[2Jevil\r\x07\u202e\nnext", sender="\x1b]0;x"))
    (text,) = texts_from(control.url, False)
    assert re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text.text + text.sender) is None
    assert line_of(text).endswith(".]0;x: .[2Jevil... / next")


def test_faked_service_is_never_reached_by_name() -> None:
    # The package holds no host of the real service, so it cannot send a text by mistake.
    for file in (PACKAGE_PARENT / "fake_gatewayapi").glob("*.py"):
        assert re.search(r"https?://[\w.]*gatewayapi\.(com|eu)", file.read_text()) is None


def test_requests_alone_cannot_send(fake: FakeGatewayAPI) -> None:
    with requests.Session() as session:
        session.trust_env = False
        assert session.post(f"{fake.url}/rest/mtsms", json=message(), timeout=10).status_code == 401
    assert fake.accepted == []
