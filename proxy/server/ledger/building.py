"""Decisions as rows, ready to be bound, most of each taken from what is remembered of those before it.

A row has two parts. What requests of one day have in common that were alike is made once, and kept. The rest is a
request's own: where nothing in it is out of the ordinary, it is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import orjson
from attrs import define, field

from proxy.catalog.price import PICO_PER_NANO
from proxy.routing.facts import RECORDED_DIGITS
from proxy.routing.forms import Form, Own, form_of
from proxy.routing.plan import Plan
from proxy.server.ledger.records import Attempt, Brief, Decision
from proxy.server.ledger.rows import (
    ATTEMPT,
    CODE,
    DAY_MS,
    DECISION,
    DETAIL,
    MARKED,
    NAME,
    Value,
    dropped_text,
    dumps,
    facts_text,
    integer,
    plan_text,
    text,
    usage_of,
)

MOST_ALIKE = 1024  # kinds of rows that are remembered, and of attempts
ROW_BYTES, ATTEMPT_BYTES = 1024, 512  # what a row weighs in memory, and each of its attempts
CHOICE = ("intent", "class", "rule", "profile")
NO_CHOICE = (None, None, None, None)

_row = tuple.__new__  # a named tuple's own constructor takes three times as long


@define(eq=False)
class Into:
    """Columns of a table that one statement fills."""

    table: str
    columns: tuple[str, ...]
    verb: str = "INSERT"
    conflict: str = ""


@define(eq=False)
class Kind:
    """Rows of one statement whose first values are the same."""

    into: Into
    shared: tuple[Value, ...]


# What is null in ordinary rows is left out of their statement: a null costs as much to bind as eight numbers.
ORDINARY = (
    "request_id", "at_ms", "input", "cache_read", "output", "reasoning", "cost_nanos", "charged_nanos", "ttfb_ms",
    "duration_ms", "queue_ms", "bytes_committed", "own",
)  # fmt: skip
ORDINARY_ATTEMPT = (
    "started_ms", "duration_ms", "ttfb_ms", "upstream_request_id", "input", "cache_read", "output", "reasoning",
    "cost_nanos", "bytes_out",
)  # fmt: skip
ALIKE = (
    "surface", "requested", "stream", "project", "key_id", "config", "status", "outcome", "model", "provider",
    "native", "fallback_used", "estimated", "price_source", "dropped", "byok", "attempt_count", "intent", "class",
    "rule", "profile", "form", "booked",
)  # fmt: skip
ALIKE_ATTEMPT = ("n", "model", "provider", "native", "outcome", "status", "detail", "byok")
EXTRAORDINARY = tuple(name for name in (*DECISION, "own") if name not in ALIKE)
EXTRAORDINARY_ATTEMPT = tuple(name for name in ATTEMPT if name not in ALIKE_ATTEMPT)
ATTEMPTS = Into("attempts", (*ALIKE_ATTEMPT, "decision", *ORDINARY_ATTEMPT))
ANY_ATTEMPTS = Into("attempts", (*ALIKE_ATTEMPT, "decision", *EXTRAORDINARY_ATTEMPT))


@define(eq=False)
class Alike:
    """What the rows of one day have in common whose requests were alike: their columns, as far as they are not null,
    and where what they spend is counted."""

    ordinary: Kind
    extraordinary: Kind
    accounts: tuple[tuple[str, int], ...]  # and day
    key_id: str | None
    form: tuple[int, int, str] | None  # id, day, text
    marks: tuple[tuple[str, Value], ...]  # the columns that rows are searched by, and their values


class Row(NamedTuple):
    """One decision, ready to be bound. Attempts go in by their own statement, after the id of their decision."""

    alike: Alike
    kind: Kind
    values: tuple[Value, ...]  # behind those of `kind` and the id
    attempts: tuple[tuple[Kind, tuple[Value, ...]], ...]
    plan: str | None  # where it is kept whole
    request_id: str
    at_ms: int
    charged_nanos: int

    @property
    def weight(self) -> int:
        """Bytes in memory, about."""
        return ROW_BYTES + ATTEMPT_BYTES * len(self.attempts) + len(self.plan or "")


class Known(NamedTuple):
    """What is remembered of briefs of one kind for a day: all of their rows but what is their own."""

    day: int
    alike: Alike
    attempts: tuple[Kind, Kind]  # ordinary, and not
    lines: tuple[tuple[int, int], ...]  # see `Form`
    answers: int
    cache_write: str | None


@define
class Rows:
    """Makes rows, and remembers what many have in common. The writer thread's own."""

    _alike: dict[Hashable, Alike] = field(factory=dict)
    _attempts: dict[Hashable, tuple[Kind, Kind]] = field(factory=dict)
    _statements: dict[tuple[str, ...], Into] = field(factory=dict)

    def row_of(self, d: Decision | Brief, unreadable: Callable[[Exception], None]) -> Row:
        """A plan that cannot be told costs the row its plan, not the money: `unreadable` hears of it."""
        if isinstance(d, Brief):
            return _row_of_brief(d) or self._learnt(d, unreadable)
        form = plan = own = None
        choice: tuple[str | None, ...] = NO_CHOICE
        if isinstance(d.plan, Plan) and (form := form_of(d.plan, d.facts)) is not None:
            choice, own = (form.text, form.intent), form.own(d.plan)
        elif d.plan is not None:
            try:
                plan = plan_text(d.plan)
            except Exception as exc:
                unreadable(exc)
            choice = _choice(plan)
        day = d.at_ms // DAY_MS if d.at_ms >= 0 else -(-d.at_ms // DAY_MS)  # as SQLite divides
        same = (
            day, d.surface, d.requested, d.stream, d.project, d.key_id, d.config, d.status, d.outcome, d.model,
            d.provider, d.native, d.fallback_used, d.estimated, d.price_source, d.dropped, d.byok, len(d.attempts),
            choice,
        )  # fmt: skip
        alike = self._alike.get(same) or self._remember(same, d, day, choice, form)
        kind, values = alike.ordinary, _ordinary(d, own) if own is not None else None
        if values is None:
            kind, values = alike.extraordinary, _extraordinary(d, own)
        tried = d.attempts
        attempts = (self._attempt(tried[0]),) if len(tried) == 1 else tuple(map(self._attempt, tried))
        return _row(Row, (alike, kind, values, attempts, plan, d.request_id, d.at_ms, d.charged_nanos))

    def _learnt(self, brief: Brief, unreadable: Callable[[Exception], None]) -> Row:
        """By its decision in full; and what the next one of its kind goes by."""
        d = brief.kind.decision(brief)
        row, known = self.row_of(d, unreadable), None
        if isinstance(d.plan, Plan) and d.client_request_id is None and (form := form_of(d.plan, d.facts)) is not None:
            facts, day = d.plan.facts, d.at_ms // DAY_MS
            if (lines := form.lines(facts)) is not None and row.alike.form is not None:
                kinds = self._kinds(d.attempts[0])
                known = Known(day, row.alike, kinds, lines, facts.shape.n, facts.shape.cache_write)
        brief.kind.rows = known
        return row

    def _remember(
        self, same: Hashable, d: Decision, day: int, choice: tuple[str | None, ...], form: Form | None
    ) -> Alike:
        if len(self._alike) >= MOST_ALIKE:
            self._alike.clear()
        kept = (_number(day, form.text), day, form.text) if form is not None else None
        columns = {
            "surface": text(d.surface, CODE), "requested": text(d.requested, NAME), "stream": int(d.stream),
            "project": text(d.project, NAME), "key_id": text(d.key_id, NAME), "config": text(d.config, NAME),
            "status": integer(d.status), "outcome": text(d.outcome, CODE), "model": text(d.model, NAME),
            "provider": text(d.provider, NAME), "native": text(d.native, NAME), "fallback_used": int(d.fallback_used),
            "estimated": int(d.estimated), "price_source": text(d.price_source, NAME),
            "dropped": dropped_text(d.dropped), "byok": int(d.byok), "attempt_count": len(d.attempts),
            **dict(zip(CHOICE, (form.intent,) if form is not None else choice, strict=False)),
            "form": kept and kept[0], "booked": 1,
        }  # fmt: skip
        told = {name: value for name, value in columns.items() if value is not None}
        shared = tuple(told.values())
        owners = (("key", columns["key_id"]), ("project", columns["project"]))
        self._alike[same] = alike = Alike(
            Kind(self._into((*told, "id", *ORDINARY)), shared),
            Kind(self._into((*told, "id", *EXTRAORDINARY)), shared),
            tuple((f"{kind}:{owner}", integer(day)) for kind, owner in owners if owner is not None),
            text(d.key_id, NAME),
            kept,
            tuple((name, told[name]) for name in MARKED if name in told),
        )
        return alike

    def _into(self, columns: tuple[str, ...]) -> Into:
        return self._statements.setdefault(columns, Into("decisions", columns))

    def _kinds(self, a: Attempt) -> tuple[Kind, Kind]:
        """Of attempts like this one."""
        same = (a.n, a.model, a.provider, a.native, a.outcome, a.status, a.detail, a.byok)
        if (kinds := self._attempts.get(same)) is None:
            if len(self._attempts) >= MOST_ALIKE:
                self._attempts.clear()
            shared = (
                integer(a.n), text(a.model, NAME), text(a.provider, NAME), text(a.native, NAME),
                text(a.outcome, CODE), integer(a.status), text(a.detail, DETAIL), int(a.byok),
            )  # fmt: skip
            kinds = self._attempts[same] = Kind(ATTEMPTS, shared), Kind(ANY_ATTEMPTS, shared)
        return kinds

    def _attempt(self, a: Attempt) -> tuple[Kind, tuple[Value, ...]]:
        ordinary, extraordinary = self._kinds(a)
        u, upstream, cost, ttfb = a.usage, a.upstream_request_id, a.cost_nanos, a.ttfb_ms
        if (
            u is not None and upstream is not None and upstream.isascii() and len(upstream) <= NAME
            and u.cache_write_5m is None and u.cache_write_1h is None and u.audio_input is None
            and u.audio_output is None
            and not (
                a.started_ms | a.duration_ms | a.bytes_out | (ttfb or 0) | (cost or 0) | (u.input or 0)
                | (u.cache_read or 0) | (u.output or 0) | (u.reasoning or 0)
            ) >> 63
        ):  # fmt: skip
            return ordinary, (
                a.started_ms, a.duration_ms, ttfb, upstream, u.input, u.cache_read, u.output, u.reasoning,
                cost, a.bytes_out,
            )  # fmt: skip
        return extraordinary, (
            integer(a.started_ms), integer(a.duration_ms), integer(ttfb), text(upstream, NAME), *usage_of(u),
            integer(cost), integer(a.bytes_out),
        )  # fmt: skip


def _row_of_brief(b: Brief) -> Row | None:
    """None where its kind has to be learnt."""
    known: Known | None = b.kind.rows
    u, cost, ttfb, took, size, upstream = (
        b.usage, b.cost_nanos, b.ttfb_ms, b.duration_ms, b.bytes_committed, b.upstream_request_id
    )  # fmt: skip
    if known is None or known.day != b.at_ms // DAY_MS:
        return None
    if (b.at_ms | b.charged_nanos | took | size | ttfb | (cost or 0)) >> 63:
        return None
    alike, (ordinary, extraordinary) = known.alike, known.attempts
    costs = [-((b.tokens * each + besides) // -PICO_PER_NANO) for each, besides in known.lines]
    digits = b.conversation and b.conversation[:RECORDED_DIGITS]
    own = orjson.dumps((b.tokens, costs, known.answers, known.cache_write, digits, b.warm)).decode()
    plain = (
        u.cache_write_5m is None and u.cache_write_1h is None and u.audio_input is None and u.audio_output is None
        and not ((u.input or 0) | (u.cache_read or 0) | (u.output or 0) | (u.reasoning or 0)) >> 63
    )  # fmt: skip
    counts = (u.input, u.cache_read, u.output, u.reasoning) if plain else usage_of(u)
    values: tuple[Value, ...] = (cost, b.charged_nanos, ttfb, took, 0, size)
    if plain:
        kind, values = alike.ordinary, (b.request_id, b.at_ms, *counts, *values, own)
    else:
        kind, values = alike.extraordinary, (b.request_id, None, b.at_ms, *counts, *values, None, None, own)
    if plain and upstream is not None and upstream.isascii() and len(upstream) <= NAME:
        attempt = ordinary, (0, took, ttfb, upstream, *counts, cost, size)
    else:
        attempt = extraordinary, (0, took, ttfb, text(upstream, NAME), *usage_of(u), cost, size)
    return _row(Row, (alike, kind, values, (attempt,), None, b.request_id, b.at_ms, b.charged_nanos))


def _ordinary(d: Decision, own: Own) -> tuple[Value, ...] | None:
    """The values of `ORDINARY` columns; None where one of the others has a value, or one of these needs a look."""
    u, cost, ttfb, queue = d.usage, d.cost_nanos, d.ttfb_ms, d.queue_ms
    if (
        u is None or d.client_request_id is not None or d.gone_phase is not None
        or u.cache_write_5m is not None or u.cache_write_1h is not None or u.audio_input is not None
        or u.audio_output is not None or not d.request_id.isascii() or len(d.request_id) > CODE
        or (
            d.at_ms | d.charged_nanos | d.duration_ms | d.bytes_committed | (ttfb or 0) | (cost or 0) | (queue or 0)
            | (u.input or 0) | (u.cache_read or 0) | (u.output or 0) | (u.reasoning or 0)
        ) >> 63
    ):  # fmt: skip
        return None
    return (
        d.request_id, d.at_ms, u.input, u.cache_read, u.output, u.reasoning, cost, d.charged_nanos, ttfb,
        d.duration_ms, queue, d.bytes_committed, orjson.dumps(own).decode(),
    )  # fmt: skip


def _extraordinary(d: Decision, own: Own | None) -> tuple[Value, ...]:
    """The values of `EXTRAORDINARY` columns."""
    facts = facts_text(d.facts) if own is None else None
    return (
        text(d.request_id, CODE), text(d.client_request_id, NAME), integer(d.at_ms), *usage_of(d.usage),
        integer(d.cost_nanos), integer(d.charged_nanos), integer(d.ttfb_ms), integer(d.duration_ms),
        integer(d.queue_ms), integer(d.bytes_committed), text(d.gone_phase, CODE), facts, own and dumps(own).decode(),
    )  # fmt: skip


def _number(day: int, form: str) -> int:
    """Of a form, by what it says: whoever writes it down on that day gives it the same number."""
    return int.from_bytes(blake2b(f"{day} {form}".encode(), digest_size=8).digest()) >> 1


def _choice(plan: str | None) -> tuple[str | None, ...]:
    """What rows are searched by: the plan's intent, class, rule and profile. A plan that was cut has lost them."""
    tree = orjson.loads(plan) if plan is not None else {}
    klass = tree.get("class")
    label = klass.get("label") if isinstance(klass, Mapping) else None
    said = (tree.get("intent"), label, tree.get("rule"), tree.get("profile"))
    return tuple(text(value, NAME) if isinstance(value, str) else None for value in said)
