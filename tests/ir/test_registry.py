"""Every op of the registry is documented, inferred, priced, interpreted, round-tripped, and refused when wrong.

The graphs stand in registry/*.txt, in IR text.
"""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait.ir import REGISTRY, Graph, GraphType, Op, QuantType, VerifyError, parse, parse_type
from plait.ir.cost import Cost, op_cost
from plait.ir.cost_rules import RULES
from plait.ir.dims import evaluate
from plait.ir.interpret import interpret
from plait.ir.ops import core
from plait.ir.reference import REFERENCES, EdgeList
from plait.ir.reference.tensors import TORCH
from plait.ir.types import ShapedType
from plait.ir.value import Value, hash_content

SIZES = {"B": 3, "T": 4, "N": 5, "E": 7}
CASE = re.compile(
    r"(?P<signature>\(.*?\)) (?P<call>\S+\(.*?)"
    r" : (?P<types>.*?)(?P<regions> (?:then|condition|do) \(.*)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Case:
    """One op on the inputs of a graph, with constants by name."""

    text: str
    constants: dict[str, np.ndarray]

    def graph(self) -> Graph:
        return parse(self.text, constants=self.constants)


@dataclass(frozen=True)
class Cases:
    """Valid graphs of an op, and an invalid one with a part of its message."""

    valid: tuple[Case, ...]
    invalid: Case
    message: str


def random_integers(kind: ShapedType, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """1 or 2 for dense integers, which index any axis of three; the whole range for quantised ones."""
    if isinstance(kind, QuantType):
        low, high = kind.range
        return generator.integers(low, high + 1, shape).astype(kind.dtype.numpy)
    return np.asarray(generator.integers(1, 3, shape)).astype(kind.dtype.numpy)


def read_case(lines: list[str], opname: str) -> Case:
    generator = np.random.default_rng(5)
    constants, declared = {}, []
    while lines[0].startswith("const "):
        name, _, text = lines.pop(0).removeprefix("const @").partition(" : ")
        kind = parse_type(text)
        assert isinstance(kind, ShapedType)
        shape = tuple(evaluate(dim, {}) for dim in kind.shape)
        array = generator.uniform(0.01, 0.1, shape).astype(kind.dtype.numpy)
        constants[name] = array
        declared.append(f'const @{name} : {text} = blob("{hash_content(array)}")')
    match = CASE.fullmatch("\n".join(lines).rstrip().replace("OP(", f"{opname}("))
    assert match is not None, lines
    count = len(re.sub(r"<[^>]*>|\[[^\]]*\]", "", match["types"]).split(","))
    names = ", ".join(f"%y{i}" for i in range(count))
    module = [
        "plait.ir 1.0",
        *(f"dim {name} in 1..64" for name in SIZES),
        *(["dim K in 0..*"] if "count=" in match["call"] else []),
        *declared,
        f"func @main{match['signature']} -> {match['types']} {{",
        f"  {names} = {match['call']} : {match['types']}{match['regions'] or ''}",
        f"  return {names}",
        "}",
    ]
    return Case("\n".join(module) + "\n", constants)


def read_cases(text: str) -> dict[str, Cases]:
    found: dict[str, Cases] = {}
    for block in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n")
        valid, _, invalid = body.partition("!! ")
        message, _, wrong = invalid.partition("\n")
        items = re.findall(r"(?:^const .*\n)*^\((?:.*\n)(?:^[ ].*\n)*", valid, flags=re.MULTILINE)
        for opname in head.split():
            assert opname not in found, f"{opname} has two blocks"
            found[opname] = Cases(
                tuple(read_case(item.splitlines(), opname) for item in items),
                read_case(wrong.rstrip().splitlines(), opname),
                message,
            )
    return found


CASES: dict[str, Cases] = {}
for _file in sorted(Path(__file__).with_name("registry").glob("*.txt")):
    CASES.update(read_cases(_file.read_text()))


def cases_of(opname: str) -> Cases:
    if opname not in CASES:
        pytest.fail(f"op {opname} has no cases: add a block '== {opname}' to tests/ir/registry/*.txt")
    assert CASES[opname].valid
    return CASES[opname]


def draw(graph: Graph, opname: str) -> dict[str, Any]:
    """Random inputs of a graph under SIZES."""
    generator = np.random.default_rng(11)
    inputs: dict[str, Any] = {}
    for value in graph.inputs:
        if isinstance(value.type, GraphType):
            size, index = SIZES["E"], TORCH[value.type.index.name]
            src, dst = (torch.from_numpy(generator.integers(0, SIZES["N"], size)).to(index) for _ in range(2))
            inputs[value.name] = (src, dst)
            continue
        kind = value.shaped
        shape = tuple(evaluate(dim, SIZES) for dim in kind.shape)
        if kind.dtype.name == "bool":
            inputs[value.name] = torch.from_numpy(np.asarray(generator.random(shape) < 0.5))
        elif kind.dtype.is_integer:
            inputs[value.name] = torch.from_numpy(random_integers(kind, shape, generator))
        else:
            x = torch.from_numpy(np.asarray(generator.normal(size=shape)))
            if opname in ("linalg.cholesky", "linalg.triangular_solve") and x.shape[-1] == x.shape[-2]:
                x = x @ x.mT + 4 * torch.eye(x.shape[-1])
            inputs[value.name] = x.to(TORCH[kind.dtype.name])
    return inputs


def op_in(graph: Graph, opname: str) -> Op:
    (found,) = [op for op in graph.ops if op.opname == opname]
    return found


@pytest.mark.parametrize("opname", sorted(REGISTRY))
def test_documented_and_inferred(opname: str) -> None:
    cls = REGISTRY[opname]
    assert (inspect.getdoc(cls) or "").endswith(".")
    assert cls.infer is not Op.infer


@pytest.mark.parametrize("opname", sorted(REGISTRY))
def test_cost_rule(opname: str) -> None:
    assert REGISTRY[opname] in RULES, f"op {opname} has no cost rule: add one to ir/cost_rules"
    for case in cases_of(opname).valid:
        cost = op_cost(op_in(case.graph(), opname), {**SIZES, "K": 6})
        assert isinstance(cost, Cost)
        for figure in cost.figures():
            assert figure is None or figure >= 0
        if cost.exact:
            assert None not in cost.figures()


@pytest.mark.parametrize("opname", sorted(REGISTRY))
def test_reference(opname: str) -> None:
    assert REGISTRY[opname] in REFERENCES, f"op {opname} has no reference: add one to ir/reference"
    for case in cases_of(opname).valid:
        graph = case.graph()
        op = op_in(graph, opname)
        seen: dict[Value, Any] = {}
        outputs = interpret(
            graph,
            draw(graph, opname),
            dims=SIZES,
            observe=seen.__setitem__,
        )
        assert len(outputs) == len(graph.outputs)
        sizes = dict(SIZES)
        if isinstance(op, core.BindDim):
            sizes["K"] = int(seen[op.result])
        elif op.bound_dim is not None:
            (axis, *_) = (i for i, dim in enumerate(op.results[0].shaped.shape) if str(dim) == op.bound_dim)
            sizes[op.bound_dim] = seen[op.results[0]].shape[axis]
        for value in op.results:
            if isinstance(value.type, GraphType):
                assert isinstance(seen[value], EdgeList)
                continue
            assert isinstance(seen[value], torch.Tensor)
            assert tuple(seen[value].shape) == tuple(evaluate(dim, sizes) for dim in value.shaped.shape)
            assert seen[value].dtype == TORCH[value.shaped.dtype.name]


@pytest.mark.parametrize("opname", sorted(REGISTRY))
def test_text_round_trip(opname: str) -> None:
    for case in cases_of(opname).valid:
        graph = case.graph()
        graph.verify()
        again = parse(str(graph))
        assert again == graph
        assert str(again) == str(graph) == case.text
        assert again.id == graph.id


@pytest.mark.parametrize("opname", sorted(REGISTRY))
def test_invalid_is_refused(opname: str) -> None:
    cases = cases_of(opname)
    with pytest.raises(VerifyError, match=re.escape(cases.message)) as caught:
        cases.invalid.graph()
    assert opname in str(caught.value)


def test_no_case_without_an_op() -> None:
    assert sorted(CASES) == sorted(REGISTRY)
