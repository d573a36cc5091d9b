"""Admission: slots in turn among callers, bounded places."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack

import pytest

from del_codec.errors import ExhaustedError
from del_server.admission import Admission, Place


async def granted(admission: Admission, callers: str, rounds: int) -> str:
    """Who gets the only slot, one after another, when these ask in this order."""
    order: list[str] = []

    async def hold(place: Place) -> None:
        with place:
            await place.slot()
            order.append(place.caller)
            await asyncio.sleep(0)

    places = [admission.ask(caller) for caller in callers]
    await asyncio.gather(*map(hold, places))
    return "".join(order)[:rounds]


async def test_slots_go_to_callers_in_turn() -> None:
    assert await granted(Admission(1, 20), "aaaaaabbc", 9) == "aabcabaaa"


async def test_one_who_asks_for_a_thousand_does_not_keep_another_waiting() -> None:
    admission = Admission(4, 2000)
    order = await granted(admission, "a" * 1000 + "b", 1001)
    assert order.index("b") <= 5
    assert (admission.taken, admission.places) == (0, 2004)


async def test_a_full_house_takes_the_latest_place_of_who_has_most() -> None:
    admission = Admission(1, 4)
    with ExitStack() as stack:
        first, *waiting = [stack.enter_context(admission.ask(caller)) for caller in "aaaaa"]
        with pytest.raises(ExhaustedError, match="5 queries at once"):
            admission.ask("a")
        other = stack.enter_context(admission.ask("b"))
        with pytest.raises(ExhaustedError):
            await waiting[-1].slot()
        second = stack.enter_context(admission.ask("b"))
        with pytest.raises(ExhaustedError):
            await waiting[-2].slot()
        with pytest.raises(ExhaustedError):
            admission.ask("b")
        assert await first.slot()
        assert admission.taken == 5
        assert not other.granted
        assert not second.granted
    assert admission.taken == 0


async def test_a_place_that_is_left_or_cancelled_gets_no_slot() -> None:
    admission = Admission(1, 9)
    with admission.ask("a"):
        with admission.ask("b"):
            pass
        cancelled = admission.ask("c")
        cancelled.cancel()
        with cancelled:
            assert not await cancelled.slot()
        leaving = asyncio.create_task(waits(admission.ask("d")))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert admission.taken == 1
    assert admission.taken == 0
    with admission.ask("e") as place:
        assert await place.slot()


async def waits(place: Place) -> bool:
    with place:
        return await place.slot()


async def test_whatever_happens_no_slot_is_lost_and_none_is_given_twice() -> None:
    draw, admission, running, most = random.Random(1), Admission(3, 12), 0, 0

    async def visit(caller: str) -> None:
        nonlocal running, most
        try:
            with admission.ask(caller) as place:
                if draw.random() < 0.2:
                    asyncio.get_running_loop().call_soon(place.cancel)
                if await place.slot() and place.granted:
                    running += 1
                    most = max(most, running)
                    try:
                        await asyncio.sleep(0.0001 * draw.randrange(4))
                    finally:
                        running -= 1
        except ExhaustedError:
            pass

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(visit(draw.choice("aaaabc"))))
        if draw.random() < 0.2:
            draw.choice(tasks).cancel()
        if draw.random() < 0.5:
            await asyncio.sleep(0)
        assert admission.taken <= admission.places
    await asyncio.wait(tasks)
    assert (running, admission.taken, most) == (0, 0, 3)
