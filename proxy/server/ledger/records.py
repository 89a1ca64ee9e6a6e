"""What is recorded of a request and of each of its attempts. The request fills these as it goes and hands them over
at its end, once: after `Ledger.record` they belong to the writer thread. Prompts and answers have no place here.

Money is in nano-USD, durations are in milliseconds of a monotonic clock, `at_ms` is UTC since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from attrs import field

from proxy.ir import Usage
from proxy.record import define

GonePhase = Literal["body", "queue", "connect", "first_byte", "stream", "plain"]


class Explains(Protocol):
    """A plan, or facts, as the ledger needs them. `as_json` runs in the writer thread, so what it reads must not change
    any more."""

    def as_json(self) -> Mapping[str, Any]: ...


@define
class Attempt:
    """One try of one candidate. `started_ms` counts from the start of its request."""

    n: int
    model: str  # catalog id
    provider: str
    native: str
    started_ms: int
    duration_ms: int = 0
    ttfb_ms: int | None = None
    outcome: str = "ok"  # or an error code: "upstream_timeout", "client_closed", …
    status: int | None = None  # the upstream's; None where it never answered
    detail: str = ""  # scrubbed, at most 500 characters
    upstream_request_id: str | None = None
    usage: Usage | None = None
    cost_nanos: int | None = None
    bytes_out: int = 0
    byok: bool = False  # asked with the caller's own key, so the cost is the caller's


class Lease(NamedTuple):
    """What a request under way has reserved of its key's and its project's budgets. Should the process die, it counts
    as spent until `until_ms`."""

    request_id: str
    key_id: str
    project: str | None
    nanos: int
    until_ms: int


Leased = tuple[str, str, str | None, int, int]  # a lease, before anybody wants to know it: most end unwritten


@define
class Decision:
    """One request: what it asked for, what was decided, who answered, what it cost.

    `cost_nanos` None is unknown, never free. `charged_nanos` is what its key paid, an estimate where `estimated`.
    """

    request_id: str
    at_ms: int
    surface: str
    requested: str = ""  # the model field as sent, at most 256 characters
    client_request_id: str | None = None
    stream: bool = False
    project: str | None = None
    key_id: str | None = None
    config: str = ""  # the table's revision
    plan: Explains | None = None
    facts: Explains | Mapping[str, Any] | None = None  # small: what planning it again takes, never a prompt
    status: int = 0  # what the client got; 499 where it had left
    outcome: str = "ok"  # or an error code
    model: str | None = None  # who answered; None where nobody did
    provider: str | None = None
    native: str | None = None
    fallback_used: bool = False
    attempts: list[Attempt] = field(factory=list)
    usage: Usage | None = None
    cost_nanos: int | None = None
    charged_nanos: int = 0
    estimated: bool = False
    price_source: str | None = None
    ttfb_ms: int | None = None
    duration_ms: int = 0
    queue_ms: int | None = None
    bytes_committed: int = 0
    dropped: tuple[str, ...] = ()  # what a translation could not carry
    gone_phase: GonePhase | None = None  # where the request was when its client left
    byok: bool = False  # who answered was asked with the caller's own key


class Kind(Protocol):
    """What the decisions of one kind have in common."""

    rows: Any  # the writer thread's own: what it remembers of their rows

    def decision(self, brief: Brief) -> Decision:
        """In full. Any thread may ask."""


class Brief(NamedTuple):
    """The decision of an ordinary request, by what is its own: a good answer of the first attempt."""

    kind: Kind
    request_id: str
    at_ms: int
    tokens: int  # estimated
    conversation: str | None
    warm: bool  # the conversation's cache was, where it was answered
    usage: Usage
    cost_nanos: int | None
    charged_nanos: int
    ttfb_ms: int
    duration_ms: int
    bytes_committed: int
    upstream_request_id: str | None
    started_ms: int = 0  # when the provider was asked
