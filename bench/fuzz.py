"""Damaged ONNX files and IR text: every input ends in a graph or in a PlaitError, soon.

Inputs are made by seeded mutation of sound ones: one ONNX model of each operator in
onnx's own node tests, and the dumps of the graphs that they lower to.  A child process
works through a block of inputs under a limit of memory; anything but a graph or a
PlaitError, a result after the time limit, or a dead process is a finding, and its input
is kept.  With --atheris, coverage-guided mutation by atheris takes the place of ours.

Run: python bench/fuzz.py [--inputs 24000] [--seed 0] [--jobs 2] [--atheris SECONDS] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write_results
from isolated import run_isolated
from mutations import mutated_bytes, mutated_model, mutated_text
from rich.console import Console

import plait

#: Seconds after which an input counts as a hang.
LIMIT_S = 5.0
#: Address space of a child, far above what these small models need.
MEMORY = 12 << 30
BLOCK = 250
KINDS = ("onnx-bytes", "onnx-fields", "text")
console = Console(highlight=False, width=150)


class Late(BaseException):
    """Raised by the timer; no handler of ordinary errors catches it."""


def corpus() -> tuple[list[bytes], list[str]]:
    """A model of each operator and version in onnx's node tests, and the IR text of those that lower."""
    from onnx.backend.test.loader import load_model_tests

    models: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for test in load_model_tests(kind="node"):
            key = ",".join(sorted({node.op_type for node in test.model.graph.node}))
            if key not in models and test.model.ByteSize() < 6000:
                models[key] = test.model.SerializeToString()
                with contextlib.suppress(plait.PlaitError):
                    texts[key] = str(plait.lower(test.model))
    return list(models.values()), [text for text in texts.values() if len(text) < 8000]


def make(kind: str, seed: int, number: int, models: list[bytes], texts: list[str]) -> bytes:
    """Input `number` of a kind: the same one for the same seed."""
    source = random.Random(f"{seed}/{kind}/{number}")
    if kind == "text":
        return mutated_text(source.choice(texts), source.choice(texts), source).encode("utf-8", "replace")
    change = mutated_bytes if kind == "onnx-bytes" else mutated_model
    return change(source.choice(models), source.choice(models), source)


def try_input(kind: str, data: bytes, path: Path) -> str:
    """Feed one input; how it ended: "graph", a PlaitError by name, or "defect: " and what went wrong."""
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        if kind == "text":
            graph = plait.parse(data.decode())
            if plait.parse(str(graph)) != graph:
                return "defect: the dump of the parsed graph parses to another graph"
        else:
            path.write_bytes(data)
            plait.lower(path)
        ended = "graph"
    except plait.PlaitError as error:
        ended = type(error).__name__
    except Late:
        ended = f"defect: no result after {LIMIT_S:.0f} s"
    except BaseException as error:
        ended = f"defect: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - started > LIMIT_S and not ended.startswith("defect"):
        return f"defect: {time.monotonic() - started:.1f} s"
    return ended


def _late(*_: Any) -> None:
    raise Late


def prepare() -> None:
    """Limits of a child process."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _late)


def work(block: tuple[str, int, range, list[bytes], list[str]]) -> list[tuple[int, str]]:
    """A block of inputs, each with how it ended."""
    kind, seed, numbers, models, texts = block
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        return [(n, try_input(kind, make(kind, seed, n, models, texts), path)) for n in numbers]


def blocks(count: int, seed: int, models: list[bytes], texts: list[str]) -> Iterator[Any]:
    """The inputs, a third of each kind, in blocks."""
    each = -(-count // len(KINDS))
    for start in range(0, each, BLOCK):
        for kind in KINDS:
            yield kind, seed, range(start, min(each, start + BLOCK)), models, texts


def mutation_run(options: argparse.Namespace) -> None:
    """The seeded run; ends the process with an error where there are findings."""
    started = time.monotonic()
    models, texts = corpus()
    console.print(f"{len(models)} models and {len(texts)} dumps to start from")
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    findings: list[dict[str, Any]] = []

    def note(kind: str, number: int, ended: str) -> None:
        defect = ended.startswith("defect")
        ends[kind]["defect" if defect else ended] += 1
        if defect:
            findings.append({"kind": kind, "number": number, "ended": ended})
            console.print(f"{kind} {number}: {ended}", markup=False)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{kind}-{options.seed}-{number}").write_bytes(
                    make(kind, options.seed, number, models, texts)
                )

    every = list(blocks(options.inputs, options.seed, models, texts))
    alone = []  # the inputs of a block whose process died, to find the one that killed it
    for block, found in run_isolated(every, work, workers=options.jobs, seconds=LIMIT_S * BLOCK):
        if isinstance(found, Exception):
            kind, seed, numbers, *rest = block
            alone += [(kind, seed, range(n, n + 1), *rest) for n in numbers]
            continue
        for number, ended in found:
            note(block[0], number, ended)
    for block, found in run_isolated(alone, work, workers=options.jobs, seconds=2 * LIMIT_S):
        ended = f"defect: {found}" if isinstance(found, Exception) else found[0][1]
        note(block[0], block[2].start, ended)

    total = sum(sum(counter.values()) for counter in ends.values())
    for kind, counter in ends.items():
        console.print(f"{kind}: " + ", ".join(f"{name} {n}" for name, n in counter.most_common()))
    seconds = time.monotonic() - started
    console.print(f"{total} inputs, {len(findings)} findings, {seconds:.0f} s, seed {options.seed}")
    rows = [{"kind": kind, **counter} for kind, counter in ends.items()]
    summary = {"seed": options.seed, "inputs": total, "limit_s": LIMIT_S, "seconds": round(seconds, 1)}
    write_results(options.json, "fuzz", {**summary, "findings": findings, "rows": rows})
    if findings:
        raise SystemExit(f"{len(findings)} inputs ended in neither a graph nor a PlaitError")


def guided_run(seconds: int, kind: str) -> None:
    """Coverage-guided fuzzing by atheris, which ends the process itself; a defect is a crash of it."""
    import atheris

    with atheris.instrument_imports(include=["plait.frontends.onnx", "plait.ir"]):
        pass
    models, texts = corpus()
    prepare()
    folder = Path(tempfile.mkdtemp(prefix="plait-fuzz-"))
    seeds = folder / "corpus"
    seeds.mkdir()
    for number, item in enumerate(models if kind == "onnx-bytes" else [text.encode() for text in texts]):
        (seeds / str(number)).write_bytes(item)
    path = folder / "model.onnx"

    def one(data: bytes) -> None:
        if kind == "text":
            data = data.decode("utf-8", "replace").encode()
        ended = try_input(kind, data, path)
        if ended.startswith("defect"):
            raise RuntimeError(ended)

    flags = [
        f"-max_total_time={seconds}",
        "-max_len=8192",
        "-rss_limit_mb=8192",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(seeds)], one)
    atheris.Fuzz()


def main() -> None:
    """Run one of the two."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--inputs", type=int, default=24_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    options.add_argument("--atheris", type=int, metavar="SECONDS", help="coverage-guided run of this length")
    options.add_argument("--kind", choices=("onnx-bytes", "text"), default="text", help="of the guided run")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    chosen = options.parse_args()
    if chosen.atheris:
        guided_run(chosen.atheris, chosen.kind)
    else:
        mutation_run(chosen)


if __name__ == "__main__":
    main()
