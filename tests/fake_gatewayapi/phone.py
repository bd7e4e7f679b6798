# SPDX-License-Identifier: MIT
"""The phone: shows texts as they arrive, read from the control interface of a running fake.

On a terminal a frame is drawn anew for each text; elsewhere each text is one plain line. Texts are
untrusted: no control character of theirs reaches the terminal.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import urlencode, urlsplit

POLL_S = 20.0
FRAME_MAX_COLUMNS = 46
_CLEAR, _HIDE, _SHOW = "\x1b[2J\x1b[H", "\x1b[?25l", "\x1b[?25h"
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_CODE = re.compile(r"(?<![\w.-])\d{6,8}(?![\w-])")
# corner and line characters: rounded where the terminal can show them
_ROUND, _ASCII = "╭╮╰╯─│├┤", "++++-|++"


class NetworkGone(Exception):
    """The fake does not answer (any more)."""


@dataclass(frozen=True)
class Text:
    """One text as it is shown. at: Unix seconds."""

    at: float
    msisdn: str
    sender: str
    text: str


def texts_from(control_url: str, is_following: bool, msisdn: str | None = None) -> Iterator[Text]:
    """All texts so far; then, when following, each new one. Raises NetworkGone."""
    after = 0
    while True:
        fields: dict[str, Any] = {"after": after, "wait_s": POLL_S if is_following else 0}
        if msisdn is not None:
            fields["msisdn"] = msisdn
        answer = _get(control_url, f"/texts?{urlencode(fields)}")
        after = answer["after"]
        for text in answer["texts"]:
            yield Text(
                text["accepted_at"],
                _printable(text["msisdn"]),
                _printable(text["sender"]) or "SMS",
                _printable(text["text"]),
            )
        if not is_following:
            return


def show(texts: Iterator[Text], out: TextIO, count: int | None, title: str = "") -> int:
    """Show texts as they come, `count` at most (None: all); how many there were."""
    is_terminal = out.isatty()
    shown: list[Text] = []
    try:
        if is_terminal:
            out.write(_HIDE)
            _draw(shown, out, title)
        for text in texts:
            shown.append(text)
            if is_terminal:
                _draw(shown, out, title)
            else:
                out.write(f"{line_of(text)}\n")
                out.flush()
            if count is not None and len(shown) >= count:
                break
    finally:
        if is_terminal:
            out.write(_SHOW)
            out.flush()
    return len(shown)


def line_of(text: Text) -> str:
    """One plain line."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(text.at))
    return f"{moment}  +{text.msisdn}  {text.sender}: {' / '.join(text.text.splitlines())}"


def frame(texts: Sequence[Text], columns: int, rows: int, lines: str = _ROUND, title: str = "") -> list[str]:
    """Rows of the phone: title, then as many of the newest texts as fit above the bottom."""
    top_left, top_right, bottom_left, bottom_right, flat, side, left, right = tuple(lines)
    inner = columns - 4
    body: list[str] = []
    for text in texts:
        body += _bubble(text, inner, lines)
    room = max(1, rows - 5)
    body = (body or ["", "no texts yet".center(inner)])[-room:]
    body += [""] * (room - len(body))
    heading = (f"+{title}" if title else "phone").center(inner)
    return [
        top_left + flat * (columns - 2) + top_right,
        f"{side} {heading[:inner]} {side}",
        left + flat * (columns - 2) + right,
        *(f"{side} {line.ljust(inner)} {side}" for line in body),
        bottom_left + flat * (columns - 2) + bottom_right,
    ]


def _bubble(text: Text, width: int, lines: str) -> list[str]:
    """One text: who, to which number and when, then the text in a frame of its own."""
    top_left, top_right, bottom_left, bottom_right, flat, side, _, _ = tuple(lines)
    clock = time.strftime("%H:%M:%S", time.localtime(text.at))
    who = f"{text.sender} to +{text.msisdn}"[: width - len(clock) - 1]
    wrapped = [row for line in text.text.splitlines() or [""] for row in textwrap.wrap(line, width - 4) or [""]]
    return [
        f"{who}{clock.rjust(width - len(who))}",
        top_left + flat * (width - 2) + top_right,
        *(f"{side} {row.ljust(width - 4)} {side}" for row in wrapped),
        bottom_left + flat * (width - 2) + bottom_right,
    ]


def _draw(texts: Sequence[Text], out: TextIO, title: str) -> None:
    size = shutil.get_terminal_size()
    lines = _ROUND if (out.encoding or "").lower().replace("-", "") == "utf8" else _ASCII
    columns = max(24, min(FRAME_MAX_COLUMNS, size.columns - 1))
    rows = frame(texts, columns, size.lines, lines, title)
    bold = [_CODE.sub(f"{_BOLD}\\g<0>{_PLAIN}", row) for row in rows]
    out.write(_CLEAR + "\r\n".join(bold) + f"\r\n{_DIM}Ctrl-C ends{_PLAIN}\r\n")
    out.flush()


def _printable(text: str) -> str:
    """Line feeds stay; every other character that is not printable becomes a dot."""
    return "".join(c if c.isprintable() or c == "\n" else "." for c in text)


def _get(control_url: str, target: str) -> Any:
    """JSON of one GET. No proxies: the control interface is on this machine."""
    parts = urlsplit(control_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=POLL_S + 10)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise NetworkGone(f"answered {answer.status}")
        return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NetworkGone(type(error).__name__) from None
    finally:
        connection.close()


def run(control_url: str, is_following: bool, count: int | None, msisdn: str | None) -> int:
    """The `phone` command; exit status. A fake that goes away later is a normal end."""
    try:
        _get(control_url, "/status")
    except NetworkGone as error:
        print(f"fake_gatewayapi: error: no fake answers at {control_url} ({error})", file=sys.stderr)
        print("hint: start one with `serve` and give the control_url of its ready file", file=sys.stderr)
        return 1
    try:
        show(texts_from(control_url, is_following or count is not None, msisdn), sys.stdout, count, msisdn or "")
    except (NetworkGone, BrokenPipeError):
        return 0
    return 0
