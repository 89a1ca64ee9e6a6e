"""The IR's request to a body of `models/…:generateContent`, for one target model.

A pure function of its input, so that the provider's prompt cache sees the same prefix again. The model and whether to
stream stand in the path. https://ai.google.dev/api/generate-content#request-body
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.gemini.thinking import thinking_config
from proxy.dialects.gemini.turns import TurnWriter
from proxy.dialects.gemini.vocabulary import SERVER_TOOLS, Accepts, accepts
from proxy.dialects.places import Places
from proxy.dialects.rendering import runs_anywhere, strict_of
from proxy.dialects.words import word
from proxy.errors import Unsupported
from proxy.record import define

_MOST_STOPS = 5
_MODES = {"auto": "AUTO", "none": "NONE", "any": "ANY", "tool": "ANY"}
# OpenAI's and Anthropic's words to the API's.
_TIERS = {"default": "standard", "standard_only": "standard", "flex": "flex", "priority": "priority"}
# What no request can say. Empty values and `false` ask for nothing.
_UNSAYABLE = ("logit_bias", "verbosity", "prediction", "cache_key", "store", "metadata", "user")
# Members of the API that chat clients can give, as Google's own compatible endpoint lets them, in either spelling.
_EXTRA = {
    "cached_content": "cachedContent",
    "cachedContent": "cachedContent",
    "safety_settings": "safetySettings",
    "safetySettings": "safetySettings",
}


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    """The request in the API's words, cut to what the target's generation takes (see `vocabulary`).

    Schemas go as they are, as `parametersJsonSchema` and `responseJsonSchema`: the older `parameters` and
    `responseSchema` know a part of JSON Schema alone. The name of a response format is a label and goes. A choice among
    `allowed` tools that need not be called sends those tools alone.

    Raises Unsupported where leaving something out would change what was asked for (spoken output, a tool that only
    another provider runs, a file stored elsewhere, a schema beside functions before Gemini 3), InvalidRequest for
    arguments of a call that are no JSON object and for results of calls that nobody made.
    """
    if "audio" in request.modalities:
        raise Unsupported("modalities: spoken answers of Gemini have other voices and formats.", param="modalities")
    return _Body(request, target, accepts(target.native)).write()


@define
class _Body:
    request: ir.Request
    target: ir.Target
    accepts: Accepts
    dropped: list[str] = field(factory=list)
    body: dict[str, Any] = field(factory=dict)

    def write(self) -> ir.Encoded:
        turns = TurnWriter(self.request, self.accepts, self.dropped, Places(self.request))
        system, contents = turns.write()
        if system:
            self.body["systemInstruction"] = {"parts": system}
        self.body["contents"] = contents
        self._tools()
        if config := self._sampling() | self._output() | self._thinking():
            self.body["generationConfig"] = config
        self._account()
        for name in _UNSAYABLE:
            if getattr(self.request, name):
                self._drop(name)
        self._extra()
        return ir.Encoded(self.body, tuple(dict.fromkeys(self.dropped)))

    def _drop(self, name: str) -> None:
        self.dropped.append(word(self.request.dialect, name))

    # -- tools -------------------------------------------------------------------------------------------------------

    def _tools(self) -> None:
        choice = self.request.tool_choice
        allowed = choice.allowed if choice and choice.mode == "auto" else ()
        functions: list[dict[str, Any]] = []
        own: list[dict[str, Any]] = []
        for at, tool in enumerate(self.request.tools):
            if isinstance(tool, ir.ServerTool):
                own.append({self._server_tool(tool, f"tools[{at}]"): {}})
            elif not allowed or tool.name in allowed:
                functions.append(self._function(tool, f"tools[{at}]"))
        if functions and own and not self.accepts.mixed_tools:
            message = f"tools: {self.target.native} takes functions or the provider's own tools, not both."
            raise Unsupported(message, param="tools")
        tools: list[dict[str, Any]] = [{"functionDeclarations": functions}, *own] if functions else own
        if tools:
            self.body["tools"] = tools
        config: dict[str, Any] = {}
        if choice and functions:
            config["functionCallingConfig"] = _choice(choice)
        if functions and own:
            config["includeServerSideToolInvocations"] = True
        if config:
            self.body["toolConfig"] = config
        if functions and self.request.parallel_tools is False:
            self._drop("parallel_tools")

    def _function(self, tool: ir.Tool, path: str) -> dict[str, Any]:
        if tool.custom:
            raise Unsupported(f"{path}: Gemini has no tools with free text as input.", param=path)
        if tool.strict:
            self.dropped.append(f"{path}.{strict_of(self.request.dialect)}")
        if tool.cache:
            self.dropped.append(f"{path}.cache_control")
        written: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            written["description"] = tool.description
        if tool.schema:
            schema = dict(tool.schema)
            written["parametersJsonSchema"] = schema if "type" in schema else {"type": "object", **schema}
        return written

    def _server_tool(self, tool: ir.ServerTool, path: str) -> str:
        """The API's name of it. Which pages may be read is no detail; how many and how thoroughly is."""
        native = SERVER_TOOLS.get(tool.kind)
        if native is None or not runs_anywhere(tool):
            raise Unsupported(f"{path}: Gemini does not run {tool.kind} as its caller has it.", param=path)
        options = tool.raw.get("web_search_options")  # Chat's form; the others have the members in the tool itself
        options, path = (options, "web_search_options") if isinstance(options, dict) else (tool.raw, path)
        filters = options.get("filters")
        for source in (options, filters if isinstance(filters, dict) else {}):
            if source.get("allowed_domains") or source.get("blocked_domains"):
                message = f"{path}: Gemini searches the whole web; it cannot be kept to some domains."
                raise Unsupported(message, param=path)
        told = (name for name in ("search_context_size", "user_location", "max_uses") if options.get(name) is not None)
        self.dropped += (f"{path}.{name}" for name in told)
        return native

    # -- generationConfig --------------------------------------------------------------------------------------------

    def _sampling(self) -> dict[str, Any]:
        request = self.request
        if len(request.stop) > _MOST_STOPS:
            path = word(request.dialect, "stop")
            raise Unsupported(f"{path}: Gemini takes {_MOST_STOPS} stop sequences at most.", param=path)
        penalties = {"frequencyPenalty": request.frequency_penalty, "presencePenalty": request.presence_penalty}
        if not self.accepts.penalties:
            for name in ("frequency_penalty", "presence_penalty"):
                if getattr(request, name):
                    self._drop(name)
            penalties = {}
        logprobs = request.top_logprobs if request.logprobs else None
        return _said(
            {
                "temperature": request.temperature,
                "topP": request.top_p,
                "topK": request.top_k,
                "maxOutputTokens": self._max_tokens(),
                "stopSequences": list(request.stop) or None,
                "candidateCount": request.n if request.n != 1 else None,
                "seed": request.seed,
                **penalties,
                "responseLogprobs": request.logprobs or None,
                "logprobs": logprobs,
            }
        )

    def _max_tokens(self) -> int | None:
        asked, cap = self.request.max_tokens, self.target.max_output
        if asked is not None and cap is not None and asked > cap:
            self._drop(self.request.bound or "max_tokens")
            return cap
        return asked

    def _output(self) -> dict[str, Any]:
        form = self.request.response_format
        config: dict[str, Any] = {}
        if self.request.modalities and self.request.modalities != ("text",):
            config["responseModalities"] = [modality.upper() for modality in self.request.modalities]
        if form is None or form.kind == "text":
            return config
        path = word(self.request.dialect, "response_format")
        if "tools" in self.body and not self.accepts.json_beside_tools:
            if form.kind == "json_schema":
                message = f"{path}: {self.target.native} keeps to a JSON schema only where there are no tools."
                raise Unsupported(message, param=path)
            self._drop("response_format")  # its dialect makes the prompt ask for JSON anyway
            return config
        config["responseMimeType"] = "application/json"
        if form.schema is not None:
            config["responseJsonSchema"] = dict(form.schema)
        if form.description:
            self.dropped.append(f"{path}.json_schema.description" if path == "response_format" else path)
        return config

    def _thinking(self) -> dict[str, Any]:
        wish = self.request.reasoning
        if wish is None:
            return {}
        config, met = thinking_config(wish, self.accepts, shown=_shown(wish))
        if not met:
            self._drop("reasoning")
        return {"thinkingConfig": config} if config else {}

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _account(self) -> None:
        tier = self.request.service_tier
        if tier in _TIERS:
            self.body["serviceTier"] = _TIERS[tier]
        elif tier not in (None, "auto"):
            self._drop("service_tier")

    def _extra(self) -> None:
        for path, value in self.request.extra.items():
            google = _googles(path, value)
            if google is None:
                self.dropped.append(path)
                continue
            at = "" if path in _EXTRA else f"{path}."
            for name, inner in google.items():
                if name in _EXTRA:
                    self.body[_EXTRA[name]] = inner
                elif name in ("thinking_config", "thinkingConfig") and isinstance(inner, dict):
                    self.body.setdefault("generationConfig", {})["thinkingConfig"] = inner
                else:
                    self.dropped.append(f"{at}{name}")


def _googles(path: str, value: Any) -> Mapping[str, Any] | None:
    """What a chat client says to Google alone: `extra_body: {"google": {…}}`, `google: {…}`, or the member itself.
    ai.google.dev/gemini-api/docs/openai#extra-body"""
    if path in _EXTRA:
        return {path: value}
    if path == "extra_body" and isinstance(value, dict) and value.keys() == {"google"}:
        value = value["google"]
    elif path != "google":
        return None
    return value if isinstance(value, dict) else None


def _choice(choice: ir.ToolChoice) -> dict[str, Any]:
    config: dict[str, Any] = {"mode": _MODES[choice.mode]}
    names = [choice.name] if choice.mode == "tool" else list(choice.allowed) if choice.mode == "any" else []
    return config | ({"allowedFunctionNames": names} if names else {})


def _shown(wish: ir.Reasoning) -> bool:
    """Whether the client is used to see what a model thinks. Anthropic's and OpenRouter's are, OpenAI's have to ask."""
    return wish.summary is not None or bool(wish.enabled or wish.adaptive or wish.budget is not None)


def _said(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
