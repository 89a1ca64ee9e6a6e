"""One request on its way through the gateway: what is known of it so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field

from proxy import ir
from proxy.accounts.permit import Permit
from proxy.accounts.vault import NOBODY, NONE
from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Dialect, Operation, Voice
from proxy.errors import GatewayError
from proxy.record import define, frozen
from proxy.routing.facts import Facts
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan
from proxy.secret import MASK, Scrubber, Secret
from proxy.server.clients.downstream import Downstream, answer_to
from proxy.server.clients.inbound import Request
from proxy.server.clients.visitor import Visitor
from proxy.server.ledger import Attempt, Decision, GonePhase, Lease
from proxy.server.snapshot import Snapshot
from proxy.wire import multipart
from proxy.wire.splice import Member

if TYPE_CHECKING:
    from proxy.server.express.begun import Begun
    from proxy.server.express.course import Course
    from proxy.server.express.track import Track

NOTHING: Mapping[str, Any] = {}


@frozen(eq=False)
class Surface:
    """A path that we offer. `default_model` is what an absent `model` means there; None: it has to be named.

    `endpoint` is what a provider has to serve, `operation` what it is asked for: "chat", or one of the dialect's
    operations. `form`: multipart/form-data is taken besides JSON.
    """

    name: str
    dialect: str
    endpoint: str = "chat"
    operation: str = "chat"
    form: bool = False
    default_model: str | None = None


@define(eq=False)
class Call:
    """Filled as the request goes. `body` are the client's bytes, kept for every candidate."""

    surface: Surface
    request: Request
    visitor: Visitor  # who sent it
    request_id: str
    snapshot: Snapshot
    decision: Decision
    started: float = field(factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic  # of limits
    now: Callable[[], float] = time.time
    lease: Callable[[Lease], None] = field(default=lambda lease: None, repr=False)  # notes what is reserved
    task: asyncio.Task[Any] | None = field(default=None, repr=False)  # that serves it
    dialect: Dialect = field(init=False)  # the client's
    operation: Operation | None = field(init=False)  # what it asks for; None is a conversation
    prefix: str = field(init=False)  # of our headers
    answer: Downstream = field(init=False, repr=False)
    permit: Permit | None = None
    guessed: int = 0  # nano-USD of attempts whose cost nobody told
    output_reserved: int = 0  # tokens of output that the reservation of the attempt under way covers
    body: bytes = field(default=b"", repr=False)
    document: Mapping[str, Any] = field(default=NOTHING, repr=False)
    members: list[Member] | None = field(default=None, repr=False)  # of `body`, where they had to be looked for
    once: bool = False  # each member that we read is known to stand once, under its plain name
    form: list[multipart.Field] | None = field(default=None, repr=False)  # the parts of `body` where it is a form
    lost: tuple[str, ...] = ()  # of a body that had to be restated; see `server.restated`
    stream: bool = False  # a stream is wanted
    framed: bool = False  # and its frames are read on their way
    wants_usage: bool = False  # the client itself asked for the usage chunk of a stream
    facts: Facts | None = None
    plan: Plan | None = None
    byok: Mapping[str, Secret] = field(default=NONE, repr=False)  # brought by the caller, or stored by its project
    stored: frozenset[str] = NOBODY  # of these, the providers whose key its project stored
    locked: frozenset[str] = NOBODY  # providers whose key its project stored, and that does not open
    course: Course | None = field(default=None, repr=False)  # of its stream on the short way
    begun: Begun | None = None  # a first attempt that goes on
    track: Track | None = field(default=None, repr=False)  # that it went by
    warm: bool = False  # the conversation's cache was, where the track leads
    phase: GonePhase = "body"
    held: int = 0  # bytes of the body, counted against the memory for all bodies
    inside: bool = False  # has one of the places for requests under way
    upstream_wait: float = 0.0  # seconds spent waiting for providers until the commit: the rest of it is overhead
    first_byte_s: float | None = None  # from the start to the commit
    recorded: bool = False  # and settled, by its ride; see `server.express`
    delivered: bool = False  # all of the answer has left: a client that hangs up now had it
    cut: GatewayError | None = None  # why the gateway itself ends the answer, where it does
    late_failure: GatewayError | None = None  # after the commit: told in-band, counted against the candidate
    pictures: Mapping[str, ir.Blob] | None = field(default=None, repr=False)  # fetched, by URL; none once that failed
    bodies: dict[tuple[str | None, bool], bytes] = field(factory=dict, repr=False)  # spliced requests by native name

    def __attrs_post_init__(self) -> None:
        surface, server = self.surface, self.snapshot.table.server
        self.dialect, self.prefix = DIALECTS[surface.dialect], server.header_prefix
        self.operation = self.dialect.operations.get(surface.operation)
        self.answer = answer_to(self.request, lean=server.exchange == "lean")

    def asks_stream(self, stream: bool) -> None:
        self.stream = self.decision.stream = stream
        self.framed = stream and (self.operation is None or self.operation.framed)
        options = self.document.get("stream_options")
        self.wants_usage = isinstance(options, dict) and options.get("include_usage") is True

    def voice(self) -> Voice:
        """For encoders of answers to this client."""
        requested = self.facts.wanted[0] if self.facts else ""
        asked = self.document if self.dialect.repeats else NOTHING  # else it would be kept as long as the stream
        return Voice(self.request_id, requested, self.decision.at_ms // 1000, self.wants_usage, asked)

    def forget(self) -> None:
        """Nobody else will be asked: what the request said is not kept for as long as the answer takes."""
        self.body, self.document, self.members, self.form, self.bodies = b"", NOTHING, None, None, {}

    def told(self, error: GatewayError) -> str:
        """An error's detail as the record may have it: a library quotes what a provider sent, and that may be a key."""
        return self._scrubbed(error.detail)[:500]

    def clean(self, text: str) -> str:
        """A provider's words as a client may read them: without keys and internal hosts."""
        return self.snapshot.without_hosts(self._scrubbed(text))

    def keys(self) -> list[str]:
        """That no client may read, whatever they stand in."""
        return [*self.snapshot.keys(), *self._own_keys()]

    def _scrubbed(self, text: str) -> str:
        text = self.snapshot.scrubber(text)
        for key in self._own_keys():
            text = text.replace(key, MASK)
        return text

    def _own_keys(self) -> Iterator[str]:
        return (key.reveal() for key in self.byok.values() if len(key.reveal()) >= Scrubber.SHORTEST)

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.started) * 1000)

    def begin_attempt(self, candidate: Candidate, *, byok: bool) -> Attempt:
        decision = self.decision
        attempts = decision.attempts
        started_ms = self.elapsed_ms() if self.begun is None else self.begun.started_ms
        attempt = Attempt(
            len(attempts) + 1, candidate.model, candidate.provider, candidate.native, started_ms, byok=byok
        )
        attempts.append(attempt)
        return attempt

    def interrupt(self) -> None:
        """Ends the wait for whatever it waits for."""
        if self.task is not None:
            self.task.cancel()

    def interrupted(self) -> bool:
        """Whether a cancellation was the `interrupt`, and the client is still there to be told."""
        there = self.request.transport is not None
        return self.task is not None and not self.task.uncancel() and there

    def abandon(self) -> None:
        """Hangs up: the client does not read."""
        if self.request.transport is not None:
            self.request.transport.abort()
