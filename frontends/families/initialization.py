"""Seeded random weights that keep a deep network's signals in range.

The examples are never trained, yet what is compiled from them has to be
checked against the source within a tolerance.  That needs outputs that neither
explode nor vanish, that depend on the input, and normalisation statistics that
are not the identity, or folding a batch norm would be a rewrite that cannot go
wrong.

Convolutions get the variance 2/fan_in that keeps a rectified network's signal
(He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852, eq. 10)
and linear layers 1/fan_in (LeCun et al., Efficient BackProp, 1998).  The filters
of a convolution that mixes channels have mean zero, because the positive mean
of a rectified input would otherwise grow with depth until it hides the image
(Brock et al., Characterizing Signal Propagation, ICLR 2021, arXiv:2101.08692).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

BIAS_STD = 0.05
"""Standard deviation of the biases of convolutions and linear layers."""

SHIFT_STD = 0.1
"""Standard deviation of the additive terms of normalisations: bias and running mean."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@runtime_checkable
class SelfInitializing(Protocol):
    """A module with parameters of its own, or with a rule for those of its children."""

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights; called after all the layers inside have been drawn."""


def build_seeded(constructor: Callable[[], ModuleT], seed: int) -> ModuleT:
    """Construct a model, draw its weights from `seed` and put it in eval mode.

    torch's global random state is the same after the call as before it.
    """
    with _global_random_state_kept():
        model = constructor()
    initialize(model, seed)
    return model.eval()


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Layers draw default weights from the CPU's global generator when constructed; undo that."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Draw every parameter and running statistic of `model` in place.

    Common layers follow one rule each; a module with an `initialize(generator)`
    method then has the last word on its own parameters and its children's.

    Raises:
        TypeError: a module holds parameters and there is no rule for its type.
    """
    generator = torch.Generator().manual_seed(seed)
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            gain = math.sqrt(2.0) if isinstance(module, nn.Conv2d) else 1.0
            module.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                module.weight -= module.weight.mean(dim=(1, 2, 3), keepdim=True)
            if module.bias is not None:
                module.bias.normal_(0.0, BIAS_STD, generator=generator)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, 1.0, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            _initialize_norm(module, generator)
        elif list(module.parameters(recurse=False)) and not isinstance(module, SelfInitializing):
            raise TypeError(
                f"{path or 'the model'}: {type(module).__name__} holds parameters of its own and has no rule "
                "to draw them; give it a method initialize(generator)"
            )
    for module in reversed(list(model.modules())):
        if isinstance(module, SelfInitializing):
            module.initialize(generator)


def _initialize_norm(norm: nn.BatchNorm2d | nn.LayerNorm, generator: torch.Generator) -> None:
    """Scales near 1 and shifts near 0, but exactly neither, so that no term can be dropped unseen."""
    if norm.weight is not None:
        # With the running variance below, E[weight^2 / variance] is 1.04: a deep stack keeps its scale.
        norm.weight.uniform_(0.6, 1.3, generator=generator)
    if norm.bias is not None:
        norm.bias.normal_(0.0, SHIFT_STD, generator=generator)
    if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0.0, SHIFT_STD, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)


@torch.no_grad()
def damp_branch(branch: nn.Module, factor: float = 0.5) -> None:
    """Scale the last batch norm of a residual branch, so that sums of branches do not grow with depth."""
    norms = [module for module in branch.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[-1].weight.mul_(factor)
