"""The course of a stream on the short way: from its first byte to its last, where bytes are received.

No task wakes up for any of it; for its end only where the connection does not wait for another request (`Ride.ends`).
Frames are judged by the streams of the way of all (`proxy.streams`), and the run of text that most of a stream is
leaves by its bytes. Here is what a good stream does whose client keeps up; anything else, an error, a slow client, a
provider that falls silent, a stream that outgrows its reservation, is the matter of the way of all from there on:
before the commit it finds what came of the answer as bytes that nobody has read, behind it an opening of which a part
has left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy import ir
from proxy.dialects.dialect import Dialect
from proxy.server.clients.downstream import CLOSES, STAYS, Left
from proxy.server.express.learning import LARGEST_OPENING, learn_whole
from proxy.server.express.passing import Passing, is_within
from proxy.server.express.reading import LARGE
from proxy.server.express.telling import LARGEST
from proxy.server.flow import LAST
from proxy.server.turn import ANSWERS
from proxy.server.upstream.lean import UNREAD
from proxy.streams import Recital, at_once, familiar, learnt, recital_of
from proxy.streams.familiar import UNTOUCHED
from proxy.wire.answer_head import BadHttp
from proxy.wire.chunked_run import LONGEST, NO_LINE, SIZE_LINES
from proxy.wire.head_shape import Head
from proxy.wire.http1 import all_of, begun, chunks_of
from proxy.wire.mould import BARE

if TYPE_CHECKING:
    from proxy.server.express.ride import Ride
    from proxy.server.upstream.handler import Handler

LAST_CHUNK = b"\r\n0\r\n\r\n"


class Course(Passing):
    """One stream's at a time, from the moment that the provider was asked. One whose stream went to its end as most do
    rests with the provider's connection, whose ear it remains, until the next stream comes there."""

    __slots__ = ()

    @classmethod
    def of(cls, ride: Ride, handler: Handler, now: float) -> Course:
        """For its stream: the one that rests, or a new one. `now` is by the gateway's clock."""
        course, handler.rests = handler.rests, None
        if not isinstance(course, cls):
            course = cls(handler, ride.gateway.relay.agenda)
        course.serves(ride, now)
        return course

    async def finished(self) -> Left | None:
        """For the task, which was woken before the record: None where the way of all has to go on."""
        left = self._ride.left
        if left is not None:
            try:
                if await self._reply.finish():
                    self._stream.edits["surplus_dropped"] = 1
            finally:
                self._record()
        return left

    def interrupted(self, exc: BaseException) -> None:
        """See `Ride.interrupted`."""
        if self._ride.left is not None:
            self._reply.close()
            self._record()
            raise exc
        waited = not self._over  # for more than was looked at
        self._whole = b""  # which came too late
        self._hand_over()
        if self._first_byte_s is None:
            self._reply.close()
            if not waited or self._reply.parser.head is None:
                self._ride.raised = exc
                return
        self._reply.raises(exc)

    # -- the connection's side -------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        try:
            length = len(data)
            line, size = SIZE_LINES[length] if length <= LONGEST else NO_LINE
            if size >= self._least:  # as nearly every read of a slow stream: one chunk, one frame of the run
                text = data.removeprefix(line).removeprefix(self._before).removesuffix(self._behind)
                if (
                    len(text) == size - self._least and (text.translate(BARE) == text or is_within(text))
                    and ((out := self._out + size) <= self._most or not self._outgrows(out))
                ):  # fmt: skip
                    self._out = out
                    self._last = self._agenda.tick
                    self._write(data)
                    if self._client.writing_paused:
                        self._hand_over()
                    return
            retelling = self._retelling
            if retelling is not None and (chunk := retelling.chunk(data, line, size, self._most - self._out)):
                self._out += retelling.size
                self._last = self._said = self._agenda.tick
                self._write(chunk)
                if self._client.writing_paused:
                    self._hand_over()
                return
            if self._handler.reply is self:
                if self._whole:
                    data, self._whole = self._whole + data, b""
                if self._first_byte_s is not None or not self._waits(data):
                    self._read(data)
                return
        except BaseException as exc:  # a fault of ours is for whoever serves the request, not for the loop
            if self._ride.left is not None:
                self._ride.fails(exc)
                return
            begun, lost = self._first_byte_s is not None, not self._whole
            if not begun and lost and self._heard is None and self._reply.parser is not UNREAD:
                lost = False
            self._hand_over()
            if begun or lost:  # else the same is found again
                self._told_of(exc)
            return
        self._handler.passes_on(data)  # of an answer that is another's to take

    def _waits(self, data: bytes) -> bool:
        """In a crowd, what comes before anything has left is read with what came to others in this turn of the loop."""
        if len(data) > LARGEST or not self._ride.request.turn.later(ANSWERS, self.reads):
            return False
        self._whole = data
        return True

    def reads(self) -> None:
        data, self._whole = self._whole, b""
        if data:
            self.received(data)

    def _told_of(self, fault: BaseException) -> None:
        """Nobody has the bytes at which it came: whoever goes on raises it, rather than to tell of a broken answer."""
        if self._first_byte_s is None and self._reply.parser.head is None:
            self._reply.close()
            self._ride.raised = fault
        elif not self._has_left():
            self._reply.raises(fault)

    def _came_at_once(self, data: bytes) -> bool:
        """Whether this is a stream from its first byte to its last, and has left."""
        if len(data) > LARGE:
            return False
        self._whole = data
        left = self._leaves_as_usual(data) or self._leaves(data)
        self._whole = b""
        return left

    def _leaves_as_usual(self, data: bytes) -> bool:
        """All of a stream that is as others of its kind but for its texts; else nothing was done."""
        usual = self._ride.track.usual
        opening = usual.opening
        if opening is None or not usual.endings:
            return False
        head = opening.head
        if head is None:
            found = begun(data)
            if found is None:
                return False
            head, data = found
        whole = usual.whole(opening, data)
        if whole is None or not self._is_good(head):
            return False
        out, size, usage, edits = whole
        if not self._may_leave_whole(size, usage):
            return False
        self._leave_whole(head, out, size, edits)
        self._ended()
        return True

    def _leaves(self, data: bytes) -> bool:
        """All of a good stream, if each of its frames is known; else nothing was done."""
        prepared = self._ride.track.streamed
        if prepared is None or not prepared.native or not isinstance(prepared.dialect, Dialect):
            return False
        try:
            found = all_of(data)
        except BadHttp:
            return False  # found again, and told
        stream = at_once(prepared.dialect, found[1], strip_usage=prepared.asked_usage) if found is not None else None
        if found is None or stream is None:
            return False
        (head, chunks), size = found, len(stream.out)
        if not self._is_good(head) or not self._may_leave_whole(size, stream.usage):
            return False
        self._leave_whole(head, b"%x\r\n%b\r\n0\r\n\r\n" % (size, stream.out), size, stream.edits)
        track = self._ride.track
        self._ended()
        learn_whole(track, head, chunks, data, stream.usage)
        return True

    def _may_leave_whole(self, size: int, usage: ir.Usage | None) -> bool:
        """Whether a stream of so many bytes may, that took so much."""
        client = self._client
        transport = client.transport
        if size > LARGEST or size > self._most or not self._costs(usage):
            return False
        return transport is not None and not transport.is_closing() and not client.writing_paused

    def _leave_whole(self, head: Head, chunks: bytes, size: int, edits: Mapping[str, int]) -> None:
        """All of an answer, the last chunk too. It is still to be ended."""
        ride, transport = self._ride, self._client.transport
        assert transport is not None
        self._last = self._agenda.now()
        first_byte_s, now = time.monotonic() - ride.started, ride.gateway.clock()
        answer = self._head(now) + chunks
        ride.left = STAYS if ride.request.keep_alive else CLOSES  # from here on no other may follow
        ride.request.turn.post(transport, answer)
        self._heard, self._edits, self._out = head, edits, size
        self._learn(first_byte_s, now)

    def _read(self, data: bytes) -> None:
        """What is no more of a run that leaves as it came."""
        if self._run is not None and self._recast is not None and (said := self._recast(data)) is not None:
            self._last = self._agenda.now()
            if self._outgrows(self._out + len(said)):
                self._hand_over(said)
            else:
                self._say(said)
            return
        if self._unread:
            if self._came_at_once(data) if data[-len(LAST_CHUNK) :] == LAST_CHUNK else self._begins_as_usual(data):
                return
            self._unread = False
            data = self._behind_head(data)
        head, recital = self._heard, self._recital
        if head is not None:
            if not data:
                return
            if recital is not None:
                known = len(data) <= LAST and self._is_recited(recital, data)
            elif self._first_byte_s is None:
                known = self._goes_on_as_usual(data) or self._is_known(data)
            else:
                known = self._ends_as_usual(data) or self._is_known(data)
            if known:
                return
            self._take_parser(head)
        self._read_on(data)

    def _behind_head(self, data: bytes) -> bytes:
        """What of it is not known yet."""
        found, prepared = begun(data), self._ride.track.streamed
        if found is None or prepared is None or not self._is_good(found[0]):
            self._parser = self._reply.parsing()
            return data
        head, body = found
        self._heard, self._last, dialect = head, self._agenda.tick, prepared.dialect
        if prepared.native and isinstance(dialect, Dialect):
            self._familiar = familiar(dialect, strip_usage=prepared.asked_usage)
            if head.__class__ is Head and len(data) <= LARGEST_OPENING:
                self._first = data  # to be learnt from
        elif isinstance(dialect, Dialect):
            ride, track, self._edits = self._ride, self._ride.track, UNTOUCHED
            model, created = track.facts.wanted[0], ride.at_ms // 1000
            self._recital = recital_of(dialect, track.spoken, model, track.wants_usage, created)
        if self._familiar is None and self._recital is None:
            self._make_stream()
        return body

    def _is_known(self, data: bytes) -> bool:
        """Whether these are whole chunks, and seen to."""
        if self._opening is not None:
            self._meets(self._opening)
        found, stream = chunks_of(data) if len(data) <= LAST else None, self._familiar
        if found is None:
            return False
        chunks, ends = found
        if stream is not None:
            return self._is_passed(stream, data, chunks, ends=ends)
        body = b"".join(chunks)
        if self._first_byte_s is None:
            self._body.append(body)
            self._size += len(body)
        self._last, self._done = self._agenda.now(), ends
        self._runs_no_more()
        self._goes_on(self._stream.feed(body) if body else b"", ends=ends)
        if not ends:
            self._may_run()
        return True

    def _is_recited(self, recital: Recital, data: bytes) -> bool:
        """Whether that is as others had it, and seen to."""
        passage = recital.finds(data)
        if passage is None:
            if self._first_byte_s is not None and (said := recital.says(data, self._most - self._out)):
                self._last = self._agenda.now()
                self._say(said)
                return True
            streamed, spoken = self._ride.track.streamed, self._ride.track.spoken
            assert streamed is not None
            assert isinstance(streamed.dialect, Dialect)
            passage = learnt(recital, streamed.dialect, spoken, data)
            if passage is None:
                return False
        if not passage.committed:
            self._last = self._agenda.tick
            recital.goes_on(passage, data)
            self._size += len(data)
            return True
        begun, done, out = self._first_byte_s is not None, passage.done, recital.out
        if not self._may_leave(recital, done):
            return False
        self._last = self._agenda.tick if begun else self._agenda.now()
        recital.goes_on(passage, data)
        if done:
            if begun:
                self._end(out)
            else:
                self._begin(out, whole=True, ends=True)
            return True
        if begun:
            self._say(out)
        else:
            self._begin(out)
        if not self._over:
            self._retelling = recital.retelling
        return True

    def _may_leave(self, recital: Recital, done: bool) -> bool:
        """Whether what was found may, where it is, the stream being `done` with it or not; see `_is_unusual`."""
        client, size = self._client, len(recital.out)
        transport, out = client.transport, self._out + size
        if transport is None or transport.is_closing() or client.writing_paused:
            return False
        if out > self._most and self._outgrows(out):
            return False
        if not done:
            return True
        if self._first_byte_s is None:
            return size <= LARGEST and self._costs(recital.usage)
        return size <= LAST and not transport.get_write_buffer_size() and self._costs(recital.usage)

    def lost(self, exc: BaseException | None) -> None:
        self._hand_over()
        self._reply.lost(exc)
