"""Both kinds of stream as scripts: what a provider sends, cut anywhere, and what may leave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st
from playbook import CHAT, MESSAGES, TONGUES, Tongue, chunk, event
from shares import product_of

from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Voice
from proxy.errors import UpstreamBroken, UpstreamError, UpstreamOverloaded
from proxy.streams import HELD_BYTES, HELD_EVENTS, Passthrough, Stream, Translation, oversize, runs

VOICE = Voice("req_1", "asked-for", 1)
PAIRS = {f"{ours} by {theirs}": (TONGUES[ours], TONGUES[theirs]) for ours in TONGUES for theirs in TONGUES}
all_kinds = pytest.mark.parametrize(("tongue", "theirs"), PAIRS.values(), ids=PAIRS)
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
USAGE = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})


def made(tongue: Tongue, theirs: Tongue) -> Stream:
    """Passthrough where both sides speak the same, else a translation."""
    if tongue is theirs:
        return Passthrough(DIALECTS[theirs.name], VOICE)
    return Translation(DIALECTS[theirs.name], DIALECTS[tongue.name], VOICE)


@frozen
class Played:
    out: bytes = field(eq=lambda out: out.rstrip(b"\n"))  # a CR ends the last line; the LF behind it may come too late
    failed: type[UpstreamError] | None  # what feed or close raised
    done: bool
    committed: bool
    failure: type[Exception] | None


def play(stream: Stream, chunks: Iterable[bytes], *, ends: bool = True) -> Played:
    """As the relay does it: feed until done, then close."""
    out, failed = b"", None
    try:
        for piece in chunks:
            if stream.done:
                break
            out += stream.feed(piece)
        if ends and not stream.done:
            out += stream.close()
    except UpstreamError as exc:
        failed = type(exc)
    return Played(out, failed, stream.done, stream.committed, type(stream.failure) if stream.failure else None)


def cuts(raw: bytes) -> Iterable[tuple[bytes, ...]]:
    """Whole, in two at every place, byte by byte."""
    yield (raw,)
    for at in range(1, len(raw)):
        yield raw[:at], raw[at:]
    yield tuple(raw[at : at + 1] for at in range(len(raw)))


NO_UTF8 = {
    "a byte of no character": b"\xff",
    "an overlong one": b"\xc0\xaf",
    "half a surrogate pair": b"\xed\xa0\x80",
    "half a character": b"\xe2\x82",
}


def misspelt(theirs: Tongue, raw: bytes = b"\xff") -> list[bytes]:
    """Frames of which the first is no text."""
    return [theirs.text("bad").replace(b"bad", raw), theirs.text("behind")]


TEXT = "Grüße 😀\u2028"


def script(theirs: Tongue, name: str) -> bytes:
    good = theirs.stream("Hi ", TEXT)
    error = theirs.error_frame("overloaded_error", "Busy.")
    parts: dict[str, list[bytes]] = {
        "a good one": good,
        "with a BOM that is none": [b"\n\xef\xbb\xbf", theirs.start, b"\xef\xbb\xbf: x\n\n", *good],
        "with CRLF": [frame.replace(b"\n", b"\r\n") for frame in good],
        "with keep-alives": [frame for pair in good for frame in (theirs.keep_alive, pair)],
        "with a BOM": [b"\xef\xbb\xbf", *good],
        "without its terminator": good[:-1],
        "without its last blank line": [*good[:-1], good[-1].rstrip(b"\n")],
        "an error after content": [*good[:-2], error],
        "an error after content without its blank line": [*good[:-2], error.rstrip(b"\n")],
        "an error before content": [theirs.start, theirs.keep_alive, error],
        "an end after content": good[:-2],
        "an end before content": [theirs.start],
        "an end in a frame": [*good[:-3], good[-3][:-12]],
        "nothing": [],
        "a finish and no word": [theirs.start, theirs.finish, theirs.end],
        "a terminator and no word": [theirs.start, theirs.end],
        "surplus": [*good, theirs.text("more"), error],
        "garbage before content": [theirs.start, b"data: {{{\n\n", *good[1:]],
        "no UTF-8 before content": [theirs.start, *misspelt(theirs), *good[1:]],
        "no UTF-8 after content": [*good[:-2], *misspelt(theirs), *good[-2:]],
    }
    return b"".join(parts[name])


NAMES = (
    "a good one", "with a BOM that is none", "with CRLF", "with keep-alives", "with a BOM", "without its terminator",
    "without its last blank line", "an error after content", "an error after content without its blank line",
    "an error before content", "an end after content", "an end before content", "an end in a frame", "nothing",
    "a finish and no word", "a terminator and no word", "surplus", "garbage before content", "no UTF-8 before content",
    "no UTF-8 after content",
)  # fmt: skip


@pytest.mark.parametrize(("name", "pair"), product_of({name: name for name in NAMES}, PAIRS, fast=1, of=2))
def test_what_leaves_does_not_depend_on_where_the_bytes_are_cut(name: str, pair: tuple[Tongue, Tongue]) -> None:
    tongue, theirs = pair
    raw = script(theirs, name)
    whole = play(made(tongue, theirs), (raw,))
    for pieces in cuts(raw):
        assert play(made(tongue, theirs), pieces) == whole, pieces


ENDS_WELL = ("a good one", "with CRLF", "with keep-alives", "with a BOM", "without its terminator", "surplus")


@all_kinds
@pytest.mark.parametrize("name", ENDS_WELL)
def test_a_good_stream_says_all_and_ends_as_its_dialect_wants(tongue: Tongue, theirs: Tongue, name: str) -> None:
    played = play(made(tongue, theirs), (script(theirs, name),))
    out = played.out.replace(b"\r\n", b"\n")
    assert (played.failed, played.failure, played.done, played.committed) == (None, None, True, True)
    assert tongue.read_stream(out) == "Hi " + TEXT
    assert out.endswith(tongue.end)
    assert out.count(tongue.end) == 1


@both_surfaces
@pytest.mark.parametrize("name", ["a good one", "with CRLF", "with keep-alives", "with a BOM"])
def test_bytes_of_the_same_dialect_are_the_providers_own(tongue: Tongue, name: str) -> None:
    raw = script(tongue, name)
    assert play(made(tongue, tongue), (raw,)).out == raw


RAISES = {
    "an error before content": UpstreamOverloaded,
    "an end before content": UpstreamBroken,
    "nothing": UpstreamBroken,
    "a terminator and no word": UpstreamBroken,
    "garbage before content": UpstreamBroken,
    "no UTF-8 before content": UpstreamBroken,
}


@all_kinds
@pytest.mark.parametrize(("name", "kind"), RAISES.items(), ids=RAISES)
def test_a_failure_before_content_is_raised_and_nothing_has_left(
    tongue: Tongue, theirs: Tongue, name: str, kind: type[UpstreamError]
) -> None:
    played = play(made(tongue, theirs), (script(theirs, name),))
    assert (played.out, played.failed, played.committed) == (b"", kind, False)


@all_kinds
@pytest.mark.parametrize("name", ["an error after content", "an error after content without its blank line"])
def test_an_error_after_content_leaves_whole_and_ends_the_stream(tongue: Tongue, theirs: Tongue, name: str) -> None:
    played = play(made(tongue, theirs), (script(theirs, name),))
    assert (played.failed, played.failure, played.done) == (None, UpstreamOverloaded, True)
    assert b"Busy." in played.out
    assert played.out.endswith(b"\n\n")
    assert tongue.end not in played.out


@all_kinds
@pytest.mark.parametrize("stub", [b"d", b"data", b"event: mess", b'data: {"a'])
def test_the_beginning_of_a_frame_behind_an_error_is_no_frame(tongue: Tongue, theirs: Tongue, stub: bytes) -> None:
    whole = script(theirs, "an error after content")
    played = play(made(tongue, theirs), (whole, stub))
    assert (played.failed, played.failure, played.done) == (None, UpstreamOverloaded, True)
    assert played.out == play(made(tongue, theirs), (whole,)).out


@pytest.mark.parametrize(("tongue", "theirs"), [(CHAT, MESSAGES), (MESSAGES, CHAT)], ids=["chat", "messages"])
def test_what_stands_behind_an_error_is_no_surplus_however_it_came(tongue: Tongue, theirs: Tongue) -> None:
    error, more = theirs.error_frame("overloaded_error", "Busy."), theirs.text("more")
    said = theirs.stream("Hello")
    begun = said[: said.index(theirs.text("Hello")) + 1]
    for pieces in ([*begun, error, more], [b"".join([*begun, error, more])]):
        stream = made(tongue, theirs)
        for piece in pieces:
            if not stream.done:
                stream.feed(piece)
        assert stream.failure is not None
        assert not stream.edits.get("surplus_dropped")


@all_kinds
@pytest.mark.parametrize("name", ["an end after content", "an end in a frame"])
def test_an_end_after_content_is_raised_and_can_be_told(tongue: Tongue, theirs: Tongue, name: str) -> None:
    stream = made(tongue, theirs)
    played = play(stream, (script(theirs, name),))
    assert (played.failed, played.committed, stream.torn) == (UpstreamBroken, True, False)
    told = played.out + stream.fail(UpstreamBroken("It was cut."))
    assert stream.done
    assert b"It was cut." in told
    assert told.endswith(b"\n\n")
    assert tongue.end not in told
    assert "Hi " in tongue.read_stream(told.partition(b"It was cut.")[0].rpartition(b"\n\n")[0])


@all_kinds
def test_what_the_last_frame_of_a_cut_stream_says_is_told_before_the_error(tongue: Tongue, theirs: Tongue) -> None:
    """A whole frame without its blank line."""
    begun = [theirs.start, theirs.opening, theirs.text("some"), theirs.text("more").rstrip(b"\n")]
    stream = made(tongue, theirs)
    played = play(stream, (b"".join(begun),))
    assert played.failed is UpstreamBroken
    said, _, _ = (played.out + stream.fail(UpstreamBroken("It was cut."))).partition(b"It was cut.")
    assert tongue.read_stream(said.rpartition(b"\n\n")[0]) == "somemore"


@all_kinds
def test_garbage_after_content_takes_no_content_along(tongue: Tongue, theirs: Tongue) -> None:
    begun = [theirs.start, theirs.opening, theirs.text("some"), theirs.text("more")]
    raw = b"".join([*begun, b"data: {{{\n\n", theirs.text("behind"), theirs.closing, theirs.finish, theirs.end])
    for pieces in cuts(raw):
        stream = made(tongue, theirs)
        played = play(stream, pieces)
        if tongue is theirs:
            assert played.out == raw  # the client's own parser will judge
        else:
            assert b"some" in played.out
            assert b"more" in played.out
            assert b"behind" not in played.out
            assert played.failure is UpstreamBroken


@all_kinds
@pytest.mark.parametrize("raw", NO_UTF8.values(), ids=NO_UTF8)
@pytest.mark.parametrize("before", [0, 1, 20], ids="{} frames of text before".format)
def test_what_is_not_utf8_ends_the_stream_with_an_error(
    tongue: Tongue, theirs: Tongue, raw: bytes, before: int
) -> None:
    """Wherever it comes: alone, amid a run, cut."""
    words = [theirs.text(f"w{n} ") for n in range(before)]
    reads = [
        theirs.start,
        theirs.opening,
        theirs.text("Hi "),
        *words,
        *misspelt(theirs, raw),
        theirs.finish,
        theirs.end,
    ]
    whole = b"".join(reads)
    for pieces in (reads, [whole], [whole[at : at + 50] for at in range(0, len(whole), 50)]):
        played = play(made(tongue, theirs), pieces)
        assert (played.failed, played.failure, played.done) == (None, UpstreamBroken, True)
        assert played.out.isascii()
        assert played.out.count(b"UTF-8" if tongue is theirs else b'"error":') == 1
        assert (b"behind" in played.out, tongue.end in played.out) == (False, False)
        assert tongue.read_stream(played.out) == "Hi " + "".join(f"w{n} " for n in range(before))


@both_surfaces
@pytest.mark.parametrize("frame", [b": \xff\n\n", b"event: \xff\ndata: {}\n\n", b"\xff: x\n\n"])
def test_what_is_no_event_has_to_be_utf8_as_well(tongue: Tongue, frame: bytes) -> None:
    assert play(made(tongue, tongue), [tongue.start, frame]).failed is UpstreamBroken
    after = play(made(tongue, tongue), [tongue.start, tongue.opening, tongue.text("Hi"), frame])
    assert (after.failure, b"\xff" in after.out) == (UpstreamBroken, False)


@both_surfaces
def test_surplus_that_is_not_utf8_is_surplus(tongue: Tongue) -> None:
    good = b"".join(tongue.stream("Hi"))
    for pieces in ([good + b": \xff\n\n"], [good, b": \xff\n\n"]):
        played = play(made(tongue, tongue), pieces)
        assert (played.out, played.failure, played.done) == (good, None, True)


# -- the commit --------------------------------------------------------------------------------------------------


@all_kinds
def test_nothing_leaves_before_content_and_everything_with_it(tongue: Tongue, theirs: Tongue) -> None:
    stream = made(tongue, theirs)
    opening = [theirs.opening] if theirs.opening else []
    for frame in [theirs.keep_alive, theirs.start, theirs.keep_alive, *opening, theirs.text("")]:
        assert stream.feed(frame) == b""
        assert not stream.committed
    first = stream.feed(theirs.text("one"))
    assert stream.committed
    assert tongue.read_stream(first) == "one"
    assert tongue.read_stream(stream.feed(theirs.text("two"))) == "two"


@both_surfaces
def test_so_many_lifecycle_events_are_held_and_one_more_commits(tongue: Tongue) -> None:
    stream = made(tongue, tongue)
    for _ in range(HELD_EVENTS):
        assert stream.feed(tongue.keep_alive) == b""
    assert not stream.committed
    assert stream.feed(tongue.keep_alive) == tongue.keep_alive * (HELD_EVENTS + 1)
    assert stream.committed


@both_surfaces
def test_so_many_bytes_are_held_and_then_all_go(tongue: Tongue) -> None:
    comment = b": " + b"x" * 50_000 + b"\n\n"
    stream, out, fed = made(tongue, tongue), b"", b""
    while not stream.committed:
        fed += comment
        out += stream.feed(comment)
    assert len(fed) - len(comment) <= HELD_BYTES < len(fed)
    assert out == fed


@both_surfaces
def test_an_unknown_event_is_content(tongue: Tongue) -> None:
    novel = event("novel", x=1) if tongue is MESSAGES else b'data: {"novel": 1}\n\n'
    stream = made(tongue, tongue)
    assert stream.feed(novel) == novel
    assert stream.committed


# -- edits -------------------------------------------------------------------------------------------------------


def test_the_usage_that_we_asked_for_is_taken_out_at_every_cut() -> None:
    good = CHAT.stream("Hi ", TEXT)
    raw = b"".join([*good[:-1], USAGE, good[-1]])
    for pieces in cuts(raw):
        stream = Passthrough(DIALECTS["openai-chat"], VOICE, strip_usage=True)
        assert play(stream, pieces).out == b"".join(good)
        assert stream.edits == {"usage_removed": 1}
        assert stream.usage is not None
        assert stream.usage.output == 2


def test_usage_before_content_is_taken_out_as_well() -> None:
    good = CHAT.stream("Hi ")
    stream = Passthrough(DIALECTS["openai-chat"], VOICE, strip_usage=True)
    assert play(stream, [good[0], USAGE, *good[1:]]).out == b"".join(good)


EDITS = {"a good one": {}, "without its terminator": {"terminator_added": 1}, "surplus": {"surplus_dropped": 1}}


@all_kinds
@pytest.mark.parametrize(("name", "edits"), EDITS.items(), ids=EDITS)
def test_every_edit_is_counted(tongue: Tongue, theirs: Tongue, name: str, edits: dict[str, int]) -> None:
    stream = made(tongue, theirs)
    play(stream, (script(theirs, name),))
    if "surplus_dropped" not in edits or tongue is theirs:  # some decoders hear nothing behind the end
        assert {kind: count for kind, count in stream.edits.items() if count} == edits


@all_kinds
def test_usage_and_the_reason_are_known_at_the_end(tongue: Tongue, theirs: Tongue) -> None:
    good = theirs.stream("Hi")
    stream = made(tongue, theirs)
    play(stream, [*good[:-1], USAGE, good[-1]] if theirs is CHAT else good)
    assert stream.stop == "end"
    assert stream.usage is not None
    assert (stream.usage.input, stream.usage.output) == (7, 2)


# -- runs of text ------------------------------------------------------------------------------------------------

WORDS = (
    "word",
    "",
    " ",
    "Grüße",
    "😀",
    'a "quoted" one',
    "two\nlines",
    "\\",
    "\t\x7f",
    "\u2028",
    "}}",
    "[DONE]",
    "error",
)


def spelt(tongue: Tongue, text: str, *, escaped: bool) -> bytes:
    """A frame of text as a writer has it that escapes all that it may."""
    frame = tongue.text("\0")
    return frame.replace(b"\\u0000", json.dumps(text)[1:-1].encode()) if escaped else tongue.text(text)


@all_kinds
@given(data=st.data())
def test_a_run_of_text_leaves_as_its_frames_would_one_by_one(
    tongue: Tongue, theirs: Tongue, data: st.DataObject
) -> None:
    texts = data.draw(st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), max_size=12))
    others = [theirs.keep_alive, theirs.text("x").replace(b"x", b"\\ud83d"), b"data: \n\n", b"\n"]
    frames = [spelt(theirs, text, escaped=escaped) for text, escaped in texts]
    for place in data.draw(st.lists(st.integers(0, len(frames)), max_size=3)):
        frames.insert(place, data.draw(st.sampled_from(others)))
    reads = [theirs.start, theirs.opening, theirs.text("one"), *frames, theirs.closing, theirs.finish, theirs.end]
    raw = b"".join(reads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "MOULDS", 0)
        plain = play(made(tongue, theirs), (raw,))
    assert play(made(tongue, theirs), (raw,)) == plain
    assert play(made(tongue, theirs), [raw[at : at + 50] for at in range(0, len(raw), 50)]) == plain
    assert play(made(tongue, theirs), reads) == plain
    cut = data.draw(st.integers(1, len(reads[-4])))  # a read that begins or ends amid a frame, among whole ones
    assert play(made(tongue, theirs), [*reads[:-4], reads[-4][:cut], reads[-4][cut:], *reads[-3:]]) == plain


@all_kinds
@pytest.mark.parametrize("texts", [["a", "bc"], ["Grüße 😀", "a"], ['"', "a"], ["\n", "a"], ["", "a"], ["a", "\\"]])
def test_what_is_recast_on_the_wire_is_what_its_body_would_give(
    tongue: Tongue, theirs: Tongue, texts: list[str]
) -> None:
    before = [theirs.start, *filter(None, [theirs.opening]), *map(theirs.text, ("one", "two", "three"))]
    wired, fed = made(tongue, theirs), made(tongue, theirs)
    for raw in before:
        assert wired.feed(raw) == fed.feed(raw)
    for raw in [*map(theirs.text, texts), theirs.keep_alive, theirs.text("end")]:
        out = wired.recast(b"%x\r\n%b\r\n" % (len(raw), raw))
        assert (wired.feed(raw) if out is None else out) == fed.feed(raw)
    rest = theirs.closing + theirs.finish + theirs.end
    assert wired.feed(rest) == fed.feed(rest)
    assert wired.done


@all_kinds
@given(data=st.data())
def test_runs_are_recast_on_the_wire_as_far_as_they_are_runs(
    tongue: Tongue, theirs: Tongue, data: st.DataObject
) -> None:
    others = [theirs.keep_alive, theirs.text("x").replace(b"x", b"\\ud83d"), theirs.text("x").replace(b"x", b"\xff")]
    frames = list(map(theirs.text, data.draw(st.lists(st.sampled_from(WORDS), max_size=12))))
    for place in data.draw(st.lists(st.integers(0, len(frames)), max_size=2)):
        frames.insert(place, data.draw(st.sampled_from(others)))
    before = [theirs.start, *filter(None, [theirs.opening]), *map(theirs.text, ("one", "two", "three"))]
    wired, fed = made(tongue, theirs), made(tongue, theirs)
    for raw in before:
        assert wired.feed(raw) == fed.feed(raw)
    chunks = [b"%x\r\n%b\r\n" % (len(raw), raw) for raw in frames]
    out, end = wired.recast_run(b"1\r\nx\r\n" + b"".join(chunks), 6)
    taken = [sum(map(len, chunks[:count])) for count in range(len(chunks) + 1)].index(end - 6)
    assert out + wired.feed(b"".join(frames[taken:])) == fed.feed(b"".join(frames))


def test_texts_of_a_run_are_recast() -> None:
    stream = made(CHAT, MESSAGES)
    for raw in (MESSAGES.start, MESSAGES.opening, MESSAGES.text("one"), MESSAGES.text("two")):
        stream.feed(raw)
    raw = MESSAGES.text("three")
    assert b"three" in (stream.recast(b"%x\r\n%b\r\n" % (len(raw), raw)) or b"")
    assert stream.recast(b"%x\r\n%b\r\n" % (len(raw) * 2, raw * 2)) is None
    many = b"%x\r\n%b\r\n" % (len(raw), raw) * 3
    out, end = stream.recast_run(many, 0)
    assert (out.count(b"three"), end) == (3, len(many))


LIES = {
    "usage": b', "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}',
    "error": b', "error": {"message": "Busy.", "type": "overloaded_error", "param": null, "code": null}',
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_stands_beside_a_text_of_a_run_is_not_overlooked(lie: bytes) -> None:
    texts = [CHAT.text("Hi "), CHAT.text("there"), CHAT.text("you").replace(b"}\n\n", lie + b"}\n\n")]
    reads = [CHAT.start, *texts, CHAT.finish, CHAT.end]
    for tongue, chunks in product(TONGUES.values(), (reads, [b"".join(reads)])):
        stream = made(tongue, CHAT)
        play(stream, chunks)
        assert (stream.usage is not None) == (b"usage" in lie)
        assert isinstance(stream.failure, UpstreamOverloaded) == (b"error" in lie)


# -- giant frames ------------------------------------------------------------------------------------------------


@both_surfaces
def test_a_frame_beyond_the_buffer_passes_as_it_comes(tongue: Tongue) -> None:
    big = tongue.text("y" * 300_000)
    good = tongue.stream("Hi")
    raw = b"".join([*good[:-2], big, *good[-2:]])
    stream = made(tongue, tongue)
    torn = False
    out = b""
    for at in range(0, len(raw), 10_000):
        out += stream.feed(raw[at : at + 10_000])
        torn = torn or stream.torn
    assert out + stream.close() if not stream.done else out == raw
    assert torn
    assert not stream.torn


@both_surfaces
def test_a_cut_in_a_giant_frame_cannot_be_told(tongue: Tongue) -> None:
    stream = made(tongue, tongue)
    stream.feed(b"".join(tongue.stream("Hi")[:-2]))
    stream.feed(tongue.text("y" * 300_000)[:-10])
    assert stream.torn
    with pytest.raises(UpstreamBroken):
        stream.close()


@all_kinds
def test_a_frame_without_an_end_is_bounded_where_it_is_collected(
    tongue: Tongue, theirs: Tongue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oversize, "LONGEST", 1 << 20)
    stream = made(tongue, theirs)
    block = b"x" * (1 << 20)
    stream.feed(theirs.text("Hi") + b"data: ")

    def flood() -> None:
        for _ in range(40):
            stream.feed(block)

    with pytest.raises(UpstreamBroken):
        flood()


# -- secrets in a provider's words -------------------------------------------------------------------------------


@all_kinds
def test_an_error_that_leaves_is_cleaned(tongue: Tongue, theirs: Tongue) -> None:
    raw = b"".join([*theirs.stream("Hi")[:-2], theirs.error_frame("server_error", "Bad key k-123.")])
    for pieces in cuts(raw):
        if tongue is theirs:
            stream: Stream = Passthrough(DIALECTS[theirs.name], VOICE, clean=lambda text: text.replace("k-123", "***"))
        else:
            spoken = DIALECTS[tongue.name]
            stream = Translation(DIALECTS[theirs.name], spoken, VOICE, clean=lambda text: text.replace("k-123", "***"))
        out = play(stream, pieces).out
        assert b"k-123" not in out
        assert b"Bad key ***." in out


KEYED = {
    "alone": [b": the key is k-123\n\n"],
    "several lines": [b": a\n:k-123\n: k-123 \n\n"],
    "with CRLF": [b": the key is k-123\r\n\r\n"],
    "with CR": [b": a\r:k-123\r\r"],
    "thrice": [b": k-123\n\n"] * 3,
}


def discreet(tongue: Tongue) -> Passthrough:
    return Passthrough(DIALECTS[tongue.name], VOICE, clean=lambda text: text.replace("k-123", "***"))


@both_surfaces
@pytest.mark.parametrize("comments", KEYED.values(), ids=KEYED)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "above the data"])
def test_no_comment_tells_a_key_wherever_it_stands(tongue: Tongue, comments: list[bytes], inside: bool) -> None:
    """Before content, behind it, between the frames of a run, in every frame of one, behind the end."""
    good = [frame for frame in (tongue.start, tongue.opening, *map(tongue.text, "abcdefghijklmnopqrst")) if frame]
    said = [comment.rstrip(b"\r\n") + b"\n" if inside else comment for comment in comments]
    frames = [piece for frame in good for piece in (*said, frame)] + [
        *good[-9:],
        *said,
        tongue.finish,
        *said,
        tongue.end,
    ]
    raw = b"".join(frames)
    clean = raw.replace(b"k-123", b"***")
    for pieces in ([raw], frames, [raw[at : at + 50] for at in range(0, len(raw), 50)], [raw + said[0]]):
        stream = discreet(tongue)
        assert play(stream, pieces).out == clean
        assert stream.edits["comment_masked"] > 0
    assert play(discreet(tongue), [raw.replace(b"k-123", b"k-456")]).out == raw.replace(b"k-123", b"k-456")


@both_surfaces
def test_no_tail_tells_a_key_in_a_comment(tongue: Tongue) -> None:
    begun = [tongue.start, tongue.opening, tongue.text("Hi")]
    for tail in (b": k-123", b": k-123\n", b": k-123\n\n"):
        for frames in (begun, [*begun, tongue.finish], tongue.stream("Hi")):
            assert b"k-123" not in play(discreet(tongue), [*frames, tail]).out


@both_surfaces
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_giant_frame_tells_no_key_in_a_comment(tongue: Tongue, end: bytes) -> None:
    """It leaves in pieces, so comments are not kept whole, or a key might be cut."""
    big = end.join(
        [b": k-123", tongue.text("y" * 300_000).rstrip(b"\n"), b": k-123" * 30_000, b": k-123", b"id: 1", b""]
    )
    raw = b"".join([tongue.start, tongue.opening, tongue.text("Hi"), big + end, tongue.finish, tongue.end])
    for size in (10_000, 65_539, 70_001, len(raw)):
        out = play(discreet(tongue), [raw[at : at + size] for at in range(0, len(raw), size)]).out
        assert b"k-12" not in out
        assert tongue.read_stream(out.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) == "Hi" + "y" * 300_000
        assert out.endswith(tongue.end)


@both_surfaces
def test_a_giant_frame_that_is_not_utf8_can_only_be_broken_off(tongue: Tongue) -> None:
    raw = b"".join([tongue.start, tongue.opening, tongue.text("Hi"), tongue.text("ü" * 200_000)])
    for size in (9_999, 70_001):
        stream = made(tongue, tongue)
        assert b"".join(stream.feed(raw[at : at + size]) for at in range(0, len(raw), size)) == raw
    bad = raw[:-1000] + b"\xff" + raw[-1000:]
    stream = made(tongue, tongue)
    played = play(stream, [bad[at : at + 10_000] for at in range(0, len(bad), 10_000)])
    assert (played.failed, stream.torn, b"\xff" in played.out) == (UpstreamBroken, True, False)


@all_kinds
@given(data=st.data())
def test_a_good_stream_in_any_pieces(tongue: Tongue, theirs: Tongue, data: st.DataObject) -> None:
    raw = script(theirs, "with CRLF")
    places = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    assert play(made(tongue, theirs), pieces) == play(made(tongue, theirs), (raw,))
