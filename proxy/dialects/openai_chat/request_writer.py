"""The IR to a chat request: members of the body. Messages are written by `message_writer`.

A pure function of its input, so that a provider's prompt cache sees the same prefix again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.message_writer import MessageWriter, cache_marker, keeps_cache, takes_proofs
from proxy.dialects.openai_chat.relatives import (
    OPENAI,
    OPENAI_REASONING,
    SEARCHES,
    TAKES_EFFORT,
    TAKES_ENABLE_THINKING,
    TAKES_THINKING,
    takes_stream_options,
)
from proxy.dialects.openai_chat.vocabulary import NAME
from proxy.dialects.places import Places
from proxy.dialects.unread import put_back
from proxy.errors import Unsupported

# Members of Responses that Chat has under the same name and with the same meaning.
_SAME_IN_RESPONSES = frozenset({"safety_identifier", "prompt_cache_retention", "prompt_cache_options", "top_logprobs"})
# Members that compatible servers do not know, some of which refuse what they do not know. The paths are the client's.
_OPENAI_ONLY = {
    "verbosity": "text.verbosity",
    "service_tier": "service_tier",
    "metadata": "metadata",
    "prompt_cache_key": "prompt_cache_key",
    "store": "store",
    **{name: name for name in _SAME_IN_RESPONSES - {"top_logprobs"}},
}
# Anthropic's tiers in OpenAI's words.
_TIERS = {"auto": "auto", "standard_only": "default"}
_EFFORT_OF_BUDGET = ((16_000, "high"), (4_000, "medium"), (0, "low"))  # tokens and more


def encode_request(request: ir.Request, target: ir.Target) -> ir.Encoded:
    """Raises Unsupported for what cannot be left out without changing what was asked."""
    dropped: list[str] = []
    turns = MessageWriter(request, target, dropped, Places(request)).write()
    body: dict[str, Any] = {"model": target.native, "messages": turns}
    body |= _tools(request, target, dropped)
    body |= _sampling(request, target, dropped)
    body |= _output(request)
    body |= _reasoning(request, target, dropped)
    body |= _account(request, dropped)
    body |= _streaming(request, target)
    _add_extra(body, request, dropped)
    if request.dialect != NAME:
        _without_openais_own(body, target, dropped)
        dropped += Places(request).proofs(calls=not takes_proofs(target))
    return ir.Encoded(body, tuple(dict.fromkeys(dropped)))


def _tools(request: ir.Request, target: ir.Target, dropped: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    tools: list[Mapping[str, Any]] = []
    for index, tool in enumerate(request.tools):
        at = f"tools[{index}]"
        if isinstance(tool, ir.Tool):
            marker = {}
            if tool.cache is not None and keeps_cache(request, target):
                marker = cache_marker(tool.cache, target)
            elif tool.cache is not None:
                dropped.append(f"{at}.cache_control")
            tools.append(_tool(tool, marker))
        elif tool.dialect == NAME and "web_search_options" not in tool.raw:
            tools.append(tool.raw)
        elif tool.dialect == NAME:
            out |= tool.raw
        elif tool.kind == "web_search" and SEARCHES.match(target.native):
            out["web_search_options"] = {}
        else:
            raise Unsupported(
                f"`{at}` is a tool that its provider runs itself ({tool.kind}); {target.native} has none such."
                " Leave it out, or ask for a model of that provider.",
                param=at,
            )
    if tools:
        out["tools"] = tools
    if request.tool_choice is not None:
        out["tool_choice"] = _tool_choice(request.tool_choice, request.tools)
    if request.parallel_tools is not None:
        out["parallel_tool_calls"] = request.parallel_tools
    return out


def _tool(tool: ir.Tool, marker: dict[str, Any]) -> dict[str, Any]:
    inner = {"name": tool.name, "description": tool.description}
    if tool.custom:
        return {"type": "custom", "custom": _said({**inner, "format": tool.format})}
    function = _said({**inner, "parameters": tool.schema, "strict": tool.strict})
    return {"type": "function", "function": function, **marker}


def _tool_choice(choice: ir.ToolChoice, tools: tuple[ir.Tool | ir.ServerTool, ...]) -> Any:
    custom = {tool.name for tool in tools if isinstance(tool, ir.Tool) and tool.custom}

    def named(name: str) -> dict[str, Any]:
        kind = "custom" if name in custom else "function"
        return {"type": kind, kind: {"name": name}}

    if choice.mode == "tool":
        return named(choice.name or "")
    mode = "required" if choice.mode == "any" else choice.mode
    if choice.allowed:
        allowed = {"mode": mode, "tools": [named(name) for name in choice.allowed]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return mode


def _sampling(request: ir.Request, target: ir.Target, dropped: list[str]) -> dict[str, Any]:
    own = request.dialect == NAME
    fixed = not own and OPENAI_REASONING.match(target.native) is not None
    out = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "seed": request.seed,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
        "logit_bias": request.logit_bias,
        "stop": list(request.stop) or None,
    }
    if fixed:  # OpenAI's reasoning models answer 400 to any temperature but 1
        for name in ("temperature", "top_p"):
            if out[name] not in (None, 1):
                out[name] = None
                dropped.append(name)
    if request.top_k is not None and not own:  # no member of OpenAI's; strict servers refuse unknown ones
        out["top_k"] = None
        dropped.append("top_k")
    return _said(out)


def _output(request: ir.Request) -> dict[str, Any]:
    return _said(
        {
            "n": request.n,
            "response_format": _response_format(request.response_format),
            "verbosity": request.verbosity,
            "modalities": list(request.modalities) or None,
            "audio": request.audio,
            "prediction": request.prediction,
        }
    )


def _response_format(form: ir.ResponseFormat | None) -> dict[str, Any] | None:
    if form is None:
        return None
    if form.kind != "json_schema":
        return {"type": form.kind}
    schema = {
        "name": form.name or "answer",  # required here, unknown to Anthropic
        "schema": form.schema,
        "strict": form.strict,
        "description": form.description,
    }
    return {"type": "json_schema", "json_schema": _said(schema)}


def _reasoning(request: ir.Request, target: ir.Target, dropped: list[str]) -> dict[str, Any]:
    """Every provider has its own member; a model that does not reason answers 400 to each of them. So another dialect's
    wish goes to families known to take it, this dialect's own wish goes as it was."""
    asked, native = request.reasoning, target.native
    if asked is None:
        return {}
    own = request.dialect == NAME
    at = "thinking" if request.dialect == "anthropic" else "reasoning"
    if asked.summary is not None and "openrouter" not in target.provider:
        dropped.append(f"{at}.summary")
    if "openrouter" in target.provider:
        said = {
            "effort": asked.effort,
            "max_tokens": None if asked.effort else asked.budget,
            "enabled": None if asked.effort or asked.budget else asked.enabled,
            "summary": asked.summary,
        }
        return {"reasoning": _said(said)}
    if TAKES_EFFORT.match(native) or (own and asked.effort):
        dropped += () if own else unmet(asked, request.dialect)
        said_something = asked.effort or asked.budget is not None or asked.enabled is not None
        return {"reasoning_effort": _effort(asked, own=own)} if said_something else {}
    if TAKES_THINKING.match(native):
        budget = {"budget_tokens": asked.budget} if own and asked.budget is not None else {}
        if asked.budget is not None and not own:
            dropped.append(f"{at}.budget_tokens")
        return {"thinking": {"type": "disabled" if asked.enabled is False else "enabled", **budget}}
    if TAKES_ENABLE_THINKING.match(native) and own and asked.enabled is not None:
        return {"enable_thinking": asked.enabled}
    if asked.enabled is not False:
        dropped.append(at)
    return {}


def unmet(asked: ir.Reasoning, dialect: str) -> Iterator[str]:
    """What of another dialect's wish no effort in OpenAI's words says: an exact budget, not to think at all, more than
    the most."""
    head = "thinking" if dialect == "anthropic" else "reasoning"
    if asked.effort is None and asked.budget is not None:
        yield f"{head}.budget_tokens" if dialect == "anthropic" else f"{head}.max_tokens"
    if asked.effort is None and asked.enabled is False:
        yield head
    if asked.effort == "max":
        yield "output_config.effort" if dialect == "anthropic" else "reasoning_effort"


def _effort(asked: ir.Reasoning, *, own: bool) -> str:
    if asked.effort:
        return "high" if asked.effort == "max" and not own else asked.effort
    if asked.enabled is False:
        return "low"  # "none" and "minimal" are known to some of these models only
    if asked.budget is None:
        return "medium"
    return next(effort for least, effort in _EFFORT_OF_BUDGET if asked.budget >= least)


def _account(request: ir.Request, dropped: list[str]) -> dict[str, Any]:
    tier = request.service_tier
    if request.dialect == "anthropic" and tier is not None:
        tier = _TIERS.get(tier)
        if tier is None:
            dropped.append("service_tier")
    metadata = request.metadata
    if metadata is not None and request.dialect == "anthropic":  # its user id is `user` here
        metadata = None
        dropped.extend(f"metadata.{name}" for name in request.metadata or () if name != "user_id")
    return _said(
        {
            "service_tier": tier,
            "user": request.user,
            "metadata": metadata,
            "prompt_cache_key": request.cache_key,
            "store": request.store,
        }
    )


def _streaming(request: ir.Request, target: ir.Target) -> dict[str, Any]:
    cap = request.max_tokens
    if cap is not None and target.max_output is not None:
        cap = min(cap, target.max_output)  # no more can come, and OpenAI answers 400 to a larger number
    limit = "max_completion_tokens" if OPENAI_REASONING.match(target.native) else "max_tokens"
    out: dict[str, Any] = {} if cap is None else {limit: cap}
    if request.stream:
        out["stream"] = True
        if takes_stream_options(target.provider):
            out["stream_options"] = {"include_usage": True}
    return out


def _add_extra(body: dict[str, Any], request: ir.Request, dropped: list[str]) -> None:
    """Members that the IR has no field for: given back to this dialect, else kept where the families share them."""
    for name, value in request.extra.items():
        if request.dialect == NAME and "." in name:
            if not put_back(body, name, value):
                dropped.append(name)
        elif request.dialect == NAME or (request.dialect == "openai-responses" and name in _SAME_IN_RESPONSES):
            written = body.get(name)
            body[name] = {**value, **written} if isinstance(value, dict) and isinstance(written, dict) else value
        else:
            dropped.append(name)


def _without_openais_own(body: dict[str, Any], target: ir.Target, dropped: list[str]) -> None:
    """Another dialect's wishes that only OpenAI grants here. It takes metadata for stored answers alone."""
    known = OPENAI.match(target.native) is not None
    for name, at in _OPENAI_ONLY.items():
        if name not in body or (known and (name != "metadata" or body.get("store") is True)):
            continue
        if (name, body.pop(name)) != ("store", False):  # nobody else stores unasked
            dropped.append(at)


def _said(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
