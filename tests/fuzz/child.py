# SPDX-License-Identifier: MIT
"""One target under atheris: `python -m fuzz.child TARGET FOLDER -libfuzzer_option=value…`. Doesn't return."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["textgate", "fuzz"]):
    from fuzz.targets import TARGETS, helper

atheris.instrument_func(helper.judge)
atheris.instrument_func(helper.printable)
atheris.instrument_func(helper.pick)
atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
atheris.Fuzz()
