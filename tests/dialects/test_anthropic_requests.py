from __future__ import annotations

from typing import Any

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy import ir
from proxy.dialects.anthropic import DIALECT
from proxy.errors import GatewayError, InvalidRequest, Unsupported

USER = {"role": "user", "content": "Hi"}
WORDS = [
    "type", "text", "content", "role", "source", "data", "media_type", "id", "name", "input", "tool_use_id", "system",
    "messages", "tools", "tool_choice", "thinking", "output_config", "format", "stop_sequences", "metadata", "effort",
    "cache_control", "citations", "mcp_servers", "input_schema", "temperature", "max_tokens",
]  # fmt: skip
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sea"}}
OPUS = ir.Target("claude-opus-4-8")
HAIKU = ir.Target("claude-haiku-4-5-20251001")


def body(**members: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 64, "messages": [USER]} | members


def nested(depth: int) -> Any:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return body(messages=[{"role": role, "content": content}])


# -- decoding ----------------------------------------------------------------------------------------------------

REFUSED = {
    "no model": ({"max_tokens": 1, "messages": [USER]}, "model"),
    "a model that is no text": (body(model=7), "model"),
    "no max_tokens": ({"model": "m", "messages": [USER]}, "max_tokens"),
    "max_tokens true": (body(max_tokens=True), "max_tokens"),
    "max_tokens of a fraction": (body(max_tokens=1.5), "max_tokens"),
    "max_tokens below nothing": (body(max_tokens=-1), "max_tokens"),
    "messages missing": ({"model": "m", "max_tokens": 1}, "messages"),
    "messages empty": (body(messages=[]), "messages"),
    "messages a text": (body(messages="Hi"), "messages"),
    "a message of text": (body(messages=["Hi"]), "messages[0]"),
    "a role of no kind": (body(messages=[USER, {"role": "tool", "content": "x"}]), "messages[1].role"),
    "no content": (body(messages=[{"role": "user"}]), "messages[0].content"),
    "a block without a type": (said([{"text": "x"}]), "messages[0].content[0].type"),
    "text without text": (said([{"type": "text"}]), "messages[0].content[0].text"),
    "an image without a source": (said([{"type": "image"}]), "messages[0].content[0].source"),
    "an image without data": (
        said([{"type": "image", "source": {"type": "base64", "media_type": "image/png"}}]),
        "messages[0].content[0].source.data",
    ),
    "a call without a name": (
        said([{"type": "tool_use", "id": "a", "input": {}}], "assistant"),
        "messages[0].content[0].name",
    ),
    "a call with arguments as text": (
        said([{"type": "tool_use", "id": "a", "name": "b", "input": "{}"}], "assistant"),
        "messages[0].content[0].input",
    ),
    "a call by the user": (said([CALL]), "messages[0].content[0]"),
    "a result by the assistant": (
        said([{"type": "tool_result", "tool_use_id": "a"}], "assistant"),
        "messages[0].content[0]",
    ),
    "a result of no call": (said([{"type": "tool_result"}]), "messages[0].content[0].tool_use_id"),
    "a block within a result": (
        said([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": 1}]}]),
        "messages[0].content[0].content[0].text",
    ),
    "a result in a result": (
        said([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_result", "tool_use_id": "b"}]}]),
        "messages[0].content[0].content[0]",
    ),
    "arguments nested past all sense": (
        said([{"type": "tool_use", "id": "a", "name": "b", "input": nested(5000)}], "assistant"),
        "messages[0].content[0].input",
    ),
    "servers that are no list": (body(mcp_servers={"a": 1}), "mcp_servers"),
    "system of numbers": (body(system=[1]), "system[0]"),
    "a tool without a schema": (body(tools=[{"name": "a"}]), "tools[0].input_schema"),
    "a choice as text": (body(tool_choice="auto"), "tool_choice"),
    "a choice of no kind": (body(tool_choice={"type": "required"}), "tool_choice.type"),
    "a tool chosen without a name": (body(tool_choice={"type": "tool"}), "tool_choice.name"),
    "a temperature above one": (body(temperature=1.2), "temperature"),
    "a stop that is no text": (body(stop_sequences=["a", 1]), "stop_sequences[1]"),
    "a budget as text": (body(thinking={"type": "enabled", "budget_tokens": "1"}), "thinking.budget_tokens"),
    "a format of no kind": (body(output_config={"format": {"type": "json"}}), "output_config.format.type"),
    "stream as text": (body(stream="yes"), "stream"),
}


@each(("request_body", "param"), REFUSED.values(), ids=REFUSED)
def test_a_fault_in_a_request_is_named_by_its_path(request_body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.codec().decode_request(request_body)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


@each(("request_body", "param"), REFUSED.values(), ids=REFUSED)
def test_the_shape_never_raises(request_body: dict[str, Any], param: str) -> None:
    assert isinstance(DIALECT.read_shape(request_body), ir.Shape)


BLOCKS: dict[str, tuple[dict[str, Any], ir.Part]] = {
    "text with a cache marker": (
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ir.Text("a", cache=ir.Cache("1h")),
    ),
    "an image inside": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        ir.Image(ir.Blob("aGk=", "image/png")),
    ),
    "an image elsewhere": (
        {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}},
        ir.Image(ir.Url("https://e.org/a.png")),
    ),
    "an image stored": (
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        ir.Image(ir.FileId("file_1")),
    ),
    "a document with all its members": (
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
            "title": "T",
            "context": "C",
            "citations": {"enabled": True},
        },
        ir.File(ir.Blob("aGk=", "application/pdf"), "T", "C", True),
    ),
    "a document of text": (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
        ir.File(ir.PlainText("hi")),
    ),
    "a document of blocks stays whole": (
        {"type": "document", "source": {"type": "content", "content": "hi"}},
        ir.Opaque(
            "document", {"type": "document", "source": {"type": "content", "content": "hi"}}, dialect="anthropic"
        ),
    ),
    "a search result stays whole": (
        {"type": "search_result", "source": "s", "title": "t", "content": []},
        ir.Opaque(
            "search_result",
            {"type": "search_result", "source": "s", "title": "t", "content": []},
            dialect="anthropic",
        ),
    ),
    "an upload to a container": (
        {"type": "container_upload", "file_id": "file_1"},
        ir.Opaque("container_upload", {"type": "container_upload", "file_id": "file_1"}, dialect="anthropic"),
    ),
}
ASSISTANT_BLOCKS: dict[str, tuple[dict[str, Any], ir.Part]] = {
    "a call": (CALL, ir.ToolCall("toolu_1", "look", '{"at":"sea"}')),
    "thinking": (
        {"type": "thinking", "thinking": "so", "signature": "sig"},
        ir.Thinking("so", signature="sig", dialect="anthropic"),
    ),
    "thinking that must not be seen": (
        {"type": "redacted_thinking", "data": "xx"},
        ir.Thinking(redacted="xx", dialect="anthropic"),
    ),
    "a call that the provider made": (
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
        ir.ServerCall(
            "s1",
            "web_search",
            '{"query":"q"}',
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
            "anthropic",
        ),
    ),
    "what came of it": (
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        ir.ServerResult(
            "s1",
            "web_search",
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
            "anthropic",
        ),
    ),
    "a call over mcp": (
        {"type": "mcp_tool_use", "id": "m1", "name": "n", "server_name": "s", "input": {}},
        ir.ServerCall(
            "m1", "n", "{}", {"type": "mcp_tool_use", "id": "m1", "name": "n", "server_name": "s", "input": {}},
            "anthropic",
        ),
    ),
}  # fmt: skip


@each(("block", "part"), BLOCKS.values(), ids=BLOCKS)
def test_a_users_block_becomes_a_part_and_comes_back(block: dict[str, Any], part: ir.Part) -> None:
    request = DIALECT.codec().decode_request(said([block]))
    assert request.messages == (ir.Message("user", (part,)),)
    assert DIALECT.codec().encode_request(request, OPUS).body["messages"][0]["content"] == [block]


@each(("block", "part"), ASSISTANT_BLOCKS.values(), ids=ASSISTANT_BLOCKS)
def test_an_assistants_block_becomes_a_part_and_comes_back(block: dict[str, Any], part: ir.Part) -> None:
    request = DIALECT.codec().decode_request(said([block], "assistant"))
    assert request.messages == (ir.Message("assistant", (part,)),)
    assert DIALECT.codec().encode_request(request, OPUS).body["messages"][0]["content"] == [block]


def test_results_are_a_turn_of_their_own_and_stand_first_again() -> None:
    request = DIALECT.codec().decode_request(
        body(
            messages=[
                {"role": "assistant", "content": [CALL]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "there"},
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "wet", "is_error": False},
                    ],
                },
            ]
        )
    )
    assert [message.role for message in request.messages] == ["assistant", "tool", "user"]
    assert request.messages[1].parts == (ir.ToolResult("toolu_1", (ir.Text("wet"),), False),)
    last = DIALECT.codec().encode_request(request, OPUS).body["messages"][-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]


def test_members_without_a_field_are_kept_by_their_path_and_come_back() -> None:
    given = body(
        tools=[{"name": "a", "input_schema": {"type": "object"}, "defer_loading": True}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}],
        context_management={"edits": []},
        output_config={"effort": "low", "task_budget": {"total": 1}},
        thinking={"type": "adaptive", "display": "omitted"},
    )
    request = DIALECT.codec().decode_request(given)
    assert request.extra == {
        "tools[0].defer_loading": True,
        "messages[0].content[0].x": 1,
        "context_management": {"edits": []},
        "output_config.task_budget": {"total": 1},
        "thinking.display": "omitted",
    }
    again = DIALECT.codec().encode_request(request, OPUS)
    assert again.body["tools"] == given["tools"]
    assert again.body["output_config"] == given["output_config"]
    assert again.body["thinking"] == given["thinking"]
    assert again.dropped == ("messages[0].content[0].x",)  # a single text is written as a string


def test_a_turn_of_instructions_stays_where_its_client_put_it() -> None:
    given = body(messages=[USER, {"role": "system", "content": "Be brief."}])
    encoded = DIALECT.codec().encode_request(DIALECT.codec().decode_request(given), ir.Target("anything"))
    assert (encoded.body["messages"], encoded.dropped) == (given["messages"], ())


@each(
    ("kind", "neutral"),
    [
        ("web_search_20250305", "web_search"),
        ("web_fetch_20250910", "web_fetch"),
        ("code_execution_20250825", "code_execution"),
        ("computer_20250124", "computer"),
        ("bash_20250124", "bash"),
        ("text_editor_20250728", "text_editor"),
        ("memory_20250818", "memory"),
        ("tool_search_tool_bm25_20251119", "tool_search"),
        ("mcp_toolset", "mcp"),
        ("advisor_20260301", "advisor_20260301"),
    ],
)
def test_a_providers_tool_has_a_neutral_kind_and_comes_back_as_it_was(kind: str, neutral: str) -> None:
    tool = {"type": kind, "name": "n", "max_uses": None}
    request = DIALECT.codec().decode_request(body(tools=[tool]))
    assert request.tools == (ir.ServerTool(neutral, tool, "anthropic"),)
    assert DIALECT.codec().encode_request(request, OPUS).body["tools"] == [tool]


def test_servers_without_a_toolset_are_tools_that_only_this_provider_runs() -> None:
    servers = [{"type": "url", "url": "https://e.org", "name": "s"}]
    request = DIALECT.codec().decode_request(body(mcp_servers=servers))
    assert request.tools == (ir.ServerTool("mcp", {"mcp_servers": servers}, "anthropic"),)
    encoded = DIALECT.codec().encode_request(request, OPUS)
    assert (encoded.body["mcp_servers"], "tools" in encoded.body) == (servers, False)
    toolset = {"type": "mcp_toolset", "mcp_server_name": "s"}
    given = body(mcp_servers=servers, tools=[toolset])
    encoded = DIALECT.codec().encode_request(DIALECT.codec().decode_request(given), OPUS)
    assert (encoded.body["mcp_servers"], encoded.body["tools"], encoded.dropped) == (servers, [toolset], ())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)


@given(members=st.dictionaries(st.sampled_from(WORDS), json_values, max_size=8))
def test_any_json_object_is_a_request_or_a_fault_with_a_path(members: dict[str, Any]) -> None:
    DIALECT.read_shape(members)
    for request_body in (members, body() | members, said([{"type": "text"} | members]), said([members], "assistant")):
        fault: GatewayError | None = None
        try:
            DIALECT.codec().encode_request(DIALECT.codec().decode_request(request_body), HAIKU)
        except (InvalidRequest, Unsupported) as exc:
            fault = exc
        assert fault is None or fault.param


# -- shape -------------------------------------------------------------------------------------------------------

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "a" * 1000}}
SHAPES: dict[str, tuple[dict[str, Any], ir.Shape]] = {
    "plain": (body(), ir.Shape(frozenset(), 2, max_tokens=64, turns=("Hi",))),
    "with instructions": (
        body(system=[{"type": "text", "text": "Be"}]),
        ir.Shape(frozenset(), 4, max_tokens=64, turns=("Hi",), system="Be"),
    ),
    "an image counts as media, not as text": (
        said([PNG]),
        ir.Shape(frozenset({"vision"}), 0, media=1, max_tokens=64),
    ),
    "an image in a result too": (
        said([{"type": "tool_result", "tool_use_id": "a", "content": [PNG, {"type": "text", "text": "abc"}]}]),
        ir.Shape(frozenset({"vision", "tools"}), 3, media=1, max_tokens=64),
    ),
    "two calls at once": (
        said([CALL, CALL], "assistant"),
        ir.Shape(frozenset({"tools", "parallel_tools"}), 24, max_tokens=64),
    ),
    "a cache marker on the system prompt": (
        body(system=[{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}]),
        ir.Shape(frozenset(), 4, max_tokens=64, turns=("Hi",), system="Be", cache_write="5m"),
    ),
    "of cache markers the longest life": (
        said(
            [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
                {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            ]
        ),
        ir.Shape(frozenset(), 2, max_tokens=64, turns=("a\nb",), cache_write="1h"),
    ),
    "a cache marker of its own": (
        body(cache_control={"type": "ephemeral"}),
        ir.Shape(frozenset(), 2, max_tokens=64, turns=("Hi",), cache_write="5m"),
    ),
    "no cache marker": (
        body(cache_control=None, tools=7),
        ir.Shape(frozenset(), 2, max_tokens=64, turns=("Hi",)),
    ),
    "max_tokens of a wrong type": (body(max_tokens="9"), ir.Shape(frozenset(), 2, turns=("Hi",))),
    "everything asked for": (
        body(
            tools=[{"name": "a"}],
            tool_choice={"type": "any", "disable_parallel_tool_use": False},
            thinking={"type": "adaptive"},
            output_config={"format": {"type": "json_schema"}},
        ),
        ir.Shape(frozenset({"tools", "parallel_tools", "thinking", "json"}), 14, max_tokens=64, turns=("Hi",)),
    ),
}


@each(("request_body", "shape"), SHAPES.values(), ids=SHAPES)
def test_shape(request_body: dict[str, Any], shape: ir.Shape) -> None:
    assert DIALECT.read_shape(request_body) == shape
