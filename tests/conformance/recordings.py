"""What providers really sent, and what it means, read here by hand: neither the gateway's code nor an SDK judges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

SHARED = Path(__file__).parents[2].parent / "shared"
WIRE = SHARED / "wire"
REPLAY = WIRE / "replay.py"
ABSENT = "the recordings are not on this machine"

# A folder of recordings -> the surface whose bytes it holds ("" where only providers speak it), the provider of the
# table that serves it, and the dialect's name.
FOLDERS = {
    "openai-chat": ("chat", "chat", "openai-chat"),
    "openai-chat-compatible": ("chat", "chat", "openai-chat"),
    "anthropic-messages": ("messages", "messages", "anthropic"),
    "workers-ai": ("chat", "workers-ai", "workers-ai"),
    "openai-responses": ("responses", "responses", "openai-responses"),
    "openai-responses-compatible": ("responses", "responses", "openai-responses"),
    "gemini": ("", "gemini", "gemini"),
    "ollama": ("", "ollama", "ollama"),
}
# Enough of each kind for a quick run: plain and streamed, text, calls, parallel ones, thinking, errors, CRLF, comments.
QUICK = frozenset({
    "ant-rl-citations-with-streams-citations", "ant-tl-tools-streaming", "ant-pa-mixed-tools-no-output",
    "ant-pa-model-thinking-part-redacted-stream", "ant-pa-memory-tool", "ant-tx-overloaded-529",
    "ant-tx-rate-limit-429-retry-after", "ant-rl-real-error-scenarios-handles-context-length-exceeded-errors",
    "ant-rl-error-handling-with-raises-appropriate-auth-error",
    "oai-oc-streams-tool-call", "oai-pa-complex-agent-run-in-flow", "oai-pr-stream-falsy-argument-conversation-1",
    "oai-pa-stop-settings-openai", "oai-en-text-to-image-tool", "oai-tl-openai", "oai-tl-parsed-completion",
    "oai-tl-vision-base64", "oai-tx-rate-limit-429-tpm", "oc-mistral-pr-stream-with-tools-1-1",
    "oc-azure-rl-function-calling-azure-grok-4-1-fast-non-reasoning-can-handl",
    "oc-perplexity-rl-streaming-responses-perplexity-sonar-supports-streaming-resp",
    "oc-openrouter-pa-openrouter-stream-error", "oc-openrouter-tx-comments-then-cut-multibyte",
    "oc-openrouter-pa-openrouter-cache-streaming-e2e", "oc-groq-pa-model-name-suggestion-groq",
    "oc-xai-va-xai-tool-call-2", "oc-zai-pr-generate-text-with-required-tool-call-1",
    "cfw-oc-llama-3-1-8b-text", "cfw-tx-native-stream-documented", "cfw-tx-no-route-400",
    "cfw-oc-cloudflare-ai-gateway-workers-ai-gpt-oss-20b-tools-tool-call",
    "gem-va-stream-no-args-tool-call", "gem-va-vertex-stream-tool-call-arguments-nested-1",
    "gem-pa-stop-settings-google",
    "gem-pr-stream-with-tools-search-grounding-1", "gem-tx-overloaded-503-compact", "oll-pr-stream-with-tools-1",
    "gem-rl-real-error-scenarios-handles-context-length-exceeded-errors", "oll-tx-midstream-error",
    "oll-pr-text-with-thinking-enabled-1", "resp-oc-responses-gpt-5-5-reasoning", "resp-va-mcp-tool-approval-4",
    "resp-pr-stream-multi-tool-conversation-responses-1", "resp-va-file-search-tool-2", "resp-pr-stream-rate-limited-1",
    "resp-pa-conversation-id-tool-call-continuation",
    "rc-xai-rl-multimodal-tool-attachments-xai-grok-4-1-fast-non-reasoning",
})  # fmt: skip


@frozen
class Recording:
    """One recorded exchange. `body` is the answer's, as it was on the wire; `request` the request's, parsed, or None
    where only the answer is public."""

    name: str
    dialect: str  # as the corpus names it: openai-chat-compatible/groq
    spoken: str  # as we name it: openai-chat
    surface: str  # which of ours speaks that dialect; "" if none does
    provider: str  # of the table
    status: int
    stream: bool
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)  # of the answer, in lower case
    request: Mapping[str, Any] | None = field(repr=False)

    @property
    def good(self) -> bool:
        return self.status < 400

    @property
    def text(self) -> str:
        return self.body.decode()

    def asked(self, **changed: Any) -> dict[str, Any]:
        """A request for this recording: the recorded one where there is one, else the least that the surface takes. It
        asks for usage as whoever recorded it must have done. The model is the client's to name."""
        if self.request is not None and ("messages" in self.request or "input" in self.request):
            return {**self.request, **changed}
        turns = "input" if self.surface == "responses" else "messages"
        body: dict[str, Any] = {"model": "", turns: [{"role": "user", "content": "Go on."}]}
        if self.surface == "messages":
            body["max_tokens"] = 1024
        if self.stream:
            body["stream"] = True
        if self.surface == "chat" and self.stream and b'"choices":[]' in self.body:
            body["stream_options"] = {"include_usage": True}
        return {**body, **changed}


def _load(file: Path) -> Recording:
    case = json.loads(file.read_text())
    response, folder = case["response"], case["dialect"].partition("/")[0]
    surface, provider, spoken = FOLDERS[folder]
    request = (case["request"] or {}).get("body")
    return Recording(
        name=case["name"],
        dialect=case["dialect"],
        spoken=spoken,
        surface=surface,
        provider="mistral" if case["dialect"].endswith("/mistral") else provider,
        status=response["status"],
        stream=bool(response["stream"]),
        body=response["body_text"].encode(),
        headers={name.lower(): value for name, value in response["headers"].items()},
        request=request if isinstance(request, dict) else None,
    )


EVERY = tuple(_load(file) for folder in FOLDERS for file in sorted(WIRE.glob(f"{folder}/**/*.json")))
RECORDINGS = tuple(recording for recording in EVERY if recording.surface in ("chat", "messages"))
NATIVE = tuple(recording for recording in EVERY if recording.surface)


def parametrized(
    wanted: Callable[[Recording], bool],
    *,
    quick: Container[str] = QUICK,
    among: Iterable[Recording] = RECORDINGS,
) -> pytest.MarkDecorator:
    """`recording` over all that are wanted. What is not of the quick ones is slow. Without recordings there is one
    skipped test that says so."""
    cases = [
        pytest.param(recording, id=recording.name, marks=[] if recording.name in quick else [pytest.mark.slow])
        for recording in filter(wanted, among)
    ]
    return pytest.mark.parametrize(
        "recording", cases or [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="none")]
    )


def named(name: str) -> Recording:
    found = next((recording for recording in EVERY if recording.name == name), None)
    if found is None:
        pytest.skip(ABSENT)
    return found


# -- frames ------------------------------------------------------------------------------------------------------

_BLANK = re.compile(rb"(?:\r\n\r\n|\n\n|\r\r)")


def frames(body: bytes) -> list[bytes]:
    """Each with the blank line that ends it; what stands behind the last one is a frame, too."""
    ends = [match.end() for match in _BLANK.finditer(body)]
    starts = [0, *ends]
    return [piece for start, end in zip(starts, [*ends, len(body)], strict=True) if (piece := body[start:end])]


def data_of(frame: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in frame.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def documents(body: bytes, *, stream: bool, framing: str = "sse") -> list[dict[str, Any]]:
    """All that an answer is made of: one document, or the events of a stream. An error that only its event's name
    tells is wrapped as all others are."""
    if not stream:
        return [json.loads(body)]
    if framing == "ndjson":
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    found = []
    for frame in frames(body):
        data = data_of(frame).strip()
        if not data or data == b"[DONE]":
            continue
        event = json.loads(data)
        named = any(line.split(b":")[1].strip() == b"error" for line in frame.splitlines() if line[:6] == b"event:")
        found.append({"error": event} if named and "error" not in event else event)
    return found


def events(body: bytes) -> list[dict[str, Any]]:
    """The JSON of every event, in order, without the terminator of chat."""
    return [json.loads(data) for frame in frames(body) if (data := data_of(frame).strip()) and data != b"[DONE]"]


# -- what an answer says -----------------------------------------------------------------------------------------


@frozen
class Said:
    """An answer as a program sees it. `calls` are names and parsed arguments in order; `usage` in the dialect's words,
    of what is billed: `input` is all that was read, cached or not."""

    text: str
    calls: tuple[tuple[str, Any], ...]
    stop: str | None
    usage: Mapping[str, int] | None
    failed: bool = False


def said_in(recording: Recording) -> Said:
    body = recording.body
    if recording.surface == "messages":
        return fold_messages(events(body)) if recording.stream else message_said(json.loads(body))
    return fold_chat(events(body)) if recording.stream else completion_said(json.loads(body))


def fold_chat(chunks: Iterable[Mapping[str, Any]]) -> Said:
    text, stop, usage, calls = "", None, None, dict[int, list[str]]()
    for chunk in chunks:
        if chunk.get("error"):
            return Said(text, _parsed(calls.values()), stop, chat_usage(usage), failed=True)
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage") or usage
        text += chunk.get("response") or ""  # Workers AI's own words
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text += plain_text(delta.get("content"))
            stop = choice.get("finish_reason") or stop
            for call in delta.get("tool_calls") or ():
                held = calls.setdefault(call.get("index", 0), ["", ""])
                function = call.get("function") or {}
                held[0] = held[0] or function.get("name") or ""
                held[1] += function.get("arguments") or ""
    return Said(text, _parsed(calls.values()), stop, chat_usage(usage))


def completion_said(answer: Mapping[str, Any]) -> Said:
    choice = answer["choices"][0]
    message = choice["message"]
    functions = [call["function"] for call in message.get("tool_calls") or () if call.get("function")]
    calls = _parsed((function["name"], function["arguments"]) for function in functions)
    return Said(plain_text(message.get("content")), calls, choice["finish_reason"] or None, chat_usage(answer["usage"]))


def fold_messages(stream: Iterable[Mapping[str, Any]]) -> Said:
    usage: dict[str, Any] = {}
    text, stop, calls = "", None, dict[int, list[str]]()
    for event in stream:
        if event["type"] == "message_stop":
            break  # two recordings have a second message behind it
        block, delta = event.get("content_block") or {}, event.get("delta") or {}
        usage |= {k: v for k, v in ((event.get("message") or {}).get("usage") or {}).items() if v is not None}
        usage |= {k: v for k, v in (event.get("usage") or {}).items() if v is not None}
        text += (block.get("text") or "") + (delta.get("text") or "")
        stop = delta.get("stop_reason") or stop
        if block.get("type") == "tool_use":
            calls[event["index"]] = [block["name"], ""]
        if event.get("index") in calls:
            calls[event["index"]][1] += delta.get("partial_json") or ""
    return Said(text, _parsed(calls.values()), stop, messages_usage(usage))


def message_said(message: Mapping[str, Any]) -> Said:
    content = message["content"]
    return Said(
        text="".join(block["text"] for block in content if block["type"] == "text"),
        calls=tuple((block["name"], block["input"]) for block in content if block["type"] == "tool_use"),
        stop=message["stop_reason"],
        usage=messages_usage(message["usage"]),
    )


def plain_text(content: Any) -> str:
    """Mistral's content is a list where it thinks."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _parsed(calls: Iterable[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, json.loads(arguments or "{}")) for name, arguments in calls)


def chat_usage(usage: Mapping[str, Any] | None) -> dict[str, int] | None:
    """xAI counts reasoning apart from its completion tokens; it and Azure report more cached tokens than were read;
    Moonshot has them outside of the details."""
    if not usage:
        return None
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or usage.get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if usage.get("total_tokens") == prompt + completion + reasoning:
        completion += reasoning
    return {"input": prompt, "cached": min(cached, prompt), "output": completion}


def messages_usage(usage: Mapping[str, Any]) -> dict[str, int]:
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    return {"input": usage["input_tokens"] + cached + written, "cached": cached, "output": usage["output_tokens"]}
