"""What is counted and measured, for Prometheus: every metric's name, labels and buckets stand in `SPECS`.

No label ever grows with what clients send: models and providers are named once `known` has announced them, outcomes
are the codes of `errors`, other words come from our own code, and each label and each metric has a cap. What does not
fit is counted under "other". A key, a user or a raw client string is never a label.

One thread, the event loop's, calls all methods, so a number needs no lock: prometheus-client's own counters and
histograms take four times as long, and its text seven times. It brings what it knows of the process, and is imported
by the first scrape: it takes 5 MB.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from attrs import field

from proxy import ir
from proxy.errors import GatewayError
from proxy.record import define, frozen

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

NONE = "none"  # nobody answered
OTHER = "other"

SERIES = 2_000  # of one metric; past it new ones lose their model and provider
LIMITS = {"model": 500, "provider": 100}  # values of one label
LIMIT = 100  # of any other label

TOKEN_CLASSES = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
TOKENS_OF = attrgetter(*TOKEN_CLASSES)  # how many an answer's usage has of each

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
Reading = float | Mapping[tuple[str | None, ...], float]


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


@define
class Number:
    """A counter's or a gauge's value in one series."""

    value: float = 0

    def inc(self, by: float = 1) -> None:
        self.value += by


@define
class Histogram:
    """One series of a histogram; `counts` has one place more than `bounds`, for what is above them all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@define
class Label:
    """The values of one label: at most `limit`, and of these only `known` ones; None is any word of our own code.

    A value takes its place when it is first used and keeps it, as its series does, when the table forgets it.
    """

    name: str
    limit: int
    overflow: Callable[[str], None]
    known: frozenset[str] | None = None
    taken: set[str] = field(factory=set)

    def __call__(self, value: str | None) -> str:
        if value is None or value == NONE:
            return NONE
        if value in self.taken:
            return value
        if value == OTHER or (self.known is not None and value not in self.known):
            return OTHER
        if len(self.taken) >= self.limit:
            self.overflow(self.name)
            return OTHER
        self.taken.add(value)
        return value


Child = TypeVar("Child", Number, Histogram)


@define
class Family(Generic[Child]):
    """A metric by its label values: `requests("chat", "gpt-4o", ...).inc()`. At most `SERIES` of them have a model."""

    labels: tuple[Label, ...]
    new: Callable[[], Child]
    overflow: Callable[[str], None]
    children: dict[tuple[str, ...], Child] = field(factory=dict)

    def __call__(self, *values: str) -> Child:
        child = self.children.get(values)
        return self.bind(values) if child is None else child

    def bind(self, values: tuple[str | None, ...]) -> Child:
        named = tuple(label(value) for label, value in zip(self.labels, values, strict=True))
        if len(self.children) >= SERIES and named not in self.children:
            self.overflow("series")
            named = tuple(
                OTHER if label.name in LIMITS else value for label, value in zip(self.labels, named, strict=True)
            )
        if named not in self.children:
            self.children[named] = self.new()
        return self.children[named]


@define
class Answers:
    """What answers of one surface, model and provider count in, looked up once."""

    first_token: Histogram
    per_token: Histogram
    tokens: tuple[Number, ...]
    inputs: Histogram
    outputs: Histogram
    cost: Number
    byok_cost: Callable[[], Number]
    unknown_cost: Number

    def count(self, usage: ir.Usage) -> None:
        for number, tokens in zip(self.tokens, TOKENS_OF(usage), strict=True):
            if tokens and tokens > 0:  # a provider may say anything; a counter never goes down
                number.value += tokens
        if (read := usage.input_total) is not None:
            self.inputs.observe(read)
        if usage.output is not None:
            self.outputs.observe(usage.output)


@define
class Series:
    """What requests of one surface, model and provider count in; `answers` is None where nobody answered."""

    names: tuple[str, str, str]
    duration: Histogram
    overhead: Histogram
    answers: Answers | None
    requests: dict[tuple[str, int, str], Number] = field(factory=dict)  # by intent, status and outcome


class Metrics:
    """The metrics of this process.

    `registry` holds foreign collectors, whose text follows ours; without one, those of the process and of Python.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry
        self._labels: dict[str, Label] = {}
        self._families: dict[str, Family[Number] | Family[Histogram]] = {}
        self._readers: dict[str, Callable[[], Reading]] = {}
        self._series: dict[tuple[str, str | None, str | None, bool], Series] = {}
        self.folds: list[Callable[[], None]] = []  # put into the numbers what was gathered beside them

        self._requests = self._numbers("pointsman_requests_total")
        self._not_admitted = self._numbers("pointsman_not_admitted_total")
        self._durations = self._histograms("pointsman_request_duration_seconds")
        self._overheads = self._histograms("pointsman_overhead_seconds")
        self._first_tokens = self._histograms("pointsman_time_to_first_token_seconds")
        self._per_tokens = self._histograms("pointsman_time_per_output_token_seconds")
        self._tokens = self._numbers("pointsman_tokens_total")
        self._usages = self._histograms("gen_ai_client_token_usage")
        self._costs = self._numbers("pointsman_cost_usd_total")
        self._byok_costs = self._numbers("pointsman_byok_cost_usd_total")
        self._unknown_costs = self._numbers("pointsman_unknown_cost_total")
        self.attempted = self._numbers("pointsman_attempts_total")
        self.queues = self._histograms("pointsman_queue_seconds")
        self._failed_probes = self._numbers("pointsman_probes_failed_total")
        self._disconnects = self._numbers("pointsman_client_disconnects_total")
        self._edits = self._numbers("pointsman_stream_edits_total")
        self._budget_alerts = self._numbers("pointsman_budget_alerts_total")
        self._webhooks = self._numbers("pointsman_webhooks_total")
        self._revisions = self._numbers("pointsman_config_info")
        self._reloads = self._numbers("pointsman_config_reloads_total")
        self._current = self._numbers("pointsman_config_last_reload_successful")
        self._overflows = self._numbers("pointsman_label_overflow_total")
        # `in_flight("openai")`: keep what it gives from `inc` to `dec`, since a name may become known in between.
        self.in_flight = self._numbers("pointsman_in_flight")
        for result in ("ok", "rejected"):
            self._reloads(result)

    # -- what may be a label -------------------------------------------------------------------------------------

    def known(self, *, models: Iterable[str], providers: Iterable[str]) -> None:
        """The catalog's ids and the table's providers, at the start and whenever either changes. Others are "other"."""
        self._label("model").known = frozenset(models)
        self._label("provider").known = frozenset(providers)

    # -- at the end of things ------------------------------------------------------------------------------------

    def request_done(
        self,
        *,
        surface: str,
        model: str | None,
        provider: str | None,
        intent: str,
        status: int,
        outcome: str,
        duration_s: float,
        overhead_s: float,
        ttft_s: float | None,
        usage: ir.Usage | None,
        cost_nanos: int | None,
        streamed: bool,
        byok: bool = False,
    ) -> None:
        """Once per request, at its end. `model` is the catalog id of who answered; None: nobody did.

        `intent` is what kind of name was asked for, as the plan has it; "none" where there was no plan. `status` is
        what the client got, 499 where it had left. `cost_nanos` None is unknown; what is free costs 0. With `byok`
        it is on the caller's bill.
        """
        key = (surface, model, provider, streamed)
        series = self._series.get(key) or self.bind(*key)
        ended = series.requests.get((intent, status, outcome)) or self.ended(series, intent, status, outcome)
        ended.value += 1
        series.duration.observe(duration_s)
        series.overhead.observe(overhead_s if overhead_s > 0 else 0.0)
        answers = series.answers
        if answers is None:
            return
        if usage is not None:
            answers.count(usage)
        if streamed and ttft_s is not None:
            answers.first_token.observe(ttft_s)
            # Only of a whole answer: the usage of one that was cut may be that of its beginning.
            if outcome == "ok" and usage is not None and usage.output is not None and usage.output > 1:
                answers.per_token.observe(max(0.0, duration_s - ttft_s) / (usage.output - 1))
        if cost_nanos is not None:
            (answers.byok_cost() if byok else answers.cost).value += cost_nanos if cost_nanos > 0 else 0
        elif status < 400 or status == 499:
            answers.unknown_cost.value += 1

    def ended(self, series: Series, intent: str, status: int, outcome: str) -> Number:
        """Bound for good where nothing had to be put under "other" for want of room: that is counted each time."""
        values = (*series.names, intent, STATUSES.get(status) or _status_class(status), outcome)
        number = self._requests(*values)
        if self._requests.children.get(values) is number:
            series.requests[intent, status, outcome] = number
        return number

    def attempt_done(self, *, provider: str, outcome: str) -> None:
        """`outcome` is "ok" or the error's code."""
        self.attempted(provider, outcome).value += 1

    def stream_edited(self, kind: str, count: int = 1) -> None:
        """`kind` as `streams.Stream.edits` has it."""
        self._edits(kind).inc(count)

    def not_admitted(self, outcome: str) -> None:
        self._not_admitted(outcome).inc()

    def client_gone(self, phase: str) -> None:
        """`phase` is what the request was waiting for."""
        self._disconnects(phase).inc()

    def queued(self, provider: str, seconds: float) -> None:
        self.queues(provider).observe(seconds)

    def probe_failed(self, provider: str) -> None:
        self._failed_probes(provider).inc()

    def budget_alert(self, scope: str, percent: str) -> None:
        self._budget_alerts(scope, percent).inc()

    def webhook(self, result: str) -> None:
        self._webhooks(result).inc()

    def reloaded(self, revision: str, ok: bool) -> None:
        """A table was read: `revision` serves from now on if `ok`, else the one before goes on."""
        self._reloads("ok" if ok else "rejected").inc()
        self._current().value = int(ok)
        if ok:
            self._revisions.children = {(revision,): Number(1)}

    # -- at scrape time ------------------------------------------------------------------------------------------

    def collect_from(self, name: str, read: Callable[[], Reading]) -> None:
        """`read` gives that metric's value, or its values by label values, whenever somebody scrapes.

        In a label's place None is "none". Where bounding makes labels equal, counts are added and of gauges the
        largest stands. Raises KeyError for a name that is none of the metrics read so.
        """
        if SPECS[name].origin != "read":
            raise KeyError(name)
        self._readers[name] = read

    def render(self) -> bytes:
        """Prometheus' text format: the body of `GET /metrics`, of `content_type`."""
        for fold in self.folds:
            fold()
        read = {name: self._read(SPECS[name], reader()) for name, reader in self._readers.items()}
        views = {spec.name: self._view(spec) for spec in SPECS.values() if spec.origin == "view"}
        families = self._families | read | views
        # The overflow of this very scrape is counted by now, and stands in it.
        texts = (_text(SPECS[name], family.children) for name, family in families.items())
        return "".join(line for lines in texts for line in lines).encode() + self._foreign()

    def _foreign(self) -> bytes:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

        if self.registry is None:
            self.registry = CollectorRegistry()
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        return generate_latest(self.registry)

    def _read(self, spec: Spec, reading: Reading) -> Family[Number]:
        family = self._family(spec, Number)
        for values, value in (reading if isinstance(reading, Mapping) else {(): reading}).items():
            child = family.bind(values)
            child.value = child.value + value if spec.kind == "counter" else max(child.value, value)
        return family

    def _view(self, spec: Spec) -> Family[Histogram]:
        """A histogram by the names that OpenTelemetry's dashboards ask for; surfaces of one operation are added up."""
        source, labels = self._families[spec.of], SPECS[spec.of].labels
        view = self._family(spec, lambda: Histogram(SPECS[spec.of].buckets))
        for values, child in source.children.items():
            of = dict(zip(labels, values, strict=True))
            assert isinstance(child, Histogram)
            view(_operation(of["surface"]), of["provider"], of["model"]).add(child)
        return view

    # -- the families --------------------------------------------------------------------------------------------

    def _numbers(self, name: str) -> Family[Number]:
        self._families[name] = family = self._family(SPECS[name], Number)
        return family

    def _histograms(self, name: str) -> Family[Histogram]:
        self._families[name] = family = self._family(SPECS[name], lambda: Histogram(SPECS[name].buckets))
        return family

    def _family(self, spec: Spec, new: Callable[[], Child]) -> Family[Child]:
        return Family(tuple(map(self._label, spec.labels)), new, self._overflowed)

    def _label(self, name: str) -> Label:
        """Labels of one meaning share their places, whatever OpenTelemetry calls them."""
        name = {"gen_ai_provider_name": "provider", "gen_ai_request_model": "model"}.get(name, name)
        if name not in self._labels:
            self._labels[name] = Label(name, LIMITS.get(name, LIMIT), self._overflowed, KNOWN.get(name))
        return self._labels[name]

    def _overflowed(self, label: str) -> None:
        self._overflows(label).inc()

    def bind(self, surface: str, model: str | None, provider: str | None, streamed: bool) -> Series:
        """The series of what the labels make of these. Unknown names come here each time, and never become keys."""
        names = (self._label("surface")(surface), self._label("model")(model), self._label("provider")(provider))
        key = (names[0], None if model is None else names[1], None if provider is None else names[2], streamed)
        series = self._series.get(key)
        if series is None:
            series = Series(
                names,
                self._durations(*names, "true" if streamed else "false"),
                self._overheads(names[0], names[2]),
                None if model is None else self._answers(*names),
            )
            if len(self._series) < SERIES:
                self._series[key] = series
        return series

    def _answers(self, surface: str, model: str, provider: str) -> Answers:
        operation = _operation(surface)
        return Answers(
            first_token=self._first_tokens(surface, model, provider),
            per_token=self._per_tokens(surface, model, provider),
            tokens=tuple(self._tokens(model, provider, name) for name in TOKEN_CLASSES),
            inputs=self._usages(operation, provider, model, "input"),
            outputs=self._usages(operation, provider, model, "output"),
            cost=self._costs(model, provider),
            byok_cost=partial(self._byok_costs, model, provider),
            unknown_cost=self._unknown_costs(model, provider),
        )


def _operation(surface: str) -> str:
    return OPERATIONS.get(surface, surface)


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


# -- the text format ---------------------------------------------------------------------------------------------
# https://prometheus.io/docs/instrumenting/exposition_formats/

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def _text(
    spec: Spec, children: Mapping[tuple[str, ...], Number] | Mapping[tuple[str, ...], Histogram]
) -> Iterator[str]:
    yield f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} {spec.kind}\n"
    for values, child in children.items():
        labels = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(spec.labels, values, strict=True)]
        if isinstance(child, Histogram):
            yield from _histogram_text(spec.name, labels, child)
        else:
            yield f"{spec.name}{_braced(labels)} {child.value / spec.divisor}\n"


def _histogram_text(name: str, labels: list[str], child: Histogram) -> Iterator[str]:
    if not any(child.counts):
        return
    count, head = 0, f"{name}_bucket{{{''.join(f'{label},' for label in labels)}le="
    for bound, here in zip((*child.bounds, "+Inf"), child.counts, strict=True):
        count += here
        yield f'{head}"{bound}"}} {count}\n'
    yield f"{name}_sum{_braced(labels)} {child.sum}\n{name}_count{_braced(labels)} {count}\n"


def _braced(labels: list[str]) -> str:
    return f"{{{','.join(labels)}}}" if labels else ""
