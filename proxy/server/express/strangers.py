"""Streams whose conversation has no key yet, for nobody looks for a pin of it: keys are made for some of them together.

Alone, each would take what a request among others finds in no cache. A key is needed for the record, at the latest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from proxy.server.express.setting import Talk

if TYPE_CHECKING:
    from proxy.server.express.ride import Ride

log = structlog.get_logger()
MOST = 16
NOT_YET = ""  # in the place of a conversation's key


class Strangers:
    """Of one gateway. What it keeps of a request it keeps no longer than that is under way."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[Ride, Talk]] = []

    def add(self, ride: Ride, talk: Talk) -> None:
        waiting = self._waiting
        waiting.append((ride, talk))
        if len(waiting) >= MOST:
            self.recognize()

    def recognize(self) -> None:
        waiting, self._waiting = self._waiting, []
        for ride, talk in waiting:
            try:
                ride.recognizes(talk)
            except Exception as exc:  # a fault of ours in one is none of the others'
                ride.conversation = None
                log.exception("internal_error", error=type(exc).__name__)
