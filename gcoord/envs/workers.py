"""Copies of a world in worker processes: arrays through shared memory, tokens through pipes.

Workers are fresh interpreters, not forks: a fork of a process whose torch threads hold locks may never return from
its next torch call, and multiprocessing's spawn and forkserver import the caller's main module again. The memory is
anonymous and handed over by file descriptor, so that nothing has a name that could be left behind.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np

from gcoord.envs.copies import Copies, Fields, WorldError, episode_seed, lay_out, one_line, size_of
from gcoord.envs.recipe import Recipe
from gcoord.envs.spaces import Layout

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gcoord.envs.workers import serve; serve()"
SINGLE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Bytes above which a fragment's memory is given back while its rows are learnt from.
LARGE = 2**28
Finalizer = weakref.finalize


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text: the cause of the one raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Workers:
    """`count` processes that share `num_envs` copies of a world.

    `arrays` are the shared arrays; `reset`, `step`, `collect` and `replay` return when every worker has written its
    rows. They raise RuntimeError in one line where a world fails, and then close everything.

    A worker that dies in a reset, a step or a fragment is started again, once in the life of this object: its copies
    begin episodes of later seeds, `restarts` counts it, what is lost is logged in one line, and the next call of
    `take_lost` names the copies. The second death of any is the end, as is one at the start or in a replay.
    """

    def __init__(self, recipe: Recipe, layout: Layout, fields: Fields, num_envs: int, count: int) -> None:
        edges = [num_envs * w // count for w in range(count + 1)]
        self.rows = [range(first, end) for first, end in itertools.pairwise(edges)]
        self.restarts = 0
        self._lost = np.zeros(num_envs, dtype=bool)
        self._hands = [(recipe, layout, fields, rows) for rows in self.rows]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._lifelines: list[int] = []
        self._files: list[int] = []
        self._owed = [False] * count
        # How a worker that is started again learns what the others were told of fragments; None before.
        self._planned: tuple[bytes, Any] | None = None
        self._memory: mmap.mmap | None = None
        # The finalizer also runs at the interpreter's exit; it must not hold `self`.
        self._finalizer = Finalizer(
            self, _stop, self._processes, self._pipes, self._lifelines, self._files, os.getpid()
        )
        try:
            size = size_of(fields)
            self._files.append(_anonymous_file(size))
            self.arrays = lay_out(fields, mmap.mmap(self._files[0], size))
            for w in range(count):
                self._start(w)
            for w, hand in enumerate(self._hands):
                self._tell(w, hand)
            self._hear()
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
        self._catch_up()
        for w, rows in enumerate(self.rows):
            mine = {b: episode for b, episode in episodes.items() if b in rows}
            self._tell(w, b"p", mine)
        self._hear()

    def prepare(self, plan: Any, fields: Fields) -> tuple[dict[str, np.ndarray], str]:
        """Tells every worker how to act by itself; gives the arrays of its fragments, and what went wrong, if it did.

        plan: a `gcoord.envs.fragments.Plan`, whose `fields` lie in memory that is shared with the workers.
        """
        self._catch_up()
        size = size_of(fields)
        file = _anonymous_file(size)
        for old in self._files[1:]:
            os.close(old)
        self._files[1:] = [file]
        self._planned = (b"a", plan)
        failure = self._all(*self._planned, closes=False)
        if failure is not None:
            self._planned = None
        self._memory = mmap.mmap(file, size)
        return lay_out(fields, self._memory), "" if failure is None else str(failure)

    def collect(self, steps: int, key: int, epsilon: float) -> None:
        """A fragment of every copy."""
        self._catch_up()
        progress = self.arrays["progress"]
        progress[:] = 0
        self._all(b"f", (steps, key, epsilon))
        progress[:] = 0

    def give_back(self) -> None:
        """Lets go of what a large fragment took; every field of it is written anew by the next."""
        if self._memory is not None and len(self._memory) > LARGE and hasattr(mmap, "MADV_REMOVE"):
            self._memory.madvise(mmap.MADV_REMOVE)

    def take_lost(self) -> np.ndarray:
        """[B] bool: copies whose worker was started again since the last call."""
        lost, self._lost = self._lost, np.zeros_like(self._lost)
        return lost

    def close(self) -> None:
        """Stops every worker, by force where it does not stop by itself; safe to call twice."""
        self._finalizer()

    def _start(self, w: int) -> None:
        ours, theirs = Pipe()
        lifeline_read, lifeline = os.pipe()
        passed = (theirs.fileno(), lifeline_read, self._files[0])
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
        parts: tuple[tuple[list[Any], Any], ...] = (
            (self._processes, process),
            (self._pipes, ours),
            (self._lifelines, lifeline),
        )
        for place, one in parts:
            place[w : w + 1] = [one]

    def _all(self, *messages: Any, closes: bool = True) -> WorldError | None:
        """Tells every worker the same and waits for all; who is dead is started again and told once more.

        A failure closes everything and is raised, or else is returned.
        """
        self._catch_up()
        dead = [w for w in range(len(self._pipes)) if not self._send(w, *messages)]
        found, failure = self._gather()
        for w in [*dead, *found]:
            self._start_again(w)
            if self._planned is not None and messages != self._planned:
                self._tell(w, *self._planned)
                self._hear()
            self._tell(w, *messages)
            failure = self._hear(closes) or failure
        if failure is not None and closes:
            self.close()
            raise failure
        return failure

    def _catch_up(self) -> None:
        """Reads the answers that a call left behind when Ctrl-C interrupted it."""
        # Who died meanwhile is found out when it is told something next.
        _, failure = self._gather()
        if failure is not None:
            self.close()
            raise failure

    def _send(self, w: int, *messages: Any) -> bool:
        """Sends tokens as they are, all else pickled; False where nobody is there to read."""
        if not self._finalizer.alive:
            raise RuntimeError("expected workers that run (got a closed environment)")
        try:
            for message in messages:
                if isinstance(message, bytes):
                    self._pipes[w].send_bytes(message)
                else:
                    self._pipes[w].send(message)
            if messages[0] == b"a":
                with socket.socket(fileno=os.dup(self._pipes[w].fileno())) as way:
                    socket.send_fds(way, [b"m"], self._files[1:])
        except OSError:
            return False
        self._owed[w] = True
        return True

    def _tell(self, w: int, *messages: Any) -> None:
        if not self._send(w, *messages):
            self._mourn(w)

    def _hear(self, closes: bool = True) -> WorldError | None:
        """Waits for all who owe an answer; a death is the end, and so is a failure if it `closes`."""
        dead, failure = self._gather()
        if dead:
            self._mourn(dead[0])
        if failure is not None and closes:
            self.close()
            raise failure
        return failure

    def _gather(self) -> tuple[list[int], WorldError | None]:
        """Waits for all who owe an answer: who died meanwhile, and what failed first."""
        dead: list[int] = []
        failure: WorldError | None = None
        for w, owed in enumerate(self._owed):
            if not owed:
                continue
            try:
                answer = self._pipes[w].recv_bytes()
            except (EOFError, OSError):
                answer = b""
                dead.append(w)
            self._owed[w] = False
            if answer and failure is None:
                message, trace = json.loads(answer)
                failure = WorldError(f"{message} (worker {w})")
                failure.__cause__ = WorkerTraceback(trace)
        return dead, failure

    def _start_again(self, w: int) -> None:
        """A new process for the copies of one that died; the seeds of their episodes go on beyond what it met."""
        if self.restarts:
            self._mourn(w)
        how = self._how(w)
        self.restarts += 1
        process, pipe, lifeline = self._processes[w], self._pipes[w], self._lifelines[w]
        rows, arrays = self.rows[w], self.arrays
        lost = int(arrays["progress"][rows].sum()) + len(rows)
        for name, array in arrays.items():
            if name not in ("seed", "episode"):
                array[rows] = 0
        arrays["episode"][rows] += 1
        for b in rows:
            arrays["next_seed"][b] = episode_seed(int(arrays["seed"][0]), b, int(arrays["episode"][b]) + 1)
        self._lost[rows] = True
        logging.getLogger("gcoord").warning(
            "worker %d died (%s) and is started again: %d rows of %s are lost, and episodes of later seeds begin; "
            "another death ends the run",
            w, how, lost, _named(rows),
        )  # fmt: skip
        self._start(w)
        pipe.close()
        os.close(lifeline)
        process.kill()
        process.wait()
        self._tell(w, self._hands[w])
        self._hear()

    def _how(self, w: int) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[w].wait(timeout=5)
        code = self._processes[w].returncode
        if code is None:
            return "closed its pipe"
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def _mourn(self, w: int) -> NoReturn:
        how = self._how(w)
        self.close()
        after = ", the second death," if self.restarts else ""
        raise WorldError(
            f"worker {w} died ({how}){after} and with it {_named(self.rows[w])}; the workers are stopped"
        ) from None


def _named(rows: range) -> str:
    return f"environment {rows[0]}" if len(rows) == 1 else f"environments {rows[0]} to {rows[-1]}"


def _stop(
    processes: list[subprocess.Popen[bytes]],
    pipes: list[Connection],
    lifelines: list[int],
    files: list[int],
    owner: int,
) -> None:
    """Closed pipe: leave after closing the worlds. Closed lifeline: leave at once. Then by force."""
    if os.getpid() != owner:
        return
    for pipe in pipes:
        pipe.close()
    for file in files:
        os.close(file)
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


def _anonymous_file(size: int) -> int:
    """A file descriptor of `size` bytes of memory without a name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gcoord", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def serve() -> None:
    """The worker's main: builds its copies, then answers tokens until its pipe closes."""
    pipe_fd, lifeline, memory_fd = map(int, sys.argv[2:5])
    # Where the parent is gone, however it went and whatever the world is doing, this process goes too.
    threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(0)), daemon=True).start()
    pipe = Connection(pipe_fd)
    copies: Copies | None = None
    actor: Any = None
    with contextlib.suppress(EOFError, ConnectionError):
        recipe, layout, fields, rows = pipe.recv()
        arrays = lay_out(fields, mmap.mmap(memory_fd, size_of(fields)))
        os.close(memory_fd)
        answer = b""
        try:
            copies = Copies(recipe, layout, arrays, rows, own_process=True)
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
                elif token == b"f":
                    fragment = pipe.recv()
                    actor.collect(*fragment)
                elif token == b"a":
                    # All is read before anything can fail. Here torch is loaded, unless the world needed it before.
                    told, memory = pipe.recv_bytes(), _received_memory(pipe)
                    actor = pickle.loads(told).actor(copies, arrays, memory, rows)
                else:
                    copies.replay(pipe.recv())
                answer = b""
            except Exception as error:
                answer = _report(error)
            pipe.send_bytes(answer)
    if copies is not None:
        copies.close()


def _received_memory(pipe: Connection) -> mmap.mmap:
    """The memory whose descriptor comes next through the pipe."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as way:
        _, (descriptor,), _, _ = socket.recv_fds(way, 1, 1)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def _report(error: Exception) -> bytes:
    said = str(error) if isinstance(error, WorldError) else one_line(error)
    return json.dumps([said, "".join(traceback.format_exception(error))]).encode()
