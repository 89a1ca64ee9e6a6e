"""One request at one moment: what it asks, the world it meets, and who there is fit to serve it."""

from __future__ import annotations

from attrs import evolve, field

from proxy.record import define
from proxy.routing.classifier import Classified, classify
from proxy.routing.facts import Facts
from proxy.routing.steps import STEPS, Judge
from proxy.routing.world import Dice, Pick, World


@define
class Case:
    """What orders, rules, expansion and plan share. Judges are made once, and asked only about those who matter.

    `klass` is the prompt's class; None as long as nobody asked for it.
    """

    facts: Facts
    world: World
    dice: Dice
    now: float
    klass: Classified | None = None
    _judges: list[tuple[str, Judge]] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        made = ((step, rule(self.facts, self.world)) for step, rule in STEPS.items())
        self._judges = [(step, judge) for step, judge in made if judge is not None]

    def classified(self) -> Classified:
        """Classifies once. Of a recorded request it is the class then; the safe one where that was unclear, or nobody
        had asked."""
        if self.klass is None:
            shape, past, safe = self.facts.shape, self.facts.past, self.world.table.auto.safe
            if past is None:
                self.klass = classify(shape.turns, shape.system, safe=safe)
            elif past.klass is None:
                self.klass = Classified(safe, 0.0, (), fallback=True)
            else:
                self.klass = evolve(past.klass, label=safe) if past.klass.fallback else past.klass
        return self.klass

    def objection(self, pick: Pick) -> tuple[str, str] | None:
        """The first step that drops it, and why; None where it can serve."""
        for step, judge in self._judges:
            if (why := judge(pick)) is not None:
                return step, why
        return None

    def wait(self, pick: Pick) -> float:
        """Seconds until it is fit; 0 is now."""
        candidate = pick.candidate
        return self.world.wait(candidate, self.now, byok=candidate.provider in self.facts.byok)

    def is_fit(self, pick: Pick) -> bool:
        """Whether it can serve, and is not resting."""
        return self.objection(pick) is None and not self.wait(pick)

    def resting_for(self, pick: Pick) -> str:
        """The code of the error that a resting candidate, or the keys of its provider, rest for."""
        health, provider = self.world.health, self.world.table.providers[pick.candidate.provider]
        return health.reason(pick.candidate, len(provider.credentials), self.now)
