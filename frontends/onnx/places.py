"""Names and source locations of nodes."""

from __future__ import annotations

import ast
import re
from pathlib import PurePath

import onnx

from plait.ir import Loc

_SCOPES = "pkg.torch.onnx.name_scopes"
_STACK = "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(r"[/\\](site-packages|dist-packages)[/\\]|[/\\]torch[/\\](nn|_)")


def readable(name: str) -> str:
    """An ONNX name as an IR name: `/layer1/conv1/Conv` becomes `layer1.conv1.Conv`."""
    return re.sub(r"[^\w.$-]", "_", name.strip("/").replace("/", ".")) or "v"


def node_label(node: onnx.NodeProto) -> str:
    """What to call a node in messages: its name, or else its first output."""
    return node.name or next((o for o in node.output if o), node.op_type)


def node_name(node: onnx.NodeProto) -> str:
    """The name for the results of a node."""
    name = node_label(node)
    if name.startswith("node_") and _metadata(node).get(_SCOPES) is not None:
        name = name[len("node_") :]
    return readable(name)


def names_read(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node may read, those read inside its subgraphs included."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            found.update(info.name for info in graph.output)
            for inner in graph.node:
                found |= names_read(inner)
    return found - {""}


def node_location(node: onnx.NodeProto, file: str, index: int) -> Loc:
    """Module path and user line where torch's exporter left them, else node name, file and node index."""
    metadata = _metadata(node)
    path = _module_path(metadata.get(_SCOPES, ""))
    frame = _user_frame(metadata.get(_STACK, ""))
    if path is None and frame is None:
        return Loc.at(node_label(node), file, index)
    source, line = frame or (file, index)
    return Loc.at(path or node_label(node), source, line)


def has_origin(node: onnx.NodeProto) -> bool:
    """Whether torch's exporter left the place of the node in the user's model."""
    metadata = _metadata(node)
    return _SCOPES in metadata or _STACK in metadata


def _metadata(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def _module_path(text: str) -> str | None:
    """The innermost module of a scope list; its last entry is the traced operation itself."""
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return None
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return None
    modules = [scope for scope in scopes[:-1] if scope]
    return modules[-1] if modules else None


def _user_frame(text: str) -> tuple[str, int] | None:
    """File and line of the innermost frame outside installed libraries."""
    frames = [(file, int(line)) for file, line in _FRAME.findall(text)]
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
    if not frames:
        return None
    file, line = (own or frames)[-1]
    return PurePath(file).name, line
