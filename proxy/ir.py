"""The neutral chat model: what a request, an answer and a stream mean, whoever wrote them.

Translation goes dialect -> IR -> dialect; a passthrough never builds it. Everything that a dialect can say and
another may have to repeat has its own field here. What only one dialect can say travels as `Opaque` and is either
given back to that same dialect or named in `Encoded.dropped`: nothing is lost in silence.

Tuples, not lists: a request is shared by all candidates of a chain, and no encoder may change it for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

from attrs import field

from proxy.record import record

Json = Any  # JSON on its way in or out
CacheLife = Literal["5m", "1h"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
StopReason = Literal["end", "length", "stop_sequence", "tool_call", "filter", "refusal", "pause", "error", "unknown"]


# -- usage -------------------------------------------------------------------------------------------------------


@record
class Usage:
    """Tokens of one answer in disjoint classes; None is unknown, which is not zero.

    Billed input is `input + cache_read + cache_write_5m + cache_write_1h`; `output` is all output. `reasoning` and
    `audio_output` are parts of `output`, `audio_input` of `input`. OpenAI counts cached tokens within its prompt
    total, Anthropic apart from it: each dialect's adapter takes them apart or puts them together again.
    """

    input: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    output: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None

    def in_part(self) -> bool:
        """Whether some of it is of a class with a price of its own."""
        return bool(
            self.cache_read or self.cache_write_5m or self.cache_write_1h or self.audio_input or self.audio_output
        )

    @property
    def input_total(self) -> int | None:
        """All that was read, cached or not: OpenAI's `prompt_tokens`."""
        if self.input is None:
            return None
        return self.input + (self.cache_read or 0) + (self.cache_write_5m or 0) + (self.cache_write_1h or 0)

    def merged(self, later: Usage) -> Usage:
        """What two reports of one stream say together: a later class wins unless it is unknown.

        A later all-zero report never wipes out an earlier one: some providers end a stream with such a chunk.
        """
        if not (later.input_total or later.output) and (self.input_total or self.output):
            return self
        if later is self:
            return self
        return Usage(
            self.input if later.input is None else later.input,
            self.cache_read if later.cache_read is None else later.cache_read,
            self.cache_write_5m if later.cache_write_5m is None else later.cache_write_5m,
            self.cache_write_1h if later.cache_write_1h is None else later.cache_write_1h,
            self.output if later.output is None else later.output,
            self.reasoning if later.reasoning is None else later.reasoning,
            self.audio_input if later.audio_input is None else later.audio_input,
            self.audio_output if later.audio_output is None else later.audio_output,
        )


# -- parts of a message ------------------------------------------------------------------------------------------


@record
class Cache:
    """A prompt-cache marker behind a part. `ttl` is "5m", "1h" or None for the provider's default."""

    ttl: str | None = None


@record
class Blob:
    """Bytes inside the request, base64 as it came."""

    data: str = field(repr=False)
    media_type: str | None = None


@record
class Url:
    url: str
    media_type: str | None = None


@record
class FileId:
    """A file that the provider stores; means nothing to another provider."""

    id: str


@record
class PlainText:
    """A document given as text."""

    text: str = field(repr=False)
    media_type: str = "text/plain"


MediaSource = Blob | Url | FileId | PlainText


@record
class Citation:
    """Where a piece of text comes from. `raw` is the dialect's own object, given back to that dialect as it was."""

    url: str | None = None
    title: str | None = None
    cited_text: str | None = None
    start: int | None = None  # characters of the answer's text that it backs; None where the dialect does not say
    end: int | None = None
    raw: Mapping[str, Json] = field(factory=dict)
    dialect: str = ""


@record
class Text:
    text: str
    citations: tuple[Citation, ...] = ()
    cache: Cache | None = None
    signature: str | None = None  # Gemini signs text parts too


@record
class Image:
    source: MediaSource
    detail: str | None = None  # OpenAI's low, high, auto
    cache: Cache | None = None


@record
class File:
    """A document: PDF, text, or an id of one."""

    source: MediaSource
    name: str | None = None  # file name or title
    context: str | None = None  # Anthropic's words about the document
    citations: bool | None = None  # Anthropic: may be cited
    cache: Cache | None = None


@record
class Audio:
    """`source` for audio given or made; `id` for audio of an earlier answer."""

    source: MediaSource | None = None
    format: str | None = None  # wav, mp3, pcm16, …
    transcript: str | None = None
    id: str | None = None
    expires_at: int | None = None
    cache: Cache | None = None


@record
class Video:
    source: MediaSource
    cache: Cache | None = None


@record
class Thinking:
    """Reasoning that the model showed, and the proof of it that its provider wants back.

    `text` full reasoning, `summary` pieces of a summary (Responses), `signature` Anthropic's and Gemini's proof,
    `encrypted` Responses' `encrypted_content`, `redacted` Anthropic's `redacted_thinking` data. `dialect` minted
    them: to another provider none of the last three may go.
    """

    text: str = ""
    summary: tuple[str, ...] = ()
    signature: str | None = field(default=None, repr=False)
    encrypted: str | None = field(default=None, repr=False)
    redacted: str | None = field(default=None, repr=False)
    id: str | None = None
    dialect: str = ""
    raw: Mapping[str, Json] | None = field(default=None, repr=False)  # e.g. OpenRouter's reasoning_details


@record
class ToolCall:
    """`arguments` is the text the model wrote: JSON for a function (perhaps broken), anything for a custom tool."""

    id: str
    name: str
    arguments: str = ""
    custom: bool = False  # a freeform tool of Responses and Chat: no schema, plain text in
    item_id: str | None = None  # Responses numbers the item apart from the call
    signature: str | None = field(default=None, repr=False)  # Gemini's thoughtSignature
    cache: Cache | None = None


@record
class ToolResult:
    call_id: str
    content: tuple[Part, ...] = ()
    is_error: bool | None = None
    name: str | None = None  # Gemini and Ollama answer by name
    custom: bool = False
    cache: Cache | None = None


@record
class Refusal:
    text: str


@record
class ServerCall:
    """A tool that the provider runs itself: web search, code execution, MCP. `raw` is the dialect's block."""

    id: str
    name: str
    arguments: str = ""
    raw: Mapping[str, Json] = field(factory=dict)
    dialect: str = ""


@record
class ServerResult:
    call_id: str
    name: str
    raw: Mapping[str, Json] = field(factory=dict)
    dialect: str = ""


@record
class Opaque:
    """A block that no other dialect can say. `kind` is its type name, for `dropped`."""

    kind: str
    raw: Mapping[str, Json] = field(factory=dict)
    dialect: str = ""


Part = (
    Text
    | Image
    | File
    | Audio
    | Video
    | Thinking
    | ToolCall
    | ToolResult
    | Refusal
    | ServerCall
    | ServerResult
    | Opaque
)


@record
class Message:
    """One turn. Tool results stand in a turn of role "tool", one or more to a turn, in the order they came.

    `places`: where the client wrote each part, for dialects whose turns are put together of several items.
    """

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    id: str | None = None
    phase: str | None = None
    places: tuple[str, ...] = field(default=(), eq=False)


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


# -- the answer, as it comes -------------------------------------------------------------------------------------
# A decoder numbers parts densely per choice in order of first appearance; `part` is that number.


@record
class Start:
    id: str
    model: str
    created: int | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    fingerprint: str | None = None


@record
class PartStart:
    """`shell` is the part with what is known at its start: empty text, a call's id and name, a whole opaque block."""

    part: int
    shell: Part
    choice: int = 0


@record
class TextDelta:
    part: int
    text: str
    choice: int = 0
    logprobs: Json = None


@record
class ThinkingDelta:
    """`summary` is the index of the summary piece it belongs to; None for reasoning itself."""

    part: int
    text: str
    choice: int = 0
    summary: int | None = None


@record
class SignatureDelta:
    """Proof of the thinking part: `signature`, or `encrypted` where Responses sends that."""

    part: int
    signature: str | None = field(default=None, repr=False)
    choice: int = 0
    encrypted: str | None = field(default=None, repr=False)


@record
class ArgumentsDelta:
    part: int
    text: str
    choice: int = 0


@record
class CitationDelta:
    part: int
    citation: Citation
    choice: int = 0


@record
class RefusalDelta:
    part: int
    text: str
    choice: int = 0


@record
class AudioDelta:
    part: int
    data: str = field(default="", repr=False)
    transcript: str = ""
    choice: int = 0


@record
class PartEnd:
    """`final` is the whole part where the dialect sends it at the end (server tools, images)."""

    part: int
    choice: int = 0
    final: Part | None = None


@record
class Finish:
    stop: StopReason
    stop_sequence: str | None = None
    choice: int = 0
    native_stop: str | None = None


@record
class UsageReport:
    usage: Usage


@record
class Ping:
    """Alive, nothing to say."""


@record
class Failure:
    """The upstream says in its stream that it failed; the relay makes a `GatewayError` of it."""

    kind: str  # a key of dialects.failures: "overloaded", "rate_limit", …
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None  # seconds


@record
class End:
    """The dialect's own terminal event was seen."""


StreamEvent = (
    Start | PartStart | TextDelta | ThinkingDelta | SignatureDelta | ArgumentsDelta | CitationDelta | RefusalDelta
    | AudioDelta | PartEnd | Finish | UsageReport | Ping | Failure | End
)  # fmt: skip


# -- what a frame is, to the relay -------------------------------------------------------------------------------


class Sight(Enum):
    """What a frame means for the commit point."""

    LIFECYCLE = "lifecycle"  # role delta, message_start, ping, comment, response.created: held before the commit
    USAGE = "usage"  # a usage-only chunk
    CONTENT = "content"  # text, reasoning, tool, refusal, unknown type: the commit
    FINISH = "finish"  # a finish reason (may stand beside content)
    ERROR = "error"
    END = "end"  # the terminal event


# -- what routing may know of a request, whatever its dialect ----------------------------------------------------


@record
class Shape:
    """Read from a surface's body without building the IR.

    `needs` are capabilities: tools, parallel_tools, json, vision, audio, files, thinking, images. `chars` is all text,
    `media` the count of images and files: both for the token estimate. `turns` are the user's texts, oldest first.
    `cache_write` is the longest life that a cache marker asks for; None without markers.
    """

    needs: frozenset[str]
    chars: int
    media: int = 0
    max_tokens: int | None = None
    n: int = 1
    turns: tuple[str, ...] = field(default=(), repr=False)
    system: str = field(default="", repr=False)
    cache_write: CacheLife | None = None
