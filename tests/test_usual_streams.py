"""What is known of a stream by how others of its kind began and ended is what each of its frames says."""

from __future__ import annotations

from typing import Any

from each import each
from hypothesis import given
from hypothesis import strategies as st
from playbook import CHAT, chunk

from proxy import ir
from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Voice
from proxy.streams import Familiar, Passthrough, Usual, at_once, familiar
from proxy.wire.head_shape import Head
from proxy.wire.http1 import Parser
from proxy.wire.sse import raw_frames

OPENAI = DIALECTS["openai-chat"]
VOICE = Voice("req_1", "m", 1, False, {})
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEARD = Head(200, {}, "chunked", 0, reusable=True)
LAST = b"0\r\n\r\n"


def own(id: bytes, time: bytes, *frames: bytes) -> list[bytes]:
    """Frames of a stream with that id and time."""
    return [it.replace(b'"chatcmpl-1"', b'"%b"' % id).replace(b'"created":1', b'"created":%b' % time) for it in frames]


def chunks(*frames: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)


ROLE, TEXT, _, STOP, END = CHAT.stream("Hello", " you")
ZEROS = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def used(asked: int, written: int, **more: Any) -> bytes:
    return chunk(
        None, usage={"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written, **more}
    )


def preamble_of(raw: bytes) -> bytes:
    found = OPENAI.preamble(raw)
    assert found is not None
    return found


def opened(head: Head | None, data: bytes, role: bytes) -> Usual:
    usual, preamble = Usual(), preamble_of(role)
    shape = TEXT[len(preamble_of(TEXT)) :].split(b"Hello")
    usual.learn_opening(OPENAI, head, data, len(data) - len(chunks(role)), preamble, (shape[0], shape[1]))
    return usual


FIRST = own(b"chatcmpl-aaaa", b"1760000001", ROLE)[0]
OTHERS: dict[str, tuple[bytes, bool]] = {
    "the same": (HEAD + chunks(FIRST), True),
    "another id and another time": (HEAD + chunks(*own(b"chatcmpl-b_-1", b"1760000002", ROLE)), True),
    "an id that is longer": (HEAD + chunks(*own(b"chatcmpl-aaaaa", b"1760000001", ROLE)), False),
    "an id with an escape": (HEAD + chunks(*own(b"chatcmpl-\\n-1", b"1760000001", ROLE)), False),
    "an id that ends early": (HEAD + chunks(*own(b'chatc","a":"b', b"1760000001", ROLE)), False),
    "an id of two lines": (HEAD + chunks(*own(b"chatcmpl\n\naaa", b"1760000001", ROLE)), False),
    "an id beyond ASCII": (HEAD + chunks(*own("chatcmpl-éaa".encode(), b"1760000001", ROLE)), False),
    "a time that begins with nothing": (HEAD + chunks(*own(b"chatcmpl-aaaa", b"0760000001", ROLE)), False),
    "a time that is none": (HEAD + chunks(*own(b"chatcmpl-aaaa", b"17600000.1", ROLE)), False),
    "another role": (HEAD + chunks(FIRST.replace(b"assistant", b"assistent")), False),
    "another head": (HEAD.replace(b"200", b"201") + chunks(FIRST), False),
    "another size": (HEAD + chunks(FIRST).replace(b"%x\r\n" % len(FIRST), b"%x\r\n" % (len(FIRST) + 1)), False),
    "half of it": ((HEAD + chunks(FIRST))[:-1], False),
    "more than that": (HEAD + chunks(FIRST, TEXT), False),
}


@each(("data", "known"), OTHERS.values(), ids=OTHERS)
def test_a_first_read_is_known_but_for_an_id_and_a_time(data: bytes, known: bool) -> None:
    opening = opened(HEARD, HEAD + chunks(FIRST), FIRST).opening
    assert opening is not None
    preamble = opening.preamble(data)
    assert (preamble is not None) == known
    if preamble is not None:
        parser = Parser()
        frame = parser.feed(data)
        assert preamble == OPENAI.preamble(frame)
        assert data[opening.at :] == chunks(frame)
        assert (opening.size, opening.least) == (len(frame), len(own(b"chatcmpl-aaaa", b"1760000001", TEXT)[0]) - 5)


def test_what_has_no_time_of_its_own_is_not_learnt() -> None:
    role = ROLE.replace(b'"created":1,', b"")
    assert role != ROLE
    assert opened(HEARD, HEAD + chunks(role), role).opening is None


def ended(usual: Usual, frames: list[bytes], *, strips: bool) -> ir.Usage | None:
    """One more stream of a kind, that ends with these, told and learnt from."""
    stream = begun(frames[0], strips=strips)
    data = chunks(*frames) + LAST
    told = stream.ends(frames)
    if told is None or told.usage is None:
        return None
    if not usual.tires():
        usual.learn_ending(OPENAI, data, frames, stream.preamble, told.usage, strips=strips)
    return told.usage


def begun(like: bytes, *, strips: bool) -> Familiar:
    """A stream with the preamble of that frame, up to its first text."""
    Passthrough(OPENAI, VOICE).feed(b"".join([ROLE, TEXT, STOP, END]))  # to be learnt from
    preamble = preamble_of(like)
    stream = familiar(OPENAI, strip_usage=strips)
    assert stream is not None
    for raw in (ROLE, TEXT):
        assert stream.begins([preamble + raw[len(preamble_of(raw)) :]])
    return stream


USAGES: dict[str, bytes] = {
    "plain": used(200, 100),
    "with nothing beside": used(200, 100, **ZEROS),
    "with blanks": used(200, 100).replace(b'_tokens":', b'_tokens": '),
    "the sum before what was written": chunk(
        None, usage={"prompt_tokens": 200, "total_tokens": 300, "completion_tokens": 100}
    ),
}
# Of another usage, where nothing is known by what came before.
OTHER_USAGES: dict[str, bytes] = {
    "cached": used(200, 100, prompt_tokens_details={"cached_tokens": 50}),
    "reasoned": used(200, 100, completion_tokens_details={"reasoning_tokens": 50}),
    "a price": used(200, 100, cost=0.5),
    "nothing": used(0, 0),
    "what was written first": chunk(None, usage={"completion_tokens": 100, "prompt_tokens": 200, "total_tokens": 300}),
    "no sum": chunk(None, usage={"prompt_tokens": 200, "completion_tokens": 100}),
    "a count twice": used(200, 100, details={"prompt_tokens": 7}),
}


@each("used_as", [*USAGES.values(), *OTHER_USAGES.values()], ids=[*USAGES, *OTHER_USAGES])
@each("strips", [False, True])
def test_only_what_hangs_on_three_counts_is_learnt(used_as: bytes, strips: bool) -> None:
    usual = Usual()
    assert ended(usual, [STOP, used_as, END], strips=strips) is not None
    assert bool(usual.endings) == (used_as in USAGES.values())


@given(
    st.sampled_from([*USAGES.values()]), st.booleans(), st.integers(1, 10**6), st.integers(1, 10**6),
    st.text("abcdefXYZ0189-_", min_size=10, max_size=10),
)  # fmt: skip
def test_an_end_is_what_its_frames_say(used_as: bytes, strips: bool, asked: int, written: int, id: str) -> None:
    usual = Usual()
    assert ended(usual, [STOP, used_as, END], strips=strips) is not None
    for name, count in ((b"prompt", asked), (b"completion", written), (b"total", asked + written)):
        colon = used_as.index(b":", used_as.index(name + b"_tokens"))
        end = min(at for at in (used_as.find(b",", colon), used_as.find(b"}", colon)) if at > 0)
        used_as = used_as[: colon + 1] + b"%d" % count + used_as[end:]
    frames = own(id.encode(), b"1", STOP, used_as, END)
    assert ended(usual, frames, strips=strips) is not None  # of that length
    data = chunks(*frames) + LAST
    stream = begun(frames[0], strips=strips)
    ending, told = usual.endings[len(data)], stream.ends(frames)
    assert told is not None
    assert ending.usage(data, b"", stream.preamble) == told.usage
    assert (ending.size, ending.edits) == (len(told.out), told.edits)
    parser = Parser(HEARD, framing="chunked")
    assert parser.feed(ending.leaves(data, 0)) == told.out
    assert parser.done
    assert not parser.surplus


@given(st.data(), st.booleans())
def test_an_end_that_differs_in_a_byte_is_what_its_frames_say_or_is_not_known(
    draw: st.DataObject, strips: bool
) -> None:
    usual, frames = Usual(), [STOP, used(200, 100, **ZEROS), END]
    ended(usual, frames, strips=strips)
    data = bytearray(chunks(*frames) + LAST)
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.sampled_from([*b'09a"\\ \r\n,:}{.-\x00\xff']))
    stream = begun(STOP, strips=strips)
    ending = usual.endings[len(data)]
    usage = ending.usage(bytes(data), b"", stream.preamble)
    if usage is not None:
        parser = Parser(HEARD, framing="chunked")
        told = stream.ends(raw_frames(parser.feed(bytes(data))))
        assert parser.done
        assert told is not None
        assert (told.usage, len(told.out)) == (usage, ending.size)


# What stands in the place of a count, and is none, or is not read.
NO_COUNTS: dict[str, bytes] = {
    "nothing": b"", "zero": b"0", "a zero before it": b"0200", "a plus": b"+200", "a minus": b"-200",
    "digits apart": b"2_00", "a blank before it": b" 200", "a blank behind it": b"200 ", "hexadecimal": b"0xc8",
    "other digits": "\u0662\u0660\u0660".encode(), "a fraction": b"200.0", "13 digits": b"1" * 13,
    "thousands of digits": b"1" * 5000,
}  # fmt: skip


@each("count", NO_COUNTS.values(), ids=NO_COUNTS)
@each("name", [b"prompt", b"completion", b"total"])
def test_an_end_is_known_by_plain_counts_alone(name: bytes, count: bytes) -> None:
    usual, frames = Usual(), [STOP, used(201, 102, **ZEROS), END]
    ended(usual, frames, strips=False)
    (ending,) = usual.endings.values()
    data, head = chunks(*frames) + LAST, preamble_of(STOP)
    told = {b"prompt": b"201", b"completion": b"102", b"total": b"303"}[name]
    assert ending.usage(data.replace(told, b"999"), b"", head) is not None
    assert ending.usage(data.replace(told, count), b"", head) is None


def test_an_end_of_frames_with_a_longer_beginning_is_not_known() -> None:
    usual, frames = Usual(), [STOP, used(200, 100), END]
    ended(usual, frames, strips=False)
    (length,) = usual.endings
    longer = own(b"chatcmpl-12", b"1", STOP, used(20, 10), END)  # two bytes more in each, and two digits less
    broken = chunks(*frames).replace(STOP, longer[0]).replace(frames[1], longer[1]) + LAST
    data = broken[:length] + b"x" * (length - len(broken))
    assert usual.endings[length].usage(data, b"", preamble_of(longer[0])) is None


def test_ends_that_never_come_again_are_learnt_seldom() -> None:
    usual, learnt = Usual(), 0
    for _ in range(1000):
        usual.endings.clear()
        ended(usual, [STOP, used(200, 100), END], strips=False)
        learnt += len(usual.endings)
    assert 64 <= learnt < 64 + 1000 // 16 + 1


def test_an_end_that_is_known_is_not_learnt_again() -> None:
    usual = Usual()
    ended(usual, [STOP, used(200, 100), END], strips=False)
    learnt = dict(usual.endings)
    ended(usual, [STOP, used(201, 101), END], strips=False)
    assert usual.endings == learnt
    ended(usual, [STOP, USAGES["the sum before what was written"], END], strips=False)  # as long
    assert usual.endings.keys() == learnt.keys()
    assert usual.endings != learnt


def said(*texts: bytes) -> list[bytes]:
    return [TEXT.replace(b"Hello", text) for text in texts]


def at(id: bytes, *frames: bytes) -> bytes:
    """In one read."""
    return HEAD + chunks(*own(id, b"1760000001", *frames)) + LAST


USAGE, OTHER_ID = used(200, 100, **ZEROS), b"chatcmpl-b_-1"
# A stream that came in one read, behind one of two texts -> whether it is known.
WHOLE: dict[str, tuple[bytes, bool]] = {
    "the same": (at(b"chatcmpl-aaaa", ROLE, *said(b"Hello", b" you"), STOP, USAGE, END), True),
    "another id": (at(OTHER_ID, ROLE, *said(b"Hello", b" you"), STOP, USAGE, END), True),
    "one text": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, USAGE, END), True),
    "eight texts": (at(OTHER_ID, ROLE, *said(*[b"and more of it"] * 8), STOP, USAGE, END), True),
    "too many texts": (at(OTHER_ID, ROLE, *said(*[b"and more of it"] * 20), STOP, USAGE, END), False),
    "no text": (at(OTHER_ID, ROLE, STOP, USAGE, END), False),
    "an empty text": (at(OTHER_ID, ROLE, *said(b"Hello", b""), STOP, USAGE, END), False),
    "a text with escapes": (at(OTHER_ID, ROLE, *said(b"a\\n\\u0041"), STOP, USAGE, END), True),
    "a text with a quote": (at(OTHER_ID, ROLE, *said(b'a\\"b'), STOP, USAGE, END), False),
    "a text beyond ASCII": (at(OTHER_ID, ROLE, *said("日本".encode()), STOP, USAGE, END), True),
    "a text that is no JSON": (at(OTHER_ID, ROLE, *said(b"Hello", b"a\\"), STOP, USAGE, END), False),
    "a text of two lines": (at(OTHER_ID, ROLE, *said(b"a\nb"), STOP, USAGE, END), False),
    "a text that is no UTF-8": (at(OTHER_ID, ROLE, *said(b"Hell\xff"), STOP, USAGE, END), False),
    "half a letter in each of two": (at(OTHER_ID, ROLE, *said(b"\xe6\x97", b"\xa5"), STOP, USAGE, END), False),
    "two texts in a chunk": (
        HEAD + chunks(*own(OTHER_ID, b"1760000001", ROLE, b"".join(said(b"a", b"b")), STOP, USAGE, END)) + LAST, False
    ),
    "other counts": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, used(345, 178, **ZEROS), END), True),
    "a longer count": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, used(1200, 178, **ZEROS), END), False),
    "another end": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP.replace(b"stop", b"okay"), USAGE, END), False),
    "no usage": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, END), False),
    "the end twice": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, USAGE, END, END), False),
    "a text behind the end": (at(OTHER_ID, ROLE, *said(b"Hello"), STOP, USAGE, END, *said(b"Hello")), False),
    "another text's id": (
        at(OTHER_ID, ROLE, *said(b"Hello")).removesuffix(LAST) + at(b"chatcmpl-cccc", STOP, USAGE, END)[len(HEAD) :],
        False,
    ),
    "a size too large": (
        at(OTHER_ID, ROLE, *said(b"Hello"), STOP, USAGE, END).replace(b"e\r\ndata: [", b"f\r\ndata: ["), False
    ),
    "nothing behind its beginning": (HEAD + chunks(*own(OTHER_ID, b"1760000001", ROLE)) + LAST, False),
    "its beginning alone": (HEAD + chunks(*own(OTHER_ID, b"1760000001", ROLE)), False),
}  # fmt: skip


@each(("data", "known"), WHOLE.values(), ids=WHOLE)
@each("strips", [False, True])
@each("behind", [False, True])  # the head
def test_all_of_a_stream_is_known_by_its_beginning_its_end_and_texts_between(
    data: bytes, known: bool, strips: bool, behind: bool
) -> None:
    usual = opened(None, chunks(FIRST), FIRST) if behind else opened(HEARD, HEAD + chunks(FIRST), FIRST)
    ended(usual, own(b"chatcmpl-aaaa", b"1760000001", STOP, USAGE, END), strips=strips)
    body = data.removeprefix(HEAD)
    assert usual.opening is not None
    whole = usual.whole(usual.opening, body if behind else data)
    assert (whole is not None) == known
    if whole is not None:
        told = at_once(OPENAI, raw_frames(Parser(HEARD, framing="chunked").feed(body)), strip_usage=strips)
        assert told is not None
        out, size, usage, edits = whole
        assert (size, usage, edits) == (len(told.out), told.usage, told.edits)
        parser = Parser(HEARD, framing="chunked")
        assert parser.feed(out) == told.out
        assert parser.done
        assert not parser.surplus


@given(st.data(), st.booleans())
def test_all_of_a_stream_that_differs_in_a_byte_is_what_its_frames_say_or_is_not_known(
    draw: st.DataObject, strips: bool
) -> None:
    usual = opened(None, chunks(FIRST), FIRST)
    ended(usual, own(b"chatcmpl-aaaa", b"1760000001", STOP, USAGE, END), strips=strips)
    data = bytearray(WHOLE["another id"][0].removeprefix(HEAD))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.sampled_from([*b'09a"\\ \r\n,:}{.-\x00\xff']))
    assert usual.opening is not None
    whole = usual.whole(usual.opening, bytes(data))
    if whole is not None:
        parser = Parser(HEARD, framing="chunked")
        told = at_once(OPENAI, raw_frames(parser.feed(bytes(data))), strip_usage=strips)
        assert parser.done
        assert told is not None
        assert (whole[1], whole[2]) == (len(told.out), told.usage)
