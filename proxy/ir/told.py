"""What an answer tells and a request asks for whether or not anybody translates it."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from attrs import field

from proxy.record import record

Json = Any  # JSON on its way in or out
CacheLife = Literal["5m", "1h"]
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


# -- what a stream says of itself --------------------------------------------------------------------------------


@record
class Failure:
    """The upstream says in its stream that it failed; the relay makes a `GatewayError` of it."""

    kind: str  # a key of dialects.failures: "overloaded", "rate_limit", …
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None  # seconds


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
