"""Every metric's name, labels, unit and buckets, and what may stand in its labels."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Literal

from proxy.errors import GatewayError
from proxy.record import frozen

TOKEN_CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")

# OpenTelemetry's boundaries for gen_ai durations (0.01 to 81.92) and two more, since agents' streams last minutes.
SECONDS = tuple(round(0.01 * 2**n, 2) for n in range(16))
# Its boundaries for the time per output token, and three below: the fastest providers make 1,000 tokens a second.
SECONDS_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
OVERHEAD = tuple(0.00025 * 2**n for n in range(13))
QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
TOKENS = tuple(float(4**n) for n in range(14))

# https://github.com/open-telemetry/semantic-conventions-genai: `gen_ai.operation.name`; others are the surface's name.
OPERATIONS = {"chat": "chat", "messages": "chat", "responses": "chat", "completions": "text_completion"}
GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

Kind = Literal["counter", "gauge", "histogram"]


@frozen
class Spec:
    """One metric. `origin`: recorded by a method of `Metrics`, read by a callable at scrape time, or a view of the
    histogram that `of` names. `divisor` makes its unit of what is counted."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    help: str
    buckets: tuple[float, ...] = ()
    origin: Literal["recorded", "read", "view"] = "recorded"
    of: str = ""
    divisor: int = 1


ANSWERED = ("surface", "model", "provider")

# fmt: off
_ALL = (
    Spec("pointsman_requests_total", "counter", (*ANSWERED, "intent", "status", "outcome"), "requests",
         "Requests ended, by who answered, what was asked for, what the client got and the error code, or ok."),
    Spec("pointsman_not_admitted_total", "counter", ("outcome",), "requests",
         "Requests turned away for want of a key that is good, by error code. They have no record."),
    Spec("pointsman_request_duration_seconds", "histogram", (*ANSWERED, "streamed"), "seconds",
         "From a request's arrival to the end of its answer.", SECONDS),
    Spec("pointsman_overhead_seconds", "histogram", ("surface", "provider"), "seconds",
         "Of a request's time, what was not spent waiting for a provider.", OVERHEAD),
    Spec("pointsman_time_to_first_token_seconds", "histogram", ANSWERED, "seconds",
         "From a request's arrival to the first content of its streamed answer.", SECONDS),
    Spec("pointsman_time_per_output_token_seconds", "histogram", ANSWERED, "seconds",
         "Of a streamed answer that came to its end: time after the first content, by output token after the first.",
         SECONDS_PER_TOKEN),
    Spec("pointsman_tokens_total", "counter", ("model", "provider", "class"), "tokens",
         "Tokens as the provider counted them; reasoning is a part of output."),
    Spec("pointsman_cost_usd_total", "counter", ("model", "provider"), "USD",
         "What answers cost the house, where it is known.", divisor=1_000_000_000),
    Spec("pointsman_byok_cost_usd_total", "counter", ("model", "provider"), "USD",
         "What answers with callers' and projects' own keys cost, where it is known.", divisor=1_000_000_000),
    Spec("pointsman_unknown_cost_total", "counter", ("model", "provider"), "requests",
         "Answers whose cost is unknown: no price, or no usage."),
    Spec("pointsman_attempts_total", "counter", ("provider", "outcome"), "attempts",
         "Attempts ended, by error code, or ok."),
    Spec("pointsman_in_flight", "gauge", ("provider",), "attempts",
         "Attempts under way."),
    Spec("pointsman_queue_seconds", "histogram", ("provider",), "seconds",
         "Wait for a free connection to the provider.", QUEUE),
    Spec("pointsman_probes_failed_total", "counter", ("provider",), "probes",
         "Questions to a provider that no client asked, and that failed: its list of models, its health."),
    Spec("pointsman_client_disconnects_total", "counter", ("phase",), "requests",
         "Clients that left before the end, by what their request was waiting for."),
    Spec("pointsman_stream_edits_total", "counter", ("kind",), "edits",
         "Changes made to a provider's answer on its way."),
    Spec("pointsman_budget_alerts_total", "counter", ("scope", "percent"), "alerts",
         "Budgets of keys and projects of which so much was spent."),
    Spec("pointsman_webhooks_total", "counter", ("result",), "alerts",
         "Alerts for the webhook: sent, failed, or dropped because too many waited."),
    Spec("pointsman_config_info", "gauge", ("revision",), "",
         "1 for the revision of the table in use."),
    Spec("pointsman_config_reloads_total", "counter", ("result",), "reloads",
         "Tables read, the first included: ok or rejected."),
    Spec("pointsman_config_last_reload_successful", "gauge", (), "",
         "0 while the file was rejected and an older table serves."),
    Spec("pointsman_label_overflow_total", "counter", ("label",), "observations",
         "Observations counted under other because a label, or the series of a metric, reached the cap."),

    Spec("pointsman_budget_used_ratio", "gauge", ("project",), "",
         "What a project has spent of its budget in this period, with requests under way; 1 is all.", origin="read"),
    Spec("pointsman_cooldown_seconds", "gauge", ("provider", "model", "credential"), "seconds",
         "Time left until a candidate, or a credential by its place in the list, is tried in its turn again.",
         origin="read"),
    Spec("pointsman_probe_up", "gauge", ("provider",), "",
         "0 while the last probe of a provider failed, 1 where somebody answered it.", origin="read"),
    Spec("pointsman_ledger_written_total", "counter", (), "rows",
         "Ledger rows written to the file.", origin="read"),
    Spec("pointsman_ledger_dropped_total", "counter", (), "rows",
         "Ledger rows lost because the queue was full.", origin="read"),
    Spec("pointsman_ledger_failed_total", "counter", (), "rows",
         "Ledger rows that could not be written at all.", origin="read"),
    Spec("pointsman_ledger_queued", "gauge", (), "rows",
         "Ledger rows on their way to the file.", origin="read"),
    Spec("pointsman_ledger_queued_bytes", "gauge", (), "bytes",
         "Estimated size of the ledger's queue.", origin="read"),
    Spec("pointsman_ledger_stalled", "gauge", (), "",
         "1 while the ledger's file takes no rows.", origin="read"),
    Spec("pointsman_log_dropped_total", "counter", (), "lines",
         "Log lines lost because the stream blocked or failed.", origin="read"),
    Spec("pointsman_affinity_pins", "gauge", (), "conversations",
         "Conversations pinned to the candidate that answered last.", origin="read"),
    Spec("pointsman_connections_turned_away_total", "counter", (), "connections",
         "Connections of clients closed because there were too many.", origin="read"),
    Spec("pointsman_requests_under_way", "gauge", (), "requests",
         "Requests that have one of the places of concurrency.", origin="read"),
    Spec("pointsman_requests_waiting", "gauge", (), "requests",
         "Requests that wait for one of these places.", origin="read"),
    Spec("pointsman_body_bytes_held", "gauge", (), "bytes",
         "Bodies of the requests under way.", origin="read"),
    Spec("pointsman_memory_high", "gauge", (), "",
         "1 while new requests are refused for want of memory.", origin="read"),
    Spec("pointsman_client_connections", "gauge", (), "connections",
         "Open connections of clients.", origin="read"),
    Spec("pointsman_upstream_connections", "gauge", ("provider",), "connections",
         "Open connections to a provider, idle ones included.", origin="read"),

    Spec("gen_ai_client_token_usage", "histogram", (*GEN_AI, "gen_ai_token_type"), "tokens",
         "Input, cached or not, and output tokens of one answer.", TOKENS),
    Spec("gen_ai_server_request_duration_seconds", "histogram", GEN_AI, "seconds",
         "pointsman_request_duration_seconds by OpenTelemetry's names.",
         origin="view", of="pointsman_request_duration_seconds"),
    Spec("gen_ai_server_time_to_first_token_seconds", "histogram", GEN_AI, "seconds",
         "pointsman_time_to_first_token_seconds by OpenTelemetry's names.",
         origin="view", of="pointsman_time_to_first_token_seconds"),
    Spec("gen_ai_server_time_per_output_token_seconds", "histogram", GEN_AI, "seconds",
         "pointsman_time_per_output_token_seconds by OpenTelemetry's names.",
         origin="view", of="pointsman_time_per_output_token_seconds"),
)
# fmt: on
SPECS: dict[str, Spec] = {spec.name: spec for spec in _ALL}


def _codes(kind: type[GatewayError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


OUTCOMES = frozenset({"ok", *_codes(GatewayError)})

# Any other is told by its class. 499 is nginx's for a client that left, 520 to 524 are Cloudflare's, 529 Anthropic's.
STATUSES = {code: str(code) for code in (*map(int, HTTPStatus), 499, *range(520, 525), 529)}

# Labels whose values are not words of our own code; models and providers become known with a table.
KNOWN: dict[str, frozenset[str]] = {"model": frozenset(), "provider": frozenset(), "outcome": OUTCOMES}
