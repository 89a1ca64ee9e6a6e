"""Which heads are read line by line, and which are known before that; what is read is in `test_http1.py`."""

from __future__ import annotations

from operator import attrgetter

import pytest

from proxy.wire import answer_head
from proxy.wire.answer_head import LARGEST_HEAD, MOST_HEADS, BadHttp, head_of, known_head, read_head
from proxy.wire.head_shape import ENOUGH, Shapes

fields = attrgetter("status", "headers", "framing", "length", "reusable")


@pytest.fixture(autouse=True)
def nothing_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_head, "_heads", {})
    monkeypatch.setattr(answer_head, "_shapes", Shapes())


def dated(number: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nDate: %d\r\n%bContent-Length: 2" % (number, more)


def test_a_head_that_came_before_is_the_same_one() -> None:
    assert known_head(dated(1)) is None
    assert known_head(dated(1)) is None, "asked for, and not read"
    head = head_of(dated(1))
    assert known_head(dated(1)) is head
    assert head_of(dated(1)) is head


def test_one_like_others_is_known_and_kept_when_it_comes_again() -> None:
    for number in range(ENOUGH):
        head_of(dated(number))
    first = known_head(dated(100))
    assert first is not None
    assert fields(first) == fields(read_head(dated(100)))
    again = known_head(dated(100))
    assert again is not first
    assert known_head(dated(100)) is again


def test_those_that_never_come_again_push_out_nothing() -> None:
    for number in range(ENOUGH):
        head_of(dated(number))
    kept = head_of(b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2")
    for number in range(100, 100 + 3 * MOST_HEADS):
        head_of(dated(number))
    assert known_head(b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2") is kept


UNKEPT = {
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </a>",
    "a large one": dated(1, b"X-Long: " + b"x" * LARGEST_HEAD + b"\r\n"),
}


@pytest.mark.parametrize("raw", UNKEPT.values(), ids=UNKEPT)
def test_some_are_read_each_time(raw: bytes) -> None:
    for _ in range(2):
        head_of(raw)
    assert known_head(raw) is None


def test_a_bad_one_is_refused_each_time() -> None:
    for number in range(ENOUGH):
        head_of(dated(number))
    for _ in range(2):
        with pytest.raises(BadHttp):
            head_of(dated(9, b"Content-Length: 3\r\n"))
