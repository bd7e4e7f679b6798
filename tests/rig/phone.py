# SPDX-License-Identifier: MIT
"""A person's phone: the texts that the fake GatewayAPI took for its number, read one after the other."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from fake_gatewayapi import FakeGatewayAPI

from .people import Person
from .process import RigError

WITHIN_S = 10.0
_CODE = re.compile(r"(?<!\d)\d{6,8}(?!\d)")


class Phone:
    """Read it from one thread. `read_count`: how many texts were read so far."""

    def __init__(self, gateway: FakeGatewayAPI, person: Person) -> None:
        self.person = person
        self.read_count = 0
        self._gateway = gateway

    @property
    def texts(self) -> list[str]:
        """All texts to this number, read or not."""
        return self._gateway.texts_to(self.person.msisdn)

    def next_text(self, *, within_s: float = WITHIN_S) -> str:
        """The first text that was not read yet, as soon as it is there. Raises RigError when none comes."""
        self._wait(lambda: len(self.texts) > self.read_count, within_s)
        text = self.texts[self.read_count]
        self.read_count += 1
        return text

    def next_code(self, *, within_s: float = WITHIN_S) -> str:
        """The code in the first text that was not read yet."""
        return code_in(self.next_text(within_s=within_s))

    def _wait(self, is_there: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not is_there():
            arrived = len(self._gateway.accepted)
            if is_there():
                return
            try:
                self._gateway.wait_for_texts(arrived + 1, timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise RigError(f"no text for {self.person.name} within {within_s:g} s") from None


def code_in(text: str) -> str:
    """The code that a text tells. Raises RigError when it tells none."""
    found = _CODE.search(text)
    if found is None:
        raise RigError("there is no code in the text")
    return found[0]


def wrong_code(code: str) -> str:
    """A code of the same length that is not this one."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)
