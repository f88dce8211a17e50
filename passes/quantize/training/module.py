"""Any graph as an `nn.Module`: constants become parameters, and the reference semantics the forward pass.

module = GraphModule(plait.lower("net.onnx"))
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
loss = F.cross_entropy(module(images), labels)
...
trained = module.to_graph()
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from plait.ir import Graph, Op
from plait.ir.ops import nn as layers
from plait.ir.reference import REFERENCES
from plait.ir.reference.table import Context, MixedArgs, Reference
from plait.passes.quantize.training.evaluate import Evaluator, by_name
from plait.passes.quantize.training.store import (
    ConstantStore,
    separate_vectors,
    statistics_of,
    with_constants,
)

#: What a parameter is: of a quantiser, a gain or bias of a normalisation, another vector, or all else.
ParameterKind = Literal["clip", "norm", "bias", "weight"]
_NORMS = (
    *(layers.BatchNorm, layers.LayerNorm, layers.RmsNorm),
    *(layers.GroupNorm, layers.InstanceNorm),
)


class GraphModule(nn.Module):
    """A graph that trains.

    Batch norms normalise with the statistics of the batch in training mode, and move the stored
    ones towards them; in evaluation mode they use the stored ones, as the graph says.

    Args:
        graph: a copy is kept, in which vectors of one number have one reader each (`separate_vectors`).
        trainable: names or globs of the constants to train; see `ConstantStore`.
        momentum: share of the batch in the moving averages of batch norms.

    Attributes:
        store: the constants by name.
        track_statistics: whether training moves the stored statistics.
        frozen_statistics: whether batch norms use the stored statistics in training too.
        substitutes: tensors in place of those of the store, by name.

    Raises InputError for a constant without data, or an op without reference semantics.
    """

    def __init__(
        self, graph: Graph, *, trainable: Collection[str] | None = None, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.graph = graph.clone()
        separate_vectors(self.graph)
        self.momentum = momentum
        self.track_statistics = True
        self.frozen_statistics = False
        self.substitutes: dict[str, torch.Tensor] = {}
        self.store = ConstantStore(self.graph, trainable)
        self._evaluator = Evaluator(self.graph, self.batch_norms(self.graph))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the graph, a tensor if there is one; inputs by position or name."""
        arguments = by_name(self.graph, inputs, named) if named else inputs
        outputs = self._evaluator(arguments, self.constants())
        return outputs[0] if len(outputs) == 1 else outputs

    def constants(self) -> Mapping[str, torch.Tensor]:
        """What the graph that is run takes for its constants, by name."""
        held = self._evaluator.graph.constants
        found = {name: tensor for name, tensor in self.store.items() if name in held}
        found.update(self.substitutes)
        return found

    def to_graph(self) -> Graph:
        """A copy of the graph with the trained constants."""
        return with_constants(self.graph, dict(self.store.items()))

    def freeze_batch_norm(self, frozen: bool = True) -> None:
        """Use the stored statistics in training as well, and leave them as they are.

        The last steps of training then see the very function that evaluation computes (Jacob et
        al. 2018, section 3.2; Krishnamoorthi 2018, section 3.2.2).
        """
        self.frozen_statistics = frozen

    # -- parameters by kind ------------------------------------------------------------
    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """What each of `named_parameters()` is, by name."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        kinds: dict[str, ParameterKind] = dict.fromkeys(names.values(), "clip")
        norms = {
            value.name
            for op in self.graph.walk()
            if isinstance(op, _NORMS)
            for value in (op.scale, getattr(op, "bias", None))
            if value is not None
        }
        for constant, parameter in self.store.trained():
            plain: ParameterKind = "bias" if parameter.dim() == 1 else "weight"
            kinds[names[id(parameter)]] = "norm" if constant in norms else plain
        return kinds

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, clip_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: weights decay, everything else does not.

        Args:
            lr: learning rate of all but quantisers.
            weight_decay: of weights.
            clip_lr: learning rate of the quantisers' parameters; by default `lr`.
        """
        kinds = self.parameter_kinds()
        held: dict[str, list[nn.Parameter]] = {"weight": [], "plain": [], "clip": []}
        for name, parameter in self.named_parameters():
            kind = kinds[name]
            held[kind if kind in held else "plain"].append(parameter)
        groups = [
            {"params": held["weight"], "lr": lr, "weight_decay": weight_decay},
            {"params": held["plain"], "lr": lr, "weight_decay": 0.0},
            {"params": held["clip"], "lr": lr if clip_lr is None else clip_lr, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    # -- batch norm --------------------------------------------------------------------
    def batch_norms(self, graph: Graph) -> dict[Op, Reference]:
        """The semantics of batch norms in training, for those whose statistics the store holds."""
        return {
            op: self._batch_norm
            for op in statistics_of(graph)
            if op.mean.name in self.store and op.variance.name in self.store
        }

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether batch norms normalise with the statistics of the batch."""
        return self.training and not self.frozen_statistics

    def _batch_norm(self, op: layers.BatchNorm, args: MixedArgs, ctx: Context) -> torch.Tensor:
        x, mean, variance, scale, bias = args
        if not self.uses_batch_statistics:
            return REFERENCES[layers.BatchNorm](op, args, ctx)
        if not self.track_statistics:
            mean = variance = None
        return F.batch_norm(x, mean, variance, scale, bias, True, self.momentum, op.epsilon)
