"""Observed times per candidate: time to first token and tokens per second, decayed; the clock is an argument.

The estimate is a mean whose weights halve with each newer observation, so a candidate that turned slow shows within a
few answers; one that nobody asked for long is forgotten. Good news is believed at once: an answer in less than half of
the estimate replaces it. Who is slow is only explored now and then, and would otherwise need many explorations to come
back; who merely had luck leads a request or two, and its next answers weigh again. So a recovered candidate is back
after three explorations at most, and mostly after one: with `explore` at 0.02 and 2 candidates behind that is within
400 requests, with 21 behind within 2,000. A small window keeps p50 and p95 for the catalog.

Streams and plain answers are kept apart: the time of a plain one is that of all its tokens. Each stands in for the
other where there is nothing of its own kind.

Who waits is heard before the answer comes: a stream that has waited longer than the estimate shows already that the
estimate is too good, or a provider that stalls would be sent all that arrives until its first late answer. The third
oldest wait is taken, so that one hard question or two say nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice

from attrs import field

from proxy.record import define
from proxy.routing.names import Candidate

PRIOR_MS = 800.0  # of a candidate that nobody has observed
STALE = 600.0  # seconds after which an observation no longer speaks; then it is explored again
NEWEST = 0.5  # weight of the newest observation: a tenfold change is believed after a handful
GOOD_NEWS = 0.5  # of the estimate: an answer sooner than that replaces it
WINDOW = 64
TRACKED = 4096
MOST_NOTED = 64
Line = dict[object, float]  # who waits for a candidate and since when, oldest first
TELLING = 3  # streams that wait: how long the youngest of so many oldest has waited counts


@define
class Observed:
    """Of one candidate."""

    ttft_ms: float
    at: float
    count: int = 0
    tokens_per_s: float | None = None
    recent: deque[float] = field(factory=lambda: deque(maxlen=WINDOW), repr=False)

    def add(self, times: Sequence[float], now: float) -> None:
        """In ms, the last of them at that time."""
        believed = self.ttft_ms
        for ms in times:
            believed = ms if ms < GOOD_NEWS * believed else believed + NEWEST * (ms - believed)
        self.ttft_ms = believed
        self.at = now
        self.count += len(times)
        self.recent.extend(times)

    def streamed(self, rates: Sequence[float]) -> None:
        """In tokens per second."""
        believed = self.tokens_per_s
        for rate in rates:
            believed = rate if believed is None else believed + NEWEST * (rate - believed)
        self.tokens_per_s = believed

    def percentile(self, share: float) -> float:
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def pace(tokens: int | None, took_ms: int) -> float | None:
    """Tokens a second of a stream that had so many: those behind the first content, which `took_ms` counts from."""
    return (tokens - 1) * 1000 / took_ms if tokens is not None and tokens > 1 and took_ms > 0 else None


@define
class _Times:
    """Of one candidate, by what the client waits for."""

    streams: Observed | None = None
    plain: Observed | None = None

    def fresh(self, oldest: float, *, whole: bool) -> Observed | None:
        seen = self.plain if whole else self.streams
        if seen is None or seen.at < oldest:
            seen = self.streams if whole else self.plain
        return seen if seen is not None and seen.at >= oldest else None


@define(eq=False)
class Notes:
    """What was observed of one candidate's streams, or of its plain answers, and is not taken in yet: that is done when
    somebody asks, for many at once, or before what comes after a silence that makes all of it forgotten."""

    _latencies: Latencies = field(repr=False)
    _candidate: Candidate
    _whole: bool
    _times: list[float] = field(factory=list)  # in ms,
    _began: float = 0.0  # when the first of these was observed,
    _at: float = 0.0  # and the last
    _rates: list[float] = field(factory=list)  # meanwhile

    def add(self, ttft_ms: float, now: float) -> None:
        times = self._times
        if times and now - self._at > STALE:
            self.take_in()
            times = self._times
        if not times:
            self._began = now
            self._latencies._noted[self] = None
        times.append(ttft_ms)
        self._at = now
        if len(times) >= MOST_NOTED:
            self.take_in()

    def add_rate(self, tokens_per_s: float) -> None:
        if not self._times:
            self._latencies.observe_rate(self._candidate, tokens_per_s)
            return
        rates = self._rates
        rates.append(tokens_per_s)
        if len(rates) >= MOST_NOTED:
            self.take_in()

    def take_in(self) -> None:
        latencies, candidate, times, rates = self._latencies, self._candidate, self._times, self._rates
        self._times, self._rates = [], []
        del latencies._noted[self]
        seen = latencies._seen(candidate, times[0], self._began, self._whole)
        seen.add(times, self._at)
        seen.streamed(rates)


@define
class Latencies:
    """One per process; bounded, who was seen longest ago goes. `whole` stands for plain answers."""

    _known: OrderedDict[tuple[str, str], _Times] = field(factory=OrderedDict)  # by provider and model
    _notes: dict[tuple[str, str, bool], Notes] = field(factory=dict, repr=False)  # the same, and whether of plain ones
    _noted: dict[Notes, None] = field(factory=dict, repr=False)  # those of which something is not taken in
    _waiting: dict[tuple[str, str], Line] = field(factory=dict)

    @property
    def _times(self) -> OrderedDict[tuple[str, str], _Times]:
        self._take_in()
        return self._known

    def _take_in(self) -> None:
        for notes in [*self._noted]:
            notes.take_in()

    def notes(self, candidate: Candidate, *, whole: bool) -> Notes:
        """For those who observe it often: as `observe` and `observe_rate`, a little later."""
        key = candidate.provider, candidate.model, whole
        notes = self._notes.get(key)
        if notes is None:
            if len(self._notes) >= TRACKED:
                self._notes.clear()
            notes = self._notes[key] = Notes(self, candidate, whole)
        return notes

    def observe(
        self,
        candidate: Candidate,
        ttft_ms: float,
        now: float,
        tokens_per_s: float | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._take_in()
        seen = self._seen(candidate, ttft_ms, now, whole)
        seen.add((ttft_ms,), now)
        if tokens_per_s is not None:
            seen.streamed((tokens_per_s,))

    def _seen(self, candidate: Candidate, ttft_ms: float, now: float, whole: bool) -> Observed:
        """What was observed of it, or that nothing was lately."""
        key, known = (candidate.provider, candidate.model), self._known
        times = known.get(key)
        if times is None:
            times = known[key] = _Times()
            if len(known) > TRACKED:
                known.popitem(last=False)
        known.move_to_end(key)
        seen = times.plain if whole else times.streams
        if seen is None or now - seen.at > STALE:
            seen = Observed(ttft_ms, now)
            times.plain, times.streams = (seen, times.streams) if whole else (times.plain, seen)
        return seen

    def observe_rate(self, candidate: Candidate, tokens_per_s: float) -> None:
        """Of a stream that ended well; its first token has been observed already."""
        times = self._times.get((candidate.provider, candidate.model))
        if times is not None and times.streams is not None:
            times.streams.streamed((tokens_per_s,))

    def waits(self, candidate: Candidate, who: object, now: float) -> Line:
        """A stream was asked for. Whoever waits has to leave the line, whatever comes of it: `del line[who]`."""
        key = (candidate.provider, candidate.model)
        line = self._waiting.get(key)
        if line is None:
            if len(self._waiting) >= TRACKED:
                self._waiting = {key: line for key, line in self._waiting.items() if line}
            line = self._waiting[key] = {}
        line[who] = now
        return line

    def get(self, provider: str, model: str) -> Observed | None:
        """Of its streams, else of its plain answers."""
        times = self._times.get((provider, model))
        return None if times is None else times.streams or times.plain

    def seen_at(self, candidate: Candidate) -> float | None:
        times = self._times.get((candidate.provider, candidate.model))
        kinds = (times.streams, times.plain) if times is not None else ()
        return max((seen.at for seen in kinds if seen is not None), default=None)

    def expected_ms(self, candidates: Sequence[Candidate], now: float, *, whole: bool) -> list[float]:
        """What each will probably take: what was observed, else the prior; for a stream no less than those wait that
        it would stand behind."""
        known, oldest = self._times, now - STALE
        found = []
        for it in candidates:  # hundreds for a strategy: no call for the usual one
            times = known.get((it.provider, it.model))
            seen = None if times is None else times.plain if whole else times.streams
            if times is not None and (seen is None or seen.at < oldest):
                seen = times.fresh(oldest, whole=not whole)
            found.append(PRIOR_MS if seen is None else seen.ttft_ms)
        if whole or not any(self._waiting.values()):
            return found
        return [max(ms, self.waited_ms(it, now)) for ms, it in zip(found, candidates, strict=True)]

    def waited_ms(self, candidate: Candidate, now: float) -> float:
        """How long its streams wait just now; 0 unless there are enough of them to tell."""
        waiting = self._waiting.get((candidate.provider, candidate.model))
        if waiting is None or len(waiting) < TELLING:
            return 0.0
        return (now - next(islice(waiting.values(), TELLING - 1, None))) * 1000

    def tokens_per_s(self, candidate: Candidate) -> float | None:
        times = self._times.get((candidate.provider, candidate.model))
        return None if times is None or times.streams is None else times.streams.tokens_per_s
