"""JSON by two readers, which take and refuse the same."""

from __future__ import annotations

import pytest
from each import each

from proxy.wire import json_text

HALF = b'"half": "\\ud83d"'  # what makes the standard library read it

REFUSED = {
    "a byte-order mark": b"\xef\xbb\xbf{%b}",
    "an encoded half of a pair": b'{"x": "\xed\xa0\x80", %b}',
    "a byte of no character": b'{"x": "\xff", %b}',
    "an overlong one": b'{"x": "\xc0\xaf", %b}',
    "no number": b'{"x": NaN, %b}',
    "a number without end": b'{"x": -Infinity, %b}',
    "a number beyond all": b'{"x": 1e999, %b}',
    "an integer beyond all": b'{"x": ' + b"9" * 5_000 + b", %b}",
    "a control character": b'{"x": "\x01", %b}',
    "two documents": b"{%b} {}",
    "nesting past all sense": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b", %b}",
}


@each("text", REFUSED.values(), ids=REFUSED)
@each("more", [b'"half": "h"', HALF], ids=["without a lone surrogate", "with one"])
def test_what_is_no_json_is_refused_by_both(text: bytes, more: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        json_text.read(text.replace(b"%b", more))


def test_a_lone_surrogate_is_read_and_written_as_its_escape() -> None:
    read = json_text.read(b"{%b}" % HALF)
    assert read == {"half": "\ud83d"}
    assert json_text.write(read) == b'{"half":"\\ud83d"}'
