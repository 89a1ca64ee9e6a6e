"""A stream on the short way as its client sees it, and as it is told of: the commit, what leaves, the end, the record.

And how it goes to the way of all, where anything is not as usual. What the provider's side does is in `course`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from proxy import ir
from proxy.dialects.dialect import Dialect, Voice
from proxy.routing.latency import pace
from proxy.routing.world import Pick
from proxy.server import billing
from proxy.server.attempt import Opening, make_stream
from proxy.server.call import NOTHING, Call
from proxy.server.clients.downstream import CLOSES, STAYS, UNSENT
from proxy.server.early import KEEP_ALIVE
from proxy.server.express.fare import settle
from proxy.server.flow import GREAT, QUIET
from proxy.server.upstream.handler import Handler
from proxy.server.watchdog import STUCK_WRITE, Agenda, Watchdog
from proxy.streams import Familiar, Recital, Retelling, Stream, Translation, UsualOpening, familiar
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.head_shape import Head
from proxy.wire.http1 import Parser

if TYPE_CHECKING:
    from proxy.server.clients.connection import Connection
    from proxy.server.express.ride import Ride
    from proxy.server.upstream.lean import LeanReply

LARGEST = 12 << 10  # bytes of a stream that leaves in one; see `express.LARGEST`
NEVER = 1 << 62  # no frame is so long
Data = bytes | bytearray | memoryview  # as a transport takes it


def _unheard(data: Data) -> None:
    """It would be lost without a word."""
    raise AssertionError("nobody is written to before the commit")


class _Steady:
    """What a course needs for each event of a slow stream. A class has its slots in the order of the alphabet, behind
    those of its base: these are near each other in memory."""

    __slots__ = (
        "_agenda", "_before", "_behind", "_client", "_last", "_least", "_most", "_out", "_retelling", "_said", "_write",
    )  # fmt: skip


class Telling(_Steady):
    """What the client's side and the provider's know of one stream."""

    __slots__ = (
        "_body", "_done", "_edits", "_familiar", "_first", "_first_byte_s", "_handler", "_heard", "_line", "_opening",
        "_over", "_parser", "_passed", "_preamble", "_recast", "_recital", "_reply", "_reserved", "_ride",
        "_run", "_size", "_stream", "_told", "_ttfb_ms", "_unread", "_unsent", "_upstream_id", "_upstream_wait",
        "_whole",
    )  # fmt: skip

    _ride: Ride
    _reply: LeanReply
    _client: Connection
    _write: Callable[[Data], None]
    _stream: Stream
    _edits: Mapping[str, int]  # of that, or of one that came at once
    _parser: Parser
    _passed: bytes  # of the provider's headers, lines
    _preamble: bytes  # what the frames of one begin with that began as usual, or ends so
    _upstream_id: str | None
    _upstream_wait: float  # of one that has begun,
    _ttfb_ms: int  # and its first byte, from the start of the request
    _told: tuple[ir.Usage, int | None]  # usage and cost of one that has ended

    def __init__(self, handler: Handler, agenda: Agenda) -> None:
        """`serves` comes next."""
        self._handler = handler
        self._agenda = agenda
        self._first_byte_s: float | None = None  # from the start of the request; None until the commit
        self._heard: Head | None = None  # the provider's, while no parser was needed for what came behind it,
        self._done = False  # and whether that was all
        self._familiar: Familiar | None = None  # the stream, while each of its frames is known
        self._recital: Recital | None = None  # or each of its reads, where they leave in other words
        self._opening: UsualOpening | None = None  # how it began, while all of it was as usual: then chunks as they
        self._unread = True  # whatever has come                                          # came are in the body
        self._first = b""  # the first read, where one may be learnt from it
        self._whole = b""  # what came in one read, until it has been looked at
        self._body: list[bytes] = []  # that came before the commit
        self._size = 0  # of that
        self._recast: Callable[[bytes], bytes | None] | None = None  # None: its bytes are the client's
        self._run: ChunkedRun | None = None
        self._least = NEVER  # bytes of a frame of the run, where they leave as they came; and what is around a text:
        self._before = self._behind = b""
        self._retelling: Retelling | None = None  # of the run, where they leave in other words
        self._out = 0  # bytes of the body that the client got
        self._unsent = b""  # what of the answer may leave and has not, when the way of all goes on

    def serves(self, ride: Ride, now: float) -> None:
        """The stream that its provider was asked for just now."""
        track = ride.track
        self._ride = ride
        self._reply = ride.reply
        self._client = ride.request.protocol
        self._last = self._said = ride.began  # when the provider was heard of, and the client something said
        self._most = track.most_bytes
        self._reserved = track.output  # tokens
        self._over = False  # the reply is whoever's it was
        self._agenda.put(self, ride.began + track.first_due)
        self._line = ride.snapshot.world.latencies.waits(track.candidate, self, now)

    def _rests(self) -> None:
        """It is as it was made, but for what `serves` says, and may serve the next stream of its connection. Nobody
        else knows it any more."""
        if not self._unread and self._opening is None and self._familiar is None and self._recital is None:
            del self._stream  # which read it
            self._recast, self._done = None, False
        self._reply.rests()
        del self._ride, self._reply, self._client
        self._write = _unheard
        self._first_byte_s = self._heard = self._familiar = self._recital = self._opening = None
        self._unread, self._first, self._size, self._out = True, b"", 0, 0
        self._before = self._behind = b""
        self._body.clear()
        if self._handler.transport is not None:  # or it was lost meanwhile, and would know who knows it
            self._handler.rests = self

    @property
    def committed(self) -> bool:
        return self._first_byte_s is not None

    # -- what may leave ----------------------------------------------------------------------------------------

    def _has_left(self) -> bool:
        """The client, a moment ago; its task will be told of it."""
        transport = self._client.transport
        return transport is None or transport.is_closing()

    def _outgrows(self, size: int) -> bool:
        """Whether so many bytes are more than is seen to here. What was reserved for fewer is topped up, as in
        `billing.top_up`."""
        if size <= self._most or size > GREAT:
            return size > self._most
        ride, track = self._ride, self._ride.track
        reserved = self._reserved = billing.topped_up(self._reserved, size // billing.STREAM_BYTES_PER_TOKEN)
        self._most = min(billing.bytes_of(reserved), GREAT)
        nanos = billing.nanos_of(track.price, ride.tokens, reserved, track.facts.shape.cache_write)
        if ride.permit.top_up(nanos) and track.leased is not None:
            ride.lease(track.leased, ride.permit.nanos, int(ride.gateway.now() * 1000))
        return False

    def _costs(self, usage: ir.Usage | None) -> bool:
        """Notes what it cost; False where that is for others to guess."""
        price = self._ride.track.price
        cost = price.cost_nanos(usage) if usage is not None and price is not None else None
        if usage is None or (cost is None and price is not None):
            return False
        self._told = usage, cost
        return True

    def _runs_no_more(self) -> None:
        self._run, self._least, self._retelling = None, NEVER, None

    # -- what leaves -------------------------------------------------------------------------------------------

    def _begin(self, out: bytes, *, whole: bool = False, ends: bool = False) -> None:
        """The commit: the head leaves, and what there is; the `whole` stream, if it is done. Whether the provider's
        answer has come to its end is another thing."""
        ride, client = self._ride, self._client
        transport = client.transport
        assert transport is not None
        self._out = len(out)
        if self._familiar is None:
            self._body.clear()
        if not whole:
            self._begin_with(b"%x\r\n%b\r\n" % (len(out), out))
            return
        first_byte_s, now = time.monotonic() - ride.started, ride.gateway.clock()
        head = self._head(now)
        ride.request.turn.post(transport, b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(out), out))
        self._said = self._last
        self._learn(first_byte_s, now)
        self._ended(ends)

    def _begin_with(self, chunks: bytes) -> None:
        """The same, of one of which there is more to come; the bytes of its body are counted."""
        ride, client = self._ride, self._client
        transport = client.transport
        assert transport is not None
        first_byte_s, now = time.monotonic() - ride.started, ride.gateway.clock()
        ride.request.turn.flush()  # what follows goes straight to the connection
        transport.write(self._head(now) + chunks)
        transport.set_write_buffer_limits(UNSENT)  # which pauses it, if that is more than the kernel took
        self._write = transport.write
        self._said = self._last
        self._learn(first_byte_s, now)
        ride.forget()
        if client.writing_paused:
            self._hand_over()
        else:
            self._reply.direct()

    def _head(self, now: float) -> bytes:
        """Of the answer."""
        ride = self._ride
        stays = ride.request.keep_alive
        return ride.track.letterhead.stream(ride.request_id, self._passed, now, ride.gateway.now(), stays)

    def _learn(self, first_byte_s: float, now: float) -> None:
        """That it has begun; see `Relay`."""
        ride = self._ride
        track = ride.track
        self._first_byte_s, self._upstream_wait = first_byte_s, self._last - ride.began
        ttfb_ms = self._ttfb_ms = int(first_byte_s * 1000)
        del self._line[self]
        ride.snapshot.world.health.answered(track.candidate, track.credential.index, now)
        track.times.add(ttfb_ms - ride.started_ms, now)
        track.tally.unqueued += 1

    def _say(self, out: bytes) -> None:
        if not out:
            if (self._recast is None and self._recital is None) or self._last - self._said < QUIET:
                return
            out = KEEP_ALIVE  # see `Flow`
        self._said = self._last
        size = len(out)
        self._out += size
        self._write(b"%x\r\n%b\r\n" % (size, out))
        if self._client.writing_paused or self._out > self._most:
            self._hand_over()

    def _say_unjoined(self, out: bytes) -> None:
        """As `_say`, of so much that a copy counts."""
        transport = self._client.transport
        assert transport is not None
        self._said = self._last
        self._out += len(out)
        transport.writelines((b"%x\r\n" % len(out), out, b"\r\n"))
        if self._client.writing_paused:
            self._hand_over()

    def _end(self, out: bytes, ends: bool = True) -> None:
        """`ends` says whether the provider's answer does."""
        self._out += len(out)
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(out), out) if out else b"0\r\n\r\n")
        self._ended(ends)

    def _ended(self, ends: bool = True) -> None:
        ride = self._ride
        ride.left = STAYS if ride.request.keep_alive else CLOSES
        if ride.found is not None:
            ride.forget()  # its task may wait for the connection's next request
        if not ends:
            self._give_back(b"")
            return
        if self._heard is not None:  # past any parser
            self._parts()
            self._reply.has_come(self._heard)
            ride.settles_soon(self._settles)
            return
        self._gives_back(b"")
        self._record()
        ride.ends()

    def _settles(self) -> None:
        """See `Ride.settles`."""
        self._record()
        self._ride.ends()
        self._rests()

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        idle, total = self._ride.track.limits_of_stream
        due = min(self._last + idle, self._ride.began + total)
        if self._first_byte_s is None or now >= due:
            self._hand_over()
        else:
            self._agenda.put(self, min(due, now + STUCK_WRITE))

    # -- the end, here or elsewhere ----------------------------------------------------------------------------

    def _parts(self) -> None:
        """Whatever else comes is nothing to it."""
        self._over = True
        self._runs_no_more()
        self._agenda.strike(self)

    def ends(self) -> None:
        """Nobody goes on with it."""
        if self._opening is not None:
            self._meets(self._opening)
        self._line.pop(self, None)
        self._whole = b""
        self._parts()
        self._reply.close()

    def _give_back(self, body: bytes) -> None:
        self._gives_back(body)
        self._ride.wakes()

    def _gives_back(self, body: bytes) -> None:
        self._parts()
        if self._heard is not None:
            self._take_parser(self._heard)
        self._reply.give_back(body)

    def _meets(self, opening: UsualOpening) -> None:
        """What began as usual does not go on like that: from here on each frame is looked at."""
        streamed = self._ride.track.streamed
        assert streamed is not None
        assert isinstance(streamed.dialect, Dialect)
        self._opening = None
        self._body = [chunk[chunk.find(b"\n") + 1 : -2] for chunk in self._body]
        stream = self._familiar = familiar(streamed.dialect, strip_usage=streamed.asked_usage)
        assert stream is not None
        if self._first_byte_s is None:
            stream.meets(self._preamble, b"", b"")
            self._least, self._out = NEVER, 0
            del self._write
        else:
            stream.meets(self._preamble, self._before, self._behind[:-2])

    def _take_parser(self, head: Head) -> None:
        """What comes from now on is not known by its bytes: a parser stands where a chunk has just ended, and a stream
        is told what it missed, which has left already."""
        if self._recital is not None:
            self._recall(self._recital, head)
        self._heard, self._parser = None, Parser(head, done=self._done, framing="chunked")
        self._reply.parser = self._parser
        if self._familiar is not None:
            self._familiar = None
            self._make_stream()
            held = b"".join(self._body)
            self._stream.feed(held)
            if self._first_byte_s is None:
                self._size = len(held)
            else:
                self._body.clear()

    def _recall(self, recital: Recital, head: Head) -> None:
        """A stream is told what it missed of one that went by passages."""
        self._recital = None
        self._make_stream()
        assert isinstance(self._stream, Translation)
        held = self._stream.catch_up(recital, Parser(head, framing="chunked"))
        if self._first_byte_s is None:
            self._body, self._size = [held], len(held)

    def _make_stream(self) -> None:
        ride, track, spoken = self._ride, self._ride.track, self._ride.track.spoken
        assert track.streamed is not None
        asked = ride.asked() if spoken.repeats else NOTHING  # see `Call.voice`
        voice = Voice(ride.request_id, track.facts.wanted[0], ride.at_ms // 1000, track.wants_usage, asked)
        self._stream = stream = make_stream(track.streamed, spoken, voice, ride.snapshot)
        self._recast = None if track.streamed.native else stream.recast
        self._edits = stream.edits

    def _hand_over(self, unsent: bytes = b"") -> None:
        """To the way of all; `unsent` is what the stream gave last."""
        if self._over:
            return
        if self._recital is not None and self._heard is not None:
            self._recall(self._recital, self._heard)
        if self._opening is not None:
            self._meets(self._opening)
        if self._first_byte_s is None:
            del self._line[self]
            whole, self._whole = self._whole, b""
            self._give_back(b"".join(self._body))
            if whole:
                self._reply.received(whole)
        else:
            self._unsent = unsent
            self._give_back(b"")

    def expire(self, message: str) -> None:
        """As `Reply.expire`."""
        self._hand_over()
        self._reply.expire(message)

    def opening(self, call: Call, pick: Pick) -> Opening | None:
        """For the way of all: the answer, if a part of it has left."""
        first_byte_s, ride, track, reply = self._first_byte_s, self._ride, self._ride.track, self._reply
        if first_byte_s is None or track.streamed is None:
            return None
        ttfb_ms = self._ttfb_ms
        call.phase, call.answer.begun = "stream", True
        call.first_byte_s, call.upstream_wait, call.decision.ttfb_ms = first_byte_s, self._upstream_wait, ttfb_ms
        call.decision.queue_ms = 0
        if call.output_reserved:
            call.output_reserved = self._reserved
        attempt = call.begin_attempt(track.candidate, byok=False)
        attempt.status, attempt.upstream_request_id = 200, self._upstream_id
        attempt.ttfb_ms, attempt.bytes_out = ttfb_ms - ride.started_ms, self._out
        watchdog = Watchdog(
            self._agenda, track.streamed.outgoing.timeouts, reply.expire, call.abandon, plain=False, started=ride.began
        )
        watchdog.goes_on(self._last)
        track.in_flight.value += 1
        return Opening(
            pick, track.streamed, reply, watchdog, attempt, reply.headers, self._stream, self._unsent,
            credential=track.credential, in_flight=track.in_flight,
        )  # fmt: skip

    def _record(self) -> None:
        """See `Gateway`: what a stream says of its candidate, what it cost, and what is told of it."""
        ride, first_byte_s = self._ride, self._first_byte_s
        assert first_byte_s is not None
        (usage, cost), duration = self._told, time.monotonic() - ride.started
        gateway, ttfb_ms, duration_ms = ride.gateway, self._ttfb_ms, int(duration * 1000)
        if edits := self._edits:
            for kind, count in edits.items():
                gateway.metrics.stream_edited(kind, count)
        if (rate := pace(usage.output, duration_ms - ttfb_ms)) is not None:
            ride.track.times.add_rate(rate)
        ride.off_course()
        overhead = first_byte_s - self._upstream_wait
        settle(
            ride, usage, cost, self._out, self._upstream_id, ttfb_ms, duration_ms, duration, overhead, gateway.clock()
        )
