# SPDX-License-Identifier: MIT
"""What people and attackers do at a login. Generators that yield how many seconds pass before they go on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from textgate.gateway_outcomes import Outcome, SendReason
from textgate.limits import DAY_MS
from textgate.protocol import Reply, Why, Word
from textgate.session import Session

from .world import Actor, World, hours

PATIENCE_S = 60.0  # who is told to wait longer gives up, which is a refusal
TYPING_ERRORS = 0.05
LOST_TEXTS = 0.01
LOST_AFTER_S = 45.0  # when somebody asks for another text
PROMPTS = 3  # as the PAM lines ask
LOGINS = 2  # who mistyped until no prompt was left logs in once more
NEVER_A_CODE = "aaaa-bbbb-cccc"  # has the form of a recovery code, so it needs no text to be counted
FLYING = 15  # guesses at the same moment

Source = Callable[[], str | None]  # where a login comes from; None for sudo


@dataclass
class Tally:
    """How the logins of people with the right phone went. waited: were told to wait a little, and got in then."""

    logins: int = 0
    at_once: int = 0
    waited: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def refused(self) -> int:
        """Logins that failed."""
        return sum(self.causes.values())


class Login:
    """One login as its person sees it: the last answer, and the code on the phone."""

    def __init__(self, person: Person, source: str | None, host: int) -> None:
        self._person, self._host = person, host
        self._session = person.world.session(person.name, source)
        self.code = ""
        self.is_lost = False
        self.reply = self._act(lambda: person.world.begin(self._session, host))

    def type(self, text: str) -> None:
        """Answer the prompt."""
        self.reply = self._act(lambda: self._person.world.check(self._session, text, self._host))

    def _act(self, action: Callable[[], Reply]) -> Reply:
        texts = self._person.world.gateway.texts
        count = len(texts)
        reply = action()
        if len(texts) > count:
            self.code = texts[-1].code
            self.is_lost = self._person.random.random() < LOST_TEXTS
        return reply


@dataclass(frozen=True)
class Person:
    """Somebody with an account, a phone, and perhaps recovery codes."""

    world: World
    name: str
    random: random.Random
    recovery_codes: list[str] = field(default_factory=list)

    def log_in(self, tally: Tally, source: str | None, host: int = 0) -> Actor:
        """One login, with typing errors and lost texts."""
        tally.logins += 1
        has_waited = False
        for _ in range(LOGINS):
            login = Login(self, source, host)
            for _ in range(PROMPTS):
                decided = self._decide(login)
                if decided is None:
                    break
                has_waited |= login.reply.why is Why.THROTTLED
                yield decided[0]
                login.type(decided[1])
                if login.reply.word is Word.PASS:
                    tally.waited += has_waited
                    tally.at_once += not has_waited
                    return
            if login.reply.why not in (Why.WRONG, Why.TRIES_SPENT):
                break
        has_reason = login.reply.why in (Why.THROTTLED, Why.LOCKED, Why.NOT_SENT)
        tally.causes[self.world.reason if has_reason else login.reply.why.value] += 1

    def _decide(self, login: Login) -> tuple[float, str] | None:
        """After how long to type what; None to give up."""
        if login.reply.why in (Why.LOCKED, Why.TRIES_SPENT, Why.NONE_WAITING):
            return None
        if login.code:
            return (LOST_AFTER_S, "") if login.is_lost else (self.random.uniform(5, 20), self._type(login.code))
        if self.recovery_codes:
            return self.random.uniform(20, 60), self.recovery_codes.pop()
        if login.reply.why is Why.THROTTLED and login.reply.wait_s <= PATIENCE_S:
            return login.reply.wait_s, ""
        return None

    def _type(self, code: str) -> str:
        if self.random.random() >= TYPING_ERRORS:
            return code
        at = self.random.randrange(len(code))
        return code[:at] + str((int(code[at]) + self.random.randrange(1, 10)) % 10) + code[at + 1 :]


def plan_days(
    person: Person,
    tally: Tally,
    sources: Sequence[Source],
    *,
    days: int,
    between: tuple[float, float] = (9, 17.5),
    together: float = 0.0,
    hosts: int = 1,
) -> None:
    """Put a person's logins into working days, from today on.

    sources: one for each login of a day. between: hours of the day. together: the part of the logins that come within
    seconds of the one before, as when two terminals are opened.
    """
    world = person.world
    today_ms = world.clock.now_ms() - world.clock.now_ms() % DAY_MS
    for day in range(days):
        at_ms = 0
        moments = sorted(person.random.uniform(*between) for _ in sources)
        for moment, source in zip(moments, sources, strict=True):
            is_together = at_ms > 0 and person.random.random() < together
            at_ms = at_ms + 3000 if is_together else today_ms + day * DAY_MS + hours(moment)
            actor = person.log_in(tally, source(), person.random.randrange(hosts))
            world.join(person.name, actor, at_ms=at_ms)


def always(address: str | None) -> Source:
    """From one place."""
    return lambda: address


def never_twice(network: str = "203.0") -> Source:
    """From another address each time."""
    addresses: Iterator[str] = (f"{network}.{third}.{fourth}" for third in range(256) for fourth in range(256))
    return lambda: next(addresses)


# --- Attackers. They have the first factor and not the phone, and do what they do as often as it makes sense. ---


@dataclass
class Loot:
    """What guessing brought."""

    hits: int = 0


def guess(world: World, user: str, source: Source, loot: Loot, *, digits: int = 6, hosts: int = 1) -> Actor:
    """Guess until a hit, and never the same code twice for one text."""
    at = 0
    while True:
        at += 1
        session, host = world.session(user, source()), at % hosts
        reply = world.begin(session, host)
        if reply.why is Why.CODE_SENT:
            for code in world.random.sample(range(10**digits), FLYING):
                reply = world.check(session, f"{code:0{digits}d}", host)
                if reply.word is Word.PASS:
                    loot.hits += 1
                    return
                if reply.why is not Why.WRONG:
                    break
        yield max(1.0, reply.wait_s)


def guess_at_once(world: World, user: str, source: Source, loot: Loot, *, hosts: int) -> Actor:
    """Collect as many texts as there are to be had, then guess at all of them at one moment through all hosts."""
    with ThreadPoolExecutor(FLYING) as threads:
        while True:
            sessions: list[Session] = []
            reply = Reply(Word.ASK, why=Why.CODE_SENT)
            while reply.why is Why.CODE_SENT and len(sessions) < FLYING:
                sessions.append(world.session(user, source()))
                reply = world.begin(sessions[-1])
                yield 30

            def shoot(at: int, sessions: list[Session] = sessions) -> Reply:
                return world.check(sessions[at % len(sessions)], f"{at:06d}", at % hosts)

            replies = list(threads.map(shoot, range(FLYING)))
            loot.hits += sum(answer.word is Word.PASS for answer in replies)
            yield max(1.0, reply.wait_s, *(answer.wait_s for answer in replies))


def unlock_for_ever(world: World, name: str) -> Actor:
    """Unlocking an account as a member of the admin group, once a minute."""
    while True:
        world.unlock(name)
        yield 60.0


def lock_out(world: World, user: str, source: Source) -> Actor:
    """Use up what the owner needs, wrong codes and texts, again as soon as there is room."""
    while True:
        session = world.session(user, source())
        replies = [world.begin(session), *(world.check(session, NEVER_A_CODE) for _ in range(6))]
        yield max(1.0, min((reply.wait_s for reply in replies if reply.wait_s), default=1.0))


def pump(world: World, user: str, source: Source) -> Actor:
    """Make as many texts go out as possible."""
    while True:
        reply = world.begin(world.session(user, source()))
        yield max(1.0, reply.wait_s)


def gateway_fails(world: World, end: tuple[Outcome, SendReason], *, at_ms: int, lasts_ms: int) -> None:
    """Texts end otherwise for a while."""
    usual = world.gateway.end

    def fail() -> Actor:
        world.gateway.end = end
        yield lasts_ms / 1000
        world.gateway.end = usual

    world.join("outage", fail(), at_ms=at_ms)
