"""Capture: a module with example inputs to a functional ATen program with named sizes."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram

from plait.frontends.pytorch import aten  # noqa: F401  # registers the rules
from plait.frontends.pytorch.registry import find_rule
from plait.frontends.pytorch.symbols import solve_symbol
from plait.ir.dims import Dim, IntLike, evaluate, parse_dim, symbols_of
from plait.ir.errors import InputError, LoweringError

#: A dim name or simple expression such as "2*B", or (name, low, high) with high None for unbounded.
DimSpec = str | tuple[str, int, int | None]
#: By forward parameter name, then by axis.
DynamicSpec = Mapping[str, Mapping[int, DimSpec]]
Inputs = Sequence[Any] | Mapping[str, Any] | None

#: Below this size torch specialises a dim, so examples are made at least this large.
_SMALLEST_EXAMPLE = 2
#: Sizes for a second attempt, one per dim name: B - 1 or B // 2 of a small example may be 0 or 1, which
#: torch specialises too, and primes coincide with no other size by chance.
_LARGER_EXAMPLES = (11, 13, 17, 19, 23, 29)
_DECOMPOSITION_ROUNDS = 4
#: Reported as they are: their decomposition would hide that the module is in training mode.
_KEPT = frozenset(("aten._native_batch_norm_legit_functional.default",))
_SPECIALISED = re.compile(
    r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)"
)
_VIOLATED = re.compile(r"Constraints violated \(([^)]*)\)")


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


@dataclass
class _DynamicDims:
    """The dynamic dims of a call, parsed: sizes by (parameter, axis), and symbol ranges."""

    sizes: dict[str, dict[int, IntLike]] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    @staticmethod
    def parse(dynamic: DynamicSpec | None) -> _DynamicDims:
        """Raises LoweringError for a malformed expression or two ranges for one name."""
        found = _DynamicDims()
        for parameter, axes in (dynamic or {}).items():
            for axis, spec in axes.items():
                text, bounds = (spec, None) if isinstance(spec, str) else (spec[0], (spec[1], spec[2]))
                size = _parse_size(parameter, axis, text)
                found.sizes.setdefault(parameter, {})[axis] = size
                for symbol in symbols_of(size):
                    known = found.ranges.get(symbol, (1, None))
                    if bounds is not None and known not in ((1, None), bounds):
                        raise LoweringError(
                            f"dynamic dim {symbol} has two ranges, {known} and {bounds}",
                            where=f"{parameter} axis {axis}",
                            why="inputs that share a name share one size",
                            remedy="give one range, or different names",
                        )
                    found.ranges[symbol] = bounds or known
        return found

    def __iter__(self) -> Iterator[tuple[str, int, IntLike]]:
        for parameter, axes in self.sizes.items():
            for axis, size in axes.items():
                yield parameter, axis, size


def _parse_size(parameter: str, axis: int, text: str) -> IntLike:
    try:
        size = parse_dim(text)
        root = sorted(symbols_of(size))
        if len(root) == 1:
            _slope_and_offset(size, root[0])
            return size
    except ValueError:
        pass
    raise LoweringError(
        f"'{text}' is no dynamic dim",
        where=f"{parameter} axis {axis}",
        why="it is a name, or a multiple of one name plus a constant",
        remedy="write for instance 'B', '2*B', 'T+1', or ('B', 1, 64)",
    )


def _slope_and_offset(size: IntLike, root: str) -> tuple[int, int]:
    """a and b of a*root + b.  Raises ValueError for any other form."""
    offset, next_value = evaluate(size, {root: 0}), evaluate(size, {root: 1})
    slope = next_value - offset
    if slope < 1 or Dim.symbol(root) * slope + offset != size:
        raise ValueError(f"{size} is not linear in {root}")
    return slope, offset


# -- modules -----------------------------------------------------------------------
def capture(model: torch.nn.Module, inputs: Inputs, dynamic: DynamicSpec | None) -> Captured:
    """Export a module as it is (training or evaluation mode) and make it functional.

    Raises:
        LoweringError: torch cannot export the module, a dynamic dim turns out
            constant, or inputs and `dynamic` do not fit the parameters of forward.
    """
    bound = _bind(model, inputs)
    dims = _DynamicDims.parse(dynamic)
    names = {parameter for parameter, _ in _leaves(bound)}
    unknown = sorted(set(dims.sizes) - names)
    if unknown:
        raise LoweringError(
            f"dynamic= names {', '.join(map(repr, unknown))}",
            why=f"the inputs of forward are {', '.join(sorted(names))}",
            remedy="use the names of the parameters of forward",
        )
    values = _example_sizes(bound, dims)
    small = {
        root: max(_SMALLEST_EXAMPLE, dims.ranges[root][0])
        for root, value in values.items()
        if value < max(_SMALLEST_EXAMPLE, dims.ranges[root][0])
    }
    _enlarge_examples(bound, dims, small)
    try:
        program = _export(model, bound, dims)
    except _Specialised as first:
        larger = {
            root: size
            for root, size in zip(sorted(values), itertools.cycle(_LARGER_EXAMPLES))
            if values[root] < size and _allows(dims.ranges[root], size)
        }
        if not larger:
            raise first.error from first.__cause__
        _enlarge_examples(bound, dims, larger)
        try:
            program = _export(model, bound, dims)
        except _Specialised:
            raise first.error from first.__cause__  # it speaks of the examples that the user gave
        except LoweringError as second:
            # a range that is too wide is the truth about a dim; other errors come from the example
            if _VIOLATED.search(str(second.__cause__)):
                raise
            raise first.error from first.__cause__
    leaves = [(n, v) for n, v in _leaves(bound) if v is not None]
    captured = Captured(program, [n for n, _ in leaves], dims.ranges, {})
    _name_symbols(captured, dims)
    return captured


def _bind(model: torch.nn.Module, inputs: Inputs) -> inspect.BoundArguments:
    signature = inspect.signature(model.forward)
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    try:
        if isinstance(inputs, Mapping):
            return signature.bind(**inputs)
        return signature.bind(*(inputs or ()))
    except TypeError as error:
        raise LoweringError(
            f"the inputs do not fit {type(model).__name__}.forward{signature}",
            why=str(error),
            remedy="pass inputs= as a tuple in this order, or a dict by parameter name",
        ) from None


def _map_leaves(name: str, value: Any, change: Callable[[str, Any], Any]) -> Any:
    """`value` with each leaf replaced by change(leaf name, leaf); lists, tuples and dicts are kept."""
    if isinstance(value, (list, tuple)):
        return type(value)(_map_leaves(f"{name}_{i}", item, change) for i, item in enumerate(value))
    if isinstance(value, dict):
        return {key: _map_leaves(f"{name}_{key}", item, change) for key, item in value.items()}
    return change(name, value)


def _leaves(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    """Names and values of all leaves of a call, in the order in which torch flattens them."""
    found: list[tuple[str, Any]] = []

    def keep(name: str, value: Any) -> None:
        found.append((name, value))

    for name, value in bound.arguments.items():
        _map_leaves(name, value, keep)
    return found


def _example_sizes(bound: inspect.BoundArguments, dims: _DynamicDims) -> dict[str, int]:
    """The value of each dim name in the examples.  Raises LoweringError where two disagree."""
    shapes = {name: value.shape for name, value in _leaves(bound) if isinstance(value, torch.Tensor)}
    values: dict[str, int] = {}
    for parameter, axis, size in dims:
        shape = shapes.get(parameter, ())
        if not -len(shape) <= axis < len(shape):
            raise LoweringError(f"'{parameter}' has no axis {axis}", why=f"its shape is {list(shape)}")
        (root,) = symbols_of(size)
        slope, offset = _slope_and_offset(size, root)
        value, rest = divmod(shape[axis] - offset, slope)
        if rest or values.setdefault(root, value) != value:
            raise LoweringError(
                f"the example of '{parameter}' has size {shape[axis]} at axis {axis}",
                why=f"that axis is {size}, and {root} is {values.get(root, 'not whole')} elsewhere",
                remedy="pass examples whose sizes agree",
            )
    return values


def _allows(limits: tuple[int, int | None], size: int) -> bool:
    low, high = limits
    return low <= size and (high is None or size <= high)


def _enlarge_examples(bound: inspect.BoundArguments, dims: _DynamicDims, sizes: Mapping[str, int]) -> None:
    """Repeat examples along their dynamic axes until the named dims have these sizes."""

    def enlarge(name: str, value: Any) -> Any:
        for axis, size in dims.sizes.get(name, {}).items():
            (root,) = symbols_of(size)
            if root in sizes and value.shape[axis]:
                picks = torch.arange(evaluate(size, sizes)) % value.shape[axis]
                value = value.index_select(axis, picks.to(value.device))
        return value

    if sizes:
        for name in bound.arguments:
            bound.arguments[name] = _map_leaves(name, bound.arguments[name], enlarge)


def _torch_dim(size: IntLike, torch_dims: Mapping[str, Any]) -> object:
    (root,) = symbols_of(size)
    slope, offset = _slope_and_offset(size, root)
    result = torch_dims[root]
    if slope != 1:
        result = slope * result
    return result + offset if offset else result


class _Specialised(Exception):
    """torch.export made a dynamic dim constant; `error` says so to the user."""

    def __init__(self, error: LoweringError) -> None:
        self.error = error
        super().__init__(str(error))


def _export(model: torch.nn.Module, bound: inspect.BoundArguments, dims: _DynamicDims) -> ExportedProgram:
    """Export and make functional.  Raises LoweringError, or _Specialised where another example may do."""
    torch_dims = {
        name: torch.export.Dim(name, min=low, max=high)  # type: ignore[arg-type]  # max=None is unbounded
        for name, (low, high) in dims.ranges.items()
    }

    def spec_of(name: str, value: object) -> dict[int, object] | None:
        if not isinstance(value, torch.Tensor):
            return None
        return {axis: _torch_dim(size, torch_dims) for axis, size in dims.sizes.get(name, {}).items()}

    shapes = {name: _map_leaves(name, value, spec_of) for name, value in bound.arguments.items()}
    dynamic_shapes = shapes if dims.sizes else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own deprecated calls
            program = torch.export.export(
                model, bound.args, bound.kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
        return make_functional(program)
    except Exception as error:  # torch raises many kinds, and any error of the model's own code
        explained = _explain(error, type(model).__name__)
        if _SPECIALISED.search(str(error)):
            raise _Specialised(explained) from error
        raise explained from error


def _explain(error: Exception, model: str) -> LoweringError:
    """A LoweringError for whatever torch.export raised."""
    if isinstance(error, LoweringError):
        return error
    text = str(error)
    specialised = _SPECIALISED.search(text)
    if specialised:
        name, constant = specialised.groups()
        return LoweringError(
            f"dynamic dim {name} of {model} is always {constant}",
            why=f"the code of the model fixes it, so torch.export specialised it: {_trim(text)}",
            remedy=f"take sizes from tensor.shape and not {constant}, or drop {name} from dynamic=",
        )
    violated = _VIOLATED.search(text)
    if violated:
        return LoweringError(
            f"dynamic dim {violated[1]} of {model} cannot take every value of its range",
            why=f"the code of the model holds for some sizes only: {_trim(text)}",
            remedy="narrow the range, for instance ('B', 4, 64), or change what torch suggests above",
        )
    if "data-dependent" in text:
        return LoweringError(
            f"{model} takes a decision that depends on the data of a tensor",
            why=_trim(text),
            remedy="write it with torch.where or torch.cond, or compute it outside the model",
        )
    return LoweringError(
        f"torch.export cannot capture {model}",
        why=f"{type(error).__name__}: {_trim(text)}",
        remedy="make model(*inputs) run first, and remove Python side effects and data-dependent branches",
    )


def _trim(text: str, lines: int = 6, width: int = 200) -> str:
    """The informative lines of a torch message."""
    noise = ("For ", "If you suspect", "The error above", "consider using", "from user code")
    text = re.sub(r" For more information, run with .*| If you're using mark_dynamic.*", "", text)
    found = [
        line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)
    ]
    kept = [line if len(line) <= width else line[: width - 3] + "..." for line in dict.fromkeys(found)]
    marks = [i for i, line in enumerate(kept) if i >= lines and line.startswith(("Suggested", "File "))]
    tail = kept[marks[0] : marks[0] + 3] if marks else []
    return "\n    ".join(kept[:lines] + tail)


# -- exported programs ------------------------------------------------------------------
def adopt(program: ExportedProgram, dynamic: DynamicSpec | None) -> Captured:
    """Make an exported program functional and name its sizes; unnamed ones keep torch's symbol."""
    functional = make_functional(program)
    names = list(functional.graph_signature.user_inputs)
    dims = _DynamicDims.parse(dynamic)
    captured = Captured(functional, [str(name) for name in names], dims.ranges, {})
    _name_symbols(captured, dims)
    for symbol, dim in captured.symbols.items():  # a name without a range takes that of the program
        if captured.ranges.get(str(dim)) == (1, None):
            captured.ranges[str(dim)] = _range_of(functional, symbol)
    return captured


def make_functional(program: ExportedProgram) -> ExportedProgram:
    """Remove mutation and views, keep high-level operators, decompose those without a lowering rule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
                and str(node.target) not in _KEPT
                and find_rule(str(node.target)) is None
            }
    return found


# -- symbols -----------------------------------------------------------------------------
def _name_symbols(captured: Captured, dims: _DynamicDims) -> None:
    """Fill `captured.symbols` from the sizes of the inputs, plain names before expressions."""
    program = captured.program
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, Any] = {}
    for name, node_name in zip(captured.input_names, program.graph_signature.user_inputs, strict=True):
        value = nodes[str(node_name)].meta.get("val") if str(node_name) in nodes else None
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
    return (1 if low == _SMALLEST_EXAMPLE else low), high


def _finite(bound: Any) -> int | None:
    """An upper bound as an int, None where torch has its infinity."""
    try:
        value = int(bound)
    except (TypeError, OverflowError, ValueError, AttributeError):
        return None
    return None if value >= 2**62 else value
