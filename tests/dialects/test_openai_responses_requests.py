from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from attrs import evolve
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy import ir
from proxy.dialects.openai_responses import DIALECT
from proxy.dialects.openai_responses.freeform import Input, as_functions, input_of
from proxy.dialects.openai_responses.request_reader import read_request
from proxy.errors import InvalidRequest, Unsupported

HI = {"role": "user", "content": "hi"}
BODY = {"model": "m", "input": "hi"}
SCHEMA = {"type": "object", "properties": {}}
USER = ir.Message("user", (ir.Text("hi"),))


def turns(*items: dict[str, Any], **members: Any) -> tuple[ir.Message, ...]:
    return DIALECT.codec().decode_request({"model": "m", "input": list(items), **members}).messages


def call(ident: str, **members: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": ident, "name": "look", "arguments": "{}", **members}


def summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def thought(**members: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], **members}


# -- reading -----------------------------------------------------------------------------------------------------

LOOK = ir.ToolCall("c1", "look", "{}")
TURNS: dict[str, tuple[list[dict[str, Any]], list[ir.Message]]] = {
    "a message says its type or does not": (
        [HI, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        [USER, USER],
    ),
    "reasoning, words and calls are one turn, and so are results": (
        [thought(encrypted_content="e"), {"role": "assistant", "content": "ho", "id": "msg_1"}, call("c1"), call("c2"),
         {"type": "function_call_output", "call_id": "c1", "output": "a"},
         {"type": "function_call_output", "call_id": "c2", "output": "b"}],
        [
            ir.Message(
                "assistant",
                (ir.Thinking(encrypted="e", id="rs_1", dialect="openai-responses"), ir.Text("ho"), LOOK,
                 evolve(LOOK, id="c2")),
                id="msg_1",
            ),
            ir.Message("tool", (ir.ToolResult("c1", (ir.Text("a"),)), ir.ToolResult("c2", (ir.Text("b"),)))),
        ],
    ),
    "a phase belongs to its message": (
        [{"role": "assistant", "phase": "commentary", "content": "ho"}],
        [ir.Message("assistant", (ir.Text("ho"),), phase="commentary")],
    ),
    "reasoning shown in full and in summary": (
        [thought(summary=[summary("a"), summary("b")],
                 content=[{"type": "reasoning_text", "text": "c"}], encrypted_content=None)],
        [ir.Message("assistant", (ir.Thinking("c", ("a", "b"), id="rs_1", dialect="openai-responses"),))],
    ),
    "thinking of others comes back to them": (
        [thought(summary=[summary("a")], encrypted_content="pointsman/anthropic/signature/s/1"),
         thought(encrypted_content="pointsman/anthropic/redacted/d"),
         thought(summary=[summary("b")], encrypted_content="pointsman/openai-chat/")],
        [ir.Message("assistant", (ir.Thinking("a", signature="s/1", dialect="anthropic"),
                                  ir.Thinking(redacted="d", dialect="anthropic"),
                                  ir.Thinking("b", dialect="openai-chat")))],
    ),
    "a proof stands in front of its call": (
        [thought(encrypted_content="pointsman/gemini/call/s"), call("c1"), call("c2")],
        [ir.Message("assistant", (evolve(LOOK, signature="s"), evolve(LOOK, id="c2")))],
    ),
    "a proof stands behind its words": (
        [{"role": "assistant", "content": "ho"}, thought(encrypted_content="pointsman/gemini/text/s"), call("c1")],
        [ir.Message("assistant", (ir.Text("ho", signature="s"), LOOK))],
    ),
    "what tools of the provider did": (
        [{"type": "web_search_call", "id": "ws_1", "status": "completed"},
         {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []}],
        [ir.Message("assistant", (
            ir.ServerCall("ws_1", "web_search", "", {"type": "web_search_call", "id": "ws_1", "status": "completed"},
                          "openai-responses"),
            ir.Opaque("mcp_list_tools", {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
                      "openai-responses")))],
    ),
    "what the client did for the provider's tools": (
        [{"type": "local_shell_call_output", "call_id": "c1", "output": "a.txt"}],
        [ir.Message("tool", (ir.ServerResult("c1", "local_shell_call_output", {
            "type": "local_shell_call_output", "call_id": "c1", "output": "a.txt"}, "openai-responses"),))],
    ),
    "arguments as an object": (
        [call("c1", arguments={"a": 1})], [ir.Message("assistant", (evolve(LOOK, arguments='{"a":1}'),))],
    ),
    "every kind of content": (
        [{"role": "user", "content": [
            {"type": "input_image", "file_id": "file-1"},
            {"type": "input_image", "image_url": {"url": "https://e.org/a.png"}, "detail": "high"},
            {"type": "input_file", "file_id": "file-2"},
            {"type": "input_file", "file_url": "https://e.org/a.pdf"},
            {"type": "input_file", "file_data": "aGk=", "filename": "a.pdf"},
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
            {"type": "input_text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}},
            {"type": "of_next_year", "x": 1}]}],
        [ir.Message("user", (
            ir.Image(ir.FileId("file-1")), ir.Image(ir.Url("https://e.org/a.png"), "high"),
            ir.File(ir.FileId("file-2")), ir.File(ir.Url("https://e.org/a.pdf")), ir.File(ir.Blob("aGk="), "a.pdf"),
            ir.Audio(ir.Blob("aGk=", "audio/wav"), "wav"), ir.Text("hi", cache=ir.Cache("12h")),
            ir.Opaque("of_next_year", {"type": "of_next_year", "x": 1}, "openai-responses")))],
    ),
}  # fmt: skip


@each(("items", "messages"), TURNS.values(), ids=TURNS)
def test_items_become_turns(items: list[dict[str, Any]], messages: list[ir.Message]) -> None:
    assert list(turns(*items)) == messages


def test_members_without_a_field_are_kept_by_their_path() -> None:
    body = {
        "model": "m",
        "input": [HI, call("c1", namespace="tools", status="completed")],
        "tools": [{"type": "function", "name": "look", "parameters": SCHEMA, "defer_loading": True}],
        "text": {"verbosity": "low", "of_next_year": 1},
        "reasoning": {"effort": "low", "context": "all"},
        "truncation": "auto",
        "stream_options": {"include_obfuscation": False},
        "models": ["other"],
    }
    request = DIALECT.codec().decode_request(body)
    assert request.extra == {
        "input[1].namespace": "tools",
        "tools[0].defer_loading": True,
        "text.of_next_year": 1,
        "reasoning.context": "all",
        "truncation": "auto",
        "stream_options": {"include_obfuscation": False},
    }
    again = json.loads(json.dumps(DIALECT.codec().encode_request(request, ir.Target("m")).body))
    body["input"] = [HI, call("c1", namespace="tools")]
    body.pop("models")
    assert again == body


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"input": "hi"}, "model"),
    "no input": ({"model": "m"}, "input"),
    "an empty array": ({"model": "m", "input": []}, "input"),
    "input that is a number": ({"model": "m", "input": 3}, "input"),
    "an item that is a number": ({"model": "m", "input": [1]}, "input[0]"),
    "an unknown role": ({"model": "m", "input": [{"role": "bot", "content": "x"}]}, "input[0].role"),
    "content that is a number": ({"model": "m", "input": [{"role": "user", "content": 1}]}, "input[0].content"),
    "a part without a type": (
        {"model": "m", "input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type",
    ),
    "an image without a URL": (
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].image_url",
    ),
    "a file without data": (
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "input[0].content[0].file_data",
    ),
    "a call without an id": ({"model": "m", "input": [call("")]}, "input[0].call_id"),
    "a call without a name": ({"model": "m", "input": [call("c1", name="")]}, "input[0].name"),
    "arguments that are a number": ({"model": "m", "input": [call("c1", arguments=1)]}, "input[0].arguments"),
    "a result without the id of its call": (
        {"model": "m", "input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id",
    ),
    "a tool without a name": ({**BODY, "tools": [{"type": "function"}]}, "tools[0].name"),
    "a tool without a type": ({**BODY, "tools": [{"name": "look"}]}, "tools[0].type"),
    "an unknown tool choice": ({**BODY, "tool_choice": "maybe"}, "tool_choice"),
    "instructions as an array": ({**BODY, "instructions": ["x"]}, "instructions"),
    "a cap of zero": ({**BODY, "max_output_tokens": 0}, "max_output_tokens"),
    "an unknown format": ({**BODY, "text": {"format": {"type": "xml"}}}, "text.format.type"),
    "a format without its schema": ({**BODY, "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    "an effort that is a number": ({**BODY, "reasoning": {"effort": 3}}, "reasoning.effort"),
    "include as a string": ({**BODY, "include": "x"}, "include"),
}  # fmt: skip


@each(("body", "param"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.codec().decode_request(body)
    assert caught.value.param == param
    assert param in caught.value.message


STATE: dict[str, tuple[dict[str, Any], str, str]] = {
    "an earlier response": ({**BODY, "previous_response_id": "r"}, "previous_response_id", "send the earlier turns"),
    "a conversation": ({**BODY, "conversation": "conv_1"}, "conversation", "send the earlier turns"),
    "a conversation as an object": ({**BODY, "conversation": {"id": "c"}}, "conversation", "send the earlier turns"),
    "work in the background": ({**BODY, "background": True}, "background", "leave it out"),
    "a stored prompt": ({"model": "m", "prompt": {"id": "p"}}, "prompt", "send the prompt's text"),
    "keeping the response": ({**BODY, "store": True}, "store", "leave it out or set it to false"),
    "a stored item": ({**BODY, "input": [HI, {"type": "item_reference", "id": "i"}]}, "input[1]", "send the item"),
    "a stored item without its type": ({"model": "m", "input": [{"id": "i"}]}, "input[0]", "send the item"),
    "earlier turns that OpenAI alone can read": (
        {"model": "m", "input": [{"type": "compaction", "encrypted_content": "e"}, HI]}, "input[0]", "send the turns",
    ),
}  # fmt: skip


@each(("body", "param", "remedy"), STATE.values(), ids=STATE)
def test_what_needs_a_memory_is_refused_with_a_remedy(body: dict[str, Any], param: str, remedy: str) -> None:
    """Another candidate may have one."""
    with pytest.raises(Unsupported, match=remedy) as caught:
        DIALECT.codec().decode_request(body)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message
    assert caught.value.try_next
    assert DIALECT.codec().encode_request(read_request(body), ir.Target("m")).dropped == ()


def test_to_say_nothing_of_state_is_to_ask_for_none() -> None:
    body = {**BODY, "store": False, "background": False, "previous_response_id": None, "conversation": None}
    assert DIALECT.codec().decode_request(body).extra == {}


def test_encrypted_reasoning_is_no_wish_that_a_bridge_drops() -> None:
    """Every answer holds it; the other words of `include` are kept."""
    words = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    request = DIALECT.codec().decode_request({**BODY, "include": words})
    assert (request.extra, request.logprobs) == ({}, True)
    assert DIALECT.codec().decode_request({**BODY, "include": [*words, "x"]}).extra == {"include": ["x"]}
    assert sorted(
        DIALECT.codec().encode_request(read_request({**BODY, "include": words}), ir.Target("m")).body["include"]
    ) == [*sorted(words)]


@pytest.mark.parametrize("choice", [{"type": "file_search"}, {"type": "mcp", "server_label": "s"}])
def test_a_choice_of_a_tool_that_the_provider_runs_is_kept_whole(choice: dict[str, Any]) -> None:
    request = DIALECT.codec().decode_request({**BODY, "tool_choice": choice})
    assert (request.tool_choice, request.extra) == (None, {"tool_choice": choice})
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [choice, {"type": "function", "name": "f"}]}
    assert DIALECT.codec().decode_request({**BODY, "tool_choice": allowed}).extra == {"tool_choice": allowed}


SERVER_TOOLS = {
    "web_search": "web_search", "web_search_preview_2025_03_11": "web_search", "file_search": "file_search",
    "code_interpreter": "code_execution", "image_generation": "image_generation", "mcp": "mcp",
    "computer_use_preview": "computer", "local_shell": "local_shell", "tool_search": "tool_search",
    "namespace": "namespace",
}  # fmt: skip


@each(("kind", "neutral"), SERVER_TOOLS.items())
def test_tools_that_the_provider_runs_have_a_neutral_name(kind: str, neutral: str) -> None:
    raw = {"type": kind, "name": "n"}
    assert DIALECT.codec().decode_request({**BODY, "tools": [raw]}).tools == (
        ir.ServerTool(neutral, raw, "openai-responses"),
    )


# -- custom tools as functions -------------------------------------------------------------------------------------


def test_a_custom_tool_is_a_function_to_others_and_itself_to_this_dialect() -> None:
    body = {
        **BODY,
        "input": [
            {"type": "custom_tool_call", "call_id": "c1", "name": "edit", "input": "a\n"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        ],
        "tools": [{"type": "custom", "name": "edit", "format": {"type": "text"}}],
    }
    assert read_request(body).tools == (ir.Tool("edit", custom=True, format={"type": "text"}),)
    request = DIALECT.codec().decode_request(body)
    assert request == as_functions(read_request(body))
    assert request.extra == {}, "text is no grammar that could be lost"
    assert [part for turn in request.messages for part in turn.parts] == [
        ir.ToolCall("c1", "edit", '{"input":"a\\n"}'),
        ir.ToolResult("c1", (ir.Text("ok"),)),
    ]


@given(st.text(), st.integers(1, 5), st.booleans())
def test_the_text_in_a_functions_arguments_comes_out_however_it_is_cut(text: str, size: int, escaped: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=escaped)
    reader = Input()
    said = "".join([reader.feed(arguments[at : at + size]) for at in range(0, len(arguments), size)])
    assert said + reader.close() == text == input_of(arguments)


@each("arguments", ["", "*** Begin", '{"patch": "x"}', '{"input": 3}', "[1]"])
def test_a_model_that_does_not_keep_to_the_schema_is_taken_at_its_word(arguments: str) -> None:
    reader = Input()
    assert reader.feed(arguments) + reader.close() == arguments == input_of(arguments)


def test_arguments_that_are_cut_off_give_what_came() -> None:
    reader = Input()
    assert reader.feed('{"input":"a\\') + reader.close() == "a"


def test_line_ends_that_should_be_escapes_are_read() -> None:
    reader = Input()
    assert reader.feed('{"input":"a\nb\\"c"}') + reader.close() == 'a\nb"c'


# -- requests that pass ------------------------------------------------------------------------------------------


def test_what_was_sealed_here_never_reaches_the_api() -> None:
    """It would refuse it. A request without such items passes as it came."""
    assert DIALECT.mend_request is not None
    own = thought(encrypted_content="gAAAA")
    sealed = [thought(encrypted_content=f"pointsman/{rest}") for rest in ("anthropic/signature/s", "openai-chat/")]
    assert DIALECT.mend_request({"model": "m", "input": [HI, own, call("c1")]}) is None
    assert DIALECT.mend_request({"model": "m", "input": "hi"}) is None
    mended = DIALECT.mend_request({"model": "m", "input": [HI, sealed[0], own, sealed[1], call("c1")], "x": 1})
    assert mended == {"model": "m", "input": [HI, own, call("c1")], "x": 1}


# -- what routing sees -------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[dict[str, Any], ir.Shape]] = {
    "a string": ({"input": "four"}, ir.Shape(frozenset(), 4, turns=("four",))),
    "turns and instructions": (
        {"instructions": "Be", "input": [{"role": "developer", "content": "kind"}, HI,
                                         {"role": "assistant", "content": "ho"}, HI]},
        ir.Shape(frozenset(), 12, turns=("hi", "hi"), system="Be\nkind"),
    ),
    "media, in results too": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}, {"type": "input_file"}]},
                   {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
        ir.Shape(frozenset({"vision", "files", "tools"}), 0, media=3, turns=("",)),
    ),
    "calls at once": (
        {"input": [HI, call("a"), thought(), call("b")]},
        ir.Shape(frozenset({"tools", "parallel_tools"}), 14, turns=("hi",)),
    ),
    "calls one behind the other": (
        {"input": [HI, call("a"), {"type": "function_call_output", "call_id": "a", "output": "x"}, call("b")]},
        ir.Shape(frozenset({"tools"}), 15, turns=("hi",)),
    ),
    "wishes": (
        {"input": "", "parallel_tool_calls": True, "reasoning": {"effort": "low"}, "max_output_tokens": 9.0,
         "text": {"format": {"type": "json_object"}}},
        ir.Shape(frozenset({"parallel_tools", "thinking", "json"}), 29, max_tokens=9, turns=("",)),
    ),
    "no wish to think": ({"input": "", "reasoning": {"effort": "none"}}, ir.Shape(frozenset(), 0, turns=("",))),
}  # fmt: skip


@each(("body", "shape"), SHAPES.values(), ids=SHAPES)
def test_the_shape_of_a_request(body: dict[str, Any], shape: ir.Shape) -> None:
    assert DIALECT.read_shape(body) == shape


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "input", "output", "summary", "text", "tools", "name"]), inner
    ),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["model", "input", "instructions", "tools", "text", "reasoning"]), JSON))
def test_any_body_has_a_shape_and_is_read_or_refused(body: dict[str, Any]) -> None:
    assert isinstance(DIALECT.read_shape(body), ir.Shape)
    with suppress(InvalidRequest, Unsupported):
        assert DIALECT.codec().decode_request({"model": "m", **body}).dialect == DIALECT.name
