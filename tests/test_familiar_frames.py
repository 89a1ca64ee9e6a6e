"""Frames known at a glance mean what the tap finds them to mean, and nothing is known that hangs on more than bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st
from playbook import CHAT, USAGE, chunk, event
from playbook import MESSAGES as ANTHROPIC

from proxy import ir
from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import UpstreamError
from proxy.ir import Sight
from proxy.streams import Familiar, Passthrough, at_once, familiar
from proxy.streams.familiar import Glance
from proxy.wire import sse
from proxy.wire.sse import read_frame

VOICE = Voice("req_1", "m", 1, False, {})
OPENAI, MESSAGES = DIALECTS["openai-chat"], DIALECTS["anthropic"]


def sights(dialect: Dialect, frames: list[bytes], *, glancing: bool) -> tuple[list[Sight], list[bool], Any]:
    """What each frame means, whether it was known, and what the tap knows in the end."""
    tap = dialect.tap()
    glance = Glance(dialect, tap)
    found, known = [], []
    for raw in frames:
        sight = glance.at(raw) if glancing else None
        known.append(sight is not None)
        if sight is None:
            frame = sse.read_frame(raw)
            assert frame is not None
            usage, plain = tap.usage, tap.plain
            sight = tap.look(frame)
            if plain and glancing:
                glance.learn(raw, sight, usage)
            if glancing and (mould := dialect.text_mould(raw)) is not None:
                glance.learn_text(mould)
        found.append(sight)
    return found, known, (tap.usage, tap.stop, tap.produced, tap.error)


CALL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
BEGUN = chunk({"role": "assistant", "content": ""})
STREAMS: dict[str, tuple[Dialect, list[bytes]]] = {
    "a chat": (OPENAI, CHAT.stream("Hello", " you")),
    "a chat with escapes": (OPENAI, CHAT.stream("a\n\"b\"", "\\", "é")),
    "a chat of nothing": (OPENAI, [BEGUN, chunk({"content": ""}), chunk({}, "stop")]),
    "a call that ends with stop": (OPENAI, [BEGUN, chunk(CALL), chunk({}, "stop")]),
    "a refusal": (OPENAI, [BEGUN, chunk({"refusal": "No"}), chunk({}, "stop")]),
    "a chat whose usage stands in each chunk": (
        OPENAI, [chunk({"content": "a"}, usage={"prompt_tokens": n, "completion_tokens": n}) for n in (1, 2)],
    ),
    "a message": (MESSAGES, ANTHROPIC.stream("Hello", " you")),
    "a message with a ping": (MESSAGES, [ANTHROPIC.start, event("ping"), *ANTHROPIC.stream("Hello")[1:]]),
}  # fmt: skip


@each(("dialect", "frames"), STREAMS.values(), ids=STREAMS)
def test_a_glance_finds_what_a_look_finds(dialect: Dialect, frames: list[bytes]) -> None:
    looked, _, told = sights(dialect, frames, glancing=False)
    for _ in range(3):
        for name in STREAMS:  # whatever was learnt of others meanwhile
            sights(*STREAMS[name], glancing=True)
        glanced, _, seen = sights(dialect, frames, glancing=True)
        assert (glanced, seen) == (looked, told)


def test_a_second_stream_is_known_but_for_its_usage() -> None:
    def stream(id: str) -> list[bytes]:
        return [raw.replace(b"chatcmpl-1", id.encode()) for raw in CHAT.stream("Hello", " you")]

    sights(OPENAI, stream("one"), glancing=True)
    _, known, told = sights(OPENAI, stream("two"), glancing=True)
    assert known[:-1] == [True] * (len(known) - 1)
    assert told[0] == ir.Usage(7, output=2) or told[0] is None


END, USED = CHAT.stream("x")[-1], chunk(None, usage=USAGE)
GOOD = CHAT.stream("Hello", " you")[:-1]
# All of a stream's frames -> whether they are known as a whole once they came before.
WHOLE: dict[str, tuple[Dialect, list[bytes], bool]] = {
    "a chat": (OPENAI, [*GOOD, END], True),
    "a chat that tells its usage": (OPENAI, [*GOOD, USED, END], True),
    "a chat that tells its usage twice": (OPENAI, [*GOOD, USED, USED.replace(b"7", b"8"), END], False),
    "a chat that tells a usage of nothing": (OPENAI, [*GOOD, chunk(None, usage={}), END], False),
    "a chat with something behind its end": (OPENAI, [*GOOD, END, USED, END], False),
    "a chat with a comment": (OPENAI, [GOOD[0], b": hm\n\n", *GOOD[1:], END], False),
    "a chat with a comment in a frame": (OPENAI, [GOOD[0], b": hm\n" + GOOD[1], *GOOD[2:], END], False),
    "a chat of CRs": (OPENAI, [frame.replace(b"\n", b"\r\n") for frame in (*GOOD, END)], False),
    "a chat with another language": (OPENAI, [*CHAT.stream("日本")], True),
    "a chat with escapes": (OPENAI, [*CHAT.stream("\\u0041\\n")], True),
    "a chat that is no UTF-8": (OPENAI, [GOOD[0], CHAT.text("x").replace(b"x", b"\xff"), *GOOD[1:], END], False),
    "a chat with a comment above its usage": (OPENAI, [*GOOD, b": hm\n" + USED, END], False),
    "a chat with another frame in the place of its usage": (OPENAI, [*GOOD, USED + b"retry: 1\n\n", END], False),
    "a chat with a call": (OPENAI, [GOOD[0], chunk(CALL), chunk({}, "stop"), END], False),
    "a chat of nothing": (OPENAI, [GOOD[0], GOOD[-1], END], True),
    "an end and nothing": (OPENAI, [GOOD[0], END], False),
    "an end alone": (OPENAI, [END], False),
    "an error within": (OPENAI, [*GOOD[:2], CHAT.error_frame("overloaded_error", "No."), END], False),
    "a frame that is none": (OPENAI, [*GOOD[:2], b"data: {\n\n", *GOOD[2:], END], False),
    "many frames": (OPENAI, [GOOD[0], *[GOOD[1]] * 20, GOOD[-1], END], False),
    "a message": (MESSAGES, ANTHROPIC.stream("Hello", " you"), False),
}


@each(("dialect", "frames", "known"), WHOLE.values(), ids=WHOLE)
def test_a_stream_that_came_at_once_is_what_it_would_be_frame_by_frame(
    dialect: Dialect, frames: list[bytes], known: bool
) -> None:
    for strip_usage in (False, True):
        stream = Passthrough(dialect, VOICE, strip_usage=strip_usage)
        with suppress(UpstreamError):
            out = b"".join(map(stream.feed, frames))
        for chunks in (frames, [b"".join(frames)]):
            seen = at_once(dialect, list(chunks), strip_usage=strip_usage)
            assert (seen is not None) is known
            if seen is not None:
                assert (seen.out, seen.usage, seen.edits) == (out, stream.usage, stream.edits)
                assert stream.committed
                assert stream.done
                assert stream.failure is None


LOOKED_AT = {name for name, (dialect, _, known) in WHOLE.items() if dialect is OPENAI and not known} - {
    "an end and nothing", "an end alone", "many frames",
}  # fmt: skip


def known_stream(*begun: bytes, strip_usage: bool = False) -> Familiar:
    stream = familiar(OPENAI, strip_usage=strip_usage)
    assert stream is not None
    for raw in begun:
        assert stream.begins([raw])
    return stream


@each(("name", "strip_usage"), [(name, strip) for name in WHOLE if name != "a message" for strip in (False, True)])
def test_the_last_frames_of_a_stream_are_what_they_would_be_one_by_one(name: str, strip_usage: bool) -> None:
    frames = [raw for raw in WHOLE[name][1] if raw != GOOD[0]]
    one_by_one, told = (Passthrough(OPENAI, VOICE, strip_usage=strip_usage) for _ in range(2))
    assert told.feed(b"".join(GOOD[:2])) == b"".join(map(one_by_one.feed, GOOD[:2]))
    ended = known_stream(*GOOD[:2], strip_usage=strip_usage).ends(frames)
    assert (ended is None) == (name in LOOKED_AT)
    rest = b"".join(map(one_by_one.feed, frames))
    if ended is not None:
        assert (ended.out, ended.usage, ended.edits) == (rest, one_by_one.usage, one_by_one.edits)
        assert one_by_one.done
        assert one_by_one.failure is None
    assert told.feed(b"".join(frames)) == rest


@each(("name", "strip_usage"), [(name, strip) for name in WHOLE if name != "a message" for strip in (False, True)])
def test_each_of_the_last_frames_may_come_by_itself(name: str, strip_usage: bool) -> None:
    frames = [raw for raw in WHOLE[name][1] if raw != GOOD[0]]
    stream = known_stream(*GOOD[:2], strip_usage=strip_usage)
    one_by_one, told = (Passthrough(OPENAI, VOICE, strip_usage=strip_usage) for _ in range(2))
    told.feed(b"".join(GOOD[:2]))
    one_by_one.feed(b"".join(GOOD[:2]))
    for number, raw in enumerate(frames):
        if number == len(frames) - 1 and (ended := stream.ends([raw])) is not None:
            assert (ended.out, ended.usage) == (one_by_one.feed(raw), one_by_one.usage)
            assert ended.edits == one_by_one.edits
            assert one_by_one.done
            return
        out = stream.nears_its_end([raw])
        if out is None:
            break
        assert out == one_by_one.feed(raw)
        assert out == told.feed(raw)  # for only what is no text is kept for that
    assert name in LOOKED_AT
    rest = frames[number:]
    assert b"".join(map(told.feed, rest)) == b"".join(map(one_by_one.feed, rest))


BEGINNINGS: dict[str, tuple[list[bytes], bool]] = {
    "a role": ([GOOD[0]], True),
    "a role twice": ([GOOD[0], GOOD[0]], True),
    "a role and a text": ([*GOOD[:2]], True),
    "texts": ([CHAT.text("a"), CHAT.text(" b\\n")], True),
    "another language": ([GOOD[0], CHAT.text("日本")], True),
    "a text of another kind behind one": ([GOOD[1], chunk({"content": "a"}, usage=None)], False),
    "a role behind a text": ([GOOD[1], GOOD[0]], False),
    "the frame of another stream": ([GOOD[0], GOOD[1].replace(b"chatcmpl-1", b"chatcmpl-2")], False),
    "an end": ([GOOD[0], GOOD[1], GOOD[-1]], False),
    "an end alone": ([GOOD[-1]], False),
    "a terminator": ([GOOD[0], END], False),
    "usage": ([GOOD[0], USED], False),
    "an error": ([GOOD[0], CHAT.error_frame("overloaded_error", "No.")], False),
    "a call": ([GOOD[0], chunk(CALL)], False),
    "a comment": ([b": hm\n\n", GOOD[0]], False),
    "a comment in a frame": ([GOOD[0], b": hm\n" + GOOD[1]], False),
    "two frames in one": ([GOOD[0] + GOOD[1]], False),
    "half a frame": ([GOOD[0], GOOD[1][:-9]], False),
    "a byte-order mark": ([b"\xef\xbb\xbf" + GOOD[0]], False),
    "a head that is no ASCII": ([raw.replace(b"chatcmpl", "é".encode()) for raw in GOOD[:2]], False),
    "a text that is no UTF-8": ([GOOD[0], GOOD[1].replace(b"Hello", b"\xff")], False),
    "CRs": ([raw.replace(b"\n", b"\r\n") for raw in GOOD[:2]], False),
}


@each(("frames", "known"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_stream_is_known_from_its_beginning_as_far_as_each_frame_is(frames: list[bytes], known: bool) -> None:
    Passthrough(OPENAI, VOICE).feed(b"".join([*GOOD, END]))
    for apart in (False, True):
        stream = familiar(OPENAI, strip_usage=False)
        assert stream is not None
        reads = [[raw] for raw in frames] if apart else [frames]
        texts, seen = 0, True
        for read in reads:
            seen = seen and (stream.goes_on(read) if stream.behind else stream.begins(read))
            texts += bool(stream.behind)
        assert seen is known
        if known:
            told = Passthrough(OPENAI, VOICE)
            assert told.feed(b"".join(frames)) == (b"".join(frames) if texts else b"")


MORE = {
    "words": ["a", " b", "c"],
    "another language": ["日本"],
    "escapes and quotes": ['"', "\\", '\\"', "\n"],
    "nothing": [""],
}


@each("texts", MORE.values(), ids=MORE)
def test_what_came_up_to_the_first_text_tells_a_stream_as_much_as_all_texts_would(texts: list[str]) -> None:
    more = list(map(CHAT.text, texts))
    stream = known_stream(*GOOD[:2])
    for read in (more, *[[raw] for raw in more]):
        assert stream.goes_on(read)
    every, beginning = Passthrough(OPENAI, VOICE), Passthrough(OPENAI, VOICE)
    assert b"".join(map(every.feed, [*GOOD[:2], *more])) == b"".join([*GOOD[:2], *more])
    assert beginning.feed(b"".join(GOOD[:2])) == b"".join(GOOD[:2])
    assert every.run is not None
    assert beginning.run is not None
    assert (stream.before, stream.behind) == (beginning.run.mould.head, beginning.run.mould.tail)
    assert state(every) == state(beginning)


def state(of: Any) -> Any:
    """All that an object holds, and what that holds."""
    if isinstance(of, bytes | bytearray | str | int | float | dict | list | tuple | set | None) or callable(of):
        return of
    names = getattr(of, "__dict__", None) or [it for cls in type(of).__mro__ for it in getattr(cls, "__slots__", ())]
    return type(of), {name: state(getattr(of, name)) for name in names if name not in ("_between", "__weakref__")}


NO_MORE = {
    "the frame of another stream": GOOD[1].replace(b"chatcmpl-1", b"chatcmpl-2"),
    "no UTF-8": GOOD[1].replace(b"Hello", b"\xff"),
    "a line end": GOOD[1].replace(b"Hello", b"a\n"),
    "a CR": GOOD[1].replace(b"Hello", b"a\r"),
    "a quote": GOOD[1].replace(b"Hello", b'a"'),
    "two frames": GOOD[1] * 2,
    "an error": CHAT.error_frame("overloaded_error", "No."),
    "a comment": b": hm\n\n",
    "a comment above": b": hm\n" + GOOD[1],
    "a finish": GOOD[-1],
}


@each("raw", NO_MORE.values(), ids=NO_MORE)
def test_no_other_frame_counts_as_one_of_the_run(raw: bytes) -> None:
    stream = known_stream(*GOOD[:2])
    assert stream.goes_on([GOOD[1]])
    assert not stream.goes_on([raw])
    assert not stream.goes_on([GOOD[1], raw])


ALONE: dict[str, bytes] = {
    "compact": b'"choices":[],"usage":%b}\n\n',
    "with blanks": b'"choices": [], "usage": %b}\n\n',
    "and more": b'"choices":[],"usage":%b,"error":1}\n\n',
    "and a choice": b'"choices":[{}],"usage":%b}\n\n',
    "and another frame": b'"choices":[],"usage":%b}\n\nretry: 1\n\n',
    "and a comment": b'"choices":[],"usage":%b}\n: hm\n\n',
    "in two lines": b'"choices":[],"usage":%b\ndata: }\n\n',
    "without an end": b'"choices":[],"usage":%b}\n',
}


USAGES = [
    *map(orjson.dumps, ({}, USAGE, [], None, 1, {"total_tokens": -1})),
    b'{"prompt_tokens":7,"completion_tokens":40,"total_tokens":47}',
    b'{"prompt_tokens":7,"total_tokens":47,"completion_tokens":40}',
    b'{"prompt_tokens":7,"total_tokens":0,"completion_tokens":40}',
    b'{"prompt_tokens":7,"completion_tokens":4e1,"total_tokens":47}',
    b'{"prompt_tokens":7,"completion_tokens":-40,"total_tokens":47}',
    b'{"prompt_tokens":7,"completion_tokens":%b,"total_tokens":47}' % (b"9" * 30),
    b'{"prompt1_tokens":7,"completion_tokens":40,"total_tokens":0}',
]
NO_USAGES = {
    "a number that begins with nothing": b'{"prompt_tokens":07,"completion_tokens":40,"total_tokens":47}',
    "no number": b'{"prompt_tokens":,"completion_tokens":40,"total_tokens":47}',
    "two numbers": b'{"prompt_tokens":7,"completion_tokens":4 0,"total_tokens":47}',
    "digits within a name": b'{"prompt1_tokens":7,"completion_tokens":40,"total_tokens":}',
    "a number that no reader has": b'{"prompt_tokens":%b,"completion_tokens":1,"total_tokens":1}' % (b"9" * 5000),
}


@each("usage", NO_USAGES.values(), ids=NO_USAGES)
def test_usage_that_is_no_json_is_not_read(usage: bytes) -> None:
    assert OPENAI.usage_alone(ALONE["compact"] % usage) is None


@given(st.sampled_from(list(ALONE)), st.sampled_from(USAGES))
def test_usage_that_is_told_alone_is_what_the_tap_finds(way: str, usage: bytes) -> None:
    rest = ALONE[way] % usage
    found = OPENAI.usage_alone(rest)
    if found is not None:
        tap, frame = OPENAI.tap(), read_frame(b'data: {"id":"a",' + rest)
        assert frame is not None
        assert (tap.look(frame), tap.usage) == (ir.Sight.USAGE, found)
    else:
        assert way not in ("compact", "with blanks") or b"_tokens" not in usage


TEXT = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
UNKNOWN: dict[str, dict[str, Any]] = {
    "an error before the choices": {"error": {"message": "no"}, **ROLE},
    "an object that is an error": {"object": "error", "message": "no", **ROLE},
    "usage before the choices": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}, **ROLE},
    "choices within another member": {"id": {"choices": []}, **ROLE},
    "text behind an error": {"error": {"message": "no"}, **TEXT},
}


@each("said", UNKNOWN.values(), ids=UNKNOWN)
def test_what_stands_before_the_choices_is_not_overlooked(said: dict[str, Any]) -> None:
    for known in (ROLE, TEXT):
        raw = b"data: %b\n\n" % orjson.dumps({"id": "1", "object": "chat.completion.chunk", **known})
        sights(OPENAI, [raw], glancing=True)
    raw = b"data: %b\n\n" % orjson.dumps(said)
    assert Glance(OPENAI, OPENAI.tap()).at(raw) is None


BROKEN = {
    "half an escape": b"a\\",
    "a control character": b"a\x01",
    "no escape": b"\\x",
    "a quote": b'","x":"',
    "nothing": b"",
    "no UTF-8": b"\xff",
}


@each("text", BROKEN.values(), ids=BROKEN)
def test_a_text_that_is_no_json_is_not_known(text: bytes) -> None:
    good = b"data: %b\n\n" % orjson.dumps({"id": "1", **TEXT})
    sights(OPENAI, [good], glancing=True)
    assert Glance(OPENAI, OPENAI.tap()).at(good) is Sight.CONTENT
    assert Glance(OPENAI, OPENAI.tap()).at(good.replace(b"Hi", text)) is not Sight.CONTENT


NO_TEXTS = {
    "a control character": GOOD[1].replace(b"Hello", b"a\x01"),
    "a tab": GOOD[1].replace(b"Hello", b"\t"),
    "an error that says something": GOOD[1].replace(b"chat.completion.chunk", b"error"),
}


@each("first", NO_TEXTS.values(), ids=NO_TEXTS)
def test_a_first_text_that_is_none_is_a_failed_attempt(first: bytes) -> None:
    for known in (False, True):
        if known:
            Passthrough(OPENAI, VOICE).feed(b"".join([*GOOD, END]))
        with pytest.raises(UpstreamError):
            Passthrough(OPENAI, VOICE).feed(first)


PREAMBLES = {
    "OpenAI's": (b'data: {"id":"a","object":"chat.completion.chunk","created":17,"choices":[]}', True),
    "with blanks": (b'data: {"id": "a", "created": 17, "system_fingerprint": null, "choices": []}', True),
    "nothing": (b'data: {"choices":[]}', True),
    "a member that is read": (b'data: {"id":"a","usage":null,"choices":[]}', False),
    "an object that is an error": (b'data: {"id":"a","object":"error","choices":[]}', False),
    "the same with a blank": (b'data: {"id":"a","object": "error","choices":[]}', False),
    "an escape": (b'data: {"id":"\\u0061","choices":[]}', False),
    "a number that is none": (b'data: {"created":017,"choices":[]}', False),
    "a number that no reader has": (b'data: {"created":%b,"choices":[]}' % (b"1" * 400), False),
    "a line end": (b'data: {"id":"a",\n"choices":[]}', False),
    "two lines": (b'event: x\ndata: {"choices":[]}', False),
}


ALIKE = {
    "another id and another time": (b'"id":"b-_","created":18', True),
    "an id with an escape": (b'"id":"\\n-","created":18', False),
    "an id that ends early": (b'"id":"a","","created":1', False),
    "an id of two lines": (b'"id":"a\n-","created":18', False),
    "an id beyond ASCII": ('"id":"ä-","created":18'.encode(), True),
    "a time that begins with nothing": (b'"id":"b--","created":01', False),
    "a time that is none": (b'"id":"b--","created":-1', False),
    "another member": (b'"id":"b--","creator":18', False),
    "a member that is read": (b'"id":"b--","error":"18"', False),
}


@each(("own", "known"), ALIKE.values(), ids=ALIKE)
def test_a_preamble_that_is_like_another_says_nothing_that_is_read_either(own: bytes, known: bool) -> None:
    around = b'data: {%b,"model":"m","choices":[]}'
    for learnt in (b'"id":"a--","created":17', b'"id":"---","created":99'):
        assert OPENAI.preamble(around % learnt) == (around % learnt).partition(b'"choices"')[0]
    raw = around % own
    assert OPENAI.preamble(raw) == (raw[: raw.index(b'"choices"')] if known else None)
    assert OPENAI.preamble((around % b'"id":"a--","created":17').replace(b"choices", b'usage":0')) is None


@each(("raw", "known"), PREAMBLES.values(), ids=PREAMBLES)
def test_a_preamble_says_nothing_that_is_read(raw: bytes, known: bool) -> None:
    assert OPENAI.preamble(raw) == (raw[: raw.index(b'"choices"')] if known else None)
