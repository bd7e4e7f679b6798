# SPDX-License-Identifier: MIT
"""HTTP/1.1 between bytes and values, over one plain or TLS socket.

Written by hand because the fake must see the raw request line and must be able to break an answer
at any byte. Every size an outsider chooses has a cap.
"""

from __future__ import annotations

import email.utils
import socket
from dataclasses import dataclass, field
from http import HTTPStatus

LINE_MAX_BYTES = 65_536
HEADER_MAX_COUNT = 200
BODY_MAX_BYTES = 16 * 1024 * 1024  # 10 000 recipients with tag values fit easily

Headers = list[tuple[str, str]]


class BadRequest(Exception):
    """Bytes that are no HTTP request; the connection is of no more use."""


@dataclass
class Request:
    """One request as it came. `raw_line` is the request line, undecoded but for latin-1."""

    raw_line: str
    method: str
    target: str
    version: str
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Value of the first header of this name, whatever the case."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    @property
    def path(self) -> str:
        """Path as sent: percent-encoding kept, query left out."""
        return self._local_target().partition("?")[0]

    @property
    def query(self) -> str:
        """Query as sent, without "?"."""
        return self._local_target().partition("?")[2]

    @property
    def media_type(self) -> str:
        """Content type in lower case without parameters, "" if absent."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    @property
    def is_kept_alive(self) -> bool:
        """Whether the client wants to send another request on this connection."""
        wish = (self.header("Connection") or "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"

    def _local_target(self) -> str:
        """Target without fragment, and without scheme and host if it came in absolute form."""
        target = self.target.partition("#")[0]
        if target.startswith("/"):
            return target
        return "/" + target.partition("://")[2].partition("/")[2]


@dataclass(frozen=True)
class Response:
    """An answer before it is put into bytes. Content-Length is added by `head_of`."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    code: str = ""  # error code of the API inside, for the record only


def head_of(response: Response, is_last: bool, now: float, length: int | None = None) -> bytes:
    """Status line and headers; `length` overrides the true Content-Length, -1 leaves it out."""
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append(f"Date: {email.utils.formatdate(now, usegmt=True)}")
    if length != -1 and response.status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(response.body) if length is None else length}")
    if is_last:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Reader:
    """Buffered reading from a socket. End of stream is b"" or EOFError, as said."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def has_more(self) -> bool:
        """Wait for the first byte of the next request; False at the end of the stream."""
        if not self._buffer:
            self._buffer = self._connection.recv(65_536)
        return bool(self._buffer)

    def read_line(self) -> bytes:
        """One line without its end; raises EOFError or BadRequest."""
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= LINE_MAX_BYTES:
            self._fill()
        if not 0 <= end <= LINE_MAX_BYTES:
            raise BadRequest("line too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def read_exactly(self, count: int) -> bytes:
        """`count` bytes; raises EOFError if the stream ends before."""
        parts = [self._buffer[:count]]
        self._buffer = self._buffer[count:]
        missing = count - len(parts[0])
        while missing:
            part = self._connection.recv(min(missing, 65_536))
            if not part:
                raise EOFError
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _fill(self) -> None:
        part = self._connection.recv(65_536)
        if not part:
            raise EOFError
        self._buffer += part


def read_head(reader: Reader) -> Request:
    """Request line and headers; raises EOFError or BadRequest."""
    raw_line = reader.read_line().decode("latin-1")
    words = raw_line.split(" ")
    if len(words) != 3 or words[2] not in {"HTTP/1.1", "HTTP/1.0"}:
        raise BadRequest("no request line")
    return Request(raw_line, words[0], words[1], words[2], _read_headers(reader))


def read_body(reader: Reader, request: Request) -> bytes:
    """The body that the headers announce; raises EOFError or BadRequest."""
    if (request.header("Transfer-Encoding") or "").lower() == "chunked":
        return _read_chunks(reader)
    length = request.header("Content-Length") or "0"
    if not (length.isascii() and length.isdigit()) or int(length) > BODY_MAX_BYTES:
        raise BadRequest("bad content length")
    return reader.read_exactly(int(length))


def _read_headers(reader: Reader) -> Headers:
    headers: Headers = []
    while line := reader.read_line().decode("latin-1"):
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or len(headers) == HEADER_MAX_COUNT:
            raise BadRequest("bad header")
        headers.append((name, value.strip()))
    return headers


def _read_chunks(reader: Reader) -> bytes:
    body = b""
    while True:
        try:
            size = int(reader.read_line().partition(b";")[0], 16)
        except ValueError:
            raise BadRequest("bad chunk") from None
        if size < 0 or len(body) + size > BODY_MAX_BYTES:
            raise BadRequest("body too long")
        if size == 0:
            _read_headers(reader)
            return body
        body += reader.read_exactly(size)
        reader.read_line()
