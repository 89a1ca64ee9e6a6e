"""The IR to a Responses request: members of the body. The items are written by `input_writer`.

A pure function of its input, so that a provider's prompt cache sees the same prefix again. Requests of other dialects
are never stored: they did not ask for it, and the API would do so unasked.
"""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.relatives import OPENAI, OPENAI_REASONING, TAKES_EFFORT
from proxy.dialects.openai_chat.request_writer import unmet
from proxy.dialects.openai_responses.input_writer import InputWriter
from proxy.dialects.openai_responses.vocabulary import ENCRYPTED, LOGPROBS, NAME
from proxy.dialects.places import Places
from proxy.dialects.rendering import runs_anywhere
from proxy.dialects.unread import put_back
from proxy.errors import Unsupported

# Members of Chat that the API has under the same name and with the same meaning.
_SAME_IN_CHAT = frozenset({"safety_identifier", "prompt_cache_retention", "prompt_cache_options"})
_TIERS = {"auto": "auto", "standard_only": "default"}  # Anthropic's words in OpenAI's
_EFFORT_OF_BUDGET = ((16_000, "high"), (4_000, "medium"), (0, "low"))  # tokens and more
_LEAST_OUTPUT = 16  # tokens; OpenAI answers 400 to less
_LONGEST_USER = 64  # characters; likewise
# What no Responses request can say, in Chat's words. Penalties of zero ask for nothing.
_UNSAYABLE = (
    "stop", "seed", "logit_bias", "prediction", "frequency_penalty", "presence_penalty", "top_k",
)  # fmt: skip


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    """Raises Unsupported for what cannot be left out without changing what was asked."""
    if request.n is not None and request.n > 1:
        raise Unsupported("`n`: the Responses API gives one answer to a request.", param="n")
    if request.audio is not None or any(form != "text" for form in request.modalities):
        raise Unsupported("`modalities`: the Responses API answers in text.", param="modalities")
    dropped: list[str] = []
    instructions, items = InputWriter(request, target, dropped, Places(request)).write()
    body: dict[str, Any] = {"model": target.native}
    if instructions is not None:
        body["instructions"] = instructions
    body["input"] = items
    body |= _tools(request, dropped)
    body |= _sampling(request, target, dropped)
    body |= _form(request)
    if reasoning := _reasoning(request, target, dropped):
        body["reasoning"] = reasoning
    body |= _account(request, dropped)
    body |= _include(request, target)
    if request.stream:
        body["stream"] = True
    _add_extra(body, request, dropped)
    dropped += Places(request).proofs()
    return ir.Encoded(body, tuple(dict.fromkeys(dropped)))


# -- tools -------------------------------------------------------------------------------------------------------


def _tools(request: ir.Request, dropped: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    tools = [_tool(tool, f"tools[{at}]", request, dropped) for at, tool in enumerate(request.tools)]
    if tools:
        out["tools"] = tools
    if request.tool_choice is not None:
        out["tool_choice"] = _tool_choice(request.tool_choice, request.tools)
    if request.parallel_tools is not None:
        out["parallel_tool_calls"] = request.parallel_tools
    return out


def _tool(tool: ir.Tool | ir.ServerTool, at: str, request: ir.Request, dropped: list[str]) -> dict[str, Any]:
    if isinstance(tool, ir.ServerTool):
        return _server_tool(tool, at, dropped)
    if tool.cache is not None:
        dropped.append(f"{at}.cache_control")
    named = {"name": tool.name, "description": tool.description}
    if tool.custom:
        return _said({"type": "custom", **named, "format": tool.format})
    strict = tool.strict
    if strict is None and request.dialect != NAME:
        strict = False  # what it means elsewhere; here the default is true
    return _said({"type": "function", **named, "parameters": tool.schema, "strict": strict})


def _server_tool(tool: ir.ServerTool, at: str, dropped: list[str]) -> dict[str, Any]:
    if tool.dialect == NAME:
        return dict(tool.raw)
    if tool.kind == "code_execution" and runs_anywhere(tool):
        return {"type": "code_interpreter", "container": {"type": "auto"}}
    if tool.kind != "web_search":
        raise Unsupported(
            f"`{at}` is a tool that its provider runs itself ({tool.kind}); the Responses API does not run it as its"
            " caller has it. Leave it out, or ask for a model of that provider.",
            param=at,
        )
    options = tool.raw.get("web_search_options")  # Chat's form; Anthropic has the members in the tool itself
    options, at = (options, "web_search_options") if isinstance(options, dict) else (tool.raw, at)
    if options.get("blocked_domains"):
        raise Unsupported(f"`{at}.blocked_domains`: the Responses API can only be told which to allow.", param=at)
    if options.get("max_uses") is not None:
        dropped.append(f"{at}.max_uses")
    filters = options.get("filters") or {"allowed_domains": options.get("allowed_domains")}
    place = options.get("user_location")
    if isinstance(place, dict):
        place = {"type": "approximate", **place.get("approximate", place)}
    return _said(
        {
            "type": "web_search",
            "search_context_size": options.get("search_context_size"),
            "filters": filters if any(filters.values()) else None,
            "user_location": place,
        }
    )


def _tool_choice(choice: ir.ToolChoice, tools: tuple[ir.Tool | ir.ServerTool, ...]) -> Any:
    custom = {tool.name for tool in tools if isinstance(tool, ir.Tool) and tool.custom}
    hosted = {tool.raw.get("name"): tool.kind for tool in tools if isinstance(tool, ir.ServerTool)}

    def named(name: str) -> dict[str, Any]:
        if name in hosted:
            return {"type": hosted[name]}
        return {"type": "custom" if name in custom else "function", "name": name}

    if choice.mode == "tool":
        return named(choice.name or "")
    mode = "required" if choice.mode == "any" else choice.mode
    if choice.allowed:
        return {"type": "allowed_tools", "mode": mode, "tools": [named(name) for name in choice.allowed]}
    return mode


# -- what the answer is to be like -------------------------------------------------------------------------------


def _sampling(request: ir.Request, target: ir.Target, dropped: list[str]) -> dict[str, Any]:
    own = request.dialect == NAME
    out: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
    if not own and OPENAI_REASONING.match(target.native):  # they answer 400 to any but 1
        for name in ("temperature", "top_p"):
            if out[name] not in (None, 1):
                out[name] = None
                dropped.append(name)
    if own:
        out |= {"frequency_penalty": request.frequency_penalty, "presence_penalty": request.presence_penalty}
    else:
        words = {"stop": "stop_sequences"} if request.dialect == "anthropic" else {}
        dropped += (words.get(name, name) for name in _UNSAYABLE if _asks(getattr(request, name), name))
    out["max_output_tokens"] = _cap(request, target, dropped)
    out["top_logprobs"] = request.top_logprobs
    return _said(out)


def _asks(value: Any, name: str) -> bool:
    return value is not None if name in ("seed", "top_k") else bool(value)


def _cap(request: ir.Request, target: ir.Target, dropped: list[str]) -> int | None:
    cap = request.max_tokens
    if cap is None or request.dialect == NAME:
        return cap
    if target.max_output is not None:
        cap = min(cap, target.max_output)  # no more can come, and OpenAI answers 400 to a larger number
    if cap < _LEAST_OUTPUT:
        dropped.append(request.bound or "max_tokens")
        cap = _LEAST_OUTPUT
    return cap


def _form(request: ir.Request) -> dict[str, Any]:
    form = request.response_format
    words: dict[str, Any] = {}
    if form is not None and form.kind != "json_schema":
        words["format"] = {"type": form.kind}
    elif form is not None:
        words["format"] = _said(
            {
                "type": "json_schema",
                "name": form.name or "answer",  # required here, unknown to Anthropic
                "description": form.description,
                "schema": form.schema,
                "strict": form.strict,
            }
        )
    if request.verbosity is not None:
        words["verbosity"] = request.verbosity
    return {"text": words} if words else {}


def _reasoning(request: ir.Request, target: ir.Target, dropped: list[str]) -> dict[str, Any]:
    """A model that does not reason answers 400 to any wish, so another dialect's goes to families that do alone."""
    asked = request.reasoning
    if asked is None:
        return {}
    if request.dialect == NAME:
        return _said({"effort": asked.effort, "summary": asked.summary})
    at = "thinking" if request.dialect == "anthropic" else "reasoning_effort"
    if not TAKES_EFFORT.match(target.native):
        if asked.enabled is not False:
            dropped.append(at)
        return {}
    dropped += unmet(asked, request.dialect)
    return _said({"effort": _effort(asked), "summary": asked.summary})


def _effort(asked: ir.Reasoning) -> str | None:
    if asked.enabled is False:
        return "low"  # "none" and "minimal" are known to some of these models only
    if asked.effort:
        return "high" if asked.effort == "max" else asked.effort
    if asked.budget is None:
        return None if asked.adaptive or asked.enabled is None else "medium"
    return next(effort for least, effort in _EFFORT_OF_BUDGET if asked.budget >= least)


# -- the rest ----------------------------------------------------------------------------------------------------


def _account(request: ir.Request, dropped: list[str]) -> dict[str, Any]:
    own, tier, user = request.dialect == NAME, request.service_tier, request.user
    if request.dialect == "anthropic":
        tier = _TIERS.get(tier or "")
        if request.service_tier is not None and tier is None:
            dropped.append("service_tier")
    if user is not None and not own and len(user) > _LONGEST_USER:
        user = None
        dropped.append("metadata.user_id" if request.dialect == "anthropic" else "user")
    return _said(
        {
            "service_tier": tier,
            "user": user,
            "metadata": request.metadata,
            "prompt_cache_key": request.cache_key,
            "store": request.store if own else request.store or False,
        }
    )


def _include(request: ir.Request, target: ir.Target) -> dict[str, Any]:
    """Another dialect's client keeps reasoning itself if it gets it encrypted; only models that reason give it."""
    own = request.dialect == NAME
    words = [LOGPROBS] if request.logprobs else []
    if not own and not request.store and OPENAI.match(target.native) and OPENAI_REASONING.match(target.native):
        words.append(ENCRYPTED)
    if own:
        words = [*request.extra.get("include", ()), *words]
    return {"include": words} if words else {}


def _add_extra(body: dict[str, Any], request: ir.Request, dropped: list[str]) -> None:
    """Members that the IR has no field for: given back to this dialect, else kept where the families share them."""
    for path, value in request.extra.items():
        if request.dialect == NAME:
            if path != "include" and not path.endswith("].phase") and not put_back(body, path, value):
                dropped.append(path)
        elif request.dialect == "openai-chat" and path in _SAME_IN_CHAT:
            body[path] = value
        else:
            dropped.append(path)


def _said(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
