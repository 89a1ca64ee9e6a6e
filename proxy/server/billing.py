"""What a request costs: reserved before each attempt, topped up as a stream grows, told when it ends.

A **cost** is what the provider takes for the usage that it told; unknown stays unknown. What a key is **charged** is
the cost of all attempts asked with the house's keys, and an estimate where an answer's usage is not known or was cut
short; `estimated` says so.
"""

from __future__ import annotations

from proxy import ir
from proxy.accounts.budget import NO_ALERTS, Alert
from proxy.accounts.permit import Permit
from proxy.catalog import Price, worst_case_nanos
from proxy.routing.facts import Facts
from proxy.routing.world import Pick
from proxy.server.attempt import Opening
from proxy.server.call import Call
from proxy.server.ledger import Attempt, Lease

STREAM_BYTES_PER_TOKEN = 200  # an event of a few letters in its wrapping
PLAIN_BYTES_PER_TOKEN = 4
LEASE_MS = 600_000  # how long a reservation of a process that died counts as spent
MOST_CHARGED = 10**15  # nano-USD of one request: what a provider says beyond a million USD is no count of tokens
AT_WORK = ("first_byte", "plain")  # phases in which a provider has the request
LONGEST_MODEL = 256  # characters of what a client asked for, in the record
UNBOUND = 1 << 62  # bytes
TEXTS = frozenset({"chat", "completions"})  # endpoints whose answers are as long as what was written
TOP_UP = 4  # a stream that outgrows what is reserved for it gets a quarter of that on top, and so on


def output_reserved(pick: Pick, facts: Facts, most: int) -> int:
    """Tokens of output that an attempt reserves: the request's own cap, the model's, `reserve_output`, whichever is
    least, for each answer that is asked for. What only reads has a cap of 0."""
    if facts.surface == "count_tokens":
        return 0
    for cap in (facts.shape.max_tokens, pick.info.max_output):
        if cap is not None and cap < most:
            most = cap
    return most * facts.shape.n


def take_tokens(call: Call, facts: Facts) -> None:
    """Of the limits on tokens per minute. Raises LimitReached."""
    permit = call.permit
    if permit is None or facts.surface == "count_tokens":
        return
    if permit.standing.meters or call.snapshot.gate.models:
        permit.take_tokens(facts.tokens, writing_reserved(call, facts), call.clock())


def writing_reserved(call: Call, facts: Facts) -> int:
    """Tokens of output that limits are asked for, whoever will write them."""
    most = call.snapshot.table.server.reserve_output
    said = facts.shape.max_tokens
    if said is not None and said < most:
        most = said
    return most * facts.shape.n


def reserve(call: Call, pick: Pick, *, byok: bool) -> None:
    """Before an attempt: a place at a model that is limited, and money for what it may cost. What the caller's own key
    pays for takes no money. Raises LimitReached, BudgetSpent."""
    permit, facts = call.permit, call.facts
    if permit is None or facts is None:
        return
    gate = call.snapshot.gate
    if gate.models or permit.model is not None:
        permit.choose(gate.model_meter(pick.info.terms_id), call.clock())
    if not permit.standing.budgeted or byok or facts.surface == "count_tokens":
        return
    output = output_reserved(pick, facts, call.snapshot.table.server.reserve_output)
    call.output_reserved = output
    nanos = reserved_nanos(pick, facts, output)
    if attempts := call.decision.attempts:
        nanos += sum(attempt.cost_nanos or 0 for attempt in attempts if not attempt.byok)
    now_ms = int(call.now() * 1000)
    if permit.cover(nanos, now_ms):
        _lease(call, permit, now_ms)


def reserved_nanos(pick: Pick, facts: Facts, output: int) -> int:
    return nanos_of(pick.info.price, facts.tokens, output, facts.shape.cache_write)


def nanos_of(price: Price | None, tokens: int, output: int, cache_write: ir.CacheLife | None) -> int:
    """What an attempt may cost that reads so many tokens and writes so many."""
    if price is not None and price.output is None:
        output = 0  # vectors and the like: there is nothing that an output would cost
    return worst_case_nanos(price, tokens, output, cache_write) or 0


def bytes_reserved(call: Call) -> int:
    """How much a stream may write before it has outgrown what is reserved for it."""
    permit = call.permit
    if permit is None or not permit.standing.budgeted or not call.output_reserved:
        return UNBOUND
    return bytes_of(call.output_reserved)


def bytes_of(tokens: int) -> int:
    """How much a stream may write for which so many tokens of output are reserved of budgets."""
    return tokens * STREAM_BYTES_PER_TOKEN if tokens else UNBOUND


def top_up(call: Call, opening: Opening) -> int:
    """A stream has outgrown its reservation: it goes on, and what it takes is taken into account. Until how many bytes
    that is enough."""
    permit, facts = call.permit, call.facts
    if permit is None or facts is None or opening.attempt.byok:
        return UNBOUND
    call.output_reserved = topped_up(call.output_reserved, _tokens_in(opening, facts))
    known = sum(attempt.cost_nanos or 0 for attempt in call.decision.attempts[:-1] if not attempt.byok)
    if permit.top_up(known + reserved_nanos(opening.pick, facts, call.output_reserved)):
        _lease(call, permit, int(call.now() * 1000))
    return bytes_reserved(call)


def topped_up(reserved: int, written: int) -> int:
    """Tokens of output that are reserved from now on, of a stream that has written so many."""
    return max(written, reserved) * (TOP_UP + 1) // TOP_UP + 1


def _lease(call: Call, permit: Permit, now_ms: int) -> None:
    standing = permit.standing
    if standing.key_id is not None:
        call.lease(Lease(call.request_id, standing.key_id, standing.project, permit.nanos, now_ms + LEASE_MS))


# -- the end of an attempt ---------------------------------------------------------------------------------------


def failed(call: Call, attempt: Attempt, pick: Pick) -> None:
    """Of an attempt that never became an answer: billed at what it is known to have used. A client that left while the
    provider was at work is charged for what it had read."""
    price, usage, facts = pick.info.price, attempt.usage, call.facts
    if price is None or facts is None:
        return
    attempt.cost_nanos = None if usage is None else price.cost_nanos(usage)
    if attempt.outcome == "client_closed" and usage is None and call.phase in AT_WORK and not attempt.byok:
        call.guessed += price.cost_nanos(ir.Usage(input=facts.tokens, output=0)) or 0


def account(call: Call, opening: Opening, usage: ir.Usage | None) -> None:
    """Tokens and money of the attempt that answered, and with those that failed before it, of the request. Told again
    when more is known."""
    decision, attempt, price, stream = call.decision, opening.attempt, opening.pick.info.price, opening.stream
    attempt.usage = decision.usage = usage
    cost = price.cost_nanos(usage) if price is not None and usage is not None else None
    attempt.cost_nanos = cost
    known = cost is not None and (
        stream is None or (stream.done and stream.failure is None and attempt.outcome == "ok")
    )
    guess = None if known else _guess(call, opening, usage, cost)
    charged, before = call.guessed, 0
    if len(decision.attempts) > 1:
        others = [it for it in decision.attempts if it is not attempt]
        before = sum(it.cost_nanos or 0 for it in others)
        charged += sum(it.cost_nanos or 0 for it in others if not it.byok)
    decision.cost_nanos = None if cost is None else cost + before
    decision.estimated = guess is not None or bool(call.guessed)
    if not attempt.byok:
        charged += cost or 0 if guess is None else guess
    decision.charged_nanos = min(charged, MOST_CHARGED)


def _guess(call: Call, opening: Opening, usage: ir.Usage | None, told: int | None) -> int | None:
    """What an answer has probably cost that did not tell its usage, or broke off before it told the last of it; None
    where nobody could guess."""
    price, facts = opening.pick.info.price, call.facts
    if price is None or facts is None or call.surface.operation == "count_tokens":
        return None
    seen = usage or ir.Usage()
    likely = ir.Usage(
        input=facts.tokens if seen.input is None else seen.input,
        cache_read=seen.cache_read,
        cache_write_5m=seen.cache_write_5m,
        cache_write_1h=seen.cache_write_1h,
        output=max(seen.output or 0, _tokens_in(opening, facts)),
    )
    return max(price.cost_nanos(likely) or 0, told or 0)


def _tokens_in(opening: Opening, facts: Facts) -> int:
    """A guess at an answer's output tokens, by the bytes that left."""
    if facts.endpoint not in TEXTS:
        return 0
    per_token = STREAM_BYTES_PER_TOKEN if opening.stream is not None else PLAIN_BYTES_PER_TOKEN
    return opening.attempt.bytes_out // per_token


def settle(call: Call, now: float) -> tuple[Alert, ...]:
    """At the end of a request, however it ended, and whatever is at fault in counting what it cost."""
    decision = call.decision
    try:
        if decision.model is None:
            close(call)
        used = tokens_used(call)
    except BaseException:
        if call.permit is not None:
            call.permit.settle(decision.charged_nanos, 0, now)
        raise
    return NO_ALERTS if call.permit is None else call.permit.settle(decision.charged_nanos, used, now)


def close(call: Call) -> None:
    """The sums of a request that nobody answered."""
    decision = call.decision
    known = [attempt for attempt in decision.attempts if attempt.cost_nanos is not None]
    decision.cost_nanos = sum(attempt.cost_nanos or 0 for attempt in known) if known else None
    charged = sum(attempt.cost_nanos or 0 for attempt in known if not attempt.byok) + call.guessed
    decision.charged_nanos, decision.estimated = min(charged, MOST_CHARGED), bool(call.guessed)


def tokens_used(call: Call) -> int:
    """What a request counts for in limits: what providers told, and what can be guessed of an answer that tells
    nothing."""
    decision, facts = call.decision, call.facts
    if facts is None or facts.surface == "count_tokens":
        return 0
    used = 0
    for attempt in decision.attempts:
        if (usage := attempt.usage) is not None:
            used += (usage.input_total or 0) + (usage.output or 0)
    if decision.usage is None and (decision.bytes_committed or call.guessed):
        per_token = STREAM_BYTES_PER_TOKEN if decision.stream else PLAIN_BYTES_PER_TOKEN
        used += facts.tokens + (decision.bytes_committed // per_token if facts.endpoint in TEXTS else 0)
    return used
