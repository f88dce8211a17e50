"""Sharpness-aware steps: the mechanism of each case, exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError
from plait.passes.quantize.scheme import OpScheme, Scheme
from plait.passes.quantize.training import (
    Bernoulli,
    GraphModule,
    QatModule,
    Reuse,
    SharpnessAware,
    Subset,
    prepare,
)

Batch = tuple[torch.Tensor, torch.Tensor]
ClosureOf = Callable[[GraphModule, Any], Callable[[], torch.Tensor]]
CASES = (1, 2, 3)


def made(convnet: Graph, batch: Batch, *, bits: int = 3, fold: bool = False) -> QatModule:
    scheme = OpScheme(Scheme(bits, signed=False), Scheme(bits))
    module = prepare(
        convnet, dict.fromkeys(("conv1", "conv2", "head"), scheme), first_last_bits=None, fold_batch_norm=fold
    )
    module.eval()
    module(batch[0])
    return module.train()


def sgd(module: GraphModule, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)


class Watch:
    """A closure that notes, in each pass, the parameters and the perturbations in place."""

    def __init__(self, module: QatModule, closure: Callable[[], torch.Tensor]) -> None:
        self.module, self.closure = module, closure
        self.parameters: list[dict[str, torch.Tensor]] = []
        self.perturbations: list[list[torch.Tensor]] = []
        self.quantised: list[list[torch.Tensor]] = []

    def __call__(self) -> torch.Tensor:
        held = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.parameters.append(held)
        shifts = [q.perturbation for _, q, _ in self.module.quantised_weights()]
        self.perturbations.append([t.clone() for t in shifts if t is not None])
        with torch.no_grad():
            self.quantised.append([q.rounded(w).clone() for _, q, w in self.module.quantised_weights()])
        return self.closure()

    def shift(self) -> list[torch.Tensor]:
        """Everything by which the second pass differs from the first."""
        first, second = self.parameters
        moved = [second[name] - first[name] for name in first if not torch.equal(first[name], second[name])]
        return [*moved, *self.perturbations[1]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rho", [0.05, 2.0])
@pytest.mark.parametrize("fold", [True, False])
def test_the_perturbation_has_norm_rho(
    convnet: Graph, batch: Batch, closure_of: ClosureOf, case: Any, rho: float, fold: bool
) -> None:
    module = made(convnet, batch, fold=fold)
    watch = Watch(module, closure_of(module, batch))
    SharpnessAware(sgd(module), module, rho, case=case).step(watch)
    norm = torch.stack([t.norm() for t in watch.shift()]).norm()
    assert float(norm) == pytest.approx(rho, rel=1e-3)
    assert len(watch.perturbations[0]) == 0
    assert len(watch.perturbations[1]) == (0 if case == 2 else 3)


def test_what_takes_part_is_chosen(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    def moved(**options: Any) -> set[str]:
        module = made(convnet, batch)
        watch = Watch(module, closure_of(module, batch))
        SharpnessAware(sgd(module), module, 0.5, **options).step(watch)
        first, second = watch.parameters
        return {n.removeprefix("store.") for n in first if not torch.equal(first[n], second[n])}

    norms = {"gain1", "shift1", "gain2", "shift2"}
    assert moved(case=3) == {"b2", "b3", *norms}
    assert moved(case=3, include_bias=False) == norms
    assert moved(case=3, include_norm=False) == {"b2", "b3"}
    assert moved(case=2, include_bias=False, include_norm=False) == {"w1", "w2", "w3"}
    steps = moved(case=3, include_bias=False, include_norm=False, include_clip=True)
    assert steps
    assert all(name.endswith(".step") for name in steps)


@pytest.mark.parametrize("case", CASES)
def test_weights_come_back_bit_for_bit(
    convnet: Graph, batch: Batch, closure_of: ClosureOf, case: Any
) -> None:
    """With a learning rate of 0 a step changes nothing at all, nor does a pass that fails."""
    module = made(convnet, batch)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    sharp = SharpnessAware(sgd(module, 0.0), module, 3.7, case=case, include_clip=True)
    sharp.step(closure_of(module, batch))
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())

    def failing() -> torch.Tensor:
        if sharp.passes % 2 == 0:
            raise RuntimeError("in the second pass")
        return closure_of(module, batch)()

    with pytest.raises(RuntimeError, match="second pass"):
        sharp.step(failing)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert all(q.perturbation is None and not q.keep and not q.detached for q in module.quantizers())
    assert module.track_statistics


def test_case_2_with_a_tiny_rho_leaves_quantised_weights(
    convnet: Graph, batch: Batch, closure_of: ClosureOf
) -> None:
    """Perturbation diminishment: what is rounded away is no perturbation; in case 3 it arrives."""
    quiet = {"include_bias": False, "include_norm": False}
    module = made(convnet, batch)
    watch = Watch(module, closure_of(module, batch))
    SharpnessAware(sgd(module), module, 1e-6, case=2, **quiet).step(watch)
    assert watch.shift() != []
    assert all(torch.equal(a, b) for a, b in zip(*watch.quantised, strict=True))
    module = made(convnet, batch)
    watch = Watch(module, closure_of(module, batch))
    SharpnessAware(sgd(module), module, 1e-6, case=3, **quiet).step(watch)
    assert all(bool(shift.abs().max() > 0) for shift in watch.perturbations[1])


def test_case_3_perturbs_by_the_gradient_of_the_quantised_weights(
    convnet: Graph, batch: Batch, closure_of: ClosureOf
) -> None:
    """Case 1 has no gradient where the range clips: the two differ there, and only in direction there."""
    module = made(convnet, batch)
    with torch.no_grad():
        module.weights["conv2"].step.mul_(0.3)  # so that many weights are clipped
    shifts = {}
    for case in (1, 3):
        watch = Watch(module, closure_of(module, batch))
        SharpnessAware(sgd(module, 0.0), module, 0.5, case=case).step(watch)
        shifts[case] = watch.perturbations[1][1]
    latent = module.store["w2"]
    ratio = latent / module.weights["conv2"].step
    clipped = (ratio <= -4) | (ratio >= 3)
    assert 10 < int(clipped.sum()) < clipped.numel() - 10
    assert bool((shifts[1][clipped] == 0).all())
    assert bool((shifts[3][clipped] != 0).all())
    inside = ~clipped
    assert F.cosine_similarity(shifts[1][inside], shifts[3][inside], dim=0) > 0.9999


def test_the_ascent_raises_the_loss(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    module = made(convnet, batch)
    losses: list[float] = []

    def closure() -> torch.Tensor:
        loss = closure_of(module, batch)()
        losses.append(float(loss))
        return loss

    found = SharpnessAware(sgd(module), module, 0.05, case=3).step(closure)
    assert losses[1] > losses[0]
    assert float(found) == losses[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rho_0_is_plain_training_bit_for_bit(
    convnet: Graph, batch: Batch, closure_of: ClosureOf, case: Any, kind: str
) -> None:
    """Two passes, statistics frozen in the second: every parameter and statistic as by the optimiser alone."""

    def optimizer_of(module: GraphModule) -> torch.optim.Optimizer:
        return sgd(module) if kind == "sgd" else torch.optim.AdamW(module.parameters(), lr=1e-2)

    plain, sharp = made(convnet, batch), made(convnet, batch)
    optimizer = optimizer_of(plain)
    aware = SharpnessAware(optimizer_of(sharp), sharp, 0.0, case=case)
    for _ in range(3):
        optimizer.zero_grad()
        closure_of(plain, batch)()
        optimizer.step()
        aware.step(closure_of(sharp, batch))
    assert aware.passes == 6
    left, right = plain.state_dict(), sharp.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)

    careless = made(convnet, batch)
    SharpnessAware(sgd(careless), careless, 0.0, case=case, freeze_statistics=False).step(
        closure_of(careless, batch)
    )
    once = made(convnet, batch)
    closure_of(once, batch)()
    assert not torch.equal(careless.store["mean1"], once.store["mean1"])


def test_random_numbers_are_the_same_in_both_passes(convnet: Graph, batch: Batch) -> None:
    module = made(convnet, batch)
    drawn: list[float] = []

    def closure() -> torch.Tensor:
        drawn.append(float(torch.rand(())))
        loss = F.cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        return loss

    sharp = SharpnessAware(sgd(module), module, 0.1)
    sharp.step(closure)
    sharp.step(closure)
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


# -- efficient strategies ----------------------------------------------------------------
def test_strategies_save_passes(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    def passes(strategy: Any, steps: int = 20) -> int:
        module = made(convnet, batch)
        sharp = SharpnessAware(sgd(module, 0.01), module, 0.1, efficient=strategy)
        for _ in range(steps):
            sharp.step(closure_of(module, batch))
        assert sharp.steps == steps
        return sharp.passes

    assert passes(None) == 40
    assert passes(Reuse(5)) == 24
    assert passes(Reuse(1)) == 40
    assert passes(Bernoulli(0.0)) == 20
    assert passes(Bernoulli(1.0)) == 40
    assert 24 < passes(Bernoulli(0.5)) < 36
    assert passes(Subset(0.5)) == 40


def test_reuse_keeps_the_perturbation(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    module = made(convnet, batch)
    sharp = SharpnessAware(sgd(module), module, 0.2, efficient=Reuse(3))
    watches = []
    for _ in range(4):
        watch = Watch(module, closure_of(module, batch))
        sharp.step(watch)
        watches.append(watch.perturbations[-1])
    for later in watches[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(watches[0], later, strict=True))
    assert not torch.equal(watches[0][0], watches[3][0])


@pytest.mark.parametrize("case", CASES)
def test_a_subset_perturbs_some_layers_and_trains_all(
    convnet: Graph, batch: Batch, closure_of: ClosureOf, case: Any
) -> None:
    module = made(convnet, batch)
    before = {name: p.detach().clone() for name, p in module.store.trained()}
    sharp = SharpnessAware(sgd(module), module, 0.3, case=case, efficient=Subset(0.34))
    chosen = set()
    for _ in range(12):
        watch = Watch(module, closure_of(module, batch))
        sharp.step(watch)
        first, second = watch.parameters
        latents = {
            n for n in ("w1", "w2", "w3") if not torch.equal(first[f"store.{n}"], second[f"store.{n}"])
        }
        perturbed = latents if case == 2 else {str(t.shape) for t in watch.perturbations[1]}
        assert len(perturbed) == 1
        assert float(torch.stack([t.norm() for t in watch.shift()]).norm()) == pytest.approx(0.3, rel=1e-3)
        chosen |= perturbed
    assert len(chosen) == 3
    assert all(not torch.equal(p, before[name]) for name, p in module.store.trained() if name[0] == "w")
    assert all(p.requires_grad for p in module.parameters())


def test_adaptive_scales_by_the_weights(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    """ASAM: |eps / t| = rho with t = |x| + eta."""
    module = made(convnet, batch)
    watch = Watch(module, closure_of(module, batch))
    sharp = SharpnessAware(sgd(module), module, 0.5, case=2, adaptive=True, eta=0.01)
    sharp.step(watch)
    first, second = watch.parameters
    scaled = [(second[n] - first[n]) / (first[n].abs() + 0.01) for n in first]
    assert float(torch.stack([t.norm() for t in scaled]).norm()) == pytest.approx(0.5, rel=1e-3)


def test_warm_up_grows_rho(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    module = made(convnet, batch)
    sharp = SharpnessAware(sgd(module), module, 0.8, warmup=4)
    seen = []
    for _ in range(6):
        seen.append(sharp.current_rho())
        sharp.step(closure_of(module, batch))
    assert seen == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_it_goes_on_from_its_state(convnet: Graph, batch: Batch, closure_of: ClosureOf) -> None:
    module = made(convnet, batch)
    sharp = SharpnessAware(sgd(module), module, 0.1, efficient=Bernoulli(0.5))
    for _ in range(3):
        sharp.step(closure_of(module, batch))
    held, state = copy.deepcopy(module.state_dict()), copy.deepcopy(sharp.state_dict())
    for _ in range(3):
        sharp.step(closure_of(module, batch))
    again = made(convnet, batch)
    again.load_state_dict(held)
    other = SharpnessAware(sgd(again), again, 0.1, efficient=Bernoulli(0.5))
    other.load_state_dict(state)
    for _ in range(3):
        other.step(closure_of(again, batch))
    assert other.passes == sharp.passes
    left, right = module.state_dict(), again.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_case_2_is_sam_on_any_graph(mlp: Graph) -> None:
    """Foret et al. 2021, algorithm 1, worked out by hand on a net without quantisers."""
    module = GraphModule(mlp)
    x, labels = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])

    def closure() -> torch.Tensor:
        loss = F.cross_entropy(module(x), labels)
        loss.backward()
        return loss

    parameters = list(module.parameters())
    start = [p.detach().clone() for p in parameters]
    first = torch.autograd.grad(F.cross_entropy(module(x), labels), parameters)
    norm = torch.stack([g.norm() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(parameters, first, strict=True):
            p.add_(0.3 * g / norm)
    second = torch.autograd.grad(F.cross_entropy(module(x), labels), parameters)
    with torch.no_grad():
        for p, value in zip(parameters, start, strict=True):
            p.copy_(value)
    SharpnessAware(torch.optim.SGD(parameters, lr=0.1), module, 0.3, case=2).step(closure)
    for p, value, g in zip(parameters, start, second, strict=True):
        assert torch.allclose(p, value - 0.1 * g, atol=1e-6)


def test_bad_input(mlp: Graph, convnet: Graph, batch: Batch) -> None:
    module = made(convnet, batch)
    for options, says in [
        ({"case": 4}, "cases 1, 2 and 3"),
        ({"rho": -1.0}, "norm"),
        ({"warmup": -1}, "steps"),
    ]:
        with pytest.raises(InputError, match=says):
            SharpnessAware(sgd(module), module, **options)
    with pytest.raises(InputError, match="SAM"):
        SharpnessAware(sgd(module), GraphModule(mlp), case=3)
    for make in (lambda: Reuse(0), lambda: Subset(0.0), lambda: Bernoulli(1.5)):
        with pytest.raises(InputError, match="SharpnessAware"):
            make()
    with pytest.raises(InputError, match="backward"):
        SharpnessAware(sgd(module), module).step(lambda: F.cross_entropy(module(batch[0]), batch[1]))
