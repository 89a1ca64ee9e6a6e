"""Who rides: the short way's own door, for whole requests and for those whose body came behind their head.

Whatever is not ordinary about a request is found out here and in `departure`, before anything is done about it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from proxy.accounts.keys import CHAT_SURFACES
from proxy.errors import GatewayError
from proxy.server import intake
from proxy.server.call import Call, Surface
from proxy.server.clients.inbound import Request
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.clients.visitor import visitor_of
from proxy.server.express.departure import departs
from proxy.server.express.ride import Ride
from proxy.server.express.setting import LARGE, found_by, found_lightly, recalled
from proxy.server.express.strangers import Strangers
from proxy.server.express.tally import Tally
from proxy.server.express.tidings import Tidings
from proxy.wire.parted import Parted, whole

if TYPE_CHECKING:
    from proxy.server.gateway import Gateway

log = structlog.get_logger()


class Express:
    """One per gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._tallies: dict[tuple[str, str, str, str, bool], Tally] = {}
        self.tidings, self.strangers = Tidings(gateway), Strangers()
        gateway.metrics.folds.append(self._fold)

    def tally(self, surface: str, model: str, provider: str, intent: str, streamed: bool) -> Tally:
        """One for all that are counted under the same names: clients may ask for any that a pattern covers."""
        key = *self.gateway.metrics.bind(surface, model, provider, streamed).names, intent, streamed
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally(self.gateway.metrics, *key)
        return found

    def _fold(self) -> None:
        self.tidings.tell()
        for tally in self._tallies.values():
            tally.fold()

    def board(self, request: Request, surface: Surface) -> Ride | None:
        """None, and nothing was done, for whatever is not ordinary. Raises nothing."""
        try:
            gateway = self.gateway
            snapshot = gateway.current
            if not snapshot.tracks or surface.operation != "chat" or not isinstance(request, OrdinaryRequest):
                return None
            body = request.ready()
            if body is None or not gateway.own.empty:
                return None
            started, visitor = time.monotonic(), visitor_of(request, snapshot)
            settings, size = snapshot.settings, len(body)
            found = found_lightly(snapshot, visitor, surface, body) if size > LARGE else None
            if found is None:
                found = recalled(settings, visitor, body) or found_by(snapshot, visitor, surface, request, body)
            if found is None:
                return None
            track, at_ms = found[0], int(gateway.now() * 1000)
            if size > track.longest:
                return None
            if not track.admits(snapshot.gate):
                try:
                    permit = intake.admit(request, visitor, snapshot.gate, at_ms, CHAT_SURFACES)
                except GatewayError:
                    return None  # for the way of all to tell
                if permit.standing is not track.standing:
                    return None
            ride = Ride(gateway, request, snapshot, found, body, at_ms, started)
            return ride if departs(ride) else None
        except Exception:
            log.exception("internal_error", surface=surface.name)
            return None  # the way of all may have no fault, and tells where it has

    def join(self, call: Call, body: bytes | Parted) -> Ride | None:
        """As `board`, for one whose body came behind its head, as most clients send it: the way of all has admitted it
        meanwhile. What is left stays that way's. Raises what comes once it has a place in the process: that way would
        take another one."""
        request, snapshot, permit, surface = call.request, call.snapshot, call.permit, call.surface
        try:
            if not snapshot.tracks or call.operation is not None or not isinstance(request, OrdinaryRequest):
                return None
            if permit is None or not call.visitor.ordinary or not self.gateway.own.empty:
                return None
            visitor, settings = call.visitor, snapshot.settings
            found = found_lightly(snapshot, visitor, surface, body) if len(body) > LARGE else None
            if found is None:
                body = whole(body)
                found = recalled(settings, visitor, body) or found_by(snapshot, visitor, surface, request, body)
            if found is None or found[0].standing is not permit.standing or len(body) > found[0].longest:
                return None
            ride = Ride(self.gateway, request, snapshot, found, body, call.decision.at_ms, call.started, call)
            return ride if departs(ride) else None
        except Exception:
            if call.inside:
                raise
            log.exception("internal_error", request_id=call.request_id, surface=surface.name)
            return None
