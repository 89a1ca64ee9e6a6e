"""The course of a stream whose frames are not all known: a parser takes its chunks apart, and one of the streams of the
way of all (`proxy.streams`) judges their frames. The run of text that most of a stream is leaves by its bytes.
"""

from __future__ import annotations

from proxy.server.attempt import NO_STREAM
from proxy.server.clients.downstream import AT_ONCE
from proxy.server.express.hearing import heard
from proxy.server.express.telling import LARGEST, Telling
from proxy.server.flow import LAST
from proxy.server.upstream.lean import FIRST
from proxy.wire.answer_head import BadHttp
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.head_shape import Head

LARGE = 16 << 10  # bytes of a read of which not all is parsed; or of what is held before the commit: of more, none here
CROWD = 32  # requests under way


class Reading(Telling):
    """What a course does about whatever is not known by its bytes."""

    __slots__ = ()

    def _read_on(self, data: bytes) -> None:
        self._last = self._agenda.now()
        self._runs_no_more()
        if len(data) > LARGE or (len(data) > LAST and self._first_byte_s is not None):
            self._read_much(data)
        else:
            self._parse(data)

    def _read_much(self, data: bytes) -> None:
        """Many frames at once: the first are read, or the end of a chunk that had begun; and of the run in which they
        stand the others leave as they came."""
        at = 0
        if self._first_byte_s is not None and self._parser.at_border:
            at = self._pour(self._stream.run, data, 0)
        if not at and not self._over:
            at = self._parse(data, FIRST if self._first_byte_s is None else 1)
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
        """As `Parser.feed_some`; how much of it was parsed."""
        parser = self._parser
        begun = parser.head is not None
        try:
            body, at = parser.feed_some(data, enough)
        except BadHttp as exc:
            self._judge(exc.body, begun)
            self._hand_over()
            self._reply.garbled(exc)
            return len(data)
        self._judge(body, begun)
        return at

    def _judge(self, body: bytes, begun: bool) -> None:
        """What a read brought of the body; `begun`, whether the head was here before."""
        parser = self._parser
        if self._first_byte_s is None:
            self._body.append(body)
            self._size += len(body)
        if not begun and (parser.head is None or not self._begins(parser.head)):
            return
        self._goes_on(self._stream.feed(body) if body else b"", ends=parser.done)
        if parser.at_border:
            self._may_run()

    def _goes_on(self, out: bytes, *, ends: bool) -> None:
        """`out` is what the stream gave for a read, with which the answer `ends`, or does not."""
        stream = self._stream
        if not stream.committed and self._size <= LARGE and not ends:
            return  # all of it is held
        if self._is_unusual(out, ends=ends):
            self._hand_over(out)
        elif self._first_byte_s is None:
            self._begin(out, whole=stream.done, ends=ends)
        elif stream.done:
            self._end(out, ends)
        else:
            self._say(out)

    def _may_run(self) -> None:
        """A chunk has just ended, and with it maybe a frame of a run."""
        run = self._stream.run
        if run is None or self._over:
            return
        self._run = run
        if self._recast is None:
            self._least, self._before, self._behind = run.least, run.mould.head, run.end
        else:
            self._retelling = self._stream.retelling

    def _begins(self, head: Head) -> bool:
        if not self._is_good(head):
            self._hand_over()
            return False
        self._make_stream()
        return True

    def _is_good(self, head: Head) -> bool:
        """Whether what follows can be a stream of the kind that came before."""
        track = self._ride.track
        passed = track.passed if track.heard is head else heard(track, head, self._ride.snapshot.scrubber)
        if passed is None or head.framing != "chunked":
            return False
        self._passed, self._upstream_id = passed, track.upstream_id
        return True

    def _is_misnamed(self) -> bool:
        """Whether it begins as a page or a document does: whatever stands behind that, the way of all judges it."""
        streamed, begun = self._ride.track.streamed, next(filter(None, self._body), b"")
        return begun.lstrip()[:1] in NO_STREAM and streamed is not None and streamed.dialect.framing == "sse"

    def _is_unusual(self, out: bytes, *, ends: bool) -> bool:
        """What the stream gave for a read, or how it is to go on."""
        stream, size = self._stream, self._out + len(out)
        if self._first_byte_s is None and (not (out and stream.committed) or self._is_misnamed()):
            return True
        if stream.failure is not None or stream.farewell or self._outgrows(size):
            return True
        if ends and not stream.done:
            return True
        transport = self._client.transport
        if transport is None or transport.is_closing() or self._client.writing_paused:
            return True
        if not stream.done:
            return False
        if self._first_byte_s is None:
            return size > LARGEST or not self._costs(stream.usage)
        return len(out) > LAST or transport.get_write_buffer_size() > 0 or not self._costs(stream.usage)
