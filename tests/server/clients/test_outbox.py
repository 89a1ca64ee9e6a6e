"""Small writes of one turn: together, in order, and never later than that turn; the first at once where few come."""

from __future__ import annotations

import asyncio

from each import each

from proxy.server.clients.outbox import CROWD, MOST, SMALL, Outbox


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
POSTS: dict[str, tuple[list[tuple[int, bytes]], list[bytes], list[bytes]]] = {  # what was written at once, and then
    "a lone piece leaves at once": ([(0, b"a")], [b"a"], []),
    "others follow in their order": ([(0, b"a"), (1, b"b"), (0, b"c")], [b"a"], [b"b", b"c"]),
    "pieces of one line leave in one write": ([(0, b"a"), (0, b"b"), (0, b"c"), (1, b"d")], [b"a"], [b"bc", b"d"]),
    "a large piece leaves at once, and what came before": (
        [(0, b"a"), (0, b"b"), (0, LARGE)],
        [b"a", b"b", LARGE],
        [],
    ),
    "pieces of one line grow no larger than twice that": (
        [(0, b"a"), *[(0, LARGE[1:])] * 5],
        [b"a"],
        [LARGE[1:] * 2, LARGE[1:] * 2, LARGE[1:]],
    ),
    "so many pieces wait and no more": (
        [(at % 2, b"%d" % at) for at in range(MOST + 3)],
        [b"%d" % at for at in range(MOST + 2)],
        [b"%d" % (MOST + 2)],
    ),
}


@each(("posts", "at_once", "later"), POSTS.values(), ids=POSTS)
async def test_what_leaves_when(posts: list[tuple[int, bytes]], at_once: list[bytes], later: list[bytes]) -> None:
    page: list[bytes] = []
    lines, outbox = [Line(page), Line(page)], Outbox()
    for line, data in posts:
        outbox.post(lines[line], data)
    assert page == at_once
    await asyncio.sleep(0)
    assert page == at_once + later


async def test_it_serves_turn_after_turn() -> None:
    page: list[bytes] = []
    line, outbox = Line(page), Outbox()
    for turn in (b"a", b"b", b"c"):
        outbox.post(line, turn)
        outbox.post(line, turn.upper())
        assert page[-1] == turn
        await asyncio.sleep(0)
        assert page[-1] == turn.upper()


async def test_in_a_crowd_the_first_waits_for_the_others_until_there_is_none() -> None:
    page: list[bytes] = []
    line, other, outbox = Line(page), Line(page), Outbox()

    async def turn(pieces: int) -> int:
        """How many were written at once."""
        page.clear()
        for number in range(pieces):
            outbox.post((line, other)[number % 2], b"%d" % number)
        at_once = len(page)
        await asyncio.sleep(0)
        assert page == [b"%d" % number for number in range(pieces)]
        return at_once

    turns = [CROWD, CROWD, 1, 1, CROWD - 1, 1, CROWD, MOST, 2, 2]
    assert [await turn(pieces) for pieces in turns] == [1, 0, 0, 1, 1, 1, 1, 0, 0, 1]


async def test_nothing_is_written_to_a_line_that_closed_meanwhile() -> None:
    page: list[bytes] = []
    gone, there, outbox = Line(page), Line(page), Outbox()
    outbox.post(there, b"a")
    outbox.post(gone, b"b")
    outbox.post(there, b"c")
    gone.closing = True
    outbox.flush()
    await asyncio.sleep(0)
    assert page == [b"a", b"c"]
