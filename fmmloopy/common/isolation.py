"""Run code that may crash, hang or use all memory in a separate process.

A worker is a child process that runs functions one after the other. If a function does not return, because a kernel
loops forever or crashes the process, the caller gets an exception, and the next call starts a new process::

    with Worker() as worker:
        report = worker.call(check_something, "p2p", limit=60.0)

The output of a function is discarded, except for the last line before the process died, which is part of the exception.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import IO, Any

import cloudpickle

from fmmloopy.common.file_modules import file_modules
from fmmloopy.common.forkserver import SERVERS, Child, ForkServerError, import_path
from fmmloopy.common.messages import one_line

try:
    import resource
except ImportError:  # only Unix has it
    resource = None  # type: ignore[assignment]

Process = subprocess.Popen[bytes] | Child

Stage = Callable[[str, float], None]
"""Called by a function in a worker before each part of its work, with a description and a time limit in seconds.
The time limit starts again."""

START_LIMIT = 120.0
"""Seconds that a new process may take to import what it needs; one or two on a quiet machine."""

MEMORY_SHARE = 0.25
"""Share of the free memory at its start that a process may use, because several run in parallel."""

is_child = False
"""Whether this process is a worker's."""


class WorkerError(RuntimeError):
    """No child process could be started, or it was stopped."""


class ChildError(Exception):
    """A function did not return from its process; the message says why, and what it was doing.

    Attributes:
        reason: why it did not return.
        stage: the last stage that it announced.
    """

    def __init__(self, reason: str, stage: str = "") -> None:
        super().__init__(f"{reason}, {stage}" if stage else reason)
        self.reason, self.stage = reason, stage


class ChildCrashed(ChildError):
    """The process died."""


class ChildTimedOut(ChildError):
    """The process was stopped at the end of its time."""


class Worker:
    """A child process that calls functions, replaced by a new one whenever it dies.

    Args:
        environment: variables to set in the process, in addition to those of this process.
        forked: whether to fork it from a server, which is faster from the second process on, and stays.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, forked: bool = True) -> None:
        self._environment, self._forked = dict(environment or {}), forked
        self._process: Process | None = None
        self._connection: Connection[Any, Any] | None = None
        self._output: IO[bytes] | None = None
        self._stopped = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        limit: float = 60.0,
        watch: Callable[[str], None] | None = None,
    ) -> Any:
        """Call ``function(stage, *arguments)`` in the process and return what it returns.

        Args:
            function: its first argument is a :data:`Stage`.
            arguments: the others; functions and classes may be of any kind, from a notebook or a closure too.
            limit: seconds until the process is stopped, or until the function announces its next stage.
            watch: called with each stage when it is announced.

        Raises:
            ChildCrashed, ChildTimedOut: the function did not return.
            WorkerError: no process could be started, or this one was stopped.
            Exception: any exception of the function.
        """
        message = _dumps((function, arguments))
        if self._stopped:
            raise WorkerError("stopped")
        if self._process is None:
            self._start()
        kind, value = self._exchange(message, limit, watch)
        if kind == "error":
            raise value
        return value

    def _exchange(self, message: bytes, limit: float, watch: Callable[[str], None] | None) -> tuple[str, Any]:
        """Send a message and wait for the answer, from stage to stage."""
        assert self._connection is not None
        what = ""
        try:
            self._connection.send_bytes(message)
            while True:
                if not self._connection.poll(limit):
                    self.close()
                    raise ChildTimedOut(f"did not return within {limit:g} s", what)
                kind, *content = cloudpickle.loads(self._connection.recv_bytes())
                if kind != "stage":
                    return kind, content[0]
                what, limit = content
                if watch:
                    watch(what)
        except (EOFError, OSError):
            cause = self._cause_of_death()
            self.close()
            raise ChildCrashed(cause, what) from None
        except KeyboardInterrupt:
            self.close()
            raise

    def stop(self) -> None:
        """Stop the call of another thread, and refuse further calls."""
        self._stopped = True
        process = self._process
        if process is not None:
            _kill(process)

    def close(self) -> None:
        """Stop the process and everything that it started."""
        if self._process is not None:
            _kill(self._process)
            self._process.wait()
        for thing in (self._connection, self._output):
            if thing is not None:
                thing.close()
        self._process = self._connection = self._output = None

    def _start(self) -> None:
        ours, theirs = Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            try:
                if not self._forked:
                    raise ForkServerError("not wanted")
                self._process = SERVERS.start(serve, theirs.fileno(), self._output.fileno(), self._environment)
            except ForkServerError:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "fmmloopy.common.isolation", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment, "PYTHONPATH": import_path()},
                    start_new_session=True,
                )
        self._connection = ours
        try:
            ready = ours.poll(START_LIMIT) and ours.recv_bytes() == b"ready"
        except EOFError:
            ready = False
        if not ready:
            cause = self._cause_of_death()
            self.close()
            raise WorkerError(f"a child process cannot be started: {cause}")

    def _cause_of_death(self) -> str:
        """Say how the process ended, with the last line that it has printed."""
        assert self._process is not None
        assert self._output is not None
        try:
            status: int | None = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = None
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 2000))
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        said = f" ({lines[-1][:200]})" if lines else ""
        if status is None:
            return "the process closed its connection" + said
        if status < 0:
            return f"the process died of signal {-status}, {signal.strsignal(-status)}" + said
        return f"the process exited with status {status}" + said


def _kill(process: Process) -> None:
    """End a process and all that it has started.

    Once it has ended, its group may be gone, or may no longer be signalled, as systems have it.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()


_PICKLING = threading.Lock()
"""What cloudpickle pickles by value is noted for a whole process, and workers are called from several threads."""


def _dumps(value: Any) -> bytes:
    """Pickle a value, with the code of recipe files in it: a new process cannot import those by name."""
    with _PICKLING:
        modules = file_modules()
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            data: bytes = cloudpickle.dumps(value)
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)
    return data


def missing_limits() -> str:
    """Return which limits of child processes are missing on this system; "" if none are."""
    if resource is None or _free_memory() is None:
        return "this system reports no free memory or has no limits, so child processes may use all memory"
    return ""


def _free_memory() -> int | None:
    """Return how many bytes of memory are free; None if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _limit_memory() -> None:
    """Limit the memory of this process, and disable its core dumps."""
    if resource is None:
        return
    free = _free_memory()
    with contextlib.suppress(OSError, ValueError):
        if free is not None:
            most = max(int(MEMORY_SHARE * free), 2**31)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(descriptor: int) -> None:
    """End this process as soon as no other process waits for its results."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLHUP)
        poll.poll()
    else:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(1)
    os._exit(1)


def serve(descriptor: int) -> None:
    """Call functions that come through the connection with this file descriptor, until it is closed."""
    global is_child
    is_child = True
    connection: Connection[Any, Any] = Connection(descriptor)
    _limit_memory()
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    connection.send_bytes(b"ready")

    def stage(what: str, limit: float) -> None:
        connection.send_bytes(cloudpickle.dumps(("stage", what, limit)))

    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, arguments = cloudpickle.loads(message)
            answer = _dumps(("result", function(stage, *arguments)))
        except MemoryError:
            answer = _dumps(("error", MemoryError("there is not enough memory")))
        except Exception as error:
            try:
                answer = _dumps(("error", error))
                cloudpickle.loads(answer)
            except Exception:  # an exception that does not survive being pickled
                answer = _dumps(("error", RuntimeError(f"{type(error).__name__}: {one_line(error)}")))
        connection.send_bytes(answer)


if __name__ == "__main__":
    from fmmloopy.common import isolation  # this module under the name that others import

    isolation.serve(int(sys.argv[1]))
