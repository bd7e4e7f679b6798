# SPDX-License-Identifier: MIT
"""`pip install` into a clean virtual environment: no systemd, no PAM, PyPI's newest libraries; both steps work there.

The other tests run on Debian's libraries, so that the two together cover both ends of what pyproject.toml allows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI
from private_redis import PrivateRedis

ROOT = Path(__file__).resolve().parents[2]
MSISDN = "4512345678"
WITHIN_S = 300.0

# Run in the new environment: settings come in by the first line, the code by the second.
PROGRAM = """
import importlib.metadata, importlib.util, json, sys
from textgate.client import AuthClient, BadToken, WrongPassword
from textgate.errors import TextgateError

settings = json.loads(sys.stdin.readline())
told = {"found": [name for name in ("systemd", "pam") if importlib.util.find_spec(name)]}
told["versions"] = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
try:
    AuthClient.from_settings(**settings, phones={}.get)
except TextgateError as error:
    told["without_pam"] = error.hint
with AuthClient.from_settings(
    **settings, passwords=lambda user, password: password == "right", phones={"alice": "+4512345678"}.get
) as client:
    try:
        client.step_one("alice", "wrong")
    except WrongPassword as error:
        told["wrong"] = str(error)
    user_id = client.step_one("alice", "right", source="192.0.2.7")
    print(json.dumps(told), flush=True)
    token = client.step_two(user_id, sys.stdin.readline())
    told = {"user": client.verify_token(token).user}
    client.revoke(token)
    try:
        client.verify_token(token)
    except BadToken as error:
        told["revoked"] = str(error)
    print(json.dumps(told), flush=True)
"""

TYPED = """
from textgate import AuthClient
client = AuthClient("/etc/myapp/textgate.toml")
token: str = client.step_two(client.step_one("alice", "password"), "123456")
wrong: int = client.verify_token(token).user
"""


def run(*argv: str | Path, cwd: Path) -> str:
    """A command's output. No variable of this process but the path and pip's own settings gets into it."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith(("PIP_", "SSL_"))}
    kept |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    done = subprocess.run(
        list(map(str, argv)), cwd=cwd, env=kept, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment into which the source distribution of this tree was installed."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    shutil.copytree(ROOT / "daemon", source / "daemon", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('.')", cwd=source)
    [archive] = source.glob("textgate-*.tar.gz")
    run("/usr/bin/python3", "-m", "venv", folder / "venv", cwd=folder)
    run(folder / "venv/bin/pip", "install", "--quiet", archive, cwd=folder)
    return folder / "venv"


def test_both_steps_work_on_newest_libraries_without_systemd_and_pam(
    environment: Path, redis_server: PrivateRedis
) -> None:
    with FakeGatewayAPI() as fake:
        settings: dict[str, Any] = {
            "store_url": redis_server.url,
            "vault_key": "k1:" + "ab" * 32,
            "gateway_key": "test-key",
            "gateway_secret": "test-secret",
            "allowed_countries": ["DK"],
            "options": {"gateway": {"url": fake.url, "send_wait_s": 8}},
        }
        process = subprocess.Popen(
            [environment / "bin/python", "-I", "-W", "error", "-c", PROGRAM],
            cwd=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("no pipes")
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            first = json.loads(process.stdout.readline())
            process.stdin.write(fake.last_code(MSISDN) + "\n")
            process.stdin.flush()
            second = json.loads(process.stdout.readline())
        assert process.returncode == 0
        assert len(fake.accepted) == 1
    assert first["found"] == []
    assert first["without_pam"] == "pip install 'textgate[pam]'"
    assert first["wrong"] == "User name or password is not right."
    assert second == {"user": "alice", "revoked": "The login has ended. Log in again."}
    newer = {"redis": 6, "pyotp": 2, "requests-oauthlib": 2, "cryptography": 43}  # than Debian 12's
    found = {name: int(first["versions"][name].split(".")[0]) for name in newer}
    assert all(found[name] >= newer[name] for name in newer), found
    assert tuple(map(int, first["versions"]["pyotp"].split(".")[:2])) >= (2, 9)


def test_package_has_its_scripts_its_types_and_nothing_else_of_the_tree(environment: Path) -> None:
    [package] = environment.glob("lib/python3*/site-packages/textgate")
    there = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix != ".pyc"}
    wanted = {
        path.relative_to(ROOT / "daemon/textgate").as_posix()
        for path in (ROOT / "daemon/textgate").rglob("*")
        if path.suffix in (".py", ".lua") or path.name == "py.typed"
    }
    assert wanted <= there
    assert {"py.typed", "lua/begin.lua", "client.py"} <= there
    assert not {path.name for path in package.parent.iterdir()} & {"tests", "fake_gatewayapi", "systemd", "daemon"}


def test_commands_are_installed(environment: Path) -> None:
    assert "Usage: textgate" in run(environment / "bin/textgate", "--help", cwd=environment)


def test_programs_see_the_types(environment: Path) -> None:
    program = environment / "program.py"
    program.write_text(TYPED)
    argv = (sys.executable, "-m", "mypy", "--strict", "--python-executable", environment / "bin/python", program)
    with pytest.raises(RuntimeError) as caught:
        run(*argv, "--cache-dir", environment / "mypy", "--config-file", os.devnull, cwd=environment)
    faults = [line for line in str(caught.value).splitlines() if "error:" in line]
    assert len(faults) == 1
    assert "program.py:5: error: Incompatible types in assignment" in faults[0]
