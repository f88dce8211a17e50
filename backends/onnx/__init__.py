"""Graphs as ONNX models: the dense and quantised part of the IR under the standard operators.

model = to_onnx(graph)            # an onnx.ModelProto
save_onnx(graph, "net.onnx")      # with the weights beside it above 1 GB
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plait.ir import Graph

if TYPE_CHECKING:
    import onnx

#: Operator set of exported models: the newest that every operator used here has kernels for in
#: current runtimes.
OPSET = 23


def to_onnx(graph: Graph, *, opset: int = OPSET) -> onnx.ModelProto:
    """The graph as an ONNX model.

    Inputs, constants, results and dims keep their names.  A quantised value is held as its
    stored integers: products of quantised operands become DequantizeLinear, the operator and
    QuantizeLinear.

    Args:
        opset: version of the standard operator set, 21 or later.

    Raises:
        CompileError: the graph holds ops that ONNX cannot express; the message lists all of them.
    """
    from plait.backends.onnx.export import export

    return export(graph, opset)


def save_onnx(graph: Graph, path: str | Path, *, opset: int = OPSET) -> None:
    """Write the graph as an ONNX file; its weights go to `<path>.data` above 1 GB.

    Each file is written under a temporary name and renamed.

    Raises:
        CompileError: the graph holds ops that ONNX cannot express.
        InputError: the path is not writable.
    """
    from plait.backends.onnx.files import write_model

    write_model(to_onnx(graph, opset=opset), Path(path))


__all__ = ["OPSET", "save_onnx", "to_onnx"]
