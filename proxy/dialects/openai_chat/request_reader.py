"""Chat requests to the IR, with every complaint naming its field.

https://platform.openai.com/docs/api-reference/chat/create, and what compatible providers added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.grammar import REQUEST
from proxy.dialects.openai_chat.members import (
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
from proxy.dialects.openai_chat.message_reader import read_cache, read_messages
from proxy.dialects.openai_chat.vocabulary import EXTENSIONS, NAME
from proxy.dialects.unread import unread

_KNOWN = EXTENSIONS | {
    "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "max_tokens",
    "max_completion_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "n",
    "stop", "logprobs", "top_logprobs", "logit_bias", "response_format", "reasoning_effort", "verbosity", "modalities",
    "audio", "prediction", "stream", "service_tier", "user", "metadata", "prompt_cache_key", "store",
    "web_search_options",
}  # fmt: skip


def _flag(body: Mapping[str, Any], name: str) -> bool:
    return boolean(body, name) or False


# Members that are read by themselves: the request's field, and how.
_ALONE: dict[str, tuple[str, Callable[[Mapping[str, Any], str], Any]]] = {
    "parallel_tool_calls": ("parallel_tools", boolean),
    "temperature": ("temperature", number),
    "top_p": ("top_p", number),
    "top_k": ("top_k", integer),
    "frequency_penalty": ("frequency_penalty", number),
    "presence_penalty": ("presence_penalty", number),
    "seed": ("seed", integer),
    "n": ("n", partial(integer, least=1)),
    "stop": ("stop", strings),
    "logprobs": ("logprobs", boolean),
    "top_logprobs": ("top_logprobs", partial(integer, least=0)),
    "verbosity": ("verbosity", string),
    "modalities": ("modalities", strings),
    "audio": ("audio", record),
    "prediction": ("prediction", record),
    "stream": ("stream", _flag),
    "service_tier": ("service_tier", string),
    "user": ("user", string),
    "metadata": ("metadata", record),
    "prompt_cache_key": ("cache_key", string),
    "store": ("store", boolean),
}
_TOOLS = frozenset({"tools", "functions", "web_search_options"})
_CHOICE = frozenset({"tool_choice", "function_call"})
_THOUGHT = frozenset({"reasoning_effort", "enable_thinking", "reasoning", "thinking"})


def decode_request(body: Mapping[str, Any]) -> ir.Request:
    """Raises InvalidRequest with the path of what is wrong."""
    extra = {name: value for name, value in body.items() if name not in _KNOWN and value is not None}
    said: dict[str, Any] = {}
    for name, value in body.items():
        if name in _ALONE:
            told, read = _ALONE[name]
            said[told] = read(body, name)
        if name in REQUEST:
            extra |= unread(value, REQUEST[name], name)
    if said.get("top_logprobs") is not None:
        said["logprobs"] = True  # so many of them
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return ir.Request(
        text(body, "model"),
        read_messages(body),
        NAME,
        tools=() if _TOOLS.isdisjoint(body) else _tools(body),
        tool_choice=None if _CHOICE.isdisjoint(body) else _tool_choice(body),
        max_tokens=integer(body, limit, least=1),
        bound=limit,
        logit_bias=_logit_bias(body) if "logit_bias" in body else None,
        response_format=_response_format(body) if "response_format" in body else None,
        reasoning=None if _THOUGHT.isdisjoint(body) else _reasoning(body, extra),
        include_usage=_include_usage(body, extra) if "stream_options" in body else False,
        extra=extra,
        **said,
    )


# -- tools -------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> tuple[ir.Tool | ir.ServerTool, ...]:
    tools: list[ir.Tool | ir.ServerTool] = [_tool(raw, at) for raw, at in records(body, "tools")]
    tools += (_function(raw, at, None) for raw, at in records(body, "functions"))
    if (options := record(body, "web_search_options")) is not None:
        tools.append(ir.ServerTool("web_search", {"web_search_options": options}, NAME))
    return tuple(tools)


def _tool(raw: dict[str, Any], at: str) -> ir.Tool | ir.ServerTool:
    kind = text(raw, "type", at)
    if kind == "function":
        return _function(record(raw, "function", at) or {}, f"{at}.function", read_cache(raw, at))
    if kind == "custom":
        custom, where = record(raw, "custom", at) or {}, f"{at}.custom"
        description, form = string(custom, "description", where), record(custom, "format", where)
        return ir.Tool(text(custom, "name", where), description, custom=True, format=form)
    return ir.ServerTool("web_search" if kind.endswith("web_search") else kind, raw, NAME)


def _function(raw: dict[str, Any], at: str, cache: ir.Cache | None) -> ir.Tool:
    """Left-out parameters are an empty list of them."""
    schema = record(raw, "parameters", at)
    return ir.Tool(
        name=text(raw, "name", at),
        description=string(raw, "description", at),
        schema={"type": "object", "properties": {}} if schema is None else schema,
        strict=boolean(raw, "strict", at),
        cache=cache,
    )


_CHOICES = {
    "auto": ir.ToolChoice("auto"),
    "none": ir.ToolChoice("none"),
    "required": ir.ToolChoice("any"),
    "any": ir.ToolChoice("any"),  # Mistral
}


def _tool_choice(body: Mapping[str, Any]) -> ir.ToolChoice | None:
    choice: Any = body.get("tool_choice")
    at = "tool_choice"
    if choice is None:
        choice, at = body.get("function_call"), "function_call"
        if isinstance(choice, dict):
            return ir.ToolChoice("tool", text(choice, "name", at))
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _CHOICES:
        return _CHOICES[choice]
    if isinstance(choice, dict):
        match choice.get("type"):
            case "function" | "custom" as kind:
                return ir.ToolChoice("tool", text(record(choice, kind, at) or {}, "name", f"{at}.{kind}"))
            case "allowed_tools":
                return _allowed(record(choice, "allowed_tools", at) or {}, f"{at}.allowed_tools")
    raise wrong(at, 'one of "auto", "none", "required", or an object that names a tool')


def _allowed(raw: dict[str, Any], at: str) -> ir.ToolChoice:
    names = []
    for tool, where in records(raw, "tools", at):
        kind = text(tool, "type", where)
        names.append(text(record(tool, kind, where) or {}, "name", f"{where}.{kind}"))
    return ir.ToolChoice("any" if raw.get("mode") == "required" else "auto", allowed=tuple(names))


# -- the rest ----------------------------------------------------------------------------------------------------


def _logit_bias(body: Mapping[str, Any]) -> dict[str, float] | None:
    bias = record(body, "logit_bias")
    if bias is None:
        return None
    return {token: number(bias, token, "logit_bias") or 0 for token in bias}


def _response_format(body: Mapping[str, Any]) -> ir.ResponseFormat | None:
    raw = record(body, "response_format")
    if raw is None:
        return None
    match text(raw, "type", "response_format"):
        case "text" | "json_object" as kind:
            return ir.ResponseFormat(kind)
        case "json_schema":
            at = "response_format.json_schema"
            schema = record(raw, "json_schema", "response_format")
            if schema is None:
                raise wrong(at, "an object with a name and a schema")
            return ir.ResponseFormat(
                "json_schema",
                string(schema, "name", at),
                record(schema, "schema", at),
                boolean(schema, "strict", at),
                string(schema, "description", at),
            )
    raise wrong("response_format.type", "one of text, json_object, json_schema")


def _reasoning(body: Mapping[str, Any], extra: dict[str, Any]) -> ir.Reasoning | None:
    """OpenAI's `reasoning_effort`, OpenRouter's `reasoning`, the `thinking` of Z.ai, DeepSeek and Moonshot, Qwen's
    `enable_thinking`. What of these objects has no neutral word stays in `extra`."""
    effort, enabled = string(body, "reasoning_effort"), boolean(body, "enable_thinking")
    budget, summary, adaptive = None, None, False
    extra.pop("enable_thinking", None)
    if (raw := record(body, "reasoning")) is not None:
        effort = effort or string(raw, "effort", "reasoning")
        budget = integer(raw, "max_tokens", "reasoning")
        enabled = boolean(raw, "enabled", "reasoning")
        summary = string(raw, "summary", "reasoning")
        _keep(extra, "reasoning", raw, {"effort", "max_tokens", "enabled", "summary"})
    if (raw := record(body, "thinking")) is not None:
        kind = string(raw, "type", "thinking")
        enabled = None if kind is None else kind != "disabled"
        adaptive = kind in ("adaptive", "auto")
        budget = integer(raw, "budget_tokens", "thinking")
        _keep(extra, "thinking", raw, {"type", "budget_tokens"})
    if effort == "none":
        enabled = False
    if effort is None and budget is None and enabled is None and summary is None:
        return None
    return ir.Reasoning(effort, budget, enabled, adaptive, summary)


def _include_usage(body: Mapping[str, Any], extra: dict[str, Any]) -> bool:
    options = record(body, "stream_options")
    if options is None:
        return False
    _keep(extra, "stream_options", options, {"include_usage"})
    return boolean(options, "include_usage", "stream_options") or False


def _keep(extra: dict[str, Any], name: str, raw: dict[str, Any], read: set[str]) -> None:
    rest = {member: value for member, value in raw.items() if member not in read}
    extra.pop(name, None)
    if rest:
        extra[name] = rest
