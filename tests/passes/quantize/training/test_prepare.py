"""Quantisation-aware training of graphs: what is rounded, batch norms, and writing the result out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError, QuantType
from plait.ir.interpret import interpret
from plait.ir.ops import linalg, nn, quant
from plait.passes.examples import complete
from plait.passes.quantize.scheme import INT8, OpScheme, Scheme
from plait.passes.quantize.training import LearnedInterval, LearnedStep, QatModule, prepare
from plait.passes.quantize.training.fold import fold_into_scales
from plait.passes.quantize.training.prepare import is_positive
from plait.passes.quantize.training.store import with_constants

Batch = tuple[torch.Tensor, torch.Tensor]
LAYERS = ("conv1", "conv2", "head")


def schemes(
    bits: int, *, axis: int | None = None, symmetric: bool = True, narrow: bool = True
) -> dict[str, OpScheme]:
    activation = Scheme(bits, symmetric=symmetric, signed=not symmetric)
    return dict.fromkeys(LAYERS, OpScheme(activation, Scheme(bits, axis=axis, narrow=narrow)))


def trained(module: QatModule, batch: Batch, steps: int = 4) -> QatModule:
    """A few steps of SGD, so that nothing is where it started; in evaluation mode."""
    module.train()
    module(batch[0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(batch[0]), batch[1]).backward()
        optimizer.step()
    return module.eval()


def disagreement(module: QatModule, x: torch.Tensor) -> tuple[float, float]:
    """Largest and median error of the converted graph, relative to the largest result."""
    found = interpret(module.convert(), [x])[0]
    wanted = module(x).detach()
    error = (found - wanted).abs() / wanted.abs().max()
    return float(error.max()), float(error.median())


@pytest.mark.parametrize("quantizer", ["lsq", "pact", "saq"])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "separate"])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("axis", [None, 0])
def test_the_converted_graph_is_the_module(
    convnet: Graph, batch: Batch, quantizer: str, fold: bool, bits: int, axis: int | None
) -> None:
    module = trained(prepare(convnet, schemes(bits, axis=axis), quantizer, fold_batch_norm=fold), batch)
    graph = module.convert()
    graph.verify()
    # Rounding of floating-point numbers can move an activation to the next level, now and then.
    largest, median = disagreement(module, batch[0])
    assert median < 1e-5
    assert largest < 0.1
    assert not any(isinstance(op, nn.BatchNorm) for op in graph.ops)
    layers = [op for op in graph.ops if isinstance(op, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 3
    assert all(isinstance(op.w.producer, quant.Dequantize) for op in layers)
    assert layers[0].act == "relu"


def test_an_affine_module_converts_too(convnet: Graph, batch: Batch) -> None:
    module = trained(prepare(convnet, schemes(8, axis=0, symmetric=False)), batch)
    assert disagreement(module, batch[0] - 0.5)[1] < 1e-5
    kinds = [op.out for op in module.convert().ops if isinstance(op, quant.Quantize)]
    assert {kind.signed for kind in kinds} == {True}


def test_all_kinds_of_ops_with_the_default_scheme(convnet: Graph, batch: Batch) -> None:
    """Sums and means are rounded as well, where a layer reads them."""
    module = trained(prepare(convnet, dict.fromkeys((*LAYERS, "sum", "mean"), INT8)), batch)
    rounded = {op.x.name for op in module.convert().ops if isinstance(op, quant.Quantize)}
    assert rounded >= {"x", "relu1", "norm2", "pool1", "relu2", "mean"}
    assert disagreement(module, batch[0])[1] < 1e-5


def test_weights_only(convnet: Graph, batch: Batch) -> None:
    only = OpScheme(None, Scheme(4, axis=0))
    module = trained(prepare(convnet, dict.fromkeys(LAYERS, only), first_last_bits=None), batch)
    assert len(module.activations) == 0
    assert disagreement(module, batch[0])[0] < 1e-5


def test_first_and_last_layers_are_wider(convnet: Graph, batch: Batch) -> None:
    module = trained(prepare(convnet, schemes(2)), batch)
    bits = {name: quantizer.scheme.bits for name, quantizer in module.weights.items()}
    assert list(bits.values()) == [8, 2, 8]
    activations = {name: quantizer.scheme.bits for name, quantizer in module.activations.items()}
    assert activations == {"x": 8, "relu1": 2, "mean": 8}
    same = prepare(convnet, schemes(2), first_last_bits=None)
    assert {quantizer.scheme.bits for quantizer in same.quantizers()} == {2}


def test_saq_normalises_in_front_of_batch_norms_only(convnet: Graph) -> None:
    separate = prepare(convnet, schemes(4), "saq", first_last_bits=None, fold_batch_norm=False)
    found = [q.normalise for q in separate.weights.values() if isinstance(q, LearnedInterval)]
    assert found == [True, True, False]
    folded = prepare(convnet, schemes(4), "saq", first_last_bits=None)
    assert not any(q.normalise for q in folded.weights.values() if isinstance(q, LearnedInterval))
    wide = prepare(convnet, schemes(8), "saq")
    assert all(isinstance(q, LearnedStep) for q in wide.weights.values())


def test_what_moves_keep_is_rounded_once(convnet: Graph, batch: Batch) -> None:
    """The quantiser sits in front of the pooling; what pooling gives is on the grid."""
    module = trained(prepare(convnet, schemes(3)), batch)
    assert "pool1" not in module.activations
    grid = module.activations["relu1"].grid()
    seen: dict[str, torch.Tensor] = {}
    interpret(module.convert(), [batch[0]], observe=lambda value, x: seen.update({value.name: x}))
    pooled = seen["pool1"].numpy()
    assert np.array_equal(grid.dequantise(grid.quantise(pooled)), pooled)


# -- batch norm -----------------------------------------------------------------------
def test_a_folded_batch_norm_trains_as_one_does(convnet: Graph, batch: Batch) -> None:
    """At 8 bits: near the float module in results, statistics and gradients."""
    quantised = prepare(convnet, schemes(8, axis=0)).train()
    from plait.passes.quantize.training import GraphModule

    plain = GraphModule(convnet).train()
    quantised(batch[0])  # sets the ranges, moves statistics
    plain(batch[0])
    for name in ("mean1", "variance1"):  # in front of the second layer nothing but the input is rounded
        assert torch.allclose(quantised.store[name], plain.store[name], rtol=1e-2, atol=1e-3)
    gradients = []
    for module in (quantised, plain):
        module.zero_grad()
        F.cross_entropy(module(batch[0]), batch[1]).backward()
        gradients.append({name: parameter.grad for name, parameter in module.store.trained()})
    for name in ("w2", "gain2", "shift2", "gain1", "w3"):
        a, b = (g[name].flatten() for g in gradients)
        assert F.cosine_similarity(a, b, dim=0) > 0.95, name


def test_freezing_makes_training_compute_what_evaluation_does(convnet: Graph, batch: Batch) -> None:
    for fold in (True, False):
        module = trained(prepare(convnet, schemes(4), fold_batch_norm=fold), batch)
        wanted = module(batch[0])
        module.train()
        assert not torch.allclose(module(batch[0]), wanted, atol=1e-4)
        module.eval()
        wanted = module(batch[0])
        module.freeze_batch_norm()
        module.train()
        assert torch.equal(module(batch[0]), wanted)


def test_negative_gains_turn_the_sign_of_stored_weights(convnet: Graph, batch: Batch) -> None:
    """-2 of a 2-bit weight turns to 2, which takes a third bit; without the lowest level it does not."""
    values = {"gain2": torch.full((6,), -0.7)}
    for narrow, bits in ((False, 3), (True, 2)):
        graph = with_constants(convnet, values)
        module = prepare(graph, schemes(2, narrow=narrow), fold_batch_norm=False, first_last_bits=None)
        module.train()
        module(batch[0])
        with torch.no_grad():
            module.store["w2"][0, 0, 0, 0] = -50.0
        module.eval()
        converted = module.convert()
        kinds = [c.type for c in converted.constants.values() if isinstance(c.type, QuantType)]
        second = next(kind for kind in kinds if kind.shape == (6, 6, 3, 3))
        assert (second.bits, second.axis) == (bits, 0)
        assert disagreement(module, batch[0])[1] < 1e-5


def test_a_batch_norm_that_cannot_go_into_scales_stays() -> None:
    graph = complete(
        (
            "@w : qi8<0.1, zp=3>[4,2,1,1]",
            "@m : f32[4]",
            "@v : f32[4]",
            "%x : f32[B,2,5,5]",
            "%d = quant.dequantize(@w) : f32[4,2,1,1]",
            "%c = nn.conv2d(%x, %d) : f32[B,4,5,5]",
            "%n = nn.batch_norm(%c, @m, @v) : f32[B,4,5,5]",
            "return %n",
        )
    )
    assert fold_into_scales(graph) == 0
    assert any(isinstance(op, nn.BatchNorm) for op in graph.ops)


# -- other graphs ---------------------------------------------------------------------
def test_products_of_activations_and_constants() -> None:
    graph = complete(
        (
            "@w : f32[4,6]",
            "%x : f32[B,3,4]",
            "%a = linalg.matmul(%x, @w) {act=\"relu\"} : f32[B,3,6]",
            "%t = core.transpose(%a) {permutation=[0,2,1]} : f32[B,6,3]",
            "%y = linalg.matmul(%a, %t) : f32[B,3,3]",
            "return %y",
        )
    )  # fmt: skip
    module = prepare(graph, {"a": INT8, "y": INT8}, first_last_bits=None)
    x = torch.randn(2, 3, 4)
    module(x)
    module.eval()
    assert disagreement(module, x)[0] < 1e-5
    product = next(op for op in module.convert().ops if isinstance(op, linalg.Matmul) and op.name == "y")
    sources = {value.producer for value in product.operands}
    assert any(isinstance(source, quant.Dequantize) for source in sources)
    assert list(module.weights) == ["a"]
    assert set(module.activations) == {"x", "a"}


def test_a_shared_weight_has_one_gradient() -> None:
    graph = complete(
        (
            "@w : f32[4,4]",
            "%x : f32[B,4]",
            "%a = nn.linear(%x, @w) : f32[B,4]",
            "%b = nn.linear(%a, @w) : f32[B,4]",
            "return %b",
        )
    )
    module = prepare(graph, {"a": INT8, "b": INT8})
    x = torch.randn(3, 4)
    module(x).sum().backward()
    assert module.store["w"].grad.abs().sum() > 0
    module.eval()
    assert disagreement(module, x)[0] < 1e-5


def test_which_values_are_never_negative(convnet: Graph) -> None:
    known = {name: is_positive(convnet.value(f"%{name}")) for name in ("x", "relu1", "pool1", "sum", "mean")}
    assert known == {"x": False, "relu1": True, "pool1": True, "sum": False, "mean": True}


def test_training_lowers_the_loss(
    convnet: Graph, batch: Batch, closure_of: Callable[[Any, Any], Callable[[], torch.Tensor]]
) -> None:
    for quantizer in ("lsq", "pact", "saq"):
        module = prepare(convnet, schemes(3), quantizer)
        module.train()
        module(batch[0])
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            losses.append(float(closure_of(module, batch)()))
            optimizer.step()
        assert losses[-1] < 0.7 * losses[0], quantizer


@pytest.mark.parametrize(
    ("chosen", "options", "says"),
    [
        ({}, {}, "no op"),
        ({"conv3": INT8}, {}, "did you mean 'conv"),
        ({"norm1": INT8}, {}, "nn.batch_norm"),
        ({"conv1": INT8}, {"quantizer": "lqs"}, "did you mean 'lsq'"),
        ({"conv1": INT8}, {"trainable": ["nothing"]}, "nothing"),
    ],
)
def test_bad_input(convnet: Graph, chosen: dict[str, OpScheme], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        prepare(convnet, chosen, **options)


def test_converting_before_the_first_batch_is_an_error(convnet: Graph) -> None:
    with pytest.raises(InputError, match="first batch"):
        prepare(convnet, schemes(4)).convert()
