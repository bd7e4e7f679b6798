# SPDX-License-Identifier: MIT
"""What a reload takes over from the parts that it replaces."""

from __future__ import annotations

from textgate.audit import Audit
from textgate.config import parse_config
from textgate.gateway import GatewayCredentials
from textgate.secret import Secret
from textgate.wiring import Keys, build_services


def test_reload_takes_over_what_was_learnt_and_what_was_never_texted() -> None:
    config = parse_config('[limits]\nallowed_countries = ["DK"]\n', config_path="x")
    keys = Keys(Secret("k1:" + "5a" * 32), GatewayCredentials(Secret("key"), Secret("secret")))
    audit = Audit(lambda _message, _fields: None)
    first = build_services(config, audit, {}, keys=keys)
    second = build_services(config, audit, {}, keys=keys, former=first)
    assert second.pace is first.pace
    assert second.unsent is first.unsent
    assert second.verifier is not first.verifier
    assert second.verifier._unsent is first.unsent
    first.gateway.close()
    second.close()
