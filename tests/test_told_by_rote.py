"""A translated stream that is told by rote says what it would say if it were read and written, whatever comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import fuzz
import orjson
import pytest
from attrs import evolve
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import CHAT, MESSAGES, chunk, event
from ways import SOURCE, USAGES, WAYS, Frames, Way, all_ways, chat_frames, message_frames

from proxy import ir
from proxy.dialects.dialect import Dialect
from proxy.errors import UpstreamError, UpstreamTimeout
from proxy.streams import Translation, rote
from proxy.wire.chunked_run import size_line


@pytest.fixture(autouse=True)
def _nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rote, "_memories", {})


def play(stream: Translation, pieces: Iterable[bytes], *, ends: bool = True) -> tuple[Any, ...]:
    """All that can be seen of a stream, piece by piece."""
    out: list[bytes] = []
    failed = None
    try:
        out.extend(stream.feed(piece) for piece in pieces)
        if ends and not stream.done:
            out.append(stream.close())
    except UpstreamError as exc:
        failed = type(exc), str(exc)
        out.append(stream.fail(exc))
    edits = {kind: count for kind, count in stream.edits.items() if count}
    usage = stream.usage if stream.committed else None  # what a read that failed has told hangs on where it was cut
    return out, failed, stream.done, stream.committed, str(stream.failure), usage, stream.stop, edits


def told_as_read(way: Way, pieces: Sequence[bytes], number: int = 7, *, ends: bool = True) -> None:
    by_rote = Translation(way.theirs, way.ours, way.voice(number))
    read = Translation(way.theirs, way.ours, way.voice(number), rote=False)
    assert play(by_rote, pieces, ends=ends) == play(read, pieces, ends=ends), pieces


def unread(dialect: Dialect) -> Dialect:
    """The same, and nobody may read a stream of it."""

    def read() -> Any:
        raise AssertionError("the stream is read")

    codec = evolve(dialect.codec(), stream_decoder=read)
    return evolve(dialect, codec=lambda: codec)


@all_ways
def test_the_third_stream_of_its_kind_is_not_read(way: Way) -> None:
    way.learn()
    for number in (5, 1234):
        frames = way.frames(number, "Hello", " you", 'with "quotes"', "\n")
        for pieces in (frames, [b"".join(frames)]):
            stream = Translation(unread(way.theirs), way.ours, way.voice(number))
            told = play(stream, pieces)
            assert told == play(Translation(way.theirs, way.ours, way.voice(number), rote=False), pieces)
            assert stream.usage is not None
            assert stream.usage.output == number


@all_ways
def test_the_second_is(way: Way) -> None:
    Translation(way.theirs, way.ours, way.voice(1)).feed(b"".join(way.frames(1, "Hi")))
    with pytest.raises(AssertionError, match="is read"):
        Translation(unread(way.theirs), way.ours, way.voice(1)).feed(b"".join(way.frames(2, "Hi")))


CALL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
STRANGE: dict[str, bytes] = {
    "a comment": b": hm\n\n",
    "a ping": event("ping"),
    "no JSON": b"data: {{\n\n",
    "no UTF-8": MESSAGES.text("x").replace(b"x", b"\xff"),
    "another end": event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 3}),
    "usage that is no number": event("message_delta", delta={}, usage={"output_tokens": -1}),
    "an error": event("error", error={"type": "overloaded_error", "message": "Busy."}),
    "an error of a chat": CHAT.error_frame("server_error", "Busy."),
    "a tool": event("content_block_start", index=1, content_block={"type": "tool_use", "id": "t", "name": "f"}),
    "a thought": event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
    "a source": event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": SOURCE}),
    "a text of nothing": MESSAGES.text(""),
    "a text with escapes": MESSAGES.text('\\ "quoted"\n'),
    "a text with another member": MESSAGES.text("x").replace(b'"text":"x"', b'"text":"x","more":1'),
    "a chat's text": CHAT.text("more"),
    "a chat's text of another id": CHAT.text("more").replace(b"chatcmpl-1", b"chatcmpl-7x"),
    "a call": chunk(CALL),
    "a refusal": chunk({"refusal": "No"}),
    "a length": chunk({}, "length"),
    "usage of a chat": chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}),
    "CRLF": b"data: x\r\n\r\n",
    "an end": event("message_stop"),
    "an end of a chat": CHAT.end,
    "a frame twice": b"",
    "a frame left out": b"-",
}  # fmt: skip


def with_strange(good: Frames, at: int, strange: bytes) -> Frames:
    if strange == b"-":
        return [*good[:at], *good[at + 1 :]]
    return [*good[:at], strange or good[at], *good[at:]]


@all_ways
@each("strange", STRANGE.values(), ids=STRANGE)
def test_what_is_strange_is_read_behind_all_that_was_not(way: Way, strange: bytes) -> None:
    way.learn()
    good = way.frames(7, "Hello", " you")
    own = strange.replace(b'"created":1', b'"created":1760000007')
    for at in range(len(good)):
        for _ in range(3):  # until it is known as well
            frames = with_strange(good, at, own)
            told_as_read(way, frames)
            told_as_read(way, [b"".join(frames)])


@all_ways
def test_what_leaves_does_not_depend_on_where_the_bytes_are_cut(way: Way) -> None:
    way.learn()
    raw = b"".join(way.frames(7, "Hello", " you 日本", 'a "b"'))
    for at in range(1, len(raw)):
        told_as_read(way, [raw[:at], raw[at:]])
    told_as_read(way, [raw[at : at + 1] for at in range(len(raw))])


@all_ways
def test_a_stream_that_is_cut_ends_as_if_it_had_been_read(way: Way) -> None:
    way.learn()
    frames = way.frames(7, "Hello", " you")
    for end in range(len(frames)):
        told_as_read(way, frames[:end])
        told_as_read(way, [*frames[:end], frames[end][:-5]])
        streams = [Translation(way.theirs, way.ours, way.voice(7), rote=rote) for rote in (True, False)]
        said = [(play(stream, frames[:end], ends=False), stream.fail(UpstreamTimeout("late"))) for stream in streams]
        assert said[0] == said[1]


def cited_frames(number: int, text: str) -> Frames:
    frames = message_frames(number, text)
    source = event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": SOURCE})
    return [*frames[:4], source, *frames[4:]]


def test_where_a_text_ends_that_has_a_source_is_its_own() -> None:
    """Though those that are learnt from have as much text as the marks."""
    way = WAYS["messages for a chat"]
    for number, size in enumerate((16, 16, 24, 24, 16, 5)):
        told_as_read(way, cited_frames(number, "x" * size), number)


def calling_frames(number: int, *names: str, answer: str = "") -> Frames:
    frames = chat_frames(number, "Hi")
    function = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [chunk({"tool_calls": [{"id": name, **function} if name else function]}) for name in names]
    for place, raw in enumerate(calls):
        created = raw.replace(b'"created":1', b'"created":%d' % (1_760_000_000 + number))
        calls[place] = created.replace(b"chatcmpl-1", b"chatcmpl-%dx" % number)
    whole = [*frames[:2], *calls, *frames[2:]]
    return [raw.replace(b"chatcmpl-%dx" % number, answer.encode()) for raw in whole] if answer else whole


ODD_IDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "an id with a dot": (("call_%d",), ("call.7",), ""),
    "no id, and an answer's with a dot": (("",), ("",), "chat.7"),
    "no id, and an answer's that is long": (("",), ("",), "a" * 70),
    "two calls of one id": (("a%d", "b%d"), ("a7", "a7"), ""),
    "a call with the answer's id": (("a%d",), ("chatcmpl-7x",), ""),
}  # what others have, what one has, and its answer's


@each(("usual", "strange", "answer"), ODD_IDS.values(), ids=ODD_IDS)
def test_an_id_that_is_not_as_others_were_is_read(
    usual: tuple[str, ...], strange: tuple[str, ...], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rote, "_memories", {})
    way = WAYS["a chat for messages"]
    for number in range(4):
        told_as_read(way, calling_frames(number, *(name.replace("%d", str(number)) for name in usual)), number)
    told_as_read(way, calling_frames(7, *strange, answer=answer))


@all_ways
def test_more_behind_the_end_is_dropped(way: Way) -> None:
    way.learn()
    frames = [*way.frames(7, "Hello"), way.text("more")]
    told_as_read(way, frames)
    told_as_read(way, [b"".join(frames)])


@all_ways
@settings(max_examples=fuzz.examples(150))
@given(usages=st.lists(USAGES, min_size=1, max_size=2), texts=st.lists(st.text(max_size=5), max_size=4), data=st.data())
def test_any_streams_are_told_as_they_are_read(
    way: Way, usages: list[dict[str, Any]], texts: list[str], data: st.DataObject
) -> None:
    for number in range(5):
        usage = usages[number % len(usages)]
        others = {name: value + number if type(value) is int else value for name, value in usage.items()}
        raw = b"".join(way.frames(number, *texts, **others))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=3)))
        told_as_read(way, [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)], number)


def otherwise(raw: bytes, seed: int) -> bytes:
    """The same frame as another server might have written it: members in another order, others beside them, no
    usage."""

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        if not isinstance(value, dict):
            return value
        members = {name: changed(item) for name, item in value.items() if name != "usage" or seed & 1}
        if seed & 2 and "content" not in members:
            members |= {"unknown": {"id": "x1", "n_tokens": 3}}
        return dict(sorted(members.items(), key=lambda it: crc32(b"%d%b" % (seed, it[0].encode()))))

    line, brace, told = raw.partition(b"{")
    return line + orjson.dumps(changed(orjson.loads(brace + told))) + b"\n\n" if brace else raw


@all_ways
@settings(max_examples=fuzz.examples(100))
@given(seed=st.integers(0, 2**16), text=st.text(min_size=1, max_size=5), data=st.data())
def test_any_server_is_told_as_it_is_read(way: Way, seed: int, text: str, data: st.DataObject) -> None:
    for number in range(4):
        frames = [otherwise(raw, seed) for raw in way.frames(number, "Hi", text)]
        told_as_read(way, frames, number)
        odd = data.draw(st.integers(0, len(frames) - 1))
        told_as_read(way, [*frames[:odd], otherwise(frames[odd], seed + 2), *frames[odd + 1 :]], number)


@all_ways
def test_a_kind_that_no_second_one_is_like_is_not_kept(way: Way) -> None:
    for number in range(rote.MOST_FUTILE * 2):
        strange = CALL | {"n": number} if way.theirs.name == "openai-chat" else {"n": number}
        odd = chunk(strange) if way.theirs.name == "openai-chat" else event("message_delta", delta=strange)
        told_as_read(way, [*way.frames(number, "Hi")[:-1], odd, way.frames(number, "Hi")[-1]], number)
    (memory,) = rote._memories.values()
    assert memory.steps == 0
    assert len(memory.seen) <= rote.MOST_SEEN
    taken = [memory.takes_lesson() for _ in range(rote.SELDOM * 2)]
    assert taken.count(True) == 2


@all_ways
def test_what_is_kept_is_bounded(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rote, "MOST_MEMORIES", 4)
    for model in range(9):
        asked = evolve(way.voice(1), model=f"m{model}")
        Translation(way.theirs, way.ours, asked).feed(b"".join(way.frames(1, "Hi")))
        assert len(rote._memories) <= 4
    monkeypatch.setattr("proxy.streams.lesson.MOST_STEPS", 20)
    for kind in range(30):
        for number in range(2):
            frames = way.frames(number, "Hi")
            told_as_read(way, [*frames[:2], b": kind %d\n\n" % kind, *frames[2:]], number)
    assert all(memory.steps <= 20 for memory in rote._memories.values())


def test_usage_of_one_stream_is_none_of_the_next() -> None:
    way = WAYS["messages for a chat"]
    way.learn()
    first = Translation(way.theirs, way.ours, way.voice(8))
    second = Translation(way.theirs, way.ours, way.voice(9))
    for frames in zip(way.frames(8, "Hi"), way.frames(9, "Hi"), strict=True):
        first.feed(frames[0])
        second.feed(frames[1])
    assert first.usage == ir.Usage(108, 2, None, None, 8)
    assert second.usage == ir.Usage(109, 0, None, None, 9)


@pytest.mark.parametrize("learnt", [True, False], ids=["told by rote", "read"])
def test_text_that_left_where_it_was_received_counts(learnt: bool) -> None:
    """A source points to how far the text has come."""
    way = WAYS["messages for a chat"]
    if learnt:
        way.learn()
    source = event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": SOURCE})
    read, other = (Translation(way.theirs, way.ours, way.voice(7)) for _ in range(2))
    for raw in way.frames(7, "Hello", ",")[:5]:
        read.feed(raw)
        other.feed(raw)
    assert other.run is not None
    for text, leaves in (("!", True), ("é", False), ("a b", True), ("'", True), ("<", True)):
        raw = way.text(text)
        chunk, out = b"%x\r\n%b\r\n" % (len(raw), raw), read.feed(raw)
        retelling = other.retelling
        assert retelling is not None
        line = size_line(len(chunk))
        assert retelling.chunk(chunk, *line, len(out) - 1) == b""
        said = retelling.chunk(chunk, *line, len(out))
        assert said == (b"%x\r\n%b\r\n" % (len(out), out) if leaves else b"")
        assert said or other.recast(chunk) == out
        assert not said or retelling.size == len(out)
    assert b'"start_index":13' in other.feed(source)
    assert other.feed(way.text("!")) == read.feed(way.text("!"))
