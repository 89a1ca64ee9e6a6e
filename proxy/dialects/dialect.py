"""The record by which a wire format joins the registry, and the protocols its stream classes keep.

One module holds all that is known of one wire format; there is no base class for them to share. A provider that speaks
a known dialect is a block in routes.toml, not code. An `Upstream` is spoken by providers alone; a `Dialect` by clients
as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field

from proxy import ir
from proxy.errors import GatewayError
from proxy.record import frozen, record
from proxy.wire.likeness import Own
from proxy.wire.mould import Mould
from proxy.wire.sse import Frame


@record
class Voice:
    """What an encoder of answers must know of the request that it answers."""

    request_id: str
    model: str  # for dialects whose answers must name one and the upstream named none
    created: int  # seconds since the epoch
    include_usage: bool = False  # openai-chat: the client asked for the usage chunk
    asked: Mapping[str, Any] = field(factory=dict, repr=False)  # the request, for dialects that repeat members of it


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

    def cast(self, event: ir.TextDelta) -> tuple[bytes, bytes] | None:
        """What stands before and behind the text, a JSON string's inside, where `feed` writes such an event; None where
        no two of them are written alike. Holds until `feed` is called again."""

    def said(self, chars: int) -> None:
        """So many characters more of such text were written by the cast."""


class Tap(Protocol):
    """Looks at a copy of the frames of a passthrough."""

    usage: ir.Usage | None
    stop: ir.StopReason | None
    model: str | None
    error: ir.Failure | None
    produced: bool  # content of any kind was seen

    @property
    def plain(self) -> bool:
        """Whether nothing that was seen makes a difference to how a later frame is judged."""

    def look(self, frame: Frame) -> ir.Sight:
        """Raises UpstreamBroken where the frame cannot be this dialect's (not JSON, no known shape)."""


@frozen
class Reading:
    """What a provider's error body says. `own` is True where it is this dialect's error JSON, as some provider writes
    it, and may reach a client as it is; the words of any other are told in our form. `retry_after` in seconds, where
    the body and not a header tells it."""

    own: bool
    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None
    retry_after: float | None = None


def no_mould(raw: bytes) -> Mould | None:
    """For dialects whose frames of text are never alike."""
    return None


def no_preamble(raw: bytes) -> bytes | None:
    """For dialects no two of whose streams have frames in common."""
    return None


def no_usage(rest: bytes) -> ir.Usage | None:
    """For dialects whose usage comes with other news."""
    return None


def nowhere(raw: bytes) -> None:
    """For dialects of which nobody says where something stands that is a stream's own."""


@frozen
class Words:
    """What a dialect's streams have in common, so that one can be told as another was.

    `own` is what no two of them have in common. `usage_in` is the usage that a decoder knows behind an event of JSON
    that tells some, by what it knew before; nothing else that it knows may hang on how large a number is.
    """

    own: Own
    usage_in: Callable[[Mapping[str, Any], ir.Usage | None], ir.Usage | None]


# Of an answer that is one text: what others may have in common with it, its id, the text. Left out are the time and the
# tokens that are told of all.
Span = tuple[int, int]  # where something begins, and where it ends
Parted = tuple[Mapping[str, Any], str, str]
Mend = Callable[[Any], Any]  # a JSON answer -> what leaves instead; None: it leaves as it came


@frozen
class Operation:
    """What clients and providers of a dialect do besides conversing. Its bytes only ever pass: nothing is translated.

    `framed`: its streams are made of the dialect's own frames, which the tap reads; other streams flow unread.
    `opaque`: the answer may be anything, sound or text, and is judged only where it is JSON.
    """

    read_shape: Callable[[Mapping[str, Any]], ir.Shape]
    check_answer: Callable[[Any], ir.Usage | None]  # of a JSON answer; raises UpstreamBroken
    framed: bool = False
    opaque: bool = False
    mend_answer: Callable[[Mapping[str, Any]], Mend | None] | None = None  # by what the request asked for


@frozen
class Codec:
    """What puts conversations into a provider's words, and its answers into the IR."""

    encode_request: Callable[[ir.Request, ir.Target], ir.Encoded]
    decode_answer: Callable[[Mapping[str, Any]], ir.Answer]
    stream_decoder: Callable[[], StreamDecoder]


@frozen
class ClientCodec(Codec):
    """And what reads clients, and answers them."""

    decode_request: Callable[[Mapping[str, Any]], ir.Request]
    encode_answer: Callable[[ir.Answer, Voice], Mapping[str, Any]]
    stream_encoder: Callable[[Voice], StreamEncoder]


@frozen
class Upstream:
    """What the gateway asks of a wire format that providers speak: requests go out in it, answers come back.

    `speaks` names the dialect whose bytes pass through unchanged to and from this one (usually itself).
    """

    name: str
    speaks: str
    framing: Literal["sse", "ndjson"]
    path: Callable[[str, str, bool], str]  # "chat" or an operation, native model, stream -> path behind base_url
    credential: Callable[[str], tuple[tuple[str, str], ...]]  # key -> headers
    fixed_headers: tuple[tuple[str, str], ...]  # sent unless the client sent its own
    codec: Callable[[], Codec]  # whoever translates asks for it each time, and has it read by the first
    check_answer: Callable[[Any], ir.Usage | None]  # of a plain answer; raises UpstreamBroken
    read_error: Callable[[Any], Reading]  # parsed JSON of an error body, or None
    # Whether behind that base URL stands the model's name, instead of a path and the name in the body.
    runs_at: Callable[[str], bool] | None = field(default=None, kw_only=True)
    parted_answer: Callable[[Mapping[str, Any]], Parted | None] | None = field(default=None, kw_only=True)
    text_mould: Callable[[bytes], Mould | None] = field(
        default=no_mould, kw_only=True
    )  # of a raw frame that is a piece of text and nothing else


@frozen
class Dialect(Upstream):
    """A wire format that clients speak too: it can be read and answered in, and its bytes may pass as they are.

    `probes`: after the commit only frames that hold one of these byte strings are parsed by the tap.
    `terminator`: bytes that end a good stream; added where a provider forgot them after a finish reason.
    `farewell`: data of a frame that some providers send behind the terminal event; it passes, and is never added.
    """

    codec: Callable[[], ClientCodec]
    read_shape: Callable[[Mapping[str, Any]], ir.Shape]
    tap: Callable[[], Tap]
    write_error: Callable[[GatewayError, int, str], dict[str, Any]]  # error, status, request id -> body
    probes: tuple[bytes, ...]
    terminator: bytes
    farewell: bytes = b""
    types: Mapping[str, tuple[type, ...]] = field(factory=dict)  # of members that no provider takes otherwise
    asks_usage: Callable[[str], bool] | None = None  # provider's name -> whether a stream is asked for its usage chunk
    mend_request: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] | None = (
        None  # None: send the bytes as they are
    )
    # For near-compatible providers: raw frame or body, and the id of the request, for what has to be made up.
    mend_frame: Callable[[bytes, str], bytes] | None = None
    mend_answer: Callable[[bytes, str], bytes] | None = None
    reads: frozenset[str] = field(factory=frozenset)  # top-level members that the gateway itself reads
    repeats: bool = False  # whether answers say again what was asked: see `Voice.asked`
    # Usage as whole answers have it; None where what they hold of their own is more than `Parted` leaves out.
    write_usage: Callable[[ir.Usage], Mapping[str, Any] | None] | None = None
    # Whose turns are the system's; None where turns do not stand in `messages`.
    system_roles: tuple[str, ...] | None = None
    # Of a raw frame, what all frames of its stream begin with and the tap does not read; None where nothing tells it.
    preamble: Callable[[bytes], bytes | None] = no_preamble
    # Of a raw frame behind its preamble, the usage, if it tells that and nothing else, as nearly all servers write it.
    usage_alone: Callable[[bytes], ir.Usage | None] = no_usage
    # Where in a preamble a stream's id stands, and its time in digits: nothing of either is read.
    own_at: Callable[[bytes], tuple[Span, Span] | None] = nowhere
    # Where in what `usage_alone` reads three counts stand that are all that differs: of what was asked, of what was
    # written, and their sum.
    counts_at: Callable[[bytes], tuple[Span, Span, Span] | None] = nowhere
    words: Words | None = None  # None: its streams are read and written each time
    operations: Mapping[str, Operation] = field(factory=dict)  # by name, which is its path's tail: "audio/speech"
