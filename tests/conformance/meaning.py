"""What an answer means, whichever dialect says it: read by hand, so that neither the gateway's code nor an SDK judges.

A `Meaning` has all that a client may miss: words, thinking and its proofs, calls with their ids, refusals, sources,
pictures, tokens by class and the reason for the end. One function for each dialect, whole answers and streams alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from json_paths import put

Json = Mapping[str, Any]


@frozen
class Tokens:
    """`input` is all that was read, cached or not; the others are parts of it or of `output`. None: not told."""

    input: int | None = None
    cached: int = 0
    written: int = 0
    output: int | None = None
    reasoning: int = 0


@frozen
class Meaning:
    text: str = ""
    thinking: str = field(default="", repr=False)  # without white space: how pieces are joined is the dialect's matter
    calls: tuple[tuple[str, str, Any], ...] = ()  # id, name, arguments
    refusal: str = ""
    sources: tuple[str, ...] = ()  # the pages that are cited, each once, in order
    images: tuple[str, ...] = field(default=(), repr=False)
    audio: str = field(default="", repr=False)
    stop: str = ""  # end, length, call, filter, refusal, pause; "" where nothing says it
    tokens: Tokens = field(factory=Tokens)
    proofs: tuple[str, ...] = field(default=(), repr=False)  # of thinking, texts and calls
    failed: bool = False


@define
class _Notes:
    """What is gathered on the way."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: dict[Any, list[str]] = field(factory=dict)  # id, name, arguments
    sources: list[str] = field(factory=list)
    images: list[str] = field(factory=list)
    audio: str = ""
    proofs: list[str] = field(factory=list)
    stop: str = ""
    failed: bool = False

    def cite(self, url: Any) -> None:
        if url and url not in self.sources:
            self.sources.append(url)

    def meaning(self, tokens: Tokens) -> Meaning:
        calls = tuple((ident, name, _arguments(words)) for ident, name, words in self.calls.values())
        stop = "call" if calls and self.stop in ("", "end") else self.stop
        if self.refusal and not calls and stop in ("", "end", "filter"):
            stop = "refusal"
        return Meaning(
            self.text,
            "".join(self.thinking.split()),
            calls,
            self.refusal,
            tuple(self.sources),
            tuple(self.images),
            self.audio,
            stop,
            tokens,
            tuple(self.proofs),
            self.failed,
        )


def _arguments(words: str) -> Any:
    """Parsed, where they are JSON: a custom tool's are text, those of a call that was cut are half an object."""
    try:
        return json.loads(words or "{}")
    except ValueError:
        return words


# -- chat ----------------------------------------------------------------------------------------------------------

_CHAT_STOPS = {"stop": "end", "eos": "end", "length": "length", "tool_calls": "call", "content_filter": "filter"}


def of_chat(documents: Sequence[Json]) -> Meaning:
    """Chunks, or one completion."""
    notes, usage = _Notes(), dict[str, Any]()
    for document in documents:
        if document.get("error"):
            notes.failed = True
            continue
        found = document.get("usage") or (document.get("x_groq") or {}).get("usage") or {}
        usage = found if _counts(found) or not usage else usage
        notes.text += document.get("response") or ""  # Workers AI's own words
        for source in document.get("search_results") or [{"url": url} for url in document.get("citations") or ()]:
            notes.cite(source["url"])
        for choice in (document.get("choices") or ())[:1]:
            whole = document.get("object") == "chat.completion"  # Perplexity has a message and a delta in each
            _chat_delta(notes, (choice.get("message") if whole else choice.get("delta")) or {})
            if choice.get("finish_reason"):
                notes.stop = _CHAT_STOPS.get(choice["finish_reason"], choice["finish_reason"])
    return notes.meaning(chat_tokens(usage))


def _counts(usage: Json) -> bool:
    return bool(usage.get("prompt_tokens") or usage.get("completion_tokens"))


def _chat_delta(notes: _Notes, delta: Json) -> None:
    content = delta.get("content")
    for part in content if isinstance(content, list) else ():
        match part["type"]:
            case "thinking":
                notes.thinking += "".join(piece["text"] for piece in part["thinking"])
            case "text":
                notes.text += part["text"]
    if isinstance(content, str):
        notes.text += content
    details = delta.get("reasoning_details") or ()
    words = delta.get("reasoning_content") or delta.get("reasoning")
    if not words:
        words = "".join(detail.get("text") or detail.get("summary") or "" for detail in details)
    notes.thinking += words
    notes.proofs += (proof for detail in details if (proof := detail.get("signature") or detail.get("data")))
    notes.refusal += delta.get("refusal") or ""
    if proof := _googles(delta):
        notes.proofs.append(proof)
    for note in delta.get("annotations") or ():
        notes.cite((note.get("url_citation") or {}).get("url"))
    for image in delta.get("images") or ():
        notes.images.append(image["image_url"]["url"].partition("base64,")[2])
    notes.audio += (delta.get("audio") or {}).get("data") or ""
    for place, call in enumerate(delta.get("tool_calls") or ()):
        _chat_call(notes, call, place)
    legacy = delta.get("function_call")
    if legacy and legacy.get("name"):
        _chat_call(notes, {"index": 0, "function": legacy}, 0)


def _chat_call(notes: _Notes, call: Json, place: int) -> None:
    called = call.get("function") or call.get("custom") or {}
    index = call.get("index", place)
    before = notes.calls.get(index)
    if before is not None and called.get("name") and call.get("id") not in (None, "", before[0]):
        index = call["id"]  # another one under the same number
    held = notes.calls.setdefault(index, ["", "", ""])
    held[0] = held[0] or call.get("id") or ""
    held[1] = held[1] or called.get("name") or ""
    words = called.get("arguments", called.get("input"))
    held[2] += json.dumps(words) if isinstance(words, dict) else words or ""
    if proof := _googles(call):
        notes.proofs.append(proof)


def _googles(signed: Json) -> str:
    google = (signed.get("extra_content") or {}).get("google") or {}
    return google.get("thought_signature") or ""


def chat_tokens(usage: Json) -> Tokens:
    """xAI counts reasoning apart from its completion tokens; it and Azure report more cached tokens than were read;
    DeepSeek, Moonshot and Together have them outside of the details."""
    if not usage:
        return Tokens()
    read, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or usage.get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if said is not None and usage.get("total_tokens") == (read or 0) + said + reasoning:
        said += reasoning
    cached = min(cached, read or 0)
    written = min(details.get("cache_write_tokens") or 0, (read or 0) - cached)
    return Tokens(read, cached, written, said, min(reasoning, said or 0))


# -- messages ------------------------------------------------------------------------------------------------------

_MESSAGES_STOPS = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "call",
    "refusal": "refusal",
    "pause_turn": "pause",
}


def of_messages(documents: Sequence[Json]) -> Meaning:
    """Events, or one message."""
    if documents and documents[0].get("type") == "message":
        message = documents[0]
        notes = _Notes()
        for number, block in enumerate(message["content"]):
            _block(notes, number, block)
        notes.stop = _MESSAGES_STOPS.get(message["stop_reason"] or "", message["stop_reason"] or "")
        return notes.meaning(messages_tokens(message["usage"]))
    return _messages_stream(documents)


def _messages_stream(events: Iterable[Json]) -> Meaning:
    notes, usage = _Notes(), dict[str, Any]()
    for event in events:
        match event["type"]:
            case "message_start":
                usage |= {name: value for name, value in event["message"]["usage"].items() if value is not None}
            case "content_block_start":
                _block(notes, event["index"], event["content_block"])
            case "content_block_delta":
                _delta(notes, event["index"], event["delta"])
            case "message_delta":
                usage |= {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
                reason = event["delta"].get("stop_reason")
                notes.stop = _MESSAGES_STOPS.get(reason, reason) if reason else notes.stop
            case "message_stop":
                break  # two recordings have a second message behind it
            case "error":
                notes.failed = True
    return notes.meaning(messages_tokens(usage))


def _block(notes: _Notes, number: int, block: Json) -> None:
    match block["type"]:
        case "text":
            notes.text += block["text"]
            for citation in block.get("citations") or ():
                notes.cite(citation.get("url"))
        case "thinking":
            notes.thinking += block["thinking"]
            if block.get("signature"):
                notes.proofs.append(block["signature"])
        case "redacted_thinking":
            notes.proofs.append(block["data"])
        case "tool_use":
            given = block["input"]
            notes.calls[number] = [block["id"], block["name"], json.dumps(given) if given else ""]


def _delta(notes: _Notes, number: int, delta: Json) -> None:
    match delta["type"]:
        case "text_delta":
            notes.text += delta["text"]
        case "thinking_delta":
            notes.thinking += delta["thinking"]
        case "signature_delta":
            notes.proofs.append(delta["signature"])
        case "citations_delta":
            notes.cite(delta["citation"].get("url"))
        case "input_json_delta" if number in notes.calls:
            notes.calls[number][2] += delta["partial_json"]


def messages_tokens(usage: Json) -> Tokens:
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    reasoning = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return Tokens(usage["input_tokens"] + cached + written, cached, written, usage["output_tokens"], reasoning)


# -- responses -----------------------------------------------------------------------------------------------------


def of_responses(documents: Sequence[Json]) -> Meaning:
    """Events, of which the last holds all; or one response."""
    notes = _Notes()
    last: Json = documents[-1] if documents else {}
    if "response" in last:
        last = last["response"]
    if last.get("object") != "response" or last.get("status") == "failed":
        return Meaning(failed=True)
    for number, item in enumerate(last["output"]):
        _item(notes, number, item)
    reason = (last.get("incomplete_details") or {}).get("reason")
    notes.stop = {"max_output_tokens": "length", "content_filter": "filter"}.get(reason or "", reason or "end")
    return notes.meaning(responses_tokens(last.get("usage") or {}))


def _item(notes: _Notes, number: int, item: Json) -> None:
    match item["type"]:
        case "message":
            for part in item["content"]:
                notes.text += part.get("text") or ""
                notes.refusal += part.get("refusal") or ""
                for note in part.get("annotations") or ():
                    notes.cite(note.get("url"))
        case "reasoning":
            pieces = [*(item.get("summary") or ()), *(item.get("content") or ())]
            notes.thinking += "".join(piece["text"] for piece in pieces)
            if item.get("encrypted_content"):
                notes.proofs.append(item["encrypted_content"])
        case "function_call":
            words = item["arguments"]
            notes.calls[number] = [item["call_id"], item["name"], words]
        case "custom_tool_call":
            notes.calls[number] = [item["call_id"], item["name"], item["input"]]
        case "image_generation_call" if item.get("result"):
            notes.images.append(item["result"])


def responses_tokens(usage: Json) -> Tokens:
    names = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    renamed = {names.get(name, name): value for name, value in usage.items()}
    renamed["prompt_tokens_details"] = usage.get("input_tokens_details")
    renamed["completion_tokens_details"] = usage.get("output_tokens_details")
    return chat_tokens(renamed) if usage else Tokens()


def folded_response(events: Iterable[Json]) -> tuple[str, str, str, tuple[str, ...]]:
    """Text, thinking, refusal and arguments as the deltas alone have them: what a client shows while it waits."""
    text = thinking = refusal = ""
    arguments: dict[Any, str] = {}
    for event in events:
        match event["type"]:
            case "response.output_text.delta":
                text += event["delta"]
            case "response.refusal.delta":
                refusal += event["delta"]
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                thinking += event["delta"]
            case "response.output_item.added" if event["item"]["type"] in ("function_call", "custom_tool_call"):
                arguments[event["output_index"]] = ""
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                arguments[event["output_index"]] += event["delta"]
    return text, "".join(thinking.split()), refusal, tuple(words for _, words in sorted(arguments.items()))


# -- gemini --------------------------------------------------------------------------------------------------------

_GEMINI_STOPS = {"STOP": "end", "MAX_TOKENS": "length"}


def of_gemini(documents: Sequence[Json]) -> Meaning:
    """Chunks, each of an answer's own shape; or one answer."""
    notes, counts, calls = _Notes(), dict[str, Any](), list[tuple[str, str, Any]]()
    for chunk in documents:
        if "error" in chunk:
            notes.failed = True
            continue
        counts |= chunk.get("usageMetadata") or {}
        if blocked := (chunk.get("promptFeedback") or {}).get("blockReason"):
            notes.stop = _GEMINI_STOPS.get(blocked, "filter")
        for candidate in (chunk.get("candidates") or ())[:1]:
            for part in (candidate.get("content") or {}).get("parts") or ():
                _gemini_part(notes, calls, part)
            if reason := candidate.get("finishReason"):
                notes.stop = _GEMINI_STOPS.get(reason, "filter")
            _gemini_sources(notes, candidate)
    for number, (ident, name, args) in enumerate(calls):
        notes.calls[number] = [ident, name, json.dumps(args)]
    return notes.meaning(gemini_tokens(counts))


def _gemini_part(notes: _Notes, calls: list[tuple[str, str, Any]], part: Json) -> None:
    call = part.get("functionCall") or {}
    if call.get("name"):
        calls.append((call.get("id") or "", call["name"], dict(call.get("args") or {})))
    for entry in call.get("partialArgs") or ():
        value = next((entry[name] for name in _PARTIAL if name in entry), None)
        put(calls[-1][2], entry["jsonPath"], value)
    if part.get("thought"):
        notes.thinking += part.get("text") or ""
    else:
        notes.text += part.get("text") or ""
    if part.get("thoughtSignature") and "toolCall" not in part and "toolResponse" not in part:
        notes.proofs.append(part["thoughtSignature"])
    if "inlineData" in part:
        notes.images.append(part["inlineData"]["data"])


_PARTIAL = ("stringValue", "numberValue", "boolValue")


def _gemini_sources(notes: _Notes, candidate: Json) -> None:
    grounding = candidate.get("groundingMetadata") or {}
    found = [next(iter(source.values())) for source in grounding.get("groundingChunks") or ()]
    supports = grounding.get("groundingSupports") or ()
    for support in supports:
        for at in support.get("groundingChunkIndices") or ():
            notes.cite(found[at].get("uri"))
    if not supports:
        for source in found:
            notes.cite(source.get("uri"))


def gemini_tokens(counts: Json) -> Tokens:
    if "promptTokenCount" not in counts:
        return Tokens()
    read = counts["promptTokenCount"] + counts.get("toolUsePromptTokenCount", 0)
    thoughts = counts.get("thoughtsTokenCount", 0)
    cached = counts.get("cachedContentTokenCount", 0)
    return Tokens(read, cached, 0, counts.get("candidatesTokenCount", 0) + thoughts, thoughts)


# -- ollama --------------------------------------------------------------------------------------------------------


def of_ollama(lines: Sequence[Json]) -> Meaning:
    """Lines of a stream, or one answer."""
    notes = _Notes()
    tokens = Tokens()
    for line in lines:
        if "error" in line:
            notes.failed = True
            continue
        message = line["message"]
        notes.text += message.get("content") or ""
        notes.thinking += message.get("thinking") or ""
        for call in message.get("tool_calls") or ():
            function = call["function"]
            place = len(notes.calls)
            notes.calls[place] = [call.get("id") or "", function["name"], json.dumps(function["arguments"])]
        if line.get("done"):
            notes.stop = {"stop": "end"}.get(line.get("done_reason") or "stop", line.get("done_reason") or "")
            if "eval_count" in line:
                tokens = Tokens(line.get("prompt_eval_count"), 0, 0, line["eval_count"], 0)
    return notes.meaning(tokens)


READ: dict[str, Callable[[Sequence[Json]], Meaning]] = {
    "openai-chat": of_chat,
    "workers-ai": of_chat,
    "anthropic": of_messages,
    "openai-responses": of_responses,
    "gemini": of_gemini,
    "ollama": of_ollama,
}
