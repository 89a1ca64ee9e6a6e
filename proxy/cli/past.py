"""A decision of the ledger for a person: who was tried, why each other was not, what it cost and how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.server.ledger.render import clean

Row = Mapping[str, Any]
NANOS = 1_000_000_000


def told_decision(row: Row) -> list[str]:
    """Lines of a row as `Decisions.one` gives it."""
    plan: Row = row["plan"] or {}
    lines = [f"{row['request_id']}  {_time(row['at_ms'])}  {row['surface']}{', streamed' if row['stream'] else ''}"]
    for title, told in _facts(row, plan):
        lines.append(f"  {title:<10}{told}")
    tried = list(row["attempts"])
    candidates = plan.get("candidates") or []
    if candidates:
        lines += ["", "  candidates, in the order of the plan"]
    for number, candidate in enumerate(candidates, 1):
        lines += _candidate(number, candidate, _taken(tried, candidate))
    if tried:
        lines += ["", "  attempts"]
        lines += [f"    {attempt['model']} at {attempt['provider']}: {_attempt(attempt)}" for attempt in tried]
    if dropped := plan.get("dropped"):
        lines += ["", "  passed over"]
        lines += [f"    {gone['model']}{_at(gone)}: {gone['step']}: {gone['reason']}" for gone in dropped]
    return [clean(line) for line in lines]


def _facts(row: Row, plan: Row) -> Iterator[tuple[str, str]]:
    """(title, text) of what concerns the request as a whole."""
    yield "asked for", row["requested"] or "(nothing)"
    if plan:
        yield "decided", str(plan.get("reason"))
    if klass := plan.get("class"):
        cues = ", ".join(f"{name} {weight:+.2f}" for name, weight in klass["features"])
        yield "class", f"{klass['label']}, margin {klass['margin']:.2f}{f': {cues}' if cues else ''}"
    for word in ("rule", "profile"):
        if plan.get(word):
            yield word, plan[word]
    if plan:
        needs = plan.get("needs")
        size = plan.get("tokens_estimated")
        yield "request", f"about {size} tokens, {'needs ' + ', '.join(needs) if needs else 'no special needs'}"
    if row["key_id"] or row["project"]:
        yield "caller", _caller(row)
    yield "answer", _answer(row)
    yield "time", _took(row)
    if row["usage"]:
        yield "tokens", _tokens(row["usage"])
    yield "cost", _cost(row)
    if row["dropped"]:
        yield "left out", f"{', '.join(row['dropped'])} (the translation could not carry it)"
    yield "table", row["config"]


def _caller(row: Row) -> str:
    told = f"key {row['key_id']}" if row["key_id"] else "no key"
    return f"{told} of the project {row['project']}" if row["project"] else told


def _answer(row: Row) -> str:
    told = f"{row['status']} {row['outcome']}"
    if row["model"]:
        told += f" by {row['model']} at {row['provider']} ({row['native']})"
    if row["fallback_used"]:
        told += ", a fallback"
    if row["gone_phase"]:
        told += f"; the client left, phase {row['gone_phase']}"
    return told


def _took(row: Row) -> str:
    told = f"{row['duration_ms']:,} ms"
    if row["ttfb_ms"] is not None:
        told += f", first byte after {row['ttfb_ms']:,} ms"
    if row["queue_ms"]:
        told += f", {row['queue_ms']:,} ms waiting for a connection"
    return told


def _tokens(usage: Row) -> str:
    told = [f"{usage[name]:,} {word}" for name, word in TOKENS.items() if usage[name]]
    return ", ".join(told) or "none"


TOKENS = {
    "input": "in",
    "cache_read": "from the cache",
    "cache_write_5m": "into the cache for 5 minutes",
    "cache_write_1h": "into the cache for an hour",
    "output": "out",
    "reasoning": "of these in thought",
}


def _cost(row: Row) -> str:
    told = "unknown" if row["cost_nanos"] is None else f"{usd(row['cost_nanos'])} USD"
    if row["price_source"]:
        told += f" (prices: {row['price_source']})"
    if row["estimated"]:
        told += f"; {usd(row['charged_nanos'])} USD charged by estimate"
    return told


def usd(nanos: int) -> str:
    """Six decimals; more where that would read as nothing."""
    return f"{nanos / NANOS:.9f}" if 0 < abs(nanos) < 1_000 else f"{nanos / NANOS:.6f}"


def _candidate(number: int, candidate: Row, attempts: Sequence[Row]) -> Iterator[str]:
    bound = candidate.get("cost_max_usd")
    price = "price unknown" if bound is None else f"at most {bound:.6f} USD"
    name = f"{candidate['model']}{_at(candidate)} ({candidate['native']})"
    yield f"    {number}. {name}, {price}{'' if attempts else ': not tried'}"
    for attempt in attempts:
        yield f"       {_attempt(attempt)}"


def _attempt(attempt: Row) -> str:
    told = f"tried at {attempt['started_ms']:,} ms for {attempt['duration_ms']:,} ms"
    if attempt["ttfb_ms"] is not None:
        told += f", first byte after {attempt['ttfb_ms']:,} ms"
    told += f": {attempt['outcome']}"
    if attempt["status"] is not None:
        told += f", status {attempt['status']}"
    if attempt["cost_nanos"] is not None:
        told += f", {usd(attempt['cost_nanos'])} USD"
    return f"{told}: {attempt['detail']}" if attempt["detail"] else told


def _taken(tried: list[Row], candidate: Row) -> list[Row]:
    """The attempts at this candidate, taken out of `tried`."""
    where = (candidate["model"], candidate["provider"], candidate["native"])
    own = [attempt for attempt in tried if (attempt["model"], attempt["provider"], attempt["native"]) == where]
    for attempt in own:
        tried.remove(attempt)
    return own


def _at(place: Row) -> str:
    return f" at {place['provider']}" if place["provider"] else ""


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # a clock that was far off
        return str(at_ms)
