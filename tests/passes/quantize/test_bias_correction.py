"""Bias correction takes the mean error of each layer away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.ir import Constant, Graph, InputError
from plait.ir.interpret import interpret
from plait.ir.ops import nn, quant
from plait.passes.quantize.bias_correction import correct_biases
from plait.passes.quantize.scheme import OpScheme, Scheme

from .trained import Task, everything, pictures, rounded, sequences, weights_only

THREE_BITS = Scheme(3, axis=0)


def shifts(task: Task, graph: Graph) -> dict[str, float]:
    """Root mean square over channels of the shift of each layer's mean on calibration data."""
    batch = torch.cat(task.calibration)
    means: list[dict[str, torch.Tensor]] = []
    for which in (task.graph, graph):
        seen: dict[str, torch.Tensor] = {}

        def see(value: object, tensor: torch.Tensor, seen: dict[str, torch.Tensor] = seen) -> None:
            producer = value.producer  # type: ignore[attr-defined]
            if isinstance(producer, (nn.Conv2d, nn.Linear)):
                axis = 1 if isinstance(producer, nn.Conv2d) else tensor.dim() - 1
                seen[producer.name] = tensor.movedim(axis, 0).flatten(1).mean(1)

        interpret(which, [batch], observe=see)
        means.append(seen)
    return {name: float((means[1][name] - mean).square().mean().sqrt()) for name, mean in means[0].items()}


@pytest.mark.parametrize(("make", "sequential"), [(pictures, True), (sequences, True), (pictures, False)])
def test_means_come_back(make: object, sequential: bool) -> None:
    task: Task = make()  # type: ignore[operator]
    schemes = weights_only(task.graph, THREE_BITS)
    before = rounded(task, schemes)
    after = before.clone()
    count = correct_biases(task.graph, after, task.calibration, sequential=sequential)
    assert count == len(schemes)
    after.verify()
    first, then = shifts(task, before), shifts(task, after)
    last = list(first)[-1]
    if sequential:
        assert then[last] < first[last] / 20
        assert sum(then.values()) < 0.6 * sum(first.values())
    else:  # what the layers before did to the input is not seen
        assert sum(then.values()) < 0.95 * sum(first.values())
    assert task.error(after) < task.error(before)


def test_all_at_once_makes_up_for_the_layers_own_weights() -> None:
    task = sequences()
    for name in ("plain", "head"):
        before = rounded(task, {name: OpScheme(None, THREE_BITS)})
        after = before.clone()
        assert correct_biases(task.graph, after, task.calibration, sequential=False) == 1
        assert shifts(task, after)[name] < shifts(task, before)[name] / 1000


def test_a_layer_without_activation_is_corrected_exactly() -> None:
    task = sequences()
    scheme = OpScheme(Scheme(4, symmetric=False), THREE_BITS)
    after = rounded(task, everything(task.graph, scheme))
    correct_biases(task.graph, after, task.calibration)
    for name, shift in shifts(task, after).items():
        op = next(op for op in task.graph.ops if op.name == name)
        if op.act == "none":  # type: ignore[attr-defined]
            assert shift < 1e-4, name


def test_rounded_activations_are_corrected_too() -> None:
    task = pictures()
    scheme = OpScheme(Scheme(3, symmetric=False), Scheme(8, axis=0))
    before = rounded(task, everything(task.graph, scheme))
    after = before.clone()
    correct_biases(task.graph, after, task.calibration)
    last = list(shifts(task, before))[-1]
    assert shifts(task, after)[last] < shifts(task, before)[last] / 20


def test_layers_without_a_bias_are_given_one() -> None:
    task = sequences()
    graph = task.graph.clone()
    plain = graph.value("plain").producer
    assert isinstance(plain, nn.Linear)
    graph.replace(plain, plain.evolve(b=None))
    bare = Task(graph, task.calibration, task.held_out, task.labels)
    after = rounded(bare, weights_only(graph, THREE_BITS))
    correct_biases(graph, after, task.calibration)
    made = after.value("plain").producer
    assert isinstance(made, nn.Linear)
    assert isinstance(made.b, Constant)
    assert made.b.shaped.dtype.name == "f32"
    assert "correct-biases" in made.loc.passes
    assert shifts(bare, after)["plain"] < 1e-4


def test_only_biases_change_and_old_ones_go() -> None:
    task = pictures()
    before = rounded(task, weights_only(task.graph, THREE_BITS))
    after = before.clone()
    correct_biases(task.graph, after, task.calibration)
    assert [op.name for op in after.ops] == [op.name for op in before.ops]
    for op in after.ops:
        if isinstance(op, (nn.Conv2d, nn.Linear)):
            assert op.b is not None
            assert op.b.name.endswith(".corrected")
            assert isinstance(op.w.producer, quant.Dequantize)
    assert len(after.constants) == len(before.constants)
    assert all(
        constant.users for constant in after.constants.values() if constant.name.endswith(".corrected")
    )


def test_a_graph_that_is_not_quantised_is_refused() -> None:
    task = pictures()
    with pytest.raises(InputError, match="no quantised convolution or dense layer"):
        correct_biases(task.graph, task.graph.clone(), task.calibration)


def test_no_shift_no_change() -> None:
    task = pictures()
    graph = rounded(task, weights_only(task.graph, Scheme(8, axis=0)))
    # The float graph under test has the very weights that the QDQ form dequantises.
    same = task.graph.clone()
    for op in list(same.ops):
        if isinstance(op, (nn.Conv2d, nn.Linear)):
            real: list[np.ndarray] = []
            held = graph.value(op.name).producer.w.name  # type: ignore[union-attr]
            interpret(
                graph,
                [task.calibration[0]],
                observe=lambda value, x, held=held, real=real: (
                    real.append(x.numpy()) if value.name == held else None
                ),
            )
            same.replace(op, op.evolve(w=same.add_constant(f"{op.name}.real", real[0])))
    assert correct_biases(same, graph, task.calibration) == 0
