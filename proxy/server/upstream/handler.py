"""A provider's connection as its transport knows it: aiohttp's protocol, until others receive an answer on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from proxy.server.upstream.lean import LeanReply


class Receiver(Protocol):
    """Of all that happens to a connection."""

    def received(self, data: bytes) -> None: ...
    def lost(self, exc: BaseException | None) -> None: ...


class Handler(ResponseHandler):
    """One connection. While a lean reply runs on it, all that happens to it is the reply's, or a borrower's."""

    __slots__ = ("ear", "reply", "rests", "spare", "used")  # quicker than in its dictionary, which `direct` changes

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.reply: Receiver | None = None
        self.used = False
        self.ear: Receiver | None = None  # is handed what comes by the transport itself
        self.rests: object = None  # took a stream to its end, and may take another one
        self.spare: LeanReply | None = None  # whose answer has come, for the next request

    def direct(self, ear: Receiver | None) -> None:
        """What comes is handed to that one by the transport itself, until another is named, and it gives to `passes_on`
        what is not for it; None: to whomever it is for when it comes. A transport asks its protocol for where to only
        when it is set, which costs a loop as much as a dozen reads are cheaper by it: so one that rests remains."""
        self.ear = ear
        if ear is None:
            del self.__dict__["data_received"]
        else:
            self.__dict__["data_received"] = ear.received
        if self.transport is not None:
            self.transport.set_protocol(self)

    def passes_on(self, data: bytes) -> None:
        """To whomever it is for."""
        if self.reply is not None:
            self.reply.received(data)
        elif self.used:
            self.force_close()  # it spoke while nobody asked: what it said is no answer to any request
            if self.transport is not None:
                self.transport.close()
        else:
            super().data_received(data)

    data_received = passes_on

    def connection_lost(self, exc: BaseException | None) -> None:
        reply = self.reply
        super().connection_lost(exc)
        self.rests = self.spare = None  # which know this one: as rings they would wait for the collector
        if self.ear is not None:
            self.direct(None)
        if reply is not None:
            reply.lost(exc)
