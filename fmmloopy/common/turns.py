"""Locks for threads, which a forked process does not find locked."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from types import TracebackType


class Turn(AbstractContextManager[None]):
    """A lock that a thread may take several times: ``with turn: ...``.

    If a process forks while a thread holds a lock, the child has the lock but not the thread, and would wait forever.
    So in a child it is another lock.
    """

    def __init__(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.RLock()
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()


BUILDING = Turn()
"""Held while code is generated or compiled, and while an `Fmm` is built. Loopy is not made for threads, standard output
and the filters of warnings belong to the whole process, and measured rates must be those of one evaluation at a time.
"""
