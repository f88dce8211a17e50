"""Damaged inputs: ONNX files changed as bytes or as protobuf, and IR text changed as characters or tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import onnx

#: Numbers at which sizes, counts and indices go wrong.
EDGES = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65535, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63))
_TOKEN = re.compile(r"[@%]?[\w.$]+|\s+|.", re.DOTALL)


def mutated_bytes(data: bytes, other: bytes, random: random.Random) -> bytes:
    """`data` after one to six edits of its bytes; `other` is what pieces are spliced in from."""
    found = bytearray(data)
    for _ in range(random.randint(1, 6)):
        if not found:
            break
        start = random.randrange(len(found))
        stop = min(len(found), start + random.choice((1, 1, 2, 4, 8, 32)))
        match random.randrange(6):
            case 0:
                found[start] ^= 1 << random.randrange(8)
            case 1:
                found[start:stop] = random.randbytes(stop - start)
            case 2:
                del found[start:stop]
            case 3:
                found[start:start] = found[start:stop] * random.choice((1, 1, 4, 64))
            case 4:
                place = random.randrange(len(other)) if other else 0
                found[start:stop] = other[place : place + random.choice((1, 8, 64))]
            case _:
                del found[start:]
    return bytes(found)


def mutated_model(data: bytes, other: bytes, random: random.Random) -> bytes:
    """An ONNX model after one to four edits of its fields; bytes again where it does not parse."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, which has no typed module
        return mutated_bytes(data, other, random)
    for _ in range(random.randint(1, 4)):
        random.choice(_MODEL_EDITS)(model, random)
    return bytes(model.SerializeToString())


def _edit_node(model: onnx.ModelProto, random: random.Random) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    node = random.choice(nodes)
    names = [name for n in nodes for name in (*n.input, *n.output)] + ["", "absent"]
    match random.randrange(6):
        case 0 if node.input:
            node.input[random.randrange(len(node.input))] = random.choice(names)
        case 1 if node.output:
            node.output[random.randrange(len(node.output))] = random.choice(names)
        case 2:
            node.op_type = random.choice(
                [*(n.op_type for n in nodes), "Loop", "Reshape", "Absent", "Pad", "Tile"]
            )
        case 3:
            nodes.append(node)
        case 4:
            del nodes[random.randrange(len(nodes))]
        case _:
            node.input.append(random.choice(names))


def _edit_attribute(model: onnx.ModelProto, random: random.Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    if not attributes:
        return
    attribute = random.choice(attributes)
    match random.randrange(5):
        case 0:
            attribute.i = random.choice(EDGES)
        case 1:
            attribute.ints.append(random.choice(EDGES))
        case 2 if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = random.choice(EDGES)
        case 3:
            attribute.type = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8))
        case _:
            attribute.f = random.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))


def _edit_type(model: onnx.ModelProto, random: random.Random) -> None:
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not infos:
        return
    kind = random.choice(infos).type.tensor_type
    match random.randrange(4):
        case 0:
            kind.elem_type = random.randrange(28)
        case 1 if kind.shape.dim:
            random.choice(kind.shape.dim).dim_value = random.choice(EDGES)
        case 2 if kind.shape.dim:
            random.choice(kind.shape.dim).dim_param = random.choice(
                ("N", "N+1", "", "dim B in", "x" * 300, "é")
            )
        case _:
            kind.shape.dim.add().dim_value = random.choice(EDGES)


def _edit_tensor(model: onnx.ModelProto, random: random.Random) -> None:
    tensors = [
        *model.graph.initializer,
        *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t")),
    ]
    if not tensors:
        return
    tensor = random.choice(tensors)
    match random.randrange(5):
        case 0:
            tensor.data_type = random.randrange(28)
        case 1:
            tensor.dims.append(random.choice(EDGES))
        case 2 if tensor.dims:
            tensor.dims[random.randrange(len(tensor.dims))] = random.choice(EDGES)
        case 3:
            tensor.raw_data = random.randbytes(random.choice((0, 1, 3, 8, 64)))
        case _:
            tensor.int64_data.append(random.choice(EDGES))


def _edit_model(model: onnx.ModelProto, random: random.Random) -> None:
    match random.randrange(4):
        case 0:
            model.ir_version = random.choice(EDGES)
        case 1 if model.opset_import:
            random.choice(model.opset_import).version = random.choice((*EDGES, 6, 9, 13, 18, 21))
        case 2:
            model.opset_import.add(
                domain=random.choice(("", "ai.onnx", "com.acme")), version=random.choice(EDGES)
            )
        case _ if model.graph.output:
            model.graph.output[0].name = random.choice(("", "absent", *(i.name for i in model.graph.input)))


_MODEL_EDITS: Sequence[Callable[[onnx.ModelProto, random.Random], None]] = (
    _edit_node,
    _edit_attribute,
    _edit_type,
    _edit_tensor,
    _edit_model,
)


def mutated_text(text: str, other: str, random: random.Random) -> str:
    """IR text after one to six edits of its characters, tokens or lines."""
    for _ in range(random.randint(1, 6)):
        match random.randrange(3):
            case 0:
                start = random.randrange(len(text) + 1)
                stop = min(len(text), start + random.choice((0, 1, 2, 8)))
                text = (
                    text[:start]
                    + random.choice(("", chr(random.randrange(1, 0x2FFF)), "{", '"', "\n"))
                    + text[stop:]
                )
            case 1:
                text = _tokens_changed(text, other, random)
            case _:
                lines = text.split("\n")
                first, second = random.randrange(len(lines)), random.randrange(len(lines))
                lines[first], lines[second] = lines[second], lines[first]
                if random.random() < 0.5:
                    del lines[first]
                text = "\n".join(lines)
    return text


def _tokens_changed(text: str, other: str, random: random.Random) -> str:
    tokens, donors = _TOKEN.findall(text), _TOKEN.findall(other)
    if not tokens or not donors:
        return text
    place = random.randrange(len(tokens))
    donor = random.choice(
        (random.choice(donors), str(random.choice(EDGES)), "nan", "-0.0", "1e400", "*", "B")
    )
    match random.randrange(4):
        case 0:
            tokens[place] = donor
        case 1:
            tokens.insert(place, donor)
        case 2:
            del tokens[place]
        case _:
            tokens[place:place] = tokens[place : place + random.choice((1, 4, 400))]
    return "".join(tokens)
