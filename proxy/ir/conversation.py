"""What is asked and answered: requests, answers whole and, by `ir.events`, as they come.

Tuples, not lists: a request is shared by all candidates of a chain, and no encoder may change it for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field

from proxy.ir.events import *  # noqa: F403
from proxy.ir.parts import *  # noqa: F403
from proxy.ir.parts import Cache, Message, Part
from proxy.ir.told import Json, StopReason, Usage
from proxy.record import record

# -- the request -------------------------------------------------------------------------------------------------


@record
class Tool:
    """A function of the client's. `schema` is JSON Schema; a custom tool has none, but perhaps a grammar: `format`."""

    name: str
    description: str | None = None
    schema: Mapping[str, Json] | None = None
    strict: bool | None = None
    custom: bool = False
    format: Mapping[str, Json] | None = None
    cache: Cache | None = None


@record
class ServerTool:
    """A tool that the provider runs. `kind` is neutral where more than one dialect has it: web_search, web_fetch,
    code_execution, file_search, image_generation, mcp, computer, bash, text_editor, memory, tool_search; else the
    type's own name."""

    kind: str
    raw: Mapping[str, Json]
    dialect: str


@record
class ToolChoice:
    """auto, none, any (at least one call), or one tool by `name`; `allowed` narrows the set (Responses)."""

    mode: Literal["auto", "none", "any", "tool"]
    name: str | None = None
    allowed: tuple[str, ...] = ()


@record
class ResponseFormat:
    kind: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Mapping[str, Json] | None = None
    strict: bool | None = None
    description: str | None = None


@record
class Reasoning:
    """How hard to think. `effort` in OpenAI's words; `budget` in tokens (Anthropic, Gemini); `enabled` False: do not.

    `adaptive` is Anthropic's "as much as it needs"; `summary` asks for a summary (Responses) or for thoughts to be
    shown (Gemini's include_thoughts).
    """

    effort: str | None = None
    budget: int | None = None
    enabled: bool | None = None
    adaptive: bool = False
    summary: str | None = None


@record
class Request:
    """A chat request as it was meant. None is "not said": an encoder then leaves the field out.

    `extra` holds members that no field here knows, as the client's `dialect` wrote them: by name those at the top, by
    path those further down ("tools[0].defer_loading").
    """

    model: str
    messages: tuple[Message, ...]
    dialect: str
    tools: tuple[Tool | ServerTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    bound: str = ""  # the member that `max_tokens` stands in, in a dialect that has more than one
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Mapping[str, float] | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    modalities: tuple[str, ...] = ()
    audio: Mapping[str, Json] | None = None  # voice and format of spoken output
    prediction: Mapping[str, Json] | None = None
    stream: bool = False
    include_usage: bool = False
    service_tier: str | None = None
    user: str | None = None
    metadata: Mapping[str, Json] | None = None
    cache_key: str | None = None
    store: bool | None = None
    extra: Mapping[str, Json] = field(factory=dict)


@record
class Encoded:
    """A request in the target's words. `dropped` names, as paths in the client's words, what it could not say."""

    body: Mapping[str, Json]
    dropped: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@record
class Target:
    """What an encoder must know of where the request goes."""

    native: str
    provider: str = ""
    max_output: int | None = None  # the model's cap; Anthropic wants a max_tokens even where the client sent none


# -- the answer, whole -------------------------------------------------------------------------------------------


@record
class Choice:
    parts: tuple[Part, ...]
    stop: StopReason
    stop_sequence: str | None = None
    logprobs: Json = None
    native_stop: str | None = None  # the provider's own word


@record
class Answer:
    id: str
    model: str  # as the upstream said it
    choices: tuple[Choice, ...]
    usage: Usage = field(factory=Usage)
    created: int | None = None  # seconds since the epoch
    service_tier: str | None = None  # in OpenAI's words: default, flex, priority
    fingerprint: str | None = None
    extra: Mapping[str, Json] = field(factory=dict)
