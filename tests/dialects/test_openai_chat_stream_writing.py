"""Scripts: an event, and what must leave before the next one comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxy import errors, ir
from proxy.dialects.dialect import StreamEncoder, Voice
from proxy.dialects.openai_chat import DIALECT
from proxy.errors import UpstreamBroken
from proxy.wire.sse import Framer


def encoder(*, include_usage: bool = False) -> StreamEncoder:
    return DIALECT.codec().stream_encoder(Voice("req_1", "asked", 1700, include_usage))


def read(out: bytes) -> list[Any]:
    """The delta of each chunk, the finish reason where there is one, other frames whole."""
    seen: list[Any] = []
    for each in Framer().feed(out):
        if each.data == b"[DONE]":
            seen.append("[DONE]")
            continue
        parsed = json.loads(each.data)
        if not parsed.get("choices"):
            seen.append({key: parsed[key] for key in ("error", "usage") if key in parsed})
            continue
        assert (parsed["id"], parsed["object"], parsed["created"]) == ("msg_1", "chat.completion.chunk", 1700)
        (choice,) = parsed["choices"]
        seen.append(choice["delta"] if choice["finish_reason"] is None else choice["finish_reason"])
    return seen


def play(script: Sequence[tuple[ir.StreamEvent, list[Any]]], *, include_usage: bool = False) -> None:
    """Each event, and what must leave before the next comes."""
    writer = encoder(include_usage=include_usage)
    for event, expected in script:
        assert read(writer.feed([event])) == expected, event


ROLE = {"role": "assistant", "content": ""}
OPEN = (ir.Start("msg_1", "claude"), [ROLE])


def test_text_leaves_as_it_comes() -> None:
    play(
        [
            OPEN,
            (ir.PartStart(0, ir.Text("")), []),
            (ir.TextDelta(0, 'a "quoted"\n\u2028 😀'), [{"content": 'a "quoted"\n\u2028 😀'}]),
            (ir.Ping(), []),
            (ir.TextDelta(0, "b", logprobs={"content": []}), [{"content": "b"}]),
            (ir.PartEnd(0), []),
            (ir.Finish("end"), ["stop"]),
            (ir.UsageReport(ir.Usage(3, output=1)), []),
            (ir.End(), ["[DONE]"]),
            (ir.TextDelta(0, "late"), []),
        ]
    )


def test_usage_stands_before_the_end_where_it_was_asked_for() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    play(
        [
            (ir.Start("msg_1", "claude", usage=ir.Usage(3, cache_read=2)), [ROLE]),
            (ir.TextDelta(0, "a"), [{"content": "a"}]),
            (ir.Finish("length"), ["length"]),
            (ir.UsageReport(ir.Usage(output=4)), []),
            (ir.End(), [{"usage": usage}, "[DONE]"]),
        ],
        include_usage=True,
    )


def test_every_chunk_says_that_usage_is_still_to_come() -> None:
    writer = encoder(include_usage=True)
    out = writer.feed([ir.Start("msg_1", "m"), ir.TextDelta(0, "a"), ir.Finish("end")])
    assert [json.loads(each.data)["usage"] for each in Framer().feed(out)] == [None] * 3


def test_calls_are_numbered_by_themselves_and_stream_their_arguments() -> None:
    started = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    patch = {"index": 1, "id": "b", "type": "custom", "custom": {"name": "p", "input": ""}}
    play(
        [
            OPEN,
            (ir.PartStart(0, ir.Text("")), []),
            (ir.PartStart(1, ir.ServerCall("s", "web_search")), []),
            (ir.ArgumentsDelta(1, "{}"), []),
            (ir.PartStart(2, ir.ToolCall("a", "f")), [{"tool_calls": [started]}]),
            (ir.ArgumentsDelta(2, '{"x'), [{"tool_calls": [{"index": 0, "function": {"arguments": '{"x'}}]}]),
            (ir.PartStart(3, ir.ToolCall("b", "p", custom=True)), [{"tool_calls": [patch]}]),
            (ir.ArgumentsDelta(3, "*"), [{"tool_calls": [{"index": 1, "custom": {"input": "*"}}]}]),
            (ir.Finish("end"), ["tool_calls"]),
            (ir.End(), ["[DONE]"]),
        ]
    )


def test_thinking_leaves_with_its_proof() -> None:
    form = {"format": "anthropic-claude-v1", "index": 0}
    piece = {"type": "reasoning.text", "text": "hm", **form}
    hidden = {"type": "reasoning.encrypted", "data": "xyz", "format": "anthropic-claude-v1", "index": 1}
    play(
        [
            OPEN,
            (ir.PartStart(0, ir.Thinking(dialect="anthropic")), []),
            (ir.ThinkingDelta(0, "hm"), [{"reasoning_content": "hm", "reasoning_details": [piece]}]),
            (
                ir.SignatureDelta(0, "sig"),
                [{"reasoning_details": [{"type": "reasoning.text", "signature": "sig", **form}]}],
            ),
            (ir.PartEnd(0), []),
            (ir.PartStart(1, ir.Thinking(redacted="xyz", dialect="anthropic")), [{"reasoning_details": [hidden]}]),
        ]
    )


def test_thinking_without_a_known_mint_is_plain() -> None:
    play(
        [
            OPEN,
            (ir.PartStart(0, ir.Thinking(dialect="ollama")), []),
            (ir.ThinkingDelta(0, "a", summary=0), [{"reasoning_content": "a"}]),
            (ir.ThinkingDelta(0, "b", summary=1), [{"reasoning_content": "\n\nb"}]),
            (ir.SignatureDelta(0, "sig"), []),
        ]
    )


def test_citations_refusals_sound_and_pictures() -> None:
    cited = {"url": "https://x", "title": "X", "start_index": 2, "end_index": 2}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    play(
        [
            OPEN,
            (ir.TextDelta(0, "ab"), [{"content": "ab"}]),
            (
                ir.CitationDelta(0, ir.Citation("https://x", "X")),
                [{"annotations": [{"index": 0, "type": "url_citation", "url_citation": cited}]}],
            ),
            (ir.CitationDelta(0, ir.Citation(cited_text="page 3")), []),
            (ir.PartStart(1, ir.Audio(id="au")), [{"audio": {"id": "au"}}]),
            (ir.AudioDelta(1, "AAAA", "be"), [{"audio": {"data": "AAAA", "transcript": "be"}}]),
            (ir.PartStart(2, ir.Image(ir.Blob("AAAA", "image/png"))), [{"images": [{"index": 0, **picture}]}]),
            (ir.PartEnd(2, final=ir.Image(ir.Blob("AAAA", "image/png"))), []),
            (ir.PartStart(3, ir.Opaque("image")), []),
            (ir.PartEnd(3, final=ir.Image(ir.Blob("AAAA", "image/png"))), [{"images": [{"index": 1, **picture}]}]),
            (ir.RefusalDelta(3, "no"), [{"refusal": "no"}]),
            (ir.Finish("refusal"), ["stop"]),
        ]
    )


def test_a_second_choice_opens_with_its_role() -> None:
    writer = encoder()
    out = writer.feed([ir.Start("msg_1", "m"), ir.TextDelta(0, "a", 1), ir.Finish("end", choice=1), ir.End()])
    assert read(out) == [ROLE, ROLE, {"content": "a"}, "stop", "stop", "[DONE]"]


def test_an_end_without_a_finish_gets_one() -> None:
    assert read(encoder().feed([ir.Start("msg_1", "m"), ir.End()])) == [ROLE, "stop", "[DONE]"]


def test_a_failure_is_told_once_and_nothing_stands_behind_it() -> None:
    writer = encoder()
    writer.feed([ir.Start("msg_1", "m"), ir.TextDelta(0, "a")])
    told = {"message": "gone", "type": "server_error", "param": None, "code": "bad_upstream_response"}
    assert read(writer.fail(UpstreamBroken("gone"))) == [{"error": told}]
    assert writer.fail(UpstreamBroken("again")) == b""
    assert writer.feed([ir.TextDelta(0, "b"), ir.End()]) == b""


def test_a_limit_is_a_limit_in_a_stream_too() -> None:
    (told,) = read(encoder().fail(errors.UpstreamRateLimited("slow down")))
    assert told["error"]["type"] == "rate_limit_error"
