"""The two kinds of stream, from a provider's bytes to the client's: `Passthrough` and `Translation`.

Both are fed chunks cut anywhere and give the bytes that may leave now. Until the first content-bearing event they give
nothing and hold what they have: `committed` says when that is over. An error among the held events is raised, since
it is a failed attempt like any other; an error after the commit is part of the bytes, and `failure` says so.

    feed(chunk) -> bytes   raises UpstreamError before the commit, UpstreamBroken also after it
    close() -> bytes       the body has ended; raises UpstreamBroken where the stream has not
    fail(error) -> bytes   what close() had left to say, the in-band error and the end, in the client's dialect
    done                   nothing more will leave: the terminal event has been seen, or a translation's error
    farewell               but for one frame that some providers send behind the end, if it comes at once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import evolve

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Dialect, StreamDecoder, StreamEncoder, Upstream, Voice
from proxy.errors import GatewayError, UpstreamBroken
from proxy.ir import Sight
from proxy.wire import mould, ndjson, sse
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.mould import Mould
from proxy.wire.sse import Frame

HELD_EVENTS = 64  # lifecycle events before a commit; one more commits
HELD_BYTES = 256 << 10
MOULDS = 4  # tried in a row without a second frame of the same kind, before a stream counts as one that has no runs
WORTH_LEARNING = 8  # frames that have to stand behind one in a read before it is worth while to make a mould of it
LONGEST = 32 << 20  # bytes of one frame: what is longer has no end
ENDLESS = "The provider's stream ended before the answer did."
EMPTY = "The provider ended its stream without any output and without a reason."


class Stream(Protocol):
    """What the relay knows of either kind."""

    committed: bool
    done: bool
    failure: GatewayError | None
    edits: Counter[str]  # usage_removed, terminator_added, surplus_dropped
    run: ChunkedRun | None  # whose bytes `feed` would give back as they are, while nothing else comes

    @property
    def farewell(self) -> bool: ...
    @property
    def usage(self) -> ir.Usage | None: ...
    @property
    def stop(self) -> ir.StopReason | None: ...
    @property
    def torn(self) -> bool:
        """Half a frame has left: a cut can only be told by aborting the connection."""

    def feed(self, chunk: bytes) -> bytes: ...
    def close(self) -> bytes: ...
    def fail(self, error: GatewayError) -> bytes: ...


class Passthrough:
    """The provider's own bytes, up to the last complete frame of what was read.

    Three edits are made and counted: the usage chunk that we asked for and the client did not is taken out, a
    terminator missing after a finish reason is added, bytes behind the terminator are dropped. A near-compatible
    provider's frames are mended one by one.
    """

    def __init__(
        self,
        dialect: Dialect,
        voice: Voice,
        *,
        strip_usage: bool = False,
        byok: bool = False,
        clean: Callable[[str], str] = str,
    ) -> None:
        self.committed = False
        self.done = False
        self.failure: GatewayError | None = None
        self.edits: Counter[str] = Counter()
        self._dialect = dialect
        self._voice = voice
        self._tap = dialect.tap()
        self._strip_usage = strip_usage
        self._byok = byok
        self._clean = clean  # takes out of an error's words what no client may read
        self._probes = dialect.probes
        self._mend = dialect.mend_frame
        self._borders = sse.Borders() if dialect.framing == "sse" else ndjson.Borders()
        self._split: Callable[[bytes], Iterable[tuple[Frame | None, bytes]]] = (
            sse.split_frames if dialect.framing == "sse" else _split_lines
        )
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._oversize: bytearray | None = None  # the frame in hand, where it outgrew the border's buffer
        self._unsent = b""  # what the end of a cut stream brought
        self._parted = False  # the frame behind the end has come, or something else
        self._runs = Runs(dialect) if dialect.framing == "sse" and dialect.mend_frame is None else None
        self._steady: Mould | None = None  # what was read last was a run of these, up to a border, and may go on
        self.run: ChunkedRun | None = None  # the same

    @property
    def usage(self) -> ir.Usage | None:
        return self._tap.usage

    @property
    def stop(self) -> ir.StopReason | None:
        return self._tap.stop

    @property
    def torn(self) -> bool:
        return self._borders.overflowed

    @property
    def farewell(self) -> bool:
        return self.done and bool(self._dialect.farewell) and not self._parted and self.failure is None

    def feed(self, chunk: bytes) -> bytes:
        steady = self._steady
        if steady is not None:
            if steady.holds(chunk):  # as nearly every read of a slow stream
                return chunk
            self._steady = self.run = None
        return self._fed(chunk)

    def _fed(self, chunk: bytes) -> bytes:
        if self.done and not self.farewell:
            self.edits["surplus_dropped"] += 1
            return b""
        block = self._borders.feed(chunk)
        if not block:
            return b""
        if self.done:
            return self._parting(block)
        if self._borders.overflowed or self._oversize is not None:
            return self._released(self._pass_oversize(block))
        return self._passed(block) if self.committed else self._before_commit(block)

    def close(self) -> bytes:
        out = b""
        tail = self._borders.held
        if tail and self.farewell:
            return tail if self._parting(tail + b"\n\n") else b""
        if tail and not self.done and self._is_whole(tail):
            border = _missing_border(tail, self._dialect.framing)
            out = self.feed(border)
            # The frame leaves as it came, a terminator too: bytes are not ours to mend. But an error keeps the end that
            # it was given, or a client would not dispatch it and take what came for all; so does a mended frame, and
            # one that an error of ours follows.
            if self._ends_well() and self.failure is None and out.endswith(tail + border):
                out = out.removesuffix(border)
        if self.done or self._borders.overflowed:
            if self._borders.overflowed and not self.done:
                raise UpstreamBroken(ENDLESS)
            return out
        if self.failure is not None:
            self.done = True
            return out
        if self._tap.stop is None:
            self._unsent = out
            raise UpstreamBroken(ENDLESS if self._tap.produced else EMPTY)
        self.done = True
        if not self._dialect.terminator:
            return self._released(out)
        self.edits["terminator_added"] += 1
        border = b"" if not out or out.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) else b"\n\n"
        return self._released(out + border + self._dialect.terminator)

    def fail(self, error: GatewayError) -> bytes:
        self.done = True
        return self._unsent + self._dialect.stream_encoder(self._voice).fail(error)

    def _ends_well(self) -> bool:
        return self.done or self._tap.stop is not None

    def _parting(self, block: bytes) -> bytes:
        """The frame that may stand behind the end, as it came; anything else is surplus."""
        self._parted = True
        out = b""
        for frame, raw in self._split(block):
            if frame is None or frame.data.strip() != self._dialect.farewell:
                break
            out = raw
            break
        self.edits["surplus_dropped"] += bool(block[len(out) :].strip())
        return out

    # -- before the commit -----------------------------------------------------------------------------------

    def _before_commit(self, block: bytes) -> bytes:
        """Holds lifecycle frames; the first frame that bears content lets all go."""
        at = 0
        for frame, raw in self._split(block):
            at += len(raw)
            sight = Sight.LIFECYCLE if frame is None else self._tap.look(frame)
            if sight is Sight.ERROR and self._tap.error is not None:
                raise failures.of_stream(self._tap.error, byok=self._byok)
            if sight is Sight.END and self._tap.stop is None and not self._tap.produced:
                raise UpstreamBroken(EMPTY)
            if sight in (Sight.LIFECYCLE, Sight.USAGE):
                self._hold(frame, raw, sight)
                if not self.committed:
                    continue
                return self._released(self._passed(block[at:]))
            out = self._after([(frame, raw)], looked_at=sight, behind=block[at:])
            if self._runs is not None and len(block) - at > WORTH_LEARNING * len(raw):
                self._runs.learn(raw)
            return self._released(out if self.done else out + self._passed(block[at:]))
        return b""

    def _hold(self, frame: Frame | None, raw: bytes, sight: Sight) -> None:
        if sight is Sight.USAGE and self._strip_usage:
            self.edits["usage_removed"] += 1
            return
        self._held.append(self._mended(frame, raw))
        self._held_bytes += len(raw)
        self.committed = len(self._held) > HELD_EVENTS or self._held_bytes > HELD_BYTES

    def _released(self, out: bytes) -> bytes:
        """What was held goes before what comes now; called when the commit is made."""
        self.committed = True
        if not self._held:
            return out
        held, self._held = self._held, []
        return b"".join((*held, out))

    # -- after it --------------------------------------------------------------------------------------------

    def _passed(self, block: bytes) -> bytes:
        """A run of text needs no look, nor does what stands before the first frame that a probe hits."""
        if self._mend is not None:
            return self._after(list(self._split(block)))
        rest = block if self._runs is None else self._runs.cut(block)[1]
        if not rest:
            if self._runs is not None and self._borders.closed:
                self._steady, self.run = self._runs.mould, self._runs.chunked()
            return block
        hits = [at for probe in self._probes if (at := rest.find(probe)) >= 0]
        if not hits:
            if self._runs is not None:
                self._runs.learn(_last_frame(rest))
            return block
        quiet = len(block) - len(rest)
        if self._runs is not None and b"\r" not in rest and (border := rest.rfind(b"\n\n", 0, min(hits))) > 0:
            quiet += border + 2
        return block[:quiet] + self._after(list(self._split(block[quiet:])))

    def _after(
        self, pieces: list[tuple[Frame | None, bytes]], looked_at: Sight | None = None, behind: bytes = b""
    ) -> bytes:
        """Looks at the frames that a probe hits; `looked_at` is what the first one was already found to be, `behind`
        what stands behind the last."""
        out: list[bytes] = []
        for position, (frame, raw) in enumerate(pieces):
            sight = looked_at if position == 0 and looked_at is not None else self._look(frame, raw)
            if sight is Sight.USAGE and self._strip_usage:
                self.edits["usage_removed"] += 1
                continue
            out.append(self._mended(frame, raw))
            if sight is Sight.ERROR and self._tap.error is not None:
                told = out[-1].decode("utf-8", "surrogateescape")
                out[-1] = self._clean(told).encode("utf-8", "surrogateescape")
                self.failure = failures.of_stream(self._tap.error, byok=self._byok)
            elif sight is Sight.END:
                self.done = True
            if self.done:
                surplus = b"".join((*(raw for _, raw in pieces[position + 1 :]), behind))
                if self.farewell and surplus:
                    out.append(self._parting(surplus))
                elif not self.farewell:
                    self.edits["surplus_dropped"] += bool((surplus + self._borders.held).strip())
                break
        return b"".join(out)

    def _look(self, frame: Frame | None, raw: bytes) -> Sight:
        """The tap's judgement. What it cannot read passes all the same: the client's own parser will judge."""
        if frame is None or not any(probe in raw for probe in self._probes):
            return Sight.LIFECYCLE
        try:
            return self._tap.look(frame)
        except UpstreamBroken:
            self.edits["unreadable_frames"] += 1
            return Sight.CONTENT

    def _mended(self, frame: Frame | None, raw: bytes) -> bytes:
        return raw if self._mend is None or frame is None else self._mend(raw, self._voice.request_id)

    def _is_whole(self, tail: bytes) -> bool:
        """Whether a tail without its blank line is a whole frame all the same, as some providers send their last
        one. The beginning of a field is none: only a comment may stand without data."""
        try:
            return all(
                not raw.strip() or raw.lstrip().startswith(b":")
                if frame is None
                else self._dialect.tap().look(frame) is not None
                for frame, raw in self._split(tail + b"\n\n")
            )
        except UpstreamBroken:
            return False

    def _pass_oversize(self, block: bytes) -> bytes:
        """A frame of more than the border's buffer leaves as it comes; the tap gets it when it is whole."""
        collected = self._oversize = self._oversize if self._oversize is not None else bytearray()
        if len(collected) + len(block) > LONGEST:
            raise UpstreamBroken(f"The provider sent an event of more than {LONGEST} bytes.")
        collected += block
        if self._borders.overflowed:
            return block
        self._oversize = None
        for frame, raw in self._split(bytes(collected)):
            sight = self._look(frame, raw)
            if sight is Sight.ERROR and self._tap.error is not None:
                self.failure = failures.of_stream(self._tap.error, byok=self._byok)
            self.done = self.done or sight is Sight.END
        return block


class Runs:
    """Finds the runs of text in the blocks of one stream; see `wire.mould`."""

    def __init__(self, dialect: Upstream) -> None:
        self._make = dialect.text_mould
        self.mould: Mould | None = None
        self._misses = 0
        self._chunked: ChunkedRun | None = None

    def cut(self, block: bytes) -> tuple[list[bytes], bytes]:
        """The texts of the run that `block` begins with, and what stands behind it."""
        if self.mould is None:
            return [], block
        texts, rest = self.mould.cut(block)
        if texts:
            self._misses = 0
        return texts, rest

    def chunked(self) -> ChunkedRun | None:
        if self.mould is not None and (self._chunked is None or self._chunked.mould is not self.mould):
            self._chunked = ChunkedRun(self.mould)
        return self._chunked

    def behind(self, texts: list[bytes], block: bytes) -> bytes:
        return block if self.mould is None else self.mould.behind(texts, block)

    def first_frame(self, block: bytes) -> tuple[bytes, bytes]:
        """And what stands behind it; all of the block where no runs are to be hoped for."""
        border = -1 if self._misses >= MOULDS or b"\r" in block else block.find(b"\n\n")
        return (block, b"") if border < 0 else (block[: border + 2], block[border + 2 :])

    def learn(self, raw: bytes) -> bool:
        """From one frame; whether it is a piece of text that more may follow of its kind."""
        self.mould = None
        if self._misses < MOULDS:
            self._misses += 1
            self.mould = self._make(raw)
        return self.mould is not None


def _last_frame(block: bytes) -> bytes:
    border = block.rfind(b"\n\n", 0, -2)
    return block if border < 0 else block[border + 2 :]


def _missing_border(tail: bytes, framing: str) -> bytes:
    """What makes a frame of a tail: a line end, and for events a blank line."""
    if framing != "sse":
        return b"\n"
    return b"\r" if tail.endswith(b"\r") else b"\n" if tail.endswith(b"\n") else b"\n\n"


def _split_lines(block: bytes) -> Iterable[tuple[Frame | None, bytes]]:
    for line in block.splitlines(keepends=True):
        stripped = line.strip()
        yield (Frame(stripped) if stripped else None), line


class Translation:
    """Another dialect's stream: frames to events to the client's frames. Nothing waits that the format lets go."""

    def __init__(
        self, dialect: Upstream, encoder: StreamEncoder, *, byok: bool = False, clean: Callable[[str], str] = str
    ) -> None:
        self.committed = False
        self.done = False
        self.farewell = False
        self.failure: GatewayError | None = None
        self.edits: Counter[str] = Counter()
        self.run: ChunkedRun | None = None
        self._decoder: StreamDecoder = dialect.stream_decoder()
        self._encoder = encoder
        self._byok = byok
        self._clean = clean  # takes out of an error's words what no client may read
        self._framer = sse.Framer() if dialect.framing == "sse" else None
        self._lines = ndjson.Framer() if dialect.framing == "ndjson" else None
        self._usage: ir.Usage | None = None
        self._stop: ir.StopReason | None = None
        self._produced = False
        self._held: list[ir.StreamEvent] = []
        self._unsent = b""  # what the end of a cut stream brought
        self._runs = Runs(dialect)
        self._said: list[ir.StreamEvent] = []  # by what was read last
        self._cast: tuple[bytes, bytes] | None = None  # what stands around a text of the run that goes on
        self._steady: Mould | None = None  # of that run, while nothing else came

    @property
    def usage(self) -> ir.Usage | None:
        return self._usage

    @property
    def stop(self) -> ir.StopReason | None:
        return self._stop

    @property
    def torn(self) -> bool:
        return False

    def feed(self, chunk: bytes) -> bytes:
        steady, cast = self._steady, self._cast
        if steady is not None and cast is not None and (text := steady.single(chunk)) is not None:
            good, chars = mould.written([text])
            if good:
                self._encoder.said(chars)
                return b"%b%b%b" % (cast[0], good[0], cast[1])
        self._steady = None
        return self._fed(chunk)

    def _fed(self, chunk: bytes) -> bytes:
        if self.done:
            self.edits["surplus_dropped"] += 1
            return b""
        if self._framer is None:
            assert self._lines is not None
            return self._encode(map(Frame, self._lines.feed(chunk)))
        block = self._framer.take(chunk)
        return self._translated(block) if block else b""

    def close(self) -> bytes:
        out = b""
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
        self.done = True
        return self._unsent + self._encoder.fail(error)

    def _translated(self, block: bytes) -> bytes:
        """Runs of text by what their frames have in common, whatever else there is frame by frame."""
        assert self._framer is not None
        out = []
        while block and not self.done:
            if self._cast is not None:
                run, block = self._run(block, *self._cast)
                out.append(run)
                if not block:
                    self._steady = self._runs.mould if self._framer.closed else None
                    break
            piece, block = self._runs.first_frame(block)
            out.append(self._encode(self._framer.read(piece)))
            self._learn(piece)
        if block:
            self.edits["surplus_dropped"] += 1
        return out[0] if len(out) == 1 else b"".join(out)

    def _run(self, block: bytes, head: bytes, tail: bytes) -> tuple[bytes, bytes]:
        texts, rest = self._runs.cut(block)
        good, chars = mould.written(texts) if texts else (texts, 0)
        if len(good) < len(texts):
            rest = self._runs.behind(good, block)
        if not good:
            return b"", rest
        self._encoder.said(chars)
        return b"%b%b%b" % (head, (tail + head).join(good), tail), rest

    def _learn(self, piece: bytes) -> None:
        self._cast = None
        if self.done or len(self._said) != 1 or (event := self._said[0]).__class__ is not ir.TextDelta:
            return
        if self.committed and self._runs.learn(piece):
            self._cast = self._encoder.cast(event)

    def _last_frames(self) -> Iterable[Frame]:
        if self._framer is not None:
            return self._framer.close()
        assert self._lines is not None
        return map(Frame, self._lines.close())

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


def events_of(answer: ir.Answer) -> list[ir.StreamEvent]:
    """A whole answer as the stream it would have been: for providers that answer a stream request with a document."""
    events: list[ir.StreamEvent] = [
        ir.Start(answer.id, answer.model, answer.created, answer.usage, answer.service_tier, answer.fingerprint)
    ]
    for number, choice in enumerate(answer.choices):
        for index, part in enumerate(choice.parts):
            events += _part_events(index, part, number)
        events.append(ir.Finish(choice.stop, choice.stop_sequence, number, choice.native_stop))
    return [*events, ir.UsageReport(answer.usage), ir.End()]


def _part_events(index: int, part: ir.Part, choice: int) -> list[ir.StreamEvent]:
    match part:
        case ir.Text(text, citations):
            said: list[ir.StreamEvent] = [ir.CitationDelta(index, citation, choice) for citation in citations]
            shell: ir.Part = evolve(part, text="", citations=())
            said.append(ir.TextDelta(index, text, choice))
        case ir.Thinking(text=text, signature=signature, encrypted=encrypted):
            shell = evolve(part, text="", summary=(), signature=None, encrypted=None)
            said = [ir.ThinkingDelta(index, text, choice)] if text else []
            said += [ir.ThinkingDelta(index, piece, choice, number) for number, piece in enumerate(part.summary)]
            if signature is not None or encrypted is not None:
                said.append(ir.SignatureDelta(index, signature, choice, encrypted))
        case ir.ToolCall(arguments=arguments):
            shell, said = evolve(part, arguments=""), [ir.ArgumentsDelta(index, arguments, choice)]
        case ir.Refusal(text):
            shell, said = ir.Refusal(""), [ir.RefusalDelta(index, text, choice)]
        case _:
            shell, said = part, []
    return [ir.PartStart(index, shell, choice), *said, ir.PartEnd(index, choice, part)]
