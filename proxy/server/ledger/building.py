"""Decisions as rows, ready to be bound, most of each taken from what is remembered of those before it.

A row has two parts. What requests of one day have in common that were alike is made once, and kept. The rest is a
request's own: where nothing in it is out of the ordinary, it is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import orjson
from attrs import field

from proxy.record import define
from proxy.routing.facts import RECORDED_DIGITS
from proxy.routing.forms import Own, Text, form_of
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
ROW_BYTES, ATTEMPT_BYTES = 1024, 512  # what a row weighs in memory, about, and each of its attempts
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
    "rule", "profile", "form", "sole",
)  # fmt: skip
ALIKE_ATTEMPT = ("n", "model", "provider", "native", "outcome", "status", "detail", "byok")
SOLE = ("upstream_request_id",)  # of a decision that tells of its only attempt too
EXTRAORDINARY = tuple(name for name in (*DECISION, "own") if name not in ALIKE)
EXTRAORDINARY_ATTEMPT = tuple(name for name in ATTEMPT if name not in ALIKE_ATTEMPT)
ATTEMPTS = Into("own_attempts", (*ALIKE_ATTEMPT, "decision", *ORDINARY_ATTEMPT))
ANY_ATTEMPTS = Into("own_attempts", (*ALIKE_ATTEMPT, "decision", *EXTRAORDINARY_ATTEMPT))


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
    weight: int  # bytes in memory, about


class Known(NamedTuple):
    """What is remembered of briefs of one kind for a day: all of their rows but what is their own."""

    since_ms: int
    until_ms: int
    alike: Alike
    attempts: tuple[Kind, Kind] | None  # ordinary, and not; None where a decision tells of its attempt


@define
class Rows:
    """Makes rows, and remembers what many have in common. The writer thread's own."""

    _alike: dict[Hashable, Alike] = field(factory=dict)
    _attempts: dict[Hashable, tuple[Kind, Kind]] = field(factory=dict)
    _statements: dict[tuple[str, ...], Into] = field(factory=dict)

    def row_of(self, d: Decision | Brief, unreadable: Callable[[Decision, Exception], None]) -> Row:
        """A plan that cannot be told costs the row its plan, not the money: `unreadable` hears of it."""
        if isinstance(d, Brief):
            return row_of_brief(d) or self._learnt(d, unreadable)
        form = plan = own = None
        choice: tuple[str | None, ...] = NO_CHOICE
        if isinstance(d.plan, Plan) and (form := form_of(d.plan, d.facts)) is not None:
            choice, own = (form.text, form.intent), form.own(d.plan)
        elif d.plan is not None:
            try:
                plan = plan_text(d.plan)
            except Exception as exc:
                unreadable(d, exc)
            choice = _choice(plan)
        day = d.at_ms // DAY_MS if d.at_ms >= 0 else -(-d.at_ms // DAY_MS)  # as SQLite divides
        tried = d.attempts
        sole = len(tried) == 1 and _says_no_more(tried[0], d)
        same = (
            day, d.surface, d.requested, d.stream, d.project, d.key_id, d.config, d.status, d.outcome, d.model,
            d.provider, d.native, d.fallback_used, d.estimated, d.price_source, d.dropped, d.byok, len(tried), sole,
            choice,
        )  # fmt: skip
        alike = self._alike.get(same) or self._remember(same, d, day, choice, form, sole=sole)
        kind, values = alike.ordinary, _ordinary(d, own) if own is not None else None
        if values is None:
            kind, values = alike.extraordinary, _extraordinary(d, own)
        attempts: tuple[tuple[Kind, tuple[Value, ...]], ...] = ()
        if sole:
            values = (*values, text(tried[0].upstream_request_id, NAME))
        else:
            attempts = tuple(map(self._attempt, tried))
        weight = ROW_BYTES + ATTEMPT_BYTES * len(attempts) + len(plan or "")
        return _row(Row, (alike, kind, values, attempts, plan, d.request_id, d.at_ms, d.charged_nanos, weight))

    def _learnt(self, brief: Brief, unreadable: Callable[[Decision, Exception], None]) -> Row:
        """By its decision in full; and what the next one of its kind goes by."""
        d = brief.kind.decision(brief)
        row, known = self.row_of(d, unreadable), None
        form = form_of(d.plan, d.facts) if isinstance(d.plan, Plan) and d.client_request_id is None else None
        if form is not None and form.lines is not None and row.alike.form is not None:
            since_ms = d.at_ms // DAY_MS * DAY_MS
            attempts = self._kinds(d.attempts[0]) if row.attempts else None
            known = Known(since_ms, since_ms + DAY_MS, row.alike, attempts)
        at_once, later = brief.kind.rows or (None, None)
        told = (at_once, known) if brief.started_ms else (known, later)
        brief.kind.rows = told if any(told) else None
        return row

    def _remember(
        self, same: Hashable, d: Decision, day: int, choice: tuple[str | None, ...], form: Text | None, *, sole: bool
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
            "form": kept and kept[0], "sole": 1 if sole else None,
        }  # fmt: skip
        told = {name: value for name, value in columns.items() if value is not None}
        shared, last = tuple(told.values()), SOLE if sole else ()
        owners = (("key", columns["key_id"]), ("project", columns["project"]))
        self._alike[same] = alike = Alike(
            Kind(self._into((*told, "id", *ORDINARY, *last)), shared),
            Kind(self._into((*told, "id", *EXTRAORDINARY, *last)), shared),
            tuple((f"{kind}:{owner}", integer(day)) for kind, owner in owners if owner is not None),
            text(d.key_id, NAME),
            kept,
            tuple((name, told[name]) for name in MARKED if name in told),
        )
        return alike

    def _into(self, columns: tuple[str, ...]) -> Into:
        return self._statements.setdefault(columns, Into("decision_rows", columns))

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


def row_of_brief(b: Brief) -> Row | None:
    """None where its kind has to be learnt."""
    kind, id, at_ms, tokens, conversation, warm, u, cost, charged, ttfb, took, size, said, started = b
    known: Known | None = kind.rows and kind.rows[started > 0]
    if known is None or not known.since_ms <= at_ms < known.until_ms:
        return None
    if conversation is None or warm:
        own = orjson.dumps((tokens, conversation and conversation[:RECORDED_DIGITS], warm)).decode()
    else:
        own = f'[{tokens},"{conversation[:RECORDED_DIGITS]}",false]'  # the same; digits need no escape
    upstream = said if said is not None and said.isascii() and len(said) <= NAME else text(said, NAME)
    read, cached, wrote, thought = u.input, u.cache_read, u.output, u.reasoning
    values: tuple[Value, ...]
    plain = (
        u.cache_write_5m is None and u.cache_write_1h is None and u.audio_input is None and u.audio_output is None
        and not ((read or 0) | (cached or 0) | (wrote or 0) | (thought or 0) | (cost or 0)) >> 63
    )  # fmt: skip
    if plain:
        into, values = known.alike.ordinary, (
            id, at_ms, read, cached, wrote, thought, cost, charged, ttfb, took, 0, size, own, upstream
        )  # fmt: skip
    else:
        into, values = known.alike.extraordinary, (
            id, None, at_ms, *usage_of(u), integer(cost), integer(charged), ttfb, took, 0, size, None, None, own,
            upstream,
        )  # fmt: skip
    if known.attempts is None:
        return _row(Row, (known.alike, into, values, (), None, id, at_ms, charged, ROW_BYTES))
    ordinary, extraordinary = known.attempts
    times, end = (started, took - started, ttfb - started), (integer(cost), size)
    if plain and upstream is said is not None:
        attempt: tuple[Kind, tuple[Value, ...]] = ordinary, (*times, upstream, read, cached, wrote, thought, *end)
    else:
        attempt = extraordinary, (*times, upstream, *usage_of(u), *end)
    weight = ROW_BYTES + ATTEMPT_BYTES
    return _row(Row, (known.alike, into, values[:-1], (attempt,), None, id, at_ms, charged, weight))


def _says_no_more(a: Attempt, d: Decision) -> bool:
    """The view `attempts` has it all from the decision's row, but for the provider's id."""
    return (
        a.n == 1 and a.started_ms == 0 and a.outcome == "ok" and not a.detail and a.usage is d.usage
        and a.duration_ms == d.duration_ms and a.ttfb_ms == d.ttfb_ms and a.status == d.status
        and a.cost_nanos == d.cost_nanos and a.bytes_out == d.bytes_committed and a.byok == d.byok
        and a.model == d.model and a.provider == d.provider and a.native == d.native
    )  # fmt: skip


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
        d.duration_ms, queue, d.bytes_committed, dumps(own).decode(),
    )  # fmt: skip


def _extraordinary(d: Decision, own: Own | None) -> tuple[Value, ...]:
    """The values of `EXTRAORDINARY` columns."""
    facts, said = (facts_text(d.facts), None) if own is None else (None, dumps(own).decode())
    return (
        text(d.request_id, CODE), text(d.client_request_id, NAME), integer(d.at_ms), *usage_of(d.usage),
        integer(d.cost_nanos), integer(d.charged_nanos), integer(d.ttfb_ms), integer(d.duration_ms),
        integer(d.queue_ms), integer(d.bytes_committed), text(d.gone_phase, CODE), facts, said,
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
