# SPDX-License-Identifier: MIT
"""`textgate setup`: answers from files, options and a person; nothing is asked twice, no secret left open."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fake_systemd_creds import FakeSystemdCreds
from manual import json_keys
from textgate import admin_client, cli_pam, cli_setup, service
from textgate.cli import main
from textgate.cli_setup import ANSWERS, read_answers
from textgate.config import parse_config
from textgate.credstore import PLAIN_FOLDER, Credstore
from textgate.errors import ConfigError, CredentialError, DaemonUnavailable, RefusedError

NUMBER = "+45 20 12 34 56"
UP: dict[str, Any] = {
    "store": {"is_up": True},
    "gateway": {"is_up": True, "reason": "accepted", "credit": "25.00", "currency": "DKK", "clock_skew_s": 0},
}
WRONG_KEYS: dict[str, Any] = {
    "store": {"is_up": True},
    "gateway": {"is_up": False, "reason": "credentials", "credit": None, "currency": None, "clock_skew_s": None},
}


class Desk:
    """A fresh installation in a folder, a daemon that answers, and a person who types, if there is one."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._monkeypatch = root, monkeypatch
        self.config = root / "textgate.toml"
        folder = f"{root}{PLAIN_FOLDER}"
        keys = "".join(f'{name}_file = "{folder}/gatewayapi-{name}"\n' for name in ("key", "secret", "token"))
        self.config.write_text(
            f'[limits]\nallowed_countries = ["DK"]\n[gateway]\n{keys}[phones]\nfile = "{root}/phones"\n'
            f'[vault]\nkey_file = "{folder}/vault-key"\n'
        )
        self.statuses: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.guarded: list[tuple[str, str | None, int | None]] = []
        self.together: list[tuple[str, ...]] = []
        self.typed: list[str] = []
        self.prompts: list[str] = []
        monkeypatch.setattr("os.geteuid", lambda: 0)
        self.creds = FakeSystemdCreds()
        self.credstore = Credstore(str(root), run=lambda _: (0, ""), pipe=self.creds.pipe)
        monkeypatch.setattr(service, "run_program", lambda words: (0, ""))
        monkeypatch.setattr(service, "has_systemd", lambda: False)
        monkeypatch.setattr(cli_setup, "Credstore", lambda: self.credstore)
        monkeypatch.setattr(admin_client, "call", self.call)
        monkeypatch.setattr(cli_pam, "guard_service", self.guard)

    def call(self, _path: str, verb: str, *_more: object, **arguments: object) -> dict[str, Any]:
        self.asked.append((verb, arguments))
        if verb == "status":
            return self.statuses.pop(0) if self.statuses else UP
        if verb == "prove-begin":
            return {"session_id": "s", "user": arguments["user"], "text": "A code was texted.", "phone": "•• 56"}
        if verb == "prove-check":
            return {"is_proved": arguments["code"] == "123456", "text": "That code is not right."}
        if verb == "recovery":
            return {"user": arguments["user"], "codes": ["aaaa-bbbb", "cccc-dddd"]}
        assert verb == "send-test"
        return {}

    def guard(
        self, _context: object, service: str, factor: str | None, *, wait_s: int | None, together_with: Sequence[str]
    ) -> dict[str, Any]:
        self.guarded.append((service, factor, wait_s))
        self.together.append(tuple(together_with))
        return {"service": service, "is_changed": True}

    def answers(self, text: str, *, mode: int = 0o600) -> str:
        path = self.root / "answers.toml"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def run(self, *words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), "setup", *words], input=stdin)

    def unattended(self, text: str, *words: str, code: str = "123456") -> Result:
        return self.run("--answers", self.answers(text), "--code-stdin", *words, stdin=f"{code}\n")

    def with_person(self, *typed: str) -> Result:
        """Everything is typed, hidden or not, in this order."""
        self.typed = list(typed)

        def hidden(prompt: str) -> str:
            self.prompts.append(prompt)
            return self.typed.pop(0)

        def shown(wizard: cli_setup.Wizard, prompt: str, *, is_hidden: bool) -> str:
            self.prompts.append(prompt)
            if not self.typed:
                raise RefusedError("setup was broken off")
            return self.typed.pop(0)

        with self._monkeypatch.context() as patch:
            patch.setattr(cli_setup.Wizard, "_read", shown)
            patch.setattr("getpass.getpass", hidden)
            patch.setattr("click.confirm", lambda question, **_: self.typed.pop(0) == "y")
            patch.setattr(cli_setup, "_can_ask", lambda code_stdin: True)
            return self.run()

    def with_systemd(self) -> None:
        """A machine that can encrypt."""
        (self.root / "run/systemd/system").mkdir(parents=True)

    def plain(self, name: str) -> Path:
        return Path(f"{self.root}{PLAIN_FOLDER}", name)

    def key(self, name: str) -> str:
        path = self.plain(name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return path.read_text()

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


FULL = f"""\
gateway_key = "the-key"
gateway_secret = "the-secret"
gateway_url = "https://gatewayapi.eu"
sender = "gate"
default_region = "SE"
user = "alice"
number = "{NUMBER}"
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield Desk(tmp_path, monkeypatch)


# --- Unattended ---


def test_answers_make_a_configuration_keys_and_a_user(desk: Desk) -> None:
    done = desk.unattended(FULL + 'services = ["sshd", "sudo"]\nfirst_factor = "any"\nconfirm_within = "2m"\n')
    assert done.exit_code == 0, done.output
    config = parse_config(desk.config.read_text(), config_path="x")
    assert (config.gateway.url, config.gateway.sender) == ("https://gatewayapi.eu", "gate")
    assert config.phones.default_region == "SE"
    assert config.limits.allowed_countries == ("SE",)
    assert (desk.key("gatewayapi-key"), desk.key("gatewayapi-secret")) == ("the-key\n", "the-secret\n")
    assert desk.key("vault-key").startswith("k1:")
    assert stat.S_IMODE(desk.plain("").stat().st_mode) == 0o700
    assert (desk.root / "phones").read_text() == "alice: +4520123456\n"
    assert desk.guarded == [("sshd", "any", 120), ("sudo", "password", 120)]
    assert "aaaa-bbbb" in done.output
    for secret in ("the-key", "the-secret", "20123456", "123456\n"):
        assert secret not in done.output


def test_json_is_what_the_manual_says(desk: Desk) -> None:
    done = desk.unattended(FULL + 'services = ["sudo"]\n', "--json")
    assert set(json.loads(done.output)) == set(json_keys("setup"))
    assert set(json_keys("setup")) - set(json.loads(desk.unattended(FULL, "--no-pam", "--json").output)) == {
        "recovery_codes", "services",
    }  # fmt: skip


def test_second_run_asks_texts_and_makes_nothing(desk: Desk) -> None:
    desk.unattended(FULL)
    vault, config = desk.key("vault-key"), desk.config.read_text()
    desk.asked.clear()
    done = desk.unattended(FULL, "--json")
    assert done.exit_code == 0
    assert desk.verbs == ["status"]
    assert (desk.key("vault-key"), desk.config.read_text()) == (vault, config)
    assert '"changed_options": []' in done.output


def test_another_number_is_proved_anew(desk: Desk) -> None:
    desk.unattended(FULL)
    done = desk.unattended(FULL.replace("12 34 56", "12 34 57"))
    assert done.exit_code == 0
    assert desk.verbs.count("prove-begin") == 2
    assert (desk.root / "phones").read_text() == "alice: +4520123457\n"


@pytest.mark.parametrize("code", ["000000", ""])
def test_nobody_is_enrolled_without_the_right_code(desk: Desk, code: str) -> None:
    done = desk.unattended(FULL, code=code)
    assert done.exit_code == 5
    assert not (desk.root / "phones").exists()
    assert desk.guarded == []
    assert "recovery" not in desk.verbs


@pytest.mark.parametrize("missing", ["gateway_key", "gateway_secret", "number"])
def test_what_cannot_be_asked_must_be_told(desk: Desk, missing: str) -> None:
    text = "".join(line + "\n" for line in FULL.splitlines() if not line.startswith(missing))
    done = desk.unattended(text)
    assert done.exit_code == 5
    assert f"setup needs {missing}" in done.output


def test_token_stands_for_key_and_secret(desk: Desk) -> None:
    text = FULL.replace('gateway_key = "the-key"\ngateway_secret = "the-secret"\n', 'gateway_token = "the-token"\n')
    assert desk.unattended(text).exit_code == 0
    assert desk.key("gatewayapi-token") == "the-token\n"
    assert parse_config(desk.config.read_text(), config_path="x").gateway.auth == "token"
    assert not desk.plain("gatewayapi-key").exists()
    assert desk.unattended(FULL).exit_code == 0  # and back
    assert parse_config(desk.config.read_text(), config_path="x").gateway.auth == "oauth1"


# --- Encrypted credentials ---

WITHOUT_KEYS = "".join(
    line + "\n" for line in FULL.splitlines() if not line.startswith(("gateway_key", "gateway_secret"))
)
KEPT = ("gatewayapi-key", "gatewayapi-secret", "vault-key")


def test_credentials_are_encrypted_where_the_host_can(desk: Desk) -> None:
    desk.with_systemd()
    desk.plain("").mkdir(parents=True)
    desk.plain("vault-key").write_text("k1:" + "5a" * 32 + "\n")  # as the package makes it
    desk.plain("vault-key").chmod(0o600)
    done = desk.unattended(FULL, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["encrypted_credentials"] == list(KEPT)
    assert list(desk.plain("").iterdir()) == []
    assert [desk.credstore.read(name).reveal() for name in KEPT] == ["the-key", "the-secret", "k1:" + "5a" * 32]
    again = desk.unattended(WITHOUT_KEYS)  # asks for none of them
    assert again.exit_code == 0, again.output
    assert list(desk.plain("").iterdir()) == []


def test_credentials_stay_plain_where_the_host_cannot_encrypt(desk: Desk) -> None:
    done = desk.unattended(FULL)
    assert "this host can't encrypt them: systemd does not run here" in done.output
    assert desk.key("gatewayapi-secret") == "the-secret\n"
    assert not any(desk.credstore.has(name) for name in KEPT)


def test_credentials_stay_plain_where_that_is_wanted(desk: Desk) -> None:
    desk.with_systemd()
    assert desk.unattended(FULL, "--no-encrypt-credentials").exit_code == 0
    assert desk.key("gatewayapi-secret") == "the-secret\n"
    assert not any(desk.credstore.has(name) for name in KEPT)


def test_credentials_are_plain_again_if_the_daemon_does_not_start_with_encrypted_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.with_systemd()

    def start(status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if desk.credstore.has("vault-key"):
            raise DaemonUnavailable("textgated does not answer")
        return status()

    monkeypatch.setattr(service, "start", start)
    done = desk.unattended(FULL)
    assert done.exit_code == 0, done.output
    assert "encrypted ones don't work here: textgated does not answer" in done.output
    assert desk.key("gatewayapi-secret") == "the-secret\n"
    assert not any(desk.credstore.has(name) for name in KEPT)


def test_start_that_fails_for_another_reason_leaves_what_was_encrypted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.with_systemd()
    assert desk.unattended(FULL).exit_code == 0

    def start(_status: object) -> dict[str, Any]:
        raise DaemonUnavailable("textgated does not answer")

    monkeypatch.setattr(service, "start", start)
    assert desk.unattended(FULL).exit_code == 4
    assert all(desk.credstore.has(name) for name in KEPT)


def test_credentials_of_a_cloned_machine_are_asked_for_and_its_vault_key_is_not_made_anew(desk: Desk) -> None:
    desk.with_systemd()
    assert desk.unattended(FULL).exit_code == 0
    desk.creds.machine = "a clone"
    former = desk.credstore.path("vault-key").read_bytes()
    refused = desk.unattended(FULL)
    assert refused.exit_code == 3
    assert "does not open on this machine" in refused.output
    assert "Put your copy of the key into" in refused.output
    assert desk.credstore.path("vault-key").read_bytes() == former
    desk.credstore.path("vault-key").unlink()
    refused = desk.unattended(WITHOUT_KEYS)
    assert refused.exit_code == 5
    assert "setup needs gateway_key" in refused.output
    assert desk.unattended(FULL).exit_code == 0
    assert [desk.credstore.read(name).reveal() for name in KEPT[:2]] == ["the-key", "the-secret"]


def test_options_stand_for_answers_and_go_before_them(desk: Desk) -> None:
    secret = desk.root / "number"
    secret.write_text("+4520999999\n")
    secret.chmod(0o600)
    done = desk.unattended(
        FULL, "--sender", "other", "--number-file", str(secret), "--allowed-countries", "DK,NO",
        "--services", "su,login", "--no-recovery-codes", "--send-test",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = parse_config(desk.config.read_text(), config_path="x")
    assert config.gateway.sender == "other"
    assert config.limits.allowed_countries == ("DK", "NO")
    assert (desk.root / "phones").read_text() == "alice: +4520999999\n"
    assert [service for service, _, _ in desk.guarded] == ["su", "login"]
    assert "recovery" not in desk.verbs
    assert "send-test" in desk.verbs


def test_every_answer_has_its_option_and_no_secret_is_one(desk: Desk) -> None:
    text = desk.run("--help").output
    for name, answer in ANSWERS.items():
        option = "--" + name.replace("_", "-")
        assert f"{option}-file FILE" in text if answer.is_secret else option in text
    assert "the the" not in " ".join(text.split())
    for secret in ("--gateway-key ", "--gateway-secret ", "--gateway-token ", "--number "):
        assert secret not in text


def test_no_pam_stops_before_any_service(desk: Desk) -> None:
    assert desk.unattended(FULL + 'services = ["sudo"]\n', "--no-pam").exit_code == 0
    assert desk.guarded == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sender = 3\n", "sender: must be a text"),
        ('services = "sshd"\n', "services: must be a list of texts"),
        ("services = [1]\n", "services: must be a list of texts"),
        ('send_test = "yes"\n', "send_test: must be true or false"),
        ('sendr = "x"\n', "sendr: no such answer"),
        ("[", "is not valid TOML"),
    ],
)
def test_answers_at_fault_are_named(desk: Desk, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_answers(desk.answers(text))


PAM_FAULTS = [
    ("services", ["sudo", "sudoo"], "/etc/pam.d/sudoo: can't be read"),
    ("services", ["cron"], "it authenticates nobody"),
    ("first_factor", "keys", "the first factor is key, password or any"),
    ("confirm_within", "5", "from 30s to 24h"),
    ("confirm_within", "25h", "from 30s to 24h"),
]


@pytest.mark.parametrize(("name", "value", "words"), PAM_FAULTS)
def test_answers_about_services_are_checked_before_anything_is_done(
    desk: Desk, name: str, value: str | list[str], words: str
) -> None:
    before = desk.config.read_text()
    in_file = desk.unattended(f"{FULL}{name} = {json.dumps(value)}\n")
    assert in_file.exit_code == 3
    assert f"{name}: " in in_file.output
    assert words in in_file.output
    typed = value if isinstance(value, str) else ",".join(value)
    option = "--" + name.replace("_", "-")
    by_option = desk.unattended(FULL, option, typed)
    assert by_option.exit_code == 2
    assert f"{option}: " in by_option.output
    assert words in by_option.output
    assert desk.config.read_text() == before
    assert desk.asked == []
    assert not desk.plain("").exists()
    assert not (desk.root / "phones").exists()
    assert desk.unattended(FULL, option, typed, "--no-pam").exit_code == 0  # of no use there


def test_every_answer_at_fault_is_named_at_once(desk: Desk) -> None:
    told = desk.unattended(FULL + 'services = ["-"]\nfirst_factor = ""\nconfirm_within = "soon"\n').output
    assert "first_factor: " in told
    assert "confirm_within: " in told
    assert "services: " not in told


def test_services_of_one_run_know_of_each_other(desk: Desk) -> None:
    assert desk.unattended(FULL + 'services = ["sudo", "sudo-i"]\n').exit_code == 0
    assert desk.together == [("sudo", "sudo-i")] * 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_answers_that_others_can_read_are_refused(desk: Desk, mode: int) -> None:
    with pytest.raises(CredentialError, match="open to other users"):
        read_answers(desk.answers(FULL, mode=mode))


def test_answers_that_are_not_there_or_no_text(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_answers("/nonexistent")
    path = Path(desk.answers(""))
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_answers(str(path))


def test_answers_are_checked_together_and_nothing_is_written_by_halves(desk: Desk) -> None:
    before = desk.config.read_text()
    done = desk.unattended(FULL.replace('"gate"', '"a sender that is far too long"').replace('"SE"', '"Sweden"'))
    assert done.exit_code == 3
    assert "sender" in done.output
    assert "default_region" in done.output
    assert desk.config.read_text() == before
    assert desk.asked == []


@pytest.mark.parametrize("secret", ["a b", "a\\tb", "", "a\\u0000b", "a\\u200bb"])
def test_secret_that_can_be_none_is_refused(desk: Desk, secret: str) -> None:
    done = desk.unattended(FULL.replace("the-secret", secret))
    assert done.exit_code == 3
    assert not desk.plain("gatewayapi-secret").exists()


def test_wrong_credentials_redis_away_and_no_daemon_are_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.statuses = [WRONG_KEYS]
    assert "GatewayAPI can't be used: credentials" in desk.unattended(FULL).output
    desk.statuses = [{"store": {"is_up": False}, "gateway": UP["gateway"]}]
    assert "Redis can't be used" in desk.unattended(FULL).output
    monkeypatch.setattr(service, "START_WAIT_S", -1)

    def away(*_: object, **__: object) -> dict[str, Any]:
        raise DaemonUnavailable("textgated can't be reached")

    monkeypatch.setattr(admin_client, "call", away)
    assert desk.unattended(FULL).exit_code == 4


def test_daemon_that_cannot_be_started_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def systemctl(words: Sequence[str]) -> tuple[int, str]:
        return (1, "Job failed") if "restart" in words else (0, "")

    monkeypatch.setattr(service, "run_program", systemctl)
    monkeypatch.setattr(service, "has_systemd", lambda: True)
    done = desk.unattended(FULL)
    assert done.exit_code == 1
    assert "can't be started" in done.output
    assert "Job failed" in done.output


def test_setup_is_for_root(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "changes files of root" in desk.unattended(FULL).output


# --- With a person ---


def test_person_is_asked_for_everything_and_defaults_are_shown(desk: Desk) -> None:
    done = desk.with_person(
        "dk", "", "", "", "the-key", "the-secret", "alice", NUMBER, "n", "123456", "y", "-",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert desk.typed == []
    assert "Sender that phones show [textgate]: " in desk.prompts
    assert any("[DK]" in prompt for prompt in desk.prompts)
    assert desk.guarded == []
    assert "the-secret" not in done.output


def test_person_is_asked_again_for_what_is_at_fault(desk: Desk) -> None:
    desk.statuses = [WRONG_KEYS]
    done = desk.with_person(
        "Denmark", "DK", "", "", "DK", "", "", "",  # the configuration, twice
        "the-key", "mistyped", "the-key", "the-secret",  # the credentials, twice
        "alice", "12", "alice", NUMBER, "y", "000000", "123456", "n",  # the user, twice; the code, twice
        "-",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert desk.typed == []
    assert desk.key("gatewayapi-secret") == "the-secret\n"
    assert "send-test" in desk.verbs
    assert "recovery" not in desk.verbs


def test_person_who_leaves_is_told_that_what_is_done_is_kept(desk: Desk) -> None:
    done = desk.with_person("DK", "", "", "", "the-key")
    assert done.exit_code == 5
    assert "broken off" in done.output
    assert desk.key("gatewayapi-key") == "the-key\n"


def test_person_who_answers_nothing_is_not_asked_for_ever(desk: Desk) -> None:
    done = desk.with_person("DK", "", "", "", "", "", "", "", "")
    assert done.exit_code == 5
    assert "no answer was given" in done.output
