"""Nothing of a request is lost in silence: each member reaches the provider, is named as dropped, or is refused.

For every canonical request and every dialect, a member that nobody knows is put into each object in turn; and each
thing that only some dialects have is put into a request by itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from each import each
from features import features, target_of

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS, Upstream
from proxy.errors import InvalidRequest, Unsupported
from proxy.server.endpoints import BY_NAME
from proxy.wire import json_text

REQUESTS = features()
Step = str | int
UNKNOWN = "x_unknown"
# Objects that are the client's own data, or that are handed on, dropped or refused as one.
TAKEN_WHOLE = frozenset(
    {
        "parameters", "input_schema", "schema", "arguments", "input_examples", "metadata", "extra_content",
        "reasoning_details", "web_search_options", "filters", "user_location", "container", "format", "stream_options",
    }
)  # fmt: skip


def encoded(surface: str, body: dict[str, Any], dialect: Upstream, target: ir.Target) -> tuple[bytes, set[str]] | None:
    """The provider's body and what was dropped; None where it is refused."""
    spoken = DIALECTS[BY_NAME[surface].dialect]
    try:
        found = dialect.codec().encode_request(spoken.codec().decode_request({"model": "m", **body}), target)
    except (InvalidRequest, Unsupported) as refusal:
        if refusal.param is None:
            raise
        return None
    return json_text.write(found.body), set(found.dropped)


def objects(value: Any, way: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    if isinstance(value, dict):
        yield way
        for name, inner in value.items():
            if name not in TAKEN_WHOLE and not (name == "input" and "content" in way):
                yield from objects(inner, (*way, name))
    if isinstance(value, list):
        for at, inner in enumerate(value):
            yield from objects(inner, (*way, at))


def at(body: Any, way: tuple[Step, ...]) -> Any:
    for step in way:
        body = body[step]
    return body


def path(way: tuple[Step, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way).removeprefix(".")


def is_told(way: tuple[Step, ...], dropped: set[str]) -> bool:
    """By its own name, or with an object that it stands in."""
    inside = {path(way[:depth]) for depth in range(1, len(way) + 1)}
    return bool(inside & dropped)


def own_tool(node: Any, way: tuple[Step, ...]) -> bool:
    """A tool that its provider runs is one thing: known, or refused."""
    return "tools" in way and isinstance(node, dict) and node.get("type") not in (None, "function", "custom")


@each("dialect", UPSTREAMS)
@each("feature", REQUESTS)
def test_a_member_that_nobody_knows_is_named_wherever_it_stands(feature: str, dialect: str) -> None:
    surface, body = REQUESTS[feature]["surface"], REQUESTS[feature]["body"]
    upstream, target = UPSTREAMS[dialect], target_of(dialect)
    if upstream.speaks == BY_NAME[surface].dialect:
        return  # its bytes pass
    before = encoded(surface, body, upstream, target)
    for way in objects(body) if before is not None else ():
        changed = copy.deepcopy(body)
        node = at(changed, way)
        if own_tool(node, way) or (node.get("type") == "thinking" and surface == "chat"):
            continue
        node[UNKNOWN] = 1
        after = encoded(surface, changed, upstream, target)
        assert after is None or is_told((*way, UNKNOWN), after[1]), path((*way, UNKNOWN))


# Surface -> what a request of it may have besides its turns, by what it is about.
MEMBERS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    """{
    "chat": {
        "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.5},
        "biased": {"logit_bias": {"5": 1}}, "logprobs": {"logprobs": true}, "top logprobs": {"top_logprobs": 3},
        "cap": {"max_completion_tokens": 77}, "old cap": {"max_tokens": 77}, "metadata": {"metadata": {"a": "b"}},
        "two answers": {"n": 2}, "prediction": {"prediction": {"type": "content", "content": "x"}},
        "cache key": {"prompt_cache_key": "k"}, "cache life": {"prompt_cache_retention": "24h"},
        "effort": {"reasoning_effort": "high"}, "JSON": {"response_format": {"type": "json_object"}},
        "safety": {"safety_identifier": "u"}, "seed": {"seed": 0}, "tier": {"service_tier": "flex"},
        "stop": {"stop": "a"}, "stored": {"store": true}, "cold": {"temperature": 0}, "nucleus": {"top_p": 0.4},
        "user": {"user": "u"}, "verbosity": {"verbosity": "low"}, "web": {"web_search_options": {}},
        "top k": {"top_k": 5}, "min p": {"min_p": 0.1}, "budget": {"reasoning": {"max_tokens": 2000}},
        "thinking": {"thinking": {"type": "enabled"}}, "moderation": {"moderation": {"x": 1}},
        "spoken": {"modalities": ["audio"], "audio": {"voice": "x", "format": "wav"}}, "new": {"x_unknown": 1}
    },
    "messages": {
        "cached": {"cache_control": {"type": "ephemeral"}}, "container": {"container": "c"},
        "editing": {"context_management": {"edits": [{"type": "clear"}]}}, "place": {"inference_geo": "eu"},
        "servers": {"mcp_servers": [{"type": "url", "url": "https://x", "name": "n"}]},
        "user": {"metadata": {"user_id": "u"}}, "effort": {"output_config": {"effort": "high"}},
        "schema": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        "old schema": {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
        "speed": {"speed": "fast"}, "stop": {"stop_sequences": ["a"]}, "system": {"system": "S"},
        "cold": {"temperature": 0}, "top k": {"top_k": 4}, "nucleus": {"top_p": 0.3},
        "budget": {"max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
        "hidden": {"thinking": {"type": "adaptive", "display": "omitted"}}, "thread": {"thread": {"x": 1}},
        "compaction": {"compaction": {"x": 1}}, "betas": {"betas": ["x"]}, "new": {"x_unknown": 1}
    },
    "responses": {
        "background": {"background": true}, "editing": {"context_management": [{"type": "compaction"}]},
        "conversation": {"conversation": "c"}, "sources": {"include": ["web_search_call.action.sources"]},
        "instructions": {"instructions": "S"}, "cap": {"max_output_tokens": 77}, "calls": {"max_tool_calls": 2},
        "metadata": {"metadata": {"a": "b"}}, "earlier": {"previous_response_id": "x"},
        "prompt": {"prompt": {"id": "x"}}, "cache key": {"prompt_cache_key": "k"},
        "cache life": {"prompt_cache_retention": "24h"}, "effort": {"reasoning": {"effort": "high"}},
        "safety": {"safety_identifier": "x"}, "tier": {"service_tier": "flex"}, "stored": {"store": true},
        "cold": {"temperature": 0}, "JSON": {"text": {"format": {"type": "json_object"}}},
        "verbosity": {"text": {"verbosity": "low"}}, "top logprobs": {"top_logprobs": 2}, "nucleus": {"top_p": 0.2},
        "logprobs": {"include": ["message.output_text.logprobs"]}, "truncated": {"truncation": "auto"},
        "user": {"user": "u"}, "penalty": {"frequency_penalty": 0.3}, "new": {"x_unknown": 1}
    }
}"""
)
BARE: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "messages": {"max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"input": "Hi"},
}
EACH = [(surface, name) for surface, members in MEMBERS.items() for name in members]


@each("dialect", UPSTREAMS)
@each(("surface", "about"), EACH)
def test_a_member_is_said_named_or_refused(surface: str, about: str, dialect: str) -> None:
    upstream, target = UPSTREAMS[dialect], target_of(dialect)
    if upstream.speaks == BY_NAME[surface].dialect:
        return
    bare = encoded(surface, BARE[surface], upstream, target)
    with_it = encoded(surface, BARE[surface] | MEMBERS[surface][about], upstream, target)
    assert bare is not None
    assert with_it != bare


# What a turn may hold: surface, the turn without it, with it.
U, A = "user", "assistant"
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
PARTS: dict[str, tuple[str, str, list[dict[str, Any]]]] = {
    "a document of texts": ("messages", U, [{"type": "document", "source": {"type": "content", "content": "words"}}]),
    "a search result": (
        "messages", U,
        [{"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "words"}]}],
    ),
    "an upload": ("messages", U, [{"type": "container_upload", "file_id": "f"}]),
    "a stored file": ("messages", U, [{"type": "document", "source": {"type": "file", "file_id": "f"}}]),
    "a block of next year": ("messages", U, [{"type": "hologram", "data": "x"}]),
    "proved thinking": ("messages", A, [{"type": "thinking", "thinking": "hm", "signature": "s"}]),
    "hidden thinking": ("messages", A, [{"type": "redacted_thinking", "data": "s"}]),
    "a search": ("messages", A, [{"type": "server_tool_use", "id": "s_1", "name": "web_search", "input": {}}]),
    "a fallback": ("messages", A, [{"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}]),
    "a picture": ("chat", U, [IMAGE]),
    "a sound": ("chat", U, [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]),
    "a video": ("chat", U, [{"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}]),
    "a part of next year": ("chat", U, [{"type": "hologram", "data": "x"}]),
    "a picture of the model's": ("chat", A, [IMAGE]),
    "a hosted file": ("responses", U, [{"type": "input_file", "file_id": "f"}]),
    "a piece of next year": ("responses", U, [{"type": "input_hologram", "data": "x"}]),
}  # fmt: skip


@each("dialect", UPSTREAMS)
@each(("surface", "role", "parts"), PARTS.values(), ids=PARTS)
def test_a_part_is_said_named_or_refused(surface: str, role: str, parts: list[dict[str, Any]], dialect: str) -> None:
    """What the user says is never dropped: it is said, or refused."""
    upstream, target = UPSTREAMS[dialect], target_of(dialect)
    if upstream.speaks == BY_NAME[surface].dialect:
        return
    text = {"type": "input_text" if surface == "responses" else "text", "text": "Hi"}

    def asked(*content: dict[str, Any]) -> tuple[bytes, set[str]] | None:
        turns = [{"role": role, "content": list(content)}, {"role": "user", "content": "Go on."}]
        member = "input" if surface == "responses" else "messages"
        return encoded(surface, BARE[surface] | {member: turns}, upstream, target)

    bare, found = asked(text), asked(text, *parts)
    assert bare is not None
    assert found != bare
    if role == U and found is not None:
        assert found[0] != bare[0]


ITEMS = (
    "file_search_call", "computer_call", "web_search_call", "tool_search_call", "code_interpreter_call",
    "local_shell_call", "shell_call", "apply_patch_call", "mcp_list_tools", "mcp_approval_request", "mcp_call",
    "computer_call_output", "local_shell_call_output", "shell_call_output", "apply_patch_call_output",
    "mcp_approval_response", "tool_search_output", "compaction", "item_reference", "of_next_year",
)  # fmt: skip


@each("dialect", [name for name, one in UPSTREAMS.items() if one.speaks != "openai-responses"])
@each("kind", ITEMS)
def test_an_item_that_only_openai_knows_is_named_by_its_place_or_refused(kind: str, dialect: str) -> None:
    item = {"type": kind, "id": "x_1", "call_id": "c_1"}
    found = encoded(
        "responses", {"input": [{"role": "user", "content": "Hi"}, item]}, UPSTREAMS[dialect], target_of(dialect)
    )
    assert found is None or found[1] == {"input[1]"}
    assert found is None or b"x_1" not in found[0]
