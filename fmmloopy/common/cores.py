"""The cores that this process may use, and work that is divided among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """Return how many processors this process may use; some systems report only the total."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_on_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function of several items on all cores, and return its results in order.

    It should spend its time in numpy, which lets other threads run meanwhile.
    """
    waiting = list(items)
    count = min(processors(), len(waiting))
    if count <= 1:
        return [work(item) for item in waiting]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, waiting))


def beside(one: Callable[[], Item], other: Callable[[], Result]) -> tuple[Item, Result]:
    """Call two functions at the same time, and return both results; both spend their time in numpy."""
    if processors() == 1:
        return one(), other()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other)
        return one(), waiting.result()
