"""The chain on its way through the steps: who is kept, who was dropped and why, who rests, who leads."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field

from proxy.record import define, frozen
from proxy.routing.case import Case
from proxy.routing.names import Candidate
from proxy.routing.table import OFF
from proxy.routing.world import Pick

MOST = 16  # candidates of one chain


@frozen
class Dropped:
    candidate: Candidate
    step: str  # expand, policy, needs, credential, price, cap
    reason: str


@frozen
class Waiting:
    """A candidate of the chain that is resting, put behind those that are fit."""

    candidate: Candidate
    seconds: float  # left
    reason: str  # the error's code that began it


@define
class Draft:
    """The chain on its way through the steps."""

    case: Case
    byok_alone: bool = False  # nobody who needs the house's key stands behind one who is asked with the caller's own
    picks: list[Pick] = field(factory=list)
    dropped: list[Dropped] = field(factory=list)
    beyond: Sequence[Pick] = ()
    waiting: list[Waiting] = field(factory=list)
    _kept: dict[tuple[str, str], str] = field(factory=dict)  # ids by provider and native name
    _fallen: set[tuple[str, str]] = field(factory=set)  # provider and id
    _byok: bool = False  # somebody in the chain is asked with the caller's own

    def sift(self, order: Sequence[Pick], pinned: Candidate | None) -> None:
        """Judges the order from its head until the chain is full of candidates that are fit, and the pinned one."""
        fit = 0
        for position, pick in enumerate(order):
            if fit == MOST:
                self.beyond = order[position:]
                break
            fit += self._judged(pick)
        if self.beyond and pinned is not None:
            for pick in self.beyond:
                if pick.candidate.model == pinned.model and pick.candidate == pinned:
                    self._judged(pick)
                    break

    def _judged(self, pick: Pick) -> bool:
        """Whether it is kept and fit. Who is named twice stands where it is named first; where that entry's own
        `max_price` drops it, the next entry that names it is heard."""
        candidate = pick.candidate
        key, named = (candidate.provider, candidate.native), (candidate.provider, candidate.model)
        if (other := self._kept.get(key)) is not None:
            if other != candidate.model and named not in self._fallen:
                self._drop(pick, "expand", f"the same model of {candidate.provider} as {other}")
            return False
        if named in self._fallen:
            return False
        if (objection := self.case.objection(pick)) is not None:
            self._drop(pick, *objection)
            return False
        if self.byok_alone:
            if candidate.provider in self.case.facts.byok:
                self._byok = True
            elif self._byok and self.case.world.table.providers[candidate.provider].credentials:
                self._drop(pick, "credential", "the house's key does not follow the caller's own")
                return False
        self._kept[key] = candidate.model
        self.picks.append(pick)
        return not self.case.wait(pick)

    def _drop(self, pick: Pick, step: str, reason: str) -> None:
        candidate = pick.candidate
        self.dropped.append(Dropped(candidate, step, reason))
        if step != "price" or pick.max_price is None:
            self._fallen.add((candidate.provider, candidate.model))

    def pinned(self) -> Candidate | None:
        """The conversation's pinned candidate. A new conversation has no claim on another's cache."""
        case = self.case
        facts, lifetime = case.facts, case.world.table.routing.affinity
        if facts.conversation is None or not facts.continues or lifetime == OFF:
            return None
        return case.world.affinity.pinned(facts.conversation, case.now, lifetime)

    def drop_fallbacks(self) -> None:
        """Whoever stands behind the first, where the request wants that."""
        if self.case.facts.preferences.allow_fallbacks or not self.picks:
            return
        head, *others = self.picks
        reason = "provider.allow_fallbacks is false"
        self.dropped += [Dropped(pick.candidate, "policy", reason) for pick in (*others, *self.beyond)]
        self.picks, self.beyond = [head], ()

    def put_resting_last(self) -> float:
        """Cooling candidates go last, not away. Where all cool, the one that recovers first leads; in how many seconds
        that is, else 0."""
        waits = {id(pick): self.case.wait(pick) for pick in self.picks}
        if not any(waits.values()):
            return 0.0
        fit = [pick for pick in self.picks if not waits[id(pick)]]
        cooling = [pick for pick in self.picks if waits[id(pick)]]
        if not fit:
            cooling.sort(key=lambda pick: waits[id(pick)])
        self.picks = fit + cooling
        self.waiting = [
            Waiting(pick.candidate, waits[id(pick)], self.case.resting_for(pick))
            for pick in self.picks[:MOST]
            if waits[id(pick)]
        ]
        return 0.0 if fit else waits[id(cooling[0])]

    def lead_with(self, pinned: Candidate | None) -> bool:
        """Whether the pinned candidate leads: it is moved to the front if it is among the chain's and fit."""
        if pinned is None:
            return False
        for position, pick in enumerate(self.picks):
            if pick.candidate == pinned and not self.case.wait(pick):
                self.picks.insert(0, self.picks.pop(position))
                return True
        return False
