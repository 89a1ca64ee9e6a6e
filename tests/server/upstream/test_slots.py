"""The places of one provider: taken, waited for, handed on, and never lost to somebody who left while waiting."""

from __future__ import annotations

import asyncio

import pytest
from gateway import settles

from proxy.errors import Overloaded
from proxy.server.upstream.slots import Slots

NEVER = float("inf")


async def test_a_free_place_is_taken_at_once_and_a_second_one_is_waited_for() -> None:
    slots = Slots(1, queue=1)
    assert slots.take_at_once()
    assert not slots.take_at_once()
    waits = asyncio.create_task(slots.take(NEVER))
    await settles(lambda: slots.waiting == 1)
    slots.release()
    await waits
    assert not slots.take_at_once(), "the place went from hand to hand"
    slots.release()
    assert await slots.take(NEVER) == 0.0


async def test_places_are_handed_on_in_the_order_of_the_queue() -> None:
    slots, served = Slots(1, queue=3), list[int]()
    await slots.take(NEVER)

    async def one(number: int) -> None:
        await slots.take(NEVER)
        served.append(number)
        slots.release()

    tasks = [asyncio.create_task(one(number)) for number in range(3)]
    await settles(lambda: slots.waiting == 3)
    slots.release()
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]


async def test_whoever_comes_to_a_full_queue_is_refused_at_once() -> None:
    slots = Slots(1, queue=0)
    await slots.take(NEVER)
    with pytest.raises(Overloaded, match="wait for the provider already"):
        await slots.take(NEVER)


async def test_a_wait_that_takes_too_long_is_refused_and_leaves_the_queue() -> None:
    slots = Slots(1, queue=1)
    await slots.take(NEVER)
    with pytest.raises(Overloaded, match="in use"):
        await slots.take(0.001)
    assert slots.waiting == 0
    slots.release()
    assert slots.take_at_once()


@pytest.mark.parametrize("handed", [False, True], ids=["while it waits", "when its place has just come"])
async def test_somebody_who_leaves_takes_no_place_along(handed: bool) -> None:
    slots = Slots(1, queue=1)
    await slots.take(NEVER)
    waits = asyncio.create_task(slots.take(NEVER))
    await settles(lambda: slots.waiting == 1)
    if handed:
        slots.release()
    waits.cancel()
    await asyncio.wait({waits})
    if not handed:
        slots.release()
    assert slots.take_at_once()
