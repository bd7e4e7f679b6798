#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A login page with a texted code: Flask and `textgate.AuthClient`, no JavaScript.

    python3 examples/login_page/app.py --demo        # on this machine alone; the texts are printed

For a real one, behind a web server with HTTPS, see `from_environment`. The browser keeps a signed cookie with the id
of a login under way, later with the token; both are opaque. What a person sees of an error is the API's own sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import math
import os
import secrets
import signal
import sys
from pathlib import Path

from flask import Flask, Response, abort, render_template, request, session
from werkzeug.exceptions import BadRequest
from werkzeug.serving import make_server

try:
    import textgate  # noqa: F401
except ImportError:  # not installed: this is a checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "daemon"))

from textgate.client import (
    AuthClient,
    AuthError,
    BadToken,
    CodeExpired,
    Locked,
    Throttled,
    WrongCode,
    WrongPassword,
)

STATUS = {WrongPassword: 401, WrongCode: 401, CodeExpired: 401, Locked: 429, Throttled: 429}  # all others: 503
RESENT = "A new code is on its way. Only the newest one counts."
OUTDATED = "This page was open for too long. Please try again."

# Nothing from elsewhere, no script at all, and no frame of another site around the password.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(client: AuthClient, *, secret_key: bytes) -> Flask:
    """The site. secret_key: at least 32 random bytes, the same in every process of it; signs the cookie."""
    app = Flask(__name__)
    app.secret_key = secret_key
    app.config.update(
        SESSION_COOKIE_NAME="__Host-login",  # browsers take it from this very host over HTTPS (or localhost) only
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=16 * 1024,
    )
    app.jinja_env.globals["csrf"] = csrf
    app.before_request(check_csrf)
    app.after_request(add_headers)
    app.register_error_handler(BadRequest, lambda _error: (render_template("login.html", error=OUTDATED), 400))
    app.register_error_handler(AuthError, lambda error: told("login.html", error))
    pages = Pages(client)
    for method, place, page in (
        ("GET", "/", pages.welcome),
        ("GET", "/login", pages.login),
        ("POST", "/login", pages.step_one),
        ("GET", "/code", pages.code),
        ("POST", "/code", pages.step_two),
        ("POST", "/resend", pages.resend),
        ("POST", "/logout", pages.logout),
    ):
        app.add_url_rule(place, view_func=page, methods=[method])
    return app


class Pages:
    """One method for each page and each form. Raises AuthError for what has no better page than the first."""

    def __init__(self, client: AuthClient) -> None:
        self._client = client

    def login(self) -> Response:
        """Name and password."""
        return page("login.html")

    def step_one(self) -> Response:
        """They were sent."""
        try:
            user_id = self._client.step_one(field("username"), field("password"), source=request.remote_addr)
        except AuthError as error:
            if error.user_id is None:
                raise
            begin(user_id=error.user_id)  # the login goes on: by a new text later, or a recovery code
            return told("code.html", error)
        begin(user_id=user_id)
        return see("/code")

    def code(self) -> Response:
        """The code."""
        return page("code.html") if "user_id" in session else see("/login")

    def step_two(self) -> Response:
        """It was sent."""
        try:
            token = self._client.step_two(session.get("user_id", ""), field("code"))
        except CodeExpired:
            session.pop("user_id", None)
            raise
        except AuthError as error:
            return told("code.html", error)
        begin(token=token)
        return see("/")

    def resend(self) -> Response:
        """A new code is asked for."""
        try:
            self._client.resend(session.get("user_id", ""))
        except CodeExpired:
            session.pop("user_id", None)
            raise
        except AuthError as error:
            return told("code.html", error)
        return page("code.html", notice=RESENT)

    def welcome(self) -> Response:
        """What only people who have logged in see: each such page asks for the token, and no answer is a no."""
        try:
            claims = self._client.verify_token(session.get("token", ""))
        except BadToken:
            return see("/login")
        return page("welcome.html", user=claims.user)

    def logout(self) -> Response:
        """The token is good no more, wherever a copy of it may be."""
        try:
            self._client.revoke(session.get("token", ""))
        except BadToken:
            pass  # expired, or revoked before
        except AuthError as error:
            return told("welcome.html", error)  # still logged in, and told so
        session.clear()
        return see("/login")


def check_csrf() -> None:
    """Every form carries the token of its own cookie: no other site can send one in a person's name."""
    if request.method == "POST" and not hmac.compare_digest(field("csrf").encode(), csrf().encode()):
        abort(400)


def add_headers(response: Response) -> Response:
    """On every answer."""
    response.headers.update(HEADERS)
    return response


def csrf() -> str:
    """The token of this browser's forms; made at the first use."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    return str(session["csrf"])


def begin(**values: str) -> None:
    """A fresh cookie with these values: nothing of what was before the login goes on in it."""
    session.clear()
    session.update(values)


def field(name: str) -> str:
    """What was typed into a field; "" if it isn't there."""
    return request.form.get(name, "")


def see(place: str) -> Response:
    """After a form: go there by GET."""
    return Response(status=303, headers={"Location": place})


def page(template: str, status: int = 200, **values: str) -> Response:
    """A page."""
    return Response(render_template(template, **values), status)


def told(template: str, error: AuthError) -> Response:
    """A page with the error's sentence; machines hear how long to wait."""
    response = page(template, STATUS.get(type(error), 503), error=str(error))
    if error.wait_s:
        response.headers["Retry-After"] = str(math.ceil(error.wait_s))
    return response


def from_environment() -> Flask:
    """For a WSGI server: `gunicorn --chdir examples/login_page 'app:from_environment()'`.

    LOGIN_PAGE_CONFIG: the path of a textgate.toml. LOGIN_PAGE_KEY_FILE: a file of at least 32 random bytes. Passwords
    are checked by the PAM service textgate-api. Behind a reverse proxy, put werkzeug's ProxyFix around the app, or
    every client has the proxy's address.
    """
    secret_key = Path(os.environ["LOGIN_PAGE_KEY_FILE"]).read_bytes()
    if len(secret_key) < 32:
        raise ValueError("LOGIN_PAGE_KEY_FILE holds less than 32 bytes")
    return create_app(AuthClient(os.environ["LOGIN_PAGE_CONFIG"], audience="login-page"), secret_key=secret_key)


def main() -> None:
    """The demo."""
    parser = argparse.ArgumentParser(description="A login page with a texted code.")
    parser.add_argument("--demo", action="store_true", required=True, help="own Redis, pretended texts, one user")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; 0 takes a free one (default: 8000)")
    options = parser.parse_args()

    from stand_ins import demo_client

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves no Redis behind
    with contextlib.suppress(KeyboardInterrupt), demo_client() as client:
        app = create_app(client, secret_key=secrets.token_bytes(32))
        server = make_server("127.0.0.1", options.port, app, threaded=True)
        print(f"open http://127.0.0.1:{server.server_port}/ and log in as alice, password wonderland", flush=True)
        try:
            server.serve_forever()
        finally:
            server.server_close()


if __name__ == "__main__":
    main()
