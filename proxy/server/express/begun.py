"""A first attempt that is under way when the relay comes to it; see `server.express`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.record import define
from proxy.server.credentials import Credential
from proxy.server.outgoing import Prepared
from proxy.server.upstream import LeanUpstream, Outgoing, Reply
from proxy.server.upstream.lean import LeanReply

if TYPE_CHECKING:
    from proxy.server.attempt import Opening


@define
class Begun:
    """A first attempt that is under way: whoever goes on with it finds the provider asked."""

    upstream: LeanUpstream
    reply: LeanReply
    credential: Credential
    began: float  # by the agenda's clock
    started_ms: int  # from the start of the request
    raised: BaseException | None = None  # what ended the wait for its answer
    prepared: Prepared | None = None  # what was asked, where it need not be made again
    opening: Opening | None = None  # the answer, where it has begun well and part of it has left

    async def answer(self, outgoing: Outgoing) -> Reply:
        """As `Upstream.send`."""
        if self.raised is not None:
            raise self.raised
        return await self.upstream.resumed(self.reply, self.began, outgoing)
