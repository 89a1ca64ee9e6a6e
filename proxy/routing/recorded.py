"""Facts from a decision that was recorded, so that it can be planned again: the other end of `Facts.as_json`.

A record keeps no words: no turn, no header. What they once decided, the class and the rule, stands in `Facts.past`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

from proxy import ir
from proxy.routing.classifier import Classified
from proxy.routing.facts import NO_PREFERENCES, RECORDED_DIGITS, Ceiling, Facts, Past, Preferences
from proxy.routing.names import Candidate
from proxy.routing.world import Dice

KEY_DIGITS = 24  # of a conversation's key
OUTSIDE = -1.0  # what no dice show

Row = Mapping[str, Any]


class Unreplayable(Exception):
    """A row that cannot be planned again; the message says why, in words that group rows."""


def facts_from_record(row: Row) -> Facts:
    """Of a row with its `facts` and its `plan`. Raises Unreplayable."""
    kept, plan = row["facts"], row["plan"]
    if not plan:
        raise Unreplayable("refused before there was a plan")
    if not kept or "cut" in kept:
        raise Unreplayable("its facts were too large to be kept")
    if "wanted" not in kept or "candidates" not in plan:
        raise Unreplayable("recorded without what planning it again takes")
    digits = kept.get("conversation")
    try:
        return Facts(
            surface=row["surface"],
            dialect=kept["dialect"],
            endpoint=kept["endpoint"],
            wanted=tuple(kept["wanted"]),
            shape=ir.Shape(
                frozenset(kept["needs"]),
                0,
                max_tokens=kept.get("max_tokens"),
                n=kept.get("n", 1),
                cache_write=kept.get("cache_write"),
            ),
            tokens=kept["tokens_estimated"],
            stream=row["stream"],
            sort=kept.get("sort"),
            partitioned=kept.get("partitioned", False),
            ceiling=_ceiling(kept.get("ceiling")),
            default_ceiling=kept.get("default_ceiling", False),
            preferences=_preferences(kept.get("preferences")),
            industry=kept.get("industry"),
            project=row["project"],
            conversation=digits[:RECORDED_DIGITS].ljust(KEY_DIGITS, "0") if digits else None,
            priced_only=kept.get("priced_only", False),
            byok=frozenset(kept.get("byok", ())),
            locked=frozenset(kept.get("locked", ())),
            past=Past(_class(plan.get("class")), plan.get("rule")),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
        raise Unreplayable("recorded in a form that this version does not read") from exc


def _ceiling(kept: Row | None) -> Ceiling | None:
    return None if kept is None else Ceiling(**{name: Decimal(usd) for name, usd in kept.items()})


def _preferences(kept: Row | None) -> Preferences:
    if kept is None:
        return NO_PREFERENCES
    return Preferences(
        order=tuple(kept["order"]),
        only=tuple(kept["only"]),
        ignore=tuple(kept["ignore"]),
        allow_fallbacks=kept["allow_fallbacks"],
        require_parameters=kept["require_parameters"],
    )


def _class(kept: Row | None) -> Classified | None:
    if kept is None:
        return None
    features = tuple((name, weight) for name, weight in kept["features"])
    return Classified(kept["label"], kept["margin"], features, kept["fallback"], kept["kept"])


def leading(row: Row) -> Candidate | None:
    """Who led the recorded plan before health and affinity had their say; None for one that left nobody."""
    plan = row["plan"]
    found = plan.get("leads") or next(iter(plan["candidates"]), None)
    return None if found is None else Candidate(found["model"], found["provider"], found["native"])


def dice_again(row: Row, more: Dice) -> Dice:
    """The dice as they fell then, and `more` once a longer throw is asked for: so a weight that did not change moves
    nobody, and one that went from 80 to 70 moves a tenth."""
    fallen: Sequence[float] = row["plan"].get("draws") or ()
    return chain(fallen, iter(more, OUTSIDE)).__next__
