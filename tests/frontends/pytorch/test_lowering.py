"""Names, locations, dims, constants and errors of the PyTorch frontend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from plait.frontends.pytorch import lower_torch, read_exported_program, register, supported_operators
from plait.ir import Graph, InputError, LoweringError, TensorType
from plait.ir import types as t
from plait.ir.interpret import interpret
from plait.ir.ops import core


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.norm(self.conv1(x)) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.head = nn.Linear(3, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer1(image).mean((2, 3))
        return self.head(features) * 2


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return lower_torch(Net().eval(), {"image": torch.randn(1, 3, 8, 8)}, dynamic={"image": {0: "B"}})


def test_inputs_and_dims_carry_the_users_names(graph: Graph) -> None:
    B = graph.declare_dim("B")
    assert [(v.name, v.type) for v in graph.inputs] == [("image", TensorType(t.f32, (B, 3, 8, 8)))]
    assert graph.outputs[0].type == TensorType(t.f32, (B, 2))
    assert str(graph.dims["B"]) == "in 1..*"
    assert set(graph.dims) == {"B"}


def test_constants_carry_the_names_of_the_state_dict(graph: Graph) -> None:
    state = Net().state_dict()
    used = {name for name in state if not name.endswith("num_batches_tracked")}
    assert set(graph.constants) == used


def test_ops_carry_the_names_of_their_modules(graph: Graph) -> None:
    names = [op.name for op in graph.ops]
    assert names[:4] == ["layer1.0.conv1", "layer1.0.norm", "layer1.0.add", "layer1.0.relu"]
    assert {"layer1.1.conv1", "mean", "head", "mul"} <= set(names)


def test_locations_point_at_the_source(graph: Graph) -> None:
    lines = Path(__file__).read_text().splitlines()
    add, head = graph.value("layer1.0.add").producer, graph.value("head").producer
    assert add is not None
    assert head is not None
    origin = add.loc.origins[0]
    assert origin.path == "layer1.0"
    assert origin.file is not None
    assert origin.file.endswith("test_lowering.py")
    assert "self.norm(self.conv1(x)) + x" in lines[(origin.line or 0) - 1]
    assert head.loc.origins[0].path == "head"
    assert "self.head(features)" in lines[(head.loc.origins[0].line or 0) - 1]


def test_training_after_lowering_does_not_change_the_graph() -> None:
    layer = nn.Linear(3, 2)
    graph = lower_torch(layer, (torch.ones(2, 3),))
    before = graph.constants["weight"].data.copy()
    with torch.no_grad():
        layer.weight.add_(1)
    assert (graph.constants["weight"].data == before).all()


def test_shared_parameters_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens))

    assert len(lower_torch(Tied(), (torch.tensor([1, 2]),)).constants) == 1


def test_half_precision_parameters_are_copied_exactly() -> None:
    layer = nn.Linear(3, 2).bfloat16().eval()
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    graph = lower_torch(layer, (x,))
    assert graph.constants["weight"].type == TensorType(t.bf16, (2, 3))
    torch.testing.assert_close(interpret(graph, [x])[0], layer(x))


class Pair(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return query.sum(0) + key.sum(0)


def test_derived_dims_and_ranges() -> None:
    dynamic = {"query": {0: ("B", 1, 64)}, "key": {0: "2*B"}}
    graph = lower_torch(Pair(), {"key": torch.ones(2, 3), "query": torch.ones(1, 3)}, dynamic=dynamic)
    assert [str(v.type) for v in graph.inputs] == ["f32[B,3]", "f32[2*B,3]"]
    assert str(graph.dims["B"]) == "in 1..64"


def test_views_have_symbolic_sizes() -> None:
    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, length, width = x.shape
            return x.view(batch, length // 4, 4, width).transpose(1, 2).reshape(batch * 4, -1, width)

    graph = lower_torch(Windows(), (torch.ones(2, 8, 3),), dynamic={"x": {0: "B"}})
    assert str(graph.outputs[0].type) == "f32[4*B,2,3]"


def test_two_symbols() -> None:
    class Tokens(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 1:] + torch.arange(x.shape[1] - 1)).flatten()

    graph = lower_torch(Tokens(), (torch.ones(1, 2),), dynamic={"x": {0: "B", 1: ("T", 3, 512)}})
    assert str(graph.outputs[0].type) == "f32[B*T-B]"
    x = torch.randn(3, 9)
    torch.testing.assert_close(interpret(graph, [x])[0], Tokens()(x))


def test_inputs_named_after_builtins_and_nested_inputs() -> None:
    class Nested(nn.Module):
        def forward(self, input: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
            return input + parts[0] * parts[1]

    graph = lower_torch(Nested(), (torch.ones(2), [torch.ones(2), torch.ones(2)]))
    assert [v.name for v in graph.inputs] == ["input", "parts.0", "parts.1"]


def test_no_grad_inside_the_model() -> None:
    class Frozen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = x * 2
            return y + 1

    graph = lower_torch(Frozen(), (torch.ones(2, 3),))
    torch.testing.assert_close(interpret(graph, [torch.ones(2, 3)])[0], torch.full((2, 3), 3.0))


def test_exported_programs(tmp_path: Path) -> None:
    shapes = {"query": {0: torch.export.Dim("n", max=32)}, "key": None}
    program = torch.export.export(Pair(), (torch.ones(2, 3), torch.ones(4, 3)), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "pair.pt2")
    read = read_exported_program(tmp_path / "pair.pt2")
    graph = lower_torch(read, dynamic={"query": {0: ("N", 1, 32)}}, name="pair")
    assert graph.name == "pair"
    assert str(graph.inputs[0].type) == "f32[N,3]"
    unnamed = lower_torch(program)
    (symbol,) = unnamed.dims
    assert unnamed.dims[symbol].high == 32
    with pytest.raises(InputError, match="there is no file"):
        read_exported_program(tmp_path / "other.pt2")


# -- errors -------------------------------------------------------------------------------
def test_report_lists_everything_that_is_unsupported() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Median()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + torch.linalg.matrix_exp(x).median(1)[0] + x.kthvalue(2)[0]

    class Median(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.median(1)[0].relu()

    with pytest.raises(LoweringError) as caught:
        lower_torch(Strange(), (torch.randn(4, 4),))
    message = str(caught.value)
    assert "4 operators of 3 kinds in Strange cannot be lowered" in message
    assert "aten.median.dim x2 in inner at " in message
    assert "aten.linalg_matrix_exp.default x1" in message
    assert "aten.kthvalue.default x1" in message
    assert "test_lowering.py:" in message
    assert "nearest supported: aten.mean.dim" in message
    assert '@register("aten.' in message


def test_a_registered_rule_is_used() -> None:
    library = torch.library.Library("plait_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    library.impl("twice", torch.empty_like, "Meta")

    @register("plait_test.twice.default")
    def twice(build, x):  # type: ignore[no-untyped-def]
        return build.emit(core.Add(x, x))

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.plait_test.twice(x)

    graph = lower_torch(Doubled(), (torch.ones(2),))
    assert [op.opname for op in graph.ops] == ["core.add"]
    assert graph.outputs[0].name == "twice"
    with pytest.raises(LoweringError, match="has a lowering rule already"):
        register("plait_test.twice.default")(twice)


def test_dropout_in_training_mode_draws_the_same_numbers_every_time() -> None:
    x = torch.full((50, 40), 3.0)
    with pytest.warns(UserWarning, match=r"draws random numbers in 1 place: .* call model.eval\(\)"):
        graph = lower_torch(nn.Sequential(nn.Dropout(0.25)), (x,))
    (result,) = interpret(graph, (x,))
    assert set(result.unique().tolist()) == {0.0, 4.0}
    assert 0.7 < float((result > 0).float().mean()) < 0.8
    assert torch.equal(result, interpret(graph, (x,))[0])


def test_a_dynamic_dim_that_is_constant_is_reported() -> None:
    class Fixed(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.view(4, -1)

    with pytest.raises(LoweringError) as caught:
        lower_torch(Fixed(), (torch.randn(4, 3),), dynamic={"image": {0: "B"}})
    assert "dynamic dim B of Fixed is always 4" in str(caught.value)
    assert "tensor.shape" in str(caught.value)


def test_a_range_that_is_too_wide_is_reported() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.shape[0] > 3 else x

    with pytest.raises(LoweringError, match="cannot take every value") as caught:
        lower_torch(Large(), (torch.randn(6, 3),), dynamic={"x": {0: "B"}})
    assert "min=4" in str(caught.value)


def test_small_examples_are_no_reason_to_specialise() -> None:
    class Tail(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[1:]

    graph = lower_torch(Tail(), (torch.randn(1, 3),), dynamic={"x": {0: ("B", 3, 64)}})
    assert str(graph.outputs[0].type) == "f32[B-1,3]"
    with pytest.raises(LoweringError, match="dim B of Tail cannot take every value of its range"):
        lower_torch(Tail(), (torch.randn(2, 3),), dynamic={"x": {0: "B"}})


def test_decisions_on_data_are_reported() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(LoweringError, match="depends on the data"):
        lower_torch(Branch(), (torch.randn(2, 3),))


@pytest.mark.parametrize(
    ("inputs", "dynamic", "message"),
    [
        ((torch.ones(2, 3),), None, "do not fit"),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"image": {0: "B"}}, "dynamic= names 'image'"),
        ((torch.ones(2, 3), torch.ones(3, 3)), {"query": {0: "B"}, "key": {0: "B"}}, "sizes agree"),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"query": {0: "B*B"}}, "is no dynamic dim"),
        ((torch.ones(2, 3), torch.ones(2, 3)), {"query": {5: "B"}}, "has no axis 5"),
    ],
)
def test_wrong_arguments(inputs: object, dynamic: object, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        lower_torch(Pair(), inputs, dynamic=dynamic)  # type: ignore[arg-type]


def test_other_objects_are_refused() -> None:
    with pytest.raises(LoweringError, match="cannot lower a function"):
        lower_torch(lambda x: x)  # type: ignore[arg-type]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys; import plait.frontends.pytorch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_supported_operators_are_many() -> None:
    assert len(supported_operators()) > 350
    assert "aten.scaled_dot_product_attention.default" in supported_operators()


def test_exported_program_keeps_the_name_and_range_given_to_export() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x])

    batch = torch.export.Dim("batch", min=1, max=32)
    program = torch.export.export(Doubled(), (torch.ones(3, 2),), dynamic_shapes=({0: batch},))
    for dynamic, name in ((None, "batch"), ({"x": {0: "N"}}, "N")):
        graph = lower_torch(program, dynamic=dynamic)
        assert {n: (r.low, r.high) for n, r in graph.dims.items()} == {name: (1, 32)}
        assert str(graph.outputs[0].type) == f"f32[2*{name},2]"
