"""Good answers of one kind, gathered and counted many at a time: a loop over a list finds at hand what a request
would each time have to fetch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import cast

from proxy import ir
from proxy.metrics import TOKENS_OF, Answers, Histogram, Metrics
from proxy.metrics.specs import TOKEN_CLASSES

MOST = 64  # answers
ENDED = 200, "ok"
# How long an answer took, in seconds, how much of that was not the provider's, its usage and the `input_total` of that,
# its cost, and after how many milliseconds it began.
Counted = tuple[float, float, ir.Usage, int | None, int | None, int]
INPUT, OUTPUT = map(TOKEN_CLASSES.index, ("input", "output"))


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
        self._gathered: list[Counted] = []

    def add(self, answer: Counted) -> None:
        """As `Metrics.request_done` and `attempt_done`; and of a plain one, which waited for no connection,
        `queued`."""
        gathered = self._gathered
        gathered.append(answer)
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
        durations, overheads, usages, reads, costs, began_ms = zip(*gathered, strict=True)
        series, ending = metrics.bind(*self._key), (self._intent, *ENDED)
        ended = series.requests.get(ending)
        if ended is not None:
            ended.value += count
        else:
            for _ in gathered:
                metrics.ended(series, *ending).value += 1
        metrics.attempted(self._provider, "ok").value += count
        _observe(series.duration, durations)
        _observe(series.overhead, [overhead if overhead > 0.0 else 0.0 for overhead in overheads])
        if series.answers is None:
            return
        writes = [usage.output for usage in usages]
        _count(series.answers, usages, reads, writes)
        _charge(series.answers, costs)
        if self._streamed:
            first_tokens = [ms / 1000 for ms in began_ms]
            _observe(series.answers.first_token, first_tokens)
            told = zip(durations, first_tokens, writes, strict=True)
            _observe(
                series.answers.per_token,
                [
                    (duration - ttft if duration > ttft else 0.0) / (wrote - 1)
                    for duration, ttft, wrote in told
                    if wrote is not None and wrote > 1
                ],
            )


def _count(
    answers: Answers, usages: Sequence[ir.Usage], reads: Sequence[int | None], writes: Sequence[int | None]
) -> None:
    """As `Answers.count` of each."""
    inputs, outputs = sorted(_known(reads)), sorted(_known(writes))
    if [it for it in usages if it.cache_read or it.cache_write_5m or it.cache_write_1h or it.reasoning]:
        for number, told in zip(answers.tokens, zip(*map(TOKENS_OF, usages), strict=True), strict=True):
            number.value += sum([tokens for tokens in told if tokens and tokens > 0])
    else:  # most tell no more than what was read and written
        answers.tokens[INPUT].value += _above_zero(inputs)
        answers.tokens[OUTPUT].value += _above_zero(outputs)
    _observe(answers.inputs, inputs)
    _observe(answers.outputs, outputs)


def _known(counts: Sequence[int | None]) -> Sequence[int]:
    """Mostly all are, which is told without a look of ours at each."""
    return [it for it in counts if it is not None] if None in counts else cast(Sequence[int], counts)


def _above_zero(ordered: list[int]) -> int:
    return sum(ordered[bisect_right(ordered, 0) :])


def _charge(answers: Answers, costs: Sequence[int | None]) -> None:
    known = sorted(_known(costs))
    answers.cost.value += _above_zero(known)
    answers.unknown_cost.value += len(costs) - len(known)


def _observe(histogram: Histogram, values: Sequence[float]) -> None:
    """As `Histogram.observe` of each. Of values in order the borders between the least and the most are looked for, of
    which there are few."""
    histogram.sum += sum(values)
    if not values:
        return
    counts, bounds, ordered, before = histogram.counts, histogram.bounds, sorted(values), 0
    most = bisect_left(bounds, ordered[-1])
    for place in range(bisect_left(bounds, ordered[0]), most):
        after = bisect_right(ordered, bounds[place], before)
        counts[place] += after - before
        before = after
    counts[most] += len(ordered) - before
