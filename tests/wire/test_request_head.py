"""Which heads are ordinary, and that aiohttp's parser reads these, and their bodies, in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from each import each
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire.request_head import END, LONGEST, MOST_HEADERS, read_ordinary

LINES = ("Host: localhost:8080", "Authorization: Bearer pm-1", "Content-Type: application/json", "Content-Length: 4")
BODY = b"abcd"


def head(*lines: str, first: str = "POST /v1/messages?beta=true HTTP/1.1") -> bytes:
    return "\r\n".join((first, *lines, "", "")).encode("utf-8")


def without(name: str) -> tuple[str, ...]:
    return tuple(line for line in LINES if not line.startswith(name))


def test_an_ordinary_head_is_read_and_cut_at_its_length() -> None:
    raw = head(*LINES, "session_id: a b")
    read = read_ordinary(raw)
    assert read is not None
    assert (read.raw_path, read.length) == ("/v1/messages?beta=true", 4)
    assert read.headers == (
        ("Host", "localhost:8080"), ("Authorization", "Bearer pm-1"), ("Content-Type", "application/json"),
        ("session_id", "a b"),
    )  # fmt: skip
    assert read.before + b"4" + read.after == raw
    assert read.before.endswith(b"\r\nContent-Length: ")


ORDINARY = {
    "names in any case": head("HOST: a", "content-length: 4"),
    "an IPv6 host": head("Host: [::1]:8080", "Content-Length: 4"),
    "a connection that stays": head(*LINES, "Connection: keep-alive"),
    "the length first": head("Content-Length: 4", "Host: a"),
    "no query": head(*LINES, first="POST /v1/chat/completions HTTP/1.1"),
    "a value with signs": head(*LINES, "User-Agent: A/1 (b; c) \"d\" {e}: [f], 'g'"),
}
UNUSUAL = {
    "another method": head(*LINES, first="PUT / HTTP/1.1"),
    "a method in small letters": head(*LINES, first="post / HTTP/1.1"),
    "HTTP/1.0": head(*LINES, first="POST / HTTP/1.0"),
    "two blanks": head(*LINES, first="POST  / HTTP/1.1"),
    "an absolute target": head(*LINES, first="POST http://a/ HTTP/1.1"),
    "an escape in the path": head(*LINES, first="POST /%61 HTTP/1.1"),
    "a fragment": head(*LINES, first="POST /#a HTTP/1.1"),
    "no host": head(*without("Host")),
    "two hosts": head(*LINES, "host: b"),
    "a host with a path": head(*without("Host"), "Host: a/b"),
    "an empty host": head(*without("Host"), "Host: "),
    "no length": head(*without("Content-Length")),
    "two lengths": head(*LINES, "Content-Length: 4"),
    "two lengths in one": head(*without("Content-Length"), "Content-Length: 4, 4"),
    "no body": head(*without("Content-Length"), "Content-Length: 0"),
    "a signed length": head(*without("Content-Length"), "Content-Length: +4"),
    "a length with a zero in front": head(*without("Content-Length"), "Content-Length: 04"),
    "a length in hexadecimal": head(*without("Content-Length"), "Content-Length: 0x4"),
    "a length past all sense": head(*without("Content-Length"), f"Content-Length: {'9' * 11}"),
    "a length in other digits": head(*without("Content-Length"), "Content-Length: ٤"),
    "a transfer coding": head(*LINES, "Transfer-Encoding: chunked"),
    "a transfer coding alone": head(*without("Content-Length"), "Transfer-Encoding: chunked"),
    "a connection that closes": head(*LINES, "Connection: close"),
    "a connection with more to say": head(*LINES, "Connection: keep-alive, upgrade"),
    "an upgrade": head(*LINES, "Upgrade: h2c"),
    "an expectation": head(*LINES, "Expect: 100-continue"),
    "a coded body": head(*LINES, "Content-Encoding: gzip"),
    "a header twice": head(*LINES, "X-Forwarded-For: a", "x-forwarded-for: b"),
    "a header without a value": head(*LINES, "X-A: "),
    "a header without a blank": head(*LINES, "X-A:a"),
    "a blank before the colon": head(*LINES, "X-A : a"),
    "a folded line": head(*LINES, "X-A: a\r\n b"),
    "a blank at the end": head(*LINES, "X-A: a "),
    "a tab": head(*LINES, "X-A: a\tb"),
    "a NUL": head(*LINES, "X-A: a\0b"),
    "a bare line feed": head(*LINES, "X-A: a\nX-B: b"),
    "a bare carriage return": head(*LINES, "X-A: a\rX-B: b"),
    "other letters": head(*LINES, "X-A: ä"),
    "a name of other letters": head(*LINES, "X-Ä: a"),
    "no header": head(),
    "a line end in front": b"\r\n" + head(*LINES),
    "a head too long": head(*LINES, f"X-A: {'a' * LONGEST}"),
    "too many headers": head(*LINES, *(f"X-{number}: a" for number in range(MOST_HEADERS))),
    "half a head": head(*LINES)[:-2],
    "more than a head": head(*LINES) + BODY,
}  # fmt: skip


@each("raw", ORDINARY.values(), ids=ORDINARY)
def test_what_is_ordinary_is_read(raw: bytes) -> None:
    assert read_ordinary(raw) is not None
    agrees_with_aiohttp(raw + BODY)


@each("raw", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_not_is_left_to_a_whole_parser(raw: bytes) -> None:
    assert read_ordinary(raw) is None


# -- beside aiohttp ----------------------------------------------------------------------------------------------

NAMES = [
    "Host", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "TE", "Trailer",
    "Keep-Alive", "Proxy-Connection", "Content-Encoding", "Content-Type", "X-A", "x_a", "X-Api-Key", "HTTP2-Settings",
    "Sec-WebSocket-Key1", "User-Agent", "Cookie", "Via", "x!a", "ä", "",
]  # fmt: skip
VALUES = [
    "localhost", "4", "04", "+4", "0", "4, 4", "chunked", "identity", "keep-alive", "close", "h2c", "100-continue",
    "gzip", "a/b", "a b", " a", "a ", "a\tb", "a\0", "é", "a\nb", "a\r\nX: y", "", "[::1]", "@", "a:99999",
]  # fmt: skip
named = st.sampled_from(NAMES)
valued = st.one_of(st.sampled_from(VALUES), st.text(st.characters(max_codepoint=255), max_size=6))
line = st.builds("{}{}{}".format, named, st.sampled_from([": ", ":", " : ", ":\t"]), valued)
starts = st.sampled_from(
    [
        "POST /v1/messages HTTP/1.1", "POST /v1/messages?a=b HTTP/1.1", "POST / HTTP/1.0", "POST //a HTTP/1.1",
        "POST /a%20b HTTP/1.1", "POST /a?b?c HTTP/1.1", "POST * HTTP/1.1", "POST a HTTP/1.1", "GET / HTTP/1.1",
        "POST /.. HTTP/1.1", "POST  / HTTP/1.1", "POST / HTTP/1.1 ", "POST /?a&&=. HTTP/1.1",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Mostly good ones, with what spoils them put in at some places."""
    lines = draw(st.permutations([*LINES, *draw(st.lists(line, max_size=3))]))
    raw = "\r\n".join((draw(starts), *lines, "", "")).encode("latin-1", "replace") + BODY
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw = (
            raw[:at] + draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"\x80", b"1"])) + raw[at:]
        )
    return raw


@given(requests())
@example(head(*LINES) + BODY)
def test_what_is_taken_aiohttp_takes_and_reads_alike(raw: bytes) -> None:
    agrees_with_aiohttp(raw)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_are_taken_and_refused_by_aiohttp(noise: bytes) -> None:
    agrees_with_aiohttp(head("Host: a", "Content-Length: 4")[:-4] + noise + END + BODY)


def agrees_with_aiohttp(raw: bytes) -> None:
    """Where `read_ordinary` takes it. What follows the body does not belong to it, for either."""
    end = raw.find(END) + len(END)
    read = read_ordinary(raw[:end])
    if read is None:
        return
    body = raw[end : end + read.length]
    taken = list(parsed(raw[:end] + body))
    assert len(taken) == 1
    message, theirs = taken[0]
    assert (message.method, message.path, message.version) == ("POST", read.raw_path, HttpVersion11)
    assert not message.should_close
    assert not message.upgrade
    assert not message.chunked
    assert message.compression is None
    headers = [(name.lower(), value) for name, value in message.headers.items()]  # it has spellings of its own
    headers.remove(("content-length", str(read.length)))
    assert headers == [(name.lower(), value) for name, value in read.headers]
    assert theirs == body


def parsed(raw: bytes) -> Iterator[tuple[RawRequestMessage, bytes]]:
    """What aiohttp's server makes of it. Raises where it refuses."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, payload_exception=RequestPayloadError)
        messages, upgraded, tail = parser.feed_data(raw)
        assert not upgraded
        assert not tail
        for message, payload in messages:
            yield message, payload.read_nowait() if payload.total_bytes else b""
    finally:
        loop.close()


def test_aiohttp_refuses_what_it_should_here() -> None:
    """So that the comparison compares with the parser that serves."""
    with pytest.raises(HttpProcessingError):
        list(parsed(UNUSUAL["two lengths"] + BODY))
