"""A stream's bytes on their way to the client, where they are received: counted, watched, and held back.

One write for each read of the provider. What goes out with the end of the answer waits for it.
"""

from __future__ import annotations

from proxy.server import billing
from proxy.server.attempt import Opening
from proxy.server.call import Call
from proxy.server.early import KEEP_ALIVE
from proxy.server.upstream.exchange import Through
from proxy.streams import Stream

QUIET = 15.0  # seconds until a provider's sign of life becomes one for the client
GREAT = 256 << 10  # bytes of an answer
MANY = 32  # answers under way of one provider: each of them that is great shall be narrow
LAST = 8 << 10  # bytes that may wait for the end: fewer than a connection holds before the client is waited for


class Flow:
    """One answer's. `last` is what of it leaves with the end."""

    __slots__ = (
        "_answer", "_attempt", "_call", "_clock", "_full", "_opening", "_put", "_put_chunks", "_repeats_signs",
        "_reserved_for", "_said", "_touch", "_until", "_watchdog", "last",
    )  # fmt: skip

    def __init__(self, call: Call, opening: Opening) -> None:
        self._call, self._opening = call, opening
        self._reserved_for = billing.bytes_reserved(call)
        self._until = min(self._reserved_for, GREAT)  # so many bytes may leave before there is anything to see to
        self._answer = answer = call.answer
        self._put, self._put_chunks = answer.put, answer.put_chunks
        self._watchdog = watchdog = opening.watchdog
        self._touch = watchdog.touch
        self._clock = watchdog.now
        self._attempt = opening.attempt
        self._full = answer.full
        self._repeats_signs = not opening.prepared.native
        self._said = self._clock()
        self.last = b""

    def take(self, data: bytes) -> bool:
        """False where the client has to be waited for."""
        self._touch()
        if not data:
            return not self._full
        if self._repeats_signs:
            self._said = self._clock()
        self._count(len(data))
        if self._put(data):
            return True
        self._full = True
        return False

    def take_from(self, stream: Stream, data: bytes) -> bool:
        """What the stream gave for a read; False where no more is wanted, for now or at all."""
        if not stream.done:
            return self.take(data or self._sign_of_life()) and stream.failure is None
        if len(data) > LAST or stream.farewell:
            self.take(data)
        else:
            self._touch()
            self._count(len(data))
            self.last = data
        return False

    def _count(self, size: int) -> None:
        out = self._attempt.bytes_out = self._attempt.bytes_out + size
        if out > self._until:
            self._grown(out)

    def _grown(self, out: int) -> None:
        opening = self._opening
        if out > self._reserved_for:
            self._reserved_for = billing.top_up(self._call, opening)
        if out > GREAT and opening.in_flight is not None and opening.in_flight.value >= MANY:
            opening.reply.narrow()
        self._until = min(self._reserved_for, out + GREAT)

    def through(self, stream: Stream) -> Through | None:
        """For runs of text that need no look, as they stand on the wire: of the client's own dialect they leave with
        the very chunks in which they came."""
        if self._repeats_signs:
            return self._recast(stream)
        put_chunks = self._put_chunks
        if put_chunks is None:
            return None
        touch, attempt = self._touch, self._attempt

        def through(data: bytes) -> tuple[int, bool]:
            run = stream.run
            if run is None:
                return 0, True
            passed, size = run.cut(data)
            if not passed:
                return 0, True
            touch()
            out = attempt.bytes_out = attempt.bytes_out + size
            if out > self._until:
                self._grown(out)
            if put_chunks(data if passed == len(data) else data[:passed], size):
                return passed, True
            self._full = True
            return passed, False

        return through

    def _recast(self, stream: Stream) -> Through:
        take = self.take

        def through(data: bytes) -> tuple[int, bool]:
            if stream.run is None:
                return 0, True
            out, end = stream.recast(data), len(data)
            if out is None:
                out, end = stream.recast_run(data, 0)
            return (end, take(out)) if end else (0, True)

        return through

    def _sign_of_life(self) -> bytes:
        """A comment, where a provider of another dialect is alive, by a comment or a ping of its own, and says nothing
        that could be repeated: a client such as Claude Code gives a silent stream up."""
        return KEEP_ALIVE if self._repeats_signs and self._clock() - self._said >= QUIET else b""

    async def drained(self) -> None:
        if self._full:
            self._full = False
            self._watchdog.writing()
            await self._answer.drained()
            self._watchdog.written()
