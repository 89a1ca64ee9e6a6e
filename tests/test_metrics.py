"""What Prometheus gets to see: bounded, documented, and right to the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from proxy.errors import GatewayError, UpstreamTimeout
from proxy.ir import Usage
from proxy.metrics import SPECS, Metrics, recorded, series, specs

DOCS = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<labels>.+?) \| (?P<unit>.+?) \| .+ \|$", re.MULTILINE)

ANSWER: dict[str, Any] = {
    "surface": "chat",
    "model": "gpt-4o",
    "provider": "openai",
    "intent": "auto",
    "status": 200,
    "outcome": "ok",
    "duration_s": 4.3,
    "overhead_s": 0.0006,
    "ttft_s": 0.3,
    "usage": Usage(input=800, cache_read=200, cache_write_5m=24, output=101, reasoning=40),
    "cost_nanos": 4_130_000,
    "streamed": True,
}
NOBODY = ANSWER | {
    "model": None,
    "provider": None,
    "status": 503,
    "outcome": "all_candidates_cooling",
    "ttft_s": None,
    "usage": None,
    "cost_nanos": None,
}


@pytest.fixture
def counted() -> Metrics:
    counted = Metrics(CollectorRegistry())
    counted.known(models=["gpt-4o", "claude-haiku-4-5"], providers=["openai", "anthropic"])
    return counted


def families(counted: Metrics) -> dict[str, Metric]:
    """By their names in the text: the parser takes `_total` off."""
    parsed = text_string_to_metric_families(counted.render().decode())
    return {metric.name + "_total" * (metric.type == "counter"): metric for metric in parsed}


def value(counted: Metrics, name: str, **labels: str) -> float | None:
    """Of the one sample with exactly these labels; None if there is none."""
    for metric in text_string_to_metric_families(counted.render().decode()):
        for sample in metric.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def fill(counted: Metrics) -> None:
    """Something in every metric."""
    counted.request_done(**ANSWER)
    counted.request_done(**ANSWER | {"cost_nanos": None})
    counted.request_done(**ANSWER | {"byok": True})
    counted.request_done(**NOBODY)
    counted.attempt_done(provider="openai", outcome="ok")
    counted.stream_edited("usage_removed")
    counted.client_gone("stream")
    counted.not_admitted("invalid_api_key")
    counted.budget_alert("project", "80")
    counted.webhook("sent")
    counted.queued("openai", 0.02)
    counted.probe_failed("openai")
    counted.in_flight("openai").inc()
    counted.reloaded("sha256:ab12", True)
    for number in range(series.LIMIT + 1):
        counted.stream_edited(f"kind {number}")
    for spec in SPECS.values():
        if spec.origin == "read":
            labels = tuple("0" for _ in spec.labels)
            counted.collect_from(spec.name, lambda labels=labels: {labels: 3.0})  # type: ignore[misc]


# -- the docs ----------------------------------------------------------------------------------------------------


def documented() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    for row in ROW.finditer(DOCS):
        unit = "" if row["unit"] == "-" else row["unit"]
        yield row["name"], row["kind"], tuple(re.findall(r"`(\w+)`", row["labels"])), unit


def test_the_docs_have_every_metric_with_its_type_labels_and_unit_and_no_other() -> None:
    ours = {(spec.name, spec.kind, spec.labels, spec.unit) for spec in SPECS.values()}
    assert {row for row in documented() if not row[0].startswith(("process_", "python_"))} == ours


def test_what_is_rendered_is_what_the_docs_say() -> None:
    counted = Metrics()
    counted.known(models=["gpt-4o"], providers=["openai"])
    fill(counted)
    rows = {name: (kind, set(labels)) for name, kind, labels, _ in documented()}
    seen = families(counted)
    assert seen.keys() == rows.keys()
    for name, metric in seen.items():
        assert metric.samples, f"{name} is never filled"
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in metric.samples}
        assert (metric.type, labels) == (rows[name][0], {frozenset(rows[name][1])})


def test_every_question_asks_for_metrics_and_labels_that_exist() -> None:
    questions = re.findall(r"```promql\n(.+?)```", DOCS, re.DOTALL)
    assert len(questions) >= 6
    for question in questions:
        names = re.findall(r"pointsman_\w+", question)
        assert names
        of = [SPECS[re.sub(r"_(bucket|sum|count)$", "", name)] for name in names]
        asked = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", question)
        asked += [label for group in re.findall(r"by \((.+?)\)", question) for label in group.split(", ")]
        assert set(asked) - {"le"} <= {label for spec in of for label in spec.labels}


def test_the_docs_name_the_caps() -> None:
    models, providers = series.LIMITS["model"], series.LIMITS["provider"]
    assert f"At most {models} models, {providers} providers and {series.LIMIT} values of any other label" in DOCS
    assert f"at most {series.SERIES:,} series of one" in DOCS


def test_every_word_of_our_own_that_is_a_label_is_in_the_docs() -> None:
    for word in ("usage_removed", "terminator_added", "surplus_dropped", *specs.TOKEN_CLASSES, *specs.OPERATIONS):
        assert f"`{word}`" in DOCS


# -- one request -------------------------------------------------------------------------------------------------


def test_a_streamed_answer_counts_in_everything_once(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    who = {"surface": "chat", "model": "gpt-4o", "provider": "openai"}
    of = {"model": "gpt-4o", "provider": "openai"}
    assert value(counted, "pointsman_requests_total", **who, intent="auto", status="200", outcome="ok") == 1
    assert value(counted, "pointsman_request_duration_seconds_sum", **who, streamed="true") == 4.3
    assert value(counted, "pointsman_overhead_seconds_sum", surface="chat", provider="openai") == 0.0006
    assert value(counted, "pointsman_time_to_first_token_seconds_sum", **who) == 0.3
    assert value(counted, "pointsman_time_per_output_token_seconds_sum", **who) == pytest.approx(4.0 / 100)
    assert value(counted, "pointsman_cost_usd_total", **of) == 0.00413
    assert value(counted, "pointsman_unknown_cost_total", **of) == 0


TOKENS = {"input": 800, "cache_read": 200, "cache_write_5m": 24, "cache_write_1h": 0, "output": 101, "reasoning": 40}


def test_tokens_are_counted_by_class(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    got = {sample.labels["class"]: sample.value for sample in families(counted)["pointsman_tokens_total"].samples}
    assert got == TOKENS


def test_opentelemetry_counts_cached_input_as_input(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    who = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-4o"}
    assert value(counted, "gen_ai_client_token_usage_sum", **who, gen_ai_token_type="input") == 1024
    assert value(counted, "gen_ai_client_token_usage_sum", **who, gen_ai_token_type="output") == 101


def test_opentelemetry_sees_the_surfaces_of_one_operation_as_one(counted: Metrics) -> None:
    for surface in ("chat", "messages", "responses", "completions"):
        counted.request_done(**ANSWER | {"surface": surface})
    counted.request_done(**ANSWER | {"streamed": False, "duration_s": 1000.0})
    of = {"gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-4o"}
    name = "gen_ai_server_request_duration_seconds"
    assert value(counted, f"{name}_count", gen_ai_operation_name="chat", **of) == 4
    assert value(counted, f"{name}_bucket", gen_ai_operation_name="chat", le="5.12", **of) == 3
    assert value(counted, f"{name}_sum", gen_ai_operation_name="chat", **of) == pytest.approx(3 * 4.3 + 1000)
    assert value(counted, f"{name}_count", gen_ai_operation_name="text_completion", **of) == 1


NO_PACE = {
    "a plain answer has no pace": {"streamed": False},
    "nor one without content": {"ttft_s": None},
    "nor one that was cut": {"outcome": "bad_upstream_response"},
    "nor one of unknown length": {"usage": Usage(input=3)},
    "nor one of a single token": {"usage": Usage(input=3, output=1)},
    "nor one without usage": {"usage": None},
}


@pytest.mark.parametrize("change", NO_PACE.values(), ids=NO_PACE)
def test_seconds_per_token_need(counted: Metrics, change: dict[str, Any]) -> None:
    counted.request_done(**ANSWER | change)
    assert not families(counted)["pointsman_time_per_output_token_seconds"].samples


UNKNOWN_COST = {
    "no price": ({}, 1),
    "the client left in the middle": ({"status": 499, "outcome": "client_closed", "usage": None}, 1),
    "no usage": ({"usage": None}, 1),
    "a free model costs nothing, which is known": ({"cost_nanos": 0}, 0),
    "a rejected request is not billed": ({"status": 400, "outcome": "upstream_rejected", "usage": None}, 0),
}


@pytest.mark.parametrize(("change", "count"), UNKNOWN_COST.values(), ids=UNKNOWN_COST)
def test_an_unknown_cost_is_counted_and_is_not_zero_dollars(
    counted: Metrics, change: dict[str, Any], count: int
) -> None:
    counted.request_done(**ANSWER | {"cost_nanos": None} | change)
    assert value(counted, "pointsman_unknown_cost_total", model="gpt-4o", provider="openai") == count
    assert value(counted, "pointsman_cost_usd_total", model="gpt-4o", provider="openai") == 0


def test_money_adds_up_without_rounding(counted: Metrics) -> None:
    for _ in range(1000):
        counted.request_done(**ANSWER | {"cost_nanos": 100_000_001})
    assert value(counted, "pointsman_cost_usd_total", model="gpt-4o", provider="openai") == 100.000001


def test_where_nobody_answered_there_is_a_request_and_nothing_else(counted: Metrics) -> None:
    counted.request_done(**NOBODY)
    who = {"surface": "chat", "model": "none", "provider": "none"}
    labels = {**who, "intent": "auto", "status": "503", "outcome": "all_candidates_cooling"}
    assert value(counted, "pointsman_requests_total", **labels) == 1
    for name in ("pointsman_tokens_total", "pointsman_cost_usd_total", "pointsman_unknown_cost_total"):
        assert not families(counted)[name].samples


def test_what_a_provider_says_of_usage_never_takes_a_counter_down(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    counted.request_done(**ANSWER | {"usage": Usage(input=-500, output=-1), "cost_nanos": -7, "overhead_s": -0.1})
    of = {"model": "gpt-4o", "provider": "openai"}
    assert value(counted, "pointsman_tokens_total", **of, **{"class": "input"}) == 800
    assert value(counted, "pointsman_cost_usd_total", **of) == 0.00413
    assert value(counted, "pointsman_overhead_seconds_sum", surface="chat", provider="openai") == 0.0006


def test_a_value_on_a_bound_belongs_below_it(counted: Metrics) -> None:
    counted.queued("openai", 0.01)
    counted.queued("openai", 61.0)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families(counted)["pointsman_queue_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert (buckets["0.005"], buckets["0.01"], buckets["60.0"], buckets["+Inf"]) == (0, 1, 1, 2)


# -- labels ------------------------------------------------------------------------------------------------------


def labels_of(counted: Metrics, label: str) -> set[str]:
    return {
        sample.labels[label]
        for metric in families(counted).values()
        for sample in metric.samples
        if label in sample.labels
    }


def test_names_that_nobody_announced_are_other(counted: Metrics) -> None:
    for number in range(3 * series.SERIES):
        counted.request_done(**ANSWER | {"model": f"claude-{number}", "provider": f"p{number}"})
        counted.attempt_done(provider=f"p{number}", outcome=f"sk-secret-{number}")
        counted.in_flight(f"p{number}").inc()
    assert labels_of(counted, "model") == {"other"}
    assert labels_of(counted, "provider") == {"other"}
    assert labels_of(counted, "outcome") == {"ok", "other"}
    assert value(counted, "pointsman_attempts_total", provider="other", outcome="other") == 3 * series.SERIES
    assert "secret" not in counted.render().decode()


def test_unknown_names_leave_nothing_behind(counted: Metrics) -> None:
    counted.request_done(**ANSWER | {"model": "claude-0"})
    before = len(counted._series)
    for number in range(1, 100):
        counted.request_done(**ANSWER | {"model": f"claude-{number}"})
    assert len(counted._series) == before


def test_more_models_than_the_cap_are_other_and_the_overflow_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 10
    monkeypatch.setitem(series.LIMITS, "model", limit)
    models = [f"m{number}" for number in range(limit + 20)]
    counted = Metrics(CollectorRegistry())
    counted.known(models=models, providers=["openai"])
    for model in models:
        counted.request_done(**ANSWER | {"model": model})
    assert labels_of(counted, "model") == {*models[:limit], "other"}
    assert value(counted, "pointsman_label_overflow_total", label="model") == 20
    labels = {"surface": "chat", "model": "other", "provider": "openai", "intent": "auto"}
    labels |= {"status": "200", "outcome": "ok"}
    assert value(counted, "pointsman_requests_total", **labels) == 20


def test_only_names_that_are_used_take_a_place(counted: Metrics) -> None:
    counted.known(models=[f"m{number}" for number in range(10_000)], providers=["openai"])
    counted.request_done(**ANSWER | {"model": "m9999"})
    assert labels_of(counted, "model") == {"m9999"}


def test_a_metric_with_all_its_series_counts_on_under_other(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (series, recorded):
        monkeypatch.setattr(module, "SERIES", 8)
    models = [f"m{number}" for number in range(40)]
    counted.known(models=models, providers=["openai"])
    for model in models:
        for _ in range(2):
            counted.request_done(**ANSWER | {"model": model})
    seen = families(counted)["pointsman_requests_total"].samples
    assert len(seen) == 9
    assert sum(sample.value for sample in seen) == 80
    assert (value(counted, "pointsman_label_overflow_total", label="series") or 0) > 0
    assert len(counted._series) == 8


def test_a_name_keeps_its_series_when_the_table_forgets_it(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    counted.known(models=["claude-haiku-4-5"], providers=["anthropic"])
    counted.request_done(**ANSWER)
    assert labels_of(counted, "model") == {"gpt-4o"}


def test_every_error_code_is_an_outcome_of_its_own(counted: Metrics) -> None:
    def leaves(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
        yield kind
        for narrower in kind.__subclasses__():
            yield from leaves(narrower)

    codes = {kind.code for kind in leaves(GatewayError)}
    assert UpstreamTimeout.code in codes
    for code in codes:
        counted.attempt_done(provider="openai", outcome=code)
    assert codes <= labels_of(counted, "outcome")


STATUSES = {
    200: "200",
    404: "404",
    499: "499",
    521: "521",
    529: "529",
    530: "5xx",
    299: "2xx",
    0: "other",
    700: "other",
}


@pytest.mark.parametrize(("status", "label"), STATUSES.items(), ids=str)
def test_a_strange_status_is_told_by_its_class(counted: Metrics, status: int, label: str) -> None:
    counted.request_done(**ANSWER | {"status": status})
    assert labels_of(counted, "status") == {label}


def test_all_statuses_fit_their_label() -> None:
    assert len({specs.STATUSES.get(status) or status // 100 for status in range(1000)}) <= series.LIMIT
    assert len(specs.OUTCOMES) <= series.LIMIT


def test_label_values_are_escaped(counted: Metrics) -> None:
    name = 'a"b\\n\n{c="d"}'
    counted.known(models=[name], providers=["openai"])
    counted.request_done(**ANSWER | {"model": name})
    assert labels_of(counted, "model") == {name}


# -- the others --------------------------------------------------------------------------------------------------


def test_in_flight_goes_up_and_down(counted: Metrics) -> None:
    one, two = counted.in_flight("openai"), counted.in_flight("openai")
    one.value += 1
    two.value += 1
    one.value -= 1
    assert value(counted, "pointsman_in_flight", provider="openai") == 1


def test_a_rejected_table_counts_and_the_revision_stays(counted: Metrics) -> None:
    counted.reloaded("sha256:aa", True)
    counted.reloaded("sha256:bb", True)
    counted.reloaded("sha256:cc", False)
    assert labels_of(counted, "revision") == {"sha256:bb"}
    assert value(counted, "pointsman_config_reloads_total", result="ok") == 2
    assert value(counted, "pointsman_config_reloads_total", result="rejected") == 1
    assert value(counted, "pointsman_config_last_reload_successful") == 0
    counted.reloaded("sha256:bb", True)
    assert value(counted, "pointsman_config_last_reload_successful") == 1


def test_edits_disconnects_and_probes_are_counted(counted: Metrics) -> None:
    counted.stream_edited("usage_removed", 3)
    counted.stream_edited("usage_removed")
    counted.client_gone("first_byte")
    counted.probe_failed("openai")
    assert value(counted, "pointsman_stream_edits_total", kind="usage_removed") == 4
    assert value(counted, "pointsman_client_disconnects_total", phase="first_byte") == 1
    assert value(counted, "pointsman_probes_failed_total", provider="openai") == 1


# -- read at scrape time -----------------------------------------------------------------------------------------


def test_a_number_is_read_when_somebody_scrapes(counted: Metrics) -> None:
    rows = [1, 2]
    counted.collect_from("pointsman_ledger_queued", lambda: len(rows))
    assert value(counted, "pointsman_ledger_queued") == 2
    rows.clear()
    assert value(counted, "pointsman_ledger_queued") == 0


def test_a_candidate_or_credential_that_is_fit_again_is_gone(counted: Metrics) -> None:
    cooling: dict[tuple[str | None, ...], float] = {("openai", "gpt-4o", None): 12.5, ("openai", None, "0"): 300.0}
    counted.collect_from("pointsman_cooldown_seconds", lambda: cooling)
    name = "pointsman_cooldown_seconds"
    assert value(counted, name, provider="openai", model="gpt-4o", credential="none") == 12.5
    assert value(counted, name, provider="openai", model="none", credential="0") == 300
    cooling.clear()
    assert not families(counted)[name].samples


def test_readings_of_unknown_names_fall_together(counted: Metrics) -> None:
    cooling: dict[tuple[str | None, ...], float] = {("openai", f"raw-{number}", None): number for number in range(50)}
    counted.collect_from("pointsman_cooldown_seconds", lambda: cooling)
    (sample,) = families(counted)["pointsman_cooldown_seconds"].samples
    assert (sample.labels["model"], sample.value) == ("other", 49)


@pytest.mark.parametrize("name", ["pointsman_requests_total", "pointsman_nothing"])
def test_only_metrics_that_are_read_can_be_read(counted: Metrics, name: str) -> None:
    with pytest.raises(KeyError, match=name):
        counted.collect_from(name, lambda: 1.0)


# -- the text ----------------------------------------------------------------------------------------------------


def test_every_series_stands_once_and_buckets_only_grow(counted: Metrics) -> None:
    fill(counted)
    for metric in families(counted).values():
        series = [(sample.name, *sorted(sample.labels.items())) for sample in metric.samples]
        assert len(series) == len(set(series))
        last: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                of = tuple(sorted((name, text) for name, text in sample.labels.items() if name != "le"))
                assert sample.value >= last.get(of, 0)
                last[of] = sample.value


def test_a_fresh_process_has_a_text_too() -> None:
    fresh = Metrics()
    assert fresh.render().endswith(b"\n")
    assert {"process_resident_memory_bytes", "python_info"} <= families(fresh).keys()
    assert fresh.content_type.startswith("text/plain; version=0.0.4")


def test_two_of_them_share_nothing(counted: Metrics) -> None:
    counted.request_done(**ANSWER)
    assert not families(Metrics())["pointsman_requests_total"].samples
