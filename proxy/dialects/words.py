"""The client's names for what a request says, so that `dropped` and `param` speak the client's language."""

from __future__ import annotations

from proxy import ir

# Members whose name differs from the IR's; the rest are called alike.
_WORDS: dict[str, dict[str, str]] = {
    "openai-chat": {
        "reasoning": "reasoning_effort",
        "cache_key": "prompt_cache_key",
        "parallel_tools": "parallel_tool_calls",
    },
    "openai-responses": {
        "max_tokens": "max_output_tokens",
        "reasoning": "reasoning.effort",
        "response_format": "text.format",
        "verbosity": "text.verbosity",
        "cache_key": "prompt_cache_key",
        "parallel_tools": "parallel_tool_calls",
    },
    "anthropic": {
        "reasoning": "thinking",
        "response_format": "output_config.format",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
        "parallel_tools": "tool_choice.disable_parallel_tool_use",
    },
}


def word(dialect: str, name: str) -> str:
    return _WORDS.get(dialect, {}).get(name, name)


def message_path(dialect: str, at: int) -> str:
    return f"input[{at}]" if dialect == "openai-responses" else f"messages[{at}]"


def part_path(dialect: str, at: int, message: ir.Message, index: int) -> str:
    """Where the client wrote a part: the IR lists calls, thinking and content in one row, OpenAI's dialects do not."""
    head, part = message_path(dialect, at), message.parts[index]
    if dialect == "anthropic":
        return f"{head}.content[{index}]"
    match part:
        case ir.ToolCall() if dialect == "openai-responses":
            return f"{head}.arguments"
        case ir.ToolCall():
            return f"{head}.tool_calls[{_place(message, index)}].function.arguments"
        case ir.Thinking():
            return f"{head}.reasoning_content" if dialect == "openai-chat" else head
        case ir.ToolResult():
            return f"{head}.content"
        case _:
            return f"{head}.content[{_place(message, index)}]"


def _place(message: ir.Message, index: int) -> int:
    """The index among the parts that the client's dialect lists together."""
    calls = isinstance(message.parts[index], ir.ToolCall)
    return sum(
        isinstance(part, ir.ToolCall) == calls and not isinstance(part, ir.Thinking) for part in message.parts[:index]
    )
