"""The work of a sweep, done in this process or shared out among others that end when this one does.

Workers are fresh interpreters that read jobs from their standard input, one JSON line each, and answer with one line
each. When the input ends (the sweep is over, or was killed) they end at once, whatever they are doing.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gcoord.scaleup.cells import Cell
from gcoord.scaleup.playing import Stage
from gcoord.scaleup.trainings import Training

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gcoord.scaleup.jobs import serve; serve()"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A cell to be played (and kept in `folder`), or a run to be trained, once the trainings in `needs` are done."""

    work: Cell | Training
    folder: str = ""
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What others need it by."""
        return self.work.folder if isinstance(self.work, Training) else ""

    @property
    def is_done(self) -> bool:
        if isinstance(self.work, Training):
            return self.work.is_finished()
        return self.work.load(Path(self.folder)) is not None

    def do(self, stage: Stage) -> None:
        if isinstance(self.work, Training):
            stage.close()
            self.work.perform()
        elif not self.is_done:
            self.work.save(Path(self.folder), stage.play(self.work))

    def line(self) -> str:
        """As one line of JSON."""
        kind = type(self.work).__name__
        return json.dumps({"kind": kind, "work": asdict(self.work), "folder": self.folder}) + "\n"

    @staticmethod
    def read(line: str) -> Job:
        """The inverse of `line`; what it needs has been done by then."""
        content = json.loads(line)
        kind: Any = {"Cell": Cell, "Training": Training}[content["kind"]]
        return Job(kind(**content["work"]), content["folder"])


@dataclass
class Failure:
    """A job that came to nothing, and why, in one line."""

    words: str
    reason: str


@dataclass
class Ledger:
    """Which jobs are open, running and done."""

    open: list[Job]
    done: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)

    def take(self) -> Job | None:
        """The next job that needs nothing more; None where all that is left waits."""
        for job in self.open:
            if self.done.issuperset(job.needs):
                self.open.remove(job)
                return job
        return None

    def finish(self, job: Job, reason: str = "") -> None:
        """Notes how a job ended; what needed one that failed fails with it."""
        if not reason:
            self.done.add(job.name)
            return
        self.failures.append(Failure(job.work.words, reason))
        if job.name:
            lost = [other for other in self.open if job.name in other.needs]
            self.open = [other for other in self.open if job.name not in other.needs]
            for other in lost:
                self.finish(other, f"what it begins from failed: {job.work.words}")


def do_all(jobs: Sequence[Job], processes: int, say: Callable[[str], None]) -> list[Failure]:
    """Does all jobs that are not done yet, trainings first; gives those that failed.

    With one process, or one job, everything happens here, else in `processes` others of one thread each.
    """
    ledger = Ledger([])
    trainings = {job.name: job for job in jobs if job.name}
    for job in [*trainings.values(), *(job for job in jobs if not job.name)]:
        if all(name in ledger.done for name in job.needs) and job.is_done:
            ledger.finish(job)
        else:
            ledger.open.append(job)
    total = len(ledger.open)
    if not total:
        return []
    count = 0

    def told(job: Job, seconds: float, reason: str) -> None:
        nonlocal count
        count += 1
        say(f"[{count}/{total}] {job.work.words}: {f'failed, {reason}' if reason else f'{seconds:.1f} s'}")

    if min(processes, total) == 1:
        _here(ledger, told)
    else:
        _elsewhere(ledger, min(processes, total), told)
    return ledger.failures


def _here(ledger: Ledger, told: Callable[[Job, float, str], None]) -> None:
    stage = Stage()
    try:
        while (job := ledger.take()) is not None:
            began, reason = time.monotonic(), attempt(job, stage)
            ledger.finish(job, reason)
            told(job, time.monotonic() - began, reason)
    finally:
        stage.close()


def attempt(job: Job, stage: Stage) -> str:
    """Does a job; gives why it failed in one line, or nothing."""
    try:
        job.do(stage)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        stage.close()
        return " ".join(str(error).split()) or type(error).__name__
    return ""


class _Worker:
    """One process, and the job that it has."""

    def __init__(self) -> None:
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        command = [sys.executable, "-c", BOOT, json.dumps(sys.path)]
        # A group of its own: Ctrl-C reaches this process alone, which then ends the others by closing their input.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, process_group=0
        )
        self.job: Job | None = None
        self.began = 0.0

    def give(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.job, self.began = job, time.monotonic()
        try:
            self.process.stdin.write(job.line())
            self.process.stdin.flush()
        except OSError:
            # It has died; its output ends, which is where that is noticed.
            return

    def answer(self) -> str:
        """How its job ended: why it failed, or nothing."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return str(json.loads(line)["failed"])
        code = self.process.wait()
        return f"its process died ({f'signal {-code}' if code < 0 else f'exit {code}'}; out of memory?)"

    def close(self) -> None:
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                try:
                    end.close()
                except OSError:
                    continue
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _elsewhere(ledger: Ledger, processes: int, told: Callable[[Job, float, str], None]) -> None:
    workers = [_Worker() for _ in range(processes)]
    selector = selectors.DefaultSelector()
    for worker in workers:
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
    try:
        while True:
            for worker in [worker for worker in workers if worker.job is None]:
                if (job := ledger.take()) is not None:
                    worker.give(job)
            if all(worker.job is None for worker in workers):
                return
            for key, _ in selector.select():
                worker = key.data
                job, reason = worker.job, worker.answer()
                if job is None:
                    raise RuntimeError(f"expected a worker process that waits for its next job ({reason})")
                worker.job = None
                if worker.process.poll() is not None:
                    selector.unregister(worker.process.stdout)
                    worker.close()
                    workers[workers.index(worker)] = fresh = _Worker()
                    selector.register(fresh.process.stdout, selectors.EVENT_READ, fresh)  # type: ignore[arg-type]
                ledger.finish(job, reason)
                told(job, time.monotonic() - worker.began, reason)
    finally:
        selector.close()
        for worker in workers:
            worker.close()


def serve() -> None:
    """A worker's life: job after job from standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print is no answer.
    os.dup2(2, 1)
    torch.set_num_threads(1)
    jobs: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        # Whoever gives the jobs has gone, so that nobody waits for what is being done.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    stage = Stage()
    while True:
        answers.write(json.dumps({"failed": attempt(Job.read(jobs.get()), stage)}) + "\n")
        answers.flush()
