"""Frames too long to be held, which leave in pieces: no key leaves with them, and an error among them is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from faults.responses import RESPONSES, SURFACES, frames
from hypothesis import given
from hypothesis import strategies as st
from playbook import MESSAGES, Tongue
from shares import product_of
from test_streams import VOICE, play

from proxy.dialects import DIALECTS
from proxy.errors import UpstreamBroken, UpstreamFailed, UpstreamOverloaded
from proxy.streams import Passthrough
from proxy.streams.oversize import Oversize
from proxy.wire.sse import Borders

KEY, HOST = "k-1234567/canary", "internal.example"
BORDER = 64 << 10  # bytes of a frame that are held
SIZES = (1_000, 10_000, BORDER - 1, BORDER + 3, 70_001)
KEYS = {
    "as it is": KEY,
    "a letter escaped": KEY.replace("k", "\\u006b"),
    "all escaped": "".join(f"\\u{ord(letter):04X}" for letter in KEY),
    "its slash escaped": KEY.replace("/", "\\/"),
}
SPOKEN = {tongue.surface: tongue for tongue in SURFACES}
every_surface = pytest.mark.parametrize("tongue", SURFACES, ids=lambda tongue: tongue.surface)
every_spelling = pytest.mark.parametrize("spelt", KEYS.values(), ids=KEYS)


def made(tongue: Tongue) -> Passthrough:
    def clean(text: str) -> str:
        return text.replace(KEY, "***").replace(HOST, "***")

    return Passthrough(DIALECTS[tongue.name], VOICE, clean=clean, keys=lambda: [KEY])


def begun(tongue: Tongue) -> bytes:
    """A stream up to its first text."""
    said = frames(tongue, "Hi")
    return b"".join(said[: said.index(tongue.text("Hi")) + 1])


def error(tongue: Tongue, words: str, kind: str = "server_error") -> bytes:
    """An error's frame, its words as they stand in JSON."""
    return tongue.error_frame(kind, "WORDS").replace(b"WORDS", words.encode())


def pieces(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


def tells_no_key(out: bytes, error_type: bytes = b"error") -> None:
    """Nor half of one, and the client can read what it got."""
    for frame in out.split(b"\n\n"):
        for line in frame.split(b"\n"):
            if line.startswith(b"data: {"):
                told = json.loads(line.removeprefix(b"data: "))
                assert KEY[:6] not in str(told)
                assert HOST not in str(told)
    assert error_type in out


@pytest.mark.parametrize(
    ("tongue", "spelt", "before"), product_of(SPOKEN, KEYS, {"first": False, "behind content": True}, fast=1, of=2)
)
def test_a_giant_error_tells_no_key_wherever_it_stands_and_is_cut(tongue: Tongue, spelt: str, before: bool) -> None:
    for place in range(BORDER - 120, BORDER + 10, 13):
        raw = error(tongue, "y" * place + f" bad key {spelt} at {HOST} " + "z" * 70_000)
        raw = begun(tongue) + raw if before else raw
        for size in SIZES:
            stream = made(tongue)
            played = play(stream, pieces(raw, size))
            if before:
                assert played.failure is UpstreamFailed
                tells_no_key(played.out)
            else:
                assert (played.out, played.failed) == (b"", UpstreamFailed)


@every_surface
@pytest.mark.parametrize("since", [0, *(pytest.param(since, marks=pytest.mark.slow) for since in (1, 2))])
def test_a_giant_error_is_told_at_every_cut_around_the_border(tongue: Tongue, since: int) -> None:
    raw = begun(tongue) + error(tongue, "y" * (BORDER - 60) + f" {KEY} " + "z" * 200, "overloaded_error")
    for at in range(BORDER - 80 + since, len(raw), 3):
        stream = made(tongue)
        played = play(stream, [raw[:at], raw[at:]])
        assert (played.failure, stream.torn) == (UpstreamOverloaded, False)
        tells_no_key(played.out)


@every_surface
@every_spelling
def test_an_error_that_shows_late_tells_no_key_either(tongue: Tongue, spelt: str) -> None:
    """Its first members are those of any event: they have left when it turns out to be one."""
    head = '"type":"error","filler"' if tongue is MESSAGES else '"filler"'
    for place in (100, BORDER - 150, BORDER - 60, BORDER + 5_000):
        words = (
            f'{{{head}:"{"y" * place}{spelt}{"z" * 80_000}","error":{{"message":"{spelt} at {HOST}","code":"500"}}}}'
        )
        raw = begun(tongue) + b"data: " + words.encode() + b"\n\n"
        for size in SIZES:
            played = play(made(tongue), pieces(raw, size))
            assert played.failure is not None
            tells_no_key(played.out)


@pytest.mark.parametrize("begins", ["event: ", "event:"])
@pytest.mark.parametrize("kind", ["error", "response.failed"])
def test_an_error_shows_by_the_name_of_its_event_alone(begins: str, kind: str) -> None:
    oversize = Oversize([KEY])
    raw = f"{begins}{kind}\n".encode() + b'data: {"filler":"' + b"y" * 90_000
    assert b"".join(map(oversize.feed, pieces(raw, 10_000))) == b""
    assert not oversize.left


@every_surface
def test_half_a_giant_error_is_a_cut_that_can_be_told(tongue: Tongue) -> None:
    """Nothing of it has left."""
    raw = begun(tongue) + error(tongue, "y" * 90_000 + KEY)[:-30]
    stream = made(tongue)
    played = play(stream, pieces(raw, 10_000))
    assert (played.failed, stream.torn) == (UpstreamBroken, False)
    tells_no_key(played.out + stream.fail(UpstreamBroken("cut")))


@every_surface
def test_a_giant_error_without_its_blank_line_is_told(tongue: Tongue) -> None:
    raw = begun(tongue) + error(tongue, "y" * 90_000 + KEY).rstrip(b"\n")
    stream = made(tongue)
    played = play(stream, pieces(raw, 10_000))
    assert (played.failure, stream.torn) == (UpstreamFailed, False)
    tells_no_key(played.out)


@every_surface
def test_what_stands_around_a_giant_frame_is_looked_at_by_itself(tongue: Tongue) -> None:
    small, giant = error(tongue, f"{KEY} at {HOST}"), tongue.text("y" * 100_000)
    for raw in (begun(tongue) + small + giant, begun(tongue) + giant + small, begun(tongue) + giant + small + giant):
        for size in (*SIZES, len(raw)):
            played = play(made(tongue), pieces(raw, size))
            assert played.failure is UpstreamFailed
            tells_no_key(played.out)


@every_surface
def test_a_giant_event_that_is_no_error_passes_as_it_came(tongue: Tongue) -> None:
    texts = ("y" * 300_000, 'an "error": {"message": "quoted"} ' * 9_000, "ü/\\u0065" * 30_000)
    for text in texts:
        said = b"".join(frames(tongue, text))
        for size in SIZES:
            stream = made(tongue)
            assert play(stream, pieces(said, size)).out == said
            assert not any(stream.edits.values())


def test_a_giant_event_with_an_error_of_its_own_subject_passes_as_it_came() -> None:
    """A member `error` within what a tool said is a sign that has to be looked into, and no more."""
    item = {"type": "mcp_call", "id": "m", "error": "not found", "output": "y" * 300_000}
    event = {"type": "response.output_item.done", "output_index": 0, "item": item, "sequence_number": 9}
    frame = b"event: response.output_item.done\ndata: %b\n\n" % json.dumps(event).encode()
    raw = begun(RESPONSES) + frame
    for size in SIZES:
        stream = made(RESPONSES)
        assert play(stream, pieces(raw, size), ends=False).out == raw
        assert stream.failure is None


BEHIND = {
    "nothing": (b"", b""),
    "the farewell": (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
    "the farewell and more": (b"data: [DONE]\n\ndata: {}\n\n", b"data: [DONE]\n\n"),
    "something else": (b"data: {}\n\n", b""),
    "a giant": (RESPONSES.text("y" * 100_000), b""),
}


@pytest.mark.parametrize(("behind", "passes"), BEHIND.values(), ids=BEHIND)
def test_what_stands_behind_a_giant_end_is_dropped_but_for_the_farewell(behind: bytes, passes: bytes) -> None:
    end = RESPONSES.end.replace(b"onetwo", b"y" * 100_000)
    raw = b"".join(frames(RESPONSES, "Hi")[:-1]) + end
    for cut in (len(raw) - 20, len(raw) - 100_000, 100):
        stream = made(RESPONSES)
        assert stream.feed(raw[:cut]) + stream.feed(raw[cut:] + behind) == raw + passes
        assert stream.done
        assert bool(stream.edits["surplus_dropped"]) is (behind != passes)


@every_surface
def test_a_key_in_a_giant_event_is_masked_and_counted(tongue: Tongue) -> None:
    said = b"".join(frames(tongue, "y" * 70_000 + KEY + "z" * 70_000))
    for size in (1_000, 10_000):
        stream = made(tongue)
        out = play(stream, pieces(said, size)).out
        assert stream.edits["key_masked"] == said.count(KEY.encode())
        assert out == said.replace(KEY.encode(), b"***")


@every_surface
def test_a_giant_error_with_crlf_tells_no_key(tongue: Tongue) -> None:
    raw = begun(tongue) + error(tongue, "y" * 90_000 + KEY).replace(b"\n", b"\r\n") + b"\r\n"
    for size in SIZES:
        played = play(made(tongue), pieces(raw, size))
        assert played.failure is UpstreamFailed
        tells_no_key(played.out)


@every_surface
def test_a_giant_error_that_is_no_text_fails(tongue: Tongue) -> None:
    raw = begun(tongue) + error(tongue, "y" * 90_000).replace(b"yyy", b"\xffyy", 1)
    stream = made(tongue)
    played = play(stream, pieces(raw, 10_000))
    assert (played.failed, stream.torn) == (UpstreamBroken, False)


# -- the same with a border that every frame outgrows -----------------------------------------------------------------

ENDS = (b"\n", b"\r\n", b"\r")


def cut_anywhere(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(raw) for place in places} - {0}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def narrow(tongue: Tongue, held: int) -> Passthrough:
    stream = made(tongue)
    stream._borders = Borders(held)
    return stream


@every_surface
@given(
    texts=st.lists(st.text("aü\"\\\n'{}:", max_size=200), min_size=1, max_size=5),
    held=st.integers(16, 200),
    places=st.lists(st.integers(0, 5_000), max_size=12),
    end=st.sampled_from(ENDS),
)
def test_a_good_stream_passes_as_it_came_however_small_the_border(
    tongue: Tongue, texts: list[str], held: int, places: list[int], end: bytes
) -> None:
    raw = b"".join(frames(tongue, *texts)).replace(b"\n", end)
    stream = narrow(tongue, held)
    played = play(stream, cut_anywhere(raw, places))
    # Of a CRLF that was cut the second half may come too late to be waited for.
    assert played.out.rstrip(b"\n") == raw.rstrip(b"\n")
    assert (played.done, played.failed, played.failure) == (True, None, None)


@every_surface
@given(
    texts=st.lists(st.sampled_from(["", "word", "y" * 150]), min_size=1, max_size=4),
    spelt=st.sampled_from(sorted(KEYS.values())),
    filler=st.integers(0, 300),
    held=st.integers(16, 400),
    places=st.lists(st.integers(0, 5_000), max_size=12),
    end=st.sampled_from(ENDS),
    comment=st.sampled_from([b"", b": a comment with " + KEY.encode() + b"\n"]),
)
def test_no_error_and_no_comment_tells_a_key_however_small_the_border(
    tongue: Tongue, texts: list[str], spelt: str, filler: int, held: int, places: list[int], end: bytes, comment: bytes
) -> None:
    said = [comment + frame for frame in frames(tongue, *texts)[:-2]]
    bad = comment + error(tongue, "y" * filler + spelt + "z" * filler)
    raw = b"".join((*said, bad)).replace(b"\n", end)
    stream = narrow(tongue, held)
    out = play(stream, cut_anywhere(raw, places)).out
    assert KEY.encode() not in out
    tells_no_key(out.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), b"")
