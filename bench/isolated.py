"""Running jobs in child processes, so that a crash or a hang costs one job and not the run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Job = TypeVar("Job")


@dataclass
class _Child:
    process: Any
    pipe: Any
    job: Any
    deadline: float


def run_isolated(
    jobs: Sequence[Job], work: Callable[[Job], Any], *, workers: int, seconds: float
) -> Iterator[tuple[Job, Any]]:
    """Each job with what `work` returned in a forked child, or with an `Exception` that says how it ended.

    The children share what the parent has loaded and computed.  Results come in the order
    in which jobs finish.

    Args:
        workers: children alive at a time.
        seconds: after which a child is killed.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(jobs))
    running: list[_Child] = []
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(there, work, job), daemon=True)
            process.start()
            there.close()
            running.append(_Child(process, here, job, time.monotonic() + seconds))
        pause = max(0.0, min(child.deadline for child in running) - time.monotonic())
        ready = multiprocessing.connection.wait([child.pipe for child in running], pause)
        for child in list(running):
            if child.pipe in ready:
                try:
                    found = child.pipe.recv()
                except (EOFError, OSError):
                    child.process.join()
                    found = RuntimeError(f"the process ended with code {child.process.exitcode}")
            elif time.monotonic() >= child.deadline:
                child.process.kill()
                found = TimeoutError(f"no result after {seconds:.0f} s")
            else:
                continue
            child.process.join()
            child.pipe.close()
            running.remove(child)
            yield child.job, found


def _child(pipe: Any, work: Callable[[Any], Any], job: Any) -> None:
    try:
        found = work(job)
    except Exception as error:  # the parent reports it as the outcome of this job
        found = RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send(found)
    pipe.close()
    os._exit(0)  # a forked child has nothing to tear down, and native libraries may not survive it
