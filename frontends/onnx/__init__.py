"""ONNX models to the IR.

    >>> from plait.frontends.onnx import lower_onnx
    >>> graph = lower_onnx("resnet18.onnx", dynamic={"image": {0: "B"}})  # doctest: +SKIP

Opsets 7 to the newest that the installed `onnx` knows.  Shape arithmetic in the
model (Shape, Gather, Concat, Reshape ...) is resolved to symbolic dims while
lowering.  `lowers` registers a rule for a further operator:

    >>> from plait.frontends.onnx import lowers
    >>> from plait.ir.ops import nn
    >>> @lowers("FastRelu", domain="com.example")
    ... def fast_relu(call):
    ...     return call.emit(nn.Relu(call.value(0)))

Importing this package imports neither onnx nor torch; `lower_onnx` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plait.frontends.onnx.registry import lowers

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from plait.ir import Graph

__all__ = ["lower_onnx", "lowers"]


def lower_onnx(
    model: onnx.ModelProto | str | Path,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    name: str = "main",
) -> Graph:
    """Lower an ONNX model.

    Args:
        model: the model, or the path of an `.onnx` file.  External data is read
            from the folder of the file and from nowhere else.
        inputs: example arrays by input name.  Their shapes fix the dims that the
            model leaves open; inputs that are left out keep theirs.
        dynamic: for each input, axes that are symbolic and the name of their dim.
            It renames open dims, introduces a dim where the model states a number,
            and wins over `inputs`.
        name: the name of the graph.

    Returns:
        A graph whose inputs have the names of the model's inputs.  An open dim
        keeps its ONNX name, made an identifier, and ranges over 1 and above.

    Raises:
        InputError: the file is missing or cannot be read.
        LoweringError: the file is no valid ONNX model, its external data leaves
            its folder or is short, its opset is outside the supported range, an
            argument does not fit the model, or operators have no lowering (all
            of them are in one report).
    """
    from plait.frontends.onnx.load import load_model
    from plait.frontends.onnx.lowering import lower_model
    from plait.frontends.registry import load_extensions
    from plait.ir import LoweringError

    load_extensions()

    try:
        return lower_model(load_model(model), inputs or {}, dynamic or {}, name)
    except UnicodeDecodeError as error:
        raise LoweringError(
            "the model holds a name or text that is no UTF-8",
            where=str(model) if isinstance(model, (str, Path)) else "<model>",
            why=str(error),
            remedy="the file is damaged; export or download the model again",
        ) from None
    except RecursionError:
        raise LoweringError(
            "functions or subgraphs of the model are nested too deeply",
            where=str(model) if isinstance(model, (str, Path)) else "<model>",
            why="lowering enters each of them inside the one around it",
            remedy="export the model with fewer levels",
        ) from None
