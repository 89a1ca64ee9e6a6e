"""What is left out of a long text, and what must not be."""

from __future__ import annotations

from each import each

from proxy.wire.thin import Cuts, thinned

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
