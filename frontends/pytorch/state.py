"""State: buffers and inputs that a module writes become inputs and outputs of the graph."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from plait.ir.graph import Graph
from plait.ir.value import Value

#: Behind the name of a state input: the output that holds it after the run, and its value in the module.
NEXT, INITIAL = ".next", ".initial"


def mutated_buffers(program: ExportedProgram) -> tuple[str, ...]:
    """Fully qualified names of the buffers that a program writes, in the order of its outputs."""
    specs = program.graph_signature.output_specs
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    return tuple(dict.fromkeys(str(spec.target) for spec in specs if spec.kind in kinds))


def order_of_outputs(program: ExportedProgram) -> list[int]:
    """Positions of the program's outputs as the graph returns them: results, buffers, written inputs."""
    rank = {
        OutputKind.USER_OUTPUT: 0,
        OutputKind.BUFFER_MUTATION: 1,
        OutputKind.PARAMETER_MUTATION: 1,
        OutputKind.USER_INPUT_MUTATION: 2,
    }
    specs = program.graph_signature.output_specs
    kept = [position for position, spec in enumerate(specs) if spec.kind in rank]
    return sorted(kept, key=lambda position: rank[specs[position].kind])


def written_names(program: ExportedProgram, input_names: list[str]) -> dict[int, str]:
    """Name of the state that each output position is the next value of."""
    signature = program.graph_signature
    users = [spec for spec in signature.input_specs if spec.kind == InputKind.USER_INPUT]
    by_node = {getattr(spec.arg, "name", ""): name for spec, name in zip(users, input_names, strict=True)}
    found: dict[int, str] = {}
    for position, spec in enumerate(signature.output_specs):
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            found[position] = str(spec.target)
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            found[position] = by_node[str(spec.target)]
    return found


def rename_output(graph: Graph, value: Value, name: str) -> None:
    """Give the op result behind an output a name, with a number where it is taken.

    Inputs and constants that are returned keep theirs.
    """
    if value.producer is not None:
        graph.rename(value, graph.free_name(name))
