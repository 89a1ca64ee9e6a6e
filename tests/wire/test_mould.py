"""What a mould takes for a frame of its run, and what it does not."""

from __future__ import annotations

import re

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.mould import Mould, around, written

MOULD = Mould(b'data: {"text":"', b'"}\n\n')


def run(*texts: bytes) -> bytes:
    return b"".join(MOULD.head + text + MOULD.tail for text in texts)


BLOCKS = {
    "nothing": (b"", [], b""),
    "another frame": (b"data: {}\n\n", [], b"data: {}\n\n"),
    "one": (run(b"a"), [b"a"], b""),
    "several": (run(b"a", b"", b"c"), [b"a", b"", b"c"], b""),
    "a run and another frame": (run(b"a", b"b") + b": ping\n\n", [b"a", b"b"], b": ping\n\n"),
    "a run, another frame and more": (
        run(b"a") + b": ping\n\n" + run(b"b"), [b"a"], b": ping\n\n" + run(b"b"),
    ),
    "a frame with another member": (
        run(b"a", b'b","more":"c', b"d"), [b"a"], run(b'b","more":"c', b"d"),
    ),
    "an escaped quote": (run(b"a", b'\\"', b"c"), [b"a", b'\\"', b"c"], b""),
    "a quote behind an escaped backslash": (run(b"a", b'\\\\"', b"c"), [b"a"], run(b'\\\\"', b"c")),
    "a quote behind the backslash of another text": (run(b"a\\", b'"b'), [b"a\\"], run(b'"b')),
    "another frame amid runs": (
        run(b"a", b"b") + b": ping\n\n" + run(b"c", b"d"), [b"a", b"b"], b": ping\n\n" + run(b"c", b"d"),
    ),
    "an end of line": (run(b"a", b"\r", b"c"), [b"a"], run(b"\r", b"c")),
    "a frame that begins alike and ends otherwise": (
        run(b"a") + b'data: {"text":"b"},\n\n', [b"a"], b'data: {"text":"b"},\n\n',
    ),
}  # fmt: skip


@each(("block", "texts", "rest"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_is_cut_into_the_texts_of_its_run(block: bytes, texts: list[bytes], rest: bytes) -> None:
    assert MOULD.cut(block) == (texts, rest)
    assert MOULD.behind(texts, block) == rest


SHORT = Mould(b'{"', b'"}\n')
bits = st.sampled_from(
    [b"a", b"", b'"', b"\\", b'\\"', b"\n", b"\r", b"}", b'"}\n\n', b'data: {"text":"', b": ping\n\n", b'"}\n{"']
)


def one_by_one(mould: Mould, block: bytes) -> tuple[list[bytes], bytes]:
    """What `cut` does, said plainly: a text ends at the first quote without a backslash of its own, and goes over no
    line; one with a backslash at its end is let through, since its frame is no JSON whatever follows."""
    text = rb'((?:[^"\\\n\r]|\\[^\n\r])*?\\?)'
    pattern = re.compile(re.escape(mould.head) + text + re.escape(mould.tail))
    texts, at = [], 0
    while found := pattern.match(block, at):
        texts.append(found[1])
        at = found.end()
    return texts, block[at:]


@pytest.mark.parametrize("mould", [MOULD, SHORT], ids=["as they are", "a short one"])
@given(parts=st.lists(st.tuples(st.booleans(), st.lists(bits, max_size=3)), max_size=7), cut=st.integers(0, 3))
def test_a_run_is_what_its_frames_are_one_by_one(mould: Mould, parts: list[tuple[bool, list[bytes]]], cut: int) -> None:
    block = b"".join(mould.head + b"".join(said) + mould.tail if framed else b"".join(said) for framed, said in parts)
    block = block[: len(block) - cut]
    texts, rest = one_by_one(mould, block)
    assert mould.cut(block) == (texts, rest)
    whole = bool(texts) and not rest
    sound = not any(re.search(rb"(?<!\\)(?:\\\\)*\\\Z", text) for text in texts)  # or else no JSON
    assert mould.holds(block) in (whole, whole and sound)
    assert mould.behind(texts, block) == rest


FRAMES = {
    "plain": (b'data: {"text":"Hi"}\n\n', True),
    "with an event's name": (b'event: a\ndata: {"text":"Hi"}\n\n', True),
    "without the marker": (b"data: {}\n\n", False),
    "with an escape": (b'data: {"text":"a\\nb"}\n\n', False),
    "with CRLF": (b'data: {"text":"Hi"}\r\n\r\n', False),
    "with an id": (b'id: 1\ndata: {"text":"Hi"}\n\n', False),
    "two of them": (b'data: {"text":"a"}\n\ndata: {"text":"b"}\n\n', False),
    "no JSON": (b'data: {"text":"a",}\n\n', False),
}


@each(("raw", "good"), FRAMES.values(), ids=FRAMES)
def test_a_mould_is_made_of_one_frame_of_json(raw: bytes, good: bool) -> None:
    made = around(raw, b'"text":"')
    assert (made is not None) == good
    if made is not None:
        assert made[1] == {"text": "x"}
        assert made[0].head + raw[len(made[0].head) : raw.index(made[0].tail)] + made[0].tail == raw


TEXTS: dict[str, tuple[list[bytes], list[bytes], int]] = {
    "plain": ([b"a", b"bc"], [b"a", b"bc"], 3),
    "beyond ASCII": (["ü😀".encode(), b"c"], ["ü😀".encode(), b"c"], 3),
    "an escape that is none of the writer's": ([b"a", b"\\u00e9", b"\\n"], [b"a", "é".encode(), b"\\n"], 3),
    "nothing": ([b"a", b"", b"c"], [b"a"], 1),
    "half an escape": ([b"a\\", b"n"], [], 0),
    "half a character": ([b"a", "é".encode()[:1], "é".encode()[1:]], [b"a"], 1),
    "half a surrogate pair": ([b"a", b"\\ud83d", b"\\ude00"], [b"a"], 1),
    "a control byte": ([b"a", b"\x01"], [b"a"], 1),
}


@each(("texts", "good", "chars"), TEXTS.values(), ids=TEXTS)
def test_texts_are_written_as_the_json_writer_writes_them(texts: list[bytes], good: list[bytes], chars: int) -> None:
    assert written(texts) == (good, chars)
