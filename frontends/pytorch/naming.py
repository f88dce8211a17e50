"""Names and locations of ops, from what torch.export records about the source."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch.fx import Node

from plait.ir.loc import Loc

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH_ROOT = str(Path(torch.__file__).parent) + os.sep
_OWN_ROOT = str(Path(__file__).parent) + os.sep
_PSEUDO_ENTRY = "_empty_nn_module_stack_from_metadata_hook"
#: Operators whose ATen name is not the one users know.
_PLAIN_NAMES = {
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm_legit": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "unsafe_view": "view",
    "to_copy": "cast",
}
#: Operators that leave no op behind, and so do not count as work of their module.
TRANSPARENT = frozenset(
    f"aten.{name}"
    for name in (
        "alias.default", "clone.default", "contiguous.default", "detach.default", "detach_.default",
        "dropout.default", "feature_dropout.default", "alpha_dropout.default", "lift_fresh.default",
        "lift_fresh_copy.default", "sym_size.int",
    )
)  # fmt: skip


class Scope(NamedTuple):
    """The innermost module call around a node: a key per call, the module path and the class."""

    key: str
    path: str
    kind: str


def target_name(target: object) -> str:
    """The name under which rules are registered: `aten.add.Tensor`, `operator.mul`, `torch.sym_float`."""
    if isinstance(target, (str, torch._ops.OpOverload)):
        return str(target)
    module = getattr(target, "__module__", None) or ""
    module = {"_operator": "operator", "torch.ops.higher_order": "higher_order"}.get(module, module)
    name = getattr(target, "__name__", None) or str(target)
    return f"{module}.{name}" if module else name


def scope_of(node: Node) -> Scope:
    """The innermost module around a node; the root where torch recorded none."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [(key, entry) for key, entry in stack.items() if key != _PSEUDO_ENTRY]
    if not entries:
        return Scope("", "", "")
    key, (path, kind) = entries[-1]
    path = re.sub(r"^(L__self__|L\['self'\])\.?", "", str(path))
    path = re.sub(r"\._modules\['([^']*)'\]", r".\1", path).lstrip(".")
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return Scope(key, re.sub(r"@\d+", "", path), name)


def short_name(target: str) -> str:
    """`add` for `aten.add.Tensor`."""
    parts = target.split(".")
    name = (parts[1] if len(parts) > 2 else parts[-1]).strip("_")
    return _PLAIN_NAMES.get(name, name) or "op"


class Namer:
    """Names nodes after their module; a torch.nn module that does one thing lends its bare path."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._work: Counter[str] = Counter()
        for node in nodes:
            name = target_name(node.target)
            if node.op == "call_function" and name not in TRANSPARENT and not name.startswith("operator."):
                self._work[scope_of(node).key] += 1

    def name(self, node: Node) -> str:
        """`layer1.0.conv1` for the operator of a torch.nn module, else `layer1.0.add`."""
        scope = scope_of(node)
        if scope.path and scope.kind.startswith("torch.nn.") and self._work[scope.key] == 1:
            return scope.path
        short = short_name(target_name(node.target))
        return f"{scope.path}.{short}" if scope.path else short

    def location(self, node: Node) -> Loc:
        """Module path, and the innermost line of the stack outside torch."""
        scope = scope_of(node)
        path = scope.path or scope.kind.rpartition(".")[2] or "."  # the root goes by its class
        frames = _FRAME.findall(node.meta.get("stack_trace") or "")
        for file, line in reversed(frames):
            if not file.startswith((_TORCH_ROOT, _OWN_ROOT, "torch/", "<")):
                return Loc.at(path, _relative(file, os.getcwd()), int(line))
        return Loc.at(path)


@lru_cache(maxsize=1024)
def _relative(file: str, directory: str) -> str:
    """The path below the current directory, or the bare file name for files elsewhere."""
    path = Path(file)
    try:
        return path.resolve().relative_to(Path(directory).resolve()).as_posix()
    except ValueError:
        return path.name
