"""A provider's connection as its transport knows it: aiohttp's protocol, until others receive an answer on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp.client_proto import ResponseHandler


class Receiver(Protocol):
    """Of all that happens to a connection."""

    def received(self, data: bytes) -> None: ...
    def lost(self, exc: BaseException | None) -> None: ...


class Handler(ResponseHandler):
    """One connection. While a lean reply runs on it, all that happens to it is the reply's, or a borrower's."""

    __slots__ = ("is_direct", "reply", "used")  # quicker than in its dictionary, which `direct` changes

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.reply: Receiver | None = None
        self.used = False
        self.is_direct = False

    def direct(self, received: Callable[[bytes], None] | None) -> None:
        """What comes is handed to that one by the transport itself, which asks its protocol for where to only when it
        is set; None: to whomever it is for when it comes."""
        self.is_direct = received is not None
        if received is None:
            del self.__dict__["data_received"]
        else:
            self.__dict__["data_received"] = received
        if self.transport is not None:
            self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        if self.reply is not None:
            self.reply.received(data)
        elif self.used:
            self.force_close()  # it spoke while nobody asked: what it said is no answer to any request
            if self.transport is not None:
                self.transport.close()
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        reply = self.reply
        super().connection_lost(exc)
        if reply is not None:
            reply.lost(exc)
