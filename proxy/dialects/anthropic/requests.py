"""A client's Messages request to the IR.

https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy import ir
from proxy.dialects.anthropic.blocks import NAME, BlockReader, require_blocks_of
from proxy.dialects.anthropic.fields import Fields, wrong
from proxy.dialects.anthropic.grammar import REQUEST
from proxy.dialects.unread import unread
from proxy.errors import InvalidRequest

# By the start of a tool's dated type: web_search_20250305. Longest first.
_SERVER_TOOLS = {
    "tool_search_tool": "tool_search",
    "code_execution": "code_execution",
    "text_editor": "text_editor",
    "web_search": "web_search",
    "mcp_toolset": "mcp",
    "web_fetch": "web_fetch",
    "computer": "computer",
    "memory": "memory",
    "bash": "bash",
}


def decode_request(body: Mapping[str, Any]) -> ir.Request:
    """A body of POST /v1/messages. Raises InvalidRequest with the path of the member at fault.

    Members without a field in the IR stand in `extra` by their path ("context_management", "tools[0].defer_loading").
    A user turn with tool results and other blocks becomes a turn of role "tool" and one of role "user".
    """
    fields, blocks = Fields(body, ""), BlockReader()
    config = Fields(fields.object("output_config") or {}, "output_config")
    meta = Fields(fields.object("metadata") or {}, "metadata")
    choice, parallel = _tool_choice(fields)
    system = _system(fields, blocks)
    return ir.Request(
        model=fields.need_text("model"),
        messages=(*system, *_messages(fields, blocks)),
        dialect=NAME,
        tools=tuple(_tools(fields, blocks)),
        tool_choice=choice,
        parallel_tools=parallel,
        max_tokens=_max_tokens(fields),
        temperature=_between(fields, "temperature"),
        top_p=_between(fields, "top_p"),
        top_k=fields.whole("top_k"),
        stop=_stops(fields),
        response_format=_format(config, fields),
        reasoning=_reasoning(fields, config, blocks),
        stream=fields.flag("stream") or False,
        include_usage=True,
        service_tier=fields.text("service_tier"),
        user=meta.text("user_id"),
        extra=fields.rest() | config.rest() | meta.rest() | blocks.unsaid | dict(unread(body, REQUEST)),
    )


def _max_tokens(fields: Fields) -> int:
    value = fields.whole("max_tokens")
    if value is None:
        raise InvalidRequest(
            "max_tokens: is required; it bounds the answer, for example 4096.", param=fields.where("max_tokens")
        )
    return value


def _between(fields: Fields, name: str) -> float | None:
    value = fields.number(name)
    if value is not None and not 0 <= value <= 1:
        raise InvalidRequest(f"{name}: must be between 0 and 1, not {value}.", param=name)
    return value


def _stops(fields: Fields) -> tuple[str, ...]:
    found = fields.items("stop_sequences") or []
    for at, stop in enumerate(found):
        if not isinstance(stop, str):
            raise wrong(f"stop_sequences[{at}]", str, stop)
    return tuple(found)


def _system(fields: Fields, blocks: BlockReader) -> tuple[ir.Message, ...]:
    value = fields.any("system")
    if value is None:
        return ()
    parts = blocks.content(value, "system")
    return (ir.Message("system", parts),) if parts else ()


def _messages(fields: Fields, blocks: BlockReader) -> Iterator[ir.Message]:
    raw = fields.items("messages")
    if not raw:
        raise InvalidRequest("messages: at least one message is required.", param="messages")
    for at, item in enumerate(raw):
        message = Fields(item, f"messages[{at}]")
        role, content = message.need_text("role"), message.any("content")
        parts = blocks.content(content, message.where("content"))
        blocks.unsaid |= message.rest()
        require_blocks_of(role, parts, message.where("content"))
        match role:
            case "user":
                yield from _user_turns(parts)
            case "assistant":
                yield ir.Message("assistant", parts)
            case "system":
                yield ir.Message("system", parts)
            case _:
                path = message.where("role")
                raise InvalidRequest(f'{path}: must be "user", "assistant" or "system", not "{role}".', param=path)


def _user_turns(parts: tuple[ir.Part, ...]) -> Iterator[ir.Message]:
    """The results first, as the API wants them; what else the user said follows."""
    results = tuple(part for part in parts if isinstance(part, ir.ToolResult))
    others = tuple(part for part in parts if not isinstance(part, ir.ToolResult))
    if results:
        yield ir.Message("tool", results)
    if others or not results:
        yield ir.Message("user", others)


def _tools(fields: Fields, blocks: BlockReader) -> Iterator[ir.Tool | ir.ServerTool]:
    for at, raw in enumerate(fields.items("tools") or []):
        tool = Fields(raw, f"tools[{at}]")
        kind = tool.text("type")
        if kind not in (None, "custom"):
            yield ir.ServerTool(server_kind(kind), raw, NAME)
            continue
        yield ir.Tool(
            name=tool.need_text("name"),
            description=tool.text("description"),
            schema=tool.need_object("input_schema"),
            strict=tool.flag("strict"),
            cache=blocks.cache(tool),
        )
        blocks.unsaid |= tool.rest()
    yield from _mcp_servers(fields)


def _mcp_servers(fields: Fields) -> Iterator[ir.ServerTool]:
    """Where no `mcp_toolset` names them (the first beta), the servers themselves are the tools."""
    servers, tools = fields.value.get("mcp_servers"), fields.value.get("tools") or []
    if servers and not any(tool.get("type") == "mcp_toolset" for tool in tools):
        yield ir.ServerTool("mcp", {"mcp_servers": fields.items("mcp_servers")}, NAME)


def server_kind(kind: str) -> str:
    return next((neutral for head, neutral in _SERVER_TOOLS.items() if kind.startswith(head)), kind)


def _tool_choice(fields: Fields) -> tuple[ir.ToolChoice | None, bool | None]:
    raw = fields.object("tool_choice")
    if raw is None:
        return None, None
    choice = Fields(raw, "tool_choice")
    kind, disabled = choice.need_text("type"), choice.flag("disable_parallel_tool_use")
    parallel = None if disabled is None else not disabled
    match kind:
        case "auto" | "any" | "none":
            return ir.ToolChoice(kind), parallel
        case "tool":
            return ir.ToolChoice("tool", choice.need_text("name")), parallel
        case _:
            message = f'tool_choice.type: must be "auto", "any", "tool" or "none", not "{kind}".'
            raise InvalidRequest(message, param="tool_choice.type")


def _format(config: Fields, fields: Fields) -> ir.ResponseFormat | None:
    """`output_config.format`, or `output_format` as the beta of 2025 called it."""
    older, newer = fields.object("output_format"), config.object("format")
    raw, path = (newer, "output_config.format") if newer is not None else (older, "output_format")
    if raw is None:
        return None
    wanted = Fields(raw, path)
    if (kind := wanted.need_text("type")) != "json_schema":
        raise InvalidRequest(f'{path}.type: must be "json_schema", not "{kind}".', param=f"{path}.type")
    return ir.ResponseFormat("json_schema", schema=wanted.need_object("schema"))


def _reasoning(fields: Fields, config: Fields, blocks: BlockReader) -> ir.Reasoning | None:
    effort, raw = config.text("effort"), fields.object("thinking")
    if raw is None:
        return ir.Reasoning(effort) if effort else None
    thinking = Fields(raw, "thinking")
    display = thinking.text("display")
    if display not in (None, "summarized"):
        blocks.unsaid["thinking.display"] = display
    summary = "auto" if display == "summarized" else None
    match thinking.need_text("type"):
        case "enabled":
            budget = thinking.whole("budget_tokens", least=1)
            return ir.Reasoning(effort, budget, enabled=True, summary=summary)
        case "adaptive":
            return ir.Reasoning(effort, enabled=True, adaptive=True, summary=summary)
        case "disabled":
            return ir.Reasoning(effort, enabled=False)
        case other:  # a type of a later model, "between_tools" among them: its own dialect gets it back
            blocks.unsaid["thinking"] = raw
            return ir.Reasoning(effort, enabled=other != "between_tools")
