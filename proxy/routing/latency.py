"""Observed times per candidate: time to first token and tokens per second, decayed; the clock is an argument.

The estimate is a mean whose weights halve with each newer observation, so a candidate that turned slow shows within a
few answers; one that nobody asked for long is forgotten. Good news is believed at once: an answer in less than half of
the estimate replaces it. Who is slow is only explored now and then, and would otherwise need many explorations to come
back; who merely had luck leads a request or two, and its next answers weigh again. So a recovered candidate is back
after three explorations at most, and mostly after one: with `explore` at 0.02 and 2 candidates behind that is within
400 requests, with 21 behind within 2,000. A small window keeps p50 and p95 for the catalog.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from attrs import define, field

from proxy.routing.names import Candidate

PRIOR_MS = 800.0  # of a candidate that nobody has observed
STALE = 600.0  # seconds after which an observation no longer speaks; then it is explored again
NEWEST = 0.5  # weight of the newest observation: a tenfold change is believed after a handful
GOOD_NEWS = 0.5  # of the estimate: an answer sooner than that replaces it
WINDOW = 64
TRACKED = 4096


@define
class Observed:
    """Of one candidate."""

    ttft_ms: float
    at: float
    count: int = 0
    whole: bool = False  # only plain answers were seen: the time is that of all their tokens
    tokens_per_s: float | None = None
    recent: deque[float] = field(factory=lambda: deque(maxlen=WINDOW), repr=False)

    def streamed(self, tokens_per_s: float) -> None:
        old = self.tokens_per_s
        self.tokens_per_s = tokens_per_s if old is None else old + NEWEST * (tokens_per_s - old)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@define
class Latencies:
    """One per process; bounded, the candidate that was seen longest ago goes."""

    _observed: OrderedDict[tuple[str, str], Observed] = field(factory=OrderedDict)

    def observe(
        self,
        candidate: Candidate,
        ttft_ms: float,
        now: float,
        tokens_per_s: float | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """`whole`: the time is that of a plain answer up to its end. It stands in where no stream has been seen lately,
        and gives way to the first one."""
        key = (candidate.provider, candidate.model)
        seen = self._observed.get(key)
        fresh = seen is not None and now - seen.at <= STALE
        if seen is not None and fresh and whole and not seen.whole:
            return
        if seen is None or not fresh or (seen.whole and not whole):
            seen = self._observed[key] = Observed(ttft_ms, now, whole=whole)
            if len(self._observed) > TRACKED:
                self._observed.popitem(last=False)
        good = ttft_ms < GOOD_NEWS * seen.ttft_ms
        seen.ttft_ms = ttft_ms if good else seen.ttft_ms + NEWEST * (ttft_ms - seen.ttft_ms)
        seen.at = now
        seen.count += 1
        seen.recent.append(ttft_ms)
        if tokens_per_s is not None:
            seen.streamed(tokens_per_s)
        self._observed.move_to_end(key)

    def observe_rate(self, candidate: Candidate, tokens_per_s: float) -> None:
        """Of a stream that ended well; its first token has been observed already."""
        seen = self._observed.get((candidate.provider, candidate.model))
        if seen is not None:
            seen.streamed(tokens_per_s)

    def get(self, provider: str, model: str) -> Observed | None:
        return self._observed.get((provider, model))

    def ttft_ms(self, candidate: Candidate, now: float) -> float | None:
        """None: unobserved or stale."""
        seen = self._observed.get((candidate.provider, candidate.model))
        return None if seen is None or now - seen.at > STALE else seen.ttft_ms

    def tokens_per_s(self, candidate: Candidate) -> float | None:
        seen = self._observed.get((candidate.provider, candidate.model))
        return None if seen is None else seen.tokens_per_s
