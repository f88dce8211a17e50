"""NIR, the Neuromorphic Intermediate Representation (Pedersen et al., Nature Communications 15, 2024).

    >>> from plait.frontends.nir import initial_states, lower_nir, write_nir
    >>> graph = lower_nir("network.nir", steps=100, batch=8)  # doctest: +SKIP
    >>> executable = plait.compile(graph, target="cpu")  # doctest: +SKIP
    >>> spikes, *states = executable(input=events, **initial_states(graph))  # doctest: +SKIP
    >>> write_nir(graph, "again.nir")  # doctest: +SKIP

All primitives of NIR 1.0, recurrent edges and nested graphs.  Importing this package does not
import `nir`; lowering does.  It is an optional dependency: `pip install 'plait[nir]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from plait.ir import Graph

__all__ = ["initial_states", "lower_nir", "to_nir", "write_nir"]


def lower_nir(
    source: Any,
    inputs: Any = None,
    *,
    steps: int | None = None,
    batch: int | None = None,
    dt: float = 1e-4,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    name: str = "main",
) -> Graph:
    """Lower a NIR graph to one `core.scan` over time.

    Inputs of the graph: for each Input node a sequence f32[T, B, *shape] of spikes or currents
    under the name of the node, then the initial states, named after their nodes: `lif.v` (membrane
    potential, f32[B, *shape]), `lif.i` (synaptic current, f32[B, *shape]), `delay.line` (inputs of
    the last steps, newest first, f32[B, steps, *shape]) and `lif.z` (last output of a neuron whose
    output a cycle reads, f32[B, *shape]).  Outputs: for each Output node its sequence
    f32[T, B, *shape], then the states after the last step in the order of the initial ones, named
    `lif.v.last`.  Shapes of NIR nodes have no batch axis, and axes of Flatten are counted so.

    NIR states differential equations and leaves time steps to who runs it.  Here they are solved by
    the forward Euler method with steps of `dt` seconds, so that currents do not depend on dt:

        I       v' = v + dt R x
        LI      v' = v + dt/tau ((v_leak - v) + R x)
        CubaLI  i' = i + dt/tau_syn (w_in x - i),  v' = v + dt/tau_mem ((v_leak - v) + R i')

    IF, LIF and CubaLIF then put out z = 1 where v' > v_threshold (strictly), and v' becomes v_reset
    there, in the same step; NIR defines no reset by subtraction.  I, LI and CubaLI put out v'.  The
    membrane reads the current i' of the same step, as in snnTorch.  A Delay holds an element back by
    round(delay / dt) steps.  The factors dt/tau are computed in f64 and rounded to f32.

    Edges into one node are added.  Within a step a node reads what others put out in the same step,
    except where an edge closes a cycle: it carries the output of its neuron at the last step, at
    first the input `lif.z` (or the potential itself, for an integrator).  A Delay of a step or more
    closes no cycle.  AvgPool2d counts padding as elements.

    Args:
        source: a `nir.NIRGraph`, or the path of a `.nir` file.
        inputs: example sequences [T, B, ...], an array or a tuple or dict of them; they fix steps and
            batch where these are not given, and nothing else.
        steps: number of time steps; None leaves it open, as the dim T.
        batch: number of samples; None leaves it open, as the dim B.
        dt: time step in the unit of the graph's times: seconds by NIR's convention, 1.0 for graphs
            whose neurons count in steps (an IF with R = 1 that adds its input in each step).
        dynamic: for the sake of `plait.lower`; nothing but T and B can be open, so that it must be None.
        name: name of the graph.

    Raises:
        InputError: the file is missing or is none that `nir` can read; steps, batch or dt is not
            positive; example sequences differ in steps or batch.
        LoweringError: nir is not installed; `dynamic` is given; nodes of unknown kinds (all at
            once); an Input without a shape; edges to no node; sizes that do not fit; a cycle without
            a neuron or a delay of a step or more; a time constant below dt.
    """
    from plait.frontends.nir.lowering import lower
    from plait.frontends.nir.source import check_sizes, read_source, sizes_of
    from plait.ir import LoweringError

    if dynamic is not None:
        raise LoweringError(
            "dynamic is given for a NIR graph",
            where="lower_nir",
            why="steps and batch are open as the dims T and B anyway, and NIR fixes all other sizes",
            remedy="leave dynamic out; fix T and B by steps=, batch= or example inputs",
        )
    if inputs is not None:
        steps, batch = sizes_of(inputs, steps, batch)
    check_sizes(steps, batch, dt)
    graph, where = read_source(source)
    return lower(graph, where, steps, batch, float(dt), name)


def to_nir(graph: Graph) -> Any:
    """The `nir.NIRGraph` that a graph was lowered from, with the numbers that its constants hold.

    What can be written: graphs from `lower_nir`, also after `save` and `load`, or after printing and
    parsing with `constants=`; with other numbers in their constants; under any graph name.  The
    constants hold the parameters in the element types of NIR, and the location of the loop holds the
    rest: nodes, edges, settings, metadata and dt.  Nodes, parameters and edges come back equal and
    in order; parameters that were torch tensors come back as arrays, and shapes that NIR infers
    (`input_type`, `input_shape`) are filled in.

    What cannot: graphs of other frontends, graphs without locations, and graphs that passes have
    rewritten, since NIR has no nodes for what they make.  The NIR graph is lowered again and must
    give the very graph, so that what is written never differs from what would run.

    Raises:
        InputError: the graph is none of these, or its constants have no data.
        LoweringError: nir is not installed.
    """
    from plait.frontends.nir.source import require_nir
    from plait.frontends.nir.writing import graph_to_nir

    return graph_to_nir(require_nir("to_nir"), graph)


def write_nir(graph: Graph, path: str | Path) -> None:
    """Write a graph that came from NIR as a `.nir` file (HDF5); see `to_nir`.

    Raises:
        InputError: the graph cannot be written as NIR, or the path is not writable.
        LoweringError: nir is not installed.
    """
    from plait.frontends.nir.source import write_file

    write_file(to_nir(graph), path)


def initial_states(
    graph: Graph, dims: Mapping[str, int] | None = None, *, fill: float = 0.0
) -> dict[str, np.ndarray]:
    """Initial states of a lowered NIR graph, by name: each filled with one number.

        >>> executable(input=events, **initial_states(graph, {"B": 8}))  # doctest: +SKIP

    Args:
        dims: value of the dim B where the batch was left open.

    Raises:
        InputError: the graph does not come from NIR, or the batch is open and `dims` has no B.
    """
    from plait.frontends.nir.source import filled_states

    return filled_states(graph, dims or {}, fill)
