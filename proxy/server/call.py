"""One request on its way through the gateway: what is known of it so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen
from multidict import CIMultiDict, CIMultiDictProxy

from proxy import ir
from proxy.accounts.permit import Permit
from proxy.dialects.dialect import Dialect, Operation, Voice
from proxy.errors import GatewayError
from proxy.routing.facts import Facts
from proxy.routing.plan import Plan
from proxy.routing.table import Project
from proxy.secret import MASK, Scrubber, Secret
from proxy.server.downstream import Downstream, answer_to
from proxy.server.inbound import Request
from proxy.server.ledger import Attempt, Decision, GonePhase, Lease
from proxy.server.snapshot import Snapshot
from proxy.wire import multipart
from proxy.wire.splice import Member


@frozen
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
    dialect: Dialect  # the client's
    request: Request
    request_id: str
    snapshot: Snapshot
    decision: Decision
    started: float = field(factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic  # of limits
    now: Callable[[], float] = time.time
    lease: Callable[[Lease], None] = field(default=lambda lease: None, repr=False)  # notes what is reserved
    guessed: int = 0  # nano-USD of attempts whose cost nobody told
    output_reserved: int = 0  # tokens of output that the reservation of the attempt under way covers
    permit: Permit | None = None
    body: bytes = field(default=b"", repr=False)
    document: Mapping[str, Any] = field(factory=dict, repr=False)
    members: list[Member] | None = field(default=None, repr=False)  # of `body`, where they had to be looked for
    once: bool = False  # each member that we read is known to stand once, under its plain name
    form: list[multipart.Field] | None = field(default=None, repr=False)  # the parts of `body` where it is a form
    lost: tuple[str, ...] = ()  # of a body that had to be restated; see `server.restated`
    facts: Facts | None = None
    plan: Plan | None = None
    byok: Mapping[str, Secret] = field(factory=dict, repr=False)  # brought by the caller, or stored by its project
    stored: frozenset[str] = frozenset()  # of these, the providers whose key its project stored
    locked: frozenset[str] = frozenset()  # providers whose key its project stored, and that does not open
    phase: GonePhase = "body"
    held: int = 0  # bytes of the body, counted against the memory for all bodies
    inside: bool = False  # has one of the places for requests under way
    upstream_wait: float = 0.0  # seconds spent waiting for providers until the commit: the rest of it is overhead
    first_byte_s: float | None = None  # from the start to the commit
    delivered: bool = False  # all of the answer has left: a client that hangs up now had it
    answer: Downstream = field(init=False, repr=False)
    cut: GatewayError | None = None  # why the gateway itself ends the answer, where it does
    late_failure: GatewayError | None = None  # after the commit: told in-band, counted against the candidate
    pictures: Mapping[str, ir.Blob] | None = field(default=None, repr=False)  # fetched, by URL; none once that failed
    bodies: dict[tuple[str | None, bool], bytes] = field(factory=dict, repr=False)  # spliced requests by native name

    @answer.default
    def _answer(self) -> Downstream:
        return answer_to(self.request, lean=self.snapshot.table.server.exchange == "lean")

    @property
    def stream(self) -> bool:
        return self.decision.stream

    @property
    def operation(self) -> Operation | None:
        """What the client asks for; None is a conversation."""
        return self.dialect.operations.get(self.surface.operation)

    @property
    def framed(self) -> bool:
        """Whether a stream is wanted whose frames are read on their way."""
        return self.stream and (self.operation is None or self.operation.framed)

    @property
    def project(self) -> Project | None:
        """The caller's, of the table that this request keeps."""
        name = self.permit.project if self.permit is not None else None
        return self.snapshot.table.projects.get(name) if name is not None else None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The client's, with what its project says where the client does not."""
        project, sent = self.project, self.request.headers
        if project is None or not project.headers:
            return sent
        more = [(name, value) for name, value in project.headers.items() if name not in sent]
        return CIMultiDictProxy(CIMultiDict([*sent.items(), *more]))

    @property
    def prefix(self) -> str:
        return self.snapshot.table.server.header_prefix

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for the usage chunk of a stream."""
        options = self.document.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def voice(self) -> Voice:
        """For encoders of answers to this client."""
        requested = self.facts.wanted[0] if self.facts else ""
        return Voice(self.request_id, requested, self.decision.at_ms // 1000, self.wants_usage, self.document)

    def forget(self) -> None:
        """Nobody else will be asked: what the request said is not kept for as long as the answer takes."""
        self.body, self.document, self.members, self.form, self.bodies = b"", {}, None, None, {}

    def told(self, error: GatewayError) -> str:
        """An error's detail as the record may have it: a library quotes what a provider sent, and that may be a key."""
        return self._scrubbed(error.detail)[:500]

    def clean(self, text: str) -> str:
        """A provider's words as a client may read them: without keys and internal hosts."""
        text = self._scrubbed(text)
        for host in self.snapshot.hosts:
            text = text.replace(host, MASK)
        return text

    def _scrubbed(self, text: str) -> str:
        text = self.snapshot.scrubber(text)
        for key in self.byok.values():
            if len(key.reveal()) >= Scrubber.SHORTEST:
                text = text.replace(key.reveal(), MASK)
        return text

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.started) * 1000)

    def begin_attempt(self, model: str, provider: str, native: str) -> Attempt:
        attempt = Attempt(
            n=len(self.decision.attempts) + 1,
            model=model,
            provider=provider,
            native=native,
            started_ms=self.elapsed_ms(),
        )
        self.decision.attempts.append(attempt)
        return attempt
