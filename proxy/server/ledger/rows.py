"""Columns of decisions and attempts, and their values on the way into the file and out of it. All that bounds or cleans
a value is here: a row is refused for nothing that a client can write into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from operator import attrgetter
from typing import Any, overload

import orjson

from proxy.ir import Usage
from proxy.routing.forms import filled
from proxy.server.ledger.records import Explains

PLAN_BYTES = 64 << 10
FACTS_BYTES = 4 << 10
DROPPED_MOST = 64  # entries of `dropped`, each cut like a name
DAY_MS = 86_400_000
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
# Columns that rows are searched by. Not an index each: `marks` tells in which blocks of time a value occurs.
MARKED = (
    "key_id", "project", "class", "rule", "profile", "requested", "config", "model", "provider", "intent", "surface",
)  # fmt: skip
BLOCK_BITS = 10  # a block is 1,024 ms: a page reads what it needs and one block at most in vain
FACTS = DECISION.index("facts")
_UNKNOWN = (None,) * len(USAGE)
_counts = attrgetter(*USAGE)
FLAGS = ("stream", "fallback_used", "estimated", "byok")


# -- in ----------------------------------------------------------------------------------------------------------


def usage_of(usage: Usage | None) -> tuple[int | None, ...]:
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
    raw, keep = dumps(tree), max(cut.values())
    while len(raw) > PLAN_BYTES and keep:
        keep //= 2
        raw = dumps(tree | {name: entries[:keep] for name, entries in lists.items()} | {"cut": cut})
    if len(raw) > PLAN_BYTES:
        raw = dumps({"cut": cut, "reason": str(tree.get("reason"))[:DETAIL]})
    return raw.decode()


def facts_text(facts: Explains | Mapping[str, Any] | None) -> str | None:
    if facts is None:
        return None
    raw = dumps(facts if isinstance(facts, Mapping) else facts.as_json())
    return raw.decode() if len(raw) <= FACTS_BYTES else '{"cut":true}'


def dropped_text(names: Sequence[str]) -> str:
    return dumps([text(name, NAME) for name in names[:DROPPED_MOST]]).decode()


def dumps(tree: Any) -> bytes:
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


def whole(columns: Sequence[Any]) -> tuple[Any, ...]:
    """`DECISION` columns and the plan, of a row that has `own`, `form` and `plan` behind them: what its request shared
    with others is put together with its own."""
    *decision, own, form, plan = columns
    if own is None or form is None:
        return *decision, plan
    told, facts = filled(orjson.loads(form), orjson.loads(own))
    decision[FACTS] = orjson.dumps(facts).decode()
    return *decision, orjson.dumps(told).decode()


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
