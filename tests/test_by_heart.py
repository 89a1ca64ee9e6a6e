"""Reads of translated streams that are told in one step say what they would say if they were read and written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import event
from ways import ENDED, SOURCE, USAGES, WAYS, Way

from proxy import ir
from proxy.dialects import DIALECTS
from proxy.errors import UpstreamError
from proxy.streams import Translation, learnt, recital_of, rote
from proxy.streams.recital import Passage, Stage
from proxy.streams.sums import sums_of
from proxy.wire import http1
from proxy.wire.answer_head import head_of
from proxy.wire.chunked_run import size_line
from proxy.wire.http1 import Parser

HEAD = head_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")
LAST = b"0\r\n\r\n"
PLENTY = 1 << 20
MINE = {name: way for name, way in WAYS.items() if way.theirs.name == "anthropic"}
by_heart = pytest.mark.parametrize("way", MINE.values(), ids=MINE)


@pytest.fixture(autouse=True)
def _nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rote, "_memories", {})
    monkeypatch.setattr(http1, "_sizes", {b"%x" % size: size for size in range(1, 1000)})


def chunked(*bodies: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies)


class Told:
    """One stream as its course on the short way has it: by passages; from the first read on that is none translated."""

    def __init__(self, way: Way, number: int) -> None:
        self.way, self.voice = way, way.voice(number)
        made = recital_of(way.theirs, way.ours, self.voice.model, self.voice.include_usage, self.voice.created)
        assert made is not None
        self.recital = made
        self.stream: Translation | None = None
        self.parser = Parser(HEAD, framing="chunked")
        self.by_heart: list[bool] = []
        self.usage: ir.Usage | None = None
        self.done = False

    def feed(self, read: bytes) -> bytes:
        out = self._recited(read) if self.stream is None else None
        self.by_heart.append(out is not None)
        if out is not None:
            return out
        if self.stream is None:
            self.stream = Translation(self.way.theirs, self.way.ours, self.voice)
            self.stream.catch_up(self.recital, self.parser)
        body = self.parser.feed(read)
        out = self.stream.feed(body) if body else b""
        self.usage, self.done = self.stream.usage, self.stream.done
        return out

    def _recited(self, read: bytes) -> bytes | None:
        recital, retelling = self.recital, self.recital.retelling
        if retelling is not None and (said := retelling.chunk(read, *size_line(len(read)), PLENTY)):
            return Parser(HEAD, framing="chunked").feed(said)
        passage = recital.finds(read)
        if passage is None and (said := recital.says(read, PLENTY)):
            return said
        passage = passage or learnt(recital, self.way.theirs, self.way.ours, read)
        if passage is None:
            return None
        recital.goes_on(passage, read)
        self.done, self.usage = passage.done, recital.usage if passage.done else None
        return recital.out if passage.committed else b""


def told_as_read(way: Way, reads: Sequence[bytes], number: int) -> Told:
    told, parser = Told(way, number), Parser(HEAD, framing="chunked")
    read = Translation(way.theirs, way.ours, way.voice(number), rote=False)
    for data in reads:
        body = parser.feed(data)
        try:
            expected = read.feed(body) if body else b""
        except UpstreamError as exc:
            with pytest.raises(type(exc), match=f"^{re.escape(str(exc))}$"):
                told.feed(data)
            return told
        assert told.feed(data) == expected, data
    assert told.done == read.done
    if read.done:
        assert told.usage == read.usage
    return told


def whole(frames: Sequence[bytes]) -> list[bytes]:
    """The beginning in one read, each text in its own, the end in one."""
    return [chunked(*frames[:3]), *map(chunked, frames[3:-3]), chunked(*frames[-3:]) + LAST]


def alone(frames: Sequence[bytes]) -> list[bytes]:
    return [*map(chunked, frames[:-1]), chunked(frames[-1]) + LAST]


def joined(frames: Sequence[bytes]) -> list[bytes]:
    """Several frames a chunk, the first and the last text with others."""
    return [chunked(b"".join(frames[:4])), *map(chunked, frames[4:-4]), chunked(b"".join(frames[-4:])) + LAST]


def at_once(frames: Sequence[bytes]) -> list[bytes]:
    return [chunked(*frames) + LAST]


READS: dict[str, Callable[[Sequence[bytes]], list[bytes]]] = {
    "as they mostly come": whole,
    "each frame in a read of its own": alone,
    "frames that share a chunk": joined,
}


@by_heart
@pytest.mark.parametrize("reads", [*READS.values(), at_once], ids=[*READS, "all at once"])
def test_a_stream_that_goes_as_others_is_neither_read_nor_written(
    way: Way, reads: Callable[[Sequence[bytes]], list[bytes]]
) -> None:
    way.learn()
    for number, cached in ((5, 0), (1234, 7), (77, 123456), (8, 0)):
        frames = way.frames(number, "Hello", " you", cache_read_input_tokens=cached)
        told = told_as_read(way, reads(frames), number)
        assert all(told.by_heart)
        assert told.done


@by_heart
def test_texts_that_are_written_otherwise_and_reads_of_many_are_told_all_the_same(way: Way) -> None:
    way.learn()
    texts = ["Hi", 'with "quotes"', "\n", "日本", *map(str, range(40)), "é"]
    frames = way.frames(7, *texts)
    reads = [chunked(*frames[:4]), *map(chunked, frames[4:8]), chunked(*frames[8:-3]), chunked(*frames[-3:]) + LAST]
    assert all(told_as_read(way, reads, 7).by_heart)


STRANGE = {
    "a source": event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": SOURCE}),
    "another end": event("message_delta", delta=ENDED | {"stop_reason": "max_tokens"}, usage={"output_tokens": 3}),
    "a usage with a member more": event("message_delta", delta=ENDED, usage={"input_tokens": 3, "output_tokens": 3}),
    "a number that is none": event("message_delta", delta=ENDED, usage={"output_tokens": "3"}),
    "a number past all counts": event("message_delta", delta=ENDED, usage={"output_tokens": 10**13}),
    "an id that came before": event("message_start", message={"id": "msg_7x"}),
    "a ping": event("ping"),
    "a comment": b": hm\n\n",
    "no JSON": b"data: {\n\n",
    "half a frame": b"data: {",
    "lines that end with CR": event("ping").replace(b"\n", b"\r\n"),
}  # fmt: skip


@by_heart
@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("reads", READS.values(), ids=READS)
def test_what_is_strange_is_read_behind_all_that_was_not(
    way: Way, strange: bytes, reads: Callable[[Sequence[bytes]], list[bytes]]
) -> None:
    way.learn()
    for number in (5, 6):
        told_as_read(way, reads(way.frames(number, "Hello", " you")), number)
    good = reads(way.frames(7, "Hello", " you"))
    for at in range(1, len(good)):
        told_as_read(way, [*good[:at], chunked(strange), *good[at:]], 7)


@by_heart
def test_what_leaves_does_not_depend_on_where_the_bytes_are_cut(way: Way) -> None:
    way.learn()
    for number in (5, 6):
        told_as_read(way, whole(way.frames(number, "Hello", " you")), number)
    stream = b"".join(whole(way.frames(7, "Hello", " you")))
    one = [0, *(len(b"".join(whole(way.frames(7, "Hello", " you"))[:n])) for n in range(1, 4)), len(stream)]
    for cut in range(1, len(stream)):
        cuts = sorted({*one, cut})
        told_as_read(way, [stream[begin:end] for begin, end in pairwise(cuts)], 7)


@by_heart
def test_a_chunk_of_another_size_than_it_says_is_no_passage(way: Way) -> None:
    way.learn()
    for number in (5, 6):
        told_as_read(way, whole(way.frames(number, "Hello")), number)
    first, text, end = whole(way.frames(7, "Hello"))
    for at, raw in enumerate((first, text, end)):
        for place in [n for n in range(len(raw) - 2) if raw[n : n + 2] == b"\r\n"]:
            for off in (b"0", b"1", b"f", b"\r"):
                lie = raw[: place - 1] + off + raw[place:]
                told = Told(way, 7)
                for good in (first, text)[:at]:
                    told.feed(good)
                found = told.recital.finds(lie)
                assert found is None or lie == raw


def test_an_id_that_came_before_is_read() -> None:
    way = WAYS["messages for a chat"]
    way.learn()
    told_as_read(way, whole(way.frames(5, "Hello")), 5)
    frames = way.frames(6, "Hello")
    frames[0] = frames[0].replace(b"msg_6x", b"%d" % way.voice(6).created)
    assert not told_as_read(way, whole(frames), 6).by_heart[0]


@by_heart
@settings(max_examples=fuzz.examples(150))
@given(usages=st.lists(USAGES, min_size=1, max_size=2), texts=st.lists(st.text(max_size=5), max_size=4), data=st.data())
def test_any_streams_are_told_as_they_are_read(
    way: Way, usages: list[dict[str, Any]], texts: list[str], data: st.DataObject
) -> None:
    way.learn()
    cuts = data.draw(st.sets(st.integers(1, 5 + len(texts)), max_size=5))
    shared = data.draw(st.sets(st.integers(0, 9), max_size=4))
    for number in range(6):
        usage = usages[number % len(usages)]
        others = {name: value + number if type(value) is int else value for name, value in usage.items()}
        frames = way.frames(number, *texts, **others)
        bounds = sorted({0, *(cut for cut in cuts if cut < len(frames)), len(frames)})
        reads = [
            chunked(b"".join(frames[begin:end])) if begin in shared else chunked(*frames[begin:end])
            for begin, end in pairwise(bounds)
        ]
        told_as_read(way, [*reads[:-1], reads[-1] + LAST], number)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    way = WAYS["messages for a chat"]
    way.learn()
    monkeypatch.setattr(rote, "DEAR", 0)
    (memory,) = rote._memories.values()
    for number in range(200):
        frames = way.frames(number, *"abcdef"[: number % 7], cache_read_input_tokens=number % 2)
        at = 1 + number % (len(frames) - 1)
        told_as_read(way, [chunked(*frames[:at]), chunked(b"".join(frames[at:])) + LAST], number)
        assert memory._passages <= rote.MOST_PASSAGES
        assert len(memory.stage.passages) <= rote.MOST_READS


def test_reads_that_do_not_come_again_are_not_learnt_for_ever() -> None:
    way = WAYS["messages for a chat"]
    way.learn()
    (memory,) = rote._memories.values()
    stage = memory.stage
    taken = [memory.takes_passage(stage) for _ in range(rote.MOST_READS + rote.SELDOM * 2)]
    assert taken.count(True) == rote.MOST_READS + 2
    stage.unmet = 0
    assert memory.takes_passage(stage)


def test_ends_that_seldom_come_again_are_learnt_seldom_whatever_comes_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way = WAYS["messages for a chat"]
    way.learn()
    learnt: list[Passage] = []
    add = rote.Memory.add

    def noted(self: rote.Memory, stage: Stage, passage: Passage) -> None:
        learnt.append(passage)
        add(self, stage, passage)

    monkeypatch.setattr(rote.Memory, "add", noted)
    dice = Random(0)
    for number in range(1000):
        frames = way.frames(number, "Hello", "a", "b")
        told = told_as_read(way, [chunked(*frames[:4]), chunked(*parted(frames[4:], dice)) + LAST], number)
        assert told.done
    assert len(learnt) < 200


def parted(frames: list[bytes], dice: Random) -> list[bytes]:
    """In chunks of one frame or more."""
    chunks = [b""]
    for frame in frames:
        chunks[-1] += frame
        if dice.random() < 0.5:
            chunks.append(b"")
    return [*filter(None, chunks)]


def told_by(usage: bytes) -> list[list[bytes | int]]:
    return [[b'data: {"usage":{', *[int(it) if it.isdigit() else it for it in usage.split(b"@")], b"}}"]]


SUMS: dict[str, tuple[str, bytes, dict[int, bytes], list[Any] | None]] = {
    "of Anthropic's": (
        "anthropic", b'"input_tokens":@1@,"output_tokens":@2@', {1: b"7", 2: b"9"}, [(1,), None, None, None, (2,)]
    ),
    "a sum with a number that is always the same": (
        "anthropic", b'"input_tokens":4,"output_tokens":@2@', {2: b"9"}, None
    ),
    "of OpenAI's": (
        "openai-chat",
        b'"prompt_tokens":@1@,"completion_tokens":@2@',
        {1: b"7", 2: b"9"}, [(1,), None, None, None, (2,)],
    ),
    "a difference": (
        "openai-chat",
        b'"prompt_tokens":@1@,"completion_tokens":@2@,"prompt_tokens_details":{"cached_tokens":@3@}',
        {1: b"7", 2: b"9", 3: b"4"}, None,
    ),
    "what hangs on which is larger": (
        "anthropic",
        b'"cache_creation_input_tokens":@1@,"cache_creation":{"ephemeral_1h_input_tokens":@2@},"output_tokens":@3@',
        {1: b"4", 2: b"4", 3: b"9"}, None,
    ),
    "more than can be told apart": (
        "anthropic", b",".join(b'"n%d":@%d@' % (at, at) for at in range(1, 10)), dict.fromkeys(range(1, 10), b"1"), None
    ),
}  # fmt: skip


@pytest.mark.parametrize(("dialect", "usage", "numbers", "fields"), SUMS.values(), ids=SUMS)
def test_a_usage_is_known_by_sums_or_not_at_all(
    dialect: str, usage: bytes, numbers: dict[int, bytes], fields: list[Any] | None
) -> None:
    sums = sums_of(DIALECTS[dialect], DIALECTS["openai-chat"], told_by(usage), numbers)
    assert (None if sums is None else [*sums.fields[:5]]) == fields
