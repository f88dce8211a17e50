"""Models on disk."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import external_data_helper

from plait.ir.files import write_atomically

#: Weights of more bytes than this go to a file of their own; protobuf allows 2 GB in all.
LIMIT = 1 << 30
#: Tensors below this many bytes stay in the model.
_SMALL = 1024
_ALIGNMENT = 4096


def write_model(model: onnx.ModelProto, path: Path, *, limit: int = LIMIT) -> None:
    """Write a model, and its weights beside it where they exceed `limit` bytes.

    The model is taken over: its tensors lose their data when that is written beside it.
    """
    tensors = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _SMALL]
    if sum(len(tensor.raw_data) for tensor in tensors) > limit:
        beside = path.with_name(f"{path.name}.data")
        with write_atomically(beside) as stream:
            offset = 0
            for tensor in tensors:
                data = tensor.raw_data
                gap = -offset % _ALIGNMENT
                stream.write(bytes(gap) + data)
                offset += gap
                external_data_helper.set_external_data(tensor, beside.name, offset, len(data))
                tensor.ClearField("raw_data")
                offset += len(data)
    with write_atomically(path) as stream:
        stream.write(model.SerializeToString())
