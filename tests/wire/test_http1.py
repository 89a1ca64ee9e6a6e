"""Answers of providers, byte by byte: what is read, and what is refused since two readers might read it differently."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import answer_head, http1
from proxy.wire.answer_head import LARGEST_HEAD, LONGEST_LINE, MOST_HEADERS, MOST_HEADS, BadHttp, _heads
from proxy.wire.head_shape import Shapes
from proxy.wire.http1 import LONGEST_HEAD, MOST_INTERIM, Parser, _wholes, all_of, begun, chunks_of, whole

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read(raw: bytes, size: int = 1 << 30) -> tuple[Parser, bytes]:
    parser, body = Parser(), b""
    for at in range(0, len(raw), size):
        body += parser.feed(raw[at : at + size])
    return parser, body


WHOLE: dict[str, tuple[bytes, bytes, bool]] = {
    "a length": (OK + b"Content-Length: 2\r\n\r\nok", b"ok", True),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "nothing by its status": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "nothing by its status, and a length": (OK.replace(b"200", b"204") + b"Content-Length: 2\r\n\r\n", b"", False),
    "nothing by its status, and a coding": (CHUNKED.replace(b"200", b"204"), b"", False),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
    "chunks": (CHUNKED + b"2\r\nok\r\n0B\r\n, and more.\r\n0\r\n\r\n", b"ok, and more.", True),
    "chunks with line ends in them": (CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", True),
    "extensions": (CHUNKED + b"2;a=b\r\nok\r\n0 ;c\r\n\r\n", b"ok", True),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX: 1\r\nY: 2\r\n\r\n", b"ok", True),
    "trailers that look like a chunk": (CHUNKED + b"2\r\nok\r\n0\r\n2\r\nno\r\n\r\n", b"ok", True),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
        + b"Content-Length: 2\r\n\r\nok", b"ok", True,
    ),
    "a connection that closes": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "an old version": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "an old version that stays": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True,
    ),
    "a length beside a coding": (
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False,
    ),
}  # fmt: skip
BODIES = [(raw, body) for raw, body, _ in WHOLE.values()]


@each("size", [1, 2, 3, 7, 1 << 30])
@each(("raw", "body", "reusable"), WHOLE.values(), ids=WHOLE)
def test_an_answer_is_read_however_it_is_cut(raw: bytes, body: bytes, reusable: bool, size: int) -> None:
    parser, got = read(raw, size)
    assert (got, parser.done, parser.surplus) == (body, True, False)
    assert parser.head is not None
    assert parser.head.reusable == reusable


KNOWN = OK + b"Content-Length: 2\r\nX-Known: yes\r\n\r\n"
AS_LONG_AS_ITS_BODY = (OK + b"Content-Length: 98\r\nX-Known: ").ljust(100, b"y") + b"\r\n\r\n"
FIRST_READS: dict[str, tuple[bytes, bytes | None]] = {
    "all of it": (KNOWN + b"ok", b"ok"),
    "half of its body": (KNOWN + b"o", None),
    "more than its body": (KNOWN + b"ok!", None),
    "the head alone": (KNOWN, None),
    "half a head": (KNOWN[:-2], None),
    "a head less its last bytes, about as long as its body": (AS_LONG_AS_ITS_BODY[:-3], None),
    "a head that never came": (KNOWN.replace(b"yes", b"no") + b"ok", None),
    "chunks": (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", None),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", None),
}


@each(("raw", "body"), FIRST_READS.values(), ids=FIRST_READS)
def test_a_whole_answer_is_known_by_a_head_that_came_before(raw: bytes, body: bytes | None) -> None:
    with pytest.MonkeyPatch.context() as patch:  # other tests' heads may have been like these
        patch.setattr(answer_head, "_heads", {})
        patch.setattr(answer_head, "_shapes", Shapes())
        patch.setattr(http1, "_wholes", type(_wholes)())
        for before in (KNOWN + b"no", AS_LONG_AS_ITS_BODY + b"x" * 98, CHUNKED, OK + b"Content-Length: 0\r\n\r\n"):
            read(before)
        came = whole(raw)
    assert (came and came[1]) == body
    if came is not None:
        assert (came[0].head is not None, came[0].done, came[0].surplus) == (True, True, False)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
GIVEN_TO_THE_PARSER: dict[str, bytes] = {
    "half a head": STREAM_HEAD,
    "a body of a length": b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "no end": STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n",
    "half an end": STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n0\r\n",
    "trailers": STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n0\r\na: b\r\n\r\n",
    "bytes behind the end": STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n0\r\n\r\n",
    "a size that has not come before": STREAM_HEAD + b"\r\n\r\n0002\r\nab\r\n0\r\n\r\n",
    "a size that is too large": STREAM_HEAD + b"\r\n\r\n3\r\nab\r\n0\r\n\r\n",
    "a size that is too small": STREAM_HEAD + b"\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "a line end within a chunk": STREAM_HEAD + b"\r\n\r\n4\r\na\r\nb\r\n0\r\n\r\n",
}


@each("raw", GIVEN_TO_THE_PARSER.values(), ids=GIVEN_TO_THE_PARSER)
def test_only_what_is_plainly_all_of_a_chunked_answer_goes_past_the_parser(raw: bytes) -> None:
    for size in (b"2", b"3", b"4"):
        Parser().feed(STREAM_HEAD + b"\r\n\r\n%b\r\n%b\r\n" % (size, b"x" * int(size)))
    assert all_of(raw) is None


def test_all_of_a_chunked_answer_is_what_the_parser_finds() -> None:
    raw = STREAM_HEAD + b"\r\n\r\n2\r\nab\r\n3\r\nc\rd\r\n0\r\n\r\n"
    parser = Parser()
    body = parser.feed(raw)
    found = all_of(raw)
    assert found is not None
    assert (found[0], b"".join(found[1])) == (parser.head, body)


TWO = b"2\r\nab\r\n3\r\nabc\r\n"
PIECES: dict[str, tuple[bytes, tuple[list[bytes], bool] | None]] = {
    "chunks": (TWO, ([b"ab", b"abc"], False)),
    "the last ones": (TWO + b"0\r\n\r\n", ([b"ab", b"abc"], True)),
    "the end": (b"0\r\n\r\n", ([], True)),
    "nothing": (b"", ([], False)),
    "half an end": (TWO + b"0\r\n", None),
    "an end without its line end": (TWO + b"0", None),
    "trailers": (TWO + b"0\r\na: b\r\n\r\n", None),
    "bytes behind the end": (TWO + b"0\r\n\r\n" + TWO, None),
    "half a chunk": (TWO + b"4\r\nab", None),
    "half a size": (TWO + b"4", None),
    "a size without a chunk": (TWO + b"4\r\n", None),
    "a size that is too large": (b"4\r\nab\r\n", None),
    "a size that is too small": (b"2\r\nabc\r\n", None),
    "the rest of a chunk": (b"b\r\n" + TWO, None),
    "a line end within a chunk": (b"4\r\na\r\nb\r\n", ([b"a\r\nb"], False)),
    "a size that has not come before": (b"00002\r\nab\r\n", None),
    "a chunk that looks like the end": (TWO + b"1\r\n0\r\n\r\n", None),
}


@each(("body", "chunks"), PIECES.values(), ids=PIECES)
def test_chunks_are_found_past_the_parser_where_they_are_whole_and_of_known_sizes(
    body: bytes, chunks: tuple[list[bytes], bool] | None
) -> None:
    for size in range(1, 6):
        Parser().feed(STREAM_HEAD + b"\r\n\r\n%x\r\n%b\r\n" % (size, b"x" * size))
    found = chunks_of(body)
    assert found == chunks
    head = begun(STREAM_HEAD + b"\r\n\r\n" + body)
    assert head is not None
    assert head[1] == body
    if found is not None:
        behind, parser = Parser(head[0], done=found[1], framing="chunked"), Parser()
        assert parser.feed(STREAM_HEAD + b"\r\n\r\n" + body) == b"".join(found[0])
        assert behind.at_border == parser.at_border
        assert (behind.head, behind.done, behind.surplus) == (parser.head, parser.done, parser.surplus)


NO_BEGINNING: dict[str, bytes] = {
    "a head without the line behind it": STREAM_HEAD,
    "the same with a line end": STREAM_HEAD + b"\r\n",
    "half a head": STREAM_HEAD[:-3],
    "a head that did not come before": STREAM_HEAD + b"\r\nX-Never: 1\r\n\r\n",
    "a body of a length": OK + b"Content-Length: 2\r\n\r\nok",
    "no head": b"\r\n\r\n",
}


@each("raw", NO_BEGINNING.values(), ids=NO_BEGINNING)
def test_only_a_head_that_came_before_and_is_whole_goes_past_the_parser(raw: bytes) -> None:
    Parser().feed(STREAM_HEAD + b"\r\n\r\n")
    Parser().feed(OK + b"Content-Length: 2\r\n\r\nok")
    assert begun(raw) is None


def test_heads_that_are_kept_are_few_and_short() -> None:
    for number in range(3 * MOST_HEADS):
        read(OK + b"X-Number: %d\r\nContent-Length: 2\r\n\r\nok" % number)
        assert whole(OK + b"X-Number: %d\r\nContent-Length: 2\r\n\r\nok" % number) is not None
        read(OK + b"X-Number: %d\r\nX-Long: %b\r\nContent-Length: 2\r\n\r\nok" % (number, b"x" * LARGEST_HEAD))
    assert 0 < len(_wholes) <= MOST_HEADS
    assert 0 < len(_heads) <= MOST_HEADS
    assert max(map(len, _heads)) <= LARGEST_HEAD


@each(("raw", "body"), BODIES, ids=WHOLE)
def test_an_answer_is_read_whichever_two_places_it_is_cut_at(raw: bytes, body: bytes) -> None:
    for first, second in combinations(range(1, len(raw)), 2):
        parser = Parser()
        got = b"".join(map(parser.feed, (raw[:first], raw[first:second], raw[second:])))
        assert (got, parser.done) == (body, True)


@each(("raw", "body"), BODIES, ids=WHOLE)
def test_what_is_cut_off_is_not_whole(raw: bytes, body: bytes) -> None:
    for end in range(len(raw)):
        parser, got = read(raw[:end])
        assert not parser.done
        assert not parser.close()
        assert body.startswith(got)


@each(("raw", "body"), BODIES, ids=WHOLE)
@each("size", [1, 1 << 30])
def test_what_stands_behind_an_answer_is_none_of_it(raw: bytes, body: bytes, size: int) -> None:
    parser, got = read(raw + b"HTTP/1.1 200 OK\r\n", size)
    assert (got, parser.surplus) == (body, True)


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    parser, body = read(OK + b"\r\nall of it", 3)
    assert (body, parser.done) == (b"all of it", False)
    assert parser.close()
    assert parser.head is not None
    assert not parser.head.reusable


def test_names_are_lower_case_and_the_last_value_counts() -> None:
    parser, _ = read(OK + b"X-A: 1\r\nx-a:\t2 \r\nX-Empty:\r\nContent-Length: 0\r\n\r\n")
    assert parser.head is not None
    assert parser.head.headers == {"x-a": "2", "x-empty": "", "content-length": "0"}


BAD: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "another version": b"HTTP/2 200\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a control byte in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "bare line ends": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a bare line end in a header": OK + b"X: a\nContent-Length: 0\r\n\r\n",
    "a bare CR in a header": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "a folded header": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a blank before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "no name": OK + b": a\r\n\r\n",
    "a NUL": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length twice": OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": OK + b"Content-Length: 1, 1\r\n\r\na",
    "a length with a sign": OK + b"Content-Length: +1\r\n\r\na",
    "a length with an underscore": OK + b"Content-Length: 1_0\r\n\r\na",
    "a length in other digits": OK + "Content-Length: ١\r\n\r\na".encode(),
    "two codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding that is nearly one": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in an old version": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another protocol to change to": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "interim answers without an end": b"HTTP/1.1 100 Continue\r\n\r\n" * (MOST_INTERIM + 1),
    "too many headers": OK + b"X: 1\r\n" * (MOST_HEADERS + 1) + b"\r\n",
    "a header that is too long": OK + b"X: " + b"a" * LONGEST_LINE + b"\r\n\r\n",
    "a head without an end": OK + b"X: " + b"a" * LONGEST_HEAD,
    "no size": CHUNKED + b"\r\nok\r\n",
    "a size that is none": CHUNKED + b"zz\r\nok\r\n",
    "a size with a sign": CHUNKED + b"+2\r\nok\r\n",
    "a size with a prefix": CHUNKED + b"0x2\r\nok\r\n",
    "a size with an underscore": CHUNKED + b"1_0\r\n0123456789abcdef\r\n",
    "a size with a blank before it": CHUNKED + b" 2\r\nok\r\n",
    "a size that is too large": CHUNKED + b"1" + b"0" * 16 + b"\r\nok\r\n",
    "a size ended by LF": CHUNKED + b"2\nok\r\n0\r\n\r\n",
    "a chunk that goes on": CHUNKED + b"2\r\nok!\r\n0\r\n\r\n",
    "a chunk ended by LF": CHUNKED + b"2\r\nok\n0\r\n\r\n",
    "an extension without an end": CHUNKED + b"2;" + b"a" * 5000,
    "trailers without an end": CHUNKED + b"0\r\n" + b"X: 1\r\n" * 1000,
}


@each("size", [1, 5, 1 << 30])
@each("raw", BAD.values(), ids=BAD)
def test_what_could_be_read_in_two_ways_is_refused(raw: bytes, size: int) -> None:
    with pytest.raises(BadHttp) as raised:
        read(raw, size)
    assert "nonsense" not in str(raised.value)


@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8), size=st.integers(1, 60))
def test_a_body_in_chunks_comes_out_as_it_went_in(chunks: list[bytes], size: int) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    parser, body = read(CHUNKED + raw + b"0\r\n\r\n", size)
    assert (body, parser.done) == (b"".join(chunks), True)


def told(raw: bytes, size: int) -> tuple[bytes, bool, bool] | bytes:
    """Where it is refused, what came of the body before that."""
    parser, body = Parser(), b""
    try:
        for at in range(0, len(raw), size):
            body += parser.feed(raw[at : at + size])
    except BadHttp as exc:
        return body + exc.body
    return body, parser.done, parser.surplus


pieces = st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"2", b"3", b"ok", b"a\rb", b"\r\n\r", b";x"])
chunks_like = st.sampled_from(
    [b"2\r\nok\r\n", b"3\r\nall\r\n", b"4\r\n\r\n\r\n\r\n", b"3\r\na\rb\r\n", b"3;x\r\nall\r\n"]
)


@given(
    before=st.lists(chunks_like, max_size=12),
    odd=st.lists(pieces, max_size=4),
    behind=st.lists(chunks_like, max_size=12),
    end=st.sampled_from([b"", b"0\r\n\r\n", b"2", b"2\r", b"2\r\nok", b"2\r\nok\r"]),
    size=st.integers(2, 80),
)
def test_many_chunks_at_once_are_what_they_are_byte_by_byte(
    before: list[bytes], odd: list[bytes], behind: list[bytes], end: bytes, size: int
) -> None:
    read(CHUNKED + b"2\r\nok\r\n3\r\nall\r\n4\r\nall!\r\n3;x\r\nall\r\n")  # their sizes are known from now on
    raw = CHUNKED + b"".join((*before, *odd, *behind, end))
    assert told(raw, 1 << 30) == told(raw, size) == told(raw, 1)


@each("size", [1, 3, 10, 1 << 30])
@each("broken", [b"zz\r\n", b"\r\n", b"-1\r\nok\r\n", b"2;" + b"a" * 5000, b"2\nok", b"0\r\n" + b"X: 1\r\n" * 1000])
@each("good", [0, 1, 3, 30])
def test_what_came_before_a_break_is_told_with_it(good: int, broken: bytes, size: int) -> None:
    assert told(CHUNKED + b"3\r\nall\r\n" * good + broken, size) == b"all" * good


@each("enough", [0, 1, 60, 100, 190, 1000])
def test_it_is_told_where_no_more_is_read_than_shows_the_beginning(enough: int) -> None:
    raw, parser, body, at = CHUNKED + b"64\r\n%b\r\n" % (b"a" * 100) + b"zz\r\n", Parser(), b"", 0
    with suppress(BadHttp):
        while at < len(raw):
            try:
                more, size = parser.feed_some(raw[at:], enough)
            except BadHttp as exc:
                body += exc.body
                raise
            body, at = body + more, at + size
    assert (body, at < len(raw)) == (b"a" * 100, True)


@given(raw=st.binary(max_size=200), size=st.integers(1, 60))
def test_any_bytes_are_read_or_refused(raw: bytes, size: int) -> None:
    for start in (b"", OK, CHUNKED, CHUNKED + b"2\r\nok\r\n"):
        with suppress(BadHttp):
            read(start + raw, size)
