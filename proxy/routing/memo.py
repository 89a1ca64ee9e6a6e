"""Plans that are remembered: whoever asks for the same by name, while nobody rests, gets the same plan.

Only what neither dice, clock, prices, classifier nor measured latency had a say in is kept, and no plan from which
somebody was dropped for the size of a request. What differs from request to request without a bearing on such a plan is
checked instead: that the text fits every window, and that no pin leads elsewhere. A memo lives in one `World`, so a
reload begins a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Generic, TypeVar

from attrs import field, fields

from proxy.record import define, frozen
from proxy.routing.facts import NO_PREFERENCES, Facts

MOST = 512  # plans
LONGEST = 1024  # characters of the names in a request
VARYING = frozenset({"shape", "tokens", "headers", "conversation", "continues", "past"})

_stable: Callable[[Facts], tuple[Hashable, ...]] = attrgetter(
    *(it.name for it in fields(Facts) if it.name not in VARYING | {"preferences"})
)
_T = TypeVar("_T")


@frozen
class Kept(Generic[_T]):
    """`window` is the smallest of the plan's candidates; None where none is known."""

    plan: _T
    window: int | None


@define
class Memo(Generic[_T]):
    _kept: dict[Hashable, Kept[_T]] = field(factory=dict)

    def kept(self, facts: Facts) -> Kept[_T] | None:
        """Whether or not such a request finds room there."""
        if facts.past is not None or facts.sort is not None or facts.ceiling is not None:
            return None
        return self._kept.get(_key(facts))

    def find(self, facts: Facts) -> _T | None:
        kept = self.kept(facts)
        if kept is None or (kept.window is not None and facts.tokens + (facts.shape.max_tokens or 0) > kept.window):
            return None  # it has to find room
        return kept.plan

    def keep(self, facts: Facts, plan: _T, window: int | None) -> None:
        if facts.past is not None or facts.sort is not None or facts.ceiling is not None:
            return
        if sum(map(len, facts.wanted)) > LONGEST:
            return
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[_key(facts)] = Kept(plan, window)


def _key(facts: Facts) -> Hashable:
    wishes = facts.preferences if facts.preferences is not NO_PREFERENCES else None  # whose hash is no quick one
    return facts.shape.needs, facts.shape.max_tokens, wishes, _stable(facts)
