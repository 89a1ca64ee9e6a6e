"""Good answers of one kind, gathered and counted many at a time: a loop over a list finds at hand what a request
would each time have to fetch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

from proxy import ir
from proxy.metrics import TOKENS_OF, Answers, Histogram, Metrics
from proxy.metrics.specs import TOKEN_CLASSES

MOST = 64  # answers
FEW = 8  # values that are sooner put into a histogram one by one
ENDED = 200, "ok"
INPUT, OUTPUT = map(TOKEN_CLASSES.index, ("input", "output"))
IN_CLASSES = attrgetter(*[name for name in TOKEN_CLASSES if name not in ("input", "output")])


class Tally:
    """Of one surface, candidate and intent; plain ones or streams. What `add` gathers is in the metrics after
    `fold`."""

    __slots__ = ("_gathered", "_intent", "_key", "_metrics", "_provider", "_streamed", "unqueued")

    def __init__(
        self, metrics: Metrics, surface: str, model: str, provider: str, intent: str, streamed: bool = False
    ) -> None:
        self._metrics = metrics
        self._key = surface, model, provider, streamed
        self._provider = provider
        self._intent = intent
        self._streamed = streamed
        self.unqueued = 0  # streams that have begun, and waited for no connection
        self._gathered: list[tuple[float, float, ir.Usage, int | None, float]] = []

    def add(
        self, duration_s: float, overhead_s: float, usage: ir.Usage, cost_nanos: int | None, ttft_s: float = 0.0
    ) -> None:
        """As `Metrics.request_done` and `attempt_done`; and of a plain one, which waited for no connection,
        `queued`."""
        gathered = self._gathered
        gathered.append((duration_s, overhead_s, usage, cost_nanos, ttft_s))
        if len(gathered) >= MOST:
            self.fold()

    def fold(self) -> None:
        gathered, self._gathered = self._gathered, []
        metrics, count = self._metrics, len(gathered)
        unqueued, self.unqueued = self.unqueued if self._streamed else count, 0
        if unqueued:
            queued = metrics.queues(self._provider)
            queued.counts[bisect_left(queued.bounds, 0.0)] += unqueued
        if not gathered:
            return
        durations, overheads, usages, costs, first_tokens = zip(*gathered, strict=True)
        series, ending = metrics.bind(*self._key), (self._intent, *ENDED)
        ended = series.requests.get(ending)
        if ended is not None:
            ended.value += count
        else:
            for _ in gathered:
                metrics.ended(series, *ending).value += 1
        metrics.attempted(self._provider, "ok").value += count
        _observe(series.duration, durations)
        _observe(series.overhead, [overhead if overhead > 0 else 0.0 for overhead in overheads])
        if series.answers is not None:
            _count(series.answers, usages)
            _charge(series.answers, costs)
            if self._streamed:
                _observe(series.answers.first_token, first_tokens)
                _observe(
                    series.answers.per_token,
                    [
                        max(0.0, duration - ttft) / (usage.output - 1)
                        for duration, _, usage, _, ttft in gathered
                        if usage.output is not None and usage.output > 1
                    ],
                )


def _count(answers: Answers, usages: Sequence[ir.Usage]) -> None:
    """As `Answers.count` of each."""
    if any(map(any, map(IN_CLASSES, usages))):
        for number, told in zip(answers.tokens, zip(*map(TOKENS_OF, usages), strict=True), strict=True):
            number.value += sum([tokens for tokens in told if tokens and tokens > 0])
        reads = [read for usage in usages if (read := usage.input_total) is not None]
        writes = [usage.output for usage in usages if usage.output is not None]
    else:  # most tell no more than what was read and written
        reads = [usage.input for usage in usages if usage.input is not None]
        writes = [usage.output for usage in usages if usage.output is not None]
        answers.tokens[INPUT].value += sum([tokens for tokens in reads if tokens > 0])
        answers.tokens[OUTPUT].value += sum([tokens for tokens in writes if tokens > 0])
    _observe(answers.inputs, reads)
    _observe(answers.outputs, writes)


def _charge(answers: Answers, costs: Sequence[int | None]) -> None:
    known = [cost for cost in costs if cost is not None]
    answers.cost.value += sum([cost for cost in known if cost > 0])
    answers.unknown_cost.value += len(costs) - len(known)


def _observe(histogram: Histogram, values: Sequence[float]) -> None:
    """As `Histogram.observe` of each. Of values in order the borders are looked for, of which there are fewer."""
    counts, bounds, before = histogram.counts, histogram.bounds, 0
    histogram.sum += sum(values)
    if len(values) < FEW:
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        return
    ordered = sorted(values)
    for place, bound in enumerate(bounds):
        after = bisect_right(ordered, bound, before)
        counts[place] += after - before
        before = after
    counts[-1] += len(ordered) - before
