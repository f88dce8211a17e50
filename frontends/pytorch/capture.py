"""Capture: a module with example inputs to a functional ATen program with named sizes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._export.utils import _get_shape_env_from_gm
from torch.export import ExportedProgram

from plait.frontends.pytorch import aten  # noqa: F401  # registers the rules
from plait.frontends.pytorch.arguments import (
    Call,
    Inputs,
    explicit_keywords,
    names_of_program,
    register_dataclasses,
    user_placeholders,
)
from plait.frontends.pytorch.capture_errors import explain, is_specialised, is_violated, speaks_of_sizes
from plait.frontends.pytorch.conditions import unproven_conditions
from plait.frontends.pytorch.derivatives import export_with_derivatives
from plait.frontends.pytorch.dynamic import SMALLEST_EXAMPLE, DynamicDims, DynamicSpec
from plait.frontends.pytorch.registry import find_rule
from plait.frontends.pytorch.symbols import solve_symbol
from plait.ir.dims import Dim, IntLike, symbols_of
from plait.ir.errors import InputError, LoweringError

_DECOMPOSITION_ROUNDS = 4


@dataclass
class Captured:
    """An exported program with what is needed to name its inputs and sizes.

    Attributes:
        program: functional ATen program.
        input_names: a name for each input that the user passes, in order.
        ranges: (low, high) of each named dim.
        symbols: torch symbol name -> dim.
    """

    program: ExportedProgram
    input_names: list[str]
    ranges: dict[str, tuple[int, int | None]]
    symbols: dict[str, IntLike]


# -- modules -----------------------------------------------------------------------
def capture(model: torch.nn.Module, inputs: Inputs, dynamic: DynamicSpec | None) -> Captured:
    """Export a module as it is (training or evaluation mode) and make it functional.

    Raises:
        LoweringError: torch cannot export the module, a dynamic dim turns out
            constant, or inputs and `dynamic` do not fit the parameters of forward.
    """
    call = Call.bind(model, inputs)
    dims = DynamicDims.parse(dynamic)
    dims.check_names(call)
    values = dims.example_sizes(call)
    call = dims.enlarge(call, dims.too_small(values))
    try:
        program = _export(model, call, dims)
    except _Specialised as first:
        larger = dims.larger(values)
        if not larger:
            raise first.error from first.__cause__
        try:
            program = _export(model, dims.enlarge(call, larger), dims)
        except _Specialised:
            raise first.error from first.__cause__  # it speaks of the examples that the user gave
        except LoweringError as second:
            # a range that is too wide is the truth about a dim; other errors come from the example
            if is_violated(second.__cause__):
                raise
            raise first.error from first.__cause__
    captured = Captured(program, list(call.names), dims.ranges, {})
    _name_symbols(captured, dims)
    return captured


class _Specialised(Exception):
    """torch.export made a dynamic dim constant; `error` says so to the user."""

    def __init__(self, error: LoweringError) -> None:
        self.error = error
        super().__init__(str(error))


def _export(model: torch.nn.Module, call: Call, dims: DynamicDims) -> ExportedProgram:
    """Export and make functional.  Raises LoweringError, or _Specialised where another example may do."""
    shapes = dims.shapes(call)
    arguments, keywords = call.arguments.args, call.arguments.kwargs
    with _quiet(), explicit_keywords(model, call), _known_results(model):
        try:
            program = torch.export.export(model, arguments, keywords, dynamic_shapes=shapes, strict=False)
            return make_functional(program)
        except Exception as error:  # torch raises many kinds, and any error of the model's own code
            failure = error
        if not speaks_of_sizes(failure):
            with contextlib.suppress(Exception):  # the first error is the one that tells the user more
                return make_functional(export_with_derivatives(model, arguments, keywords, shapes))
        elif is_violated(failure):
            with contextlib.suppress(Exception):
                return _export_with_proofs(model, call, shapes)
    explained = explain(failure, type(model).__name__)
    if is_specialised(failure):
        raise _Specialised(explained) from failure
    raise explained from failure


def _export_with_proofs(model: torch.nn.Module, call: Call, shapes: Any) -> ExportedProgram:
    """Export where torch.export cannot see that a condition on sizes always holds.

    It records such conditions as assertions.  Raises ValueError unless all of them are
    proven for the ranges of the dims.
    """
    program = torch.export.export(
        model,
        call.arguments.args,
        call.arguments.kwargs,
        dynamic_shapes=shapes,
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    ranges = {str(symbol): _range_of(program, str(symbol)) for symbol in program.range_constraints}
    unproven = unproven_conditions(program, ranges)
    if unproven:
        raise ValueError("; ".join(unproven))
    return make_functional(program)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own deprecated calls
        yield


@contextlib.contextmanager
def _known_results(model: torch.nn.Module) -> Iterator[None]:
    """Make the dataclasses that a model returns known to torch.export as soon as it returns them."""
    hook = model.register_forward_hook(lambda module, arguments, results: register_dataclasses(results))
    try:
        yield
    finally:
        hook.remove()


# -- exported programs ------------------------------------------------------------------
def adopt(program: ExportedProgram, dynamic: DynamicSpec | None) -> Captured:
    """Make an exported program functional and name its sizes; unnamed ones keep torch's symbol."""
    names = names_of_program(program)
    functional = make_functional(program)
    dims = DynamicDims.parse(dynamic)
    captured = Captured(functional, names, dims.ranges, {})
    _name_symbols(captured, dims)
    for symbol, dim in captured.symbols.items():  # a name without a range takes that of the program
        if captured.ranges.get(str(dim)) == (1, None):
            captured.ranges[str(dim)] = _range_of(functional, symbol)
    return captured


def make_functional(program: ExportedProgram) -> ExportedProgram:
    """Remove mutation and views, keep high-level operators, decompose those without a lowering rule."""
    environment = _get_shape_env_from_gm(program.graph_module)
    if environment is not None:  # a file records the range of a derived size under its expression
        for size in [each for each in environment.var_to_range if not each.is_Symbol]:
            del environment.var_to_range[size]
    with _quiet():
        program = program.run_decompositions({})
        known: dict[Any, Callable[..., Any]] = {}
        for _ in range(_DECOMPOSITION_ROUNDS):
            wanted = _without_rule(program)
            if wanted and not known:
                known = {
                    **torch._decomp.decomposition_table,
                    **dict(torch.export.default_decompositions().items()),
                }
            table = {op: known[op] for op in wanted if op in known}
            if not table:
                break
            program = program.run_decompositions(table)
    return program


def _without_rule(program: ExportedProgram) -> set[Any]:
    found = set()
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            found |= {
                node.target
                for node in module.graph.nodes
                if isinstance(node.target, torch._ops.OpOverload)
                and not str(node.target).startswith("aten.sym_")  # sizes are read from the types
                and find_rule(str(node.target)) is None
            }
    return found


# -- symbols -----------------------------------------------------------------------------
def _name_symbols(captured: Captured, dims: DynamicDims) -> None:
    """Fill `captured.symbols` from the sizes of the inputs, plain names before expressions."""
    program = captured.program
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, Any] = {}
    for name, node_name in zip(captured.input_names, user_placeholders(program), strict=True):
        value = nodes[node_name].meta.get("val") if node_name in nodes else None
        if isinstance(value, torch.Tensor):
            sizes[name] = value.shape
    for parameter, axis, wanted in sorted(dims, key=lambda item: len(str(item[2]))):
        if parameter not in sizes:
            raise LoweringError(
                f"dynamic= names '{parameter}'", why=f"the inputs of the program are {', '.join(sizes)}"
            )
        size = sizes[parameter][axis]
        (root,) = symbols_of(wanted)
        if isinstance(size, int):
            raise LoweringError(
                f"dynamic dim {wanted} ('{parameter}' axis {axis}) is always {size}",
                why="torch.export specialised it to a constant",
                remedy=f"compute sizes from tensor.shape, or drop {wanted} from dynamic=",
            )
        symbol, value = solve_symbol(size, wanted, Dim.symbol(root), parameter)
        if captured.symbols.setdefault(symbol, value) != value:
            raise LoweringError(
                f"dims {captured.symbols[symbol]} and {value} are always equal",
                where=f"'{parameter}' axis {axis}",
                why="the code of the model makes torch.export join them",
                remedy="give both the same name in dynamic=",
            )
    _keep_other_symbols(captured, sizes)


def _keep_other_symbols(captured: Captured, sizes: Mapping[str, Sequence[Any]]) -> None:
    """Symbols that `dynamic` does not name keep the name and range given to torch.export, or torch's own."""
    for shape in sizes.values():
        for size in shape:
            if isinstance(size, int):
                continue
            given = _names_given_to_export(size)
            for free in sorted(map(str, size.node.expr.free_symbols)):
                if free in captured.symbols:
                    continue
                name = given.get(free, free)
                with contextlib.suppress(InputError):
                    captured.symbols[free] = Dim.symbol(name)
                    captured.ranges[name] = _range_of(captured.program, free)


def _names_given_to_export(size: torch.SymInt) -> dict[str, str]:
    """Names of torch.export.Dim by torch symbol, as far as the program still has them (a file has not)."""
    environment = size.node.shape_env
    names = getattr(environment, "source_name_to_debug_name", {})
    found: dict[str, str] = {}
    for symbol, sources in getattr(environment, "var_to_sources", {}).items():
        for source in sources:
            key = source.name() if callable(source.name) else source.name
            if key in names:
                found.setdefault(str(symbol), names[key])
    return found


def _range_of(program: ExportedProgram, symbol: str) -> tuple[int, int | None]:
    """The range of a torch symbol; (1, None) where the program says nothing."""
    constraints = {str(known): bounds for known, bounds in program.range_constraints.items()}
    if symbol not in constraints:
        return 1, None
    low, high = int(constraints[symbol].lower), _finite(constraints[symbol].upper)
    # torch traces with 2 or more but promises nothing special about 1
    return (1 if low == SMALLEST_EXAMPLE else low), high


def _finite(bound: Any) -> int | None:
    """An upper bound as an int, None where torch has its infinity."""
    try:
        value = int(bound)
    except (TypeError, OverflowError, ValueError, AttributeError):
        return None
    return None if value >= 2**62 else value
