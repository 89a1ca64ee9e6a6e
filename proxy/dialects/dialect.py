"""The record by which a wire format joins the registry, and the protocols its stream classes keep.

One module holds all that is known of one wire format; there is no base class. A provider that speaks a known dialect
is a block in routes.toml, not code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

from proxy import ir
from proxy.errors import GatewayError
from proxy.wire.sse import Frame

Endpoint = Literal["chat", "embeddings", "images", "audio", "moderations", "completions", "rerank"]


@frozen
class Voice:
    """What an encoder of answers must know of the request that it answers."""

    request_id: str
    model: str  # for dialects whose answers must name one and the upstream named none
    created: int  # seconds since the epoch
    include_usage: bool = False  # openai-chat: the client asked for the usage chunk
    asked: Mapping[str, Any] = field(factory=dict, repr=False)  # openai-responses repeats members of the request


class StreamDecoder(Protocol):
    """Frames of one answer to IR events. Lives as long as that answer."""

    def feed(self, frame: Frame) -> list[ir.StreamEvent]:
        """Raises UpstreamBroken on a frame that is not this dialect's."""

    def close(self) -> list[ir.StreamEvent]:
        """The body has ended. Parts left open are ended; no End is made up."""


class StreamEncoder(Protocol):
    """IR events to bytes of the client's dialect. Bytes of several events may be joined."""

    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes: ...

    def fail(self, error: GatewayError) -> bytes:
        """The in-band error, and what must stand behind it so that the stream ends as its protocol wants."""


class Tap(Protocol):
    """Looks at a copy of the frames of a passthrough."""

    usage: ir.Usage | None
    stop: ir.StopReason | None
    model: str | None
    error: ir.Failure | None
    produced: bool  # content of any kind was seen

    def look(self, frame: Frame) -> ir.Sight:
        """Raises UpstreamBroken where the frame cannot be this dialect's (not JSON, no known shape)."""


@frozen
class Reading:
    """What a provider's error body says. `own` is True where it is this dialect's error JSON."""

    own: bool
    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None


@frozen
class Dialect:
    """Everything the gateway asks of a wire format.

    `speaks` names the dialect whose bytes pass through unchanged to and from this one (usually itself).
    `probes`: after the commit only frames that hold one of these byte strings are parsed by the tap.
    `terminator`: bytes that end a good stream; added where a provider forgot them after a finish reason.
    """

    name: str
    speaks: str
    framing: Literal["sse", "ndjson"]
    path: Callable[[str, str, bool], str]  # endpoint, native model, stream -> path behind base_url
    credential: Callable[[str], tuple[tuple[str, str], ...]]  # key -> headers
    fixed_headers: tuple[tuple[str, str], ...]  # sent unless the client sent its own
    read_shape: Callable[[Mapping[str, Any]], ir.Shape]
    decode_request: Callable[[Mapping[str, Any]], ir.Request]
    encode_request: Callable[[ir.Request, ir.Target], ir.Encoded]
    decode_answer: Callable[[Mapping[str, Any]], ir.Answer]
    encode_answer: Callable[[ir.Answer, Voice], Mapping[str, Any]]
    check_answer: Callable[[Any], ir.Usage | None]  # of a plain answer passed through; raises UpstreamBroken
    stream_decoder: Callable[[], StreamDecoder]
    stream_encoder: Callable[[Voice], StreamEncoder]
    tap: Callable[[], Tap]
    read_error: Callable[[Any], Reading]  # parsed JSON of an error body, or None
    write_error: Callable[[GatewayError, int, str], dict[str, Any]]  # error, status, request id -> body
    probes: tuple[bytes, ...]
    terminator: bytes
    asks_usage: Callable[[str], bool] | None = None  # provider's name -> whether a stream is asked for its usage chunk
    mend_request: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | None = (
        None  # None: send the bytes as they are
    )
    mend_frame: Callable[[bytes], bytes] | None = None  # raw frame -> raw frame, for near-compatible providers
    mend_answer: Callable[[bytes], bytes] | None = None
    reads: frozenset[str] = field(factory=frozenset)  # top-level members that the gateway itself reads
