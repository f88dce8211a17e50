"""The side of the caller: a child process that does jobs one after another, and is replaced when it dies.

Jobs and answers are lines of JSON. The child is started anew, never forked: TVM's and
torch's threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from plait.ir import CompileError

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from plait.backends.worker import child; child.main()"
)
_OUTPUT_BYTES = 64 << 10
_STOP_SECONDS = 2.0
_CAUSES = {
    "SIGKILL": "the system kills a process when memory runs out",
    "SIGSEGV": "native code read or wrote memory that is not its own",
    "SIGABRT": "native code gave up on an error of its own",
}
#: A child that has not said that it is ready by then never will.
_START_SECONDS = 300.0


class WorkerDied(Exception):
    """The child ended, or was stopped, in the middle of a job.

    Attributes:
        reason: "crashed (SIGSEGV)", "gave no answer for 60 s", ...
        cause: what commonly lies behind it, or None.
        output: the last of what the child wrote to its output.
    """

    def __init__(self, reason: str, cause: str | None, output: str) -> None:
        super().__init__(reason)
        self.reason, self.cause, self.output = reason, cause, output


class Worker:
    """A child process that runs a function on one job after another.

    The child is started by the first job (or `start`), and ends with this process.
    Threads may share a worker: their jobs wait for each other.

    Args:
        function: `package.module:name` of a function of the job and of a function to report events with.
            The module also has a function `prepare`, which runs before the first job.
    """

    def __init__(self, function: str) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._waiting = b""
        self._ready = False
        _WORKERS.add(self)

    def start(self) -> None:
        """Start the child, if it is not there, without waiting until it is ready."""
        if self._lock.acquire(blocking=False):  # else it is at work already
            try:
                self._ensure()
            finally:
                self._lock.release()

    def run(
        self,
        job: Mapping[str, Any],
        *,
        report: Callable[[dict[str, Any]], None] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Do a job.

        Args:
            job: what JSON can hold.
            report: called with each event that the function reports.
            seconds: after which the child is stopped.

        Returns:
            What the function returned.

        Raises:
            WorkerDied: the child crashed, was killed, or took too long; the next job starts another.
            CompileError: the child cannot be started.
        """
        with self._lock:
            try:
                self._ensure()
                written = self._written()
                self._send({"path": sys.path, "job": dict(job)})
                return self._answer(report, seconds, written)
            except BaseException:
                # Whatever happened, an answer that comes late must not be taken for that of the next job.
                self._stop()
                raise

    def close(self) -> None:
        """Stop the child."""
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int | None:
        """Of the child; None while there is none."""
        return None if self._process is None else self._process.pid

    def forget(self) -> None:
        """Leave the child to the process that this one was forked from."""
        self._lock = threading.Lock()
        self._process = self._output = None

    # -- the child -----------------------------------------------------------------
    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), self._function, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            start_new_session=True,  # an interrupt from the keyboard is for this process to act on
        )
        self._waiting = b""
        self._ready = False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        if process.poll() is None:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        if self._output is not None:
            self._output.close()
            self._output = None

    # -- messages ------------------------------------------------------------------
    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: reading the answer says why

    def _answer(
        self, report: Callable[[dict[str, Any]], None] | None, seconds: float | None, written: int
    ) -> dict[str, Any]:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                line = self._line(deadline if self._ready else time.monotonic() + _START_SECONDS)
            except TimeoutError:
                limit = seconds if self._ready else _START_SECONDS
                raise self._death(f"gave no answer within {limit:g} s", None, written) from None
            if line is None:
                raise self._death(*self._ending(), written)
            message = json.loads(line)
            if "ready" in message:
                self._ready = True
                # Starting takes some seconds, which are no part of the job.
                deadline = None if seconds is None else time.monotonic() + seconds
            elif "result" in message:
                return dict(message["result"])
            elif report is not None:
                report(message["event"])

    def _line(self, deadline: float | None) -> bytes | None:
        """The next line of the child; None when it has ended.  Raises TimeoutError at the deadline."""
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while b"\n" not in self._waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([stream], [], [], left)[0]:
                raise TimeoutError
            found = os.read(stream, 1 << 20)
            if not found:
                return None
            self._waiting += found
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line

    def _death(self, reason: str, cause: str | None, written: int) -> Exception:
        output = self._text(written)
        if self._ready:
            return WorkerDied(reason, cause, output)
        return CompileError(
            f"the worker process of the compiler {reason} before it was ready",
            why=output.strip()[-500:] or cause,
            remedy="compile with isolate=False to see the error in this process",
        )

    def _ending(self) -> tuple[str, str | None]:
        """How the child ended, and what commonly lies behind it."""
        assert self._process is not None
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its output", None
        if code >= 0:
            return f"ended with code {code}", None
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"crashed ({name})", _CAUSES.get(name)

    def _written(self) -> int:
        return 0 if self._output is None else os.fstat(self._output.fileno()).st_size

    def _text(self, start: int) -> str:
        """What the child has written to its output since `start`, or the end of that."""
        if self._output is None:
            return ""
        end = self._written()
        start = max(start, end - _OUTPUT_BYTES)
        return os.pread(self._output.fileno(), end - start, start).decode(errors="replace")


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


def _forget_all() -> None:
    for worker in list(_WORKERS):
        worker.forget()


os.register_at_fork(after_in_child=_forget_all)
