"""Proofs of kernels while a program has nothing to do, in another process.

Most kernels of the shipped books came proved. Others, of a user's recipes and Green's functions, are proved when no
evaluation has run for a few seconds, so that neither the first potentials nor the next ones come later. Results are
kept on disk, where plan reports find them. If the program ends before, or no process can be started, nothing is proved.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock, Timer

from fmmloopy.bookshelf.certificates import came_proved
from fmmloopy.common.isolation import Stage, Worker
from fmmloopy.execution.key import CodeKey
from fmmloopy.execution.launch import CompiledOperator
from fmmloopy.execution.together import may_start_others

ENVIRONMENT_VARIABLE = "FMMLOOPY_BACKGROUND_PROOFS"
"""Nothing is proved in the background if it is ``0``."""

IDLE = 3.0
"""Seconds without an evaluation after which kernels are proved: solvers and benchmarks pause for less."""

LIMIT = 180.0
"""Seconds for one kernel, at the lowest priority."""

Kernel = tuple[CodeKey, CompiledOperator]


class BackgroundProofs:
    """Proves the kernels of an evaluation when it rests; `close` ends what it has started."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._timer: Timer | None = None
        self._worker: Worker | None = None
        self._done: set[str] = set()
        self._closed = False

    def rest(self, kernels: Sequence[Kernel]) -> None:
        """Prove kernels in a while, if no evaluation comes before.

        Args:
            kernels: those that the evaluation has run, with what their code was generated from.
        """
        if os.environ.get(ENVIRONMENT_VARIABLE) == "0" or multiprocessing.parent_process() or not may_start_others():
            return
        with self._lock:
            new = [(key, code) for key, code in kernels if code.kernel not in self._done]
            self._done |= {code.kernel for key, code in new if not _is_open(key, code)}
            new = [(key, code) for key, code in new if code.kernel not in self._done]
            if not new or self._closed or self._worker:
                return
            self._stop_timer()
            self._timer = Timer(IDLE, self._prove, (new,))
            self._timer.name, self._timer.daemon = "fmmloopy-prove", True
            with suppress(RuntimeError):  # no more threads
                self._timer.start()

    def wake(self) -> None:
        """Wait for the end of an evaluation that begins now."""
        with self._lock:
            self._stop_timer()

    def close(self) -> None:
        """Prove nothing more, and end the process."""
        with self._lock:
            self._closed = True
            self._stop_timer()
            worker = self._worker
        if worker:
            worker.stop()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _prove(self, kernels: Sequence[Kernel]) -> None:
        with self._lock:
            if self._closed or self._timer is None:
                return
            worker = self._worker = Worker(forked=False)
            self._done |= {code.kernel for _, code in kernels}
        try:
            with worker:
                worker.call(_give_way, limit=LIMIT)  # a process that was stopped meanwhile is not called again
                worker.call(_prove_all, list(kernels), limit=LIMIT)
        except Exception:  # whatever fails there, the kernels stay what they are
            pass
        finally:
            self._worker = None


def _is_open(key: CodeKey, code: CompiledOperator) -> bool:
    """Return whether a kernel may be proved: it is no sequential one, is known, and did not come proved."""
    can_be = key.operator in key.book.to_check and bool(code.kernel) and code.generated_here
    return can_be and not came_proved(key.specification, code.kernel)


def _give_way(stage: Stage) -> None:
    """Let this process run when others do not need the processor."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    with suppress(OSError, AttributeError):
        os.nice(19)


def _prove_all(stage: Stage, kernels: Sequence[Kernel]) -> None:
    """Prove kernels of which nothing is known, and store the results."""
    from fmmloopy.checking.kernels import prove_kernel

    for key, code in kernels:
        stage(f"proving {key.operator}", LIMIT)
        prove_kernel(key, code)
