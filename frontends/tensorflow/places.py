"""Names and locations of ops, from node names, Keras layers and the stack traces that TensorFlow keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from plait.ir import Loc

_LIBRARY = re.compile(
    r"[/\\](site-packages|dist-packages)[/\\]|[/\\](tensorflow|keras)[/\\]src[/\\]|autograph_generated|<"
)
_OWN = str(Path(__file__).parent)
_CALLS = re.compile(r"(Stateful)?PartitionedCall(_\d+)?$")
_COUNTER = re.compile(r"_\d+$")
Frame = tuple[str, int]


def readable(name: str) -> str:
    """A TensorFlow name as an IR name: `conv1/kernel:0` becomes `conv1.kernel`."""
    found = re.sub(r"[^\w.$-]", "_", re.sub(r":\d+$", "", name).strip("/").replace("/", "."))
    return found if found[:1].isalnum() or found[:1] == "_" else "v" + found


class Places:
    """Where nodes come from.

    Args:
        model: the scope that Keras puts around everything, or an empty string.
        layers: names of the layers, without the number that Keras puts behind a scope used twice.
        trace: the stack of the statement that made a top-level node, outermost frame first.
        numbered: whether Keras did put a number behind the scopes of this trace, as it does
            when the layers were called before.
    """

    def __init__(
        self,
        model: str = "",
        layers: Iterable[str] = (),
        trace: Callable[[str], Iterable[Any]] | None = None,
        numbered: bool = False,
    ) -> None:
        self._model, self._layers, self._trace = model, frozenset(layers), trace
        self._numbered = numbered
        self._scopes: dict[str, tuple[str, ...]] = {}

    def path(self, node: str) -> tuple[str, ...]:
        """The layers around a node and the node itself: ("conv1", "convolution")."""
        if node not in self._scopes:
            parts = [part for part in node.split("/") if not _CALLS.fullmatch(part)] or [node]
            if self._model and len(parts) > 1 and re.fullmatch(rf"{re.escape(self._model)}(_\d+)?", parts[0]):
                parts = parts[1:]
            self._scopes[node] = tuple(self._layer(part) for part in parts)
        return self._scopes[node]

    def _layer(self, part: str) -> str:
        plain = _COUNTER.sub("", part)
        return plain if plain in self._layers and (self._numbered or part not in self._layers) else part

    def name(self, node: str) -> str:
        """The name for the results of a node."""
        return readable("/".join(self.path(node)))

    def location(self, node: str, outer: Loc | None = None) -> Loc:
        """Path of the layer, and the user's file and line, of the call where the node is in a function."""
        *scopes, last = self.path(node)
        path = "/".join(scopes) or last
        origin = outer.origins[0] if outer is not None and outer.origins else None
        if origin is not None:
            return Loc.at(path, origin.file, origin.line)
        frame = user_frame(self._trace(node)) if self._trace is not None else None
        return Loc.at(path, *frame) if frame is not None else Loc.at(path)


def user_frame(trace: Iterable[Any]) -> Frame | None:
    """File and line of the innermost frame outside of installed libraries.

    Where this package traced the model itself, frames around that are no part of the model.
    """
    own = -1
    frames = [(str(frame.filename), int(frame.lineno)) for frame in trace]
    for index, (file, _) in enumerate(frames):
        if file.startswith(_OWN):
            own = index
    for file, line in reversed(frames[own + 1 :]):
        if not _is_library(file):
            return PurePath(file).name, line
    return None


@lru_cache(maxsize=1024)
def _is_library(file: str) -> bool:
    return _LIBRARY.search(file) is not None or file.startswith(_OWN)


def trace_of(operations: Mapping[str, Any]) -> Callable[[str], Iterable[Any]]:
    """Stack traces of the operations of a `tf.Graph` by node name."""

    def trace(node: str) -> Iterable[Any]:
        operation = operations.get(node)
        return (operation.traceback or ()) if operation is not None else ()

    return trace


def scopes_are_numbered(captured: Iterable[tuple[str, str]]) -> bool:
    """Whether scopes carry a number behind the layer's name, from pairs of node names and variable paths."""
    plain = numbered = 0
    for node, path in captured:
        layer = path.rpartition("/")[0].rpartition("/")[2]
        parts = node.split("/")
        plain += layer in parts
        numbered += any(_COUNTER.sub("", part) == layer and part != layer for part in parts)
    return numbered > plain
