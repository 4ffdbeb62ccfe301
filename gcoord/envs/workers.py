"""Copies of a world in worker processes: arrays through shared memory, one-byte tokens through pipes.

Workers are fresh interpreters, not forks: a fork of a process whose torch threads hold locks may never return from
its next torch call, and multiprocessing's spawn and forkserver import the caller's main module again. The memory is
anonymous and handed over by file descriptor, so that nothing has a name that could be left behind.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gcoord.envs.copies import Copies, Fields, WorldError, lay_out, one_line, size_of
from gcoord.envs.recipe import Recipe
from gcoord.envs.spaces import Layout

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gcoord.envs.workers import serve; serve()"
SINGLE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Finalizer = weakref.finalize


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text: the cause of the one raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Workers:
    """`count` processes that share `num_envs` copies of a world.

    `arrays` are the shared arrays; `reset`, `step` and `replay` return when every worker has written its rows. They
    raise RuntimeError in one line where a world fails, or where a worker dies, and then close everything.
    """

    def __init__(self, recipe: Recipe, layout: Layout, fields: Fields, num_envs: int, count: int) -> None:
        size = size_of(fields)
        with _anonymous_file(size) as file:
            self.arrays = lay_out(fields, mmap.mmap(file, size))
            edges = [num_envs * w // count for w in range(count + 1)]
            self.rows = [range(first, end) for first, end in itertools.pairwise(edges)]
            self._processes: list[subprocess.Popen[bytes]] = []
            self._pipes: list[Connection] = []
            self._lifelines: list[int] = []
            self._owed = [False] * count
            # The finalizer also runs at the interpreter's exit; it must not hold `self`.
            self._finalizer = Finalizer(self, _stop, self._processes, self._pipes, self._lifelines, os.getpid())
            try:
                for _ in range(count):
                    self._start(file)
                for w, rows in enumerate(self.rows):
                    self._tell(w, (recipe, layout, fields, rows))
                self._gather()
            except BaseException:
                self.close()
                raise

    @property
    def pids(self) -> list[int]:
        """Process id of each worker."""
        return [process.pid for process in self._processes]

    def reset(self) -> None:
        """Restarts every copy with its next seed."""
        self._all(b"r")

    def step(self) -> None:
        """One step of every copy."""
        self._all(b"s")

    def replay(self, episodes: dict[int, tuple[int, np.ndarray]]) -> None:
        """Brings the numbered copies back to where they stood: number -> (episode seed, actions [t, N, ...])."""
        self._gather()
        for w, rows in enumerate(self.rows):
            mine = {b: episode for b, episode in episodes.items() if b in rows}
            self._tell(w, b"p", mine)
        self._gather()

    def close(self) -> None:
        """Stops every worker, by force where it does not stop by itself; safe to call twice."""
        self._finalizer()

    def _start(self, memory: int) -> None:
        ours, theirs = Pipe()
        lifeline_read, lifeline = os.pipe()
        passed = (theirs.fileno(), lifeline_read, memory)
        command = [sys.executable, "-c", BOOT, json.dumps(sys.path), *map(str, passed)]
        environment = {**os.environ, **dict.fromkeys(SINGLE_THREAD, "1"), "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
        try:
            # A group of its own: Ctrl-C reaches the parent alone, which decides when workers stop.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=passed, env=environment, process_group=0
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        self._processes.append(process)
        self._pipes.append(ours)
        self._lifelines.append(lifeline)

    def _all(self, token: bytes) -> None:
        # A step interrupted by Ctrl-C leaves answers behind: they are read first.
        self._gather()
        for w in range(len(self._pipes)):
            self._tell(w, token)
        self._gather()

    def _tell(self, w: int, *messages: Any) -> None:
        """Sends tokens as they are, all else pickled."""
        if not self._finalizer.alive:
            raise RuntimeError("expected workers that run (got a closed environment)")
        try:
            for message in messages:
                if isinstance(message, bytes):
                    self._pipes[w].send_bytes(message)
                else:
                    self._pipes[w].send(message)
        except OSError:
            self._mourn(w)
        self._owed[w] = True

    def _gather(self) -> None:
        failure = None
        for w, owed in enumerate(self._owed):
            if not owed:
                continue
            try:
                answer = self._pipes[w].recv_bytes()
            except (EOFError, OSError):
                self._mourn(w)
            self._owed[w] = False
            if answer and failure is None:
                message, trace = json.loads(answer)
                failure = WorldError(f"{message} (worker {w})"), WorkerTraceback(trace)
        if failure is not None:
            self.close()
            raise failure[0] from failure[1]

    def _mourn(self, w: int) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[w].wait(timeout=5)
        code = self._processes[w].returncode
        if code is None:
            how = "closed its pipe"
        else:
            how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        rows = self.rows[w]
        self.close()
        which = f"environment {rows[0]}" if len(rows) == 1 else f"environments {rows[0]} to {rows[-1]}"
        raise WorldError(f"worker {w} died ({how}), and with it {which}; the workers are stopped") from None


def _stop(processes: list[subprocess.Popen[bytes]], pipes: list[Connection], lifelines: list[int], owner: int) -> None:
    """Closed pipe: leave after closing the worlds. Closed lifeline: leave at once. Then by force."""
    if os.getpid() != owner:
        return
    for pipe in pipes:
        pipe.close()
    _wait(processes, 2.0)
    for lifeline in lifelines:
        os.close(lifeline)
    _wait(processes, 0.5)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, end - time.monotonic()))


@contextlib.contextmanager
def _anonymous_file(size: int) -> Iterator[int]:
    """A file descriptor of `size` bytes of memory without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gcoord", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def serve() -> None:
    """The worker's main: builds its copies, then answers tokens until its pipe closes."""
    pipe_fd, lifeline, memory_fd = map(int, sys.argv[2:5])
    # Where the parent is gone, however it went and whatever the world is doing, this process goes too.
    threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(0)), daemon=True).start()
    pipe = Connection(pipe_fd)
    copies: Copies | None = None
    with contextlib.suppress(EOFError, ConnectionError):
        recipe, layout, fields, rows = pipe.recv()
        memory = mmap.mmap(memory_fd, size_of(fields))
        os.close(memory_fd)
        answer = b""
        try:
            copies = Copies(recipe, layout, lay_out(fields, memory), rows, own_process=True)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
        except Exception as error:
            answer = _report(error)
        pipe.send_bytes(answer)
        while copies is not None:
            token = pipe.recv_bytes()
            try:
                if token == b"s":
                    copies.step()
                elif token == b"r":
                    copies.reset()
                else:
                    copies.replay(pipe.recv())
                answer = b""
            except Exception as error:
                answer = _report(error)
            pipe.send_bytes(answer)
    if copies is not None:
        copies.close()


def _report(error: Exception) -> bytes:
    said = str(error) if isinstance(error, WorldError) else one_line(error)
    return json.dumps([said, "".join(traceback.format_exception(error))]).encode()
