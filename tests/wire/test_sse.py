from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st
from shares import product_of

from proxy.errors import UpstreamBroken
from proxy.wire.sse import Borders, Frame, Framer, encode, split_frames

SHARED = Path(__file__).parents[2].parent / "shared"
CORPUS = SHARED / "corpora" / "sse" / "cases.jsonl"
BOM = b"\xef\xbb\xbf"

STREAMS = {
    "lf line ends": (b"data: a\n\n", [Frame(b"a")]),
    "crlf line ends": (b"data: a\r\n\r\n", [Frame(b"a")]),
    "cr line ends": (b"data: a\r\rdata: b\r\r", [Frame(b"a"), Frame(b"b")]),
    "all line ends in one stream": (
        b"data: a\n\r\ndata: b\r\n\ndata: c\r\r\ndata: d\n\rdata: e\n\n",
        [Frame(b"a"), Frame(b"b"), Frame(b"c"), Frame(b"d"), Frame(b"e")],
    ),
    "data over two lines": (b"data: a\ndata: b\n\n", [Frame(b"a\nb")]),
    "comments are dropped": (b": keep-alive\n\ndata: a\n\n", [Frame(b"a")]),
    "a comment within a frame": (b"data: a\n: x\r\ndata: b\n\n", [Frame(b"a\nb")]),
    "a named event": (b"event: ping\ndata: {}\n\n", [Frame(b"{}", b"ping")]),
    "the name may follow": (b"data: {}\nevent: ping\n\n", [Frame(b"{}", b"ping")]),
    "the name does not outlive its frame": (b"event: a\n\ndata: x\n\n", [Frame(b"x")]),
    "an event without data is not dispatched": (b"event: a\n\n", []),
    "an empty data field is": (b"data:\n\ndata\n\n", [Frame(b""), Frame(b"")]),
    "two empty data fields are one line end": (b"data\ndata\n\n", [Frame(b"\n")]),
    "one blank after the colon goes": (b"data:  a\n\ndata:a\n\n", [Frame(b" a"), Frame(b"a")]),
    "a tab after the colon stays": (b"data:\ta\n\n", [Frame(b"\ta")]),
    "only the first colon parts": (b"data: a: b\n\n", [Frame(b"a: b")]),
    "unknown fields are passed over": (b"datum: x\n data: y\nDATA: z\nretry: 5\ndata: a\n\n", [Frame(b"a")]),
    "an id outlives its frame": (b"id: 7\ndata: a\n\ndata: b\n\n", [Frame(b"a", id=b"7"), Frame(b"b", id=b"7")]),
    "an id without data counts": (b"id: 7\n\ndata: b\n\n", [Frame(b"b", id=b"7")]),
    "an empty id resets it": (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [Frame(b"a", id=b"7"), Frame(b"b")]),
    "an id with a NUL is ignored": (b"id: 7\0\ndata: a\n\n", [Frame(b"a")]),
    "a byte order mark": (BOM + b"data: a\n\n", [Frame(b"a")]),
    "a second mark is no mark": (BOM + BOM + b"data: a\n\ndata: b\n\n", [Frame(b"b")]),
    "a mark later on is no mark": (b"data: a\n\n" + BOM + b"data: b\n\n", [Frame(b"a")]),
    "blank lines everywhere": (b"\n\r\n\rdata: a\n\n\n\r\n\n\ndata: b\n\n\n", [Frame(b"a"), Frame(b"b")]),
    "separators that are only unicode's": (
        "data: a\u2028b\x85c\x0bd\n\n".encode(),
        [Frame("a\u2028b\x85c\x0bd".encode())],
    ),
    "bytes that are no utf-8": (b"data: \xff\xfe\n\n", [Frame(b"\xff\xfe")]),
    "what follows the last blank line is open": (b"data: a\n\ndata: b\n", [Frame(b"a")]),
}

TOKENS = [b"\n", b"\r", b"\r\n", b"data", b"data:", b"data: a", b"event: e", b"id: 1", b": c", b" ", b"x", BOM]
streams = st.lists(st.lists(st.sampled_from(TOKENS), max_size=5).map(b"".join), max_size=12)  # in chunks


def read_bytewise(raw: bytes) -> tuple[list[Frame], list[bool]]:
    """The standard's algorithm, one byte at a time: the frames, and for each position whether it is a border."""
    frames: list[Frame] = []
    borders = [True]
    line, data, event, last_id = b"", b"", b"", b""
    for at, byte in enumerate(raw):
        if byte == 0x0A and raw[at - 1 : at] == b"\r":
            borders.append(borders[-1])
            continue
        if byte not in b"\r\n":
            line += bytes((byte,))
            borders.append(False)
            continue
        borders.append(not line)
        if not line:
            if data:
                frames.append(Frame(data[:-1], event, last_id))
            data, event = b"", b""
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        line = b""
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            event = value
        elif field == b"id" and b"\0" not in value:
            last_id = value
    return frames, borders


def in_chunks(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    return (raw[start:end] for start, end in pairwise(places))


def small_streams(tokens: int) -> Iterator[list[bytes]]:
    """All streams of so many tokens that are text or line ends, each in all the chunks it can be cut into."""
    for parts in product((b"data", b"\r", b"\n"), repeat=tokens):
        for cuts in product((False, True), repeat=tokens - 1):
            chunks = [parts[0]]
            for part, cut in zip(parts[1:], cuts, strict=True):
                chunks += [part] if cut else [chunks.pop() + part]
            yield chunks


def check_borders(chunks: list[bytes], limit: int = 64 * 1024) -> None:
    raw = b"".join(chunks)
    _, is_border = read_bytewise(raw)
    borders, fed, last, passed = Borders(max_held=limit), 0, 0, b""
    for chunk in chunks:
        last = max((place for place in range(fed + 1, fed + len(chunk) + 1) if is_border[place]), default=last)
        fed += len(chunk)
        passed += borders.feed(chunk)
        assert passed + borders.held == raw[:fed]
        assert borders.overflowed == (fed - last > limit)
        assert len(passed) == (fed if borders.overflowed else last)


def check_split(raw: bytes) -> None:
    block = Borders().feed(raw)
    pieces = list(split_frames(block))
    assert b"".join(piece for _, piece in pieces) == block
    assert all(read_bytewise(piece)[1][-1] for _, piece in pieces)
    found = [(frame.data, frame.event) for frame, _ in pieces if frame]
    assert found == [(frame.data, frame.event) for frame in read_bytewise(block.removeprefix(BOM))[0]]


def frames_of(chunks: Iterable[bytes]) -> list[Frame]:
    framer = Framer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def cases() -> list[dict[str, Any]]:
    if not CORPUS.exists():
        pytest.skip("the corpus of event streams is not beside the project")
    return [json.loads(line) for line in CORPUS.read_text().splitlines()]


def expected(case: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(event["event"], event["data"], event["last_event_id"]) for event in case["expected_events"]]


def as_dispatched(frames: list[Frame]) -> list[tuple[str, str, str]]:
    return [(frame.event.decode() or "message", frame.data.decode(), frame.id.decode()) for frame in frames]


def recordings(of: int = 1) -> list[Any]:
    """All of them, one of so many by the fast tests."""
    files = sorted((SHARED / "wire").rglob("*.json"))
    answers = [(path.stem, json.loads(path.read_text())["response"]) for path in files]
    streams = {
        name: answer["body_text"].encode()
        for name, answer in answers
        if answer["headers"].get("content-type", "").startswith("text/event-stream")
    }
    return product_of(streams, fast=1, of=of) or [
        pytest.param(b"", marks=pytest.mark.skip("the recordings are not beside the project"))
    ]


@each(("raw", "frames"), STREAMS.values(), ids=STREAMS)
def test_frames_do_not_depend_on_where_the_bytes_are_cut(raw: bytes, frames: list[Frame]) -> None:
    for first, second in combinations(range(len(raw) + 1), 2):
        framer = Framer()
        assert framer.feed(raw[:first]) + framer.feed(raw[first:second]) + framer.feed(raw[second:]) == frames


@each(("raw", "frames"), STREAMS.values(), ids=STREAMS)
def test_the_reference_of_these_tests_agrees_with_the_table(raw: bytes, frames: list[Frame]) -> None:
    assert read_bytewise(raw.removeprefix(BOM))[0] == frames


@given(streams)
def test_any_stream_cut_anywhere_reads_as_the_standard_says(chunks: list[bytes]) -> None:
    assert frames_of(chunks) == read_bytewise(b"".join(chunks).removeprefix(BOM))[0]


@given(streams, st.one_of(st.integers(0, 12), st.just(64 * 1024)))
def test_what_borders_let_through_ends_at_the_last_border_or_is_too_long_to_hold(
    chunks: list[bytes], limit: int
) -> None:
    check_borders(chunks, limit)


@given(streams)
def test_split_frames_are_the_block_and_its_frames(chunks: list[bytes]) -> None:
    check_split(b"".join(chunks))


@pytest.mark.parametrize("tokens", [*range(1, 6), pytest.param(6, marks=pytest.mark.slow)])
def test_all_small_streams_in_all_their_cuts(tokens: int) -> None:
    for chunks in small_streams(tokens):
        assert frames_of(chunks) == read_bytewise(b"".join(chunks))[0]
        for limit in (0, 5, 64 * 1024):
            check_borders(chunks, limit)
        if len(chunks) == 1:
            check_split(chunks[0])


def test_overflow_ends_with_the_frame_that_caused_it() -> None:
    borders = Borders(max_held=8)
    assert borders.feed(b"data: a") == b""
    assert (borders.feed(b"bcd"), borders.overflowed) == (b"data: abcd", True)
    assert (borders.feed(b"e"), borders.overflowed) == (b"e", True)
    assert (borders.feed(b"f\n\nda"), borders.overflowed, borders.held) == (b"f\n\n", False, b"da")


def test_a_chunk_of_whole_frames_passes_as_the_same_object() -> None:
    borders = Borders()
    chunk = b"data: a\n\ndata: b\n\n"
    assert borders.feed(chunk) is chunk


def test_a_frame_with_bare_crs_does_not_wait_for_the_next_one() -> None:
    borders = Borders()
    assert borders.feed(b"data: a\r\r") == b"data: a\r\r"
    assert borders.feed(b"\ndata: b") == b"\n"


def test_one_frame_can_be_left_out_of_a_block() -> None:
    block = b"data: a\n\n: note\nid: 1\ndata: b\r\n\r\n: idle\n\n\ndata: c\n\n"
    assert list(split_frames(block)) == [
        (Frame(b"a"), b"data: a\n\n"),
        (Frame(b"b", id=b"1"), b": note\nid: 1\ndata: b\r\n\r\n"),
        (None, b": idle\n\n"),
        (Frame(b"c"), b"\ndata: c\n\n"),
    ]


def test_a_byte_order_mark_hides_no_frame_of_a_block() -> None:
    assert list(split_frames(BOM + b"data: a\n\n")) == [(Frame(b"a"), BOM + b"data: a\n\n")]


@each("tail", [b"data: b", b"data: b\n", b"data: b\r\n", b"data: b\r"])
def test_a_last_frame_without_its_blank_line_is_kept_unless_unwanted(tail: bytes) -> None:
    for keep, last in ((True, [Frame(b"b")]), (False, [])):
        framer = Framer()
        assert framer.feed(b"data: a\n\n" + tail) == [Frame(b"a")]
        assert framer.close(keep_partial=keep) == last
        assert framer.close() == []


def test_a_close_in_the_middle_of_a_byte_order_mark_yields_nothing() -> None:
    framer = Framer()
    assert framer.feed(BOM[:2]) == []
    assert framer.close() == []


@each("cut", range(20))
def test_a_frame_past_the_limit_breaks_the_stream_wherever_it_is_cut(cut: int) -> None:
    raw = b"data: 0123456789abcdef\n\n"
    framer = Framer(max_frame=16)
    with pytest.raises(UpstreamBroken):  # noqa: PT012  the cut decides which of the two calls finds it
        framer.feed(raw[:cut])
        framer.feed(raw[cut:])


def test_many_frames_may_pass_the_limit_that_each_one_keeps() -> None:
    assert len(Framer(max_frame=16).feed(b"data: a\n\n" * 100)) == 100


def test_a_data_line_of_ten_mebibytes_in_small_chunks() -> None:
    raw = b"data: " + b"A" * (10 << 20) + b"\n\n"
    frames = frames_of(raw[at : at + 999] for at in range(0, len(raw), 999))
    assert [len(frame.data) for frame in frames] == [10 << 20]


ENCODED = {
    "plain": (encode(b"{}"), b"data: {}\n\n"),
    "named": (encode(b"{}", b"error"), b"event: error\ndata: {}\n\n"),
    "empty": (encode(b""), b"data: \n\n"),
    "several lines": (encode(b"a\nb\r\nc\rd\n"), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
}


@each(("made", "wanted"), ENCODED.values(), ids=ENCODED)
def test_frames_of_our_own(made: bytes, wanted: bytes) -> None:
    assert made == wanted


@given(st.binary(), st.sampled_from([b"", b"ping"]))
def test_what_is_encoded_reads_back(data: bytes, event: bytes) -> None:
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert Framer().feed(encode(data, event)) == [Frame(lines, event)]


def test_the_corpus_whole_and_in_its_own_chunks() -> None:
    for case in cases():
        for parts in ([case["bytes_base64"]], case.get("chunks_base64", [case["bytes_base64"]])):
            assert as_dispatched(frames_of(map(base64.b64decode, parts))) == expected(case), case["name"]


def test_the_corpus_cut_at_every_byte() -> None:
    for case in cases():
        raw = base64.b64decode(case["bytes_base64"])
        for cut in range(len(raw)):
            assert as_dispatched(frames_of(in_chunks(raw, [cut]))) == expected(case), (case["name"], cut)


@pytest.mark.parametrize("raw", recordings(of=2))
def test_recorded_streams_do_not_depend_on_their_packets(raw: bytes) -> None:
    whole = frames_of([raw])
    assert whole == read_bytewise(raw)[0]
    for size in (1, 7, 64):
        chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert frames_of(chunks) == whole
        borders = Borders()
        assert b"".join(map(borders.feed, chunks)) + borders.held == raw


@pytest.mark.slow
@pytest.mark.parametrize("raw", recordings())
def test_recorded_streams_cut_at_every_byte(raw: bytes) -> None:
    start = raw[:6000]
    whole = frames_of([start])
    assert all(frames_of(in_chunks(start, [cut])) == whole for cut in range(len(start)))
