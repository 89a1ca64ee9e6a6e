"""The IR's request to a body of `/api/chat`.

A pure function of its input, so that the server's cached prefix is found again. How long the model stays loaded, and
with how large a window, is the operator's business: `keep_alive` and `num_ctx` go only where the client gave them. Left
to itself the server cuts a conversation that is too long for the window, oldest messages first and without a word; the
client's dialects refuse it, so `truncate` is off, and a model with a larger window may answer.

https://docs.ollama.com/api/chat
"""

from __future__ import annotations

import re
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.places import Places
from proxy.dialects.rendering import arguments_of, document_text, spoken, strict_of, unknown_part
from proxy.dialects.words import word
from proxy.errors import InvalidRequest, Unsupported
from proxy.record import define

# What no request can say. Empty values and `false` ask for nothing.
_UNSAYABLE = ("logit_bias", "verbosity", "prediction", "cache_key", "store", "metadata", "user")
# Members and options that chat clients can give, since Ollama's own chat endpoint is known to take them.
_EXTRA = frozenset({"keep_alive", "truncate"})
_EXTRA_OPTIONS = frozenset(
    {"num_ctx", "num_keep", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "mirostat", "num_batch"}
)
_TAKES_LEVELS = re.compile(r"(?:.*/)?gpt-oss")  # the others think or do not; older servers refuse levels for them
_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_Json = dict[str, Any]


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    """The request in Ollama's words.

    Raises Unsupported where leaving something out would change what was asked for (several answers, a forced call,
    media other than pictures given as data), InvalidRequest for arguments of a call that are no JSON object.
    """
    if request.n is not None and request.n > 1:
        raise Unsupported("n: Ollama gives one answer to a request.", param="n")
    if {"audio", "image"} & set(request.modalities):
        raise Unsupported("modalities: Ollama answers in text only.", param="modalities")
    return _Body(request, target, Places(request)).write()


@define
class _Body:
    request: ir.Request
    target: ir.Target
    places: Places
    dropped: list[str] = field(factory=list)
    _names: dict[str, str] = field(factory=dict)  # of the tools called so far, by the call's id
    _attached: list[str] = field(factory=list)  # pictures of results, which follow in a user's message

    def write(self) -> ir.Encoded:
        request = self.request
        body: _Json = {"model": self.target.native, "messages": self._messages()}
        body |= {"stream": request.stream, "truncate": False}
        if tools := self._tools():
            body["tools"] = tools
        if (form := self._format()) is not None:
            body["format"] = form
        if (think := self._think()) is not None:
            body["think"] = think
        if request.logprobs:
            body["logprobs"] = True
            if request.top_logprobs:
                body["top_logprobs"] = request.top_logprobs
        options = self._options()
        self._extra(body, options)
        if options:
            body["options"] = options
        for name in _UNSAYABLE:
            if getattr(request, name):
                self._drop(name)
        if request.service_tier not in (None, "auto", "default", "standard_only"):
            self._drop("service_tier")
        self.dropped += self.places.proofs()
        return ir.Encoded(body, tuple(dict.fromkeys(self.dropped)))

    def _drop(self, name: str) -> None:
        self.dropped.append(word(self.request.dialect, name))

    # -- messages ----------------------------------------------------------------------------------------------------

    def _messages(self) -> list[_Json]:
        messages: list[_Json] = []
        for at, message in enumerate(self.request.messages):
            if message.role != "tool":
                self._flush(messages)
            if message.name is not None and message.role != "tool":
                self.dropped.append(f"{self.places.turn(at)}.name")
            match message.role:
                case "tool":
                    self._add_results(messages, at)
                case role:
                    messages.append(self._message("system" if role == "developer" else role, at))
        self._flush(messages)
        return messages

    def _add_results(self, messages: list[_Json], at: int) -> None:
        """In the order of the calls: many models are told neither ids nor names."""
        for index, part in enumerate(self.request.messages[at].parts):
            if isinstance(part, ir.ToolResult):
                messages.append(self._result(part, self.places.part(at, index)))
            else:
                self.dropped.append(self.places.part(at, index))  # of a tool that only its provider has
        step = next((place for place in reversed(range(len(messages))) if messages[place]["role"] != "tool"), -1)
        calls = messages[step].get("tool_calls", []) if step >= 0 else []
        order = {call["id"]: place for place, call in enumerate(calls)}
        messages[step + 1 :] = sorted(
            messages[step + 1 :], key=lambda result: order.get(result["tool_call_id"], len(order))
        )

    def _flush(self, messages: list[_Json]) -> None:
        if self._attached:
            messages.append({"role": "user", "content": "Attachments of the tool's result.", "images": self._attached})
            self._attached = []

    def _message(self, role: str, at: int) -> _Json:
        said = _Said(given=role != "assistant")
        for index, part in enumerate(self.request.messages[at].parts):
            self._add(said, part, self.places.part(at, index))
        return {"role": role, **said.written("" if role == "assistant" else "\n\n")}

    def _result(self, result: ir.ToolResult, path: str) -> _Json:
        name = self._names.get(result.call_id) or result.name
        if name is None:
            message = f"{path}: no call with the id {result.call_id!r} stands before this result of one."
            raise InvalidRequest(message, param=path)
        if result.is_error:
            self.dropped.append(f"{path}.is_error")
        self._cached(result, path)
        said = _Said(given=True)
        for index, part in enumerate(result.content):
            self._add(said, part, self.places.inside(path, index))
        self._attached += said.images
        silent = "Attached below." if said.images else "Error" if result.is_error else ""
        content = "\n\n".join(said.texts) or silent
        return {"role": "tool", "content": content, "tool_name": name, "tool_call_id": result.call_id}

    def _add(self, said: _Said, raw: ir.Part, path: str) -> None:
        part = spoken(raw) or raw
        self._cached(part, path)
        match part:
            case ir.Text(text) | ir.Refusal(text):
                said.texts.append(text)
                if isinstance(part, ir.Text) and part.citations:
                    self.dropped.append(f"{path}.{self.places.notes}")
            case ir.Thinking():
                self._add_thinking(said, part, path)
            case ir.ToolCall():
                said.calls.append(self._call(part, path))
            case ir.Image():
                said.images.append(self._image(part, path))
            case ir.File(source=ir.PlainText(text)):
                if part.citations:
                    self.dropped.append(f"{path}.citations")
                said.texts.append(document_text(part, text))
            case ir.File() | ir.Video() | ir.Audio(source=ir.Blob() | ir.Url()):
                message = f"{path}: Ollama takes text and pictures only; send a document as text."
                raise Unsupported(message, param=path)
            case ir.Opaque() if said.given:
                raise unknown_part(part, path, "Ollama")
            case _:
                self.dropped.append(path)

    def _cached(self, part: ir.Part, path: str) -> None:
        if getattr(part, "cache", None) is not None:
            self.dropped.append(f"{path}.cache_control")

    def _add_thinking(self, said: _Said, part: ir.Thinking, path: str) -> None:
        """A proof says that another provider made it; without one it may well be this server's own, on its way back."""
        text = part.text or "\n\n".join(part.summary)
        if text and not (part.signature or part.encrypted or part.redacted):
            said.thinking.append(text)
        else:
            self.dropped.append(path)

    def _call(self, call: ir.ToolCall, path: str) -> _Json:
        if call.custom:
            raise Unsupported(f"{path}: Ollama has no tools with free text as input.", param=path)
        self._names[call.id] = call.name
        return {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call, path, "Ollama")}}

    def _image(self, image: ir.Image, path: str) -> str:
        if image.detail not in (None, "auto"):
            self.dropped.append(f"{path}.detail")
        if isinstance(image.source, ir.Blob):
            return image.source.data
        raise Unsupported(f"{path}: Ollama fetches no pictures; send this one's content as a data: URL.", param=path)

    # -- members -----------------------------------------------------------------------------------------------------

    def _tools(self) -> list[_Json]:
        choice = self.request.tool_choice
        if choice is not None and choice.mode == "none":
            return []
        if choice is not None and choice.mode in ("any", "tool"):
            raise Unsupported("tool_choice: Ollama cannot be made to call a tool.", param="tool_choice")
        tools = [
            self._tool(tool, f"tools[{at}]")
            for at, tool in enumerate(self.request.tools)
            if choice is None or not choice.allowed or not isinstance(tool, ir.Tool) or tool.name in choice.allowed
        ]
        if tools and self.request.parallel_tools is False:
            self._drop("parallel_tools")
        return tools

    def _tool(self, tool: ir.Tool | ir.ServerTool, path: str) -> _Json:
        if isinstance(tool, ir.ServerTool):
            raise Unsupported(f"{path}: Ollama runs no tools of its own ({tool.kind}).", param=path)
        if tool.custom:
            raise Unsupported(f"{path}: Ollama has no tools with free text as input.", param=path)
        if tool.strict:
            self.dropped.append(f"{path}.{strict_of(self.request.dialect)}")
        if tool.cache:
            self.dropped.append(f"{path}.cache_control")
        function: _Json = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = {"type": "object", "properties": {}, **(tool.schema or {})}
        return {"type": "function", "function": function}

    def _format(self) -> Any:
        form = self.request.response_format
        if form is None or form.kind == "text":
            return None
        return "json" if form.schema is None else dict(form.schema)

    def _think(self) -> bool | str | None:
        wish = self.request.reasoning
        if wish is None:
            return None
        if wish.enabled is False or wish.effort == "none":
            return False
        if wish.budget is not None:
            self._drop("reasoning")
        if _TAKES_LEVELS.match(self.target.native) and wish.effort is not None:
            level = _LEVELS.get(wish.effort)
            if level != wish.effort and wish.effort != "minimal":
                self._drop("reasoning")
            return level
        if wish.effort not in (None, "medium"):
            self._drop("reasoning")
        return True if wish.effort or wish.enabled or wish.adaptive or wish.budget is not None else None

    def _options(self) -> _Json:
        request, cap = self.request, self.target.max_output
        asked = request.max_tokens
        if asked is not None and cap is not None and asked > cap:
            self._drop(self.request.bound or "max_tokens")
            asked = cap
        options = {
            "num_predict": asked,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
        }
        return {name: value for name, value in options.items() if value is not None}

    def _extra(self, body: _Json, options: _Json) -> None:
        for path, value in self.request.extra.items():
            if path in _EXTRA:
                body[path] = value
            elif path in _EXTRA_OPTIONS:
                options[path] = value
            elif path == "options" and isinstance(value, dict):
                options |= {name: inner for name, inner in value.items() if name not in options}
            else:
                self.dropped.append(path)


@define
class _Said:
    """A message's parts, by the member that they stand in. `given`: others than the model said it."""

    given: bool
    texts: list[str] = field(factory=list)
    thinking: list[str] = field(factory=list)
    images: list[str] = field(factory=list)
    calls: list[_Json] = field(factory=list)

    def written(self, between: str) -> _Json:
        message: _Json = {"content": between.join(self.texts)}
        if self.thinking:
            message["thinking"] = "".join(self.thinking)
        if self.images:
            message["images"] = self.images
        if self.calls:
            message["tool_calls"] = self.calls
        return message
