"""Small writes of one turn: together, in order, and never later than that turn; at once where few come."""

from __future__ import annotations

import asyncio

from each import each

from proxy.server.turn import CROWD, MOMENT, MOST, SMALL, Turn


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
FEW = [b"%d" % at for at in range(CROWD - 1)]  # pieces
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
    moments = (1.0 + 2 * MOMENT * at for at in range(2 * CROWD))
    line, turn = Line(page), Turn(lambda: next(moments))
    for at in range(2 * CROWD):
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

    few = CROWD - 1
    turns = [few + CROWD, CROWD, 1, 1, few, CROWD, 1, few + CROWD, MOST, 2, 2]
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
