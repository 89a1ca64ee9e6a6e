"""What routing may know of a Messages request, without building the IR: never raises, skips what has a wrong type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from proxy import ir
from proxy.dialects.measure import size, whole

_MEDIA = {"image": "vision", "document": "files", "container_upload": "files"}


def read_shape(body: Mapping[str, Any]) -> ir.Shape:
    needs: set[str] = set()
    chars = media = 0
    turns: list[str] = []
    for role, blocks in _turns(body.get("messages")):
        texts: list[str] = []
        calls = 0
        for block in blocks:
            kind = block.get("type")
            if need := _MEDIA.get(kind) if isinstance(kind, str) else None:
                needs.add(need)
                media += 1
            calls += kind == "tool_use"
            if kind in ("tool_use", "tool_result"):
                needs.add("tools")
            chars += _chars(block)
            if kind == "text" and isinstance(text := block.get("text"), str):
                texts.append(text)
            for inner in _blocks(block.get("content")) if kind == "tool_result" else ():
                inner_kind = inner.get("type")
                if isinstance(inner_kind, str) and inner_kind in _MEDIA:
                    needs.add(_MEDIA[inner_kind])
                    media += 1
                chars += _chars(inner)
        if calls > 1:
            needs.add("parallel_tools")
        if role == "user" and texts:
            turns.append("\n".join(texts))
    system = "\n".join(_texts(body.get("system")))
    needs.update(_needs(body))
    return ir.Shape(
        needs=frozenset(needs),
        chars=chars + len(system) + _tool_chars(body.get("tools")),
        media=media,
        max_tokens=_limit(body.get("max_tokens")),
        turns=tuple(turns),
        system=system,
        cache_write=_cache_write(body),
    )


def _cache_write(body: Mapping[str, Any]) -> ir.CacheLife | None:
    """Of the markers on tools, system, turns and what a tool gave back, and of the request's own."""
    blocks = [body, *_blocks(body.get("tools")), *_blocks(body.get("system"))]
    for _, turn in _turns(body.get("messages")):
        blocks += turn
        blocks += [
            inner for block in turn if block.get("type") == "tool_result" for inner in _blocks(block.get("content"))
        ]
    found = [marker for block in blocks if isinstance(marker := block.get("cache_control"), dict)]
    if not found:
        return None
    return "1h" if any(marker.get("ttl") == "1h" for marker in found) else "5m"


def _needs(body: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(tools := body.get("tools"), list) and tools:
        yield "tools"
        choice = body.get("tool_choice")
        if isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is False:
            yield "parallel_tools"
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"):
        yield "thinking"
    config = body.get("output_config")
    if (isinstance(config, dict) and isinstance(config.get("format"), dict)) or isinstance(
        body.get("output_format"), dict
    ):
        yield "json"


def _turns(messages: Any) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            yield message.get("role"), _blocks(message.get("content"))


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _texts(content: Any) -> Iterable[str]:
    return (text for block in _blocks(content) if isinstance(text := block.get("text"), str))


def _chars(block: Mapping[str, Any]) -> int:
    """Characters of a block's own text; an image's or a PDF's bytes are counted as media, not as text."""
    chars = sum(len(value) for name in ("text", "thinking") if isinstance(value := block.get(name), str))
    if isinstance(arguments := block.get("input"), dict):
        chars += _size(arguments)
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "text" and isinstance(data := source.get("data"), str):
        chars += len(data)
    return chars


def _tool_chars(tools: Any) -> int:
    return sum(_size(tool) for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else 0


def _size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:  # a lone surrogate, or nested past all sense
        return size(value)


def _limit(value: Any) -> int | None:
    """0 asks for nothing but a warm cache."""
    return 0 if value == 0 and not isinstance(value, bool) else whole(value)
