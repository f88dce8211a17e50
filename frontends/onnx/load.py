"""Reading ONNX files: decoding, checks, and external data confined to the model's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no stubs

from plait.frontends.onnx.elements import array_of, element_of
from plait.frontends.onnx.registry import canonical_domain
from plait.ir import DType, InputError, LoweringError

#: The oldest operator set that the rules cover; older models are converted to it.
OLDEST_OPSET = 7
#: Largest number of elements of a sparse tensor that is made dense.
_DENSE_LIMIT = 1 << 26
#: Operators whose second operand is placed by `axis`, or along the channels, before opset 7.
_OLD_BROADCASTS = {"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor"}
_DEPRECATED = "plait.deprecated"


@dataclass
class Source:
    """A checked model and where its tensors come from.

    Attributes:
        model: the model; initialisers with external data have none inside.
        file: name of the model file for locations, `<model>` for one in memory.
        folder: the folder that external data must stay in; None in memory.
        opsets: operator set version by domain.
    """

    model: onnx.ModelProto
    file: str
    folder: Path | None
    opsets: dict[str, int] = field(default_factory=dict)

    def tensor(self, tensor: onnx.TensorProto) -> tuple[np.ndarray, DType]:
        """The array of a tensor, from inside the model or from external data."""
        where = f"{self.file}: tensor '{tensor.name}'"
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _external_array(tensor, self.folder, where)
        return array_of(tensor, where)

    def dense(self, sparse: onnx.SparseTensorProto) -> tuple[np.ndarray, DType]:
        """The array of a sparse tensor: `indices` are places in the flat array, or one row for each place.

        Raises:
            LoweringError: indices and values do not fit the shape, or the dense array is large.
        """
        values, element = self.tensor(sparse.values)
        places, _ = self.tensor(sparse.indices)
        shape = tuple(int(n) for n in sparse.dims)
        count = int(np.prod(shape, dtype=np.float64)) if all(n >= 0 for n in shape) else -1
        if places.ndim == 2 and places.shape[1] == len(shape):
            columns = [places[:, axis] for axis in range(len(shape))]
            within = all(np.all((c >= 0) & (c < n)) for c, n in zip(columns, shape, strict=True))
        else:
            columns = [places.reshape(-1)]
            within = bool(np.all((places >= 0) & (places < count)))
        if not 0 <= count <= _DENSE_LIMIT or not within or len(columns[0]) != values.size:
            raise LoweringError(
                f"a sparse tensor of {list(sparse.dims)} has {values.size} values "
                f"and indices {list(places.shape)}",
                where=f"{self.file}: tensor '{sparse.values.name}'",
                why=f"it is made dense, of at most {_DENSE_LIMIT} elements, "
                "and each value has an index inside the shape",
                remedy="store it as a dense initialiser",
            )
        array = np.zeros(shape, element.numpy)
        array[tuple(columns) if len(columns) > 1 else np.unravel_index(columns[0], shape)] = values.reshape(
            -1
        )
        return array, element


def load_model(model: onnx.ModelProto | str | Path) -> Source:
    """Read and check a model.

    Raises:
        InputError: the file is missing or cannot be read.
        LoweringError: it is no ONNX model, the checker rejects it, or its opset is not supported.
    """
    if isinstance(model, onnx.ModelProto):
        source = Source(model, "<model>", None)
    elif isinstance(model, (str, Path)):
        path = Path(model)
        source = Source(_read(path), path.name, path.resolve().parent)
    else:
        raise InputError(
            f"cannot lower a {type(model).__name__} as an ONNX model",
            why="an onnx.ModelProto or the path of an .onnx file is wanted",
            remedy="pass one of these",
        )
    source.opsets = _opsets(source)
    for tensor in _attribute_tensors(source.model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array, _ = source.tensor(tensor)
            _put_inside(tensor, array)
    _check(source)
    if source.opsets[""] < OLDEST_OPSET:
        _modernise(source)
    return source


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError(
            f"model file {what}", where=str(path), remedy="check the path; it names one .onnx file"
        )
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise InputError("model file cannot be read", where=str(path), why=str(error)) from None
    except (DecodeError, ValueError, RuntimeError) as error:
        raise _not_onnx(str(path), f"it does not decode as a protobuf message: {error}") from None
    if not model.ir_version or not model.HasField("graph"):
        raise _not_onnx(str(path), "it holds no IR version or no graph")
    return model


def _not_onnx(where: str, why: str) -> LoweringError:
    return LoweringError(
        "the file is no ONNX model, or was cut short",
        where=where,
        why=why,
        remedy="export or download the model again; onnx.checker.check_model(path) must accept it",
    )


def _opsets(source: Source) -> dict[str, int]:
    newest = int(onnx.defs.onnx_opset_version())
    found = {canonical_domain(o.domain): int(o.version) for o in source.model.opset_import}
    if "" not in found:
        if any(canonical_domain(node.domain) == "" for node in source.model.graph.node):
            raise LoweringError(
                "the model does not say which operator set it uses",
                where=source.file,
                why="opset_import has no entry for the default domain",
                remedy="export the model again, or append onnx.helper.make_opsetid('', N) to opset_import",
            )
        found[""] = newest
    version = found[""]
    if not 1 <= version <= newest:
        raise LoweringError(
            f"the model uses opset {version}",
            where=source.file,
            why=f"onnx {onnx.__version__} knows opsets 1 to {newest}",
            remedy="install a newer onnx, or export the model with a lower opset",
        )
    return found


def _modernise(source: Source) -> None:
    """Convert a model of an opset before `OLDEST_OPSET` to that one."""
    try:
        model = onnx.ModelProto()
        model.CopyFrom(source.model)
        _align_operands(model)
        source.model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except (
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        raise LoweringError(
            f"the model uses opset {source.opsets['']}",
            where=source.file,
            why=f"opsets below {OLDEST_OPSET} are converted, and onnx cannot: {' '.join(str(error).split())}",
            remedy=f"export the model again with an opset of {OLDEST_OPSET} or above",
        ) from None
    source.opsets[""] = OLDEST_OPSET


def _align_operands(model: onnx.ModelProto) -> None:
    """Give second operands of old nodes trailing axes of size one, so that they broadcast as numpy's do.

    Before opset 7 the slope of PRelu runs along axis 1, and the second operand of
    arithmetic starts at the axis that the attribute `axis` names.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        info.name: len(info.type.tensor_type.shape.dim)
        for info in (*inferred.input, *inferred.value_info)
        if info.type.tensor_type.HasField("shape")
    }
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    ranks.update((name, len(shape)) for name, shape in shapes.items())
    nodes = []
    for node in model.graph.node:
        start = next((a for a in node.attribute if a.name == "axis"), None)
        axis = 1 if node.op_type == "PRelu" else None if start is None else start.i
        if axis is not None and len(node.input) == 2 and node.op_type in _OLD_BROADCASTS:
            first, second = node.input
            rank, own = ranks.get(first), ranks.get(second)
            if rank is not None and own is not None and shapes.get(second) != [1]:
                axes = list(range(own, rank - (axis + rank if axis < 0 else axis)))
                if start is not None:
                    node.attribute.remove(start)
                if axes:
                    node.input[1] = f"{second}.{node.output[0]}"
                    nodes.append(onnx.helper.make_node("Unsqueeze", [second], [node.input[1]], axes=axes))
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)


def _check(source: Source) -> None:
    """Run the onnx checker on the model without the data of its initialisers.

    Large data would only slow the checker and, above 2 GB, make it fail; it is
    checked against its shape where it is read.
    """
    skeleton = onnx.ModelProto()
    _copy_light(source.model, skeleton)
    _set_deprecated_aside(skeleton, source.opsets)
    try:
        onnx.checker.check_model(skeleton)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise LoweringError(
            "the onnx checker rejects the model",
            where=source.file,
            why=reason,
            remedy="correct or re-export the model; onnx.checker.check_model(model) shows the same message",
        ) from None


def _copy_light(model: onnx.ModelProto, skeleton: onnx.ModelProto) -> None:
    """Copy a model with its initialisers emptied, never holding two copies of their data."""
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _copy_field(skeleton, descriptor.name, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name != "initializer":
            _copy_field(skeleton.graph, descriptor.name, value)
    for tensor in model.graph.initializer:
        skeleton.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=[0])


def _set_deprecated_aside(skeleton: onnx.ModelProto, opsets: dict[str, int]) -> None:
    """Give nodes of deprecated operators a domain of their own, which the checker lets pass.

    Old files are full of them (Upsample, Scatter, GroupNormalization 18), and the
    checker would stop there; those without a lowering are reported later.
    """
    found = False
    for node in skeleton.graph.node:
        domain = canonical_domain(node.domain)
        try:
            schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
        except (onnx.defs.SchemaError, TypeError):  # unknown, or its name is no text: the checker says so
            continue
        if schema.deprecated:
            node.domain, found = _DEPRECATED, True
    if found:
        skeleton.opset_import.append(onnx.helper.make_opsetid(_DEPRECATED, 1))


def _copy_field(target: object, name: str, value: object) -> None:
    if hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    elif hasattr(value, "extend"):
        getattr(target, name).extend(value)
    else:
        setattr(target, name, value)


# -- external data --------------------------------------------------------------
def _external_array(tensor: onnx.TensorProto, folder: Path | None, where: str) -> tuple[np.ndarray, DType]:
    """Read the external data of a tensor.

    Raises:
        LoweringError: the location leaves the folder, the file is missing or
            short, or offset and length make no sense.
    """
    element = element_of(tensor.data_type, where)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _confined(entries.get("location", ""), folder, where)
    count = int(np.prod(tensor.dims, dtype=np.int64))
    wanted = (count * element.bits + 7) // 8
    try:
        offset = int(entries.get("offset", 0) or 0)
        length = int(entries.get("length", wanted) or wanted)
    except ValueError:
        offset = length = -1
    if offset < 0 or length != wanted:
        raise LoweringError(
            f"external data states offset {entries.get('offset', 0)!r} and length {entries.get('length')!r}",
            where=where,
            why=f"{element}{list(tensor.dims)} takes {wanted} bytes",
            remedy="export the model again",
        )
    size = path.stat().st_size
    if size < offset + length:
        raise LoweringError(
            f"external data file '{path.name}' is short",
            where=where,
            why=f"the tensor ends at byte {offset + length} but the file has {size}",
            remedy="copy the whole data file next to the model, or export the model again",
        )
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(length)
    inside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, raw_data=raw)
    inside.dims.extend(tensor.dims)
    return array_of(inside, where)


def _confined(location: str, folder: Path | None, where: str) -> Path:
    """The file of an external location, which must lie inside the model's folder, links resolved."""
    if folder is None:
        raise LoweringError(
            f"the data of the tensor is in an external file '{location}'",
            where=where,
            why="a model in memory has no folder to read it from",
            remedy="pass the path of the .onnx file, or call onnx.load(path), which reads the data",
        )
    path = (folder / location).resolve()
    absolute = Path(location).is_absolute() or location.startswith(("/", "\\"))
    if not location or absolute or not path.is_relative_to(folder) or path == folder:
        raise LoweringError(
            f"external data location '{location}' leaves the folder of the model",
            where=where,
            why=f"data is read from {folder} only: no absolute path, no '..', no link that leads out",
            remedy="move the data file next to the model and save the model with a relative location",
        )
    if not path.is_file():
        raise LoweringError(
            f"external data file '{location}' is missing",
            where=where,
            why=f"{path} does not exist",
            remedy="copy the data file next to the model",
        )
    return path


def _put_inside(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    whole = onnx.numpy_helper.from_array(array, tensor.name)
    tensor.CopyFrom(whole)


def _attribute_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors that node attributes hold, subgraphs and functions included."""
    stack = [model.graph.node, *(function.node for function in model.functions)]
    while stack:
        for node in stack.pop():
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    stack.append(attribute.g.node)
                stack.extend(graph.node for graph in attribute.graphs)
