"""A plan and its facts as the record keeps them where many are alike, in two parts: the form, a text for all plans
that were remembered alike, and what is a request's own.

`filled` puts them together again: the result is what `Plan.as_json` and `Facts.as_json` say.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import orjson
from attrs import field

from proxy.catalog.price import PICO_PER_NANO, worst_case_line
from proxy.record import define
from proxy.routing.draft import Dropped
from proxy.routing.facts import RECORDED_DIGITS, Facts
from proxy.routing.plan import Plan
from proxy.routing.world import NANOS, Pick, most_output, worst_nanos

MOST_TEXT = 8 << 10  # characters of a form; what is larger is recorded whole, and cut there
MOST_KINDS = 64  # of numbers of answers and lives of caches that one form has texts for

Lines = tuple[tuple[int, int], ...]
Own = Sequence[Any]


@define(eq=False)
class Text:
    """A form for requests that want as many answers and as long a cache. `text` is JSON of the plan and the facts, less
    what is a request's own, and of `lines`: what each candidate costs at worst by the number of tokens, where for all
    of them it is a straight line (see `worst_case_line`)."""

    text: str
    intent: str
    chain: tuple[Pick, ...]
    lines: Lines | None

    def own(self, plan: Plan) -> Own:
        """Estimated tokens, the conversation's digits, whether the head leads for its warm cache; and behind the
        tokens, where no lines tell it, each candidate's worst case in nano-USD."""
        facts = plan.facts
        conversation = facts.conversation
        digits = conversation[:RECORDED_DIGITS] if conversation else None
        if self.lines is not None:
            return facts.tokens, digits, plan.pinned is not None
        return facts.tokens, [worst_nanos(pick.info, facts) for pick in self.chain], digits, plan.pinned is not None


@define(eq=False)
class Form:
    """Of plans that share `chain` and `judged`."""

    chain: tuple[Pick, ...]
    judged: tuple[Dropped, ...]
    _intent: str
    _told: Mapping[str, Any] = field(repr=False)  # the plan as JSON
    _texts: dict[Hashable, Text | None] = field(factory=dict, repr=False)

    def text(self, facts: Facts) -> Text | None:
        """None where it is too long, or has names with lone surrogates: legal JSON, and not orjson's."""
        kind = facts.shape.n, facts.shape.cache_write
        if kind not in self._texts:
            if len(self._texts) >= MOST_KINDS:
                self._texts.clear()
            self._texts[kind] = self._written(facts)
        return self._texts[kind]

    def _written(self, facts: Facts) -> Text | None:
        cache_write = facts.shape.cache_write
        lines = [worst_case_line(it.info.price, most_output(it.info, facts), cache_write) for it in self.chain]
        known = tuple(line for line in lines if line is not None)
        straight = known if len(known) == len(lines) else None
        said = {name: value for name, value in facts.as_json().items() if name != "conversation"}
        tree = {"plan": self._told, "facts": said | {"tokens_estimated": None}, "lines": straight}
        try:
            text = orjson.dumps(tree).decode()
        except TypeError:
            return None
        return Text(text, self._intent, self.chain, straight) if len(text) <= MOST_TEXT else None


def form_of(plan: Plan, facts: object) -> Text | None:
    """None for a plan that is not known to come again: it is seen for the first time, or more than the names in the
    request had a say in it. Only one thread asks."""
    if plan.facts is not facts or plan.waiting or plan.draws or plan.klass is not None or plan.cooling:
        return None
    form: Form | Literal[True] | None = plan.told.get(Form)
    if form is None:
        plan.told[Form] = True  # where it comes again, it is worth its form
        return None
    if form is True:
        form = plan.told[Form] = _made(plan)
    if form.chain is not plan.chain or form.judged is not plan.judged:
        return None
    if plan.pinned is not None and plan.pinned != plan.chain[0].candidate:
        return None
    return form.text(plan.facts)


def _made(plan: Plan) -> Form:
    told = {**plan.as_json(), "tokens_estimated": None, "pinned": None}
    told["candidates"] = [candidate | {"cost_max_usd": None} for candidate in told["candidates"]]
    return Form(plan.chain, plan.judged, plan.intent, told)


def filled(form: Mapping[str, Any], own: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan and the facts, of what was read back of `Text.text` and `Text.own`."""
    plan, facts = dict(form["plan"]), dict(form["facts"])
    tokens, *costs, digits, warm = own
    match costs:
        case []:
            costs = [-((tokens * each + besides) // -PICO_PER_NANO) for each, besides in form["lines"]]
        case [costs]:
            pass
        case [costs, answers, cache_write]:  # until schema 7
            said = {"n": answers if answers != 1 else None, "cache_write": cache_write}
            facts |= {name: value for name, value in said.items() if value is not None}
    plan["tokens_estimated"] = facts["tokens_estimated"] = tokens
    plan["candidates"] = [
        candidate | {"cost_max_usd": None if nanos is None else nanos / NANOS}
        for candidate, nanos in zip(plan["candidates"], costs, strict=True)
    ]
    if warm:
        plan["pinned"] = {name: plan["candidates"][0][name] for name in ("model", "provider", "native")}
    return plan, facts | {"conversation": digits} if digits else facts
