"""The side of the child: reads jobs from its input, does them, and ends when its parent does."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import Any

_WATCH_SECONDS = 0.5


def main() -> None:
    """Entry point of a worker process: `sys.argv` holds the path, the function, and the parent's id."""
    _, _, function, parent = sys.argv
    answers = os.fdopen(os.dup(1), "w")
    # What native code prints must not mix with the answers.
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    module, _, name = function.partition(":")
    jobs = importlib.import_module(module)
    run = getattr(jobs, name)
    jobs.prepare()

    def answer(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer(ready=True)
    for line in sys.stdin:
        message = json.loads(line)
        sys.path[:] = message["path"]
        answer(result=run(message["job"], lambda event: answer(event=event)))
    os._exit(0)  # nothing is left to tear down, and native libraries may not survive it


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even in the middle of a job."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
