"""Decisions and attempts as SQL rows, and back. All that bounds or cleans a value on its way into the file is here:
a row is refused for nothing that a client can write into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from operator import attrgetter
from typing import Any, overload

import orjson
from attrs import frozen

from proxy.ir import Usage
from proxy.server.ledger.records import Attempt, Decision, Explains

PLAN_BYTES = 64 << 10
FACTS_BYTES = 4 << 10
DROPPED_MOST = 64  # entries of `dropped`, each cut like a name
NAME, DETAIL, CODE = 256, 500, 64  # characters

Value = str | int | None

USAGE = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output",
)  # fmt: skip
DECISION = (
    "request_id", "client_request_id", "at_ms", "surface", "requested", "stream", "project", "key_id", "config",
    "status", "outcome", "model", "provider", "native", "fallback_used", "attempt_count", *USAGE,
    "cost_nanos", "charged_nanos", "estimated", "price_source", "ttfb_ms", "duration_ms", "queue_ms",
    "bytes_committed", "gone_phase", "dropped", "facts", "intent", "class", "rule", "profile", "byok",
)  # fmt: skip
ATTEMPT = (
    "n", "model", "provider", "native", "started_ms", "duration_ms", "ttfb_ms", "outcome", "status", "detail",
    "upstream_request_id", *USAGE, "cost_nanos", "bytes_out", "byok",
)  # fmt: skip
_UNKNOWN = (None,) * len(USAGE)
_counts = attrgetter(*USAGE)
FLAGS = ("stream", "fallback_used", "estimated", "byok")


@frozen
class Row:
    """One decision, ready to be bound: its columns, its attempts' columns, its plan."""

    decision: tuple[Value, ...]
    attempts: tuple[tuple[Value, ...], ...]
    plan: str | None


# -- in ----------------------------------------------------------------------------------------------------------


def row_of(decision: Decision, plan: str | None) -> Row:
    """Runs in the writer thread. `plan` is what `plan_text` made of the decision's."""
    d = decision
    columns = (
        text(d.request_id, CODE), text(d.client_request_id, NAME), integer(d.at_ms), text(d.surface, CODE),
        text(d.requested, NAME), int(d.stream), text(d.project, NAME), text(d.key_id, NAME), text(d.config, NAME),
        integer(d.status), text(d.outcome, CODE), text(d.model, NAME), text(d.provider, NAME), text(d.native, NAME),
        int(d.fallback_used), len(d.attempts), *_usage(d.usage),
        integer(d.cost_nanos), integer(d.charged_nanos), int(d.estimated), text(d.price_source, NAME),
        integer(d.ttfb_ms), integer(d.duration_ms), integer(d.queue_ms), integer(d.bytes_committed),
        text(d.gone_phase, CODE), _dropped(d.dropped), _facts(d.facts), *_choice(plan), int(d.byok),
    )  # fmt: skip
    return Row(columns, tuple(map(_attempt, d.attempts)), plan)


def _choice(plan: str | None) -> tuple[str | None, ...]:
    """What rows are searched by: the plan's intent, class, rule and profile. A plan that was cut has lost them."""
    tree = orjson.loads(plan) if plan is not None else {}
    klass = tree.get("class")
    label = klass.get("label") if isinstance(klass, Mapping) else None
    said = (tree.get("intent"), label, tree.get("rule"), tree.get("profile"))
    return tuple(text(value, NAME) if isinstance(value, str) else None for value in said)


def _attempt(a: Attempt) -> tuple[Value, ...]:
    return (
        integer(a.n), text(a.model, NAME), text(a.provider, NAME), text(a.native, NAME), integer(a.started_ms),
        integer(a.duration_ms), integer(a.ttfb_ms), text(a.outcome, CODE), integer(a.status), text(a.detail, DETAIL),
        text(a.upstream_request_id, NAME), *_usage(a.usage), integer(a.cost_nanos), integer(a.bytes_out), int(a.byok),
    )  # fmt: skip


def _usage(usage: Usage | None) -> tuple[int | None, ...]:
    return _UNKNOWN if usage is None else tuple(map(integer, _counts(usage)))


@overload
def text(value: str, most: int) -> str: ...
@overload
def text(value: None, most: int) -> None: ...
@overload
def text(value: str | None, most: int) -> str | None: ...
def text(value: str | None, most: int) -> str | None:
    """Cut to `most` characters. JSON may carry lone surrogates, which no UTF-8 column can: each becomes "?"."""
    if value is None:
        return None
    value = value[:most]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


@overload
def integer(value: int) -> int: ...
@overload
def integer(value: int | None) -> int | None: ...
def integer(value: int | None) -> int | None:
    """Held within the 64 bits of a column: a provider may report any number of tokens."""
    return None if value is None else min(max(int(value), -(1 << 63)), (1 << 63) - 1)


def plan_text(plan: Explains | None) -> str | None:
    """The plan as JSON of at most `PLAN_BYTES`. Past that its lists are cut, and `cut` says how long they were."""
    if plan is None:
        return None
    tree = dict(plan.as_json())
    lists = {name: list(tree.get(name) or ()) for name in ("candidates", "dropped")}
    cut = {name: len(entries) for name, entries in lists.items()}
    raw, keep = _dumps(tree), max(cut.values())
    while len(raw) > PLAN_BYTES and keep:
        keep //= 2
        raw = _dumps(tree | {name: entries[:keep] for name, entries in lists.items()} | {"cut": cut})
    if len(raw) > PLAN_BYTES:
        raw = _dumps({"cut": cut, "reason": str(tree.get("reason"))[:DETAIL]})
    return raw.decode()


def _facts(facts: Explains | Mapping[str, Any] | None) -> str | None:
    if facts is None:
        return None
    raw = _dumps(facts if isinstance(facts, Mapping) else facts.as_json())
    return raw.decode() if len(raw) <= FACTS_BYTES else '{"cut":true}'


def _dropped(names: Sequence[str]) -> str:
    return _dumps([text(name, NAME) for name in names[:DROPPED_MOST]]).decode()


def _dumps(tree: Any) -> bytes:
    try:
        return orjson.dumps(tree, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Lone surrogates and integers past 64 bits: legal JSON, and not orjson's.
        return json.dumps(tree, default=_plain, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _plain(value: object) -> Any:
    match value:
        case Set():
            return sorted(value, key=str)
        case Mapping():
            return dict(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no place in the ledger")


# -- out ---------------------------------------------------------------------------------------------------------


def decision_json(columns: Sequence[Any]) -> dict[str, Any]:
    """A row of `DECISION` columns as the records show it: usage as one object, flags as booleans."""
    shown = _shown(DECISION, columns)
    shown["dropped"] = orjson.loads(shown["dropped"])
    shown["facts"] = shown["facts"] and orjson.loads(shown["facts"])
    return shown


def attempt_json(columns: Sequence[Any]) -> dict[str, Any]:
    return _shown(ATTEMPT, columns)


def _shown(names: Sequence[str], columns: Sequence[Any]) -> dict[str, Any]:
    shown = dict(zip(names, columns, strict=True))
    for name in FLAGS:
        if name in shown:
            shown[name] = bool(shown[name])
    usage = {name: shown.pop(name) for name in USAGE}
    known = any(count is not None for count in usage.values())
    return shown | {"usage": usage if known else None}
