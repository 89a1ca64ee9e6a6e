"""A turn of the event loop in a crowd: what came in it is seen to at its end, kind by kind, and what that has to say
leaves together.

What one request needs is several times what a processor's first caches hold, code and data alike. Ten answers, then
what is counted of them, then ten requests find a part of that at hand; the same as they come find what another kind has
left there. And a write to a socket wakes up whoever waits at the other one, which costs as much as the write itself:
one that still works on what came a moment before need not be woken. Between two pieces of Python's work the kernel's
part also costs both their caches.

Where few requests run, nothing waits, and the loop is not asked for a word at the turn's end, which would cost it one
more look at all sockets. How many pieces there are is told by the turn before, in a crowd, and else by how many came
within a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

import structlog

SMALL = 4 << 10  # bytes of a piece; of larger ones the copy counts, and who is written to may have to be waited for
MOST = 64  # pieces that wait for each other, and as many of each kind of what is to be seen to
CROWD = 4  # pieces of the turn before, from which on those of the next wait for each other
THICK = 8  # the same of a moment: a lone request and its answer are two
MOMENT = 0.0005  # seconds; the loop knows no less than twice that
STAGES = ANSWERS, SETTLING, REQUESTS = range(3)  # in that order: what an answer frees, the next request may have

log = structlog.get_logger()
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


class Turn:
    """Of one event loop. Each transport that is written to by `post` is written to by it alone, or after a `flush`."""

    __slots__ = ("_begun", "_clock", "_crowded", "_moment", "_pieces", "_stage", "_stages", "_waiting")

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """By the running loop's clock unless another one is given."""
        self._clock = clock
        self._begun = False  # something waits for this turn's end
        self._crowded = False  # the last turn that had an end
        self._moment = 0.0  # when it began
        self._pieces = 0  # in it, or of this turn
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []
        self._stages: tuple[list[Callable[[], None]], ...] = tuple([] for _ in STAGES)
        self._stage = -1  # that is seen to just now

    @classmethod
    def of_running_loop(cls) -> Turn:
        """One for all who serve in it."""
        loop = asyncio.get_running_loop()
        turn = _turns.get(loop)
        if turn is None:
            turn = _turns[loop] = cls()
        return turn

    def later(self, stage: int, see: Callable[[], None]) -> bool:
        """Whether that is done at this turn's end, with others of its kind; else it is for the caller to do at once: in
        no crowd, where too many wait, and where its stage has come or has been. It raises nothing."""
        if not self._begun:
            if not self._crowded:
                return False
            self._begin()
        waiting = self._stages[stage]
        if stage <= self._stage or len(waiting) >= MOST:
            return False
        waiting.append(see)
        return True

    def post(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """In the order of the calls. What waits while its transport closes is dropped."""
        if not self._begun:
            if not self._crowded:
                clock = self._clock or asyncio.get_running_loop().time
                now = clock()
                if now - self._moment >= MOMENT:
                    self._moment, self._pieces = now, 1
                    transport.write(data)
                    return
                self._pieces = pieces = self._pieces + 1
                if pieces < THICK:
                    transport.write(data)
                    return
            self._begin()
        waiting = self._waiting
        if len(data) > SMALL or len(waiting) >= MOST:
            self.flush()
            transport.write(data)
        elif waiting and waiting[-1][0] is transport and len(waiting[-1][1]) <= SMALL:
            waiting[-1] = transport, waiting[-1][1] + data
        else:
            self._pieces += 1
            waiting.append((transport, data))

    def _begin(self) -> None:
        asyncio.get_running_loop().call_soon(self._end)
        self._begun, self._pieces = True, 0

    def _end(self) -> None:
        try:
            for stage in STAGES:
                self._stage, waiting = stage, self._stages[stage]
                for see in waiting:
                    try:
                        see()
                    except (Exception, asyncio.CancelledError) as exc:  # of one, which keeps nothing of the others
                        log.exception("internal_error", error=type(exc).__name__)
                waiting.clear()
        finally:
            self._stage, self._begun, self._crowded = -1, False, self._pieces >= CROWD
            self.flush()

    def flush(self) -> None:
        waiting = self._waiting
        if not waiting:
            return
        self._waiting = []
        for transport, data in waiting:
            try:
                if not transport.is_closing():
                    transport.write(data)
            except Exception as exc:  # as above
                log.exception("internal_error", error=type(exc).__name__)
