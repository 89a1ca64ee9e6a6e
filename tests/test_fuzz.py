"""Bytes of any kind through everything that reads bytes of others: framers, the splicer, decoders of requests and of
streams. They answer, or raise what they promise to raise, and the same however the bytes are cut.

`make fuzz` plays these, test_fuzz_answers.py and those of tests/wire for longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import CHAT, MESSAGES
from shares import product_of

from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError
from proxy.server import intake
from proxy.streams import Passthrough, Stream, Translation
from proxy.wire import http1, multipart, ndjson, splice, sse
from proxy.wire.answer_head import BadHttp

CONVERSING = list(DIALECTS)
VOICE = Voice("req_1", "asked", 1, True, {})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
# Bytes that look like a stream often enough to get far into it.
MARKS = [b"data: ", b"event: ", b"\n", b"\r", b"\r\n", b"\n\n", b": ", b"[DONE]", b"\xef\xbb\xbf", b"{", b'"']
pieces = st.sampled_from([*MARKS, b'{"choices":[]}', *CHAT.stream("a", "b"), *MESSAGES.stream("a", "b")])
streams = st.lists(pieces | st.binary(max_size=8), max_size=24).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=6)


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place for place in at if 0 < place < len(raw)})
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


@given(streams, cuts)
def test_events_do_not_depend_on_the_packets(raw: bytes, at: list[int]) -> None:
    def read(chunks: list[bytes]) -> list[sse.Frame]:
        framer = sse.Framer()
        return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.close()

    assert read([raw]) == read(cut(raw, at))


@given(streams, cuts)
def test_lines_do_not_depend_on_the_packets(raw: bytes, at: list[int]) -> None:
    def read(chunks: list[bytes]) -> list[bytes]:
        framer = ndjson.Framer()
        return [line for chunk in chunks for line in framer.feed(chunk)] + list(framer.close())

    assert read([raw]) == read(cut(raw, at))


def play(stream: Stream, chunks: list[bytes]) -> bytes:
    """All that leaves; what it raises is an error of ours. A blank line more between frames is nobody's: it leaves with
    the packet that it came in, or before an error not at all."""
    out: list[bytes] = []
    try:
        for chunk in chunks:
            out.append(stream.feed(chunk))
            if stream.done:
                break
        else:
            out.append(stream.close())
    except GatewayError:
        out.append(b"<failed>")
    return re.sub(rb"((?:\r\n|\r|\n){2})[\r\n]+", rb"\1", b"".join(out))


@pytest.mark.parametrize("name", CONVERSING)
@given(raw=streams, at=cuts)
def test_what_passes_does_not_depend_on_the_packets(name: str, raw: bytes, at: list[int]) -> None:
    whole = play(Passthrough(DIALECTS[name], VOICE), [raw])
    assert play(Passthrough(DIALECTS[name], VOICE), cut(raw, at)) == whole


@pytest.mark.parametrize(
    ("spoken", "client"),
    product_of({name: name for name in UPSTREAMS}, {name: name for name in CONVERSING}, fast=1, of=3),
)
@given(raw=streams, at=cuts)
def test_a_translation_never_breaks_on_bytes(client: str, spoken: str, raw: bytes, at: list[int]) -> None:
    stream = Translation(UPSTREAMS[spoken], DIALECTS[client], VOICE)
    play(stream, cut(raw, at))


members = st.dictionaries(
    st.sampled_from(["model", "models", "stream", "messages", "input", "tools", "max_tokens", "sort", "provider", "x"]),
    json_values,
    max_size=6,
)


@pytest.mark.parametrize("name", CONVERSING)
@given(document=members)
def test_a_request_is_read_or_refused(name: str, document: dict[str, Any]) -> None:
    reading: Callable[[dict[str, Any]], Any] = DIALECTS[name].codec().decode_request
    try:
        reading({"model": "m", **document})
    except GatewayError:
        return


@given(st.binary(max_size=200) | members.map(lambda it: json.dumps(it).encode()))
def test_a_body_is_parsed_or_refused_and_spliced_with_one_meaning(raw: bytes) -> None:
    try:
        document, _ = intake.parse(raw, frozenset({"model", "stream"}))
    except GatewayError:
        return
    spliced = splice.rewrite(raw, model="native", drop=frozenset({"sort"}), include_usage=False)
    expected = {name: value for name, value in document.items() if name != "sort"} | {"model": "native"}
    assert intake.parse(spliced, frozenset())[0] == expected


@given(st.binary(max_size=300))
def test_a_form_is_read_or_refused(raw: bytes) -> None:
    try:
        multipart.fields(b"--b\r\n" + raw, b"b")
    except ValueError:
        return


HEADS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200 \r\n", b"HTTP/1.1 503 No\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"X-A: b\r\n", b"X-A:\tb \r\n", b"X: \xff\r\n", b" folded\r\n", b"\r\n", b"\r", b"\n", b":", b"\0",
    b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"5;x=y\r\nhello\r\n",
]  # fmt: skip
answers = st.lists(st.sampled_from(HEADS) | st.binary(max_size=4), max_size=16).map(b"".join)


def answered(chunks: list[bytes]) -> tuple[object, ...]:
    """All that the reader of answers made of these packets, and whether the connection's end is the body's."""
    parser, body = http1.Parser(), b""
    try:
        for chunk in chunks:
            if parser.done:
                break
            body += parser.feed(chunk)
    except BadHttp:
        return ("refused",)
    head = parser.head
    known = None if head is None else (head.status, sorted(head.headers.items()), head.reusable)
    return known, body, parser.done, parser.done or parser.close()


@given(answers | st.tuples(st.sampled_from([b"HTTP/1.1 200 OK\r\n"]), answers).map(b"".join), cuts)
def test_an_answer_does_not_depend_on_the_packets(raw: bytes, at: list[int]) -> None:
    """But for what stands behind its end: of that, only that there was something."""
    assert answered([raw]) == answered(cut(raw, at))
