"""Capture of modules that take derivatives inside forward: torch.func and torch.autograd.grad.

torch.export records operators before autograd sees them, so a derivative is lost on it.
Here the operators are recorded after autograd, and the module runs at one level of
`torch.func` differentiation: that makes torch.autograd.grad work too, and what the
derivative computes becomes ordinary operators of the program.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch._functorch import eager_transforms as transforms
from torch.export import ExportedProgram
from torch.export._trace import _export
from torch.utils import _pytree as pytree

from plait.frontends.pytorch.arguments import replaced_forward


def export_with_derivatives(
    model: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], shapes: Any
) -> ExportedProgram:
    """Export a module whose forward differentiates.  Raises whatever torch raises."""
    with _differentiable(model):
        return _export(model, arguments, keywords, dynamic_shapes=shapes, strict=False, pre_dispatch=False)


@contextlib.contextmanager
def _differentiable(model: torch.nn.Module) -> Iterator[None]:
    """While this holds, `forward` runs inside one level of differentiation, whose result is dropped."""
    forward = model.forward

    @functools.wraps(forward)
    def inside(*arguments: Any, **keywords: Any) -> Any:
        with (
            transforms.grad_increment_nesting() as level,
            torch.enable_grad(),
            transforms.enable_inplace_requires_grad(True),
        ):

            def wrap(tensor: torch.Tensor) -> torch.Tensor:
                return torch._C._functorch._wrap_for_grad(tensor, level)

            arguments, keywords = pytree.tree_map_only(torch.Tensor, wrap, (arguments, keywords))

            def unwrap(tensor: torch.Tensor) -> torch.Tensor:
                return torch._C._functorch._unwrap_for_grad(tensor, level)

            return pytree.tree_map_only(torch.Tensor, unwrap, forward(*arguments, **keywords))

    with replaced_forward(model, inside):
        yield
