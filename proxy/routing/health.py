"""Which candidates and which credentials are cooling, and for how long. State in memory, the clock an argument.

A candidate cools after so many failures in a row, and when too large a share of many attempts failed (`HealthLimits`);
at once when it says that it is overloaded or how long it will be. A credential cools at once on 429 (for what
Retry-After says) and on being refused. Who cooled for failing, or was refused, is on trial afterwards: one attempt at a
time until one succeeds, and the first that fails makes it rest again, for longer. A provider that probes found down
rests as a whole, until one finds it well. Survives reloads: the keys are plain values, not objects of one table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from attrs import field

from proxy.errors import GatewayError, UpstreamRateLimited, UpstreamUnreachable
from proxy.record import define, frozen
from proxy.routing.names import Candidate
from proxy.routing.table import HealthLimits

SHORT = 10.0  # overloaded: it says so itself, and it passes
LEAST_RATE_LIMIT = 5.0
REFUSED_KEY = 300.0
PROBES = 3  # attempts at a time while everything is cooling
ON_TRIAL = 1.0  # seconds until somebody on trial is looked at again, while the one attempt is under way
RETRY_SHARE = 0.1  # of attempts; Google SRE: 10 % keeps three tries from trebling the load of a provider in trouble
RETRIES_AT_ONCE = 10.0
MOST_SECONDS = 86_400.0  # of any cooldown, whatever a provider says
TRACKED = 10_000  # candidates and keys; the oldest entry goes

Key = tuple[str, ...]


@define
class _State:
    failures: list[float] = field(factory=list)  # in a row: when; no longer ago than the window
    until: float = 0.0
    named: float = 0.0  # until when the provider itself asked to be left alone
    rounds: int = 0
    reason: str = ""
    trial: bool = False  # rested for failing, and has not succeeded since
    trying: int = 0  # attempts under way of somebody on trial
    by_share: bool = False  # rests for the share that failed: what succeeds meanwhile does not end that
    since: float = 0.0  # when the count of attempts began
    good: int = 0
    bad: int = 0

    def wait(self, now: float) -> float:
        left = self.until - now
        if left > 0:
            return left
        return ON_TRIAL if self.trying and self.trial else 0.0


@frozen
class _Down:
    until: float
    reason: str


Trial = Sequence[_State]  # who is on trial by an attempt: a candidate, a credential
NO_TRIAL: Trial = ()


@define
class Health:
    """One per process. `limits` are those of the table in force."""

    limits: HealthLimits = field(factory=HealthLimits)
    probing: int = 0
    _trying: int = 0  # attempts on trial, of everybody
    _states: OrderedDict[Key, _State] = field(factory=OrderedDict)
    _retry_tokens: dict[str, float] = field(factory=dict)
    _down: dict[str, _Down] = field(factory=dict)  # providers, as probes found them
    _latest: float = 0.0  # by then every cooldown has ended

    def is_quiet(self, now: float) -> bool:
        """Whether nothing at all is cooling: the usual case, and cheap to tell."""
        return now >= self._latest and not self._trying

    def is_calm(self, now: float) -> bool:
        """The same, and nobody failed lately: then nobody is on trial."""
        return not self._states and now >= self._latest and not self._trying

    def on_trial(self, candidate: Candidate, key: int | None) -> bool:
        """Whether an attempt would be one that `begin` has to know of, once nobody rests."""
        known = self._states
        if not known:
            return False  # nobody failed lately
        state = known.get(_key(candidate))
        if state is not None and state.trial:
            return True
        state = known.get(_credential(candidate.provider, key)) if key is not None else None
        return state is not None and state.trial

    def begin_probe(self) -> bool:
        """Whether one more attempt may be made while everything is cooling; `end_probe` gives the place back."""
        if self.probing >= PROBES:
            return False
        self.probing += 1
        return True

    def end_probe(self) -> None:
        self.probing -= 1

    def asked(self, provider: str) -> None:
        """Each first try of a candidate earns a tenth of a retry, so that retries never add more than a tenth to what
        its provider is asked."""
        tokens = self._retry_tokens.get(provider)
        if tokens is not None and tokens < RETRIES_AT_ONCE:
            self._retry_tokens[provider] = min(tokens + RETRY_SHARE, RETRIES_AT_ONCE)

    def may_retry(self, provider: str) -> bool:
        """Takes one retry of the same candidate from the provider's budget."""
        tokens = self._retry_tokens.get(provider, RETRIES_AT_ONCE)
        if tokens < 1:
            return False
        self._retry_tokens[provider] = tokens - 1
        return True

    def begin(self, candidate: Candidate, key: int | None, now: float) -> Trial:
        """An attempt begins; `end` is due when it is known how it went, unless nobody is on trial by it."""
        known = self._states
        if not known:
            return NO_TRIAL  # nobody failed lately
        states = [known.get(_key(candidate))]
        if key is not None:
            states.append(known.get(_credential(candidate.provider, key)))
        trial = [state for state in states if state is not None and state.trial and state.until <= now]
        for state in trial:
            state.trying += 1
        self._trying += len(trial)
        return trial

    def end(self, trial: Trial) -> None:
        for state in trial:
            state.trying -= 1
        self._trying -= len(trial)

    def cooling(self, candidate: Candidate, now: float) -> float:
        """Seconds until it is tried in its turn again; 0 is fit."""
        state = self._states.get(_key(candidate))
        wait = state.wait(now) if state else 0.0
        return max(wait, self._down_for(candidate.provider, now)) if self._down else wait

    def tripped(self, candidate: Candidate, now: float) -> bool:
        """Whether it rests for failing: another try would only add to that."""
        state = self._states.get(_key(candidate))
        return (state is not None and state.trial and state.until > now) or self._down_for(candidate.provider, now) > 0

    def key_cooling(self, provider: str, index: int, now: float) -> float:
        state = self._states.get(_credential(provider, index))
        return state.wait(now) if state else 0.0

    def forget_keys(self, provider: str) -> None:
        """Its credentials were replaced: what was said of the old ones says nothing of these."""
        for key in [key for key in self._states if key[:2] == (provider, "key")]:
            del self._states[key]

    def reason(self, candidate: Candidate, keys: int, now: float) -> str:
        """The code of the error for which a candidate rests, or its provider, or the first of that one's keys."""
        if self._down_for(candidate.provider, now):
            return self._down[candidate.provider].reason
        resting = [_key(candidate), *(_credential(candidate.provider, index) for index in range(keys))]
        states = (self._states.get(key) for key in resting)
        return next((state.reason for state in states if state is not None and state.wait(now)), "")

    def answered(self, candidate: Candidate, key: int | None, now: float) -> None:
        """`asked` and `succeeded`."""
        if self._retry_tokens:
            self.asked(candidate.provider)
        if self._states or self._down:
            self.succeeded(candidate, key, now)

    def succeeded(self, candidate: Candidate, key: int | None, now: float) -> None:
        if self._down:
            self._down.pop(candidate.provider, None)  # an answer says more than a probe
        if not self._states:
            return
        self._cleared(_key(candidate), now)
        if key is not None:
            self._cleared(_credential(candidate.provider, key), now)

    def _cleared(self, key: Key, now: float) -> None:
        state = self._states.get(key)
        if state is None or (state.by_share and state.until > now):
            return
        if not state.bad or now - state.since > self.limits.window:
            del self._states[key]
            return
        state.good += 1
        state.failures.clear()
        state.until, state.rounds, state.trial, state.by_share = 0.0, 0, False, False

    def failed(self, candidate: Candidate, key: int | None, error: GatewayError, now: float) -> Literal["", "cooled"]:
        """Counts a failed attempt; "cooled" when this one began a cooldown."""
        match error.cooldown:
            case "none":
                return ""
            case "key" if key is not None:
                limited = isinstance(error, UpstreamRateLimited)
                state = self._state(_credential(candidate.provider, key))
                state.trial = state.trial or not limited  # a limit ends when it was said to; a refusal has to be mended
                return self._cool(
                    state, now, max(error.retry_after or 0.0, LEAST_RATE_LIMIT if limited else REFUSED_KEY), error.code
                )
            case "key" | "short":
                return self._cool(self._state(_key(candidate)), now, max(error.retry_after or 0.0, SHORT), error.code)
        return self._count(self._state(_key(candidate)), now, error)

    # -- what probes find ------------------------------------------------------------------------------------

    def found_down(self, provider: str, seconds: float, reason: str, now: float) -> None:
        """All its candidates rest until `found_well`, and at most so long: the next probe says it anew."""
        self._down[provider] = _Down(now + seconds, reason)
        self._latest = max(self._latest, now + seconds)

    def found_well(self, provider: str, now: float, *, recovered: bool) -> None:
        """Its candidates that rest because nobody was there, and where it `recovered` from what probes saw as well all
        that rest for failing, may be tried again: one attempt at a time, until one succeeds. What the provider itself
        asked for holds, and what is said of keys."""
        self.forget_probes(provider)
        for key, state in self._states.items():
            failed = key[0] == provider and len(key) == 2 and state.trial and state.until > now
            if failed and (recovered or state.reason == UpstreamUnreachable.code):
                state.until, state.by_share = max(now, state.named), False

    def forget_probes(self, provider: str) -> None:
        self._down.pop(provider, None)

    def _down_for(self, provider: str, now: float) -> float:
        down = self._down.get(provider)
        return max(0.0, down.until - now) if down is not None else 0.0

    # -- what is counted -------------------------------------------------------------------------------------

    def _count(self, state: _State, now: float, error: GatewayError) -> Literal["", "cooled"]:
        limits = self.limits
        if error.retry_after is not None:
            state.named = max(state.named, now + min(error.retry_after, MOST_SECONDS))
        if state.trial and state.until > now:  # it was under way when the rest began, and says nothing new
            return "" if error.retry_after is None else self._cool(state, now, error.retry_after, error.code)
        if now - state.since > limits.window:
            state.since, state.good, state.bad = now, 0, 0
        state.bad += 1
        state.failures = [*(at for at in state.failures if now - at <= limits.window), now]
        attempts = state.good + state.bad
        by_share = attempts >= limits.volume and state.bad >= limits.share * attempts
        if not (state.trial or by_share or len(state.failures) >= limits.failures):
            return "" if error.retry_after is None else self._cool(state, now, error.retry_after, error.code)
        seconds = max(error.retry_after or 0.0, min(limits.rest * 2**state.rounds, limits.longest))
        state.rounds = min(state.rounds + 1, 8)
        state.trial, state.by_share = True, by_share
        state.failures.clear()
        state.good = state.bad = 0
        return self._cool(state, now, seconds, error.code)

    def _cool(self, state: _State, now: float, seconds: float, reason: str) -> Literal["cooled"]:
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
        left: dict[tuple[str | None, ...], float] = {
            (provider, None, None): down.until - now for provider, down in self._down.items() if down.until > now
        }
        for key, state in self._states.items():
            if state.until > now:
                provider, *rest = key
                labels = (provider, None, rest[1]) if len(rest) == 2 else (provider, rest[0], None)
                left[labels] = state.until - now
        return left

    def snapshot(self, now: float) -> list[dict[str, str | float]]:
        """What is cooling: for metrics and the admin listener."""
        resting: dict[Key, _State | _Down] = {(provider,): down for provider, down in self._down.items()}
        return [
            {"what": "/".join(key), "seconds": round(state.until - now, 3), "reason": state.reason}
            for key, state in (resting | self._states).items()
            if state.until > now
        ]


def _key(candidate: Candidate) -> Key:
    return (candidate.provider, candidate.model)


def _credential(provider: str, index: int) -> Key:
    return (provider, "key", str(index))
