"""What requests under way have reserved, in the file: one row for each key and project, for all of them together.

A row for each request would be two statements and a page of every batch. While few are under way the row says what they
have to the nano. Where there are many it says a little more, never less, so that it need not be written with every one
that begins or ends; to the nano as soon as none has for a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import inf

from attrs import field

from proxy.record import define
from proxy.server.ledger.building import Into
from proxy.server.ledger.insert import File, insert, parts
from proxy.server.ledger.records import Lease, Leased
from proxy.server.ledger.rows import integer

MANY = 8  # requests of a key under way, from which on its row may say more than they have
ABOVE = 8  # an eighth more is written down than there is
SLACK = 4  # and what is there may be a quarter above it
STILL_S = 1.0  # after so long without a change it is written to the nano
MARGIN_MS = 2_000  # of its time, which is meant for those as well that come until it is written again
UNKNOWN = -1
LEASES = Into("leases", Lease._fields, "INSERT OR REPLACE")


@define(eq=False)
class Sum:
    """Of one key and project."""

    id: str  # of the request that began it: what a process before had is not written over
    key_id: str
    project: str | None
    requests: int = 0
    nanos: int = 0
    until_ms: int = 0  # of the youngest
    stirred: bool = True  # since it was written
    kept: bool = False  # has a row in the file, perhaps
    noted: int = UNKNOWN  # there, as are the next two
    noted_until_ms: int = 0
    noted_at: float = 0.0

    def due(self, now: float) -> bool:
        nanos, noted = self.nanos, self.noted
        return (
            self.requests < MANY
            or nanos > noted
            or noted - nanos > nanos // SLACK
            or self.until_ms > self.noted_until_ms
            or now >= self.noted_at + STILL_S
        )

    @property
    def exact(self) -> bool:
        """How it is to be written."""
        return self.requests < MANY or not self.stirred

    def lease(self) -> Lease:
        nanos, until_ms = self.nanos, self.until_ms
        if not self.exact:
            nanos, until_ms = nanos + nanos // ABOVE, until_ms + MARGIN_MS
        return Lease(self.id, self.key_id, self.project, integer(nanos), integer(until_ms))


@define
class Reserves:
    """The writer thread's own. `begin` and `end` count, `write` belongs to a transaction; then `done` tells that it is
    in the file, or `doubt` that nobody knows what is."""

    _clock: Callable[[], float] = time.monotonic
    _held: dict[str, tuple[Sum, int, int]] = field(factory=dict)  # by request: how much, and until when
    _sums: dict[tuple[str, str | None], Sum] = field(factory=dict)
    _changed: set[Sum] = field(factory=set)  # those of which the file does not say what they are
    _writing: list[tuple[Sum, Lease | None]] = field(factory=list)

    def begin(self, leases: Iterable[Leased]) -> None:
        """Of requests under way, each in the place of what it had before."""
        held, stirred = self._held, None
        for request, key_id, project, nanos, until_ms in leases:
            if request in held:
                self.end((request,))
            if (sum := self._sums.get((key_id, project))) is None:
                self._sums[key_id, project] = sum = Sum(request, key_id, project)
            held[request] = sum, nanos, until_ms
            sum.requests += 1
            sum.nanos += nanos
            if until_ms > sum.until_ms:
                sum.until_ms = until_ms
            if sum is not stirred:
                stirred = self._stir(sum)

    def end(self, requests: Iterable[str]) -> None:
        """Whatever became of their rows."""
        stirred = None
        if held := self._held:
            for request in requests:
                if (had := held.pop(request, None)) is not None:
                    sum, nanos, _ = had
                    sum.requests -= 1
                    sum.nanos -= nanos
                    if sum is not stirred:
                        stirred = self._stir(sum)

    def _stir(self, sum: Sum) -> Sum:
        sum.stirred = True
        self._changed.add(sum)
        return sum

    def forget(self, now_ms: int) -> None:
        """Requests that never came to a row, such as those whose row was dropped; and how far ahead the clock was, when
        those began that have ended."""
        youngest: dict[Sum, int] = {}
        for request, (sum, _, until_ms) in list(self._held.items()):
            if until_ms < now_ms:
                self.end((request,))
            else:
                youngest[sum] = max(until_ms, youngest.get(sum, until_ms))
        for sum, until_ms in youngest.items():
            if sum.until_ms > until_ms + MARGIN_MS:
                sum.until_ms = until_ms
                self._stir(sum)

    def settle(self) -> bool:
        """Nothing changes any more: what the file does not say to the nano is due. False where there is none."""
        for sum in self._changed:
            sum.stirred, sum.noted_at = False, -inf
        return bool(self._changed)

    def due(self) -> list[Sum]:
        """Those that are to be written."""
        if not self._changed:
            return []
        now = self._clock()
        return [sum for sum in self._changed if sum.due(now)]

    def write(self, file: File) -> None:
        if not (due := self.due()):
            return
        self._writing = [(sum, sum.lease() if sum.requests else None) for sum in due]
        insert(file, LEASES, [lease for _, lease in self._writing if lease is not None])
        gone = [sum.id for sum, lease in self._writing if lease is None and sum.kept]
        for part in parts(gone):
            places = ", ".join("?" * len(part))
            file.execute(f"DELETE FROM leases WHERE request_id IN ({places})", part)  # noqa: S608

    def done(self) -> None:
        """The transaction is in the file."""
        if not self._writing:
            return
        now = self._clock()
        for sum, lease in self._writing:
            if lease is None:
                del self._sums[sum.key_id, sum.project]
                self._changed.remove(sum)
                continue
            if sum.exact:
                self._changed.remove(sum)
            sum.noted, sum.noted_until_ms, sum.noted_at = lease.nanos, lease.until_ms, now
            sum.kept, sum.stirred = True, False
        self._writing = []

    def doubt(self) -> None:
        """The transaction failed, or the file is another."""
        self._writing = []
        for sum in self._sums.values():
            sum.noted, sum.kept = UNKNOWN, True
            self._changed.add(sum)
