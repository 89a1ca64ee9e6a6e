"""A provider's stream in the words of another dialect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Dialect, StreamDecoder, StreamEncoder, Upstream, Voice
from proxy.errors import GatewayError, UpstreamBroken
from proxy.streams.lesson import Lesson
from proxy.streams.recital import Recital
from proxy.streams.rote import Memory, Rote, Text, memory_of
from proxy.streams.runs import Retelling, Runs
from proxy.streams.stream import EMPTY, ENDLESS, HELD_EVENTS
from proxy.wire import mould, ndjson, sse
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.http1 import Parser
from proxy.wire.mould import Mould
from proxy.wire.sse import Frame


class Translation:
    """Another dialect's stream: frames to events to the client's frames. Nothing waits that the format lets go."""

    # What most streams need at their beginning, and many to their end.
    committed = done = farewell = False
    failure: GatewayError | None = None
    run: ChunkedRun | None = None
    retelling: Retelling | None = None
    _framer: sse.Framer | None = None  # made for the first read that does not end with a frame
    _lines: ndjson.Framer | None = None
    _runs: Runs | None = None
    _usage: ir.Usage | None = None
    _stop: ir.StopReason | None = None
    _produced = False
    _unsent = b""  # what the end of a cut stream brought
    _said: Sequence[ir.StreamEvent] = ()  # by what was read last
    _chars = 0  # of texts that were recast, and of which the encoder has not been told
    _cast: tuple[bytes, bytes] | None = None  # what stands around a text of the run that goes on
    _steady: Mould | None = None  # of that run, while nothing else came
    _memory: Memory | None = None
    _lesson: Lesson | None = None

    def __init__(
        self, dialect: Upstream, spoken: Dialect, voice: Voice, *, byok: bool = False,
        clean: Callable[[str], str] = str, rote: bool = True,
    ) -> None:  # fmt: skip
        """`clean` takes out of an error's words what no client may read. Without `rote` all is read and written."""
        self.edits: dict[str, int] = defaultdict(int)
        self._dialect = dialect
        self._spoken = spoken
        self._voice = voice
        self._byok = byok
        self._clean = clean
        self._rote: Rote | None = None
        if dialect.framing == "ndjson":
            self._lines = ndjson.Framer()
        if rote and isinstance(dialect, Dialect) and dialect.words is not None and not spoken.repeats:
            memory = self._memory = memory_of(dialect, spoken, voice)
            self._rote = Rote(dialect, spoken, voice, memory.root)
        else:
            self._begin_reading()

    def _begin_reading(self) -> None:
        self._decoder: StreamDecoder = self._dialect.codec().stream_decoder()
        self._encoder: StreamEncoder = self._spoken.codec().stream_encoder(self._voice)
        self._held: list[ir.StreamEvent] = []
        if self._runs is None:
            self._runs = Runs(self._dialect)

    @property
    def usage(self) -> ir.Usage | None:
        return self._usage if self._rote is None else self._rote.usage

    @property
    def stop(self) -> ir.StopReason | None:
        return self._stop

    @property
    def cast(self) -> tuple[bytes, bytes] | None:
        """What stands around a text of the run that goes on."""
        return self._cast

    @property
    def torn(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> bytes:
        steady, cast = self._steady, self._cast
        if steady is not None and cast is not None and (text := steady.single(chunk)) is not None:
            good, chars = mould.written([text])
            if good:
                self._chars += chars
                return b"%b%b%b" % (cast[0], good[0], cast[1])
        if steady is not None:
            self._run_ends()
        rote = self._rote
        if rote is not None and self._framer is None and not self.done and chunk.endswith(b"\n\n"):
            return self._by_rote(rote, chunk)
        return self._fed(chunk)

    def recast(self, data: bytes) -> bytes | None:
        run, cast = self.run, self._cast
        text = run.text(data) if run is not None else None
        if text is None or cast is None or not (chars := mould.length(text)):
            return None
        self._chars += chars
        return b"%b%b%b" % (cast[0], text, cast[1])

    def recast_run(self, data: bytes, at: int) -> tuple[bytes, int]:
        run, cast = self.run, self._cast
        texts, end = run.texts(data, at) if run is not None and cast is not None else ([], at)
        good, chars = mould.written(texts)
        if cast is None or not good or len(good) < len(texts):
            return b"", at
        self._chars += chars
        head, tail = cast
        return b"".join((head, (tail + head).join(good), tail)), end

    def _run_goes_on(self, runs: Runs, cast: tuple[bytes, bytes]) -> None:
        self._steady, self.run = runs.mould, runs.chunked()
        self.retelling = Retelling(self.run, cast) if self.run is not None else None

    def _run_ends(self) -> None:
        self._steady = self.run = None
        if self.retelling is not None:
            self._chars += self.retelling.chars
            self.retelling = None

    def _fed(self, chunk: bytes) -> bytes:
        if self.done:
            self.edits["surplus_dropped"] += 1
            return b""
        if self._lines is not None:
            return self._encode(map(Frame, self._lines.feed(chunk)))
        framer, rote = self._framer, self._rote
        if framer is None:
            framer = self._framer = sse.Framer()
        block = framer.take(chunk)
        if not block:
            return b""
        return self._translated(block) if rote is None else self._by_rote(rote, block)

    def close(self) -> bytes:
        out = b""
        self._run_ends()
        if not self.done and self._rote is not None:
            self._catch_up(self._rote)
        if not self.done:
            try:
                out = self._emit([event for frame in self._last_frames() for event in self._decoder.feed(frame)])
            except UpstreamBroken:
                self.edits["cut_frames"] += 1  # half a frame says nothing; what is missing shows below
            if not self.done:
                out += self._emit(self._decoder.close())
        if self.done:
            return out
        if self._stop is None:
            self._unsent = out
            raise UpstreamBroken(ENDLESS if self._produced else EMPTY)
        self.edits["terminator_added"] += 1
        return out + self._emit([ir.End()])

    def fail(self, error: GatewayError) -> bytes:
        self._run_ends()
        if self._rote is not None:
            self._catch_up(self._rote)
        self.done = True
        return self._unsent + self._encoder.fail(error)

    # -- by rote -------------------------------------------------------------------------------------------------

    def _by_rote(self, rote: Rote, block: bytes) -> bytes:
        """As `_translated`, as far as others went the same way."""
        out: list[bytes] = []
        at, end, runs = 0, len(block), self._runs
        while True:
            if at < end and self._cast is not None and runs is not None and runs.begins(block, at):
                run, block = self._run(runs, block[at:] if at else block, *self._cast)
                out.append(run)
                at, end = 0, len(block)
            if at == end or self.done:
                break
            if self._chars:
                rote.script.append(self._chars)
                self._chars = 0
            begun, at = at, rote.tell(block, at, out)
            step = rote.step
            if at > begun and step is not None:
                self.committed, self.done, self._stop, self._cast = step.committed, step.done, step.stop, None
                if step.text is not None:
                    runs, self._cast = self._begun_run(rote, step.text)
            if rote.lost:
                self._catch_up(rote)
                out.append(self._translated(block[at:]))
                return b"".join(out)
        if at < end:
            self.edits["surplus_dropped"] += 1
        elif self._cast is not None and runs is not None and (self._framer is None or self._framer.closed):
            self._run_goes_on(runs, self._cast)
        return out[0] if len(out) == 1 else b"".join(out)

    def _begun_run(self, rote: Rote, text: Text) -> tuple[Runs, tuple[bytes, bytes]]:
        if self._runs is None:
            self._runs = Runs(self._dialect)
        mould, chunked, cast = rote.run(text)
        self._runs.go_on(mould, chunked)
        return self._runs, cast

    def _catch_up(self, rote: Rote) -> None:
        """Has all of it read and written that came so far, and left already."""
        self._rote = None
        self._begin_reading()
        framer = self._framer
        if framer is None:
            framer = self._framer = sse.Framer()
        done, cast = self.done, self._cast
        behind, self._chars = self._chars, 0
        self._usage = self._stop = None
        for said in rote.script:
            if isinstance(said, int):
                self._encoder.said(said)
            else:
                self._encode(framer.read(said))
        self.done, self._cast, self._chars = done, cast, behind
        self._begin_lesson(rote.script)

    def catch_up(self, recital: Recital, parser: Parser) -> bytes:
        """With a stream that went by passages; what it got, out of its chunks, which `parser` takes apart."""
        held = []
        for said in recital.missed():
            if isinstance(said, int):
                self._chars += said
            else:
                held.append(parser.feed(said))
                self.feed(held[-1])
        return b"".join(held)

    def _begin_lesson(self, script: Iterable[bytes | int]) -> None:
        """What is new in this stream may be worth being learnt."""
        memory, dialect = self._memory, self._dialect
        if memory is not None and memory.takes_lesson() and isinstance(dialect, Dialect):
            self._lesson = Lesson(dialect, self._spoken, self._voice, memory, self._anew)
            for said in script:
                if isinstance(said, bytes):
                    self._lesson.hear(said, None)

    def _anew(self, voice: Voice) -> Translation:
        return Translation(self._dialect, self._spoken, voice, rote=False)

    # -- frame by frame ------------------------------------------------------------------------------------------

    def _translated(self, block: bytes) -> bytes:
        """Runs of text by what their frames have in common, whatever else there is frame by frame."""
        framer, runs = self._framer, self._runs
        assert framer is not None
        assert runs is not None
        out = []
        while block and not self.done:
            if self._cast is not None:
                run, block = self._run(runs, block, *self._cast)
                out.append(run)
                if not block:
                    if framer.closed:
                        self._run_goes_on(runs, self._cast)
                    break
            piece, block = runs.first_frame(block)
            out.append(self._encode(framer.read(piece)))
            self._learn(runs, piece)
            if self._lesson is not None:
                self._lesson.hear(piece, out[-1])
        if block and self.failure is None:  # behind an error stands nothing that anybody waits for
            self.edits["surplus_dropped"] += 1
        if self.done and self._lesson is not None and self.failure is None:
            self._lesson.end(self._usage)
            self._lesson = None
        return out[0] if len(out) == 1 else b"".join(out)

    def _run(self, runs: Runs, block: bytes, head: bytes, tail: bytes) -> tuple[bytes, bytes]:
        texts, rest = runs.cut(block)
        good, chars = mould.written(texts) if texts else (texts, 0)
        if len(good) < len(texts):
            rest = runs.behind(good, block)
        if not good:
            return b"", rest
        self._chars += chars
        return b"%b%b%b" % (head, (tail + head).join(good), tail), rest

    def _learn(self, runs: Runs, piece: bytes) -> None:
        self._cast = None
        if self.done or len(self._said) != 1 or (event := self._said[0]).__class__ is not ir.TextDelta:
            return
        if self.committed and runs.learn(piece):
            self._cast = self._encoder.cast(event)

    def _last_frames(self) -> Iterable[Frame]:
        if self._lines is not None:
            return map(Frame, self._lines.close())
        return self._framer.close() if self._framer is not None else ()

    def _encode(self, frames: Iterable[Frame]) -> bytes:
        """Everything that one read brought, as one piece of bytes. What stands before a broken frame leaves as if it
        had come alone."""
        events: list[ir.StreamEvent] = []
        try:
            for frame in frames:
                events += self._decoder.feed(frame)
            self._said = events
        except UpstreamBroken as error:
            if not self.committed and not any(map(bears_content, events)):
                raise
            out = self._emit(events)
            if self.done:
                return out
            self.failure, self.done = error, True
            return out + self._encoder.fail(error)
        return self._emit(events) if events else b""

    def _emit(self, events: list[ir.StreamEvent]) -> bytes:
        for position, event in enumerate(events):
            match event:
                case ir.UsageReport(usage):
                    self._usage = usage if self._usage is None else self._usage.merged(usage)
                case ir.Start(usage=usage) if usage is not None:
                    self._usage = usage if self._usage is None else self._usage.merged(usage)
                case ir.Finish(stop):
                    self._stop = stop
                case ir.Failure():
                    return self._failed(events[:position], event)
                case ir.End():
                    return self._ended(events[: position + 1], surplus=len(events) > position + 1)
            self._produced = self._produced or bears_content(event)
        return self._out(events)

    def _out(self, events: list[ir.StreamEvent]) -> bytes:
        if self._chars:
            self._encoder.said(self._chars)
            self._chars = 0
        if self.committed:
            return self._encoder.feed(events)
        self._held += events
        bearing = self._produced or self._stop is not None or self.done
        if not bearing and len(self._held) <= HELD_EVENTS:
            return b""
        self.committed = True
        held, self._held = self._held, []
        return self._encoder.feed(held)

    def _ended(self, events: list[ir.StreamEvent], *, surplus: bool) -> bytes:
        if self._stop is None:
            if not self._produced:
                raise UpstreamBroken(EMPTY)
            events = [*events[:-1], *self._decoder.close(), ir.Finish("unknown"), events[-1]]
        self.done = True
        self.edits["surplus_dropped"] += surplus
        return self._out(events)

    def _failed(self, before: list[ir.StreamEvent], failure: ir.Failure) -> bytes:
        error = failures.of_stream(failure, byok=self._byok)
        if not self.committed and not any(map(bears_content, before)):
            raise error
        out = self._out(before)
        error.message = self._clean(error.message)
        self.failure, self.done = error, True
        return out + self._encoder.fail(error)


def bears_content(event: ir.StreamEvent) -> bool:
    """Whether an event is output, so that nobody else may answer after it."""
    match event:
        case ir.TextDelta(text=text) | ir.ThinkingDelta(text=text) | ir.RefusalDelta(text=text):
            return bool(text)
        case ir.PartStart(shell=ir.Text(text=text) | ir.Thinking(text=text, redacted=None) | ir.Refusal(text=text)):
            return bool(text)
        case ir.PartStart() | ir.ArgumentsDelta() | ir.CitationDelta() | ir.AudioDelta() | ir.SignatureDelta():
            return True
    return False
