# SPDX-License-Identifier: MIT
"""Nobody learns from textgate who exists, who has a phone or who is refused; and a hostile name does nothing at all.

The words of whole logins by ssh are compared in test_refusals.py, those of every end of a text in
tests/contract/test_verifier.py; here it is every byte of the socket under faults, what happens before the first
factor, and names that nobody should have. How long the answers take is measured by `make bench` (part "silence").
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI
from hostile import CANARY, NAMES
from rig.daemon import AUTH_SOCKET, Daemon, write_phones
from rig.logins import SENT
from rig.pam import BLOCK, PAM_DIRECTORY, FirstFactor
from rig.people import ALICE, CAROL, DAVE, Person
from rig.process import run_as
from rig.prompts import ONE_ROUND, PROVE
from rig.redis_server import RedisServer
from rig.terminal import Terminal
from textgate import texts

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

NOBODY, ABROAD = "nobody-of-this-name", "bob"
CANNOT_PASS = ("carol", NOBODY, "dave", ABROAD, "root")  # no phone, unknown, refused, another country, refused group


# --- Every byte of the socket. ---


def ask(verb: str, user: str | bytes, code: str | None = None, *, session: int = 1) -> bytes:
    """What the daemon answers the helper."""
    name = user if isinstance(user, bytes) else user.encode("utf-8", "surrogatepass")
    fields = {b"PAM_USER": name, b"PAM_SERVICE": b"sudo", b"PAM_TYPE": b"auth", b"PPID": b"1",
              b"PPID_START": b"%d" % session}  # fmt: skip
    if code is not None:
        fields[b"CODE"] = code.encode()
    return ask_raw(verb, fields)


def ask_raw(verb: str, fields: Mapping[bytes, bytes]) -> bytes:
    """The same, whatever the fields are."""
    request = b"\0".join([b"textgate/1 " + verb.encode(), *(b"%b=%b" % field for field in fields.items())])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(30)
        peer.connect(str(AUTH_SOCKET))
        peer.sendall(request)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := peer.recv(4096):
            answer += chunk
    return answer


def heard_by(user: str) -> list[bytes]:
    """Everything that one user is answered, up to a lockout and past it."""
    heard = [ask("check", user, "000000"), ask("begin", user), ask("begin", user), ask("check", user, "")]
    for session in (1, 2):
        heard.append(ask("begin", user, session=session))
        heard += [ask("check", user, typed, session=session) for typed in ("000000", "abcd-efgh-jkmn", "x" * 400)]
    return [*heard, ask("begin", user, session=3), ask("check", user, "000000", session=3)]


@pytest.fixture
def sorts_of_people(configure: Configure) -> None:
    """One of each sort who can't pass, and alice, who can."""
    write_phones(numbers={"bob": "+49 1512 3456789", "root": "+45 12 34 56 90"})
    configure({"refused": {"users": ["dave"], "groups": ["root"]}})


@pytest.mark.parametrize(
    "fault",
    [None, ("credit", {}), ("500", {}), ("reset", {}), ("error", {"code": "0x0213"})],
    ids=lambda fault: fault[0] if fault else "no fault",
)
@pytest.mark.usefixtures("sorts_of_people")
def test_every_byte_is_the_same_for_who_can_pass_and_who_cannot(
    gateway: FakeGatewayAPI, daemon: Daemon, fault: tuple[str, dict[str, Any]] | None
) -> None:
    if fault is not None:
        gateway.inject(fault[0], count=None, **fault[1])
    wanted = heard_by("alice")
    gateway.clear_faults()
    request_count = len(gateway.requests)
    assert request_count > 0
    for user in CANNOT_PASS:
        assert heard_by(user) == wanted, user
    assert len(gateway.requests) == request_count
    assert "unknown_user" in {event["reason"] for event in daemon.find_events("begin", user="(unknown)")}


@pytest.mark.usefixtures("sorts_of_people")
def test_what_is_compared_has_a_text_wrong_codes_and_a_lockout(daemon: Daemon) -> None:
    heard = b"\n".join(heard_by("alice")).decode()
    for words in (
        texts.NONE_WAITING,
        texts.SENT,
        texts.STILL_GOOD,
        texts.SENT_ANEW,
        texts.WRONG,
        "Too many wrong codes in a row",
    ):
        assert words in heard


def test_store_that_is_away_is_told_to_everybody_alike(
    redis_server: RedisServer, sorts_of_people: None, gateway: FakeGatewayAPI
) -> None:
    redis_server.stop()
    wanted = heard_by("alice")
    assert f"deny\n{texts.STORE_AWAY}".encode() in wanted
    assert all(heard_by(user) == wanted for user in CANNOT_PASS)
    assert gateway.requests == []


# --- Before the first factor. ---


@pytest.mark.parametrize("first_factor", [FirstFactor.KEY, FirstFactor.PASSWORD, FirstFactor.ANY])
def test_nothing_is_asked_of_textgate_before_the_first_factor(
    start_sshd: StartSshd,
    daemon: Daemon,
    gateway: FakeGatewayAPI,
    redis_server: RedisServer,
    first_factor: FirstFactor,
) -> None:
    """So neither its words nor its time can tell anything there; and nobody's phone rings."""
    sshd = start_sshd(first_factor)
    screens = set()
    for person in (ALICE, CAROL, DAVE, Person(NOBODY, (), None)):
        with sshd.login(person, PROVE, has_key=False, options=ONE_ROUND) as terminal:
            if first_factor is not FirstFactor.KEY:
                terminal.answer("Password: ", "wrong")
            assert terminal.expect_end() == 255
            screens.add(terminal.shown.replace(f"{person.name}@", "USER@"))
    assert len(screens) == 1
    assert "Code: " not in screens.pop()
    assert [event for event in daemon.events if event.kind != "service"] == []  # its "ready" may come late
    assert gateway.requests == []
    assert set(redis_server.client.keys()) <= {"textgate:store"}  # the daemon looks at its record by itself


# --- Names that nobody should have, at real programs. ---


@pytest.fixture
def canary() -> Iterator[Callable[[], list[str]]]:
    """Answers the files that a name has made: none, in /tmp, in / and where programs of ours work."""
    places = [Path(CANARY).parent, Path("/"), Path("/run/textgate"), Path("/etc/textgate"), Path("/etc/pam.d")]

    def listed() -> set[str]:
        return {str(path) for place in places for path in place.iterdir()}

    (PAM_DIRECTORY / "door").write_text(f"{BLOCK}\naccount required pam_permit.so\n")
    before = listed()
    yield lambda: sorted(listed() - before)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_hostile_name_is_one_unknown_user_among_others(
    daemon: Daemon, gateway: FakeGatewayAPI, redis_server: RedisServer, canary: Callable[[], list[str]], name: str
) -> None:
    untold = {b"deny\n" + texts.INTERNAL.encode()}  # no request at all, so nobody's
    answers = [ask("begin", name), ask("check", name, "000000"), ask("check", name, "")]
    sound = [b"ask\n" + texts.SENT.encode(), b"deny\n" + texts.WRONG.encode(), b"deny\n" + texts.SENT_ANEW.encode()]
    is_text = bool(name) and "\0" not in name and name != NAMES["surrogate"]
    assert answers == sound if is_text else set(answers) == untold
    assert gateway.requests == []
    assert canary() == []
    daemon.process.catch_up()
    log = "\n".join(daemon.process.lines)
    assert log.replace("\n", "").isprintable() and log.isascii()
    assert len(name) < 3 or name in ("..", "alice bob") or name not in log
    kinds = {event.kind for event in daemon.events}
    assert kinds <= ({"begin", "check"} if is_text else {"protocol"})
    assert {event["user"] for event in daemon.events} <= {"(unknown)", ""}
    for key in redis_server.client.scan_iter():
        assert key.isascii() and key.isprintable() and "alice" not in key and "root" not in key


@pytest.mark.parametrize(
    "name", [name for name in NAMES.values() if name and "\0" not in name and name != NAMES["surrogate"]], ids=ascii
)
def test_hostile_name_at_a_real_pam_stack_is_told_what_everybody_is(
    daemon: Daemon, gateway: FakeGatewayAPI, canary: Callable[[], list[str]], name: str
) -> None:
    with Terminal(["pamtester", "--", "door", name, "authenticate"]) as terminal:
        told = terminal.expect("Code: ")
        assert told.strip() == SENT
        terminal.enter("000000")
        assert terminal.expect("Code: ").strip() == "That code is not right."
        terminal.press("\x04")
        assert terminal.expect_end() != 0
        assert "\x1b" not in terminal.shown and "\x9b" not in terminal.shown
    assert canary() == []
    assert gateway.requests == []


# Names that a directory server might have, in spite of all advice: who bears one logs in like everybody.
ODD_BUT_REAL = ["..", "r-f", "%s%n", "a'b\"c", "$(id)", "ünïcode", "new*", "x{alice}", "a;b", "~root", "\\e[2J"]


@pytest.fixture(params=ODD_BUT_REAL)
def odd_person(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Person]:
    """Somebody of such a name, with a phone."""
    passwd = Path("/etc/passwd")
    before = passwd.read_text()
    person = Person(request.param, (), "+45 12 34 56 99")
    passwd.write_text(f"{before}{person.name}:x:31234:100::/:/usr/sbin/nologin\n")
    write_phones(numbers={person.name: str(person.phone)})
    yield person
    passwd.write_text(before)
    write_phones()


def test_odd_name_of_a_real_user_logs_in_and_is_written_escaped(
    odd_person: Person, daemon: Daemon, gateway: FakeGatewayAPI, redis_server: RedisServer
) -> None:
    name = odd_person.name
    assert ask("begin", name) == f"ask\n{texts.SENT}".encode()
    assert ask("check", name, gateway.last_code(odd_person.msisdn)) == b"pass\n"
    passed = daemon.wait_event("check", result="pass")
    assert passed["user"] == name.replace("\\", "\\\\").replace('"', '\\"')
    assert passed["phone"] == "•• 99"
    keys = list(redis_server.client.scan_iter("textgate:{*}:*"))
    own = [key for key in keys if "budget" not in key]
    assert own
    assert len({key[: key.index("}")] for key in own}) == 1
    assert all(key.isascii() and key.count("{") == key.count("}") == 1 for key in own)


def test_users_of_the_machine_learn_nothing_from_the_sockets(daemon: Daemon, gateway: FakeGatewayAPI) -> None:
    """Whoever is logged in can ask NSS who exists, but not textgate who has a phone or who is locked out."""
    for path in ("/run/textgate/auth.sock", "/run/textgate/admin.sock", "/etc/textgate/phones",
                 "/run/textgate-redis/redis.sock"):  # fmt: skip
        program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r})"
        if path.endswith("phones"):
            program = f"open({path!r})"
        done = subprocess.run(
            [*run_as("alice"), "/usr/bin/python3", "-I", "-c", program], capture_output=True, text=True, check=False
        )
        assert "PermissionError" in done.stderr, path
    assert daemon.events == []
