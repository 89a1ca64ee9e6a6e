from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from proxy import ir
from proxy.dialects.anthropic import DIALECT
from proxy.errors import InvalidRequest, Unsupported

USER = {"role": "user", "content": "Hi"}
WORDS = [
    "type", "text", "content", "role", "source", "data", "media_type", "id", "name", "input", "tool_use_id", "system",
    "messages", "tools", "tool_choice", "thinking", "output_config", "format", "stop_sequences", "metadata", "effort",
    "cache_control", "citations", "mcp_servers", "input_schema", "temperature", "max_tokens",
]  # fmt: skip
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sea"}}
OPUS = ir.Target("claude-opus-4-8")
HAIKU = ir.Target("claude-haiku-4-5-20251001")
OLD = ir.Target("claude-3-5-sonnet-20241022")


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


@pytest.mark.parametrize(("request_body", "param"), REFUSED.values(), ids=REFUSED)
def test_a_fault_in_a_request_is_named_by_its_path(request_body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(request_body)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize(("request_body", "param"), REFUSED.values(), ids=REFUSED)
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


@pytest.mark.parametrize(("block", "part"), BLOCKS.values(), ids=BLOCKS)
def test_a_users_block_becomes_a_part_and_comes_back(block: dict[str, Any], part: ir.Part) -> None:
    request = DIALECT.decode_request(said([block]))
    assert request.messages == (ir.Message("user", (part,)),)
    assert DIALECT.encode_request(request, OPUS).body["messages"][0]["content"] == [block]


@pytest.mark.parametrize(("block", "part"), ASSISTANT_BLOCKS.values(), ids=ASSISTANT_BLOCKS)
def test_an_assistants_block_becomes_a_part_and_comes_back(block: dict[str, Any], part: ir.Part) -> None:
    request = DIALECT.decode_request(said([block], "assistant"))
    assert request.messages == (ir.Message("assistant", (part,)),)
    assert DIALECT.encode_request(request, OPUS).body["messages"][0]["content"] == [block]


def test_results_are_a_turn_of_their_own_and_stand_first_again() -> None:
    request = DIALECT.decode_request(
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
    last = DIALECT.encode_request(request, OPUS).body["messages"][-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]


def test_members_without_a_field_are_kept_by_their_path_and_come_back() -> None:
    given = body(
        tools=[{"name": "a", "input_schema": {"type": "object"}, "defer_loading": True}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}],
        context_management={"edits": []},
        output_config={"effort": "low", "task_budget": {"total": 1}},
        thinking={"type": "adaptive", "display": "omitted"},
    )
    request = DIALECT.decode_request(given)
    assert request.extra == {
        "tools[0].defer_loading": True,
        "messages[0].content[0].x": 1,
        "context_management": {"edits": []},
        "output_config.task_budget": {"total": 1},
        "thinking.display": "omitted",
    }
    again = DIALECT.encode_request(request, OPUS)
    assert again.body["tools"] == given["tools"]
    assert again.body["output_config"] == given["output_config"]
    assert again.body["thinking"] == given["thinking"]
    assert again.dropped == ("messages[0].content[0].x",)  # a single text is written as a string


def test_a_turn_of_instructions_stays_where_its_client_put_it() -> None:
    given = body(messages=[USER, {"role": "system", "content": "Be brief."}])
    encoded = DIALECT.encode_request(DIALECT.decode_request(given), ir.Target("anything"))
    assert (encoded.body["messages"], encoded.dropped) == (given["messages"], ())


@pytest.mark.parametrize(
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
    request = DIALECT.decode_request(body(tools=[tool]))
    assert request.tools == (ir.ServerTool(neutral, tool, "anthropic"),)
    assert DIALECT.encode_request(request, OPUS).body["tools"] == [tool]


def test_servers_without_a_toolset_are_tools_that_only_this_provider_runs() -> None:
    servers = [{"type": "url", "url": "https://e.org", "name": "s"}]
    request = DIALECT.decode_request(body(mcp_servers=servers))
    assert request.tools == (ir.ServerTool("mcp", {"mcp_servers": servers}, "anthropic"),)
    encoded = DIALECT.encode_request(request, OPUS)
    assert (encoded.body["mcp_servers"], "tools" in encoded.body) == (servers, False)
    toolset = {"type": "mcp_toolset", "mcp_server_name": "s"}
    given = body(mcp_servers=servers, tools=[toolset])
    encoded = DIALECT.encode_request(DIALECT.decode_request(given), OPUS)
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
        try:
            request = DIALECT.decode_request(request_body)
        except InvalidRequest as fault:
            assert fault.param
            continue
        try:
            DIALECT.encode_request(request, HAIKU)
        except (InvalidRequest, Unsupported) as fault:
            assert fault.param


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
        ir.Shape(frozenset({"vision"}), 3, media=1, max_tokens=64),
    ),
    "two calls at once": (
        said([CALL, CALL], "assistant"),
        ir.Shape(frozenset({"parallel_tools"}), 24, max_tokens=64),
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


@pytest.mark.parametrize(("request_body", "shape"), SHAPES.values(), ids=SHAPES)
def test_shape(request_body: dict[str, Any], shape: ir.Shape) -> None:
    assert DIALECT.read_shape(request_body) == shape


# -- encoding what another dialect's client asked for --------------------------------------------------------------


def asked(*messages: ir.Message, **members: Any) -> ir.Request:
    turns = messages or (ir.Message("user", (ir.Text("Hi"),)),)
    return ir.Request(model="x", messages=turns, dialect="openai-chat", **members)


def spoken(role: Any, *parts: ir.Part | str) -> ir.Message:
    return ir.Message(role, tuple(ir.Text(part) if isinstance(part, str) else part for part in parts))


LOOP = (
    spoken("user", "Hi"),
    spoken("assistant", ir.ToolCall("c1", "look", "{}")),
    spoken("tool", ir.ToolResult("c1", (ir.Text("x"),))),
)
LOOK = ir.Tool("look", schema={"type": "object"})
ADAPTIVE = {"type": "adaptive"}

# request, target, the members wanted (None: absent), dropped
FITTED: dict[str, tuple[ir.Request, ir.Target, dict[str, Any], tuple[str, ...]]] = {
    "the client's max_tokens": (asked(max_tokens=9), OPUS, {"max_tokens": 9}, ()),
    "the model's cap bounds it": (
        asked(max_tokens=9),
        evolve(OPUS, max_output=5),
        {"max_tokens": 5},
        ("max_completion_tokens",),
    ),
    "else the model's cap": (asked(), evolve(OPUS, max_output=5), {"max_tokens": 5}, ()),
    "else 4096": (asked(), OPUS, {"max_tokens": 4096}, ()),
    "the target's own name": (asked(), OPUS, {"model": "claude-opus-4-8"}, ()),
    "a temperature above one is one": (asked(temperature=1.4), HAIKU, {"temperature": 1}, ("temperature",)),
    "temperature or top_p, not both": (
        asked(temperature=0.5, top_p=0.5), HAIKU, {"temperature": 0.5, "top_p": None}, ("top_p",),
    ),
    "both where both are taken": (asked(temperature=0.5, top_p=0.5), OLD, {"temperature": 0.5, "top_p": 0.5}, ()),
    "no sampling from 4.7 on": (
        asked(temperature=0.5, top_k=3), OPUS, {"temperature": None, "top_k": None}, ("temperature", "top_k"),
    ),
    "its default said aloud is no loss": (asked(temperature=1, top_p=1), OPUS, {"temperature": None}, ()),
    "a model that is no Claude takes it all": (
        asked(temperature=0.5, top_p=0.5, top_k=3), ir.Target("glm-5"), {"temperature": 0.5, "top_p": 0.5, "top_k": 3},
        (),
    ),
    "what cannot be said": (
        asked(
            seed=1, frequency_penalty=0.5, presence_penalty=0.5, logit_bias={"1": 1.0}, logprobs=True, top_logprobs=2,
            verbosity="low", prediction={"type": "content"}, cache_key="k", store=True, metadata={"a": "b"},
            extra={"transforms": []},
        ),
        OPUS,
        {},
        (
            "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "verbosity",
            "prediction", "prompt_cache_key", "store", "metadata", "seed", "transforms",
        ),
    ),
    "what asks for nothing": (asked(frequency_penalty=0, logprobs=False, store=False, n=1), OPUS, {}, ()),
    "stops": (asked(stop=("a", "\n")), OPUS, {"stop_sequences": ["a"]}, ("stop",)),
    "the user": (asked(user="u"), OPUS, {"metadata": {"user_id": "u"}}, ()),
    "tier default": (asked(service_tier="default"), OPUS, {"service_tier": "standard_only"}, ()),
    "tier flex": (asked(service_tier="flex"), OPUS, {"service_tier": None}, ("service_tier",)),
    "a schema": (
        asked(response_format=ir.ResponseFormat("json_schema", "n", {"type": "object"}, True)),
        OPUS,
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        (),
    ),
    "any JSON": (asked(response_format=ir.ResponseFormat("json_object")), OPUS, {}, ("response_format",)),
    "plain text": (asked(response_format=ir.ResponseFormat("text")), OPUS, {"output_config": None}, ()),
    "effort": (
        asked(reasoning=ir.Reasoning("high")), OPUS,
        {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}, (),
    ),
    "minimal effort is low": (
        asked(reasoning=ir.Reasoning("minimal")), OPUS,
        {"thinking": ADAPTIVE, "output_config": {"effort": "low"}}, (),
    ),
    "an effort the model lacks is the next lower": (
        asked(reasoning=ir.Reasoning("xhigh")), ir.Target("claude-sonnet-4-6"),
        {"output_config": {"effort": "high"}}, ("reasoning_effort",),
    ),
    "effort and a schema share output_config": (
        asked(reasoning=ir.Reasoning("low"), response_format=ir.ResponseFormat("json_schema", schema={})), OPUS,
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}}}, (),
    ),
    "a budget before 4.6": (
        asked(reasoning=ir.Reasoning("medium"), max_tokens=8000), HAIKU,
        {"thinking": {"type": "enabled", "budget_tokens": 4000}}, (),
    ),
    "a budget wants room": (
        asked(reasoning=ir.Reasoning("medium"), max_tokens=1000), HAIKU, {"thinking": None}, ("reasoning_effort",),
    ),
    "a budget excludes a temperature": (
        asked(reasoning=ir.Reasoning("low"), temperature=0.2), HAIKU, {"temperature": None}, ("temperature",),
    ),
    "a client's own budget": (
        asked(reasoning=ir.Reasoning(budget=2000)), HAIKU, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, (),
    ),
    "a budget where only effort is known": (
        asked(reasoning=ir.Reasoning(budget=2000)), OPUS, {"thinking": ADAPTIVE}, ("reasoning_effort",),
    ),
    "a loop whose calls have no thinking": (
        asked(*LOOP, reasoning=ir.Reasoning("low"), tools=(LOOK,)), HAIKU, {"thinking": None}, ("reasoning_effort",),
    ),
    "such a loop from 4.6 on": (
        asked(*LOOP, reasoning=ir.Reasoning("low"), tools=(LOOK,)), OPUS, {"thinking": ADAPTIVE}, (),
    ),
    "a forced tool and thinking": (
        asked(reasoning=ir.Reasoning("low"), tools=(LOOK,), tool_choice=ir.ToolChoice("any")), OPUS,
        {"thinking": None, "output_config": {"effort": "low"}}, ("reasoning_effort",),
    ),
    "a model that never thinks": (
        asked(reasoning=ir.Reasoning("low")), OLD, {"thinking": None}, ("reasoning_effort",),
    ),
    "no thinking, where it is off": (asked(reasoning=ir.Reasoning("none")), OPUS, {"thinking": None}, ()),
    "no thinking, where it is on": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-opus-5"), {"thinking": {"type": "disabled"}}, (),
    ),
    "no thinking, before tools at least": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-sonnet-5-5"),
        {"thinking": {"type": "between_tools"}}, (),
    ),
    "no thinking, where it is always on": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-opus-5-5"),
        {"thinking": None, "output_config": {"effort": "low"}}, ("reasoning_effort",),
    ),
    "a choice without tools": (asked(tool_choice=ir.ToolChoice("auto")), OPUS, {"tool_choice": None}, ()),
    "one call at a time": (
        asked(tools=(LOOK,), parallel_tools=False), OPUS,
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, (),
    ),
    "no calls at all, one at a time": (
        asked(tools=(LOOK,), tool_choice=ir.ToolChoice("none"), parallel_tools=False), OPUS,
        {"tool_choice": {"type": "none"}}, (),
    ),
    "some tools allowed": (
        asked(tools=(LOOK, ir.Tool("b", schema={"type": "object"})), tool_choice=ir.ToolChoice("any", None, ("b",))),
        OPUS,
        {"tools": [{"name": "b", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}}, (),
    ),
    "a tool without a schema": (
        asked(tools=(ir.Tool("a"),)), OPUS,
        {"tools": [{"name": "a", "input_schema": {"type": "object", "properties": {}}}]}, (),
    ),
    "a strict tool where none can be": (
        asked(tools=(ir.Tool("a", schema={"type": "object"}, strict=True),)), OLD,
        {"tools": [{"name": "a", "input_schema": {"type": "object"}}]}, ("tools[0].function.strict",),
    ),
    "a search by the provider": (
        asked(
            tools=(
                ir.ServerTool(
                    "web_search",
                    {"web_search_options": {"user_location": {"type": "approximate", "approximate": {"city": "Bonn"}}}},
                    "openai-chat",
                ),
            )
        ),
        OPUS,
        {"tools": [{"type": "web_search_20250305", "name": "web_search",
                    "user_location": {"type": "approximate", "city": "Bonn"}}]},
        (),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "target", "members", "dropped"), FITTED.values(), ids=FITTED)
def test_a_request_is_fitted_to_its_target(
    request_: ir.Request, target: ir.Target, members: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    encoded = DIALECT.encode_request(request_, target)
    assert {name: encoded.body.get(name) for name in members} == members
    assert encoded.dropped == dropped
    assert DIALECT.encode_request(request_, target) == encoded


IMAGE = ir.Image(ir.Blob("aGk=", "image/png"))
PNG_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
# messages, target, system (None: absent), messages wanted, dropped
TURNS: dict[str, tuple[tuple[ir.Message, ...], ir.Target, Any, list[Any], tuple[str, ...]]] = {
    "instructions at the head": (
        (spoken("system", "A"), spoken("developer", "B"), spoken("user", "Hi")), OPUS,
        [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}], [USER], (),
    ),
    "later ones behind a user turn": (
        (spoken("user", "Hi"), spoken("system", "A")), OPUS, None, [USER, {"role": "system", "content": "A"}], (),
    ),
    "later ones before a user turn": (
        (spoken("user", "Hi"), spoken("system", "A"), spoken("user", "Ho")), OPUS, None,
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi"},
                    {"type": "text", "text": "<system>\nA\n</system>"},
                    {"type": "text", "text": "Ho"},
                ],
            }
        ],
        ("messages[1].role",),
    ),
    "later ones where the model has no place for them": (
        (spoken("user", "Hi"), spoken("assistant", "Yes"), spoken("system", "A")), HAIKU, None,
        [USER, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "<system>\nA\n</system>"}],
        ("messages[2].role",),
    ),
    "instructions alone are the question": (
        (spoken("system", "A"),), OPUS, None, [{"role": "user", "content": "A"}], ("messages[0].role",),
    ),
    "turns of one role are one": (
        (spoken("user", "a"), spoken("user", "b")), OPUS, None,
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], (),
    ),
    "results come first in their turn": (
        (
            spoken("user", "Hi"),
            spoken("assistant", ir.ToolCall("c1", "a", '{"x": 1}'), ir.ToolCall("c2", "b")),
            spoken("user", "quick"),
            spoken("tool", ir.ToolResult("c1", (ir.Text("1"),))),
            spoken("tool", ir.ToolResult("c2", (IMAGE,), is_error=True)),
        ),
        OPUS, None,
        [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "a", "input": {"x": 1}},
                    {"type": "tool_use", "id": "c2", "name": "b", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [PNG_BLOCK], "is_error": True},
                    {"type": "text", "text": "quick"},
                ],
            },
        ],
        (),
    ),
    "empty text says nothing": (
        (spoken("user", "Hi"), spoken("assistant", ""), spoken("user", "", IMAGE)), OPUS, None,
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, PNG_BLOCK]}], (),
    ),
    "an id of foreign letters": (
        (spoken("user", "Hi"), spoken("assistant", ir.ToolCall("f.a:0", "a")),
         spoken("tool", ir.ToolResult("f.a:0"))),
        OPUS, None,
        [
            USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "f_2ea_3a0", "name": "a", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "f_2ea_3a0"}]},
        ],
        (),
    ),
    "thinking of another provider": (
        (spoken("user", "Hi"), spoken("assistant", ir.Thinking("so", signature="s", dialect="gemini"), "Yes")),
        OPUS, None, [USER, {"role": "assistant", "content": "Yes"}], ("messages[1].reasoning_content",),
    ),
    "thinking of this one": (
        (spoken("user", "Hi"), spoken("assistant", ir.Thinking("so", signature="s", dialect="anthropic"), "Yes")),
        OPUS, None,
        [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "so", "signature": "s"},
                    {"type": "text", "text": "Yes"},
                ],
            },
        ],
        (),
    ),
    "a cache marker and an image's detail": (
        (spoken("user", ir.Text("a", cache=ir.Cache("24h")), evolve(IMAGE, detail="low")),), OPUS, None,
        [{"role": "user", "content": [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, PNG_BLOCK]}],
        ("messages[0].content[1].detail",),
    ),
    "documents": (
        (
            spoken(
                "user",
                ir.File(ir.Blob("aGk=", "application/pdf"), "a.pdf"),
                ir.File(ir.Blob("aGk=", "text/markdown"), "a.md"),
                ir.File(ir.Url("https://e.org/a.pdf")),
            ),
        ),
        OPUS, None,
        [{"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
             "title": "a.pdf"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "title": "a.md"},
            {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}},
        ]}],
        (),
    ),
    "blocks of another provider": (
        (spoken("user", "Hi"), spoken("assistant", ir.Opaque("video", {}, "openai-chat"), ir.Refusal("No."))),
        OPUS, None, [USER, {"role": "assistant", "content": "No."}], ("messages[1].content[0]",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "target", "system", "wanted", "dropped"), TURNS.values(), ids=TURNS)
def test_turns(
    messages: tuple[ir.Message, ...], target: ir.Target, system: Any, wanted: list[Any], dropped: tuple[str, ...]
) -> None:
    encoded = DIALECT.encode_request(asked(*messages), target)
    assert encoded.body.get("system") == system
    assert encoded.body["messages"] == wanted
    assert encoded.dropped == dropped


CALLED = spoken("assistant", "So", ir.ToolCall("c0", "a", "{}"), ir.ToolCall("c1", "a", '{"x'))
IMPOSSIBLE: dict[str, tuple[ir.Request, type[Exception], str]] = {
    "several answers": (asked(n=2), Unsupported, "n"),
    "an answer to listen to": (asked(modalities=("text", "audio")), Unsupported, "modalities"),
    "something to listen to": (
        asked(spoken("user", "a", ir.Audio(ir.Blob("aGk=", "audio/wav")))), Unsupported, "messages[0].content[1]",
    ),
    "a film": (asked(spoken("user", ir.Video(ir.Url("u")))), Unsupported, "messages[0].content[0]"),
    "a picture of an odd kind": (
        asked(spoken("user", ir.Image(ir.Blob("aGk=", "image/tiff")))), Unsupported, "messages[0].content[0]",
    ),
    "a file stored elsewhere": (
        asked(spoken("user", ir.File(ir.FileId("file-1")))), Unsupported, "messages[0].content[0]",
    ),
    "an office document": (
        asked(spoken("user", ir.File(ir.Blob("aGk=", "application/msword")))), Unsupported, "messages[0].content[0]",
    ),
    "a tool of free text": (asked(tools=(ir.Tool("a", custom=True),)), Unsupported, "tools[0]"),
    "a tool that only another provider runs": (
        asked(tools=(LOOK, ir.ServerTool("image_generation", {}, "openai-responses"))), Unsupported, "tools[1]",
    ),
    "a schema for a model before 4.5": (
        evolve(asked(response_format=ir.ResponseFormat("json_schema", schema={})), model="old"), Unsupported,
        "response_format",
    ),
    "arguments that are no JSON": (
        asked(spoken("user", "Hi"), CALLED), InvalidRequest, "messages[1].tool_calls[1].function.arguments",
    ),
    "arguments that are no object": (
        asked(spoken("assistant", ir.ToolCall("c", "a", "[1]"))), InvalidRequest,
        "messages[0].tool_calls[0].function.arguments",
    ),
    "nothing said": (asked(spoken("user", "")), InvalidRequest, "messages"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "error", "param"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_would_change_the_meaning_is_refused(request_: ir.Request, error: type[Exception], param: str) -> None:
    with pytest.raises(error) as caught:
        DIALECT.encode_request(request_, OLD if request_.model == "old" else OPUS)
    assert getattr(caught.value, "param", None) == param


def test_the_beginning_of_a_conversation_is_written_alike_however_it_goes_on() -> None:
    """The provider's prompt cache lives on equal beginnings."""
    turns = [spoken("system", "S"), *LOOP, spoken("assistant", "done"), spoken("user", "more")]
    before: list[Any] = []
    for end in (2, 4, 6):
        messages = DIALECT.encode_request(asked(*turns[:end], tools=(LOOK,)), OPUS).body["messages"]
        assert messages[: len(before)] == before
        before = messages


def test_a_lone_surrogate_in_arguments_survives() -> None:
    request = asked(spoken("assistant", ir.ToolCall("c", "a", '{"x":"\\ud83d"}')))
    assert DIALECT.encode_request(request, OPUS).body["messages"][0]["content"][0]["input"] == {"x": "\ud83d"}
