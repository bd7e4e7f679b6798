# SPDX-License-Identifier: MIT
"""What PAM says of a login -> one frozen `Session`.

PAM_USER is what somebody typed, so it stays untrusted until NSS has answered. SSH_CONNECTION and
SSH_AUTH_INFO_0 are believed only where sshd itself wrote them: in a configured ssh service whose PAM_TTY is
"ssh". Everything doubtful about them means "not known" and so exempts nobody.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ProtocolError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SESSION_ID_LENGTH = 32  # hex digits, 128 bits: enough that no two sessions ever share one

_SERVICE = re.compile(r"[!-.0-~]{1,256}")  # printable ASCII without blank and slash: it is a file name in /etc/pam.d
_PID = re.compile(r"[1-9][0-9]{0,9}")
_START = re.compile(r"0|[1-9][0-9]{0,19}")  # clock ticks since boot, 64 bits (proc(5), stat field 22)
_PORT = re.compile(r"[0-9]{1,5}")

# Key types whose blob is the key and nothing else. A certificate's blob holds a nonce and a life time: its
# fingerprint would not be the key's.
PLAIN_KEY_TYPES = frozenset(
    {
        "ssh-rsa",
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


LOGIN_TEST_TTY = "textgate-login-test"  # the PAM_TTY of `textgate login-test`; no terminal has such a name


@dataclass(frozen=True)
class Session:
    """One login, from its first PAM call to its end.

    user: as typed, checked by nobody; lists and keys go by the account's name. source: sshd's peer, None
    elsewhere. key_fingerprint: "SHA256:…" of the key that sshd accepted, None without exactly one plain key.
    session_id: 32 hex digits, the same in every request of one login and in no other login, of any boot.
    """

    user: str = field(repr=False)
    service: str
    tty: str = field(repr=False)
    source: Address | None
    key_fingerprint: str | None
    session_id: str


def build_session(fields: Mapping[str, str], ssh_services: tuple[str, ...], boot_id: str = "") -> Session:
    """Read the fields of a request (PAM_USER, PAM_SERVICE, PAM_TTY, PPID, PPID_START, SSH_…).

    ssh_services: the services whose SSH_ fields are sshd's own word. boot_id: of the machine since it was last
    started; pids and start times come again after the next start, and on other machines.
    Raises ProtocolError with a fixed reason if a field that must be there is missing or malformed.
    """
    user = fields.get("PAM_USER", "")
    if not user:
        raise ProtocolError("no_user")
    service = _field(fields, "PAM_SERVICE", _SERVICE)
    parent = (_field(fields, "PPID", _PID), _field(fields, "PPID_START", _START))
    tty = fields.get("PAM_TTY", "")
    connection, auth_info = "", ""
    if service in ssh_services and tty == "ssh":
        connection, auth_info = fields.get("SSH_CONNECTION", ""), fields.get("SSH_AUTH_INFO_0", "")
    source = source_address(connection)
    # The process is the login's own. Addresses and ports add nothing to that where all is well, but they are sshd's
    # word and not the helper's. A program that authenticates for several people in one process shows them apart by
    # PAM_RHOST and PAM_RUSER, if at all.
    peer = (tty, fields.get("PAM_RHOST", ""), fields.get("PAM_RUSER", "")) if source is None else (connection,)
    parts = ("local" if source is None else "ssh", boot_id, service, *peer, *parent)
    return Session(
        user=user,
        service=service,
        tty=tty,
        source=source,
        key_fingerprint=key_fingerprint(auth_info),
        session_id=session_id(parts),
    )


def session_id(parts: tuple[str, ...]) -> str:
    """32 hex digits of a SHA-256 over the parts, each led by its length, so that no two lists run together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%s" % (len(data), data))
    return digest.hexdigest()[:SESSION_ID_LENGTH]


def source_address(connection: str) -> Address | None:
    """The peer of an SSH_CONNECTION ("ADDRESS PORT ADDRESS PORT"), or None if it isn't exactly that.

    A scope ("%eth0") is dropped and IPv4 in IPv6 (::ffff:192.0.2.1) becomes IPv4, so that networks match.
    """
    words = connection.split(" ")
    if len(words) != 4 or not (_PORT.fullmatch(words[1]) and _PORT.fullmatch(words[3])):
        return None
    peer, own = source_of(words[0]), source_of(words[2])
    return peer if own is not None else None


def source_of(address: str) -> Address | None:
    """An address as `source_address` gives it, or None if it isn't one."""
    try:
        peer = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(peer, "ipv4_mapped", None) or peer


def key_fingerprint(auth_info: str) -> str | None:
    """The fingerprint, as `ssh-keygen -l` prints it, of the one plain public key in an SSH_AUTH_INFO_0.

    auth_info: a line per method that succeeded, such as "publickey ssh-ed25519 AAAA…" (sshd_config(5),
    ExposeAuthInfo). None if there are several keys (which of them would count?), a certificate, or junk.
    """
    keys = [line for line in auth_info.split("\n") if line.split(" ")[0] == "publickey"]
    if len(keys) != 1:
        return None
    words = keys[0].split(" ")
    if len(words) != 3 or words[1] not in PLAIN_KEY_TYPES:
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except ValueError:
        return None
    name = words[1].encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name):  # RFC 4253 §6.6: a blob opens with its type
        return None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def _field(fields: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    """A field that must be there and match as a whole; the reason names the field, never its value."""
    value = fields.get(name, "")
    word = name.removeprefix("PAM_").lower()
    if not value:
        raise ProtocolError(f"no_{word}")
    if not pattern.fullmatch(value):
        raise ProtocolError(f"bad_{word}")
    return value
