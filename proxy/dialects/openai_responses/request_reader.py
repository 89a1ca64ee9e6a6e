"""Responses requests to the IR, with every complaint naming its field.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.dialects.openai_chat.members import (
    array,
    boolean,
    integer,
    number,
    record,
    records,
    string,
    strings,
    text,
    wrong,
)
from proxy.dialects.openai_responses.freeform import as_functions
from proxy.dialects.openai_responses.grammar import ITEM, REQUEST
from proxy.dialects.openai_responses.input_reader import TurnReader
from proxy.dialects.openai_responses.vocabulary import (
    ENCRYPTED,
    EXTENSIONS,
    INSTRUCTIONS,
    LOGPROBS,
    NAME,
    server_kind,
)
from proxy.dialects.unread import unread
from proxy.errors import Unsupported

_KNOWN = EXTENSIONS | {
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
    "temperature", "top_p", "top_logprobs", "frequency_penalty", "presence_penalty", "text", "reasoning", "stream",
    "service_tier", "user", "metadata", "prompt_cache_key", "store", "include",
}  # fmt: skip
_FUNCTION = frozenset({"type", "name", "description", "parameters", "strict"})
_CUSTOM = frozenset({"type", "name", "description", "format"})

# What only a provider that keeps state can do, and what a client does instead.
_KEEPS = (
    ("previous_response_id", "send the earlier turns themselves in `input`"),
    ("conversation", "send the earlier turns themselves in `input`"),
    ("background", "leave it out and read the answer as it comes"),
    ("prompt", "send the prompt's text itself in `instructions` or `input`"),
)
_KEPT_ITEMS = {
    "item_reference": "names an item that OpenAI stores; send the item itself",
    "compaction": "holds earlier turns that OpenAI alone can read; send the turns themselves",
    "compaction_summary": "holds earlier turns that OpenAI alone can read; send the turns themselves",
}


def decode_request(body: Mapping[str, Any]) -> ir.Request:
    """A request on its way to a provider that does not speak this dialect: it keeps nothing from one request to the
    next, and knows functions alone.

    Raises InvalidRequest with the path of what is wrong, Unsupported for what needs a provider with a memory: another
    candidate may have one.
    """
    _refuse_state(body)
    request = read_request(body)
    include = [word for word in request.extra.get("include", ()) if word != ENCRYPTED]  # which every answer holds
    extra = {name: value for name, value in request.extra.items() if name != "include"}
    extra |= dict(_unread(body))
    logprobs = request.logprobs if request.top_logprobs is None else True  # so many of them
    return as_functions(evolve(request, logprobs=logprobs, extra=extra | {"include": include} if include else extra))


def read_request(body: Mapping[str, Any]) -> ir.Request:
    """All that a request says. Raises InvalidRequest."""
    extra = {name: value for name, value in body.items() if name not in _KNOWN and value is not None}
    for name, unsaid in (("background", False), ("stream_options", {})):
        if extra.get(name) == unsaid:
            del extra[name]
    logprobs = _include(body, extra)
    return ir.Request(
        model=text(body, "model"),
        messages=_messages(body, extra),
        dialect=NAME,
        tools=tuple(_tool(raw, at, extra) for raw, at in records(body, "tools")),
        tool_choice=_tool_choice(body, extra),
        parallel_tools=boolean(body, "parallel_tool_calls"),
        max_tokens=integer(body, "max_output_tokens", least=1),
        temperature=number(body, "temperature"),
        top_p=number(body, "top_p"),
        frequency_penalty=number(body, "frequency_penalty"),
        presence_penalty=number(body, "presence_penalty"),
        logprobs=logprobs,
        top_logprobs=integer(body, "top_logprobs", least=0),
        response_format=_format(body, extra),
        reasoning=_reasoning(body, extra),
        verbosity=string(record(body, "text") or {}, "verbosity", "text"),
        stream=boolean(body, "stream") or False,
        include_usage=True,
        service_tier=string(body, "service_tier"),
        user=string(body, "user"),
        metadata=record(body, "metadata"),
        cache_key=string(body, "prompt_cache_key"),
        store=boolean(body, "store"),
        extra=extra,
    )


def _unread(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Members further down that no reader takes. Those of items are seen to as the items are read."""
    for name, grammar in REQUEST.items():
        yield from unread(body.get(name), grammar, name)
    if isinstance(items := body.get("input"), list):
        yield from unread(items, ITEM, "input")


def _refuse_state(body: Mapping[str, Any]) -> None:
    for name, remedy in _KEEPS:
        if body.get(name) not in (None, False):
            raise Unsupported(
                f"`{name}` needs a provider that keeps responses, and this model's does not: {remedy}.", param=name
            )
    if body.get("store") is True:
        raise Unsupported(
            "`store` is true, and this model's provider keeps no responses: leave it out or set it to false.",
            param="store",
        )
    for index, item in enumerate(array(body, "input") if isinstance(body.get("input"), list) else ()):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind is None and isinstance(item, dict) and "role" not in item:
            kind = "item_reference"
        if why := _KEPT_ITEMS.get(str(kind)):
            raise Unsupported(f"`input[{index}]` {why}.", param=f"input[{index}]")


def _messages(body: Mapping[str, Any], extra: dict[str, Any]) -> tuple[ir.Message, ...]:
    turns = TurnReader(extra).read(body)
    if instructions := string(body, "instructions"):
        turns = (
            ir.Message("system", (ir.Text(instructions),), id=INSTRUCTIONS, places=(INSTRUCTIONS,)),
            *turns,
        )
    if not turns and not any(body.get(name) for name, _ in _KEEPS):
        raise wrong("input", "a string or an array with at least one item")
    return turns


def _include(body: Mapping[str, Any], extra: dict[str, Any]) -> bool | None:
    """Whether logprobs are asked for; the other words stay."""
    if isinstance(body.get("include"), str):
        raise wrong("include", "an array of strings")
    words = strings(body, "include")
    if rest := [word for word in words if word != LOGPROBS]:
        extra["include"] = rest
    return True if LOGPROBS in words else None


# -- tools -------------------------------------------------------------------------------------------------------


def _tool(raw: dict[str, Any], at: str, extra: dict[str, Any]) -> ir.Tool | ir.ServerTool:
    match text(raw, "type", at):
        case "function":
            schema = record(raw, "parameters", at)
            _keep(extra, raw, at, _FUNCTION)
            return ir.Tool(
                name=text(raw, "name", at),
                description=string(raw, "description", at),
                schema={"type": "object", "properties": {}} if schema is None else schema,
                strict=boolean(raw, "strict", at),
            )
        case "custom":
            description, form = string(raw, "description", at), record(raw, "format", at)
            _keep(extra, raw, at, _CUSTOM)
            return ir.Tool(text(raw, "name", at), description, custom=True, format=form)
        case kind:
            return ir.ServerTool(server_kind(kind), raw, NAME)


_CHOICES = {
    "auto": ir.ToolChoice("auto"),
    "none": ir.ToolChoice("none"),
    "required": ir.ToolChoice("any"),
}


def _tool_choice(body: Mapping[str, Any], extra: dict[str, Any]) -> ir.ToolChoice | None:
    """A choice of a tool that the provider runs stays as it is: no other dialect has a word for it."""
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _CHOICES:
        return _CHOICES[choice]
    if isinstance(choice, dict):
        match text(choice, "type", "tool_choice"):
            case "function" | "custom":
                return ir.ToolChoice("tool", text(choice, "name", "tool_choice"))
            case "allowed_tools":
                return _allowed(choice, extra)
        extra["tool_choice"] = choice
        return None
    raise wrong("tool_choice", 'one of "auto", "none", "required", or an object that names a tool')


def _allowed(raw: dict[str, Any], extra: dict[str, Any]) -> ir.ToolChoice | None:
    named, tools = [], records(raw, "tools", "tool_choice")
    for tool, where in tools:
        if text(tool, "type", where) in ("function", "custom"):
            named.append(text(tool, "name", where))
    if len(named) < len(tools):
        extra["tool_choice"] = raw
        return None
    return ir.ToolChoice("any" if raw.get("mode") == "required" else "auto", allowed=tuple(named))


# -- what the answer is to be like -------------------------------------------------------------------------------


def _format(body: Mapping[str, Any], extra: dict[str, Any]) -> ir.ResponseFormat | None:
    words = record(body, "text")
    if words is None:
        return None
    _keep(extra, words, "text", frozenset({"format", "verbosity"}))
    raw, at = record(words, "format", "text"), "text.format"
    if raw is None:
        return None
    match text(raw, "type", at):
        case "text" | "json_object" as kind:
            return ir.ResponseFormat(kind)
        case "json_schema":
            schema = record(raw, "schema", at)
            if schema is None:
                raise wrong(f"{at}.schema", "a JSON schema")
            return ir.ResponseFormat(
                "json_schema",
                string(raw, "name", at),
                schema,
                boolean(raw, "strict", at),
                string(raw, "description", at),
            )
    raise wrong(f"{at}.type", "one of text, json_object, json_schema")


def _reasoning(body: Mapping[str, Any], extra: dict[str, Any]) -> ir.Reasoning | None:
    raw = record(body, "reasoning")
    if raw is None:
        return None
    _keep(extra, raw, "reasoning", frozenset({"effort", "summary", "generate_summary"}))
    effort = string(raw, "effort", "reasoning")
    summary = string(raw, "summary", "reasoning") or string(raw, "generate_summary", "reasoning")
    if effort is None and summary is None:
        return None
    return ir.Reasoning(effort, enabled=False if effort == "none" else None, summary=summary)


def _keep(extra: dict[str, Any], raw: Mapping[str, Any], at: str, known: frozenset[str]) -> None:
    extra |= {f"{at}.{name}": value for name, value in raw.items() if name not in known and value is not None}
