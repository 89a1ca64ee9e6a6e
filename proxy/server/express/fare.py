"""What a ride takes of its caller's limits and budgets and of the process, and gives back at its end; and what is told
of one that ended well, plain answers and streams alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy import ir
from proxy.accounts.permit import Permit, alights, boards, fitted
from proxy.catalog.price import PICO_PER_NANO
from proxy.server import billing
from proxy.server.express.strangers import NOT_YET
from proxy.server.ledger import Brief

if TYPE_CHECKING:
    from proxy.routing.names import Candidate
    from proxy.server.call import Call
    from proxy.server.clients.ordinary import OrdinaryRequest
    from proxy.server.express.ride import Ride
    from proxy.server.express.track import Track
    from proxy.server.gateway import Gateway
    from proxy.server.snapshot import Snapshot

_new = tuple.__new__  # past half of a named tuple's own way


class Fare:
    """Of one request."""

    __slots__ = (
        "_permit", "amount", "at_ms", "call", "conversation", "gateway", "nanos", "pinned", "request", "request_id",
        "size", "snapshot", "started", "started_ms", "tokens", "track",
    )  # fmt: skip

    gateway: Gateway
    request: OrdinaryRequest
    snapshot: Snapshot
    track: Track
    call: Call | None  # by which it was admitted, and which takes it back where the ride cannot go on
    size: int  # of the body
    at_ms: int
    started: float
    started_ms: int  # when the provider was asked, from then on
    tokens: int  # estimated
    amount: int  # of tokens that are reserved of limits
    nanos: int  # and of budgets, when the provider was asked
    conversation: str | None  # see `recognized`
    pinned: Candidate | None
    request_id: str
    _permit: Permit | None  # see `permit`

    def _has_leave(self, now: float) -> bool:
        """Takes of limits, budgets and places what it needs, or nothing."""
        track, turnstile = self.track, self.gateway.turnstile
        size, tokens = self.size, self.tokens
        standing, line, nanos = track.standing, track.line, 0
        if line is not None:  # a budget asks what an attempt may cost
            nanos = (tokens * line[0] + line[1] + PICO_PER_NANO - 1) // PICO_PER_NANO
        if self.call is not None:
            return self._goes_on(self.call, nanos, now)
        if not turnstile.board(size):
            return False
        amount, most = tokens + track.writing, standing.tpm
        if most is not None and amount > most:
            amount = fitted(tokens, track.writing, most)
        try:
            if boards(standing, amount, nanos, now, self.at_ms):
                self.amount, self.nanos = amount, nanos
                return True
        except BaseException:
            turnstile.alight(size)
            raise
        turnstile.alight(size)
        return False

    def _goes_on(self, call: Call, nanos: int, now: float) -> bool:
        """As `_has_leave`, beside what was taken before the body was here."""
        gateway, track, permit = self.gateway, self.track, call.permit
        if permit is None or not gateway.turnstile.enters_at_once():
            return False
        call.inside = True
        if not permit.goes_on(self.tokens, track.writing, nanos, now, int(gateway.now() * 1000)):
            call.inside = False
            gateway.turnstile.leave()
            return False
        self._permit, self.nanos = permit, permit.nanos
        return True

    @property
    def permit(self) -> Permit:
        """Made once somebody asks for more than to give back what was taken."""
        permit = self._permit
        if permit is None:
            track = self.track
            asked = self.tokens, track.writing
            permit = self._permit = Permit(
                track.standing, self.at_ms, True, False, self.amount, self.nanos, None, 0, asked
            )
        return permit

    def recognized(self) -> str | None:
        """The key of its conversation."""
        if self.conversation == NOT_YET:
            self.gateway.express.strangers.recognize()
        return self.conversation

    def lease(self, whose: tuple[str, str | None], nanos: int, now_ms: int) -> None:
        """Notes what is reserved of budgets."""
        key_id, project = whose
        self.gateway.ledger.lease((self.request_id, key_id, project, nanos, now_ms + billing.LEASE_MS))


def settle(
    ride: Ride, usage: ir.Usage, cost: int | None, size: int, upstream_id: str | None, ttfb_ms: int, duration_ms: int,
    duration: float, overhead: float, now: float,
) -> None:  # fmt: skip
    """Gives back, settles and tells of an answer that has left, of so many bytes."""
    gateway, track = ride.gateway, ride.track
    call, snapshot = ride.call, ride.snapshot
    charged, read = cost or 0, usage.input_total
    conversation, permit = ride.conversation, ride._permit
    if conversation == NOT_YET:
        conversation = ride.recognized()
    if charged > billing.MOST_CHARGED:
        charged = billing.MOST_CHARGED
    brief = _new(Brief, (
        track, ride.request_id, ride.at_ms, ride.tokens, conversation, ride.pinned is not None, usage, cost,
        charged, ttfb_ms, duration_ms, size, upstream_id, ride.started_ms,
    ))  # fmt: skip
    try:
        gateway.ledger.record(brief)
    finally:  # whatever else may be at fault here, nobody waits for what this one had
        track.in_flight.value -= 1
        if call is not None:
            call.recorded = True
        try:
            gateway.ended(call or ride, snapshot, ride.size, True)
        finally:
            used = (read or 0) + (usage.output or 0)
            if permit is not None:
                alerts = permit.settle(charged, used, now)
            else:
                alerts = alights(track.standing, ride.amount, ride.nanos, ride.at_ms, charged, used, now)
    if track.pins and conversation is not None:
        snapshot.world.affinity.pin(conversation, track.candidate, now)
    for alert in alerts:
        gateway.alerts.tell(alert)
    counted = duration, overhead, usage, read, cost, ttfb_ms
    gateway.express.tidings.add((track, brief, read, counted, ride.request.protocol.remote or None, snapshot.proxies))
