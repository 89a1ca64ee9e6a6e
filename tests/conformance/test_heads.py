"""The heads that providers really send: each is known by its shape once others like it have come, and as it is read."""

from __future__ import annotations

import re
from operator import attrgetter

from proxy.wire.answer_head import read_head
from proxy.wire.head_shape import ENOUGH, WEIGHTY, Shapes

from .recordings import EVERY, Recording, parametrized

fields = attrgetter("status", "headers", "framing", "length", "reusable")


def written(recording: Recording, number: int) -> bytes:
    """With other digits in what the recording has some in, and a framing, which it does not have."""
    framing = "transfer-encoding: chunked" if recording.stream else f"content-length: {number}"
    lines = [
        f"{name}: {value if name.encode() in WEIGHTY else re.sub('[0-9]', str(number % 10), value)}"
        for name, value in recording.headers.items()
    ]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, framing]).encode()


@parametrized(lambda recording: recording.good and bool(recording.headers), among=EVERY)
def test_a_head_of_a_provider_is_known_by_its_shape(recording: Recording) -> None:
    shapes = Shapes()
    for number in range(ENOUGH):
        raw = written(recording, number)
        shapes.learn(raw, read_head(raw))
    raw = written(recording, 1234567)
    head = shapes.knows(raw)
    assert head is not None
    assert fields(head) == fields(read_head(raw))
