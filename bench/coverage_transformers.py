"""Hugging Face transformers through the PyTorch frontend: encoders, decoders, encoder-decoders, vision.

Each architecture is built from its configuration at a small width with random, seeded
weights (nothing is downloaded), lowered with a dynamic batch and, for text, a dynamic
length, and compared with the torch model at two sizes, in the interpreter and on the CPU.
A decoder is lowered a second time as one decoding step: past keys and values are inputs
of the graph, the longer ones its outputs; the compiled step decodes greedily and its
tokens are compared with those of the torch model without a cache.  One decoder keeps a
cache of fixed size in buffers, which the graph takes and returns as explicit state.

Run: python bench/coverage_transformers.py [NAME ...] [--json PATH]; all by default.  Rows of
architectures that are not named stay as they are in the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import write_results
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import cache_utils

import plait
from plait.frontends.pytorch import initial_state

RELATIVE, ABSOLUTE = 1e-3, 1e-4
VOCABULARY, STEPS = 99, 2
console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=150)

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 80,
}  # fmt: skip
GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 2}
VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
}  # fmt: skip
BOTH_SIDES: dict[str, Any] = {
    f"{side}_{setting}": value
    for side in ("encoder", "decoder")
    for setting, value in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 64))
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


# -- what is lowered ------------------------------------------------------------------
class Encoder(nn.Module):
    """Hidden states of a text encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class Decoder(nn.Module):
    """Logits of a decoder that sees the whole sequence."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class DecodingStep(nn.Module):
    """Logits of the next token, and keys and values with those of this token added."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, past: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        cache = cache_utils.DynamicCache(past)
        found = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        return found.logits[:, -1], pairs_of(found.past_key_values)


class StaticStep(nn.Module):
    """A decoding step whose keys and values are buffers of fixed length, written in place."""

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.model = model
        self.length = length
        settings = model.config
        self.cache = cache_utils.StaticCache(config=settings, max_cache_len=length)
        heads = getattr(settings, "num_key_value_heads", settings.num_attention_heads)
        width = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        self.cache.early_initialization(1, heads, width, torch.float32, torch.device("cpu"))
        for i, layer in enumerate(self.cache.layers):
            self.register_buffer(f"keys_{i}", layer.keys)
            self.register_buffer(f"values_{i}", layer.values)

    def forward(self, input_ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        layers = list(self.cache.layers)
        for i, layer in enumerate(layers):
            layer.keys, layer.values = getattr(self, f"keys_{i}"), getattr(self, f"values_{i}")
            layer.cumulative_length = position.clone()  # where this step writes
        mask = torch.where(torch.arange(self.length) <= position, 0.0, -torch.inf)[None, None, None]
        found = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position[None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return found.logits[:, -1]


class EncoderDecoder(nn.Module):
    """Logits of an encoder-decoder for a given target sequence."""

    def __init__(self, model: Any, source: str) -> None:
        super().__init__()
        self.model = model
        self.source = source

    def forward(self, source: torch.Tensor, decoder_input_ids: torch.Tensor) -> torch.Tensor:
        given = {self.source: source, "decoder_input_ids": decoder_input_ids}
        return self.model(**given, use_cache=False).logits


class Vision(nn.Module):
    """The main result of a vision model, as a tuple of tensors."""

    def __init__(self, model: Any, results: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.results = results

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(pixel_values=pixel_values)
        return tuple(getattr(found, name) for name in self.results)


class Contrastive(nn.Module):
    """Image-text similarities."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values, input_ids=input_ids).logits_per_image


def pairs_of(cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer of a cache."""
    return [(layer.keys, layer.values) for layer in cache.layers]


# -- the architectures --------------------------------------------------------------------
@dataclass(frozen=True)
class Architecture:
    """How to build a model, and the inputs of its wrapper at a batch and a length."""

    name: str
    kind: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, Any]]

    @property
    def decodes(self) -> bool:
        return self.kind == "decoder"


def tokens(batch: int, length: int) -> torch.Tensor:
    """Token ids other than the special ones in front."""
    return torch.randint(5, VOCABULARY, (batch, length))


LENGTH = ("S", 2, 64)


def encoder(name: str, family: str, **settings: Any) -> Architecture:
    """A text encoder with a padded sequence in the batch."""

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, -1] = 0
        return {"input_ids": tokens(batch, length), "attention_mask": mask}

    def build() -> nn.Module:
        return Encoder(_model(family, "Model", {**TEXT, **settings}))

    axes: dict[int, Any] = {0: "B", 1: LENGTH}
    return Architecture(name, "encoder", build, inputs, {"input_ids": axes, "attention_mask": axes})


def decoder(name: str, family: str, head: str = "ForCausalLM", **settings: Any) -> Architecture:
    """A decoder-only language model."""

    def build() -> nn.Module:
        return Decoder(_model(family, head, settings))

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {"input_ids": tokens(batch, length)}

    return Architecture(name, "decoder", build, inputs, {"input_ids": {0: "B", 1: LENGTH}})


def encoder_decoder(name: str, family: str, audio: bool = False, **settings: Any) -> Architecture:
    """An encoder-decoder on tokens or on audio features [B, 16, 24]."""

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        source = torch.randn(batch, 16, 24) if audio else tokens(batch, length + 1)
        return {"source": source, "decoder_input_ids": tokens(batch, length)}

    def build() -> nn.Module:
        model = _model(family, "ForConditionalGeneration", settings)
        return EncoderDecoder(model, "input_features" if audio else "input_ids")

    source: dict[int, Any] = {0: "B"} if audio else {0: "B", 1: ("R", 2, 64)}
    dynamic = {"source": source, "decoder_input_ids": {0: "B", 1: LENGTH}}
    return Architecture(name, "encoder-decoder", build, inputs, dynamic)


def vision(
    name: str, family: str, head: str = "Model", results: tuple[str, ...] = ("last_hidden_state",),
    size: int = 32, **settings: Any,
) -> Architecture:  # fmt: skip
    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(batch, 3, size, size)}

    def build() -> nn.Module:
        return Vision(_model(family, head, settings), results)

    return Architecture(name, "vision", build, inputs, {"pixel_values": {0: "B"}})


def clip() -> Architecture:
    """CLIP, with batches of images and of texts of different size."""

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = tokens(batch, length)
        ids[:, -1] = VOCABULARY - 1
        return {"pixel_values": torch.randn(batch, 3, 32, 32), "input_ids": ids}

    def build() -> nn.Module:
        text = {**TEXT, "eos_token_id": VOCABULARY - 1}
        settings = {
            "text_config": text,
            "vision_config": {**VISION, "intermediate_size": 64},
            "projection_dim": 16,
        }
        return Contrastive(_model("CLIP", "Model", settings))

    return Architecture(
        "CLIP", "vision", build, inputs, {"pixel_values": {0: "B"}, "input_ids": {0: "T", 1: LENGTH}}
    )


def _model(family: str, head: str, settings: dict[str, Any]) -> Any:
    made = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, f"{family}{head}")(made)


ARCHITECTURES = [
    encoder("BERT", "Bert"),
    encoder("RoBERTa", "Roberta"),
    encoder("DistilBERT", "DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    encoder("ELECTRA", "Electra", embedding_size=16),
    encoder(
        "DeBERTa-v2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
    ),
    encoder("ALBERT", "Albert", embedding_size=16),
    encoder("MPNet", "MPNet"),
    decoder(
        "GPT-2", "GPT2", "LMHeadModel", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=80
    ),
    decoder("Llama", "Llama", **GROUPED),
    decoder("Mistral", "Mistral", **GROUPED, sliding_window=64),
    decoder("Qwen2", "Qwen2", **GROUPED),
    decoder("Qwen3", "Qwen3", **GROUPED, head_dim=8),
    decoder("Gemma", "Gemma", **{**GROUPED, "num_key_value_heads": 1}, head_dim=8),
    decoder(
        "OPT", "OPT", vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        ffn_dim=64, max_position_embeddings=80, word_embed_proj_dim=32,
    ),
    decoder("GPT-NeoX", "GPTNeoX", **TEXT),
    decoder("Phi", "Phi", **TEXT),
    decoder("Mixtral", "Mixtral", **GROUPED, num_local_experts=4, experts_implementation="batched_mm"),
    encoder_decoder(
        "T5", "T5", vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    ),
    encoder_decoder(
        "BART", "Bart", vocab_size=VOCABULARY, d_model=32, max_position_embeddings=80, **BOTH_SIDES
    ),
    encoder_decoder(
        "Whisper", "Whisper", audio=True, vocab_size=VOCABULARY, num_mel_bins=16, d_model=32,
        max_source_positions=12, max_target_positions=80, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **BOTH_SIDES,
    ),
    vision("ViT", "ViT", **VISION, intermediate_size=64),
    vision("DeiT", "DeiT", **VISION, intermediate_size=64),
    vision(
        "Swin", "Swin", image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
        window_size=4,
    ),
    vision("ConvNeXt", "ConvNext", **STAGES),
    vision("BEiT", "Beit", **VISION, intermediate_size=64, vocab_size=VOCABULARY),
    vision("DINOv2", "Dinov2", **VISION, mlp_ratio=2),
    vision(
        "SegFormer", "Segformer", "ForSemanticSegmentation", ("logits",), 64, **STAGES,
        num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16,
    ),
    vision(
        "DETR", "Detr", "ForObjectDetection", ("logits", "pred_boxes"), 64, d_model=32, num_queries=5,
        backbone_config={
            "model_type": "resnet", "embedding_size": 8, "out_features": ["stage4"], **STAGES,
            "layer_type": "basic",
        },
        **BOTH_SIDES,
    ),
    clip(),
]  # fmt: skip


# -- measurement --------------------------------------------------------------------------
def worst_error(results: Any, expected: Any) -> float:
    """Largest |a - b| / (ABSOLUTE + RELATIVE * |b|): at most 1 when the results agree."""
    pairs = list(zip(_arrays(results), _arrays(expected), strict=True))
    return max(float(np.max(np.abs(a - b) / (ABSOLUTE + RELATIVE * np.abs(b)))) for a, b in pairs)


def _arrays(results: Any) -> list[np.ndarray]:
    found = results if isinstance(results, (tuple, list)) else (results,)
    return [np.asarray(r.detach() if isinstance(r, torch.Tensor) else r) for r in found]


def measure(chosen: Architecture, seed: int) -> dict[str, Any]:
    """Lower, interpret and compile one architecture; errors are in units of the tolerance."""
    torch.manual_seed(seed)
    module = chosen.build().eval()
    row: dict[str, Any] = {"model": chosen.name, "kind": chosen.kind}
    with torch.no_grad():
        start = time.perf_counter()
        example = chosen.inputs(2, 7)
        graph = plait.lower(module, example, dynamic=chosen.dynamic)
        row |= {"ops": len(graph), "lower_s": time.perf_counter() - start}
        row["dims"] = {name: str(bounds) for name, bounds in graph.dims.items()}
        calls = [example, chosen.inputs(3, 5)]
        expected = [module(**call) for call in calls]
        row["largest_value"] = max(float(np.max(np.abs(a))) for e in expected for a in _arrays(e))
        row["interpreter_error"] = max(
            worst_error(plait.interpret(graph, call), e) for call, e in zip(calls, expected, strict=True)
        )
        start = time.perf_counter()
        executable = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)
        row["cpu_compile_s"] = time.perf_counter() - start
        row["cpu_error"] = max(
            worst_error(executable(**call), e) for call, e in zip(calls, expected, strict=True)
        )
        if chosen.decodes:
            row |= decode(module.model)
    return row


def greedy(model: Any, prompt: torch.Tensor, steps: int) -> torch.Tensor:
    """Prompt and `steps` tokens more, by the torch model without a cache."""
    for _ in range(steps):
        logits = model(input_ids=prompt, use_cache=False).logits[:, -1]
        prompt = torch.cat([prompt, logits.argmax(-1, keepdim=True)], 1)
    return prompt


def decode(model: Any) -> dict[str, Any]:
    """Decode with a compiled step that takes and returns the keys and values."""
    prompt = tokens(2, 6)
    wanted = greedy(model, prompt, STEPS + 1)
    first = model(input_ids=prompt, use_cache=True)
    past = pairs_of(first.past_key_values)
    last = first.logits[:, -1].argmax(-1, keepdim=True)
    # torch.export cannot prove the strides of grouped keys for the fused kernel at every cache length
    model.set_attn_implementation("eager")
    axes: dict[int, Any] = {0: "B", 2: ("P", 2, 64)}
    dynamic: dict[str, dict[int, Any]] = {"input_ids": {0: "B"}}
    dynamic |= {f"past.{i}.{j}": axes for i in range(len(past)) for j in (0, 1)}
    graph = plait.lower(DecodingStep(model).eval(), (last, past), dynamic=dynamic)
    executable = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)
    found, state = [prompt, last], [tensor for pair in past for tensor in pair]
    error = 0.0
    reference = DecodingStep(model)
    for _ in range(STEPS):
        pairs = [(state[i], state[i + 1]) for i in range(0, len(state), 2)]
        logits, *state = executable(last, *state)
        error = max(error, worst_error(logits, reference(last, pairs)[0]))
        last = logits.argmax(-1, keepdim=True)
        found.append(last)
    same = bool((torch.cat(found, 1) == wanted).all())
    return {
        "step_ops": len(graph),
        "step_error": error,
        "tokens_equal": same,
        "cache_length": state[0].shape[2],
    }


def measure_static(seed: int) -> dict[str, Any]:
    """Llama with a cache of fixed length in buffers: all tokens of the prompt go through the graph too."""
    torch.manual_seed(seed)
    model = _model("Llama", "ForCausalLM", GROUPED).eval()
    row: dict[str, Any] = {"model": "Llama, static cache", "kind": "decoder"}
    with torch.no_grad():
        prompt = tokens(1, 4)
        wanted = greedy(model, prompt, STEPS + 1)
        start = time.perf_counter()
        step = StaticStep(model, 16).eval()
        graph = plait.lower(step, (prompt[:, :1], torch.tensor([0])))
        row |= {"ops": len(graph), "lower_s": time.perf_counter() - start, "dims": {}}
        row["state"] = [value.name for value in graph.inputs[2:]]
        start = time.perf_counter()
        executable = plait.compile(graph, target="cpu", threads=1, isolate=False, cache=False)
        row["cpu_compile_s"] = time.perf_counter() - start
        errors: dict[str, float] = {}
        for name, run in (
            ("interpreter_error", lambda *a: plait.interpret(graph, a)),
            ("cpu_error", executable),
        ):
            state = [torch.from_numpy(array.copy()) for array in initial_state(graph).values()]
            sequence, errors[name] = prompt, 0.0
            for position in range(prompt.shape[1] + STEPS):
                logits, *state = run(sequence[:, position : position + 1], torch.tensor([position]), *state)
                reference = model(input_ids=sequence[:, : position + 1], use_cache=False).logits[:, -1]
                errors[name] = max(errors[name], worst_error(logits, reference))
                if position + 1 >= sequence.shape[1]:
                    sequence = torch.cat([sequence, logits.argmax(-1, keepdim=True)], 1)
            row["tokens_equal"] = row.get("tokens_equal", True) and bool((sequence == wanted).all())
        row |= errors
    return row


def failed(row: dict[str, Any]) -> str:
    """Why a row does not count; empty where all agrees."""
    if "failure" in row:
        return str(row["failure"])
    worst = max(row["interpreter_error"], row["cpu_error"], row.get("step_error", 0.0))
    if worst > 1.0:
        return f"differs from torch by {worst:.1f} times the tolerance"
    return "" if row.get("tokens_equal", True) else "other tokens than torch"


def show(rows: list[dict[str, Any]]) -> None:
    """The table of all rows."""
    table = Table(title="transformers: error / tolerance against torch")
    for column in ("model", "kind", "ops", "dims", "interpreter", "cpu", "decoding step", "tokens", "result"):
        table.add_column(column, overflow="fold")
    for row in rows:
        figures = [
            f"{row[k]:.3f}" if k in row else "" for k in ("interpreter_error", "cpu_error", "step_error")
        ]
        equal = {True: "equal", False: "differ", None: ""}[row.get("tokens_equal")]
        dims = " ".join(row.get("dims", {}))
        table.add_row(
            row["model"], row["kind"], str(row.get("ops", "")), dims, *figures, equal, failed(row) or "ok"
        )
    console.print(table)


def main() -> None:
    """Run the architectures and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", help="architectures, by default all")
    options.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "coverage_transformers.json"
    )
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    runs: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        each.name: (each.kind, partial(measure, each, chosen.seed)) for each in ARCHITECTURES
    }
    runs["Llama, static cache"] = ("decoder", lambda: measure_static(chosen.seed))
    if not chosen.names:
        chosen.json.unlink(missing_ok=True)
    for name in chosen.names or runs:
        kind, run = runs[name]
        try:
            row = run()
        except plait.PlaitError as error:
            row = {"model": name, "kind": kind, "failure": str(error)}
        known = {}
        if chosen.json.is_file():
            known = {each["model"]: each for each in json.loads(chosen.json.read_text())["rows"]}
        known[name] = row
        console.print(f"{name}: {failed(row) or 'ok'}")
        rows = [known[each] for each in runs if each in known]
        good = sum(not failed(each) for each in rows)
        results = {
            "seed": chosen.seed,
            "transformers": transformers.__version__,
            "passed": good,
            "rows": rows,
        }
        write_results(chosen.json, "coverage_transformers", results)
    show(rows)
    console.print(f"{good} of {len(rows)} within rtol {RELATIVE} / atol {ABSOLUTE} of torch; {chosen.json}")
    if good < len(rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
