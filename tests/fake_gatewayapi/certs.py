# SPDX-License-Identifier: MIT
"""Certificates for the TLS faults, made anew each time with the standard library alone.

Hand-written ECDSA on P-256 (FIPS 186-4, SEC 1) and just enough DER (X.690) for X.509 (RFC 5280).
Good for tests on loopback and for nothing else: the arithmetic is not constant-time.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# trusted: signed by the authority in ca_file, for 127.0.0.1 and localhost. The others break one
# thing each: signed by itself, for another name, past its end.
TlsKind = Literal["trusted", "self-signed", "wrong-name", "expired"]

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_A = -3
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: server certificate, its key, and the authority a client should trust."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def remove(self) -> None:
        """Delete the folder that holds them."""
        shutil.rmtree(self.cert_file.parent, ignore_errors=True)


@dataclass(frozen=True)
class _Party:
    name: str
    key: int
    public: tuple[int, int]


def make_tls(kind: TlsKind) -> TlsFiles:
    """New files in a new temporary folder."""
    authority = _party("fake GatewayAPI authority")
    server = _party("fake GatewayAPI")
    names = ["sms.example.net"] if kind == "wrong-name" else ["localhost"]
    addresses = [] if kind == "wrong-name" else [bytes((127, 0, 0, 1))]
    issuer = server if kind == "self-signed" else authority
    ends_in_days = -1 if kind == "expired" else 30
    certificate = _certificate(server, issuer, ends_in_days, False, _alternative_names(names, addresses))
    folder = Path(tempfile.mkdtemp(prefix="fake-gatewayapi-"))
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    files.cert_file.write_text(_pem("CERTIFICATE", certificate))
    files.key_file.touch(0o600)
    files.key_file.write_text(_pem("EC PRIVATE KEY", _private_key(server)))
    files.ca_file.write_text(_pem("CERTIFICATE", _certificate(authority, authority, 30, True, b"")))
    return files


# --- P-256 -----------------------------------------------------------------------------------


def _add(left: _Point, right: _Point) -> _Point:
    if left is None or right is None:
        return left or right
    if left[0] == right[0] and (left[1] + right[1]) % _P == 0:
        return None
    if left == right:
        slope = (3 * left[0] ** 2 + _A) * pow(2 * left[1], -1, _P)
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, _P)
    x = (slope**2 - left[0] - right[0]) % _P
    return x, (slope * (left[0] - x) - left[1]) % _P


def _times(scalar: int, point: _Point) -> tuple[int, int]:
    result: _Point = None
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    if result is None:
        raise ArithmeticError("the point at infinity")
    return result


def _sign(data: bytes, key: int) -> bytes:
    """DER of an ECDSA signature over SHA-256 of data."""
    digest = int.from_bytes(hashlib.sha256(data).digest())
    nonce = 1 + secrets.randbelow(_N - 1)
    r = _times(nonce, _G)[0] % _N
    s = pow(nonce, -1, _N) * (digest + r * key) % _N
    return _sequence(_integer(r), _integer(s))


def _party(name: str) -> _Party:
    key = 1 + secrets.randbelow(_N - 1)
    return _Party(name, key, _times(key, _G))


# --- DER -------------------------------------------------------------------------------------


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def _sequence(*items: bytes) -> bytes:
    return _tlv(0x30, b"".join(items))


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(number) for number in dotted.split("."))
    content = bytes((40 * first + second,))
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return _tlv(0x06, content)


def _bits(content: bytes, unused: int = 0) -> bytes:
    return _tlv(0x03, bytes((unused,)) + content)


def _time(moment: datetime.datetime) -> bytes:
    return _tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


_ECDSA_SHA256 = _sequence(_oid("1.2.840.10045.4.3.2"))
_P256 = _oid("1.2.840.10045.3.1.7")


# --- X.509 -----------------------------------------------------------------------------------


def _certificate(subject: _Party, issuer: _Party, ends_in_days: int, is_authority: bool, names: bytes) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    to_be_signed = _sequence(
        _tlv(0xA0, _integer(2)),  # version 3
        _integer(secrets.randbits(127) | 1 << 126),
        _ECDSA_SHA256,
        _name(issuer),
        _sequence(_time(now - datetime.timedelta(days=2)), _time(now + datetime.timedelta(days=ends_in_days))),
        _name(subject),
        _public_key(subject),
        _tlv(0xA3, _sequence(*_extensions(subject, issuer, is_authority), names)),
    )
    return _sequence(to_be_signed, _ECDSA_SHA256, _bits(_sign(to_be_signed, issuer.key)))


def _name(party: _Party) -> bytes:
    common_name = _sequence(_oid("2.5.4.3"), _tlv(0x0C, party.name.encode()))
    return _sequence(_tlv(0x31, common_name))


def _point(party: _Party) -> bytes:
    return b"\x04" + b"".join(number.to_bytes(32) for number in party.public)


def _public_key(party: _Party) -> bytes:
    return _sequence(_sequence(_oid("1.2.840.10045.2.1"), _P256), _bits(_point(party)))


def _private_key(party: _Party) -> bytes:
    """ECPrivateKey of RFC 5915."""
    return _sequence(
        _integer(1), _tlv(0x04, party.key.to_bytes(32)), _tlv(0xA0, _P256), _tlv(0xA1, _bits(_point(party)))
    )


def _extension(oid: str, value: bytes, is_critical: bool = False) -> bytes:
    critical = b"\x01\x01\xff" if is_critical else b""
    return _sequence(_oid(oid), critical, _tlv(0x04, value))


def _extensions(subject: _Party, issuer: _Party, is_authority: bool) -> list[bytes]:
    """What OpenSSL's strict checks ask for: both key ids, basic constraints, key usage."""
    subject_id, issuer_id = (hashlib.sha1(_point(party)).digest() for party in (subject, issuer))
    constraints = _sequence(b"\x01\x01\xff") if is_authority else _sequence()
    usage = _bits(b"\x06", 1) if is_authority else _bits(b"\x80", 7)  # keyCertSign+cRLSign, digitalSignature
    return [
        _extension("2.5.29.19", constraints, True),
        _extension("2.5.29.15", usage, True),
        _extension("2.5.29.14", _tlv(0x04, subject_id)),
        _extension("2.5.29.35", _sequence(_tlv(0x80, issuer_id))),
    ]


def _alternative_names(names: Sequence[str], addresses: Sequence[bytes]) -> bytes:
    entries = [_tlv(0x82, name.encode()) for name in names] + [_tlv(0x87, address) for address in addresses]
    return _extension("2.5.29.17", _sequence(*entries))


def _pem(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
