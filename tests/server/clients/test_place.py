"""Where aiohttp's parser stands behind what it was given."""

from __future__ import annotations

from typing import Any

from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from each import each
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.server.clients.place import Place


def test_a_parsers_place_is_known_as_long_as_it_was_cut_that_way() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for cut in range(1, len(raw)):
        place = Place()
        assert place.cut(raw[:cut]) == (raw[:cut], b"")
        assert (place.head_ended, place.between()) == (False, False)
        assert place.cut(raw[cut:] + b"POST") == (raw[cut:], b"POST")
        assert (place.head_ended, place.between()) == (True, True)


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
UNKNOWN = {
    "a line that ends in a line feed alone": (HEAD.replace(b"a\r", b"a"), {}),
    "a first line that does": (HEAD.replace(b"1.1\r", b"1.1"), {}),
    "a chunked body": (HEAD, {"chunked": True}),
    "an upgrade to what aiohttp speaks": (
        HEAD, {"upgrade": True, "headers": CIMultiDictProxy(CIMultiDict({"upgrade": "WebSocket"}))},
    ),
    "a tunnel": (HEAD, {"method": "CONNECT"}),
    "a transfer coding": (HEAD, {"headers": CIMultiDictProxy(CIMultiDict({"transfer-encoding": "identity"}))}),
}  # fmt: skip
MESSAGE = RawRequestMessage(
    "POST", "/", HttpVersion11, CIMultiDictProxy(CIMultiDict({"content-length": "3"})), (), False, None, False, False,
    URL("/"),
)  # fmt: skip


def test_behind_a_head_stand_as_many_bytes_as_it_says() -> None:
    place = Place()
    assert place.cut(HEAD + b"abcd") == (HEAD, b"abcd")
    assert place.follows(MESSAGE)
    assert place.cut(b"ab") == (b"ab", b"")
    assert not place.between()
    assert place.cut(b"cd") == (b"c", b"d")
    assert place.between()


@each(("raw", "differs"), UNKNOWN.values(), ids=UNKNOWN)
def test_behind_some_heads_nothing_is_known(raw: bytes, differs: dict[str, Any]) -> None:
    place = Place()
    place.cut(raw)
    assert not place.follows(MESSAGE._replace(**differs))
