"""The catalogue of model families: sizes, seeds, signal scale and export with a symbolic batch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from plait.frontends.families import Example, example, examples
from plait.frontends.families.bert import BERT, PostNormBlock
from plait.frontends.families.efficientnet import EfficientNet
from plait.frontends.families.gpt2 import GPT2
from plait.frontends.families.initialization import build_seeded, initialize
from plait.frontends.families.layers import SelfAttention, StochasticDepth, linear_rates, round_channels
from plait.frontends.families.mlp import MultilayerPerceptron
from plait.frontends.families.resnet import BasicBlock, ResNet
from plait.frontends.families.swin import (
    MASKED_SCORE,
    SwinBlock,
    SwinTransformer,
    WindowAttention,
    merge_windows,
    partition_windows,
    relative_position_index,
    shift_mask,
)
from plait.frontends.families.vgg import VGG
from plait.frontends.families.vit import VisionTransformer
from plait.ir.errors import LoweringError

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "densenet121": 7_978_856,
    "vgg16": 138_357_544,
    "convnext_tiny": 28_589_128,
    "vit_tiny": 5_717_416,
    "swin_tiny": 28_288_354,
    "gpt2_small": 124_439_808,
    "bert_base": 108_891_648,
    "mlp": 36_818_954,
    "small_cnn": 20_138,
    "small_transformer": 100_746,
}
OUTPUT_SHAPES = dict.fromkeys(PARAMETERS, (1000,)) | {
    "gpt2_small": (128, 768),
    "bert_base": (128, 768),
    "mlp": (10,),
    "small_cnn": (10,),
    "small_transformer": (10,),
}
FAST = ("small_cnn", "small_transformer", "resnet18", "mlp")

every_example = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PARAMETERS]
)


@pytest.fixture(autouse=True, scope="module")
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built():
    """The last example that was asked for, built once for all the tests of its name."""
    kept: dict[str, nn.Module] = {}

    def build(name: str) -> nn.Module:
        if name not in kept:
            kept.clear()
            kept[name] = example(name).build(0)
        return kept[name]

    return build


def test_the_catalogue_lists_every_family():
    catalogue = examples()
    assert list(catalogue) == list(PARAMETERS)
    for name, entry in catalogue.items():
        assert isinstance(entry, Example)
        assert entry.name == name
        assert entry.paper
    catalogue.clear()
    assert list(examples()) == list(PARAMETERS)


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(LoweringError, match="'resnet50'"):
        example("ResNet-50")
    with pytest.raises(LoweringError, match="choose one of these"):
        example("zzzz")


def test_the_catalogue_does_not_import_torch():
    code = (
        "import sys; from plait.frontends.families import examples; examples(); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@every_example
def test_parameter_count_is_the_published_one(name, built):
    model = built(name)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@every_example
def test_outputs_have_the_shape_and_a_useful_scale(name, built):
    feeds = example(name).inputs(4, 1)
    assert feeds.keys() == example(name).dynamic.keys()
    with torch.no_grad():
        output = built(name)(**feeds)
    assert tuple(output.shape) == (4, *OUTPUT_SHAPES[name])
    assert bool(torch.isfinite(output).all())
    scale = float(output.std())
    assert 1e-2 < scale < 1e2
    assert float(output.std(dim=0).mean()) > 0.05 * scale


@every_example
def test_the_seed_fixes_weights_and_inputs(name, built):
    entry = example(name)
    global_state = torch.get_rng_state()
    again, other = entry.build(0).state_dict(), entry.build(1).state_dict()
    first, second = entry.inputs(2, 5), entry.inputs(2, 5)
    assert torch.equal(torch.get_rng_state(), global_state)
    for key, tensor in built(name).state_dict().items():
        assert torch.equal(tensor, again[key]), key
        if tensor.is_floating_point():
            assert not torch.equal(tensor, other[key]), key
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key])
        assert not torch.equal(tensor, entry.inputs(2, 6)[key])


@every_example
def test_export_keeps_the_batch_symbolic(name, built):
    entry, model = example(name), built(name)
    batch = torch.export.Dim("B", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(
            model, tuple(entry.inputs(2, 0).values()), dynamic_shapes=({0: batch},), strict=False
        )
        (constraint,) = program.range_constraints.values()
        assert (int(constraint.lower), int(constraint.upper)) == (1, 64)
        exported = program.module()
        for size in (1, 3):
            inputs = tuple(entry.inputs(size, size).values())
            torch.testing.assert_close(exported(*inputs), model(*inputs))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_batch_norms_are_far_from_the_identity(name, built):
    norms = [module for module in built(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert 0.05 < float(norm.running_mean.std()) < 0.2
        assert 0.5 <= float(norm.running_var.min()) < 0.7
        assert 1.3 < float(norm.running_var.max()) <= 1.5
        assert float(norm.weight.detach().std()) > 0.05
        assert float(norm.bias.detach().std()) > 0.05


def test_constructors_take_other_sizes():
    image = torch.randn(2, 3, 64, 64)
    models = [
        ResNet(BasicBlock, (1, 1), num_classes=7, width=8),
        EfficientNet(num_classes=7, width_multiplier=0.5, depth_multiplier=1.2),
        VGG((1, 1), widths=(8, 16), num_classes=7, image_size=64, hidden=32),
        VisionTransformer(image_size=64, patch_size=8, width=32, depth=2, heads=2, num_classes=7),
        SwinTransformer(image_size=64, width=16, depths=(2, 2), heads=(2, 4), window=4, num_classes=7),
    ]
    for model in models:
        initialize(model, 0)
        assert model.eval()(image).shape == (2, 7)
        loss = model.train()(image).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "construct",
    [
        lambda: VGG((1, 1), widths=(8, 16), image_size=63),
        lambda: VisionTransformer(image_size=225),
        lambda: SwinTransformer(image_size=256),
        lambda: SelfAttention(64, 5),
        lambda: WindowAttention(64, 5, 7, None, 0.0),
        lambda: StochasticDepth(1.0),
        lambda: BERT(width=64, heads=5),
        lambda: MultilayerPerceptron((784,)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(construct):
    with pytest.raises(ValueError, match=r"multiple of|below 1|at least two"):
        construct()


def test_a_module_without_a_rule_for_its_parameters_is_refused():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(TypeError, match="inner: Bare"):
        initialize(nn.ModuleDict({"inner": Bare()}), 0)


def test_stochastic_depth_keeps_the_mean_in_training_and_is_the_identity_in_evaluation():
    torch.manual_seed(0)
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2)
    trained = layer.train()(x)
    assert torch.equal(trained[:, 0], trained[:, 1])
    values = trained.unique().tolist()
    assert values == pytest.approx([0.0, 4.0 / 3.0])
    assert float(trained.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer.eval()(x), x)
    assert linear_rates(0.2, 5) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert linear_rates(0.2, 1) == [0.0]


def test_channels_round_to_multiples_of_eight_and_never_lose_a_tenth():
    for exact in range(1, 400):
        rounded = round_channels(exact)
        assert rounded % 8 == 0
        assert 0.9 * exact <= rounded <= exact + 8


def test_self_attention_is_the_softmax_of_scaled_scores():
    attention = build_seeded(lambda: SelfAttention(8, 2, causal=True), 3)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    query, key, value = attention.qkv(x).split(8, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].transpose(1, 2) / 2.0
        future = torch.ones(5, 5).triu(1).bool()
        heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ value[..., head])
    torch.testing.assert_close(attention(x), attention.projection(torch.cat(heads, -1)))


def test_gpt2_reads_only_the_past_and_its_head_is_tied():
    def build(*, language_head: bool = False) -> GPT2:
        return GPT2(vocabulary=50, context=16, width=16, depth=2, heads=2, language_head=language_head)

    body, head = build_seeded(build, 0), build_seeded(lambda: build(language_head=True), 0)
    tokens = torch.arange(12).reshape(1, 12)
    hidden, logits = body(tokens), head(tokens)
    torch.testing.assert_close(logits, hidden @ body.token_embedding.weight.T)
    assert sum(p.numel() for p in body.parameters()) == sum(p.numel() for p in head.parameters())
    changed = tokens.clone()
    changed[0, 7] = 40
    difference = (body(changed) - hidden).abs().amax(-1)[0]
    torch.testing.assert_close(difference[:7], torch.zeros(7))
    assert bool((difference[7:] > 1e-4).all())


def test_bert_reads_both_sides_and_adds_the_embedding_of_the_segment():
    model = build_seeded(lambda: BERT(vocabulary=50, context=16, width=16, depth=2, heads=2), 0)
    tokens = torch.arange(12).reshape(1, 12)
    hidden = model(tokens)
    changed = tokens.clone()
    changed[0, 7] = 40
    assert bool(((model(changed) - hidden).abs().amax(-1) > 1e-4).all())
    torch.testing.assert_close(model(tokens, torch.zeros_like(tokens)), hidden)
    second = model(tokens, torch.ones_like(tokens))
    with torch.no_grad():
        model.segment_embedding.weight[0] = model.segment_embedding.weight[1]
    torch.testing.assert_close(model(tokens), second)
    assert float((second - hidden).detach().abs().max()) > 1e-2


def test_a_post_norm_block_normalises_its_result():
    block = PostNormBlock(16, 2).eval()  # as constructed: scales of one and shifts of zero
    result = block(3.0 + torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(result.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(result.var(-1, unbiased=False), torch.ones(2, 5))


def test_a_perceptron_is_its_layers_with_rectifiers_between():
    model = build_seeded(lambda: MultilayerPerceptron((6, 5, 4, 3)), 0)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    first, second = model.hidden
    expected = model.classifier(second(first(x).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(model(x), expected)
    assert MultilayerPerceptron((6, 3))(x).shape == (2, 3)


def test_windows_partition_and_merge():
    x = torch.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
    windows = partition_windows(x, 3)
    assert windows.shape == (2, 6, 9, 2)
    assert torch.equal(windows[1, 4].reshape(3, 3, 2), x[1, 3:6, 3:6])
    assert torch.equal(merge_windows(windows, 3, 6, 9), x)


def test_relative_position_index_has_one_entry_per_offset():
    window = 4
    index = relative_position_index(window)
    rows: dict[tuple[int, int], int] = {}
    for first in range(window**2):
        for second in range(window**2):
            offset = (first // window - second // window, first % window - second % window)
            assert rows.setdefault(offset, int(index[first, second])) == int(index[first, second])
    assert sorted(rows.values()) == list(range((2 * window - 1) ** 2))


def test_shift_mask_forbids_pixels_that_were_not_neighbours():
    height, width, window, shift = 8, 12, 4, 2
    mask = shift_mask(height, width, window, shift)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    original = torch.stack([rows, columns], dim=-1)[None]
    shifted = torch.roll(original, shifts=(-shift, -shift), dims=(1, 2))
    origin = partition_windows(shifted, window)[0]
    for index in range(mask.shape[0]):
        for first in range(window**2):
            for second in range(window**2):
                far = (origin[index, first] - origin[index, second]).abs().max() >= window
                assert float(mask[index, first, second]) == (MASKED_SCORE if far else 0.0)


def test_a_shifted_block_is_local_to_its_shifted_windows():
    block = build_seeded(
        lambda: SwinBlock(8, 2, (8, 8), window=4, shift=2, dropout=0.0, drop_path=0.0), seed=0
    )
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    # Not a constant over the channels: the layer norm would take it away.
    changed[0, 3, 3, ::2] += 1.0
    touched = ((block(changed) - block(x)).abs().amax(-1)[0] > 1e-5).nonzero()
    # Pixel (3, 3) lies in the shifted window of rows and columns 2..5.
    assert touched.min() == 2
    assert touched.max() == 5
    assert len(touched) == 16
