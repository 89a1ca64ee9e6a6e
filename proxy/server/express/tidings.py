"""What is told of good answers once they are in the record: metrics and a line of the log each.

Nobody waits for it, and it takes code and tables that a request among others finds in no cache. So it is done for some
of them together, soon, in the order in which they ended; and at once where somebody asks, or tells of another request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from proxy.server.express.tally import Counted
from proxy.server.ledger import Brief

if TYPE_CHECKING:
    from proxy.server.express.track import Track
    from proxy.server.gateway import Gateway
    from proxy.wire.forwarded import Proxies

log = structlog.get_logger()
MOST = 16  # answers that nothing was told of

# How many tokens one read, how it is counted, and the address that asked.
Ended = tuple["Track", Brief, int | None, Counted, str | None, "Proxies"]


class Tidings:
    """Of one gateway. What is left to be told is told at the end of a tenth of a second."""

    __slots__ = ("_gateway", "_waiting")

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._waiting: list[Ended] = []

    def add(self, ended: Ended) -> None:
        waiting = self._waiting
        waiting.append(ended)
        count = len(waiting)
        if count == 1:
            agenda = self._gateway.relay.agenda
            agenda.put(self, agenda.tick)
        elif count >= MOST:
            self.tell()

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        self.tell()

    def tell(self) -> None:
        """All that there is. A fault of ours in one keeps nothing of the others."""
        if not self._waiting:
            return
        self._gateway.relay.agenda.strike(self)
        waiting, self._waiting = self._waiting, []
        tell = self._gateway.tell_brief
        for track, brief, read, counted, peer, proxies in waiting:
            try:
                track.tally.add(counted)
                tell(track, brief, read, track.visitor.client(peer, proxies))
            except Exception as exc:
                log.exception("internal_error", error=type(exc).__name__)
