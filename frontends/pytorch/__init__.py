"""The PyTorch frontend: modules and exported programs to graphs, through torch.export.

    >>> graph = lower_torch(model, {"image": image}, dynamic={"image": {0: "B"}})

Importing this package does not import torch; lowering does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plait.frontends.pytorch.registry import Refusal, register, supported
from plait.frontends.registry import load_extensions
from plait.ir.errors import InputError, LoweringError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from plait.frontends.pytorch.capture import DynamicSpec, Inputs
    from plait.ir.graph import Graph

__all__ = [
    "Refusal",
    "initial_state",
    "lower_torch",
    "read_exported_program",
    "register",
    "supported_operators",
]


def lower_torch(
    model: torch.nn.Module | torch.export.ExportedProgram,
    inputs: Inputs = None,
    *,
    dynamic: DynamicSpec | None = None,
    name: str = "main",
) -> Graph:
    """Lower a PyTorch program to a graph.

    Inputs carry the names of the parameters of `forward`, constants those of the
    state dict, ops those of their modules.  Parameters are copied.

    Nested inputs (lists, tuples, dicts, named tuples, dataclasses) are flattened: a
    leaf is called by its path, `state.hidden`, `parts.0`.  Outputs come in the order of
    the leaves of the result; where a result has keys or fields, an output is called by
    its path too, with `_1` behind it where an input has that name.  Numbers and strings
    among the inputs are constants of the program, None is left out on both sides, and
    a number that is returned becomes a scalar.

    A graph has no hidden state.  Buffers that `forward` writes (running statistics,
    caches, counters) are inputs after those of the user, called as in the state dict,
    and outputs `<name>.next` after those of the user; the values that they have in the
    module are constants `<name>.initial` (see `initial_state`).  An input that `forward`
    writes is an output `<name>.next` as well, last.  Other buffers are constants.

    `torch.cond`, `while_loop`, `scan` and `map` become core.cond, core.while and
    core.scan.  Derivatives inside forward (torch.func, torch.autograd.grad) become the
    operators that compute them.

    Args:
        model: a module, lowered in the mode (training or evaluation) it is in, or
            an exported program.
        inputs: example tensors, a tuple in the order of `forward` or a dict by
            parameter name; not needed for an exported program.
        dynamic: symbolic axes by input name: `{"image": {0: "B"}}`, or with a
            range `{0: ("B", 1, 64)}`.  Axes that share a name share one size; a
            name may also be a multiple plus a constant, `"2*B"`.  A bare name
            ranges over 1 and up.
        name: name of the graph.

    Raises:
        LoweringError: torch cannot export the module, a dynamic dim is always
            constant, or operators have no lowering rule (all are listed).
    """
    import torch

    load_extensions()
    from plait.frontends.pytorch.capture import adopt, capture
    from plait.frontends.pytorch.lowering import Lowering

    if isinstance(model, torch.export.ExportedProgram):
        return Lowering(adopt(model, dynamic), name, "the exported program").run()
    if not isinstance(model, torch.nn.Module):
        raise LoweringError(
            f"cannot lower a {type(model).__name__}",
            why="a torch.nn.Module or a torch.export.ExportedProgram is wanted",
            remedy="wrap a function in a module whose forward calls it",
        )
    return Lowering(capture(model, inputs, dynamic), name, type(model).__name__).run()


def read_exported_program(path: str | Path) -> torch.export.ExportedProgram:
    """Read a `.pt2` file that `torch.export.save` wrote.  Raises InputError when that fails."""
    import torch

    if not Path(path).is_file():
        raise InputError(f"there is no file {path}", remedy="check the path of the .pt2 file")
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise InputError(
            f"{path} is no exported program",
            why=f"{type(error).__name__}: {error}",
            remedy="write it with torch.export.save() of the same torch version",
        ) from error


def initial_state(graph: Graph) -> dict[str, np.ndarray]:
    """Values of the state inputs in the module that was lowered, by input name; empty without state.

    They are the constants `<name>.initial` of the lowered graph, which passes drop: take
    them from what `lower_torch` returns, not from a compiled graph.
    """
    pairs = ((value.name, graph.constants.get(f"{value.name}.initial")) for value in graph.inputs)
    return {name: constant.data for name, constant in pairs if constant is not None and constant.has_data}


def supported_operators() -> tuple[str, ...]:
    """Names of all operator overloads that have a lowering rule, sorted."""
    from plait.frontends.pytorch import aten  # noqa: F401  # registers the rules

    return supported()
