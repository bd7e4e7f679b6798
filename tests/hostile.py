# SPDX-License-Identifier: MIT
"""User names that nobody should have and everybody can type at a login prompt."""

from __future__ import annotations

CANARY = "/tmp/textgate-was-here"
"""A file that a name makes if a shell ever sees it."""

NAMES = {
    "empty": "",
    "a space": " ",
    "two words": "alice bob",
    "4 KiB": "A" * 4096,
    "NUL": "alice\0root",
    "only NUL": "\0",
    "line feed": "alice\nroot",
    "carriage return": "alice\rroot",
    "another field": "alice\nTEXTGATE_RESULT=pass",
    "another line": "alice\n0000000: +4512345678",
    "percent": "%s%n%x%%",
    "percent code": "%00%2e%2e%7Ealice",
    "parent": "..",
    "path up": "../../../../etc/shadow",
    "path": "/etc/passwd",
    "option": "-rf",
    "tilde": "~root",
    "comment": "#alice",
    "passwd line": "alice:x:0:0",
    "hash tag": "}alice{",
    "glob": "*",
    "substitution": f"$(touch {CANARY})",
    "backquotes": f"`touch {CANARY}`",
    "second command": f"alice; touch {CANARY} #",
    "pipe": f"|touch {CANARY}",
    "quotes": f"'; touch {CANARY}; '\"",
    "template": "{code}{host}{0.__class__}",
    "JSON": '", "verb": "reload", "x": "',
    "Lua": "' .. redis.call('FLUSHALL') .. '",
    "CSI": "\x1b[2J\x1b[31mroot",
    "OSC": "\x1b]0;root\x07",
    "C1": "\x9b2Jroot",
    "backspace": "eve\x08\x08\x08root",
    "turned": "\u202eecila",
    "zero width": "al\u200bice",
    "combining": "alice\u0301",
    "full width": "\uff41lice",
    "Cyrillic": "\u0430lice",
    "capitals": "\u0130\u1e9e\ufb03",  # longer or shorter in lower case
    "emoji": "\U0001f469\u200d\U0001f4bb",
    "surrogate": "\ud800",  # what bytes that are no UTF-8 become
    "decoy": "~0123456789abcdef0123456789abcdef",
}
