"""A head that is known by its shape is the one that reading it line by line gives; whatever is odd is left to that."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter

from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.answer_head import BadHttp, read_head
from proxy.wire.head_shape import ENOUGH, LARGEST, MOST, Shapes

OK = b"HTTP/1.1 200 OK\r\n"
fields = attrgetter("status", "headers", "framing", "length", "reusable")

# As providers write them, with a number in what differs from one answer to the next.
WAYS: dict[str, list[str]] = {
    "of a plain answer": [
        "Date: Thu, 14 Aug 2025 01:16:{:02} GMT",
        "Content-Type: application/json",
        "Content-Length: {}",
        "Connection: keep-alive",
        "openai-processing-ms: {}",
        "x-ratelimit-limit-requests: 500",
        "x-ratelimit-remaining-tokens: {}",
        "x-ratelimit-reset-tokens: {}ms",
        "x-request-id: req_fa83d58286d5428b{:08}",
        "cf-cache-status: DYNAMIC",
        "set-cookie: __cf_bm=abc{:08}; path=/; HttpOnly",
        "set-cookie: _cfuvid=x{:04}%; path=/",
        "CF-RAY: {:016x}-KUL",
        'alt-svc: h3=":443"; ma=86400',
    ],
    "of a stream": [
        "Date: Sun, 05 Apr 2026 10:23:{:02} GMT",
        "Content-Type: text/event-stream; charset=utf-8",
        "Transfer-Encoding: chunked",
        "anthropic-ratelimit-tokens-remaining: {}",
        "request-id: req_011CZkTfpqPn{:09}",
        "via: 1.1 google",
        "server: x",
    ],
    "with a date and no more": ["date: Sun, 23 Nov 2025 21:57:{:02} GMT", "server: uvicorn", "content-length: 98{}"],
}


def written(way: list[str], number: int) -> bytes:
    return OK + "\r\n".join(line.format(number) for line in way).encode()


def learnt(way: list[str]) -> Shapes:
    shapes = Shapes()
    for number in range(10, 10 + ENOUGH):
        raw = written(way, number)
        assert shapes.knows(raw) is None
        shapes.learn(raw, read_head(raw))
    return shapes


KNOWN = {name: learnt(way) for name, way in WAYS.items()}


@each(("name", "number"), [(name, number) for name in WAYS for number in (0, 17, 99, 10**9)])
def test_a_head_like_others_is_what_reading_it_gives(name: str, number: int) -> None:
    raw = written(WAYS[name], number)
    head = KNOWN[name].knows(raw)
    assert head is not None
    assert fields(head) == fields(read_head(raw))


CHANGES: dict[str, tuple[bytes, bytes]] = {
    "another status": (b"200 OK", b"500 OK"),
    "another version": (b"HTTP/1.1", b"HTTP/1.0"),
    "a bare LF in a value": (b"GMT", b"G\nT"),
    "a line more by a bare LF": (b"GMT", b"GMT\nContent-Length: 1"),
    "a bare CR in a value": (b"GMT", b"G\rT"),
    "a line more": (b"GMT", b"GMT\r\nX: y"),
    "a second length": (b"GMT", b"GMT\r\nContent-Length: 1"),
    "a second length in the place of a line": (b"server: uvicorn", b"content-length: 980"),
    "a folded line": (b"GMT\r\n", b"GMT\r\n "),
    "a folded line within a value": (b"Thu, 14", b"Thu,\r\n 14"),
    "NUL in a value": (b"GMT", b"G\0T"),
    "DEL in a value": (b"GMT", b"G\x7fT"),
    "a tab in a value": (b"GMT", b"G\tT"),
    "a letter that is not ASCII": (b"GMT", b"G\xc3\xa9T"),
    "a blank before the colon": (b"ate:", b"ate :"),
    "no blank behind it": (b"ate: ", b"ate:"),
    "two blanks behind it": (b"ate: ", b"ate:  "),
    "a blank at the end": (b"GMT\r\n", b"GMT \r\n"),
    "no value": (b"uvicorn", b""),
    "a long value": (b"GMT", b"GMT" + b"x" * 2000),
    "a name in other letters": (b"Date", b"DaTe"),
    "another type": (b"application/json", b"application/jsom"),
    "a connection that closes": (b"keep-alive", b"close     "),
    "a connection that closes, as long": (b"keep-alive", b"close,xxxx"),
    "another coding": (b"chunked", b"chunkee"),
    "a length of hexadecimal digits": (b"ngth: ", b"ngth: 0x"),
    "a signed length": (b"ngth: ", b"ngth: +"),
    "a length of too many digits": (b"ngth: ", b"ngth: " + b"0" * 20),
    "a length with a blank in it": (b"ngth: ", b"ngth: 1 "),
    "two lengths in one": (b"ngth: ", b"ngth: 1, "),
    "two lines that change places": (b"via: 1.1 google\r\nserver: x", b"server: x\r\nvia: 1.1 google"),
    "a line end too many": (b"\r\nserver", b"\r\n\r\nserver"),
    "an interim answer": (b"200 OK", b"100 Continue"),
}  # fmt: skip


@each("change", CHANGES.values(), ids=CHANGES)
def test_an_odd_head_is_left_to_be_read(change: tuple[bytes, bytes]) -> None:
    changed = 0
    for name, way in WAYS.items():
        good = written(way, 10)
        raw = good.replace(*change)
        changed += raw != good
        assert raw == good or KNOWN[name].knows(raw) is None
    assert changed


NASTY = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b": ",
    b"%b",
    b"%",
    b"1",
    b"a",
    b"\xff",
    b"\x7f",
    b"Content-Length: 1\r\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A head of one of the shapes after a few cuts, copies and pieces put in."""
    name = draw(st.sampled_from(sorted(WAYS)))
    raw = written(WAYS[name], draw(st.integers(0, 10**6)))
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(raw))), draw(st.integers(0, 12))
        put = draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=3), st.just(raw[at : at + size] * 2)))
        raw = raw[:at] + put + raw[at + size :]
    return name, raw


@given(case=mutated())
def test_what_a_shape_knows_is_what_reading_it_gives(case: tuple[str, bytes]) -> None:
    name, raw = case
    head = KNOWN[name].knows(raw)
    assert head is None or fields(head) == fields(read_head(raw))


@given(values=st.lists(st.text(st.characters(max_codepoint=255), min_size=1, max_size=9), min_size=1, max_size=6))
def test_a_shape_holds_whatever_values_differ(values: list[str]) -> None:
    shapes = Shapes()
    for value in values:
        raw = OK + f"X-One: {value}\r\nContent-Length: 3\r\nX-Two: %b {value}".encode("latin-1")
        known = shapes.knows(raw)
        with suppress(BadHttp):
            read = read_head(raw)
            assert known is None or fields(known) == fields(read)
            shapes.learn(raw, read)
            continue
        assert known is None


def test_a_line_that_begins_to_differ_later_is_learnt() -> None:
    way, shapes = [*WAYS["of a stream"], "x-model: one"], learnt([*WAYS["of a stream"], "x-model: one"])
    other = written([*way[:-1], "x-model: two"], 20)
    assert shapes.knows(other) is None
    shapes.learn(other, read_head(other))
    for model in ("one", "two", "three"):
        raw = written([*way[:-1], f"x-model: {model}"], 21)
        head = shapes.knows(raw)
        assert head is not None
        assert head.headers["x-model"] == model


UNLEARNT: dict[str, bytes] = {
    "an error": b"HTTP/1.1 429 Too Many Requests\r\nDate: {}\r\nContent-Length: 2",
    "what the connection's end ends": OK + b"Date: {}",
    "no blank behind a colon": OK + b"Date:{}\r\nContent-Length: 2",
    "a large one": OK + b"Date: {}\r\nContent-Length: 2" + b"\r\nX-Long: " + b"x" * LARGEST,
}


@each("form", UNLEARNT.values(), ids=UNLEARNT)
def test_of_some_heads_there_is_no_shape(form: bytes) -> None:
    shapes = Shapes()
    for number in range(ENOUGH + 2):
        raw = form.replace(b"{}", b"%d" % number)
        assert shapes.knows(raw) is None
        shapes.learn(raw, read_head(raw))


def test_shapes_that_are_kept_are_few() -> None:
    shapes = Shapes()
    for name in range(3 * MOST):
        for number in range(ENOUGH):
            raw = OK + b"X-%d: %d\r\nContent-Length: 2" % (name, number)
            shapes.learn(raw, read_head(raw))
    assert 0 < sum(map(len, shapes._told.values())) <= len(shapes._kin) <= MOST


def test_the_latest_shape_is_looked_at_first() -> None:
    shapes, ways = Shapes(), [["Date: {}", f"X-{name}: {{}}", "Content-Length: 2"] for name in "abc"]
    for way in ways:
        for number in range(ENOUGH):
            raw = written(way, number)
            shapes.learn(raw, read_head(raw))
    for way in (*ways, *ways[::-1]):
        head = shapes.knows(written(way, 9))
        assert head is not None
        assert shapes._told[OK + b"Date"][0] is head.shape
