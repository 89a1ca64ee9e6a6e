"""What is left out of a long text, and what must not be."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise

import orjson
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.parted import Parted
from proxy.wire.thin import KEPT, PIECE, STEP, Cuts, Light, lightened, stretched, thinned

LONG = b"aBcD" * 8

TEXTS: dict[str, tuple[bytes, bytes]] = {
    "nothing long": (b'{"a":"b"}', b'{"a":"b"}'),
    "a long string": (b'{"a":"%b","b":1}' % LONG, b'{"a":"aBcD","b":1}'),
    "several": (b'["%b","x","%b"]' % (LONG, LONG), b'["aBcD","x","aBcD"]'),
    "brackets and blanks outside": (b'["a",%b"b"]' % (b"[12, 3],\n" * 8), b'["a",%b"b"]' % (b"[12, 3],\n" * 8)),
    "digits that may stand outside": (b'{"a":"%b"}' % (b"1234" * 8), b'{"a":"%b"}' % (b"1234" * 8)),
    "backslashes up to the quote": (b'{"a":"xy%b"}' % (b"\\" * 32), b'{"a":"xy%b"}' % (b"\\" * 32)),
    "an escaped quote behind": (b'{"a":"%b\\"xy"}' % LONG, b'{"a":"aBD\\"xy"}'),
    "no second quote": (b'{"a":"%b' % LONG, b'{"a":"%b' % LONG),
}  # fmt: skip


@each(("text", "left"), TEXTS.values(), ids=TEXTS)
def test_the_middle_of_a_long_string_is_left_out(text: bytes, left: bytes) -> None:
    thin, cuts = thinned(text, step=8, kept=2)
    assert thin == left
    assert bool(cuts) == (text != left)
    assert cuts.place(0) == 0
    assert cuts.place(len(thin)) == len(text)


def test_a_place_behind_a_cut_is_further_on_by_what_was_left_out() -> None:
    cuts = Cuts([3, 10], [100, 1000])
    assert [cuts.place(at) for at in (0, 3, 4, 10, 11)] == [0, 3, 104, 110, 1111]


def light(body: bytes, *borders: int) -> Light | None:
    """Of a body that came in parts."""
    edges = sorted({0, len(body), *(border for border in borders if 0 < border < len(body))})
    return lightened(Parted([body[start:end] for start, end in pairwise(edges)] or [body]))


PICTURE = b"iVBORw0KGgo+/" * 4000
LIGHT: dict[str, tuple[bytes, bool]] = {
    "a picture": (b'{"a":"%b"}' % PICTURE, True),
    "two of them, and words": (b'{"a":"%b","b":["%b","\xc3\xa4 \\n"]}' % (PICTURE, PICTURE), True),
    "a picture in data of its own kind": (b'{"url":"data:image/png;base64,%b"}' % PICTURE, True),
    "mostly other things": (b'{"a":"%b","b":[%b1]}' % (PICTURE, b"1," * 20_000), False),
    "letters beyond ASCII": (b'{"a":"%b\xc3\xa4%b"}' % (PICTURE, PICTURE), False),
    "half a letter": (b'{"a":"%b\xc3%b"}' % (PICTURE, PICTURE), False),
    "an escape": (b'{"a":"%b\\n%b"}' % (PICTURE, PICTURE), False),
    "a control character": (b'{"a":"%b\n%b"}' % (PICTURE, PICTURE), False),
    "an escape that is cut": (b'{"a":"%b\\%b"}' % (b"x" * (KEPT - 1), PICTURE), False),
    "an escape at its end": (b'{"a":"%b\\n"}' % PICTURE, False),
    "digits that may stand outside, before it": (b'{"a":"%b%b"}' % (b"1" * (STEP + KEPT), PICTURE), True),
    "a list of numbers beside it": (b'{"a":"%b","b":[%b1]}' % (PICTURE, b"1," * STEP), True),
    "nothing": (b"", False),
    "no string's end": (b'{"a":"%b' % PICTURE, False),
}


@each(("body", "goes"), LIGHT.values(), ids=LIGHT)
def test_a_body_is_read_lightly_if_what_is_left_out_says_itself(body: bytes, goes: bool) -> None:
    found = light(body)
    assert (found is not None) == goes
    if found is not None:
        _, text, cuts = found
        whole = json.loads(body)
        assert json.loads(text).keys() == whole.keys()
        elsewhere = b"data:" in body or b"11" in body  # than where the picture begins and ends
        assert elsewhere or text == body.replace(PICTURE, b"%b%b" % (PICTURE[:KEPT], PICTURE[-KEPT:]))
        assert _put_together(text, cuts, body) == body
        for since, until in cuts.spans():
            assert body[since:until] in PICTURE
        longer = json.loads(stretched(text, cuts))
        assert json.dumps(longer).count("A") > json.dumps(json.loads(text)).count("A")


def test_no_byte_is_passed_over_where_pieces_meet() -> None:
    body = b'{"a":"%b"}' % (b"x" * (2 * PIECE))
    assert light(body) is not None
    borders = 6, 8, PIECE, 2 * PIECE, len(body) - KEPT - 2
    for at in [border + off for border in borders for off in (-1, 0, 1) if 6 <= border + off < len(body) - KEPT - 2]:
        bad = b"%b\n%b" % (body[:at], body[at + 1 :])
        for border in (at - 1, at, at + 1, PIECE - 1, PIECE + 1):
            assert light(bad, border) is None, (at, border)


SAID = [b"x" * STEP, b"y", b"\\", b"\\n", b'\\"', b"\n", b"\xc3", b"\xc3\xa4", b"\x7f"]


@given(st.lists(st.sampled_from(SAID), max_size=7))
def test_what_is_read_lightly_is_json_if_the_whole_is(pieces: list[bytes]) -> None:
    body = b'{"a":"%b"}' % b"".join(pieces)
    found = light(body)
    if found is not None:
        assert _is_json(found.text) == _is_json(body)
        assert _put_together(found.text, found.cuts, body) == body


@given(st.lists(st.sampled_from([*SAID, b'"', b'","b":"', b"7" * STEP, b"[ 1,"]), max_size=9), st.data())
def test_it_does_not_matter_where_a_body_came_in_parts(pieces: list[bytes], data: st.DataObject) -> None:
    """Within a letter, an escape, what is kept of a string, or a step."""
    body = b'{"a":"%b"}' % b"".join(pieces)
    seams = [6, *accumulate(map(len, pieces), initial=6), *range(0, len(body), STEP)]
    near = st.builds(int.__add__, st.sampled_from(seams), st.integers(-KEPT - 2, KEPT + 2))
    borders = data.draw(st.lists(near | st.integers(1, len(body)), max_size=5))
    found, one = light(body, *borders), light(body)
    assert (found is None) == (one is None)
    if found is not None and one is not None:
        assert found.body.whole() == body
        assert found.text == one.text
        assert [*found.cuts.spans()] == [*one.cuts.spans()]


def _put_together(thin: bytes, cuts: Cuts, body: bytes) -> bytes:
    parts, begun = list[bytes](), 0
    for at, (since, until) in zip(cuts.at, cuts.spans(), strict=True):
        parts += (thin[begun:at], body[since:until])
        begun = at
    return b"".join((*parts, thin[begun:]))


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True
