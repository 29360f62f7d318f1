"""Generate and build the code of several operators at the same time.

An evaluation that is new needs a dozen kernels. Loopy takes a quarter of a second for each, in Python, and a compiler
for OpenCL a tenth. So other processes generate some of them, and a thread builds those that are there.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Thread

from fmmloopy.common import isolation
from fmmloopy.common.cores import processors
from fmmloopy.common.isolation import Worker
from fmmloopy.common.store import is_recording
from fmmloopy.common.turns import BUILDING
from fmmloopy.execution.generate import compile_operator, kept_code
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator, Runtime

KERNELS_EACH = 3
"""Kernels that are worth another process: it takes 0.6 s to start, as long as loopy takes for two."""

MOST_HELPERS = 3
"""Processes that are started at most: with more, the last kernel takes longer than the others together."""

LONGEST = 300.0
"""Seconds after which a process that generates a kernel is stopped."""


def compile_together(
    keys: Sequence[CodeKey], runtime: Runtime, notify: Callable[[str], None]
) -> list[CompiledOperator]:
    """Return the code of operators, from disk or generated, and build it.

    Args:
        keys: those of the code.
        runtime: the open device. If it cannot build a program, whoever binds that will see why.
        notify: called with the name of each operator before its code is generated.

    Raises:
        RecipeError: a recipe fails, or no code can be generated for its kernel.
    """
    with (
        BUILDING,  # who waits here finds on disk what another thread has generated
        runtime.building() as build,
        ThreadPoolExecutor(1, "fmmloopy-build") as builder,
        ExitStack() as helpers,
    ):
        found = {number: code for number, key in enumerate(keys) if (code := kept_code(key)) is not None}
        missing = deque(number for number in range(len(keys)) if number not in found)

        def take(number: int, code: CompiledOperator) -> None:
            found[number] = code
            builder.submit(build, code)

        for code in found.values():
            builder.submit(build, code)
        started = [helpers.enter_context(_Helper(keys, missing, take)) for _ in range(_count_helpers(len(missing)))]

        def generate_missing() -> None:
            while missing:
                try:
                    number = missing.popleft()
                except IndexError:  # a helper was faster
                    return
                notify(keys[number].operator)
                take(number, compile_operator(keys[number]))

        generate_missing()
        for helper in started:
            helper.finish()
        generate_missing()  # what helpers have given back
    return [found[number] for number in range(len(keys))]


def _count_helpers(missing: int) -> int:
    """Return how many processes help to generate kernels."""
    if not may_start_others():
        return 0
    return max(0, min(processors() - 1, missing // KERNELS_EACH - 1, MOST_HELPERS))


def may_start_others() -> bool:
    """Return whether this process may start others that generate or prove kernels."""
    if isolation.is_child or "mpi4py.MPI" in sys.modules:  # others like this one have the other cores
        return False
    return not is_recording()  # what others read and write is not recorded


class _Helper:
    """A process that generates kernels from the end of those that are missing, and a thread that talks to it.

    If anything fails there, the kernel is missing again.
    """

    def __init__(
        self, keys: Sequence[CodeKey], missing: deque[int], take: Callable[[int, CompiledOperator], None]
    ) -> None:
        self._keys, self._missing, self._take = keys, missing, take
        self._worker, self._is_busy, self._ends = Worker(forked=False), False, False
        self._thread = Thread(target=self._run, name="fmmloopy-generate", daemon=True)

    def __enter__(self) -> _Helper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._worker.stop()
        self._thread.join()

    def finish(self) -> None:
        """Wait for the kernel that it works on, if there is one."""
        self._ends = True
        if self._is_busy:
            self._thread.join()

    def _run(self) -> None:
        number = None
        try:
            with self._worker as worker:
                worker.call(_import, self._keys[0], limit=LONGEST)
                while not self._ends and self._missing:
                    self._is_busy = True
                    number = self._missing.pop()
                    self._take(number, worker.call(_compile, self._keys[number], limit=LONGEST))
                    number = None
        except Exception:  # no process, or no code: this process says why, if it fails here too
            if number is not None:
                self._missing.append(number)


def _import(stage: isolation.Stage, key: CodeKey) -> None:
    """Import what a key needs: it is there."""


def _compile(stage: isolation.Stage, key: CodeKey) -> CompiledOperator:
    return compile_operator(key)
