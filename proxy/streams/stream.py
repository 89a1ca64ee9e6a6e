"""What the two kinds of stream have in common."""

from __future__ import annotations

from typing import Protocol

from proxy import ir
from proxy.errors import GatewayError
from proxy.streams.runs import Retelling
from proxy.wire.chunked_run import ChunkedRun

HELD_EVENTS = 64  # lifecycle events before a commit; one more commits
HELD_BYTES = 256 << 10
ENDLESS = "The provider's stream ended before the answer did."
EMPTY = "The provider ended its stream without any output and without a reason."


class Stream(Protocol):
    """What the relay knows of either kind."""

    committed: bool
    done: bool
    failure: GatewayError | None
    edits: dict[str, int]  # usage_removed, terminator_added, surplus_dropped
    run: ChunkedRun | None  # that goes on, while nothing else comes: `feed` would give its bytes back, or recast them

    retelling: Retelling | None  # how that run is recast

    @property
    def farewell(self) -> bool: ...
    @property
    def usage(self) -> ir.Usage | None: ...
    @property
    def stop(self) -> ir.StopReason | None: ...
    @property
    def torn(self) -> bool:
        """Half a frame has left: a cut can only be told by aborting the connection."""

    def feed(self, chunk: bytes) -> bytes: ...
    def recast(self, data: bytes) -> bytes | None:
        """What `feed` would give for the body of `data`, one chunk of HTTP/1.1, where that is soon said: one frame of
        the run. None for anything else, of which nothing was read."""

    def recast_run(self, data: bytes, at: int) -> tuple[bytes, int]:
        """The same of all the frames of the run that stand there, each in a chunk, and where in `data` they end."""

    def close(self) -> bytes: ...
    def fail(self, error: GatewayError) -> bytes: ...
