"""The course of a stream that passes as it came, as far as it is known by its bytes.

First by what came of others of its kind (`proxy.streams.usual`): the first read, the first text, the end, each as a
whole and in its own chunks. Then frame by frame (`proxy.streams.familiar`), and these are learnt from.
"""

from __future__ import annotations

from proxy.server.express.learning import learn_ending, learn_opening
from proxy.server.express.reading import Reading
from proxy.server.express.telling import Data
from proxy.server.flow import LAST
from proxy.streams import Familiar, UsualOpening, says
from proxy.wire.http1 import chunks_of
from proxy.wire.mould import BARE, QUOTE
from proxy.wire.sse import CR, LF, is_text

MOST_HELD = 16  # frames before the commit that are known; of more, others know


class Passing(Reading):
    """What a course does about a stream of the client's dialect."""

    __slots__ = ()

    # -- as usual ----------------------------------------------------------------------------------------------

    def _begins_as_usual(self, data: bytes) -> bool:
        """Whether this is how the last one of its kind began, head and all."""
        track = self._ride.track
        opening, head, passed = track.usual.opening, track.heard, track.passed
        if opening is None or opening.head is not head or passed is None or not self._opens_as_usual(opening, data):
            return False
        self._unread, self._heard = False, head
        self._passed, self._upstream_id = passed, track.upstream_id
        self._first = data  # to be learnt from anew, should its texts be other ones
        return True

    def _goes_on_as_usual(self, data: bytes) -> bool:
        """Whether this, behind the head of an answer, is how others of its kind went on before the commit."""
        opening = self._ride.track.usual.opening
        if opening is None or opening.head is not None or self._familiar is None or self._body:
            return False
        return self._opens_as_usual(opening, data)

    def _opens_as_usual(self, opening: UsualOpening, data: bytes) -> bool:
        """Whether it is known what has come by what came of others. A text like theirs has then somebody to whom it is
        written, as if it were not the first."""
        preamble = opening.preamble(data)
        if preamble is None:
            return False
        self._last = self._agenda.tick
        self._opening, self._preamble, self._familiar = opening, preamble, None
        self._body.append(data[opening.at :])
        self._before, self._behind, self._least = preamble + opening.before, opening.behind, opening.least
        self._out = opening.size
        self._write = self._is_written_to
        return True

    def _is_written_to(self, data: Data) -> None:
        """The first text, which has been counted; if it is one that a stream may be committed to."""
        opening = self._opening
        assert opening is not None
        assert isinstance(data, bytes)
        text = data[: -len(self._behind)].rpartition(b'"')[2]
        if not says(text):
            self._meets(opening)
            self._is_looked_at(data)
            return
        held = self._body[0]
        self._body.append(data)
        if self._has_left() or self._client.writing_paused:
            self._hand_over()
            return
        self._last, self._first = self._agenda.now(), b""
        self._begin_with(held + data)

    def _ends_as_usual(self, data: bytes) -> bool:
        """Whether this is an end that others had, maybe behind one more text, and has left."""
        stream, usual = self._familiar, self._ride.track.usual
        endings = usual.endings
        if len(data) > LAST:
            return False  # the client may have to be waited for
        if self._opening is not None:
            preamble = self._preamble
        elif stream is not None and not stream.has_told:
            preamble = stream.preamble
        else:
            return False
        front, size, ending = b"", 0, endings.get(len(data))
        if ending is None:  # maybe behind a text
            text = data.partition(self._before)[2].partition(b'"')[0]
            size = self._least + len(text)
            front = b"%x\r\n%b%b%b" % (size, self._before, text, self._behind)
            ending = endings.get(len(data) - len(front))
            if ending is None or not (text.translate(BARE) == text or is_within(text)):
                return False
        usage, transport, out = ending.usage(data, front, preamble), self._client.transport, self._out
        if usage is None or not self._costs(usage):
            return False
        out += size + ending.size
        if out > self._most and self._outgrows(out):
            return False
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        self._out, self._edits = out, ending.edits
        usual.futile = 0
        self._write(ending.leaves(data, len(front)) if ending.edits else data)
        self._ended()
        return True

    # -- frame by frame ----------------------------------------------------------------------------------------

    def _is_looked_at(self, data: bytes) -> None:
        """What came behind a beginning as usual, and is not."""
        found, stream, head = chunks_of(data), self._familiar, self._heard
        assert stream is not None
        assert head is not None
        if found is None or not self._is_passed(stream, data, found[0], ends=found[1]):
            self._take_parser(head)
            self._read_on(data)

    def _is_passed(self, stream: Familiar, data: bytes, chunks: list[bytes], *, ends: bool) -> bool:
        """Whether each of these is known, and seen to; they are all of `data`."""
        if self._first_byte_s is not None:
            return self._ends(stream, chunks, data) if ends else self._says(stream, chunks)
        return not ends and self._opens(stream, chunks)

    def _opens(self, stream: Familiar, chunks: list[bytes]) -> bool:
        """Whether that is known to stand before a text, or to be the first."""
        if len(self._body) + len(chunks) > MOST_HELD or not stream.begins(chunks):
            return False
        self._last = self._agenda.now()
        self._body += chunks
        if not stream.behind:
            return True
        out = b"".join(self._body)
        if self._outgrows(len(out)) or self._has_left() or self._client.writing_paused:
            self._hand_over()
            return True
        track, head, first, held = self._ride.track, self._heard, self._first, self._body[: -len(chunks)]
        assert head is not None
        self._first = b""
        self._begin(out)
        if len(held) == 1:
            learn_opening(track, stream, head, held[0], first)
        if not self._over:
            self._before, self._behind = stream.before, stream.behind + b"\r\n"
            self._least = len(stream.before) + len(stream.behind)
        return True

    def _says(self, stream: Familiar, chunks: list[bytes]) -> bool:
        """Whether these are more texts, or what stands before the end."""
        if self._outgrows(self._out + sum(map(len, chunks))):
            return False
        if stream.goes_on(chunks):
            out = b"".join(chunks)
        elif len(self._body) + len(chunks) > MOST_HELD or (near := stream.nears_its_end(chunks)) is None:
            return False
        else:
            out = near
            self._body += chunks
        self._last = self._agenda.now()
        self._say(out)
        return True

    def _ends(self, stream: Familiar, chunks: list[bytes], data: bytes) -> bool:
        """Whether these are the last frames of a good stream, and have left."""
        transport = self._client.transport
        if not chunks:
            return False
        ended = stream.ends(chunks)
        if ended is None or not self._costs(ended.usage) or self._outgrows(self._out + len(ended.out)):
            return False
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        self._last, self._edits, track = self._agenda.now(), ended.edits, self._ride.track
        self._end(ended.out)
        if not stream.has_told and not track.usual.tires():
            learn_ending(track, stream, chunks, data, ended.usage)
        return True


def is_within(text: bytes) -> bool:
    """Whether these are UTF-8, within a string and a line, as `BARE` are anyway."""
    return QUOTE not in text and LF not in text and CR not in text and is_text(text)
