"""What turns are made of: texts, media, thinking, calls and their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field

from proxy.ir.told import Json
from proxy.record import record

Role = Literal["system", "developer", "user", "assistant", "tool"]


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
