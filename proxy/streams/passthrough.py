"""The provider's own bytes, looked at and hardly touched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import GatewayError, UpstreamBroken
from proxy.ir import Sight
from proxy.streams.familiar import Glance
from proxy.streams.oversize import NO_TEXT, Oversize
from proxy.streams.runs import Retelling, Runs
from proxy.streams.stream import EMPTY, ENDLESS, HELD_BYTES, HELD_EVENTS
from proxy.wire import json_text, sse
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.mould import Mould
from proxy.wire.sse import CR, Frame

COLON = 58


class Passthrough:
    """The provider's own bytes, up to the last complete frame of what was read.

    Three edits are made and counted: the usage chunk that we asked for and the client did not is taken out, a
    terminator missing after a finish reason is added, bytes behind the terminator are dropped. A near-compatible
    provider's frames are mended one by one. What no client may read is masked in errors and comments; what events say
    is the provider's. A frame that is not UTF-8 ends the stream with an error: what a client would make of it, nobody
    knows.
    """

    def __init__(
        self,
        dialect: Dialect,
        voice: Voice,
        *,
        strip_usage: bool = False,
        byok: bool = False,
        clean: Callable[[str], str] = str,
        keys: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.committed = False
        self.done = False
        self.failure: GatewayError | None = None
        self.edits: dict[str, int] = defaultdict(int)
        self._dialect = dialect
        self._voice = voice
        self._tap = dialect.tap()
        self._strip_usage = strip_usage
        self._byok = byok
        self._clean = clean  # takes out of an error's words what no client may read
        self._keys = keys  # what that is in any words
        self._probes = dialect.probes
        self._mend = dialect.mend_frame
        self._borders = sse.Borders()
        self._fresh = True  # nothing has been looked at so far
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._oversize: Oversize | None = None  # the frame in hand, where it outgrew the border's buffer
        self._unsent = b""  # what the end of a cut stream brought
        self._parted = False  # the frame behind the end has come, or something else
        self._runs = Runs(dialect) if dialect.mend_frame is None else None
        self._glance = Glance(dialect, self._tap) if dialect.mend_frame is None else None
        self._steady: Mould | None = None  # what was read last was a run of these, up to a border, and may go on
        self.run: ChunkedRun | None = None  # the same
        self.retelling: Retelling | None = None

    @property
    def usage(self) -> ir.Usage | None:
        return self._tap.usage

    @property
    def stop(self) -> ir.StopReason | None:
        return self._tap.stop

    @property
    def torn(self) -> bool:
        return self._oversize is not None and self._oversize.left

    @property
    def farewell(self) -> bool:
        return self.done and bool(self._dialect.farewell) and not self._parted and self.failure is None

    def feed(self, chunk: bytes) -> bytes:
        steady = self._steady
        if steady is not None:
            if steady.holds(chunk) and (chunk.isascii() or sse.is_text(chunk)):  # as nearly every read of a slow stream
                return chunk
            self._steady = self.run = None
        return self._fed(chunk)

    def recast(self, data: bytes) -> bytes | None:
        return None

    def recast_run(self, data: bytes, at: int) -> tuple[bytes, int]:
        return b"", at

    def _fed(self, chunk: bytes) -> bytes:
        if self.done and not self.farewell:
            self.edits["surplus_dropped"] += 1
            return b""
        block = self._borders.feed(chunk)
        if not block:
            return b""
        if self._fresh:
            self._fresh = False
            if block.startswith(sse.BOM):  # nowhere else is it one
                self._held.append(sse.BOM)
                block = block[len(sse.BOM) :]
        if self.done:
            return self._parting(self._discreet(block))
        if self._borders.overflowed or self._oversize is not None:
            return self._in_pieces(block)
        return self._whole(block)

    def _whole(self, block: bytes) -> bytes:
        if not (block.isascii() or sse.is_text(block)):
            return self._misspelt(block)
        return self._passed(block) if self.committed else self._before_commit(block)

    def close(self) -> bytes:
        out = b""
        tail = self._borders.held
        if self._oversize is not None and not self._oversize.left:
            tail = bytes(self._oversize.raw)
        if tail and self.farewell:
            return tail if self._parting(tail + b"\n\n") else b""
        if tail and not self.done and self._is_whole(tail):
            border = _missing_border(tail)
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
        return self._unsent + self._dialect.codec().stream_encoder(self._voice).fail(error)

    def _misspelt(self, block: bytes) -> bytes:
        """What stands before the frame that is not UTF-8 leaves as if it had come alone, and an error behind it."""
        good = []
        for raw in sse.raw_frames(block):
            if not sse.is_text(raw):
                good.append(raw[: -len(raw.lstrip(b"\r\n"))])  # blank lines are no part of it
                break
            good.append(raw)
        sound = b"".join(good)
        out = b"" if not sound else self._passed(sound) if self.committed else self._before_commit(sound)
        if not self.committed:
            raise UpstreamBroken(NO_TEXT)
        if self.done or self.failure is not None:
            self.edits["surplus_dropped"] += self.done
            self.done = True
            return out
        self.failure, self.done = UpstreamBroken(NO_TEXT), True
        return out + self._dialect.codec().stream_encoder(self._voice).fail(self.failure)

    def _discreet(self, block: bytes) -> bytes:
        """Less what a client may not read in comments. Runs need no look: what they are made of has had its own."""
        if not sse.holds_comment(block):
            return block
        comments = b"\n".join(sse.comments(block))  # thousands of them are soon looked through together
        if self._masked(comments) == comments:
            return block
        out = sse.with_comments(block, self._masked)
        self.edits["comment_masked"] += out != block
        return out

    def _told(self, raw: bytes) -> bytes:
        """A provider's error as a client may read it; with other escapes, where those hid what it may not."""
        raw = self._masked(raw)
        if b"\\" in raw and (frame := sse.read_frame(raw)) is not None:
            plain = json_text.write(json_text.read(frame.data))
            if (masked := self._masked(plain)) != plain:
                return sse.encode(masked, frame.event)
        return raw

    def _masked(self, raw: bytes) -> bytes:
        return self._clean(raw.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def _ends_well(self) -> bool:
        return self.done or self._tap.stop is not None

    def _parting(self, block: bytes) -> bytes:
        """The frame that may stand behind the end, as it came; anything else is surplus."""
        self._parted = True
        first = sse.raw_frames(block)[0]
        frame = sse.read_frame(first)
        out = first if frame is not None and frame.data.strip() == self._dialect.farewell else b""
        self.edits["surplus_dropped"] += bool(block[len(out) :].strip())
        return out

    # -- before the commit -----------------------------------------------------------------------------------

    def _before_commit(self, block: bytes) -> bytes:
        """Holds lifecycle frames; the first frame that bears content lets all go."""
        at = 0
        block = self._discreet(block)
        for raw in sse.raw_frames(block):
            at += len(raw)
            sight = self._first_sight(raw)
            if sight is Sight.LIFECYCLE or sight is Sight.USAGE:
                self._hold(raw, sight)
                if not self.committed:
                    continue
                return self._released(self._passed(block[at:]))
            out = self._after([raw], sight, behind=block[at:])
            if not self.done and at < len(block):
                out += self._passed(block[at:])
            elif not self.done and self._borders.closed and self._runs is not None:
                self._steady, self.run = self._runs.mould, self._runs.chunked()
            return self._released(out)
        return b""

    def _first_sight(self, raw: bytes) -> Sight:
        """Raises what makes a failed attempt. A piece of text shows by its mould what it is, and the next ones of its
        kind are known by it."""
        glance, runs, tap = self._glance, self._runs, self._tap
        if glance is not None and runs is not None:
            known = glance.at(raw)
            if known is Sight.CONTENT:
                runs.mould = glance.mould
            elif known is None and runs.begin(raw):
                assert runs.mould is not None
                tap.produced, known = True, Sight.CONTENT
                glance.learn_text(runs.mould)
            if known is not None and known is not Sight.END:
                return known
        frame = sse.read_frame(raw)
        if frame is None:
            return Sight.LIFECYCLE
        sight = self._looked(raw, frame)
        if sight is Sight.ERROR and tap.error is not None:
            raise failures.of_stream(tap.error, byok=self._byok)
        if sight is Sight.END and tap.stop is None and not tap.produced:
            raise UpstreamBroken(EMPTY)
        return sight

    def _looked(self, raw: bytes, frame: Frame) -> Sight:
        """The tap's judgement, remembered."""
        tap, glance = self._tap, self._glance
        usage, plain = tap.usage, tap.plain
        sight = tap.look(frame)
        if plain and glance is not None:
            glance.learn(raw, sight, usage)
        return sight

    def _hold(self, raw: bytes, sight: Sight) -> None:
        if sight is Sight.USAGE and self._strip_usage:
            self.edits["usage_removed"] += 1
            return
        self._held.append(raw if self._mend is None else self._mended(raw))
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
        if self._runs is None:
            return self._after(sse.raw_frames(self._discreet(block)))
        rest = self._runs.cut(block)[1]
        if not rest:
            if self._borders.closed:
                self._steady, self.run = self._runs.mould, self._runs.chunked()
            return block
        if rest[0] == COLON or CR in rest or rest.rfind(b"\n:") >= 0:  # seldom
            run, rest = block[: len(block) - len(rest)], self._discreet(rest)
            block = run + rest
        # From behind it is the first letter that is sought: nearly twice as fast where there is nothing to be found.
        hits = [rest.find(probe) for probe in self._probes if rest.rfind(probe) >= 0]
        if not hits:
            self._runs.learn(_last_frame(rest))
            return block
        quiet = len(block) - len(rest)
        if CR not in rest and (border := rest.rfind(b"\n\n", 0, min(hits))) > 0:
            quiet += border + 2
        out = self._after(sse.raw_frames(block[quiet:]))
        return block[:quiet] + out if quiet else out

    def _after(self, frames: list[bytes], looked_at: Sight | None = None, behind: bytes = b"") -> bytes:
        """Looks at the frames that a probe hits; `looked_at` is what the first one was already found to be, `behind`
        what stands behind the last."""
        out: list[bytes] = []
        for position, raw in enumerate(frames):
            sight = looked_at if position == 0 and looked_at is not None else self._look(raw)
            if sight is Sight.USAGE and self._strip_usage:
                self.edits["usage_removed"] += 1
                continue
            out.append(raw if self._mend is None else self._mended(raw))
            if sight is Sight.ERROR and self._tap.error is not None:
                out[-1] = self._told(out[-1])
                self.failure = failures.of_stream(self._tap.error, byok=self._byok)
            elif sight is Sight.END:
                self.done = True
            if self.done:
                surplus = b"".join((*frames[position + 1 :], behind))
                if self.farewell and surplus:
                    out.append(self._parting(surplus))
                elif not self.farewell and (surplus or not self._borders.closed):
                    self.edits["surplus_dropped"] += bool((surplus + self._borders.held).strip())
                break
        return b"".join(out)

    def _look(self, raw: bytes) -> Sight:
        """The same, of a frame that a probe hits. What the tap cannot read passes all the same: the client's own parser
        will judge."""
        if raw == self._dialect.terminator:
            return Sight.END
        for probe in self._probes:
            if raw.find(probe) >= 0:
                break
        else:
            return Sight.LIFECYCLE
        if self._glance is not None and (known := self._glance.at(raw)) is not None:
            return known
        frame = sse.read_frame(raw)
        if frame is None:
            return Sight.LIFECYCLE
        try:
            return self._looked(raw, frame)
        except UpstreamBroken:
            self.edits["unreadable_frames"] += 1
            return Sight.CONTENT

    def _mended(self, raw: bytes) -> bytes:
        """A frame of a near-compatible provider's."""
        return raw if self._mend is None or sse.read_frame(raw) is None else self._mend(raw, self._voice.request_id)

    def _is_whole(self, tail: bytes) -> bool:
        """Whether a tail without its blank line is a whole frame all the same, as some providers send their last
        one. The beginning of a field is none: only a comment may stand without data."""
        try:
            return all(
                not raw.strip() or raw.lstrip().startswith(b":")
                if frame is None
                else self._dialect.tap().look(frame) is not None
                for frame, raw in sse.split_frames(tail + b"\n\n")
            )
        except UpstreamBroken:
            return False

    # -- frames that are too long to be held -----------------------------------------------------------------

    def _in_pieces(self, block: bytes) -> bytes:
        """A block with a piece of such a frame in it. What stands around that goes its own way."""
        out: list[bytes] = []
        try:
            while block and not self.done:
                if self._oversize is not None:
                    end = self._oversize.end_in(block)
                    out.append(self._piece(block[:end] if end else block, ends=end > 0))
                    block = block[end:] if end else b""
                    continue
                begun = sse.raw_frames(block)[-1] if self._borders.overflowed else b""
                if len(begun) < len(block):
                    out.append(self._whole(block[: len(block) - len(begun)]))
                if begun and not self.done:
                    self._oversize = Oversize(self._keys())
                block = begun
        except UpstreamBroken:
            self._unsent = b"".join(out)
            raise
        if block and self.farewell:
            out.append(self._parting(self._discreet(block)))
        elif block:
            self.edits["surplus_dropped"] += 1
        return b"".join(out)

    def _piece(self, block: bytes, *, ends: bool) -> bytes:
        oversize = self._oversize
        assert oversize is not None
        left, out = oversize.left, oversize.feed(block)
        if not ends:
            return self._released(out) if out else b""
        self._oversize = None
        if not left:
            return self._whole(bytes(oversize.raw))
        sight, rest = self._look(bytes(oversize.raw)), oversize.close()
        if sight is Sight.ERROR and self._tap.error is not None:
            self.failure = failures.of_stream(self._tap.error, byok=self._byok)
            rest = self._masked(rest)
        self.done = self.done or sight is Sight.END
        self.edits["key_masked"] += oversize.masked
        return out + rest


def _last_frame(block: bytes) -> bytes:
    border = block.rfind(b"\n\n", 0, -2)
    return block if border < 0 else block[border + 2 :]


def _missing_border(tail: bytes) -> bytes:
    """What makes a frame of a tail: a line end and a blank line, or what is left of them."""
    return b"\r" if tail.endswith(b"\r") else b"\n" if tail.endswith(b"\n") else b"\n\n"
