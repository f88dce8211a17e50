"""Example graphs of the NIR project: read, run on the CPU and by the interpreter, compared, and written back.

The files are those of the folder `paper` of github.com/neuromorphs/NIR (Pedersen et al., Nature
Communications 15, 2024).  Inputs are random spikes.  Spike trains are compared with those of snnTorch's
neurons, connected as the graph says: factors are rounded in another way there, so that trains may differ
where a potential meets its threshold up to rounding; how many do is told.  Files that the package `nir`
itself cannot read any more are listed with what it says.

Run: python bench/nir_examples.py --examples FOLDER [--steps 100] [--json PATH]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from common import write_results

import plait
from plait.frontends.nir import initial_states, lower_nir
from plait.ir.interpret import interpret

BATCH, DT = 2, 1e-4


def same(one: Any, other: Any) -> bool:
    """Whether two NIR graphs have equal nodes, parameters and edges."""
    if set(one.nodes) != set(other.nodes) or set(one.edges) != set(other.edges):
        return False
    for name, node in one.nodes.items():
        twin = other.nodes[name]
        if type(node) is not type(twin):
            return False
        if isinstance(node, nir.NIRGraph):
            if not same(node, twin):
                return False
            continue
        for key, value in vars(node).items():
            if key in ("input_type", "output_type", "metadata"):
                continue
            if not np.array_equal(np.asarray(value), np.asarray(getattr(twin, key))):
                return False
    return True


class Peer:
    """A NIR graph of one chain, with recurrent edges, on snnTorch's neurons that reset to 0 as they spike.

    snnTorch's own importer takes one of the files.  Factors dt/tau go into inputs and, for the potential of
    CubaLIF, into the threshold.
    """

    def __init__(self, source: Any, dt: float) -> None:
        import snntorch

        self.nodes, self.dt = source.nodes, dt
        self.into: dict[str, list[str]] = {}
        for start, end in source.edges:
            self.into.setdefault(end, []).append(start)
        self.neurons: dict[str, Any] = {}
        self.states: dict[str, Any] = {}
        self.before: dict[str, torch.Tensor] = {}
        for name, node in self.nodes.items():
            if not isinstance(node, (nir.IF, nir.LIF, nir.CubaLIF)):
                continue
            if np.any(node.v_reset):
                raise ValueError(f"{name} resets to {node.v_reset}")
            options = {"reset_mechanism": "zero", "reset_delay": False}
            level = self._tensor(node.v_threshold)
            if isinstance(node, nir.CubaLIF):
                if np.any(node.v_leak):
                    raise ValueError(f"{name} leaks to {node.v_leak}")
                alpha, beta = (1 - dt / self._tensor(tau) for tau in (node.tau_syn, node.tau_mem))
                level = level / (self._tensor(node.r) * dt / self._tensor(node.tau_mem))
                self.neurons[name] = snntorch.Synaptic(alpha, beta, threshold=level, **options)
            else:
                leak = 0.0 if isinstance(node, nir.IF) else dt / self._tensor(node.tau)
                beta = torch.ones_like(level) - leak
                self.neurons[name] = snntorch.Leaky(beta=beta, threshold=level, **options)

    @staticmethod
    def _tensor(array: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array), dtype=torch.float32)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [T, B, ...] -> the sequence of the output."""
        output = next(name for name, node in self.nodes.items() if isinstance(node, nir.Output))
        found = []
        with torch.no_grad():
            for step in x:
                self.now: dict[str, torch.Tensor] = {}
                self.open: set[str] = set()
                self.given = step
                found.append(self.value(output))
                self.before = dict(self.now)
        return torch.stack(found)

    def value(self, name: str) -> torch.Tensor:
        """What a node puts out in this step; in a cycle, what it did in the last one, at first 0."""
        if name in self.now:
            return self.now[name]
        if name in self.open:
            return self.before.get(name, torch.zeros(self.given.shape[0], *self.nodes[name].v_reset.shape))
        self.open.add(name)
        node = self.nodes[name]
        x = (
            self.given
            if isinstance(node, nir.Input)
            else sum(map(self.value, self.into[name]), torch.zeros(()))
        )
        self.now[name] = self._output(name, node, x)
        return self.now[name]

    def _output(self, name: str, node: Any, x: torch.Tensor) -> torch.Tensor:
        tensor, functional = self._tensor, torch.nn.functional
        if isinstance(node, (nir.Input, nir.Output)):
            return x
        if isinstance(node, (nir.Affine, nir.Linear)):
            bias = tensor(node.bias) if isinstance(node, nir.Affine) else None
            return functional.linear(x, tensor(node.weight), bias)
        if isinstance(node, nir.Conv2d):
            stride, pad, dilation = (tuple(map(int, v)) for v in (node.stride, node.padding, node.dilation))
            weight, bias = tensor(node.weight), tensor(node.bias)
            return functional.conv2d(x, weight, bias, stride, pad, dilation, int(node.groups))
        if isinstance(node, nir.SumPool2d):
            kernel, stride, pad = (tuple(map(int, v)) for v in (node.kernel_size, node.stride, node.padding))
            return functional.avg_pool2d(x, kernel, stride, pad, divisor_override=1)
        if isinstance(node, nir.Flatten):
            return x.flatten(1)
        if isinstance(node, nir.IF):
            current = self.dt * tensor(node.r) * x
        elif isinstance(node, nir.LIF):
            current = self.dt / tensor(node.tau) * (tensor(node.v_leak) + tensor(node.r) * x)
        elif isinstance(node, nir.CubaLIF):
            current = self.dt / tensor(node.tau_syn) * tensor(node.w_in) * x
        else:
            raise ValueError(f"no counterpart of {type(node).__name__}")
        parts = 2 if isinstance(node, nir.CubaLIF) else 1
        state = self.states.get(name, [torch.zeros_like(current) for _ in range(parts)])
        spikes, *self.states[name] = self.neurons[name](current, *state)
        return spikes


def check(path: Path, folder: Path, steps: int) -> dict[str, Any]:
    """One file."""
    told: dict[str, Any] = {"file": str(path.relative_to(folder))}
    try:
        source = nir.read(path)
    except Exception as error:  # nir's own refusal, of whatever kind
        return {**told, "refused_by_nir": f"{type(error).__name__}: {str(error)[:120]}"}
    # Integrate-and-fire neurons with r = 1 count in steps, the others in seconds.
    dt = 1.0 if any(isinstance(node, nir.IF) for node in source.nodes.values()) else DT
    graph = lower_nir(path, steps=steps, batch=BATCH, dt=dt)
    shape = graph.inputs[0].shaped.shape
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand([int(size) for size in shape], generator=generator) < 0.3).to(torch.float32)
    given = {graph.inputs[0].name: x.numpy(), **initial_states(graph)}
    wanted = interpret(graph, given)[0]
    found = np.asarray(plait.compile(graph)(**given)[0])
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "again.nir"
        plait.write_nir(graph, written)
        told["written_back_equal"] = same(source, nir.read(written))
    told["nodes"] = len(source.nodes)
    told["ops"] = sum(1 for _ in graph.walk())
    told["outputs"] = int(wanted.numel())
    told["share_of_spikes"] = round(float(wanted.mean()), 4)
    told["cpu_differs_from_interpreter"] = int((torch.from_numpy(found) != wanted).sum())
    told["dt"] = dt
    peer = Peer(source, dt).run(x)
    told["differs_from_snntorch"] = int((peer != wanted).sum())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=Path, required=True, help="folder of .nir files")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="results, by default bench/results/nir_examples.json")
    options = parser.parse_args()
    rows = []
    for path in sorted(options.examples.rglob("*.nir")):
        rows.append(check(path, options.examples, options.steps))
        print(rows[-1], flush=True)
    path = options.json or Path(__file__).parent / "results" / "nir_examples.json"
    told = {"nir": nir.version, "steps": options.steps, "batch": BATCH}
    write_results(path, "nir_examples", {**told, "rows": rows})


if __name__ == "__main__":
    main()
