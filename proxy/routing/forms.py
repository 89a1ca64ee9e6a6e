"""A plan and its facts as the record keeps them where many are alike, in two parts: the form, one text for all plans
that were remembered alike, and what is a request's own.

`filled` puts them together again: the result is what `Plan.as_json` and `Facts.as_json` say.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import orjson
from attrs import define, field

from proxy.catalog.price import PICO_PER_NANO, worst_case_line
from proxy.routing.facts import RECORDED_DIGITS, Facts
from proxy.routing.plan import Dropped, Plan
from proxy.routing.world import NANOS, Pick, most_output, worst_nanos

MOST_TEXT = 8 << 10  # characters of a form; what is larger is recorded whole, and cut there
MOST_KINDS = 64  # of caps on output, numbers of answers and caches, whose worst cases one form remembers

Own = tuple[int, Sequence[int | None], int, str | None, str | None, bool]


@define(eq=False)
class Form:
    """Of plans that share `chain` and `judged`. `text` is JSON of `plan` and `facts`, less what is a request's own."""

    text: str
    intent: str
    chain: tuple[Pick, ...]
    judged: tuple[Dropped, ...]
    _lines: dict[Hashable, tuple[tuple[int, int], ...] | None] = field(factory=dict, repr=False)

    def own(self, plan: Plan) -> Own:
        """Estimated tokens, each candidate's worst case in nano-USD, how many answers, how long a cache is to live,
        the conversation's digits, whether the head leads for its warm cache."""
        facts = plan.facts
        shape, conversation = facts.shape, facts.conversation
        lines = self.lines(facts)
        tokens = facts.tokens
        costs: list[int | None]
        if lines is not None:
            costs = [-((tokens * each + besides) // -PICO_PER_NANO) for each, besides in lines]
        else:
            costs = [worst_nanos(pick.info, facts) for pick in self.chain]
        digits = conversation[:RECORDED_DIGITS] if conversation else None
        return tokens, costs, shape.n, shape.cache_write, digits, plan.pinned is not None

    def lines(self, facts: Facts) -> tuple[tuple[int, int], ...] | None:
        """See `worst_case_line`: of each candidate; None where one of them has no straight one."""
        kind = (facts.shape.n, facts.shape.cache_write, facts.shape.max_tokens)
        return self._lines[kind] if kind in self._lines else self._learn(kind, facts)

    def _learn(self, kind: Hashable, facts: Facts) -> tuple[tuple[int, int], ...] | None:
        """What each candidate costs at worst by the number of tokens, where for all it is a straight line."""
        if len(self._lines) >= MOST_KINDS:
            self._lines.clear()
        cache_write = facts.shape.cache_write
        lines = [worst_case_line(it.info.price, most_output(it.info, facts), cache_write) for it in self.chain]
        known = tuple(line for line in lines if line is not None)
        self._lines[kind] = learnt = known if len(known) == len(lines) else None
        return learnt


def form_of(plan: Plan, facts: object) -> Form | None:
    """None for a plan that is not known to come again: it is seen for the first time, or more than the names in the
    request had a say in it. Only one thread asks."""
    if plan.facts is not facts or plan.waiting or plan.draws or plan.klass is not None or plan.cooling:
        return None
    form: Form | bool | None = plan.told.get(Form)
    if form is None:
        plan.told[Form] = True  # where it comes again, it is worth its form
        return None
    if form is True:
        form = plan.told[Form] = _made(plan) or False
    if isinstance(form, bool) or form.chain is not plan.chain or form.judged is not plan.judged:
        return None
    if plan.pinned is not None and plan.pinned != plan.chain[0].candidate:
        return None
    return form


def _made(plan: Plan) -> Form | None:
    told, facts = plan.as_json(), plan.facts.as_json()
    told |= {"tokens_estimated": None, "pinned": None}
    told["candidates"] = [candidate | {"cost_max_usd": None} for candidate in told["candidates"]]
    facts = {name: value for name, value in facts.items() if name not in ("n", "cache_write", "conversation")}
    facts["tokens_estimated"] = None
    try:
        text = orjson.dumps({"plan": told, "facts": facts}).decode()
    except TypeError:  # names with lone surrogates: legal JSON, and not orjson's
        return None
    return Form(text, plan.intent, plan.chain, plan.judged) if len(text) <= MOST_TEXT else None


def filled(form: Mapping[str, Any], own: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan and the facts, of what was read back of `Form.text` and `Form.own`."""
    tokens, costs, answers, cache_write, digits, warm = own
    plan, facts = dict(form["plan"]), dict(form["facts"])
    plan["tokens_estimated"] = facts["tokens_estimated"] = tokens
    plan["candidates"] = [
        candidate | {"cost_max_usd": None if nanos is None else nanos / NANOS}
        for candidate, nanos in zip(plan["candidates"], costs, strict=True)
    ]
    if warm:
        plan["pinned"] = {name: plan["candidates"][0][name] for name in ("model", "provider", "native")}
    varying = {"n": answers if answers != 1 else None, "cache_write": cache_write, "conversation": digits}
    return plan, facts | {name: value for name, value in varying.items() if value or value == 0}
