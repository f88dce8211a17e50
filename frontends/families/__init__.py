"""Model families: eleven published architectures, a perceptron and two small nets, as plain PyTorch programs.

Every family is one readable file that a researcher could use on its own: the
layers, the constructor with its usual options, and the paper it follows.  The
parameter counts are the published ones.  Weights are random and come from a
seed, so nothing is ever downloaded.

This module is the catalogue of named examples:

    >>> from plait.frontends.families import example
    >>> resnet = example("resnet18")
    >>> model = resnet.build(0)                  # torch.nn.Module in eval mode, seeded weights
    >>> feeds = resnet.inputs(2, 0)              # {"image": float32 tensor [2, 3, 224, 224]}
    >>> model(**feeds).shape
    torch.Size([2, 1000])

============================================= ===================== ================
names                                         input                 output
============================================= ===================== ================
resnet18 resnet50 mobilenet_v2                image f32             f32 [B, 1000]
efficientnet_b0 densenet121 vgg16             [B, 3, 224, 224]
convnext_tiny vit_tiny swin_tiny
gpt2_small bert_base                          tokens i64 [B, 128]   f32 [B, 128, 768]
mlp                                           features f32 [B, 784] f32 [B, 10]
small_cnn                                     image f32             f32 [B, 10]
                                              [B, 3, 32, 32]
small_transformer                             tokens f32            f32 [B, 10]
                                              [B, 16, 64]
============================================= ===================== ================

Importing this module does not import torch; building a model or its inputs does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from plait.ir.errors import LoweringError, nearest

if TYPE_CHECKING:
    import torch

__all__ = ["Example", "example", "examples"]


@dataclass(frozen=True)
class Example:
    """A named model with inputs to run, lower, compile or price it on.

    Attributes:
        name: the name in the catalogue.
        build: seed -> the module in eval mode.  The same seed gives the same
            weights, and torch's global random state is left as it was.
        inputs: (batch, seed) -> the tensors of one call, keyed by the name of
            the parameter of `forward` that takes each.
        dynamic: for each input, which axes are symbolic and under what name.
        paper: the publication that defines the architecture.
    """

    name: str
    build: Callable[[int], torch.nn.Module]
    inputs: Callable[[int, int], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, str]]
    paper: str


def examples() -> dict[str, Example]:
    """Every example by name, in the order of the table above; the dict is the caller's to change."""
    return dict(_CATALOGUE)


def example(name: str) -> Example:
    """The example called `name`.

    Raises:
        LoweringError: no example has that name; the message lists the nearest ones.
    """
    found = _CATALOGUE.get(name)
    if found is not None:
        return found
    close = nearest(name.lower().replace("-", "_"), _CATALOGUE, count=3)
    raise LoweringError(
        f"there is no model family example called {name!r}",
        why=f"the examples are {', '.join(_CATALOGUE)}",
        remedy=f"did you mean {' or '.join(repr(each) for each in close)}?"
        if close
        else "choose one of these",
    )


def _builder(module: str, constructor: str) -> Callable[[int], torch.nn.Module]:
    """seed -> the model that `constructor` of `module` makes, imported only when it is called."""

    def build(seed: int = 0) -> torch.nn.Module:
        from plait.frontends.families.initialization import build_seeded

        return build_seeded(getattr(import_module(f"{__name__}.{module}"), constructor), seed)

    return build


def _image(
    name: str, module: str, paper: str, *, constructor: str | None = None, image_size: int = 224
) -> Example:
    """An example that takes one batch of square RGB images."""

    def inputs(batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
        from plait.frontends.families.inputs import images

        return {"image": images(batch, image_size, seed)}

    return Example(name, _builder(module, constructor or name), inputs, {"image": {0: "B"}}, paper)


def _token_ids(name: str, module: str, paper: str, *, length: int, vocabulary: int) -> Example:
    """An example that takes one batch of integer token sequences."""

    def inputs(batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
        from plait.frontends.families.inputs import token_ids

        return {"tokens": token_ids(batch, length, vocabulary, seed)}

    return Example(name, _builder(module, name), inputs, {"tokens": {0: "B"}}, paper)


def _features(name: str, module: str, paper: str, *, width: int) -> Example:
    """An example that takes one batch of feature vectors."""

    def inputs(batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
        from plait.frontends.families.inputs import features

        return {"features": features(batch, width, seed)}

    return Example(name, _builder(module, name), inputs, {"features": {0: "B"}}, paper)


def _token_features(name: str, module: str, paper: str, *, length: int, width: int) -> Example:
    """An example that takes one batch of sequences of feature vectors."""

    def inputs(batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
        from plait.frontends.families.inputs import token_features

        return {"tokens": token_features(batch, length, width, seed)}

    return Example(name, _builder(module, name), inputs, {"tokens": {0: "B"}}, paper)


_RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385"
_TRANSFORMER = "Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762"

_CATALOGUE: dict[str, Example] = {
    each.name: each
    for each in (
        _image("resnet18", "resnet", _RESNET),
        _image("resnet50", "resnet", _RESNET),
        _image(
            "mobilenet_v2",
            "mobilenet",
            "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, "
            "arXiv:1801.04381",
        ),
        _image(
            "efficientnet_b0",
            "efficientnet",
            "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, "
            "ICML 2019, arXiv:1905.11946",
        ),
        _image(
            "densenet121",
            "densenet",
            "Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993",
        ),
        _image(
            "vgg16",
            "vgg",
            "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, "
            "ICLR 2015, arXiv:1409.1556",
        ),
        _image(
            "convnext_tiny",
            "convnext",
            "Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545",
        ),
        _image(
            "vit_tiny",
            "vit",
            "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929; the Tiny size "
            "is that of Touvron et al., ICML 2021, arXiv:2012.12877",
        ),
        _image(
            "swin_tiny",
            "swin",
            "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021, "
            "arXiv:2103.14030",
        ),
        _token_ids(
            "gpt2_small",
            "gpt2",
            "Radford et al., Language Models are Unsupervised Multitask Learners, OpenAI 2019",
            length=128,
            vocabulary=50257,
        ),
        _token_ids(
            "bert_base",
            "bert",
            "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language "
            "Understanding, NAACL 2019, arXiv:1810.04805",
            length=128,
            vocabulary=30522,
        ),
        _features(
            "mlp",
            "mlp",
            "Rumelhart et al., Learning representations by back-propagating errors, Nature 323, 1986",
            width=784,
        ),
        _image("small_cnn", "small", _RESNET, image_size=32),
        _token_features("small_transformer", "small", _TRANSFORMER, length=16, width=64),
    )
}
