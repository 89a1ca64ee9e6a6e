"""Which candidates and which credentials are cooling, and for how long. State in memory, the clock an argument.

A candidate cools after `FAILURES` failures in a row within `WINDOW`, at once when it says that it is overloaded or how
long it will be; a credential cools at once on 429 (for what Retry-After says) and on being refused. A success ends the
count. Survives reloads: the keys are plain values, not objects of one table.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from attrs import define, field

from proxy.errors import GatewayError, UpstreamRateLimited
from proxy.routing.names import Candidate

FAILURES = 3
WINDOW = 60.0  # seconds
BASE = 30.0  # first cooldown; doubles with each further one
LONGEST = 300.0
SHORT = 10.0  # overloaded: it says so itself, and it passes
LEAST_RATE_LIMIT = 5.0
REFUSED_KEY = 300.0
PROBES = 3  # attempts at a time while everything is cooling
RETRY_SHARE = 0.1  # of attempts; Google SRE: 10 % keeps three tries from trebling the load of a provider in trouble
RETRIES_AT_ONCE = 10.0
MOST_SECONDS = 86_400.0  # of any cooldown, whatever a provider says
TRACKED = 10_000  # candidates and keys; the oldest entry goes

Key = tuple[str, ...]


@define
class _State:
    failures: list[float] = field(factory=list)  # when; no longer ago than `WINDOW`
    until: float = 0.0
    rounds: int = 0
    reason: str = ""


@define
class Health:
    """One per process."""

    probing: int = 0
    _states: OrderedDict[Key, _State] = field(factory=OrderedDict)
    _retry_tokens: dict[str, float] = field(factory=dict)
    _latest: float = 0.0  # by then every cooldown has ended

    def is_quiet(self, now: float) -> bool:
        """Whether nothing at all is cooling: the usual case, and cheap to tell."""
        return now >= self._latest

    def begin_probe(self) -> bool:
        """Whether one more attempt may be made while everything is cooling; `end_probe` gives the place back."""
        if self.probing >= PROBES:
            return False
        self.probing += 1
        return True

    def end_probe(self) -> None:
        self.probing -= 1

    def asked(self, provider: str) -> None:
        """Each attempt earns a tenth of a retry, so retries never add more than a tenth to what a provider is asked."""
        tokens = self._retry_tokens.get(provider, RETRIES_AT_ONCE)
        self._retry_tokens[provider] = min(tokens + RETRY_SHARE, RETRIES_AT_ONCE)

    def may_retry(self, provider: str) -> bool:
        """Takes one retry of the same candidate from the provider's budget."""
        tokens = self._retry_tokens.get(provider, RETRIES_AT_ONCE)
        if tokens < 1:
            return False
        self._retry_tokens[provider] = tokens - 1
        return True

    def cooling(self, candidate: Candidate, now: float) -> float:
        """Seconds until it is tried in its turn again; 0 is fit."""
        state = self._states.get((candidate.provider, candidate.model))
        return max(0.0, state.until - now) if state else 0.0

    def key_cooling(self, provider: str, index: int, now: float) -> float:
        state = self._states.get((provider, "key", str(index)))
        return max(0.0, state.until - now) if state else 0.0

    def forget_keys(self, provider: str) -> None:
        """Its credentials were replaced: what was said of the old ones says nothing of these."""
        for key in [key for key in self._states if key[:2] == (provider, "key")]:
            del self._states[key]

    def reason(self, candidate: Candidate, keys: int, now: float) -> str:
        """The code of the error for which a candidate rests, or the first of its provider's keys that does."""
        resting = [_key(candidate), *((candidate.provider, "key", str(index)) for index in range(keys))]
        states = (self._states.get(key) for key in resting)
        return next((state.reason for state in states if state is not None and state.until > now), "")

    def succeeded(self, candidate: Candidate, key: int | None = None) -> None:
        self._states.pop((candidate.provider, candidate.model), None)
        if key is not None:
            self._states.pop((candidate.provider, "key", str(key)), None)

    def failed(self, candidate: Candidate, key: int | None, error: GatewayError, now: float) -> Literal["", "cooled"]:
        """Counts a failed attempt; "cooled" when this one began a cooldown."""
        match error.cooldown:
            case "none":
                return ""
            case "key" if key is not None:
                least = LEAST_RATE_LIMIT if isinstance(error, UpstreamRateLimited) else REFUSED_KEY
                return self._cool(
                    (candidate.provider, "key", str(key)), now, max(error.retry_after or 0.0, least), error.code
                )
            case "key" | "short":
                return self._cool(_key(candidate), now, max(error.retry_after or 0.0, SHORT), error.code)
        return self._count(_key(candidate), now, error)

    def _count(self, key: Key, now: float, error: GatewayError) -> Literal["", "cooled"]:
        state = self._state(key)
        state.failures = [*(at for at in state.failures if now - at <= WINDOW), now]
        if len(state.failures) < FAILURES:
            return "" if error.retry_after is None else self._cool(key, now, error.retry_after, error.code)
        seconds = max(error.retry_after or 0.0, min(BASE * 2**state.rounds, LONGEST))
        state.rounds = min(state.rounds + 1, 8)
        state.failures.clear()
        return self._cool(key, now, seconds, error.code)

    def _cool(self, key: Key, now: float, seconds: float, reason: str) -> Literal["cooled"]:
        state = self._state(key)
        state.until, state.reason = max(state.until, now + min(seconds, MOST_SECONDS)), reason
        self._latest = max(self._latest, state.until)
        return "cooled"

    def _state(self, key: Key) -> _State:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State()
            if len(self._states) > TRACKED:
                self._states.popitem(last=False)
        return state

    def cooldowns(self, now: float) -> dict[tuple[str | None, ...], float]:
        """Seconds left by (provider, model, credential's number), for the metrics."""
        left: dict[tuple[str | None, ...], float] = {}
        for key, state in self._states.items():
            if state.until > now:
                provider, *rest = key
                labels = (provider, None, rest[1]) if len(rest) == 2 else (provider, rest[0], None)
                left[labels] = state.until - now
        return left

    def snapshot(self, now: float) -> list[dict[str, str | float]]:
        """What is cooling: for metrics and the admin listener."""
        return [
            {"what": "/".join(key), "seconds": round(state.until - now, 3), "reason": state.reason}
            for key, state in self._states.items()
            if state.until > now
        ]


def _key(candidate: Candidate) -> Key:
    return (candidate.provider, candidate.model)
