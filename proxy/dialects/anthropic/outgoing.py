"""The IR's request to a body of POST /v1/messages, for one target model."""

from __future__ import annotations

from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.anthropic import reasoning
from proxy.dialects.anthropic.blocks import NAME
from proxy.dialects.anthropic.claude import Accepts, accepts
from proxy.dialects.anthropic.turns import TurnWriter, cache_control, short_system
from proxy.dialects.places import Places
from proxy.dialects.rendering import runs_anywhere, strict_of
from proxy.dialects.unread import put_back
from proxy.dialects.words import word
from proxy.errors import Unsupported
from proxy.record import define

MAX_TOKENS = 4096  # the API obliges us to name a bound; this one holds where neither client nor catalog knows any
_TIERS = {"auto": "auto", "priority": "auto", "default": "standard_only"}  # OpenAI's words to the API's
_WEB_SEARCH = "web_search_20250305"  # the oldest is what all models and hosts have
_CODE_EXECUTION = "code_execution_20250825"
# What no Messages request can say. Zero penalties and `false` ask for nothing.
_UNSAYABLE = ("frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "verbosity", "audio",
              "prediction", "cache_key", "store", "metadata")  # fmt: skip


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    """The request in the API's words, cut to what the target's generation takes (see `claude`).

    - `max_tokens` is obligatory: the client's, within `target.max_output`; else `target.max_output`; else 4096.
    - A temperature above 1 becomes 1. Where thinking excludes them, or the generation does not take them, the sampling
      parameters go. All of it is named in `dropped`.
    - response_format json_schema becomes `output_config.format`, its name is a label and goes. json_object has no
      counterpart, and its dialect makes the prompt ask for JSON anyway: dropped and named.
    - A choice among `allowed` tools sends those tools alone.
    - For thinking and effort see `reasoning`, for the turns `turns`.

    Raises Unsupported where leaving something out would change what was asked for (n above 1, audio, a tool that only
    another provider runs, a file stored elsewhere), InvalidRequest for arguments of a call that are no JSON object.
    """
    if request.n is not None and request.n > 1:
        raise Unsupported("n: the Messages API gives one answer to a request.", param="n")
    if "audio" in request.modalities or "image" in request.modalities:
        raise Unsupported("modalities: the Messages API answers in text only.", param="modalities")
    return _Body(request, target, accepts(target.native)).write()


@define
class _Body:
    request: ir.Request
    target: ir.Target
    accepts: Accepts
    dropped: list[str] = field(factory=list)
    body: dict[str, Any] = field(factory=dict)

    def write(self) -> ir.Encoded:
        request = self.request
        turns = TurnWriter(request, system_turns=self.accepts.system_turns)
        system, messages = turns.write()
        self.dropped += turns.dropped
        self.body = {"model": self.target.native, "max_tokens": self._max_tokens(), "messages": messages}
        if system:
            self.body["system"] = short_system(system)
        self._tools()
        self._answer_form()
        self._sampling()
        self._about()
        for name in _UNSAYABLE:
            if getattr(request, name):
                self._drop(name)
        if request.seed is not None:
            self._drop("seed")
        if request.stream:
            self.body["stream"] = True
        self._extra()
        self.dropped += Places(request).proofs()
        return ir.Encoded(self.body, tuple(dict.fromkeys(self.dropped)))

    @property
    def native(self) -> bool:
        return self.request.dialect == NAME

    def _drop(self, name: str) -> None:
        self.dropped.append(word(self.request.dialect, name))

    def _max_tokens(self) -> int:
        asked, cap = self.request.max_tokens, self.target.max_output
        if asked is None:
            return cap or MAX_TOKENS
        if cap is not None and asked > cap:
            self._drop(self.request.bound or "max_tokens")
            return cap
        return asked

    # -- tools -------------------------------------------------------------------------------------------------------

    def _tools(self) -> None:
        choice = self.request.tool_choice
        allowed = choice.allowed if choice else ()
        tools = [
            self._tool(tool, f"tools[{at}]")
            for at, tool in enumerate(self.request.tools)
            if not allowed or not isinstance(tool, ir.Tool) or tool.name in allowed
        ]
        for servers in [tool for tool in tools if "mcp_servers" in tool]:
            tools.remove(servers)
            self.body |= servers
        if not tools:
            return
        self.body["tools"] = tools
        written: dict[str, Any] | None = {"type": choice.mode} if choice else None
        if choice and choice.mode == "tool":
            written = {"type": "tool", "name": choice.name}
        if self.request.parallel_tools is False and (choice is None or choice.mode != "none"):
            written = (written or {"type": "auto"}) | {"disable_parallel_tool_use": True}
        if written:
            self.body["tool_choice"] = written

    def _tool(self, tool: ir.Tool | ir.ServerTool, path: str) -> dict[str, Any]:
        if isinstance(tool, ir.ServerTool):
            return self._server_tool(tool, path)
        if tool.custom:
            raise Unsupported(f"{path}: the Messages API has no tools with free text as input.", param=path)
        schema = dict(tool.schema or {"properties": {}})
        written: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            written["description"] = tool.description
        written["input_schema"] = schema if self.native or "type" in schema else {"type": "object", **schema}
        if tool.strict is not None and (self.native or self.accepts.structured):
            written["strict"] = tool.strict
        elif tool.strict:
            self.dropped.append(f"{path}.{strict_of(self.request.dialect)}")
        if tool.cache:
            written["cache_control"] = cache_control(tool.cache)
        return written

    def _server_tool(self, tool: ir.ServerTool, path: str) -> dict[str, Any]:
        if tool.dialect == NAME:
            return dict(tool.raw)
        if tool.kind == "code_execution" and runs_anywhere(tool):
            return {"type": _CODE_EXECUTION, "name": "code_execution"}
        if tool.kind != "web_search":
            raise Unsupported(f"{path}: the Messages API does not run {tool.kind} as its caller has it.", param=path)
        written: dict[str, Any] = {"type": _WEB_SEARCH, "name": "web_search"}
        options = tool.raw.get("web_search_options")  # Chat's form; Responses has the members in the tool itself
        options, path = (options, "web_search_options") if isinstance(options, dict) else (tool.raw, path)
        filters, place = options.get("filters"), options.get("user_location")
        if isinstance(filters, dict) and filters.get("allowed_domains"):
            written["allowed_domains"] = filters["allowed_domains"]
        if isinstance(place, dict):
            written["user_location"] = {"type": "approximate", **place.get("approximate", place)}
        if options.get("search_context_size") not in (None, "medium"):
            self.dropped.append(f"{path}.search_context_size")
        return written

    # -- what the answer is to be like -------------------------------------------------------------------------------

    def _answer_form(self) -> None:
        config: dict[str, Any] = {}
        self._think(config)
        form = self.request.response_format
        if form and form.kind == "json_schema" and form.schema is not None:
            path = word(self.request.dialect, "response_format")
            if not self.accepts.structured and not self.native:
                raise Unsupported(f"{path}: {self.target.native} does not keep to a JSON schema.", param=path)
            config["format"] = {"type": "json_schema", "schema": dict(form.schema)}
            if form.description:
                self.dropped.append(f"{path}.json_schema.description" if path == "response_format" else path)
        elif form and form.kind != "text":
            self._drop("response_format")
        if config:
            self.body["output_config"] = config

    def _think(self, config: dict[str, Any]) -> None:
        wish = self.request.reasoning
        if wish is None:
            return
        if self.native:
            thought = reasoning.as_said(wish)
        else:
            forced = self.body.get("tool_choice", {}).get("type") in ("any", "tool")
            thought = reasoning.translated(
                wish, self.accepts, self.body["max_tokens"], forced=forced, bare_loop=self._bare_loop()
            )
        if thought.thinking:
            self.body["thinking"] = thought.thinking
        if thought.effort:
            config["effort"] = thought.effort
        if thought.lost:
            self._drop("reasoning")

    def _bare_loop(self) -> bool:
        """The last turn brings tool results, and the turn with the calls does not begin with thinking."""
        turns = self.body["messages"]
        if len(turns) < 2 or not isinstance(last := turns[-1]["content"], list):
            return False
        if not any(block["type"] == "tool_result" for block in last):
            return False
        calls = turns[-2]["content"]
        return isinstance(calls, str) or calls[0]["type"] not in ("thinking", "redacted_thinking")

    def _sampling(self) -> None:
        request, body = self.request, self.body
        wanted = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        if not self.native:
            self._fit(wanted)
        body |= {name: value for name, value in wanted.items() if value is not None}
        stops = [stop for stop in request.stop if self.native or stop.strip()]
        if stops:
            body["stop_sequences"] = stops
        if len(stops) < len(request.stop):  # blank ones are refused
            self._drop("stop")

    def _fit(self, wanted: dict[str, float | None]) -> None:
        """Takes out, or clamps, what the generation refuses."""

        def drop(*names: str) -> None:
            for name in names:
                if wanted[name] is not None:
                    self._drop(name)
                    wanted[name] = None

        temperature, top_p = wanted["temperature"], wanted["top_p"]
        if temperature is not None and temperature > 1:
            self._drop("temperature")
            wanted["temperature"] = 1
        if not self.accepts.sampling:
            for name in ("temperature", "top_p"):
                if wanted[name] == 1:  # the default, said aloud
                    wanted[name] = None
            drop("temperature", "top_p", "top_k")
        elif self.body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
            if wanted["temperature"] != 1:
                drop("temperature")
            if top_p is not None and top_p < 0.95:
                drop("top_p")
            drop("top_k")
        if wanted["temperature"] is not None and not self.accepts.both_samplers:
            if top_p == 1:
                wanted["top_p"] = None
            drop("top_p")

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _about(self) -> None:
        request = self.request
        if request.user is not None:
            self.body["metadata"] = {"user_id": request.user}
        if request.service_tier is not None:
            tier = request.service_tier if self.native else _TIERS.get(request.service_tier)
            if tier is None:
                self._drop("service_tier")
            else:
                self.body["service_tier"] = tier

    def _extra(self) -> None:
        for path, value in self.request.extra.items():
            if not self.native or not put_back(self.body, path, value):
                self.dropped.append(path)
