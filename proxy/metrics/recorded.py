"""What is recorded as things end, what is read when somebody scrapes, and the page that is made of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from attrs import field

from proxy import ir
from proxy.metrics.series import LIMIT, LIMITS, OTHER, SERIES, Child, Family, Histogram, Label, Number, text_of
from proxy.metrics.specs import KNOWN, OPERATIONS, SPECS, STATUSES, TOKEN_CLASSES, Spec
from proxy.record import define

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

TOKENS_OF = attrgetter(*TOKEN_CLASSES)  # how many an answer's usage has of each

Reading = float | Mapping[tuple[str | None, ...], float]


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
        texts = (text_of(SPECS[name], family.children) for name, family in families.items())
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
