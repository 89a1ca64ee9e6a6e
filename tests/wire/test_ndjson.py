from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroken
from proxy.wire.ndjson import Borders, Framer

SHARED = Path(__file__).parents[2].parent / "shared"

STREAMS: dict[str, tuple[bytes, list[bytes], list[bytes]]] = {  # bytes, whole lines, what only a close brings
    "two lines": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}'], []),
    "crlf line ends": (b"{}\r\n[]\r\n", [b"{}", b"[]"], []),
    "a bare cr ends nothing": (b'{"a":\r1}\n', [b'{"a":\r1}'], []),
    "blank lines are passed over": (b"\n\r\n {}\n \t\n\n1\n", [b" {}", b"1"], []),
    "the last line without its end": (b"{}\n[]", [b"{}"], [b"[]"]),
    "the last line with half its end": (b"{}\n[]\r", [b"{}"], [b"[]"]),
    "a blank rest": (b"{}\n  ", [b"{}"], []),
    "separators that are only unicode's": ("a\u2028b\u0085c\x0bd\n".encode(), ["a\u2028b\u0085c\x0bd".encode()], []),
    "nothing": (b"", [], []),
}

TOKENS = [b"\n", b"\r\n", b"\r", b"{}", b" ", b"x"]
streams = st.lists(st.lists(st.sampled_from(TOKENS), max_size=5).map(b"".join), max_size=12)  # in chunks


def recordings() -> list[Any]:
    answers = [json.loads(path.read_text())["response"] for path in sorted((SHARED / "wire" / "ollama").glob("*.json"))]
    return [
        pytest.param(answer["body_text"].encode(), id=str(at))
        for at, answer in enumerate(answers)
        if answer["headers"].get("content-type", "").startswith("application/x-ndjson")
    ]


@each(("raw", "lines", "rest"), STREAMS.values(), ids=STREAMS)
def test_lines_do_not_depend_on_where_the_bytes_are_cut(raw: bytes, lines: list[bytes], rest: list[bytes]) -> None:
    for first, second in combinations(range(len(raw) + 1), 2):
        framer = Framer()
        assert framer.feed(raw[:first]) + framer.feed(raw[first:second]) + framer.feed(raw[second:]) == lines
        assert framer.close() == rest
        assert framer.close() == []


def test_a_cut_line_is_dropped_when_unwanted() -> None:
    framer = Framer()
    assert framer.feed(b'{}\n{"a":') == [b"{}"]
    assert framer.close(keep_partial=False) == []


@given(streams, st.one_of(st.integers(0, 8), st.just(64 * 1024)))
def test_what_borders_let_through_ends_at_the_last_line_end_or_is_too_long_to_hold(
    chunks: list[bytes], limit: int
) -> None:
    raw = b"".join(chunks)
    borders, fed, passed = Borders(max_held=limit), 0, b""
    for chunk in chunks:
        fed += len(chunk)
        last = raw.rfind(b"\n", 0, fed) + 1
        passed += borders.feed(chunk)
        assert passed + borders.held == raw[:fed]
        assert borders.overflowed == (fed - last > limit)
        assert len(passed) == (fed if borders.overflowed else last)


def test_overflow_ends_with_the_line_that_caused_it() -> None:
    borders = Borders(max_held=4)
    assert (borders.feed(b"12345"), borders.overflowed) == (b"12345", True)
    assert (borders.feed(b"6"), borders.overflowed) == (b"6", True)
    assert (borders.feed(b"7\n89"), borders.overflowed, borders.held) == (b"7\n", False, b"89")


def test_a_chunk_of_whole_lines_passes_as_the_same_object() -> None:
    chunk = b"{}\n{}\n"
    assert Borders().feed(chunk) is chunk


@each("cut", range(12))
def test_a_line_past_the_limit_breaks_the_stream_wherever_it_is_cut(cut: int) -> None:
    raw = b'{"a":"0123456789"}\n'
    framer = Framer(max_line=12)
    with pytest.raises(UpstreamBroken):  # noqa: PT012  the cut decides which of the two calls finds it
        framer.feed(raw[:cut])
        framer.feed(raw[cut:])


def test_many_lines_may_pass_the_limit_that_each_one_keeps() -> None:
    assert len(Framer(max_line=4).feed(b"{}\n" * 100)) == 100


def test_a_line_of_ten_mebibytes_in_small_chunks() -> None:
    raw = b'"' + b"A" * (10 << 20) + b'"\n'
    framer = Framer()
    lines = [line for at in range(0, len(raw), 999) for line in framer.feed(raw[at : at + 999])]
    assert lines == [raw[:-1]]


@each("raw", recordings())
def test_recorded_streams_do_not_depend_on_their_packets(raw: bytes) -> None:
    lines = [line for line in raw.split(b"\n") if line]
    for size in (1, 7, 64, len(raw)):
        chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
        framer, borders = Framer(), Borders()
        assert [line for chunk in chunks for line in framer.feed(chunk)] + framer.close() == lines
        assert b"".join(map(borders.feed, chunks)) + borders.held == raw
