"""What a request asks for, whichever dialect says it: read by hand, like `meaning`, so that a translation is judged.

White space is left out of texts: how paragraphs and parts are joined is the dialect's matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, field, frozen

Json = Mapping[str, Any]


@frozen
class Tool:
    name: str
    description: str
    schema: Any


@frozen
class Asking:
    """`said` is (role, text) in order, neighbours of one role joined; `calls` are (id, name, arguments), `results`
    (id, text). Media are their data, or their address."""

    system: str = ""
    said: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    calls: tuple[tuple[str, str, Any], ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    media: tuple[str, ...] = field(default=(), repr=False)
    tools: tuple[Tool, ...] = field(default=(), repr=False)
    choice: Any = None  # auto, none, any, or a tool's name in a tuple
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    schema: Any = None  # of the answer; "json" where any JSON will do
    stream: bool = False


@define
class _Notes:
    system: str = ""
    said: list[tuple[str, str]] = field(factory=list)
    calls: list[tuple[str, str, Any]] = field(factory=list)
    results: list[tuple[str, str]] = field(factory=list)
    media: list[str] = field(factory=list)

    def say(self, role: str, text: str | None) -> None:
        bare = "".join((text or "").split())
        if not bare:
            return
        if role in ("system", "developer") and not self.said:
            self.system += bare
        elif self.said and self.said[-1][0] == role:
            self.said[-1] = (role, self.said[-1][1] + bare)
        else:
            self.said.append((role, bare))

    def show(self, url: str | None) -> None:
        if url:
            self.media.append(url.partition("base64,")[2] or url)

    def asking(self, **more: Any) -> Asking:
        said = tuple(self.said)
        return Asking(self.system, said, tuple(self.calls), tuple(self.results), tuple(self.media), **more)


def bare(text: str) -> str:
    return "".join(text.split())


def _loaded(words: Any) -> Any:
    return json.loads(words or "{}") if isinstance(words, str) else words or {}


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


# -- chat ----------------------------------------------------------------------------------------------------------


def of_chat(body: Json) -> Asking:
    notes = _Notes()
    for message in body["messages"]:
        role = message["role"]
        if role == "tool":
            text = ""
            for part in _parts(message.get("content")):
                text += part.get("text") or ""
                _chat_media(notes, part)
            notes.results.append((message["tool_call_id"], bare(text)))
            continue
        for part in _parts(message.get("content")):
            if part["type"] in ("text", "refusal"):
                notes.say(role, part.get("text") or part.get("refusal"))
            _chat_media(notes, part)
        notes.say(role, message.get("refusal"))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            notes.calls.append((call["id"], function["name"], _loaded(function["arguments"])))
    form = body.get("response_format") or {}
    choice = body.get("tool_choice")
    return notes.asking(
        tools=tuple(_chat_tools(body)),
        choice={"required": "any"}.get(choice, choice) if isinstance(choice, str) else _named(choice),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=tuple([body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or ()),
        schema={"json_object": "json"}.get(form.get("type", ""), (form.get("json_schema") or {}).get("schema")),
        stream=body.get("stream") or False,
    )


def _named(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return None
    name = choice.get("name") or (choice.get("function") or {}).get("name")
    return (name,) if name else choice["type"]


def _chat_media(notes: _Notes, part: Json) -> None:
    match part["type"]:
        case "image_url":
            url = part["image_url"]
            notes.show(url if isinstance(url, str) else url["url"])
        case "input_audio":
            notes.show(part["input_audio"]["data"])
        case "file":
            notes.show(part["file"].get("file_data") or part["file"].get("file_id"))
        case "document_url":
            notes.show(part["document_url"])


def _chat_tools(body: Json) -> Iterator[Tool]:
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            yield _tool(tool["function"], "parameters")


def _tool(raw: Json, name: str) -> Tool:
    """No parameters at all are an empty object of them; what JSON Schema takes for granted is left out."""
    schema = {key: value for key, value in (raw.get(name) or {}).items() if (key, value) != ("properties", {})}
    return Tool(raw["name"], bare(raw.get("description") or ""), {"type": "object", **schema})


# -- messages ------------------------------------------------------------------------------------------------------


def of_messages(body: Json) -> Asking:
    notes = _Notes()
    for block in _parts(body.get("system")):
        notes.say("system", block["text"])
    for message in body["messages"]:
        for block in _parts(message["content"]):
            _messages_block(notes, message["role"], block)
    choice = body.get("tool_choice") or {}
    config = body.get("output_config") or {}
    form = config.get("format") or body.get("output_format") or {}
    return notes.asking(
        tools=tuple(_tool(tool, "input_schema") for tool in body.get("tools") or () if "input_schema" in tool),
        choice=(choice["name"],) if choice.get("type") == "tool" else choice.get("type"),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=tuple(body.get("stop_sequences") or ()),
        schema=form.get("schema"),
        stream=body.get("stream") or False,
    )


def _messages_block(notes: _Notes, role: str, block: Json) -> None:
    match block["type"]:
        case "text":
            notes.say(role, block["text"])
        case "tool_use":
            notes.calls.append((block["id"], block["name"], block["input"]))
        case "tool_result":
            text = ""
            for part in _parts(block.get("content")):
                text += part.get("text") or ""
                _messages_media(notes, part)
            notes.results.append((block["tool_use_id"], bare(text)))
        case _:
            _messages_media(notes, block)


def _messages_media(notes: _Notes, block: Json) -> None:
    if block["type"] not in ("image", "document"):
        return
    source = block["source"]
    notes.show(source.get("data") or source.get("url") or source.get("file_id"))


# -- responses -----------------------------------------------------------------------------------------------------


def of_responses(body: Json) -> Asking:
    notes = _Notes()
    notes.say("system", body.get("instructions"))
    given = body["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        _responses_item(notes, item)
    form = (body.get("text") or {}).get("format") or {}
    choice = body.get("tool_choice")
    return notes.asking(
        tools=tuple(_tool(tool, "parameters") for tool in body.get("tools") or () if tool["type"] == "function"),
        choice={"required": "any"}.get(choice, choice) if isinstance(choice, str) else _named(choice),
        max_tokens=body.get("max_output_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        schema={"json_object": "json"}.get(form.get("type", ""), form.get("schema")),
        stream=body.get("stream") or False,
    )


def _responses_item(notes: _Notes, item: Json) -> None:
    match item.get("type", "message"):
        case "message":
            for part in _parts(item.get("content")):
                notes.say(item["role"], part.get("text") or part.get("refusal"))
                _responses_media(notes, part)
        case "function_call":
            notes.calls.append((item["call_id"], item["name"], _loaded(item["arguments"])))
        case "function_call_output":
            text = ""
            for part in _parts(item["output"]):
                text += part.get("text") or ""
                _responses_media(notes, part)
            notes.results.append((item["call_id"], bare(text)))


def _responses_media(notes: _Notes, part: Json) -> None:
    match part["type"]:
        case "input_image":
            notes.show(part.get("image_url") or part.get("file_id"))
        case "input_file":
            notes.show(part.get("file_data") or part.get("file_url") or part.get("file_id"))


# -- gemini --------------------------------------------------------------------------------------------------------


def of_gemini(body: Json) -> Asking:
    notes = _Notes()
    for part in (body.get("systemInstruction") or {}).get("parts") or ():
        notes.say("system", part["text"])
    for content in body["contents"]:
        role = {"model": "assistant"}.get(content["role"], content["role"])
        for part in content["parts"]:
            _gemini_part(notes, role, part)
    config = body.get("generationConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    names = tuple(calling.get("allowedFunctionNames") or ())
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    return notes.asking(
        tools=tuple(
            _tool(tool, "parametersJsonSchema")
            for group in body.get("tools") or ()
            for tool in group.get("functionDeclarations") or ()
        ),
        choice=names or (calling["mode"].lower() if calling else None),
        max_tokens=config.get("maxOutputTokens"),
        temperature=config.get("temperature"),
        top_p=config.get("topP"),
        top_k=config.get("topK"),
        stop=tuple(config.get("stopSequences") or ()),
        schema=schema or ("json" if config.get("responseMimeType") == "application/json" else None),
    )


def _gemini_part(notes: _Notes, role: str, part: Json) -> None:
    if "functionCall" in part:
        call = part["functionCall"]
        notes.calls.append((call["id"], call["name"], call.get("args") or {}))
    elif "functionResponse" in part:
        response = part["functionResponse"]
        said = response["response"]
        notes.results.append((response["id"], bare(str(said.get("output", said.get("error"))))))
        for inner in response.get("parts") or ():
            notes.show(inner["inlineData"]["data"])
    elif "inlineData" in part:
        notes.show(part["inlineData"]["data"])
    elif "fileData" in part:
        notes.show(part["fileData"]["fileUri"])
    elif not part.get("thought"):
        notes.say(role, part["text"])


# -- ollama --------------------------------------------------------------------------------------------------------


def of_ollama(body: Json) -> Asking:
    notes = _Notes()
    for message in body["messages"]:
        if message["role"] == "tool":
            notes.results.append((message.get("tool_call_id") or message["tool_name"], bare(message["content"])))
        else:
            notes.say(message["role"], message.get("content"))
        for image in message.get("images") or ():
            notes.show(image)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            notes.calls.append((call.get("id") or "", function["name"], function["arguments"]))
    options = body.get("options") or {}
    form = body.get("format")
    return notes.asking(
        tools=tuple(_chat_tools(body)),
        max_tokens=options.get("num_predict"),
        temperature=options.get("temperature"),
        top_p=options.get("top_p"),
        top_k=options.get("top_k"),
        stop=tuple(options.get("stop") or ()),
        schema=form,
        stream=body.get("stream") or False,
    )


READ: dict[str, Callable[[Json], Asking]] = {
    "openai-chat": of_chat,
    "workers-ai": of_chat,
    "anthropic": of_messages,
    "openai-responses": of_responses,
    "gemini": of_gemini,
    "ollama": of_ollama,
}
