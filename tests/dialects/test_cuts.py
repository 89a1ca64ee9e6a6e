"""A translated stream does not depend on where it was cut: at every position of twenty streams of each dialect, and at
any positions of all the others.

Recorded streams, with long runs of like frames and long strings shortened, so that every byte of every kind of frame
can be a place to cut. Where fewer than twenty were recorded, plain answers of the same provider are told as streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import fuzz
import pytest
from attrs import frozen
from conformance.recordings import ABSENT, EVERY, Recording, data_of, frames
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st
from shares import product_of

from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError
from proxy.streams import Translation

VOICE = Voice("req_1", "m", 7, include_usage=True)
SPOKEN = ("openai-chat", "anthropic", "openai-responses")  # by our surfaces
LEAST = 20
RUN = 3  # frames that are kept of a run of the same kind
LONG = re.compile(r"""([^"\\]{40})[^"\\]{120,}""")  # within a string of JSON, and no escape in it


@frozen
class Case:
    """One stream of a provider, and the dialect of the client that it is translated for."""

    name: str
    upstream: str
    client: str
    raw: bytes

    @property
    def title(self) -> str:
        return f"{self.name} of {self.upstream} for {self.client}"

    def translated(self, pieces: Iterable[bytes]) -> bytes:
        """All that leaves, an error that ends it in its own words included."""
        stream = Translation(UPSTREAMS[self.upstream], DIALECTS[self.client], VOICE)
        out = b""
        try:
            for piece in pieces:
                out += stream.feed(piece)
            return out + stream.close()
        except GatewayError as error:
            return out + stream.fail(error)


def kind_of(frame: bytes) -> str:
    """What is alike in frames of a run: the names of their members, and the type that they call themselves."""
    try:
        told = json.loads(data_of(frame) or frame)
    except ValueError:
        return frame.decode()
    types = re.findall(rb'"(?:type|finish_reason|finishReason|done|index|tool_calls)":\s*("[^"]*"|\w+)', frame)
    return f"{sorted(told)} {types}" if isinstance(told, dict) else str(told)


def thinned(pieces: Sequence[bytes]) -> bytes:
    """With strings that go on and on cut down: proofs, pages that were fetched."""
    short = (LONG.sub(r"\1", piece.decode()).encode() for piece in pieces)
    runs = [list(run) for _, run in groupby(short, key=kind_of)]
    return b"".join(piece for run in runs for piece in (run if len(run) <= RUN else [*run[: RUN - 1], run[-1]]))


def told_as_a_stream(recording: Recording) -> Iterator[bytes]:
    """A plain answer of Gemini's is one event; one of Ollama's is the last line of a stream, or its words in lines of
    their own stand before it."""
    answer = json.loads(recording.body)
    if recording.spoken == "gemini":
        yield b"data: " + _flat(answer) + b"\r\n\r\n"
        return
    yield _flat(answer) + b"\n"
    words = re.findall(r"\s*\S+", answer["message"].get("content") or "")[:6]
    lines = [{"model": answer["model"], "message": {"role": "assistant", "content": word}} for word in words]
    last = {**answer, "message": {**answer["message"], "content": ""}}
    yield b"".join(_flat(line) + b"\n" for line in (*lines, last))


def _flat(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def streams_of(upstream: str) -> Iterator[tuple[str, bytes]]:
    good = [
        recording
        for recording in EVERY
        if recording.good and recording.spoken in (upstream, UPSTREAMS[upstream].speaks)
    ]
    for recording in good:
        if recording.stream:
            ndjson = recording.spoken == "ollama"
            yield recording.name, thinned(recording.body.splitlines(True) if ndjson else frames(recording.body))
        elif recording.spoken in ("gemini", "ollama"):
            for number, told in enumerate(told_as_a_stream(recording)):
                yield f"{recording.name} told as a stream ({number})", thinned([told])


@cache
def cases() -> tuple[Case, ...]:
    """The shortest first. Each dialect's streams go to the surfaces of other dialects in turn."""
    found = []
    for upstream, dialect in UPSTREAMS.items():
        clients = [client for client in SPOKEN if client != dialect.speaks]
        for number, (name, raw) in enumerate(sorted(streams_of(upstream), key=lambda it: len(it[1]))):
            found.append(Case(name, upstream, clients[number % len(clients)], raw))
    return tuple(found)


def some(wanted: Iterable[Case], *, of: int = 1) -> pytest.MarkDecorator:
    """All of them, one of so many by the fast tests."""
    named = {case.title: case for case in wanted}
    skipped = pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="none")
    return pytest.mark.parametrize("case", product_of(named, fast=1, of=of) or [skipped])


def shortest(upstream: str) -> list[Case]:
    return [case for case in cases() if case.upstream == upstream][:LEAST]


FIRST = [case for upstream in UPSTREAMS for case in shortest(upstream)]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_there_are_twenty_streams_of(upstream: str) -> None:
    if not EVERY:
        pytest.skip(ABSENT)
    assert len({case.raw for case in shortest(upstream)}) >= LEAST


def cut_everywhere(case: Case) -> None:
    whole = case.translated([case.raw])
    assert whole
    for at in range(1, len(case.raw)):
        assert case.translated([case.raw[:at], case.raw[at:]]) == whole, at


@some((case for upstream in UPSTREAMS for case in shortest(upstream)[:4]), of=2)
def test_a_translation_does_not_depend_on_where_a_short_stream_was_cut(case: Case) -> None:
    cut_everywhere(case)


@pytest.mark.slow
@some(case for upstream in UPSTREAMS for case in shortest(upstream)[4:])
def test_a_translation_does_not_depend_on_where_a_stream_was_cut(case: Case) -> None:
    cut_everywhere(case)


@each("case", FIRST, ids=[case.title for case in FIRST])
def test_nor_on_being_cut_byte_by_byte(case: Case) -> None:
    pieces = [case.raw[at : at + 1] for at in range(len(case.raw))]
    assert case.translated(pieces) == case.translated([case.raw])


@some((case for case in cases() if case not in FIRST), of=3)
@settings(max_examples=fuzz.examples(25))
@given(data=st.data())
def test_nor_on_any_cuts_of_a_longer_one(case: Case, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(case.raw)), max_size=12).map(sorted))
    pieces = [case.raw[start:end] for start, end in pairwise([0, *places, len(case.raw)])]
    assert case.translated(pieces) == case.translated([case.raw])
