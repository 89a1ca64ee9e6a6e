"""Limits: requests and tokens per minute, and requests at a time, of a key, a project or a model.

A minute is the last sixty seconds, by a clock that is never set. What comes within one second is kept together, and
counts until the last of it is a minute old: for sixty to sixty-one seconds, and never for less. So nobody is ever told
to wait for more than a minute: SDKs take no Retry-After above 60 for meant. Tokens of requests under way are reserved
and count until these end; what they really took counts from their end on.
"""

from __future__ import annotations

from collections import deque

from attrs import field, validators

from proxy.record import define, frozen

MINUTE = 60  # seconds
NEARLY = 59.5  # seconds that are told as a minute
MOMENT = MINUTE - NEARLY
NEVER = float("-inf")

_most = validators.optional(validators.ge(1))


@frozen(kw_only=True)
class LimitTerms:
    rpm: int | None = field(default=None, validator=_most)
    tpm: int | None = field(default=None, validator=_most)
    parallel: int | None = field(default=None, validator=_most)


NO_LIMITS = LimitTerms()


@define(eq=False)
class Window:
    """What was used in the last minute, by second. `turn` is due before anything is read, from `turns_at` on."""

    used: int = 0
    turns_at: float = MINUTE
    _seconds: deque[tuple[float, int]] = field(factory=deque)  # oldest first: when the last of it came, and how much
    _last: float = NEVER  # when the last of the newest second came, which is not among them,
    _ends: float = 0.0  # that second's end,
    _before: int = 0  # and what was used before it

    def turn(self, now: float) -> None:
        if now < self.turns_at:
            return
        seconds, minute_ago = self._seconds, now - MINUTE
        while seconds and seconds[0][0] <= minute_ago:
            _, amount = seconds.popleft()
            self.used -= amount
            self._before -= amount
        if self._last <= minute_ago:
            self.used = self._before = 0
        self.turns_at = (seconds[0][0] if seconds else self._last if self.used else now) + MINUTE

    def add(self, amount: int, now: float) -> None:
        if now >= self._ends:
            if self.used != self._before:
                self._seconds.append((self._last, self.used - self._before))
            self._ends, self._before = int(now) + 1, self.used
        self._last = now
        self.used += amount

    def idle_in(self, now: float) -> float:
        """Seconds until nothing is used any more."""
        left = self._last + MINUTE - now
        return left if left > 0.0 else 0.0

    def until(self, surplus: int, now: float) -> float | None:
        """Seconds until at least so much is used no more; None where it is not even all that is used."""
        left = surplus
        for last, amount in (*self._seconds, (self._last, self.used - self._before)):
            left -= amount
            if left <= 0:
                return max(last + MINUTE - now, 0.0)
        return None


@define(eq=False)
class Meter:
    """What of one subject's limits is in use."""

    name: str
    terms: LimitTerms = NO_LIMITS
    running: int = 0
    reserved: int = 0  # tokens of requests under way
    requests: Window = field(factory=Window)
    tokens: Window = field(factory=Window)

    def refusal(self, now: float) -> tuple[str, float] | None:
        """Which limit keeps another request out, and for how many seconds; None: there is room."""
        terms = self.terms
        if terms.parallel is not None and self.running >= terms.parallel:
            return f"{terms.parallel} requests at a time", 1.0
        if terms.rpm is not None:
            requests = self.requests
            if now >= requests.turns_at:
                requests.turn(now)
            if requests.used >= terms.rpm:
                wait = requests.until(requests.used - terms.rpm + 1, now)
                return f"{terms.rpm} requests per minute", 1.0 if wait is None else wait
        return None

    def enter(self, now: float) -> None:
        self.running += 1
        if self.terms.rpm is not None:
            self.requests.add(1, now)

    def board(self, amount: int, now: float) -> None:
        """`enter`, and so many tokens reserved."""
        self.running += 1
        self.reserved += amount
        if self.terms.rpm is not None:
            self.requests.add(1, now)

    def fits(self, amount: int, now: float) -> bool:
        """Whether neither `refusal` nor `token_refusal` says no."""
        terms = self.terms
        if terms.parallel is not None and self.running >= terms.parallel:
            return False
        if terms.rpm is not None:
            requests = self.requests
            if now >= requests.turns_at:
                requests.turn(now)
            if requests.used >= terms.rpm:
                return False
        if terms.tpm is None:
            return True
        tokens = self.tokens
        if now >= tokens.turns_at:
            tokens.turn(now)
        return tokens.used + self.reserved + amount <= terms.tpm

    def boards(self, amount: int, now: float) -> bool:
        """`fits`, and then `board`."""
        terms, running = self.terms, self.running
        if terms.parallel is not None and running >= terms.parallel:
            return False
        requests, reserved = self.requests, self.reserved + amount
        if terms.rpm is not None:
            if now >= requests.turns_at:
                requests.turn(now)
            if requests.used >= terms.rpm:
                return False
        if terms.tpm is not None:
            tokens = self.tokens
            if now >= tokens.turns_at:
                tokens.turn(now)
            if tokens.used + reserved > terms.tpm:
                return False
        self.running, self.reserved = running + 1, reserved
        if terms.rpm is not None:
            if now < requests._ends:  # as `Window.add` has it
                requests._last = now
                requests.used += 1
            else:
                requests.add(1, now)
        return True

    def left(self, now: float) -> tuple[int | None, int | None]:
        """Requests and tokens of this minute."""
        terms = self.terms
        requests = tokens = None
        if (rpm := terms.rpm) is not None:
            window = self.requests
            if now >= window.turns_at:
                window.turn(now)
            requests = rpm - window.used if rpm > window.used else 0
        if (tpm := terms.tpm) is not None:
            window = self.tokens
            if now >= window.turns_at:
                window.turn(now)
            used = window.used + self.reserved
            tokens = tpm - used if tpm > used else 0
        return requests, tokens

    def lately_left(self, now: float) -> tuple[int, int] | None:
        """As `left`, where there are limits of both kinds, and both were used a moment ago: then it is a minute until
        either is whole again."""
        terms, requests, tokens = self.terms, self.requests, self.tokens
        rpm, tpm = terms.rpm, terms.tpm
        if rpm is None or tpm is None or now >= requests.turns_at or now >= tokens.turns_at:
            return None
        moment_ago = now - MOMENT
        if requests._last < moment_ago or tokens._last < moment_ago:
            return None
        used, reserved = requests.used, tokens.used + self.reserved
        return rpm - used if rpm > used else 0, tpm - reserved if tpm > reserved else 0

    def token_refusal(self, amount: int, now: float) -> tuple[str, float] | None:
        most = self.terms.tpm
        if most is None:
            return None
        tokens = self.tokens
        if now >= tokens.turns_at:
            tokens.turn(now)
        surplus = tokens.used + self.reserved + amount - most
        if surplus <= 0:
            return None
        wait = tokens.until(surplus, now)
        return f"{most} tokens per minute", 1.0 if wait is None else wait  # tokens under way may come back at any time

    def leave(self, reserved: int, used: int, now: float) -> None:
        """A request has ended: what it reserved goes, and what it used counts from now on."""
        self.running -= 1
        self.reserved -= reserved
        if self.terms.tpm is not None and used:
            tokens = self.tokens
            if now < tokens._ends:  # as `Window.add` has it
                tokens._last = now
                tokens.used += used
            else:
                tokens.add(used, now)
