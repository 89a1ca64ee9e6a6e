from __future__ import annotations

from typing import Any

import orjson
import pytest
from each import each

from proxy import ir
from proxy.dialects.openai_chat import DIALECT
from proxy.errors import UpstreamBroken
from proxy.wire.sse import Frame

DONE = Frame(b"[DONE]")


def chunk(delta: Any, finish: str | None = None, **members: Any) -> Frame:
    return frame(choices=[{"index": 0, "delta": delta, "finish_reason": finish}], **members)


def frame(**members: Any) -> Frame:
    return Frame(orjson.dumps({"id": "c1", "created": 5, "model": "up", **members}))


CALL = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}

GARBAGE = {
    "not JSON": b"<html>",
    "a string": b'"x"',
    "null": b"null",
    "an array": b"[]",
    "choices that are no array": b'{"choices":{}}',
    "a choice that is no object": b'{"choices":[1]}',
}

S = ir.Sight
SIGHTS: dict[str, tuple[Frame, ir.Sight]] = {
    "the role": (chunk({"role": "assistant", "content": ""}), S.LIFECYCLE),
    "the role with a null": (chunk({"role": "assistant", "content": None, "refusal": None}), S.LIFECYCLE),
    "an empty delta": (chunk({}), S.LIFECYCLE),
    "Azure's filter results": (frame(choices=[], prompt_filter_results=[]), S.LIFECYCLE),
    "text": (chunk({"content": "a"}), S.CONTENT),
    "reasoning": (chunk({"content": "", "reasoning": "h"}), S.CONTENT),
    "a call": (chunk(CALL), S.CONTENT),
    "a refusal": (chunk({"refusal": "no"}), S.CONTENT),
    "a member unknown to us": (chunk({"hologram": {"data": "x"}}), S.CONTENT),
    "a chunk unknown to us": (frame(object="new"), S.CONTENT),
    "text of the completions endpoint": (frame(choices=[{"index": 0, "text": "a", "finish_reason": None}]), S.CONTENT),
    "a finish": (chunk({}, "stop"), S.FINISH),
    "a finish beside text": (chunk({"content": "a"}, "stop"), S.FINISH),
    "an empty finish": (chunk({"content": ""}, ""), S.LIFECYCLE),
    "usage alone": (frame(choices=[], usage={"prompt_tokens": 1}), S.USAGE),
    "usage beside a choice": (chunk({"content": "a"}, usage={"prompt_tokens": 1}), S.CONTENT),
    "an error": (frame(error={"message": "x"}), S.ERROR),
    "an error beside a choice": (chunk({"content": ""}, error={"code": 400, "message": "x"}), S.ERROR),
    "broken off": (chunk({}, "error"), S.ERROR),
    "the end": (DONE, S.END),
    "the end with a space": (Frame(b" [DONE]"), S.END),
}


@each(("seen", "sight"), SIGHTS.values(), ids=SIGHTS)
def test_a_frame_is_seen_for_what_it_is(seen: Frame, sight: ir.Sight) -> None:
    tap = DIALECT.tap()
    assert tap.look(seen) is sight
    assert (tap.error is not None) is (sight is S.ERROR)
    if sight is S.CONTENT:
        assert tap.produced


@each("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_broken_upstream_to_the_tap(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        DIALECT.tap().look(Frame(data))


def test_the_tap_keeps_the_facts() -> None:
    tap = DIALECT.tap()
    for told in (
        chunk({"content": "a"}),
        chunk(CALL),
        chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 1}),
        frame(choices=[], usage={"prompt_tokens": 0, "completion_tokens": 0}),
    ):
        tap.look(told)
    assert (tap.usage, tap.stop, tap.model) == (ir.Usage(3, output=1), "tool_call", "up")


MUST_BE_SEEN = {
    "a finish": b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    "a finish, spaced": b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}',
    "a finish, spaced oddly": b'{"choices" : [{"delta" : {}, "finish_reason" : "stop"}]}',
    "an unheard-of finish": b'{"choices":[{"delta":{},"finish_reason":"tired"}]}',
    "usage": b'{"choices":[],"usage":{"prompt_tokens":1}}',
    "usage, spaced": b'{"choices": [], "usage" : { "completion_tokens" : 1}}',
    "an error": b'{"error":{"message":"x"}}',
    "an error, spaced": b'{ "error" : "x"}',
    "a server's error": b'{"object":"error","message":"x"}',
    "Cloudflare's": b'{"success":false,"errors":[{"code":1}]}',
    "the end": b"[DONE]",
}


@each("data", MUST_BE_SEEN.values(), ids=MUST_BE_SEEN)
def test_no_probe_misses_what_matters(data: bytes) -> None:
    assert any(probe in data for probe in DIALECT.probes)


def test_an_ordinary_chunk_needs_no_look() -> None:
    data = chunk({"content": "plain words"}, usage=None).data
    assert not any(probe in data for probe in DIALECT.probes)
