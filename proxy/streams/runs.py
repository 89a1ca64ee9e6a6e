"""The runs of text in the blocks of one stream: see `wire.mould`."""

from __future__ import annotations

from proxy.dialects.dialect import Upstream
from proxy.wire.chunked_run import LINES, ChunkedRun
from proxy.wire.mould import PLAIN, Mould, length
from proxy.wire.sse import CR

MOULDS = 4  # tried in a row without a second frame of the same kind, before a stream counts as one that has no runs


class Retelling:
    """How a run leaves in another dialect's words, for whoever takes its chunks where they are received. As many
    characters of text as did so stand in `chars`, until the stream asks for them."""

    __slots__ = ("_around", "_before", "_behind", "_ending", "_least", "_opening", "chars", "size")

    def __init__(self, run: ChunkedRun, cast: tuple[bytes, bytes]) -> None:
        self._before, self._behind, self._least = run.mould.head, run.end, run.least
        opening, ending = cast
        self._opening, self._ending = opening, ending + b"\r\n"
        self._around = len(opening) + len(ending)
        self.chars = 0
        self.size = 0  # of the body that the last chunk has

    def chunk(self, data: bytes, line: bytes, size: int, most: int) -> bytes:
        """What leaves for one chunk that holds one frame of the run, as a chunk; nothing where more is to be asked: of
        a text that may be written otherwise, of a body of more than `most` bytes. `line` and `size` are those that a
        chunk has which is as long as `data`."""
        chars = size - self._least
        if chars <= 0:
            return b""
        text, size = data.removeprefix(line).removeprefix(self._before), self._around + chars
        text = text.removesuffix(self._behind)
        if len(text) != chars or text.translate(PLAIN) != text or size > most or size >= len(LINES):
            return b""
        self.chars += chars
        self.size = size
        return b"".join((LINES[size], self._opening, text, self._ending))  # a third of what a form takes


class Runs:
    """Finds the runs of text in the blocks of one stream; see `wire.mould`."""

    def __init__(self, dialect: Upstream) -> None:
        self._make = dialect.text_mould
        self.mould: Mould | None = None
        self._misses = 0
        self._chunked: ChunkedRun | None = None

    def begins(self, block: bytes, at: int) -> bool:
        """Whether a frame of the run may stand there."""
        return self.mould is not None and block.startswith(self.mould.head, at)

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

    def go_on(self, mould: Mould, chunked: ChunkedRun | None) -> None:
        """With a run that others had as well; its chunks may have been met."""
        self.mould = mould
        if chunked is not None:
            self._chunked = chunked

    def behind(self, texts: list[bytes], block: bytes) -> bytes:
        return block if self.mould is None else self.mould.behind(texts, block)

    def first_frame(self, block: bytes) -> tuple[bytes, bytes]:
        """And what stands behind it; all of the block where no runs are to be hoped for."""
        border = -1 if self._misses >= MOULDS or CR in block else block.find(b"\n\n")
        return (block, b"") if border < 0 else (block[: border + 2], block[border + 2 :])

    def begin(self, raw: bytes) -> bool:
        """Whether a frame is a piece of text and nothing else, so that more of its kind may follow."""
        mould = self.mould = self._make(raw)
        return mould is not None and length(mould.single(raw) or b"") > 0

    def learn(self, raw: bytes) -> bool:
        """From one frame; whether it is a piece of text that more may follow of its kind."""
        self.mould = None
        if self._misses < MOULDS:
            self._misses += 1
            self.mould = self._make(raw)
        return self.mould is not None
