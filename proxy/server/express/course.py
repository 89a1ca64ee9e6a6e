"""The course of a stream on the short way: from its first byte to its last, where bytes are received.

No task wakes up for any of it but the last. Frames are judged by the streams of the way of all (`proxy.streams`), and
the run of text that most of a stream is leaves by its bytes. Here is what a good stream does whose client keeps up;
anything else, an error, a slow client, a provider that falls silent, a stream that outgrows its reservation, is the
matter of the way of all from there on: before the commit it finds what came of the answer as bytes that nobody has
read, behind it an opening of which a part has left.
"""

from __future__ import annotations

import time

from proxy.dialects.dialect import Dialect, Voice
from proxy.server.attempt import make_stream
from proxy.server.call import NOTHING
from proxy.server.clients.downstream import AT_ONCE, CLOSES, STAYS, Left, post
from proxy.server.express.begun import Commit
from proxy.server.express.telling import Telling
from proxy.server.flow import LAST
from proxy.server.upstream.lean import FIRST
from proxy.streams import Stream, at_once
from proxy.wire.chunked_run import SIZE_LINES, ChunkedRun
from proxy.wire.http1 import BadHttp, Head, all_of, rest_of
from proxy.wire.mould import QUOTE
from proxy.wire.sse import CR, LF, is_text

LARGE = 16 << 10  # bytes of a read of which not all is parsed; or of what is held before the commit: of more, none here
FEW, CROWD = 4, 32  # requests under way
LAST_CHUNK = b"\r\n0\r\n\r\n"
LARGEST = 12 << 10  # bytes of a stream that leaves in one; see `express.LARGEST`


class Course(Telling):
    """One stream's, from the moment that the provider was asked."""

    __slots__ = ()

    async def run(self) -> Left | None:
        """None where the way of all has to go on."""
        self._waiter = self._agenda.future()
        self._reply.lend(self)
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
                if await self._reply.finish():
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
            if retelling is not None and (chunk := retelling.chunk(data, line, size, self._most - self._out)):
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

    def _came_at_once(self, data: bytes) -> bool:
        """Whether this is a stream from its first byte to its last, and seen to: it has left, or it waits.

        Among many it is left to its task: those that wake up together find the same code at hand, and there is the
        less of it between two reads. One that is nearly alone is not kept waiting for the loop."""
        if not data.endswith(LAST_CHUNK) or len(data) > LARGE:
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
        self._edits, self._upstream_id, self._told, self._out = stream.edits, track.upstream_id, (usage, cost), size
        self._commit = commit = Commit(first_byte_s, self._last - ride.began)
        self._learn(commit)
        self._over, self._answer = True, STAYS if ride.request.keep_alive else CLOSES
        if self._page is not None:
            self._agenda.strike(self, self._page)
            self._page = None
        self._reply.has_come(head)
        if not self._waiter.done():
            self._waiter.set_result(None)
        self._record()
        return True

    def _read(self, data: bytes) -> None:
        if self._commit is None:
            if self._whole:  # and more came behind it
                data, self._whole = self._whole + data, b""
            if self._unread:
                if self._came_at_once(data):
                    return
                self._unread, self._parser = False, self._reply.parsing()
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

    def lost(self, exc: BaseException | None) -> None:
        self._hand_over()
        self._reply.lost(exc)
