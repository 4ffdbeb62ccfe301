"""Processor time of other processes, from Linux's /proc: what they would take on cores that are free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> set[int]:
    """Processes below a process, at any depth."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child, *descendants(child)}
    return found


def spent(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rates(collect: Callable[[], int], seconds: float, workers: set[int]) -> tuple[float, float]:
    """Environment steps a second: on the clock, and by processor time.

    The latter divides by what this thread spent and what the busiest worker spent besides: the time on cores that are
    free, waiting not counted.
    """
    before = {pid: spent(pid) for pid in workers}
    began, own, count = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - began < seconds:
        count += collect()
    took, own = time.perf_counter() - began, time.thread_time() - own
    busiest = max((spent(pid) - before[pid] for pid in workers), default=0.0)
    return count / took, count / (own + busiest)
