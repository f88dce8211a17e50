"""Quantisation-aware training of a graph: fake quantisers on the operands of the chosen ops.

    module = prepare(graph, {op.name: OpScheme(...) for op in ...}, quantizer="lsq")
    module(batch)                       # the first batch sets the ranges
    ...                                 # train `module` as any nn.Module
    qdq = module.convert()              # the same function as a graph of integers and scales

The module runs the very QDQ graph that `insert_qdq` writes, with other semantics for its quantise
and dequantise ops; so what is trained is what is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from plait.ir import Constant, Graph, InputError, Op, Value
from plait.ir.errors import did_you_mean
from plait.ir.ops import core, quant
from plait.ir.ops import nn as layers
from plait.ir.reference.table import Context, MixedArgs, Reference
from plait.passes.manager import optimize
from plait.passes.quantize.insert import (
    ABLE,
    CONTRACTIONS,
    MOVES,
    insert_qdq,
    place,
    weight_of,
    weights_to_quantise,
)
from plait.passes.quantize.scheme import MAX_BITS, Grid, OpScheme, Scheme, parameter_shape
from plait.passes.quantize.training.evaluate import Evaluator
from plait.passes.quantize.training.fold import Fold, FoldedLayer, fold_into_scales, folds_of
from plait.passes.quantize.training.module import GraphModule
from plait.passes.quantize.training.quantizers import (
    LearnedClipping,
    LearnedInterval,
    LearnedStep,
    Quantizer,
)
from plait.passes.quantize.training.store import separate_vectors, with_constants

#: What a graph goes through first, so that values are rounded where integer arithmetic will round.
PREPARATION = "canonicalize,fold-constants,fuse-bias,fuse-activation,dead-code"
FOLDING = "fold-batch-norm{standalone=false}"
FUSION = "fuse-activation,dead-code"
#: Activations whose results are never negative.
_POSITIVE_ACTS = ("relu", "relu6", "sigmoid", "hardsigmoid")
_POSITIVE_OPS = (layers.Relu, layers.Relu6, layers.Sigmoid, layers.Hardsigmoid, layers.Softmax, core.Exp)
_KEEPS_SIGN = (*MOVES, layers.AvgPool2d, layers.AdaptiveAvgPool2d, core.Concat, core.Mean)

WeightMaker = Callable[[Scheme, tuple[int, ...], bool], Quantizer]
ActivationMaker = Callable[[Scheme, bool], Quantizer]


@dataclass(frozen=True)
class QuantizerKind:
    """How to make the quantisers of one method.

    Attributes:
        weight: from the scheme, the shape of the step and whether a batch norm alone reads the layer.
        activation: from the scheme and whether the value is never negative.
    """

    weight: WeightMaker
    activation: ActivationMaker


def _learned_step(scheme: Scheme, shape: tuple[int, ...], normed: bool) -> Quantizer:
    return LearnedStep(scheme, shape)


def _step_activation(scheme: Scheme, positive: bool) -> Quantizer:
    return LearnedStep(scheme, activation=True)


def _starts_at_zero(scheme: Scheme, positive: bool) -> bool:
    return positive and not (scheme.symmetric and scheme.signed)


def _clipped_activation(scheme: Scheme, positive: bool) -> Quantizer:
    if _starts_at_zero(scheme, positive):
        return LearnedClipping(scheme)
    return _step_activation(scheme, positive)


def _interval_weight(scheme: Scheme, shape: tuple[int, ...], normed: bool) -> Quantizer:
    if scheme.bits >= MAX_BITS:
        return LearnedStep(scheme, shape)
    return LearnedInterval(scheme, shape, normalise=normed)


def _interval_activation(scheme: Scheme, positive: bool) -> Quantizer:
    if _starts_at_zero(scheme, positive):
        return LearnedInterval(scheme, activation=True)
    return _step_activation(scheme, positive)


#: By name: `lsq`; `pact`, which clips activations by PACT and has LSQ for weights; `saq`, the learned
#: intervals of that paper, with weights normalised where a batch norm follows, and LSQ where an
#: interval cannot be: weights of 8 bits, and activations that may be negative.
QUANTIZERS: dict[str, QuantizerKind] = {
    "lsq": QuantizerKind(_learned_step, _step_activation),
    "pact": QuantizerKind(_learned_step, _clipped_activation),
    "saq": QuantizerKind(_interval_weight, _interval_activation),
}


class QatModule(GraphModule):
    """A graph in quantisation-aware training; `prepare` makes it.

    Attributes:
        graph: the float graph whose constants are trained.
        schemes: of the ops of the graph that is converted, by name.
        weights: quantisers of weights by name of the op, with dots written as slashes.
        activations: quantisers of activations by name of the value, likewise.
    """

    def __init__(
        self,
        source: Graph,
        structure: Graph,
        schemes: Mapping[str, OpScheme],
        kind: QuantizerKind,
        folds: Sequence[Fold] = (),
        *,
        trainable: Collection[str] | None = None,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(source, trainable=trainable, momentum=momentum)
        self.schemes = dict(schemes)
        self._structure = structure
        self._placement = place(structure, schemes)
        self._folds = {fold.weight: fold for fold in folds}
        self._by_value = {
            name: kind.activation(scheme, is_positive(structure.value(f"%{name}")))
            for name, scheme in self._placement.measured.items()
        }
        self._by_op = {
            op.name: kind.weight(scheme, parameter_shape(weight.data, scheme), _is_normed(op))
            for op, weight, scheme in weights_to_quantise(structure, schemes)
        }
        self.activations = nn.ModuleDict({_key(name): q for name, q in self._by_value.items()})
        self.weights = nn.ModuleDict({_key(name): q for name, q in self._by_op.items()})
        self.folded: dict[str, FoldedLayer] = {}
        program = insert_qdq(structure, schemes, self._placeholders())
        self._evaluator = Evaluator(program, self._semantics(program))

    # -- construction ------------------------------------------------------------------
    def _placeholders(self) -> dict[str, Grid]:
        return {
            name: Grid(scheme, np.float32(1.0), np.int32(0))
            for name, scheme in self._placement.measured.items()
        }

    def _semantics(self, program: Graph) -> dict[Op, Reference]:
        """What the ops of the QDQ graph do in training."""
        semantics: dict[Op, Reference] = {**self.batch_norms(program)}
        ops = {op.name: op for op in program.ops}
        for op in program.ops:
            if isinstance(op, quant.Quantize) and op.x.name in self._placement.schemes:
                quantizer = self._by_value.get(op.x.name)
                # Moves give back elements that are on the grid already.
                semantics[op] = _pass if quantizer is None else _quantise(quantizer)
            elif isinstance(op, quant.Dequantize) and isinstance(op.x.producer, quant.Quantize):
                semantics[op] = _pass
        for op, weight, _ in weights_to_quantise(self._structure, self.schemes):
            found = ops[op.name]
            source = found.right if hasattr(found, "right") else found.w  # type: ignore[attr-defined]
            while not isinstance(source.producer, quant.Dequantize):
                source = source.producer.operands[0]  # the cast of a weight that is not f32
            if weight.name in self._folds:
                semantics[source.producer] = _nothing  # the folded layer quantises its weight itself
            else:
                semantics[source.producer] = self._quantised_constant(weight.name, self._by_op[op.name])
        for op in self._structure.walk():
            held = getattr(op, "w", None)
            fold = self._folds.get(held.name) if isinstance(held, Constant) else None
            if fold is not None:
                layer = FoldedLayer(fold, self, self._by_op.get(op.name))
                self.folded[op.name] = semantics[ops[op.name]] = layer
        return semantics

    def _quantised_constant(self, name: str, quantizer: Quantizer) -> Reference:
        def run(op: Op, args: MixedArgs, ctx: Context) -> torch.Tensor:
            found: torch.Tensor = quantizer(self.store[name])
            return found.float()  # as quant.dequantize gives it, whatever the weight is

        return run

    # -- what training asks for ----------------------------------------------------------
    def quantised_weights(self) -> Iterator[tuple[str, Quantizer, torch.Tensor]]:
        """Name of the op, quantiser, and the float weight behind it, a parameter where it is trained."""
        for op, weight, _ in weights_to_quantise(self._structure, self.schemes):
            fold = self._folds.get(weight.name)
            latent = self.store[weight.name if fold is None else fold.layer.w.name]
            yield op.name, self._by_op[op.name], latent

    def quantizers(self) -> Iterator[Quantizer]:
        """All quantisers, of weights and then of activations."""
        yield from self._by_op.values()
        yield from self._by_value.values()

    # -- writing out -----------------------------------------------------------------------
    def convert(self) -> Graph:
        """The module in evaluation mode as a graph in QDQ form.

        Stored integers are those that the module rounds to; the results differ by the rounding of
        floating-point numbers.  Batch norms that were not folded go into the scales of the weights
        in front of them where that is exact (see `fold_into_scales`).

        Raises InputError before the first batch, which sets the ranges.
        """
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                found = self._converted()
        finally:
            self.train(was_training)
        if fold_into_scales(found):
            found = optimize(found, FUSION)[0]
        return found

    def _converted(self) -> Graph:
        values = dict(self.store.items())
        for layer in self.folded.values():
            weight, bias = layer.folded()
            values[layer.fold.weight], values[layer.fold.bias] = weight, bias
        weight_grids: dict[str, Grid] = {}
        stored: dict[str, np.ndarray] = {}
        for op, constant, _ in weights_to_quantise(self._structure, self.schemes):
            quantizer = self._by_op[op.name]
            weight_grids[op.name] = quantizer.grid()
            stored[op.name] = quantizer.stored(values[constant.name])
        grids = {name: quantizer.grid() for name, quantizer in self._by_value.items()}
        return insert_qdq(with_constants(self._structure, values), self.schemes, grids, weight_grids, stored)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _pass(op: Op, args: MixedArgs, ctx: Context) -> torch.Tensor:
    found: torch.Tensor = args[0]
    return found


def _nothing(op: Op, args: MixedArgs, ctx: Context) -> None:
    return None


def _quantise(quantizer: Quantizer) -> Reference:
    return lambda op, args, ctx: quantizer(args[0])


def _is_normed(op: Op) -> bool:
    """Whether a batch norm alone reads a convolution, which makes good any scale of its weights."""
    return (
        isinstance(op, (layers.Conv1d, layers.Conv2d, layers.Conv3d))
        and op.act == "none"
        and op.result.use_count == 1
        and isinstance(op.result.users[0], layers.BatchNorm)
    )


def is_positive(value: Value) -> bool:
    """Whether a value is known to have no negative elements."""
    op = value.producer
    if op is None:
        return False
    if isinstance(op, _POSITIVE_OPS) or getattr(op, "act", None) in _POSITIVE_ACTS:
        return True
    if isinstance(op, _KEEPS_SIGN):
        return all(is_positive(operand) for operand in op.operands)
    return False


def prepare(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    quantizer: str = "lsq",
    *,
    first_last_bits: int | None = 8,
    fold_batch_norm: bool = True,
    trainable: Collection[str] | None = None,
    momentum: float = 0.1,
) -> QatModule:
    """A graph as a module in which the chosen ops compute on rounded weights and activations.

    Args:
        graph: a float graph, before or after `optimize`; it stays as it is.
        schemes: how each op is quantised, by the name of its result.
        quantizer: `lsq`, `pact` or `saq` (see `QUANTIZERS`).
        first_last_bits: width of the weights and activations of the first and last chosen layer
            that has weights, as in all three papers; None leaves them as they are.
        fold_batch_norm: fold batch norms into the layers in front of them and quantise the folded
            weights, in training too.  Otherwise the layers' own weights are quantised, and
            `convert` folds into the scales.
        trainable: names or globs of the constants to train; see `ConstantStore`.
        momentum: share of the batch in the moving averages of batch norms.

    Quantisers have no range before they see a batch: run the module once on real data.

    Raises InputError for an unknown op or quantiser, and for an op that cannot be quantised.
    """
    kind = QUANTIZERS.get(quantizer)
    if kind is None:
        raise InputError(
            f"the quantiser is '{quantizer}'{did_you_mean(quantizer, QUANTIZERS)}",
            why=f"it is one of {', '.join(QUANTIZERS)}",
        )
    if not schemes:
        raise InputError(
            "no op is to be quantised", where="prepare", remedy="give the scheme of one or more ops"
        )
    source = optimize(graph, PREPARATION)[0]
    separate_vectors(source)
    structure, folds = source, []
    if fold_batch_norm:
        folded = optimize(source, FOLDING)[0]
        structure, folds = optimize(folded, FUSION)[0], folds_of(source, folded)
    chosen = _renamed(graph, structure, schemes)
    if first_last_bits is not None:
        _widen_ends(structure, chosen, first_last_bits)
    return QatModule(source, structure, chosen, kind, folds, trainable=trainable, momentum=momentum)


def _renamed(graph: Graph, after: Graph, schemes: Mapping[str, OpScheme]) -> dict[str, OpScheme]:
    """Schemes by the names that ops have once batch norm and activation are part of them.

    Sums and the like that became part of a layer need none.
    """
    before = {op.name: op for op in graph.ops}
    left = {op.name: op for op in after.ops}
    chosen = {}
    for name, scheme in schemes.items():
        op = before.get(name)
        if op is None:
            raise InputError(
                f"there is no op %{name}{did_you_mean(name, before)}",
                where=f"schemes for graph @{graph.name}",
                remedy="name ops by their result, as printed",
            )
        if not isinstance(op, ABLE):
            raise InputError(
                f"%{name} is {op.opname}, which cannot be quantised",
                where=op.loc.readable(),
                why=f"those are {', '.join(sorted(kind.opname for kind in ABLE))}",
            )
        kept = _kept(op, left)
        if kept is not None:
            chosen[kept.name] = scheme
        elif isinstance(op, CONTRACTIONS):
            raise InputError(
                f"%{name} is gone after {PREPARATION}",
                where=op.loc.readable(),
                remedy="optimise the graph first and name the ops of the result",
            )
    return chosen


def _kept(op: Op, left: Mapping[str, Op]) -> Op | None:
    """What an op has become: an op like it by its name, or by that of what alone read it."""
    kind = CONTRACTIONS if isinstance(op, CONTRACTIONS) else type(op)
    while not isinstance(left.get(op.name), kind):
        users = [user for user in op.result.users if isinstance(user, Op)]
        if len(users) != 1 or op.result.use_count != 1:
            return None
        op = users[0]
    return left[op.name]


def _widen_ends(graph: Graph, schemes: dict[str, OpScheme], bits: int) -> None:
    """Give the first and the last layer with quantised weights other widths."""
    names = [
        op.name
        for op in graph.ops
        if op.name in schemes and isinstance(op, CONTRACTIONS) and weight_of(op) is not None
    ]
    for name in {*names[:1], *names[-1:]}:
        schemes[name] = schemes[name].with_bits(bits)


__all__ = ["QUANTIZERS", "QatModule", "QuantizerKind", "prepare"]
