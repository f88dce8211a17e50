"""onnx's own backend tests: cases, what is left out of the score, and how results are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_SEQUENCES = re.compile(r"Sequence(At|Construct|Empty|Erase|Insert|Length|Map)|(SplitTo|ConcatFrom)Sequence")
_STRINGS = re.compile(r"String\w+|RegexFullMatch")
_RANDOM = re.compile(r"test_(bernoulli|training_dropout)")
#: Standard deviations that a frequency may be away from its probability.
_DEVIATIONS = 5.0
#: Two units in the last place of bfloat16, as onnx's runner allows.
_BF16_RELATIVE = 2.0**-6


@dataclass
class Case:
    """One test: a model with inputs, expected outputs and tolerances.

    Attributes:
        operator: the operator under test; for the expansion of a function, that function.
        data_sets: pairs of inputs and expected outputs, in the order of the graph's.
        left_out: why the test is no part of the score; empty where it is.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float
    operator: str = ""
    left_out: str = ""

    @property
    def random(self) -> bool:
        """Whether the operator draws random numbers, so that only their distribution can be compared."""
        return _RANDOM.match(self.name) is not None


@dataclass(frozen=True)
class _Loaded:
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


def load_cases(kinds: Sequence[str], pattern: str = "") -> list[Case]:
    """The tests of these kinds whose names contain `pattern`, in a fixed order."""
    cases = []
    for kind in kinds:
        for test in sorted(load_model_tests(kind=kind), key=lambda test: str(test.name)):
            if pattern and not re.search(pattern, str(test.name)):
                continue
            if test.model is not None:
                model, sets = test.model, [(list(i), list(o)) for i, o in test.data_sets]
            elif test.url is not None:
                model, sets = _light(Path(test.url).name)
            else:
                model, sets = _stored(Path(test.model_dir))
            sets = [([_array(x) for x in i], [_array(y) for y in o]) for i, o in sets]
            case = Case(str(test.name), kind, model, sets, float(test.rtol), float(test.atol))
            case.left_out = _left_out(model)
            cases.append(case)
    _name_operators(cases)
    return cases


def _array(item: Any) -> Any:
    return onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def _stored(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """A model and its data sets as files."""
    model = onnx.load(str(folder / "model.onnx"))
    sets = []
    for data in sorted(folder.glob("test_data_set*")):
        loaded = _Loaded()
        for ports, into, word in (
            (model.graph.input, loaded.inputs, "input"),
            (model.graph.output, loaded.outputs, "output"),
        ):
            for index in range(len(list(data.glob(f"{word}_*.pb")))):
                raw = (data / f"{word}_{index}.pb").read_bytes()
                if ports[index].type.HasField("sequence_type"):
                    into.append(onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(raw)))
                else:
                    into.append(onnx.TensorProto.FromString(raw))
        sets.append((loaded.inputs, loaded.outputs))
    return model, sets


def _light(file: str) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """A model whose weights are ConstantOfShape nodes; its input is arange(n) / n."""
    path = _DATA / "light" / file
    model = onnx.load(str(path))
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for info in model.graph.input:
        if info.name in given:
            continue
        shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
        count = int(np.prod(shape))
        inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = []
    for index in range(len(model.graph.output)):
        stored = path.with_name(f"{path.stem}_output_{index}.pb")
        outputs.append(onnx.TensorProto.FromString(stored.read_bytes()))
    return model, [(inputs, outputs)]


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of functions and subgraphs included."""
    stack = [model.graph.node, *(function.node for function in model.functions)]
    while stack:
        for node in stack.pop():
            yield node
            stack.extend(attribute.g.node for attribute in node.attribute if attribute.HasField("g"))


def _types(model: onnx.ModelProto) -> Iterator[onnx.TypeProto]:
    """Types of the inputs and outputs of the graph and of its subgraphs."""
    graphs = [model.graph]
    graphs += [a.g for node in _nodes(model) for a in node.attribute if a.HasField("g")]
    for graph in graphs:
        yield from (info.type for info in (*graph.input, *graph.output))


def _left_out(model: onnx.ModelProto) -> str:
    """Why a model is outside the score: training, sequence, optional, string or ai.onnx.ml."""
    for kind in _types(model):
        if kind.HasField("optional_type"):
            return "optional"
        if kind.HasField("sequence_type"):
            return "sequence"
        if kind.tensor_type.elem_type == onnx.TensorProto.STRING:
            return "string"
    for node in _nodes(model):
        if node.domain == "ai.onnx.ml":
            return "ai.onnx.ml"
        if node.domain.endswith(".training") or node.op_type == "Gradient":
            return "training"
        if _SEQUENCES.fullmatch(node.op_type):
            return "sequence"
        if node.op_type.startswith("Optional"):
            return "optional"
        if _STRINGS.fullmatch(node.op_type):
            return "string"
        if any(a.name == "to" and a.i == onnx.TensorProto.STRING for a in node.attribute):
            return "string"
    return ""


def _name_operators(cases: list[Case]) -> None:
    """Fill in `operator`: the only node, the function that a model expands, or the model itself."""
    single = {c.name: str(c.model.graph.node[0].op_type) for c in cases if len(c.model.graph.node) == 1}
    for case in cases:
        base = re.sub(r"_expanded(_ver\d+)?$", "", case.name)
        last = str(case.model.graph.node[-1].op_type) if case.kind == "node" else case.name
        case.operator = single.get(case.name) or single.get(base) or _prefix(case) or last


def _prefix(case: Case) -> str:
    """The function that made the names of an expansion, `Softmax_test_softmax_axis_0_...`."""
    if "_expanded" not in case.name:
        return ""
    names = (name for node in case.model.graph.node for name in node.output)
    return next((name.partition("_test_")[0] for name in names if "_test_" in name), "")


# -- comparison -------------------------------------------------------------------
def difference(case: Case, inputs: list[Any], found: list[np.ndarray], expected: list[Any]) -> str:
    """What makes results differ from what a test expects; empty where nothing does.

    `found` holds arrays of the expected element types or of types that store them.
    """
    if len(found) != len(expected):
        return f"{len(found)} results, {len(expected)} expected"
    for index, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        wanted = np.asarray(wanted)
        if actual.shape != wanted.shape:
            return f"result {index} has shape {list(actual.shape)}, expected {list(wanted.shape)}"
    if case.random:
        return _distribution(case, inputs, found)
    for index, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        text = _element_difference(actual, np.asarray(wanted), case.rtol, case.atol)
        if text:
            return f"result {index}: {text}"
    return ""


def _element_difference(actual: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> str:
    whole = wanted.dtype.kind in "iub" or "int" in wanted.dtype.name
    if whole:
        wrong = actual.astype(np.int64) != wanted.astype(np.int64)
    else:
        if wanted.dtype.name == "bfloat16":
            rtol = max(rtol, _BF16_RELATIVE)
        wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
        left, right = actual.astype(wide), wanted.astype(wide)
        with np.errstate(all="ignore"):
            wrong = ~np.isclose(left, right, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ""
    at = tuple(int(n) for n in np.argwhere(wrong)[0])
    return f"{int(wrong.sum())} of {wrong.size} elements differ, at {list(at)} {actual[at]} for {wanted[at]}"


def _distribution(case: Case, inputs: list[Any], found: list[np.ndarray]) -> str:
    """Compare support and frequency of random results with what the inputs ask for."""
    x, result = np.asarray(inputs[0], np.float64), found[0].astype(np.float64)
    if "dropout" not in case.name:
        chance = x
        kept = result == 1
        if not np.all(kept | (result == 0)):
            return "a result is neither 0 nor 1"
    else:
        ratio = float(inputs[1]) if len(inputs) > 1 else 0.5
        chance = np.full_like(x, 1 - ratio)
        kept = result != 0
        if not np.allclose(result[kept], x[kept] / (1 - ratio), case.rtol, case.atol):
            return "a kept element is not x / (1 - ratio)"
        if len(found) > 1 and not np.array_equal(
            found[1].astype(bool), kept | (x == 0) & found[1].astype(bool)
        ):
            return "the mask does not mark the kept elements"
    deviation = float(np.sqrt(np.sum(chance * (1 - chance))))
    if abs(float(kept.sum() - chance.sum())) > _DEVIATIONS * deviation + 1e-9:
        return f"{int(kept.sum())} of {kept.size} are kept, about {chance.sum():.1f} expected"
    return ""
