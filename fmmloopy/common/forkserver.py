"""Start child processes as copies of one that has imported everything: 0.03 s of processor time each in place of 0.6.

A server is a process that imports the modules of this package that its owner has imported, and then waits. On request
it forks. It runs no code but imports, so a child begins as if it had just been started by itself, whatever earlier
children did. The child gets the environment, folder and import path that the request states; variables that packages
read while they are imported are the same as the server's, or a new server is started.

Linux only: elsewhere libraries may not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

READ_BY_IMPORTS = (
    "BLIS_", "HOME", "KMP_", "LANG", "LC_", "LD_", "LOOPY_", "MKL_", "NPY_", "NUMEXPR_", "OMP_", "OPENBLAS_", "PATH",
    "PYOPENCL_", "PYTHON", "PYTOOLS_", "TMP", "XDG_",
)  # fmt: skip
"""What the names of variables begin with that Python, or a package that a server imports, reads before it forks."""

START_LIMIT = 120.0
"""Seconds that a server may take to import what it needs; one or two on a quiet machine."""

MOST = 2
"""How many servers a process keeps: checks use two environments in turn."""

WORD = 8
"""Bytes of a number that is sent."""


class ForkServerError(RuntimeError):
    """No child process could be started this way."""


class Child:
    """A child of a server, with the methods of :class:`subprocess.Popen` that its owner needs.

    Like there, the number of a process that has ended is not used for another one before it has been waited for.
    """

    def __init__(self, pid: int, status: int, forget: Callable[[int], None]) -> None:
        self.pid, self._file, self._forget = pid, status, forget
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit status, or minus the signal that it died of.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._file], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            data = os.read(self._file, WORD)
            os.close(self._file)
            self.returncode = _number(data) if data else -signal.SIGKILL  # nothing comes if the server was killed
            self._forget(self.pid)
        return self.returncode

    def kill(self) -> None:
        """Kill the process, if it has not been waited for."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class _State(NamedTuple):
    """What a server was started with."""

    owner: int
    path: tuple[str, ...]
    variables: frozenset[tuple[str, str]]


class _Server(NamedTuple):
    """A server that runs, and the connection to it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket


class ForkServers:
    """Processes that start others by forking: one for each state, started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[_State, _Server] = {}
        self._ending: list[subprocess.Popen[bytes]] = []

    def start(self, function: Callable[[int], object], connection: int, output: int, more: Mapping[str, str]) -> Child:
        """Start a process that calls ``function(connection)``.

        Args:
            function: can be imported by name.
            connection: file descriptor, open in the child under another number.
            output: file descriptor of what the child prints.
            more: variables to set there, in addition to those of this process.

        Raises:
            ForkServerError: the system has no safe fork, or the server has ended.
        """
        if sys.platform != "linux":
            raise ForkServerError("only Linux forks safely")
        environment = {**os.environ, **more, "PYTHONPATH": import_path()}
        state = _state(environment)
        message = pickle.dumps((function, environment, sys.path, _folder()))
        with self._lock:
            server = self._server(state, environment).connection
            reading, writing = os.pipe()
            try:
                socket.send_fds(server, [_bytes(len(message))], [connection, output, writing])
                server.sendall(message)
                pid = _number(_received(server, WORD))
            except OSError as error:
                os.close(reading)
                self._servers[state].process.kill()  # it may still be about to fork
                self._end(state)
                raise ForkServerError(str(error)) from error
            finally:
                os.close(writing)
        return Child(pid, reading, partial(self._forget, server))

    def _forget(self, server: socket.socket, pid: int) -> None:
        """Let a server free the number of a process that has ended."""
        with self._lock, contextlib.suppress(OSError):
            server.sendall(_bytes(-pid))

    def _server(self, state: _State, environment: Mapping[str, str]) -> _Server:
        """Return a server that suits a state."""
        if state not in self._servers:
            for other in [other for other in self._servers if other.owner != state.owner]:
                del self._servers[other]  # the servers of a process that this one is a copy of
            if len(self._servers) == MOST:
                self._end(next(iter(self._servers)))
            ours, theirs = socket.socketpair()
            ours.settimeout(START_LIMIT)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "fmmloopy.common.forkserver", str(theirs.fileno()), *_imported()],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
            self._servers[state] = _Server(process, ours)
        self._servers[state] = self._servers.pop(state)  # the last is the one used last
        return self._servers[state]

    def _end(self, state: _State) -> None:
        """Let a server end as soon as its last child has ended."""
        process, connection = self._servers.pop(state)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        self._ending = [process for process in (*self._ending, process) if process.poll() is None]


def _state(environment: Mapping[str, str]) -> _State:
    variables = frozenset(item for item in environment.items() if item[0].startswith(READ_BY_IMPORTS))
    return _State(os.getpid(), tuple(sys.path), variables)


def _imported() -> list[str]:
    """Return the modules of this package that are imported; transformations and books are not among them."""
    package = __name__.partition(".")[0]
    names = [name for name in sys.modules if name.startswith(f"{package}.")]
    return [name for name in names if not name.startswith(f"{package}.transforms")]


def import_path() -> str:
    """Return the folders that modules come from, for ``$PYTHONPATH`` of a child."""
    return os.pathsep.join(folder for folder in sys.path if folder)


def _folder() -> str | None:
    with contextlib.suppress(OSError):
        return os.getcwd()
    return None


def _received(connection: socket.socket, size: int) -> bytes:
    """Receive so many bytes.

    Raises:
        OSError: the connection was closed before.
    """
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise ConnectionResetError("the other process has ended")
    return data


def _bytes(number: int) -> bytes:
    return number.to_bytes(WORD, "little", signed=True)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


SERVERS = ForkServers()
"""The servers of this process."""

# -- what runs in the server


def _serve(connection: socket.socket) -> None:
    """Fork on request, and report how children ended, until the connection is closed and the last one has ended."""
    waking, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    watched: list[Any] = [connection, waking]
    while connection in watched or running:
        ready, _, _ = select.select(watched, [], [])
        if waking in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(waking, 4096)
            _report_ended(running)
        if connection in ready:
            data, files, _, _ = socket.recv_fds(connection, WORD, 3)
            request = _number(data)
            if not data:
                watched.remove(connection)
            elif request < 0:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-request, 0)
            else:
                message = _received(connection, request)
                pid = os.fork()
                if pid == 0:
                    _become_child(files, message, (connection.fileno(), waking, wakes, *running.values()))
                running[pid] = files[2]
                for file in files[:2]:
                    os.close(file)
                connection.sendall(_bytes(pid))


def _report_ended(running: dict[int, int]) -> None:
    """Write the status of each child that has ended to its file; the owner says when its number is free again."""
    for pid in list(running):
        if ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            exited = ended.si_code == os.CLD_EXITED
            file = running.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(file, _bytes(ended.si_status if exited else -ended.si_status))
            os.close(file)


def _become_child(files: list[int], message: bytes, others: tuple[int, ...]) -> NoReturn:
    """Leave the server behind, and call the function that was asked for."""
    status = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection, output, report = files
        for file in (report, *others):
            os.close(file)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        function, environment, sys.path[:], folder = pickle.loads(message)
        os.environ.clear()
        os.environ.update(environment)
        if folder:
            os.chdir(folder)
        _seed()
        _open_databases()
        function(connection)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _seed() -> None:
    """Give random generators a state that no other child has."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _open_databases() -> None:
    """Open loopy's databases once more, since SQLite forbids the use of a connection after a fork.

    The old connections stay open: closing one in a child is forbidden, too.
    """
    if not (module := sys.modules.get("pytools.persistent_dict")):
        return
    for database in [found for found in gc.get_objects() if isinstance(found, module.PersistentDict.__mro__[1])]:
        _LEFT_OPEN.append(database.conn)
        database.conn = sqlite3.connect(database.filename, isolation_level=None, check_same_thread=False)
        for setting in ("temp_store = 'MEMORY'", "synchronous = 'OFF'"):
            database.conn.execute(f"PRAGMA {setting}")


_LEFT_OPEN: list[Any] = []


def _import(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            __import__(name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of forks beside threads: those of OpenBLAS survive it
    _import(sys.argv[2:])
    gc.collect()
    gc.freeze()  # memory that the collector does not touch stays shared
    gc.set_threshold(50_000, 20, 20)  # generating code makes many objects that live long
    with socket.socket(fileno=int(sys.argv[1])) as _connection:
        _serve(_connection)
