"""What `Dropped` calls a thing is what the client calls it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from each import each

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.openai_responses.proofs import seal_proof

PROOF = "U2lnbmF0dXJl"
SIGNED = {"extra_content": {"google": {"thought_signature": PROOF}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}, **SIGNED}
ASKED: dict[str, dict[str, Any]] = {
    "openai-chat": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Clouds"},
            {"role": "assistant", "content": "Clouds.", **SIGNED},
            {"role": "user", "content": "More"},
        ]
    },
    "openai-responses": {
        "input": [
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal_proof("call", PROOF)},
            {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "Clouds"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Clouds."}]},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": seal_proof("text", PROOF)},
            {"role": "user", "content": "More"},
        ]
    },
}
NAMED = {
    "openai-chat": ("messages[1].tool_calls[0].extra_content", "messages[3].extra_content"),
    "openai-responses": ("input[1].encrypted_content", "input[5].encrypted_content"),
}
# client, who is asked, their model -> which of the two proofs arrive
PROOFS = {
    "chat to Gemini": ("openai-chat", "gemini", "gemini-3-pro", (0, 1)),
    "chat to Claude": ("openai-chat", "anthropic", "claude-sonnet-4-5", ()),
    "chat to Responses": ("openai-chat", "openai-responses", "gpt-4o", ()),
    "chat to Ollama": ("openai-chat", "ollama", "qwen3", ()),
    "responses to Gemini": ("openai-responses", "gemini", "gemini-3-pro", (0, 1)),
    "responses to Claude": ("openai-responses", "anthropic", "claude-sonnet-4-5", ()),
    "responses to chat": ("openai-responses", "openai-chat", "gpt-4o", ()),
    "responses to Gemini in chat's words": ("openai-responses", "openai-chat", "google/gemini-3-pro", (0,)),
    "responses to Workers AI": ("openai-responses", "workers-ai", "@cf/openai/gpt-oss-20b", ()),
    "responses to Ollama": ("openai-responses", "ollama", "qwen3", ()),
}


@each(("client", "dialect", "native", "arrive"), PROOFS.values(), ids=PROOFS)
def test_a_proof_of_geminis_goes_to_gemini_alone_and_is_named_where_it_does_not(
    client: str, dialect: str, native: str, arrive: tuple[int, ...]
) -> None:
    request = DIALECTS[client].codec().decode_request({"model": "m", **ASKED[client]})
    written = UPSTREAMS[dialect].codec().encode_request(request, ir.Target(native))
    assert json.dumps(dict(written.body)).count(PROOF) == len(arrive)
    assert written.dropped == tuple(name for place, name in enumerate(NAMED[client]) if place not in arrive)


# client, what it asks beside a text -> what the bound is called
BOUNDS = {
    "chat's newer": ("openai-chat", {"max_completion_tokens": 9}, "max_completion_tokens"),
    "chat's older": ("openai-chat", {"max_tokens": 9}, "max_tokens"),
    "both of chat": ("openai-chat", {"max_tokens": 8, "max_completion_tokens": 9}, "max_completion_tokens"),
    "messages": ("anthropic", {"max_tokens": 9}, "max_tokens"),
    "responses": ("openai-responses", {"max_output_tokens": 9}, "max_output_tokens"),
}


@each(
    ("client", "asked", "name", "dialect"),
    [
        pytest.param(client, asked, name, dialect, id=f"{told} to {dialect}")
        for told, (client, asked, name) in BOUNDS.items()
        for dialect in ("openai-responses", "anthropic", "gemini", "ollama")
        if dialect != client
    ],
)
def test_a_bound_that_cannot_be_kept_is_named_as_the_client_calls_it(
    client: str, asked: dict[str, Any], name: str, dialect: str
) -> None:
    said = "input" if client == "openai-responses" else "messages"
    turns = [{"role": "user", "content": "Hi"}]
    request = DIALECTS[client].codec().decode_request({"model": "m", said: turns, **asked})
    written = UPSTREAMS[dialect].codec().encode_request(request, ir.Target("gemini-2.5-flash", max_output=5))
    assert written.dropped == (name,)
