"""Executables under load: memory over many calls, threads, and results that stay as they are."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from plait.backends import compile_graph
from plait.backends.executable import Executable

from .test_executable import arguments, network

_CALLS = 1000
_WARM_UP = 200


@pytest.fixture(scope="module")
def exe() -> Executable:
    return compile_graph(network(), "cpu")


def resident_bytes() -> int:
    """Memory of this process that is in RAM, without what the allocator keeps for later.

    Else results that are kept could fill memory that earlier tests freed, and show as no growth.
    """
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_calls_leak_nothing(exe: Executable) -> None:
    inputs = {batch: arguments(batch) for batch in (1, 7, 16)}

    def call(times: int) -> None:
        for number in range(times):
            exe(*inputs[(1, 7, 16)[number % 3]])

    call(_WARM_UP)
    gc.collect()
    before = resident_bytes()
    call(_CALLS)
    gc.collect()
    # A result that stayed alive would add 16 x 4 x 36 x 4 bytes a call: some 3 MB of about 500.
    growth = resident_bytes() - before
    assert growth < 0.01 * before
    assert growth < 2_000_000


def test_a_leak_would_be_seen(exe: Executable) -> None:
    """The measurement above sees results that are kept."""
    image, shift = arguments(16)
    kept = [exe(image, shift) for _ in range(_WARM_UP)]
    before = resident_bytes()
    kept += [exe(image, shift) for _ in range(_CALLS)]
    assert resident_bytes() - before > 4_000_000
    assert len(kept) == _WARM_UP + _CALLS


def test_loading_again_and_again_leaks_little(exe: Executable, tmp_path: Path) -> None:
    from plait.backends import load_executable

    exe.save(tmp_path / "net")

    def load(times: int) -> None:
        for _ in range(times):
            load_executable(tmp_path / "net")(*arguments())
        gc.collect()

    load(20)
    before = resident_bytes()
    load(100)
    # The code of a library stays mapped: TVM cannot know that nothing points to it.
    assert resident_bytes() - before < 0.05 * before


def test_threads_call_one_executable(exe: Executable) -> None:
    wanted = {batch: [result.copy() for result in exe(*arguments(batch))] for batch in (1, 2, 3, 4)}
    wrong: list[str] = []
    start = threading.Barrier(len(wanted))

    def work(batch: int) -> None:
        start.wait()
        kept = [exe(*arguments(batch)) for _ in range(50)]
        for results in kept:
            for got, want in zip(results, wanted[batch], strict=True):
                if not np.array_equal(got, want):
                    wrong.append(f"batch {batch}")

    threads = [threading.Thread(target=work, args=(batch,)) for batch in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_of_earlier_calls_stay_as_they_are(exe: Executable) -> None:
    rng = np.random.default_rng(1)
    kept, copies = [], []
    for _ in range(50):
        image = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
        results = exe(image, np.zeros(4, np.float32))
        kept.append(results)
        copies.append([result.copy() for result in results])
    for results, wanted in zip(kept, copies, strict=True):
        for got, want in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    starts = {result.ctypes.data for results in kept for result in results}
    assert len(starts) == 2 * len(kept)
