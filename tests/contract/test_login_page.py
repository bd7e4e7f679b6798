# SPDX-License-Identifier: MIT
"""examples/login_page: in Debian's Chromium as a person sees it, and by its answers as an attacker does."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from werkzeug.serving import make_server

from fake_gatewayapi import FakeGatewayAPI
from fakes import FakeClock, Journal
from private_redis import PrivateRedis
from textgate.client import AuthClient, BadToken

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "login_page"
PICTURE = ROOT / "build" / "login-page.png"  # docs/login-page.png is a copy of it
PHONE = "4512345678"
WITHIN_S = 20.0
FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars force-device-scale-factor=2 "
    "window-size=560,620"
)


def load_app() -> ModuleType:
    """app.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("login_page_app", EXAMPLE / "app.py")
    if spec is None or spec.loader is None:
        raise ImportError("app.py is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where Flask looks for the folder of its templates
    spec.loader.exec_module(module)
    return module


@dataclass
class Site:
    """The example with everything behind it."""

    redis: PrivateRedis
    fake: FakeGatewayAPI
    client: AuthClient
    app: Flask
    clock: FakeClock
    journal: Journal = field(default_factory=Journal)
    url: str = ""

    @property
    def code(self) -> str:
        """The newest code on alice's phone."""
        return self.fake.last_code(PHONE)


@pytest.fixture
def site(redis_server: PrivateRedis) -> Iterator[Site]:
    clock, journal = FakeClock(), Journal()
    with (
        FakeGatewayAPI() as fake,
        AuthClient.from_settings(
            store_url=redis_server.url,
            vault_key="k1:" + "ab" * 32,
            gateway_key="test-key",
            gateway_secret="test-secret",
            allowed_countries=["DK"],
            passwords=lambda user, password: (user, password) == ("alice", "wonderland"),
            phones={"alice": f"+{PHONE}"}.get,
            options={"gateway": {"url": fake.url, "send_wait_s": 8}},
            audience="login-page",
            audit=journal.audit,
            clock=clock,
        ) as client,
    ):
        app = load_app().create_app(client, secret_key=b"k" * 32)
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(redis_server, fake, client, app, clock, journal, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join(WITHIN_S)
        server.server_close()


class Browser:
    """Chromium with one page open, and a person's ways to use it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def input(self, name: str) -> WebElement:
        return self.driver.find_element(By.NAME, name)

    def press(self, label: str) -> None:
        """Press a button, and wait for the page that comes of it."""
        before = self.driver.find_element(By.TAG_NAME, "html")
        self.driver.find_element(By.XPATH, f"//button[normalize-space()='{label}']").click()
        WebDriverWait(self.driver, WITHIN_S).until(lambda driver: driver.find_element(By.TAG_NAME, "html") != before)

    def log_in(self, username: str, password: str) -> None:
        for name, value in (("username", username), ("password", password)):
            self.input(name).clear()
            self.input(name).send_keys(value)
        self.press("Go on")

    def type_code(self, code: str) -> None:
        self.input("code").send_keys(code)
        self.press("Log in")

    @property
    def heading(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "h1").text

    @property
    def message(self) -> str:
        return self.driver.find_element(By.CLASS_NAME, "message").text

    def take_picture(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.driver.get_screenshot_as_png())


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    options: Any = ChromeOptions()
    options.binary_location = programs["chromium"] or "chromium is not installed"
    for flag in (*FLAGS.split(), f"user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(f"--{flag}")
    driver = Chrome(options=options, service=Service(programs["chromedriver"] or "chromedriver is not installed"))
    driver.set_page_load_timeout(WITHIN_S)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


# --- In a browser ---


def test_person_logs_in_and_out(site: Site, browser: Browser) -> None:
    browser.open(site.url)
    assert browser.heading == "Log in"

    browser.log_in("alice", "wrong")
    assert browser.message == "User name or password is not right."
    assert site.fake.requests == []

    browser.log_in("alice", "wonderland")
    assert browser.heading == "Enter your code"
    assert len(site.fake.accepted) == 1
    typed = browser.input("code")
    assert {name: typed.get_attribute(name) for name in ("type", "inputmode", "autocomplete")} == {
        "type": "text",  # "number" drops leading zeros
        "inputmode": "numeric",
        "autocomplete": "one-time-code",
    }
    assert browser.driver.switch_to.active_element == typed
    typed.send_keys("271828")
    browser.take_picture(PICTURE)
    typed.clear()

    browser.type_code(f"{(int(site.code) + 1) % 1_000_000:06d}")
    assert browser.message == "That code is not right."

    browser.type_code(site.code)
    assert browser.heading == "Welcome, alice"
    [cookie] = browser.driver.get_cookies()
    assert (cookie["name"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (
        "__Host-login",
        True,
        True,
        "Lax",
    )

    browser.press("Log out")
    assert browser.heading == "Log in"
    browser.driver.add_cookie(cookie)  # a thief's copy
    browser.open(site.url)
    assert browser.heading == "Log in"


def test_person_asks_for_a_new_code(site: Site, browser: Browser) -> None:
    browser.open(site.url)
    browser.log_in("alice", "wonderland")
    browser.press("Text me a new code")
    assert re.fullmatch(
        r"A new login code can be texted in \d+ seconds\. The last one is still good\.", browser.message
    )
    first = site.code
    site.clock.move_ms(60_000)
    browser.press("Text me a new code")
    assert browser.message == "A new code is on its way. Only the newest one counts."
    assert len(site.fake.accepted) == 2
    browser.type_code(first)
    assert browser.message == "That code is not right."
    browser.type_code(site.code)
    assert browser.heading == "Welcome, alice"


def test_demo_runs_as_the_readme_says(browser: Browser) -> None:
    argv = [sys.executable, "-B", str(EXAMPLE / "app.py"), "--demo", "--port", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/")
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None
        browser.open(url[0])
        browser.log_in("alice", "wonderland")
        text = re.fullmatch(r"\[phone \+4512345678\] (\d{6}) is your login code .*\n", process.stdout.readline())
        assert text is not None
        browser.type_code(text[1])
        assert browser.heading == "Welcome, alice"
    finally:
        process.terminate()
        process.wait(WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()
    assert process.returncode == 0


# --- By its answers ---


@pytest.fixture
def visitor(site: Site) -> FlaskClient:
    return site.app.test_client()


def send(visitor: FlaskClient, place: str, **fields: str) -> Any:
    """Send a form with the token of the visitor's own cookie."""
    with visitor.session_transaction(base_url="https://localhost") as cookie:
        cookie["csrf"] = "own"
    return visitor.post(place, data={"csrf": "own", **fields}, base_url="https://localhost")


def get(visitor: FlaskClient, place: str) -> Any:
    """Look at a page."""
    return visitor.get(place, base_url="https://localhost")


def log_in(site: Site, visitor: FlaskClient) -> None:
    """Both steps."""
    assert send(visitor, "/login", username="alice", password="wonderland").status_code == 303
    assert send(visitor, "/code", code=site.code).status_code == 303


@pytest.mark.parametrize("place", ["/login", "/code", "/resend", "/logout"])
@pytest.mark.parametrize("fields", [{}, {"csrf": ""}, {"csrf": "other"}, {"csrf": "é\ud800"}])
def test_form_of_another_site_does_nothing(
    site: Site, visitor: FlaskClient, place: str, fields: dict[str, str]
) -> None:
    log_in(site, visitor)
    fields = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    data = fields | {"username": "alice", "password": "wonderland", "code": "123456"}
    assert visitor.post(place, data=data, base_url="https://localhost").status_code == 400
    assert len(site.fake.accepted) == 1
    assert b"Welcome, alice" in get(visitor, "/").data


def test_page_that_needs_a_login_asks_for_it(site: Site, visitor: FlaskClient) -> None:
    assert get(visitor, "/").headers["Location"] == "/login"
    assert get(visitor, "/code").headers["Location"] == "/login"
    send(visitor, "/login", username="alice", password="wonderland")
    assert get(visitor, "/").headers["Location"] == "/login"  # the password alone is not enough


def test_token_ends_with_the_logout_and_with_time(site: Site, visitor: FlaskClient) -> None:
    log_in(site, visitor)
    with visitor.session_transaction(base_url="https://localhost") as cookie:
        token = cookie["token"]
        assert "user_id" not in cookie
    assert site.client.verify_token(token).user == "alice"
    assert send(visitor, "/logout").status_code == 303
    with pytest.raises(BadToken):
        site.client.verify_token(token)
    site.clock.move_ms(60_000)
    log_in(site, visitor)
    site.clock.move_ms(8 * 3_600_000)
    assert get(visitor, "/").headers["Location"] == "/login"


@pytest.mark.parametrize("place", ["/code", "/resend"])
def test_step_two_without_step_one_starts_again(site: Site, visitor: FlaskClient, place: str) -> None:
    answer = send(visitor, place, code="123456")
    assert answer.status_code == 401
    assert b"No login code is waiting for you" in answer.data
    assert site.fake.requests == []


def test_unknown_user_sees_what_alice_sees(visitor: FlaskClient) -> None:
    def seen(user: str) -> tuple[int, str]:
        answer = send(visitor, "/login", username=user, password="wrong")
        return answer.status_code, answer.get_data(as_text=True)

    assert seen("alice") == seen("nobody")
    assert seen("alice")[0] == 401


def test_too_many_texts_are_told_with_how_long_to_wait(site: Site, visitor: FlaskClient) -> None:
    send(visitor, "/login", username="alice", password="wonderland")
    answer = send(visitor, "/login", username="alice", password="wonderland")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
    assert b"No login code was texted" in answer.data
    assert b"one-time-code" in answer.data  # a recovery code still works


def test_gateway_that_refuses_is_told_and_the_login_can_go_on(site: Site, visitor: FlaskClient) -> None:
    credit, site.fake.credit = site.fake.credit, site.fake.credit * 0
    answer = send(visitor, "/login", username="alice", password="wonderland")
    assert answer.status_code == 503
    assert b"could not be texted" in answer.data
    site.fake.credit = credit
    assert send(visitor, "/resend").status_code == 200
    assert send(visitor, "/code", code=site.code).status_code == 303
    assert b"Welcome, alice" in get(visitor, "/").data


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # redis-py leaves that of a failed connect
def test_without_redis_nobody_is_in(site: Site, visitor: FlaskClient) -> None:
    log_in(site, visitor)
    site.redis.stop()
    for answer in (get(visitor, "/"), send(visitor, "/login", username="alice", password="wonderland")):
        assert answer.status_code == 503
        assert b"Login codes can" in answer.data
        assert b"Welcome" not in answer.data
    assert send(visitor, "/logout").status_code == 503


def test_typed_text_is_shown_nowhere(visitor: FlaskClient) -> None:
    answer = send(visitor, "/login", username="<script>alert(1)</script>", password="<b>")
    assert b"alert(1)" not in answer.data


@pytest.mark.parametrize("place", ["/login", "/static/style.css", "/nowhere"])
def test_every_answer_has_the_headers(visitor: FlaskClient, place: str) -> None:
    with get(visitor, place) as answer:
        headers = answer.headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


def test_cookie_is_kept_from_scripts_and_plain_http(visitor: FlaskClient) -> None:
    cookie = get(visitor, "/login").headers["Set-Cookie"]
    assert cookie.startswith("__Host-login=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_cookie_with_another_signature_is_none_of_ours(site: Site, visitor: FlaskClient) -> None:
    log_in(site, visitor)
    site.app.secret_key = b"x" * 32
    assert get(visitor, "/").headers["Location"] == "/login"


def test_picture_in_the_docs_is_there() -> None:
    assert (ROOT / "docs" / "login-page.png").read_bytes().startswith(b"\x89PNG")
