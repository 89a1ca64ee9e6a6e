"""Answers that are gathered are counted as they would have been one by one."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from proxy.ir import Usage
from proxy.metrics import SPECS, Metrics
from proxy.metrics.specs import TOKEN_CLASSES
from proxy.server.express import tally
from proxy.server.express.tally import Tally

Answer = tuple[float, float, Usage, int | None]
BOUNDS = SPECS["pointsman_request_duration_seconds"].buckets
ANSWERS: list[Answer] = [
    (0.2, 0.0004, Usage(input=800, output=10), 4_000),
    (1.5, -0.1, Usage(input=3, cache_read=5, output=0, reasoning=1), 0),
    (70.0, 3.0, Usage(output=1), None),
    (0.01, 0.0, Usage(input=-5), -7),
]


def counted(*, at_once: bool, known: bool = True, streamed: bool = False, answers: list[Answer] = ANSWERS) -> bytes:
    metrics = Metrics(CollectorRegistry())
    if known:
        metrics.known(models=["m"], providers=["p"])
    gathering = Tally(metrics, "chat", "m", "p", "model", streamed)
    metrics.folds.append(gathering.fold)
    for duration, overhead, usage, cost in answers * 3:
        if at_once:
            gathering.unqueued += streamed  # which is noted when it begins
            gathering.add((duration, overhead, usage, usage.input_total, cost, 100))
            continue
        metrics.queued("p", 0.0)
        metrics.attempt_done(provider="p", outcome="ok")
        metrics.request_done(
            surface="chat", model="m", provider="p", intent="model", status=200, outcome="ok", duration_s=duration,
            overhead_s=overhead, ttft_s=0.1, usage=usage, cost_nanos=cost, streamed=streamed,
        )  # fmt: skip
    return b"".join(sorted(line for line in metrics.render().splitlines(True) if b"_sum" not in line))


GATHERED: dict[str, list[Answer]] = {
    "of all kinds": ANSWERS,
    "few of all kinds": ANSWERS[:1],
    "what was read and written alone": [ANSWERS[place] for place in (0, 2, 3)],
    "of a single class each": [(0.2, 0.0, Usage(**{name: 7}), 1) for name in TOKEN_CLASSES],
    "at the bounds": [
        (bound, bound, Usage(input=1), 1) for bound in SPECS["pointsman_request_duration_seconds"].buckets
    ],
}


@pytest.mark.parametrize("answers", GATHERED.values(), ids=GATHERED)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_what_was_gathered_is_in_the_metrics_when_somebody_asks(streamed: bool, answers: list[Answer]) -> None:
    gathered = counted(at_once=True, streamed=streamed, answers=answers)
    assert gathered == counted(at_once=False, streamed=streamed, answers=answers)


def test_a_stream_that_has_only_begun_is_counted_as_one_that_waited_for_nothing() -> None:
    metrics = Metrics(CollectorRegistry())
    gathering = Tally(metrics, "chat", "m", "p", "model", True)
    gathering.unqueued += 1
    for _ in range(2):
        gathering.fold()
    assert sum(metrics.queues("p").counts) == 1
    assert not metrics.attempted.children


def test_names_that_are_not_known_are_counted_under_other() -> None:
    assert counted(at_once=True, known=False) == counted(at_once=False, known=False)


def test_no_more_than_so_many_wait() -> None:
    metrics = Metrics(CollectorRegistry())
    gathering = Tally(metrics, "chat", "m", "p", "model")
    for _ in range(tally.MOST - 1):
        gathering.add((0.2, 0.0004, Usage(), None, None, 0))
    assert not metrics.attempted.children
    gathering.add((0.2, 0.0004, Usage(), None, None, 0))
    assert metrics.attempted("p", "ok").value == tally.MOST
