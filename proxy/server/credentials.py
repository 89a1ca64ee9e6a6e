"""Which credential a candidate is asked with: the caller's own, or the first of the house's that is not resting."""

from __future__ import annotations

from proxy.record import record
from proxy.routing.world import Pick
from proxy.secret import Secret
from proxy.server.call import Call


@record
class Credential:
    """One of the house's by its number, the caller's own, or none."""

    secret: Secret | None = None
    index: int | None = None
    byok: bool = False
    apart: bool = False  # whose it is pays: not of a provider that takes anybody's, whom the house has all the same


NO_CREDENTIAL = Credential()


def choose(call: Call, pick: Pick, now: float) -> Credential:
    """Where all of them rest, the one that does for the shortest time."""
    provider = call.snapshot.table.providers[pick.candidate.provider]
    own = call.byok.get(provider.name) if call.byok else None
    if own is not None:
        return Credential(own, byok=True, apart=not provider.keyless)
    if not provider.credentials:
        return NO_CREDENTIAL
    health = call.snapshot.world.health
    index = 0 if health.is_quiet(now) else fit(call, provider.name, now)
    if index is None:
        places = range(len(provider.credentials))
        index = min(places, key=lambda place: health.key_cooling(provider.name, place, now))
    return Credential(provider.credentials[index], index)


def fit(call: Call, provider: str, now: float) -> int | None:
    """The first of the house's that is not resting."""
    world = call.snapshot.world
    if world.health.is_quiet(now):
        return 0
    for index in range(len(world.table.providers[provider].credentials)):
        if not world.health.key_cooling(provider, index, now):
            return index
    return None
