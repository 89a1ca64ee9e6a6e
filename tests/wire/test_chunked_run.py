"""Which bytes of a read are chunks of a run, said plainly and found all at once."""

from __future__ import annotations

import re

from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.chunked_run import KNOWN, ChunkedRun
from proxy.wire.mould import Mould

MOULD = Mould(b'data: {"text":"', b'"}\n\n')


def chunk(body: bytes, size: str = "%x") -> bytes:
    return (size % len(body)).encode() + b"\r\n" + body + b"\r\n"


def framed(*texts: bytes) -> bytes:
    return b"".join(chunk(MOULD.head + text + MOULD.tail) for text in texts)


RUNS: dict[str, tuple[bytes, bytes]] = {
    "one": (framed(b"a"), b""),
    "several": (framed(b"a", b"", b"longer", b"x" * 300), b""),
    "an escaped quote": (framed(b'\\"a\\"'), b""),
    "an escaped quote among others": (framed(b"a", b'\\"', b"b"), b""),
    "an escaped backslash at the end": (framed(b"a\\\\", b"b", b'\\\\\\"'), b""),
    "letters of all kinds": (framed("ü".encode(), "\u2028😀".encode()), b""),
    "another frame behind, and that no UTF-8": (framed(b"a", "ü".encode()), chunk(b"data: \xff\n\n")),
    "other frames behind": (framed(b"a", b"b"), chunk(b"data: {}\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"),
    "frames behind that end as the run's do": (framed(b"a", b"b"), chunk(b'data: {"role":"a"}\n\n') * 3),
    "half a chunk behind": (framed(b"a", b"b"), framed(b"c")[:9]),
    "half a line end behind": (framed(b"a", b"b"), framed(b"c")[:-1]),
    "a size alone": (framed(b"a", b"b"), b"19"),
}

NONE: dict[str, bytes] = {
    "nothing": b"",
    "another frame": chunk(b"data: {}\n\n"),
    "another frame among them": framed(b"a") + chunk(b": ping\n\n") + framed(b"b"),
    "a bare quote": framed(b'a","error":"b'),
    "a bare quote among others": framed(b"a", b'","error":"', b"b"),
    "a line end": framed(b"a", b"b\n\nc", b"d"),
    "a size in other digits": chunk(MOULD.head + b"a" + MOULD.tail, "%03x"),
    "an extension": chunk(MOULD.head + b"a" + MOULD.tail, "%x;a"),
    "a size that is too large": framed(b"a").replace(b"14\r\n", b"15\r\n"),
    "a size that is too small": framed(b"a", b"b").replace(b"14\r\n", b"13\r\n"),
    "two frames in a chunk": chunk((MOULD.head + b"a" + MOULD.tail) * 2),
    "half an escape at the end": framed(b"a", b"b\\", b"c"),
    "line ends without end": framed(b"a") + b"\n" * 250_000 + framed(b"b"),
    "backslashes without end": framed(b"a") + b"\n\\" * 125_000 + framed(b"b"),
    "a frame in two chunks": chunk(MOULD.head) + chunk(b"a" + MOULD.tail),
    "more than blank lines between": framed(b"a").replace(b"\n\n\r\n", b"\n\n\n\r\n"),
    "no UTF-8": framed(b"\xff"),
    "no UTF-8 among others": framed(b"a", b"\xc0\xaf", b"\xc3\xbc"),
    "the end": b"0\r\n\r\n",
}


@each("raw", [*(run + behind for run, behind in RUNS.values()), *NONE.values()])
def test_the_text_of_one_chunk_alone_is_told(raw: bytes) -> None:
    chunks = ChunkedRun(MOULD)
    one = re.fullmatch(rb'([0-9a-f]+)\r\n(data: \{"text":"([^"\n\r]*)"\}\n\n)\r\n', raw)
    expected = one[3] if one is not None and one[1] == b"%x" % len(one[2]) else None
    for _ in range(2):  # a length that was seen, too
        assert chunks.text(raw) == expected


@each(("run", "behind"), RUNS.values(), ids=RUNS)
def test_chunks_of_a_run_are_known_by_their_bytes(run: bytes, behind: bytes) -> None:
    chunks = ChunkedRun(MOULD)
    body = len(b"".join(re.findall(rb"data: .*\n\n", run)))
    for _ in range(2):  # the second time by what is known of these lengths
        assert chunks.cut(run + behind) == (len(run), body)
        assert chunks.cut((other := chunk(b"data: {}\n\n")) + run + behind, len(other)) == (len(run), body)


@each("data", NONE.values(), ids=NONE)
def test_whatever_else_comes_is_left_to_be_parsed(data: bytes) -> None:
    chunks = ChunkedRun(MOULD)
    chunks.cut(framed(b"a", b"b", b"cc"))
    assert chunks.cut(data) == (0, 0)


def test_lengths_without_end_are_not_all_kept() -> None:
    chunks = ChunkedRun(MOULD)
    for length in range(2 * KNOWN):
        data = framed(b"x" * length)
        assert chunks.cut(data)[0] == len(data)
        assert len(chunks._between) <= KNOWN


bits = st.sampled_from(
    [b"a", b"", b'"', b"\\", b'\\"', b"\n", b"\r", b"\r\n", b'"}\n\n', b'data: {"text":"', b"14\r\n"]
)
texts = st.lists(st.sampled_from([b"a", b"", b'\\"', b"bc", b"\\"]), max_size=5)


@given(texts, st.lists(bits, max_size=4), texts, st.integers(0, 5))
def test_what_is_passed_is_what_a_parser_would_have_found(
    before: list[bytes], odd: list[bytes], behind: list[bytes], cut: int
) -> None:
    data = framed(*before) + b"".join(odd) + framed(*behind)
    data = data[: len(data) - cut]
    passed, size = ChunkedRun(MOULD).cut(data)
    text = rb'(?:[^"\\\n\r]|\\[^\n\r])*?\\?'
    one = re.compile(rb"([0-9a-f]+)\r\n(%b%b%b)\r\n" % (re.escape(MOULD.head), text, re.escape(MOULD.tail)))
    at = found = 0
    while (match := one.match(data, at)) and match[1] == b"%x" % len(match[2]):
        at, found = match.end(), found + len(match[2])
    assert (passed, size) in ((at, found), (0, 0))
