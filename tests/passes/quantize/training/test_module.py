"""Graphs as modules: the interpreter's results, batch norms that train, and what is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.frontends.pytorch import lower_torch
from plait.ir import Graph, InputError
from plait.ir.interpret import interpret
from plait.ir.ops import nn
from plait.passes.examples import complete
from plait.passes.quantize.training import GraphModule
from plait.passes.quantize.training.store import with_constants


class Net(torch.nn.Module):
    """Convolution, batch norm, dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_evaluation_is_the_interpreters(convnet: Graph, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    module = GraphModule(convnet).eval()
    assert torch.equal(module(batch[0]), interpret(convnet, [batch[0]])[0])
    assert torch.equal(module(x=batch[0]), module(batch[0]))


def test_training_is_that_of_torch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Three steps of SGD through the graph and through the torch module: the same numbers."""
    torch.manual_seed(0)
    net = Net().eval()
    graph = lower_torch(net, {"x": torch.rand(2, 3, 8, 8)}, dynamic={"x": {0: "B"}})
    module = GraphModule(graph)
    x, labels = batch
    for trained in (net, module):
        trained.train()
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(trained(x), labels).backward()
            optimizer.step()
        trained.eval()
    assert torch.allclose(module(x), net(x), atol=1e-5)
    held = {tuple(tensor.shape): tensor for tensor in module.state_dict().values()}
    assert torch.allclose(held[4, 3, 3, 3], net.conv.weight, atol=1e-6)
    names = [name for name in module.store.names if name.endswith("running_var")]
    assert torch.allclose(module.store[names[0]], net.norm.running_var, atol=1e-5)


def test_the_trained_graph_computes_what_the_module_does(
    convnet: Graph, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    before = convnet.id
    module = GraphModule(convnet)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    F.cross_entropy(module(batch[0]), batch[1]).backward()
    optimizer.step()
    module.eval()
    trained = module.to_graph()
    trained.verify()
    assert torch.equal(interpret(trained, [batch[0]])[0], module(batch[0]))
    assert convnet.id == before != trained.id
    assert list(trained.constants) != []
    assert [op.name for op in trained.ops] == [op.name for op in convnet.ops]


def test_statistics_move_only_when_they_are_to(
    convnet: Graph, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    module = GraphModule(convnet)
    mean = module.store["mean1"]
    start = mean.clone()
    module.track_statistics = False
    still = module(batch[0])
    assert torch.equal(mean, start)
    module.track_statistics = True
    assert torch.equal(module(batch[0]), still)  # the batch's statistics normalise either way
    assert not torch.equal(mean, start)
    module.freeze_batch_norm()
    moved = mean.clone()
    frozen = module(batch[0])
    assert torch.equal(mean, moved)
    assert torch.equal(frozen, module.eval()(batch[0]))


TRANSFORMER_PIECES = """
@table : f32[10,4]
@position : f32[1,4]
@mask : f32[1,4]
@gain : f32[4]
@w : f32[4,4]
@half : f32[]
%i : i64[B]
%e = nn.embedding(%i, @table) : f32[B,4]
%p = core.broadcast(@position) : f32[B,4]
%s = core.add(%e, %p) : f32[B,4]
%n = nn.layer_norm(%s, @gain) : f32[B,4]
%d = linalg.matmul(%n, @w) : f32[B,4]
%h = core.mul(%d, @half) : f32[B,4]
%m = core.add(%h, @mask) : f32[B,4]
return %m
"""


def pieces() -> Graph:
    graph = complete(tuple(TRANSFORMER_PIECES.strip().splitlines()))
    return with_constants(graph, {"mask": torch.tensor([[0.0, 0.0, -1e38, -1e38]])})


def test_weights_train_and_masks_and_scalars_do_not() -> None:
    names = {name for name, _ in GraphModule(pieces()).store.trained()}
    assert names == {"table", "position", "gain", "w"}


def test_statistics_do_not_train(convnet: Graph) -> None:
    names = {name for name, _ in GraphModule(convnet).store.trained()}
    assert names == set(convnet.constants) - {"mean1", "variance1", "mean2", "variance2"}


def test_trainable_by_name(convnet: Graph) -> None:
    module = GraphModule(convnet, trainable=["w*", "b3"])
    assert {name for name, _ in module.store.trained()} == {"w1", "w2", "w3", "b3"}
    with pytest.raises(InputError, match="did you mean 'gain1'"):
        GraphModule(convnet, trainable=["gian1"])
    with pytest.raises(InputError, match="did you mean 'w1'"):
        module.store["ww1"]


def test_kinds_of_parameters_and_groups(convnet: Graph) -> None:
    module = GraphModule(convnet)
    kinds = module.parameter_kinds()
    assert kinds["store.w1"] == "weight"
    assert kinds["store.b2"] == "bias"
    assert kinds["store.gain1"] == kinds["store.shift2"] == "norm"
    groups = module.parameter_groups(0.1, weight_decay=0.01)
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_state_goes_to_another_module(convnet: Graph, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = GraphModule(convnet), GraphModule(convnet)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(1.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(batch[0]), second.eval()(batch[0]))


def test_vectors_merged_by_accident_train_apart() -> None:
    """Common-subexpression makes one constant of all gains of 1; after a step they differ."""
    lines = """
    @ones : f32[4]
    @zeros : f32[4]
    @w : f32[4,4]
    %x : f32[B,4]
    %a = nn.batch_norm(%x, @zeros, @ones, @ones, @zeros) : f32[B,4]
    %b = nn.linear(%a, @w) : f32[B,4]
    %c = nn.batch_norm(%b, @zeros, @ones, @ones, @zeros) : f32[B,4]
    %d = nn.linear(%c, @w) : f32[B,4]
    return %d
    """
    graph = complete(tuple(line.strip() for line in lines.strip().splitlines()))
    graph = with_constants(graph, {"ones": torch.ones(4), "zeros": torch.zeros(4)})
    module = GraphModule(graph)
    assert len(list(module.store.trained())) == 5, "two gains, two shifts, and a weight that stays tied"
    x = torch.randn(8, 4)
    assert torch.equal(module.eval()(x), interpret(graph, [x])[0])
    module.train()(x).square().sum().backward()
    first, second = (op for op in module.graph.ops if isinstance(op, nn.BatchNorm))
    assert not torch.equal(module.store[first.scale.name].grad, module.store[second.scale.name].grad)
    assert not torch.equal(module.store[first.mean.name], module.store[second.mean.name])


def test_names_that_torch_cannot_have() -> None:
    lines = """
    @a.b : f32[3]
    @a/b : f32[3]
    @train : f32[3]
    %x : f32[3]
    %s = core.add(%x, @a.b) : f32[3]
    %t = core.add(%s, @a/b) : f32[3]
    %u = core.add(%t, @train) : f32[3]
    return %u
    """
    graph = complete(tuple(line.strip() for line in lines.strip().splitlines()))
    module = GraphModule(graph).eval()
    assert {name for name, _ in module.store.trained()} == {"a.b", "a/b", "train"}
    assert np.allclose(module(torch.zeros(3)).detach(), interpret(graph, [torch.zeros(3)])[0])
