"""The course of a stream on the short way: from its first byte to its last, where bytes are received.

No task wakes up for any of it but the last. Frames are judged by the streams of the way of all (`proxy.streams`), and
the run of text that most of a stream is leaves by its bytes. Here is what a good stream does whose client keeps up;
anything else, an error, a slow client, a provider that falls silent, a stream that outgrows its reservation, is the
matter of the way of all from there on: before the commit it finds what came of the answer as bytes that nobody has
read, behind it an opening of which a part has left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from proxy import ir
from proxy.dialects.dialect import Dialect, Voice
from proxy.routing.latency import pace
from proxy.routing.world import Pick
from proxy.server import billing
from proxy.server.attempt import Opening, make_stream
from proxy.server.begun import Commit
from proxy.server.call import NOTHING, Call
from proxy.server.downstream import AT_ONCE, CLOSES, STAYS, UNSENT, Left, post
from proxy.server.early import KEEP_ALIVE
from proxy.server.flow import GREAT, LAST, QUIET
from proxy.server.ledger import Brief
from proxy.server.upstream.lean import FIRST
from proxy.server.watchdog import STUCK_WRITE, Watchdog
from proxy.streams import Retelling, Stream, at_once
from proxy.wire.chunked_run import SIZE_LINES, ChunkedRun
from proxy.wire.http1 import BadHttp, Head, all_of, rest_of
from proxy.wire.mould import QUOTE
from proxy.wire.sse import CR, LF, is_text

if TYPE_CHECKING:
    from proxy.server.express import Ride

LARGE = 16 << 10  # bytes of a read of which not all is parsed; or of what is held before the commit: of more, none here
FEW, CROWD = 4, 32  # requests under way
LAST_CHUNK = b"\r\n0\r\n\r\n"
LARGEST = 12 << 10  # bytes of a stream that leaves in one; see `express.LARGEST`
NEVER = 1 << 62  # no frame is so long
_brief = partial(tuple.__new__, Brief)


class _Steady:
    """What a course needs for each event of a slow stream. A class has its slots in the order of the alphabet, behind
    those of its base: these are near each other in memory."""

    __slots__ = (
        "_before", "_behind", "_client", "_last", "_least", "_most", "_now", "_out", "_retelling", "_said", "_write",
    )  # fmt: skip


class Course(_Steady):
    """One stream's, from the moment that the provider was asked."""

    __slots__ = (
        "_agenda", "_answer", "_body", "_commit", "_edits", "_over", "_page", "_parser", "_passed", "_recast",
        "_recorded", "_reply", "_reserved", "_ride", "_run", "_size", "_stream", "_told", "_unsent",
        "_upstream_id", "_wait", "_waiter", "_whole", "_woken",
    )  # fmt: skip

    _stream: Stream
    _edits: Mapping[str, int]  # of that, or of one that came at once
    _waiter: asyncio.Future[None]
    _passed: bytes  # of the provider's headers, lines
    _upstream_id: str | None
    _told: tuple[ir.Usage, int | None]  # usage and cost of one that has ended

    def __init__(self, ride: Ride) -> None:
        track, reply, agenda = ride.track, ride.reply, ride.gateway.relay.agenda
        self._ride = ride
        self._reply = reply
        self._parser = reply.parsing()
        self._client = ride.request.protocol
        self._agenda = agenda
        self._now = agenda.now
        self._last = self._said = ride.began  # when the provider was heard of, and the client something said
        self._page: int | None = agenda.put(self, ride.began + track.first_due)
        self._wait = ride.snapshot.world.latencies.waits(track.candidate, ride.gateway.clock())
        self._commit: Commit | None = None
        self._whole = b""  # what came in one read, until it is looked at
        self._woken = False  # the task, for that
        self._body: list[bytes] = []  # that came before the commit
        self._size = 0  # of that
        self._run: ChunkedRun | None = None
        self._least = NEVER  # bytes of a frame of the run, where they leave as they came; and what is around a text:
        self._before = self._behind = b""
        self._retelling: Retelling | None = None  # of the run, where they leave in other words
        self._out = 0  # bytes of the body that the client got
        self._most = track.most_bytes
        self._reserved = track.output  # tokens
        self._unsent = b""  # what of the answer may leave and has not, when the way of all goes on
        self._answer: Left | None = None  # once all of it has left
        self._recorded = False
        self._over = False  # the reply is whoever's it was
        reply.lend(self)

    @property
    def committed(self) -> bool:
        return self._commit is not None

    async def run(self) -> Left | None:
        """None where the way of all has to go on."""
        self._waiter = self._agenda.future()
        try:
            await self._waiter
            if self._whole:
                data, self._whole = self._whole, b""
                self._waiter = self._agenda.future()
                self.received(data)
                await self._waiter
        except BaseException as exc:
            self._interrupted(exc)
            return None
        if self._answer is not None and not self._recorded:
            try:
                if not self._parser.done and await self._reply.finish():
                    self._stream.edits["surplus_dropped"] = 1
            finally:
                self._record()
        return self._answer

    def _interrupted(self, exc: BaseException) -> None:
        """The client has left, or the gateway ends what is under way."""
        if self._answer is not None:
            if not self._recorded:
                self._reply.close()
                self._record()
            raise exc
        self._hand_over()
        if self._commit is None:
            self._ride.raised = exc
            self._reply.close()
        else:
            self._reply.raises(exc)

    # -- the connection's side -------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        try:
            line, size = SIZE_LINES[len(data)]
            if size >= self._least:  # as nearly every read of a slow stream: one chunk, one frame of the run
                text = data.removeprefix(line).removeprefix(self._before).removesuffix(self._behind)
                if (
                    len(text) == size - self._least and QUOTE not in text and LF not in text and CR not in text
                    and (text.isascii() or is_text(text))
                    and ((out := self._out + size) <= self._most or not self._outgrows(out))
                ):  # fmt: skip
                    self._out = out
                    self._last = self._now()
                    self._write(data)
                    if self._client.writing_paused:
                        self._hand_over()
                    return
            retelling = self._retelling
            if retelling is not None and (chunk := retelling.chunk(data, self._most - self._out)):
                self._out += retelling.size
                self._last = self._said = self._now()
                self._write(chunk)
                if self._client.writing_paused:
                    self._hand_over()
                return
            if self._run is not None and self._recast is not None:
                said = self._recast(data)
                if said is None:
                    self._read(data)
                else:
                    self._last = self._now()
                    if self._outgrows(self._out + len(said)):
                        self._hand_over(said)
                    else:
                        self._say(said)
            else:
                self._read(data)
        except BaseException as exc:  # a fault of ours is for whoever serves the request, not for the loop
            self._hand_over()
            if self._commit is not None and not self._has_left():  # before it the same is found again
                self._reply.raises(exc)

    def _has_left(self) -> bool:
        """The client, a moment ago; its task will be told of it."""
        transport = self._client.transport
        return transport is None or transport.is_closing()

    def _came_at_once(self, data: bytes) -> bool:
        """Whether this is a stream from its first byte to its last, and seen to: it has left, or it waits.

        Among many it is left to its task: those that wake up together find the same code at hand, and there is the
        less of it between two reads. One that is nearly alone is not kept waiting for the loop."""
        if not data.endswith(LAST_CHUNK) or len(data) > LARGE or self._parser.begun:
            return False
        self._whole = data
        if not self._woken and len(self._ride.gateway.calls) > FEW:
            self._woken = True
            self._waiter.set_result(None)
            return True
        left = self._leaves(data)
        self._whole = b""
        return left

    def _leaves(self, data: bytes) -> bool:
        """All of a good stream, if each of its frames is known; else nothing was done."""
        ride, track, client = self._ride, self._ride.track, self._client
        prepared, price, transport = track.streamed, track.price, client.transport
        if prepared is None or not prepared.native or not isinstance(prepared.dialect, Dialect):
            return False
        try:
            found = all_of(data)
        except BadHttp:
            return False  # found again, and told
        stream = at_once(prepared.dialect, found[1], strip_usage=prepared.asked_usage) if found is not None else None
        if found is None or stream is None or (usage := stream.usage) is None:
            return False
        head, out, size = found[0], stream.out, len(stream.out)
        passed = track.passed if track.heard is head else ride.heard(head)
        cost = price.cost_nanos(usage) if price is not None else None
        if passed is None or size > LARGEST or size > self._most or (cost is None and price is not None):
            return False
        if transport is None or transport.is_closing() or client.writing_paused:
            return False
        self._last = self._now()
        first_byte_s = time.monotonic() - ride.started
        post(ride.request, transport, b"%b%x\r\n%b\r\n0\r\n\r\n" % (self._head(passed), size, out))
        self._parser.has_fed(head)
        self._edits, self._upstream_id, self._told, self._out = stream.edits, track.upstream_id, (usage, cost), size
        self._commit = commit = Commit(first_byte_s, self._last - ride.began)
        self._learn(commit)
        self._ended()
        return True

    def _read(self, data: bytes) -> None:
        if self._commit is None:
            if self._whole:  # and more came behind it
                data, self._whole = self._whole + data, b""
            if self._came_at_once(data):
                return
        elif (
            self._run is not None
            and self._recast is None
            and data[-len(LAST_CHUNK) :] == LAST_CHUNK
            and self._ends(data)
        ):
            return
        self._last = self._now()
        self._runs_no_more()
        if len(data) > LARGE or (len(data) > LAST and self._commit is not None):
            self._read_much(data)
        else:
            self._parse(data)

    def _ends(self, data: bytes) -> bool:
        """Whether these are the last chunks of a good stream, and seen to: each of their frames is known."""
        chunks = rest_of(data) if len(data) <= LAST else None
        out = self._stream.last(chunks) if chunks is not None else None
        if out is None:
            return False
        head = self._parser.head
        assert head is not None
        self._last = self._now()
        self._parser.has_fed(head)
        if self._is_unusual(out):
            self._hand_over(out)
        else:
            self._end(out)
        return True

    def _read_much(self, data: bytes) -> None:
        """Many frames at once: the first are read, or the end of a chunk that had begun; and of the run in which they
        stand the others leave as they came."""
        at = 0
        if self._commit is not None and self._parser.at_border:
            at = self._pour(self._stream.run, data, 0)
        if not at and not self._over:
            at = self._parse(data, FIRST if self._commit is None else 1)
            at = self._pour(self._run, data, at)
        if at < len(data) <= at + LARGE and not self._over:
            self._parse(data[at:])
        elif at < len(data):
            self._hand_over()
            self._reply.received(data[at:])

    def _pour(self, run: ChunkedRun | None, data: bytes, at: int) -> int:
        """Where in `data` all that the run takes has left; it begins where a chunk does."""
        if at == len(data) or run is None or self._over:
            return at
        if self._recast is not None:
            return self._pour_recast(data, at)
        size, said = run.cut(data, at)
        out = self._out + said
        if not size or self._outgrows(out) or self._has_left():
            self._runs_no_more()
            return at
        self._out = out
        if len(self._ride.gateway.calls) > CROWD:  # that many clients who read nothing might keep a whole read each
            for begin in range(at, at + size, AT_ONCE):
                self._write(data[begin : min(begin + AT_ONCE, at + size)])
        else:
            self._write(memoryview(data)[at : at + size])
        if self._client.writing_paused:
            self._hand_over()
        return at + size

    def _pour_recast(self, data: bytes, at: int) -> int:
        """The same, in the client's dialect."""
        out, end = self._stream.recast_run(data, at)
        if not out:
            self._runs_no_more()
            return at
        if self._outgrows(self._out + len(out)):
            self._hand_over(out)
            return end
        if len(self._ride.gateway.calls) > CROWD:  # as above
            for begin in range(0, len(out), AT_ONCE):
                self._say(out[begin : begin + AT_ONCE])
        else:
            self._say_unjoined(out)
        return end

    def _parse(self, data: bytes, enough: int = 0) -> int:
        """As `Parser.feed`, or as its `feed_some`; how much of it was parsed."""
        parser, at = self._parser, len(data)
        begun = parser.head is not None
        try:
            if enough:
                body, at = parser.feed_some(data, enough)
            else:
                body = parser.feed(data)
        except BadHttp as exc:
            self._judge(exc.body, begun)
            self._hand_over()
            self._reply.garbled(exc)
        else:
            self._judge(body, begun)
        return at

    def _judge(self, body: bytes, begun: bool) -> None:
        """What a read brought of the body; `begun`, whether the head was here before."""
        parser = self._parser
        if self._commit is None:
            self._body.append(body)
            self._size += len(body)
        if not begun and (parser.head is None or not self._begins(parser.head, body)):
            return
        out = self._stream.feed(body) if body else b""
        if not self._stream.committed and self._size <= LARGE and not parser.done:
            return  # all of it is held
        if self._is_unusual(out):
            self._hand_over(out)
        elif self._commit is None:
            self._begin(out)
        elif self._stream.done:
            self._end(out)
        else:
            self._say(out)
        if parser.at_border and not self._over and (run := self._stream.run) is not None:
            self._run = run
            if self._recast is None:
                self._least, self._before, self._behind = run.least, run.mould.head, run.end
            else:
                self._retelling = self._stream.retelling

    def _runs_no_more(self) -> None:
        self._run, self._least, self._retelling = None, NEVER, None

    def _begins(self, head: Head, body: bytes) -> bool:
        """Whether what follows can be a stream of the kind that came before."""
        track = self._ride.track
        passed = track.passed if track.heard is head else self._ride.heard(head)
        if passed is None or head.framing != "chunked":
            self._hand_over()
            return False
        self._passed, self._upstream_id = passed, track.upstream_id
        self._stream = stream = self._made()
        self._edits = stream.edits
        return True

    def _made(self) -> Stream:
        ride, track, spoken = self._ride, self._ride.track, self._ride.track.surface.spoken
        assert track.streamed is not None
        asked = ride.asked() if spoken.repeats else NOTHING  # see `Call.voice`
        voice = Voice(ride.request_id, track.facts.wanted[0], ride.at_ms // 1000, track.wants_usage, asked)
        stream = make_stream(track.streamed, spoken, voice, ride.snapshot)
        self._recast = None if track.streamed.native else stream.recast
        return stream

    def _is_unusual(self, out: bytes) -> bool:
        """What the stream gave for a read, or how it is to go on."""
        stream, size = self._stream, self._out + len(out)
        if self._commit is None and not (out and stream.committed):
            return True
        if stream.failure is not None or stream.farewell or self._outgrows(size):
            return True
        if self._parser.done and not stream.done:
            return True
        transport = self._client.transport
        if transport is None or transport.is_closing() or self._client.writing_paused:
            return True
        if not stream.done:
            return False
        if self._commit is None:
            return size > LARGEST or self._is_of_unknown_cost()
        return len(out) > LAST or transport.get_write_buffer_size() > 0 or self._is_of_unknown_cost()

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

    def _is_of_unknown_cost(self) -> bool:
        """Of a stream that has ended: whether what it cost is for others to guess."""
        usage, price = self._stream.usage, self._ride.track.price
        cost = price.cost_nanos(usage) if usage is not None and price is not None else None
        if usage is None or (cost is None and price is not None):
            return True
        self._told = usage, cost
        return False

    def lost(self, exc: BaseException | None) -> None:
        self._hand_over()
        self._reply.lost(exc)

    # -- the client's side -----------------------------------------------------------------------------------

    def _begin(self, out: bytes) -> None:
        """The commit: the head leaves, and what there is."""
        ride, client = self._ride, self._client
        transport = client.transport
        assert transport is not None
        first_byte_s = time.monotonic() - ride.started
        wait = self._last - ride.began
        head = self._head(self._passed)
        self._out, whole = len(out), self._stream.done
        if whole:
            post(ride.request, transport, b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(out), out))
        else:
            if ride.request.outbox is not None:
                ride.request.outbox.flush()  # what follows goes straight to the connection
            transport.set_write_buffer_limits(UNSENT)
            transport.write(b"%b%x\r\n%b\r\n" % (head, len(out), out))
            self._write = transport.write
        self._said = self._last
        self._commit = Commit(first_byte_s, wait)
        self._learn(self._commit)
        self._body.clear()
        if whole:
            self._ended()
        else:
            ride.forget()
            if client.writing_paused:
                self._hand_over()

    def _head(self, passed: bytes) -> bytes:
        """Of the answer; `passed` are the provider's headers in it."""
        ride, gateway = self._ride, self._ride.gateway
        now, wall, stays = gateway.clock(), gateway.now(), ride.request.keep_alive
        return ride.track.letterhead.stream(ride.request_id, passed, now, wall, stays)

    def _learn(self, commit: Commit) -> None:
        """See `Relay`."""
        ride, track, world = self._ride, self._ride.track, self._ride.snapshot.world
        candidate, now = track.candidate, self._ride.gateway.clock()
        world.latencies.answered(candidate, self._wait)
        world.health.asked(candidate.provider)
        world.health.succeeded(candidate, track.credential.index, now)
        world.latencies.note(candidate, commit.ttfb_ms - ride.started_ms, now, False)
        ride.gateway.metrics.queued(candidate.provider, 0.0)

    def _say(self, out: bytes) -> None:
        if not out:
            if self._recast is None or self._last - self._said < QUIET:
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

    def _end(self, out: bytes) -> None:
        self._out += len(out)
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(out), out) if out else b"0\r\n\r\n")
        self._ended()

    def _ended(self) -> None:
        self._answer = STAYS if self._ride.request.keep_alive else CLOSES
        self._give_back(b"")
        if self._parser.done:
            self._record()

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        if self._page is None:
            return
        self._page = None
        idle, total = self._ride.track.limits_of_stream
        due = min(self._last + idle, self._ride.began + total)
        if self._commit is None or now >= due:
            self._hand_over()
        else:
            self._page = self._agenda.put(self, min(due, now + STUCK_WRITE))

    # -- the end, here or elsewhere ----------------------------------------------------------------------------

    def _give_back(self, body: bytes) -> None:
        self._over = True
        self._runs_no_more()
        if self._page is not None:
            self._agenda.strike(self, self._page)
            self._page = None
        self._reply.give_back(body)
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _hand_over(self, unsent: bytes = b"") -> None:
        """To the way of all; `unsent` is what the stream gave last."""
        if self._over:
            return
        if self._commit is None:
            self._ride.snapshot.world.latencies.answered(self._ride.track.candidate, self._wait)
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
        commit, ride, track, reply = self._commit, self._ride, self._ride.track, self._reply
        if commit is None or track.streamed is None or self._whole:
            return None
        call.phase, call.answer.begun = "stream", True
        call.first_byte_s, call.upstream_wait, call.decision.ttfb_ms = (
            commit.first_byte_s, commit.upstream_wait, commit.ttfb_ms,
        )  # fmt: skip
        call.decision.queue_ms = 0
        if call.output_reserved:
            call.output_reserved = self._reserved
        attempt = call.begin_attempt(track.candidate, byok=False)
        attempt.status, attempt.upstream_request_id = 200, self._upstream_id
        attempt.ttfb_ms, attempt.bytes_out = commit.ttfb_ms - ride.started_ms, self._out
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
        ride, track, gateway = self._ride, self._ride.track, self._ride.gateway
        commit = self._commit
        assert commit is not None
        self._recorded = True
        (usage, cost), duration = self._told, time.monotonic() - ride.started
        charged, read, ttfb_ms = min(cost or 0, billing.MOST_CHARGED), usage.input_total, commit.ttfb_ms
        now, world, duration_ms = gateway.clock(), ride.snapshot.world, int(duration * 1000)
        brief = _brief((
            track, ride.request_id, ride.at_ms, ride.tokens, ride.conversation, ride.pinned is not None, usage, cost,
            charged, ttfb_ms, duration_ms, self._out, self._upstream_id, ride.started_ms,
        ))  # fmt: skip
        for kind, count in self._edits.items():
            gateway.metrics.stream_edited(kind, count)
        if (rate := pace(usage.output, duration_ms - ttfb_ms)) is not None:
            world.latencies.observe_rate(track.candidate, rate)
        if ride.conversation is not None and track.pins:
            world.affinity.pin(ride.conversation, track.candidate, now)
        track.in_flight.value -= 1
        ride.off_course()
        if ride.call is not None:
            ride.call.recorded = True
        gateway.ended(ride.call or ride, ride.snapshot, ride.size, True)
        for alert in ride.alights(charged, (read or 0) + (usage.output or 0), now):
            gateway.alerts.tell(alert)
        track.tally.add(duration, commit.first_byte_s - commit.upstream_wait, usage, cost, ttfb_ms / 1000)
        client = track.visitor.client(ride.request.remote or None, ride.snapshot.proxies)
        gateway.tell_brief(track, brief, read, client)
        gateway.ledger.record(brief)
