"""Kernels of an executable one by one, on the device that it runs on: their results and their times."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from plait.backends.kernels import Kernel

#: Launches between two readings of the clock last at least so long.
_SPAN_MS = 1
#: What tells the virtual machine to go on with the call.
_GO_ON = 0


@dataclass
class KernelCall:
    """One call of a kernel in one run.

    Attributes:
        function: name of the function that the host calls; on a GPU it launches `<function>_kernel`.
        ops: results of the ops it computes, without %; empty in the body of a loop.
        opnames: the kinds of those ops.
        dims: shape of each array it takes and fills, the last ones being its results.
        dtypes: element types of those arrays.
        median_us: median time of a call, in microseconds.
        repeats: number of times the clock was read.
        results: the arrays that it filled, as many as the last of `ops` has results.
    """

    function: str
    ops: tuple[str, ...]
    opnames: tuple[str, ...]
    dims: list[list[int]]
    dtypes: list[str]
    median_us: float
    repeats: int
    results: list[np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """All but the results, as JSON can hold them."""
        return {name: value for name, value in asdict(self).items() if name != "results"}


class KernelMeter:
    """Watches a virtual machine and measures each kernel once more when it has run.

    Args:
        root: module of the executable; its functions are those that the machine calls.
        device: where it runs.
        kernels: the kernel table.
        result_counts: how many results each op has.
        repeats: number of times the clock is read for each kernel.
    """

    def __init__(
        self,
        root: Any,
        device: Any,
        kernels: Sequence[Kernel],
        result_counts: dict[str, int],
        repeats: int,
    ) -> None:
        self._root, self._device, self._repeats = root, device, repeats
        self._kernels = {re.sub(r"_kernel(_\d+)?$", "", kernel.name): kernel for kernel in kernels}
        self._kernels.update({kernel.name: kernel for kernel in kernels})
        self._result_counts = result_counts
        self._calls: Counter[str] = Counter()
        self.calls: list[KernelCall] = []

    def machine(self) -> Any:
        """A virtual machine that this meter watches."""
        machine = relax.VirtualMachine(self._root, self._device)
        machine.set_instrument(self._watch)
        return machine

    def _watch(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        kernel = self._kernels.get(name)
        if before or kernel is None:
            return _GO_ON
        arrays = [argument for argument in arguments if isinstance(argument, tvm.runtime.Tensor)]
        ops = self._site(name, kernel)
        count = self._result_counts.get(ops[-1], 1) if ops else 1
        results = [array.numpy() for array in arrays[-count:]]
        # A kernel reads none of its results, so that running it again changes nothing.
        evaluate = self._host().time_evaluator(
            name, self._device, number=1, repeat=self._repeats, min_repeat_ms=_SPAN_MS
        )
        seconds = evaluate(*arguments).results
        self.calls.append(
            KernelCall(
                name,
                ops,
                kernel.opnames if ops else (),
                [list(map(int, array.shape)) for array in arrays],
                [str(array.dtype) for array in arrays],
                statistics.median(seconds) * 1e6,
                len(seconds),
                results,
            )
        )
        return _GO_ON

    def _host(self) -> Any:
        """The module of the host functions."""
        root = getattr(self._root, "mod", self._root)
        return root.imports[0]

    def _site(self, name: str, kernel: Kernel) -> tuple[str, ...]:
        """The ops that this call computes; none beyond those of the table, as in the body of a loop."""
        size = len(kernel.opnames)
        start = self._calls[name] * size
        self._calls[name] += 1
        return kernel.ops[start : start + size]


def last_of_each_site(calls: Sequence[KernelCall]) -> list[KernelCall]:
    """The calls whose results are those of ops: where several kernels compute the same ops, the last."""
    last = {call.ops: number for number, call in enumerate(calls) if call.ops}
    return [calls[number] for number in sorted(last.values())]


__all__ = ["KernelCall", "KernelMeter", "last_of_each_site"]
