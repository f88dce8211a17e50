"""A graph as a model: every op through the table, with names, dims and locations kept."""

from __future__ import annotations

from collections import Counter
from importlib import metadata

import onnx
from onnx import helper

from plait.backends.onnx import (
    activations,
    arithmetic,
    control,
    layers,
    movement,
    quantised,
    reductions,
    sampling,
)
from plait.backends.onnx.elements import element_of
from plait.backends.onnx.table import EXPORTS, Inexpressible
from plait.backends.onnx.writer import Writer
from plait.ir import CompileError, Constant, Graph, Op, ShapedType, Value
from plait.ir.errors import nearest
from plait.ir.verify import verify

#: Importing these modules fills the table.
FAMILIES = (activations, arithmetic, control, layers, movement, quantised, reductions, sampling)
OLDEST = 21


def export(graph: Graph, opset: int) -> onnx.ModelProto:
    """The model of a graph.  Raises CompileError with all that ONNX cannot express."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise CompileError(
            f"operator set {opset} cannot be written",
            why=f"the export knows {OLDEST} to {newest}",
            remedy=f"give opset={OLDEST} or above",
        )
    verify(graph)
    return _Export(graph, opset).model()


class _Export:
    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph = graph
        self.writer = Writer(graph, opset, self._op)
        self.refused: list[tuple[Op | None, str, str]] = []  # op, its kind, why

    def model(self) -> onnx.ModelProto:
        writer, graph = self.writer, self.graph
        inputs = [self._info(value, writer.name(value)) for value in graph.inputs]
        for op in graph.body:
            self._op(op)
        outputs = self._outputs()
        if self.refused:
            raise self._error()
        body = helper.make_graph(
            [*writer.prologue.nodes, *writer.body.nodes],
            graph.name,
            inputs,
            outputs,
            initializer=list(writer.initializers.values()),
        )
        imports = [helper.make_opsetid("", writer.opset)]
        model = helper.make_model(
            body,
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports),
            producer_name="plait",
            producer_version=metadata.version("plait"),
        )
        ranges = {f"plait.dim.{name}": str(allowed) for name, allowed in graph.dims.items()}
        helper.set_model_props(model, ranges)
        return model

    # -- ops --------------------------------------------------------------------------
    def _op(self, op: Op) -> None:
        """Add the nodes of an op, or note that it is refused."""
        writer = self.writer
        start = len(writer.body.nodes)
        writer.hint = op.name
        function = EXPORTS.get(type(op))
        if function is None:
            self.refused.append((op, op.opname, "no operator computes it"))
            return
        try:
            for operand in (*op.operands, *op.results):
                writer.code(element_of(operand.type))
            found = function(op, writer)
        except Inexpressible as reason:
            self.refused.append((op, op.opname, str(reason)))
            return
        writer.bind(op, found if isinstance(found, tuple) else (found,), start)
        for node in writer.body.nodes[start:]:
            if op.loc:
                node.doc_string = op.loc.readable()
            helper.set_metadata_props(node, {"plait.op": op.opname})

    # -- inputs and outputs -------------------------------------------------------------
    def _info(self, value: Value, name: str) -> onnx.ValueInfoProto:
        try:
            code = self.writer.code(value)
        except Inexpressible as reason:
            self.refused.append((None, f"{value} : {value.type}", str(reason)))
            code = onnx.TensorProto.FLOAT
        shape = value.type.shape if isinstance(value.type, ShapedType) else ()
        return helper.make_tensor_value_info(
            name, code, [dim if isinstance(dim, int) else str(dim) for dim in shape]
        )

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        """One for each result; what is no op's own result, or is given twice, is copied."""
        found, seen = [], set()
        for value in self.graph.outputs:
            name = self.writer.name(value)
            if value.producer is None or isinstance(value, Constant) or name in seen:
                self.writer.hint = value.name
                name = self.writer.node("Identity", value)
            seen.add(name)
            found.append(self._info(value, name))
        return found

    def _error(self) -> CompileError:
        """One error that lists every kind of op that was refused, how often and where."""
        counts = Counter((kind, why) for _, kind, why in self.refused)
        lines = []
        for (kind, why), count in counts.items():
            places = [
                op.loc.readable() if op.loc else f"%{op.name}"
                for op, *found in self.refused
                if op is not None and found == [kind, why]
            ]
            close = nearest(kind, (cls.opname for cls in EXPORTS))
            line = f"\n    {kind} x{count}: {why}"
            if places:
                line += f"; at {', '.join(places[:3])}{', ...' if len(places) > 3 else ''}"
            if close and close[0] != kind:
                line += f"; nearest exportable: {close[0]}"
            lines.append(line)
        total = sum(counts.values())
        return CompileError(
            f"{total} op{'s' * (total != 1)} of @{self.graph.name} cannot be written as ONNX",
            why="".join(lines),
            remedy="replace them, or register an export with @plait.backends.onnx.table.exports(op)",
        )
