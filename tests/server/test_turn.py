"""What a turn of the loop brought: together, in order, and never later than that turn; at once where few come."""

from __future__ import annotations

import asyncio

from each import each
from structlog.testing import capture_logs

from proxy.server.turn import ANSWERS, CROWD, MOMENT, MOST, REQUESTS, SETTLING, SMALL, STAGES, THICK, Turn


class Line(asyncio.Transport):
    """Notes what is written, on a page that it may share with others."""

    def __init__(self, page: list[bytes]) -> None:
        super().__init__()
        self.page = page
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.page.append(bytes(data))


LARGE = b"x" * (SMALL + 1)
FEW = [b"%d" % at for at in range(THICK - 1)]  # pieces
POSTS: dict[str, tuple[list[tuple[int, bytes]], list[bytes], list[bytes]]] = {  # what was written at once, and then
    "a lone piece leaves at once": ([(0, b"a")], [b"a"], []),
    "so do a few": ([(at % 2, data) for at, data in enumerate(FEW)], FEW, []),
}
BEHIND: dict[str, tuple[list[tuple[int, bytes]], list[bytes], list[bytes]]] = {  # a few of the same moment
    "others follow in their order": ([(0, b"a"), (1, b"b"), (0, b"c")], [], [b"a", b"b", b"c"]),
    "pieces of one line leave in one write": ([(0, b"a"), (0, b"b"), (0, b"c"), (1, b"d")], [], [b"abc", b"d"]),
    "a large piece leaves at once, and what came before": ([(0, b"a"), (0, b"b"), (0, LARGE)], [b"ab", LARGE], []),
    "pieces of one line grow no larger than twice that": (
        [(0, LARGE[1:])] * 5,
        [],
        [LARGE[1:] * 2, LARGE[1:] * 2, LARGE[1:]],
    ),
    "so many pieces wait and no more": (
        [(at % 2, b"%d" % at) for at in range(MOST + 2)],
        [b"%d" % at for at in range(MOST + 1)],
        [b"%d" % (MOST + 1)],
    ),
}
POSTS |= {
    name: ([*((0, data) for data in FEW), *posts], FEW + at_once, later)
    for name, (posts, at_once, later) in BEHIND.items()
}


@each(("posts", "at_once", "later"), POSTS.values(), ids=POSTS)
async def test_what_leaves_when(posts: list[tuple[int, bytes]], at_once: list[bytes], later: list[bytes]) -> None:
    page: list[bytes] = []
    lines, turn = [Line(page), Line(page)], Turn(lambda: 1.0)
    for line, data in posts:
        turn.post(lines[line], data)
    assert page == at_once
    await asyncio.sleep(0)
    assert page == at_once + later


async def test_a_crowd_is_one_of_a_moment() -> None:
    page: list[bytes] = []
    moments = (1.0 + 2 * MOMENT * at for at in range(2 * THICK))
    line, turn = Line(page), Turn(lambda: next(moments))
    for at in range(2 * THICK):
        turn.post(line, b"%d" % at)
        assert page[-1] == b"%d" % at


async def test_in_a_crowd_all_wait_for_each_other_until_there_is_none() -> None:
    page: list[bytes] = []
    now = 0.0
    line, other, turn = Line(page), Line(page), Turn(lambda: now)

    async def in_one(pieces: int) -> int:
        """Of a moment of its own. How many were written at once."""
        nonlocal now
        now += 2 * MOMENT
        page.clear()
        for number in range(pieces):
            turn.post((line, other)[number % 2], b"%d" % number)
        at_once = len(page)
        await asyncio.sleep(0)
        assert page == [b"%d" % number for number in range(pieces)]
        return at_once

    few = THICK - 1
    turns = [few + CROWD, CROWD, 1, 1, few, THICK, 1, few + CROWD, MOST, 2, 2]
    assert [await in_one(pieces) for pieces in turns] == [few, 0, 0, 1, few, few, 1, few, 0, 0, 2]


async def test_nothing_is_written_to_a_line_that_closed_meanwhile() -> None:
    page: list[bytes] = []
    gone, there, turn = Line(page), Line(page), Turn(lambda: 1.0)
    for data in FEW:
        turn.post(there, data)
    turn.post(there, b"a")
    turn.post(gone, b"b")
    turn.post(there, b"c")
    gone.closing = True
    turn.flush()
    await asyncio.sleep(0)
    assert page == [*FEW, b"a", b"c"]


# -- what is seen to at a turn's end -----------------------------------------------------------------------------


def crowded(page: list[bytes]) -> Turn:
    """In the midst of a crowd's turn."""
    turn, line = Turn(lambda: 1.0), Line(page)
    for data in FEW:
        turn.post(line, data)
    turn.post(line, b"begun")
    page.clear()
    return turn


async def test_alone_nothing_waits_for_the_turn_s_end() -> None:
    turn = Turn(lambda: 1.0)
    assert not any(turn.later(stage, lambda: None) for stage in STAGES)


async def test_in_a_crowd_each_kind_is_seen_to_together_and_then_all_is_written() -> None:
    page: list[bytes] = []
    turn, line = crowded(page), Line(page)
    seen: list[str] = []

    def answer() -> None:
        seen.append("answer")
        turn.post(line, b"said")
        assert turn.later(SETTLING, lambda: seen.append("settled"))
        assert not turn.later(ANSWERS, lambda: None), "its own stage has come"

    def request() -> None:
        seen.append("request")
        assert not any(turn.later(stage, lambda: None) for stage in STAGES), "all have come"
        assert page == []

    for stage, see in ((REQUESTS, request), (ANSWERS, answer), (REQUESTS, request), (ANSWERS, answer)):
        assert turn.later(stage, see)
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["answer", "answer", "settled", "settled", "request", "request"]
    assert page == [b"begun", b"saidsaid"]
    assert not turn.later(ANSWERS, lambda: None), "one piece of a turn is no crowd"


async def test_a_turn_that_had_a_crowd_begins_the_next() -> None:
    page: list[bytes] = []
    turn = crowded(page)
    for at in range(CROWD):
        turn.post(Line(page), b"%d" % at)
    await asyncio.sleep(0)
    seen: list[int] = []
    assert turn.later(REQUESTS, lambda: seen.append(1))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [1]


async def test_so_many_of_a_kind_wait_and_no_more() -> None:
    turn = crowded([])
    seen: list[int] = []
    assert all(turn.later(ANSWERS, lambda: seen.append(1)) for _ in range(MOST))
    assert not turn.later(ANSWERS, lambda: seen.append(1))
    assert turn.later(REQUESTS, lambda: seen.append(2))
    await asyncio.sleep(0)
    assert seen == [*[1] * MOST, 2]


@each("fault", [ZeroDivisionError, asyncio.CancelledError])
async def test_a_fault_in_one_keeps_nothing_of_the_others(fault: type[BaseException]) -> None:
    page: list[bytes] = []
    turn, line = crowded(page), Line(page)

    def fails() -> None:
        raise fault

    assert turn.later(ANSWERS, fails)
    assert turn.later(ANSWERS, lambda: turn.post(line, b"said"))
    with capture_logs() as logs:
        await asyncio.sleep(0)
    assert page == [b"begun", b"said"]
    assert [entry["event"] for entry in logs] == ["internal_error"]


async def test_all_who_serve_in_a_loop_have_one_turn() -> None:
    turn = Turn.of_running_loop()
    assert Turn.of_running_loop() is turn
    assert await asyncio.to_thread(lambda: asyncio.run(of_another_loop())) is not turn


async def of_another_loop() -> Turn:
    return Turn.of_running_loop()


async def test_a_line_that_takes_nothing_keeps_nothing_from_the_others() -> None:
    class Broken(Line):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise OSError

    page: list[bytes] = []
    turn = crowded(page)
    turn.post(Broken(page), b"lost")
    turn.post(Line(page), b"said")
    with capture_logs() as logs:
        await asyncio.sleep(0)
    assert page == [b"begun", b"said"]
    assert [entry["event"] for entry in logs] == ["internal_error"]
