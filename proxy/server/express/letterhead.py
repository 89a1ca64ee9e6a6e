"""The heads of good answers of one kind: what they have in common is put together once, with holes for what is an
answer's own. These are its ids, what passes of the provider's head, what limits leave, its cost, the date.

`server.heading` says which headers there are, and `server.clients.downstream` how a head is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.accounts.limits import LimitTerms, Meter
from proxy.server.clients.downstream import CLOSING, Stock, date_line, start_line
from proxy.server.ratelimits import A_MINUTE, form_of, lines_of, told_by

STREAM_LINES = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"  # see `respond.STREAM_HEADERS`
ENDS: dict[bool, bytes] = {
    False: b"%b%b%bContent-Length: %d\r\n\r\n%b",  # cost, date, whether the connection closes, and the body
    True: STREAM_LINES + b"%b%bTransfer-Encoding: chunked\r\n\r\n",  # date, and whether it closes
}


class Letterhead:
    """Of plain answers, or of streams."""

    __slots__ = ("_dialect", "_end", "_form", "_lately", "_lead", "_meter", "_meters", "_terms", "_twice", "_usual")

    def __init__(self, stock: Stock, kind_line: str, dialect: str, meters: Sequence[Meter], *, streamed: bool) -> None:
        """`kind_line` is a Content-Type that is none of the stock's."""
        lead = start_line(200) + stock.lines
        self._lead = lead.replace(b"%", b"%%") + b"X-Request-Id: %b\r\n" + kind_line.replace("%", "%%").encode()
        self._twice = dialect == "anthropic"
        if self._twice:
            self._lead += b"request-id: %b\r\n"
        self._end = ENDS[streamed]
        self._dialect = dialect
        self._meters = meters
        self._meter = meters[0] if len(meters) == 1 else None  # the one whose form is known,
        self._lately = None if self._twice else self._meter  # and where that tells no time of day
        self._terms: LimitTerms | None = None  # of that
        self._put_together()

    def whole(
        self, identity: str, passed: bytes, now: float, wall: float, cost: bytes, body: bytes, stays: bool
    ) -> bytes:
        """A plain answer. `wall` is the time of day; `cost` is a line, or nothing."""
        date, end = date_line(int(wall)), b"" if stays else CLOSING
        meter = self._lately
        if meter is not None and meter.terms is self._terms and (left := meter.lately_left(now)) is not None:
            requests, tokens = left  # as mostly
            return self._usual % (identity.encode(), passed, requests, tokens, cost, date, end, len(body), body)
        return self._form % (*self._own(identity, passed, now, wall), cost, date, end, len(body), body)

    def stream(self, identity: str, passed: bytes, now: float, wall: float, stays: bool) -> bytes:
        """The head of a stream."""
        date, end = date_line(int(wall)), b"" if stays else CLOSING
        meter = self._lately
        if meter is not None and meter.terms is self._terms and (left := meter.lately_left(now)) is not None:
            requests, tokens = left
            return self._usual % (identity.encode(), passed, requests, tokens, date, end)
        return self._form % (*self._own(identity, passed, now, wall), date, end)

    def _own(self, identity: str, passed: bytes, now: float, wall: float) -> tuple[bytes | int, ...]:
        """What stands before the end."""
        id, meter, dialect = identity.encode(), self._meter, self._dialect
        if meter is None:
            lines = lines_of(self._meters, dialect, now, wall) if self._meters else b""
            return (id, id, passed, lines) if self._twice else (id, passed, lines)
        if meter.terms is not self._terms:
            self._put_together()
        requests, tokens = meter.left(now)
        limits = told_by(requests, meter, tokens, meter, dialect, now, wall)
        return (id, id, passed, *limits) if self._twice else (id, passed, *limits)

    def _put_together(self) -> None:
        """Again where its limit is another one."""
        lines = b"%b"
        if self._meter is not None:
            terms = self._terms = self._meter.terms
            lines = form_of(self._dialect, terms.rpm, terms.tpm)
        self._form = b"%b%%b%b%b" % (self._lead, lines, self._end)
        self._usual = b"%b%%b%b%b" % (self._lead, lines.replace(b"%b", A_MINUTE), self._end)  # see `Meter.lately_left`
