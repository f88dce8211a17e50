"""The command line, in this process: output, JSON, exit codes, and each bad input."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from plait.__main__ import main
from plait.ir import parse

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `plait ARGUMENTS`: exit code, standard output, standard error."""

    def call(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plait", *map(str, arguments)])
        if stdin is not None:
            import io

            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small_cnn as an archive."""
    import plait

    path = tmp_path_factory.mktemp("cli") / "net.plait"
    plait.lower("small_cnn").save(path)
    return path


TEXT = "plait.ir 1.0\ndim B in 1..8\nfunc @f(%x: f32[B,4]) -> f32[B,4] {\n  %y = core.exp(%x) : f32[B,4]\n  return %y\n}\n"


def test_lower_prints_text_that_parses(run: Run) -> None:
    code, out, _ = run("lower", "small_cnn")
    assert code == 0
    graph = parse(out)
    assert graph.name == "small_cnn"
    assert "features.0.0.weight" in graph.constants


def test_lower_writes_an_archive(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("lower", "small_cnn", "-o", tmp_path / "a.plait")
    assert code == 0
    assert "wrote" in out
    code, out, _ = run("verify", tmp_path / "a.plait", "--json")
    assert json.loads(out)["valid"] is True


def test_onnx_models_are_written_and_read(run: Run, archive: Path, tmp_path: Path) -> None:
    assert run("opt", archive, "-o", tmp_path / "net.onnx")[0] == 0
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    code, out, _ = run("lower", tmp_path / "net.onnx", "--json")
    assert code == 0
    assert json.loads(out)["inputs"] == json.loads(run("lower", archive, "--json")[1])["inputs"]


def test_standard_input(run: Run) -> None:
    code, out, _ = run("print", "-", stdin=TEXT)
    assert (code, out) == (0, TEXT)


def test_print_with_cost_still_parses(run: Run, archive: Path) -> None:
    code, out, _ = run("print", archive, "--cost", "--dim", "B=8")
    assert code == 0
    assert "FLOP" in out
    parse(out)


def test_opt_and_diff(run: Run, archive: Path, tmp_path: Path) -> None:
    after, dumps = tmp_path / "after.plait", tmp_path / "dumps"
    code, out, _ = run("opt", archive, "-p", "fold-batch-norm", "-o", after, "--dump-dir", dumps)
    assert code == 0
    assert "nn.batch_norm -2" in out
    assert (dumps / "index.md").exists()
    code, out, _ = run("diff", archive, after)
    assert code == 1
    assert "%features.0.1 nn.conv2d: nn.batch_norm -> nn.conv2d" in out
    code, out, _ = run("diff", archive, archive, "--json")
    assert code == 0
    assert json.loads(out)["equal"] is True


def test_why(run: Run, archive: Path) -> None:
    code, out, _ = run("why", archive, "fuse-activation", "%pool")
    assert code == 0
    assert "fuse-activation" in out
    assert "%pool" in out
    code, _, err = run("why", archive, "fuse-activation", "%pol")
    assert code == 2
    assert "pool" in err


def test_opt_to_standard_output_is_clean_ir(run: Run, archive: Path) -> None:
    code, out, err = run("opt", archive)
    assert code == 0
    parse(out)
    assert "fold-batch-norm" in err


def test_run_on_the_interpreter(run: Run, archive: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 32, 32), np.float32))
    code, out, _ = run(
        "run",
        archive,
        "--target",
        "interpreter",
        "-i",
        f"image={tmp_path / 'x.npy'}",
        "-o",
        tmp_path / "y.npz",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["results"][0]["shape"] == [2, 10]
    assert np.load(tmp_path / "y.npz")["classifier"].shape == (2, 10)


def test_run_on_the_cpu_agrees_with_the_interpreter(run: Run, archive: Path) -> None:
    code, out, _ = run("run", archive, "--check", "--dim", "B=3", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["max_abs_error"] < 1e-5


def test_compile_writes_an_executable_that_runs(run: Run, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.so.plait"
    code, out, _ = run("compile", archive, "-o", path)
    assert code == 0
    assert "kernels for cpu" in out
    code, out, _ = run("run", path, "--check", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["max_abs_error"] < 1e-5


def test_cache_shows_and_clears_what_compiling_keeps(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "f.txt").write_text(TEXT)
    for options in (["--no-cache"], []):
        assert run("compile", tmp_path / "f.txt", "--in-process", *options)[0] == 0
        _, out, _ = run("cache", "info", "--json")
        found = {entry["name"]: entry for entry in json.loads(out)}
        assert found["compile"]["entries"] == (0 if options else 1)
    assert found["compile"]["folder"] == str(tmp_path / "plait" / "compile")
    _, out, _ = run("cache", "clear")
    assert "compile" in out
    _, out, _ = run("cache", "info", "--json")
    assert {entry["bytes"] for entry in json.loads(out)} == {0}


def test_compile_for_the_a100_shows_resources(run: Run, archive: Path) -> None:
    code, out, _ = run("compile", archive, "--target", "a100", "--dim", "B=2", "--json")
    assert code == 0
    kernels = json.loads(out)["kernels"]
    assert kernels
    assert all(k["registers"] > 0 and k["ops"] for k in kernels)


def test_compile_writes_the_cuda_text_of_each_kernel(run: Run, archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    code, out, _ = run("compile", archive, "--target", "a100", "--dim", "B=2", "--sources", folder, "--json")
    assert code == 0
    names = {k["name"] for k in json.loads(out)["kernels"]}
    assert {p.stem for p in folder.iterdir()} == names
    assert all("__global__" in p.read_text() and "// plait: %" in p.read_text() for p in folder.iterdir())
    code, _, err = run("compile", archive, "--target", "cpu", "--sources", tmp_path / "none")
    assert code == 2
    assert "target cpu has no CUDA text" in err
    assert not (tmp_path / "none").exists()


def test_predict(run: Run, archive: Path) -> None:
    code, out, _ = run("predict", archive, "--dim", "B=8")
    assert code == 0
    for word in ("latency_ms", "energy_j", "memory_mb", "mig", "because", "roofline"):
        assert word in out
    code, out, _ = run("predict", archive, "--dim", "B=8", "--json")
    assert json.loads(out)["basis"] == "roofline"


def test_predict_shows_the_published_label(run: Run) -> None:
    code, out, _ = run("predict", "efficientnet_b0", "--dim", "B=32")
    assert code == 0
    assert "80.49" in out
    assert "4,772" in out


# -- bad input -------------------------------------------------------------------------
def onnx_file(path: Path, op: str = "Relu", domain: str = "") -> Path:
    """A one-node ONNX model."""
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(op, ["x"], ["y"], name="the_node", domain=domain)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [tensor("x", onnx.TensorProto.FLOAT, [2, 3])],
        [tensor("y", onnx.TensorProto.FLOAT, [2, 3])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def truncated_onnx(folder: Path) -> list[object]:
    path = onnx_file(folder / "half.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    return ["lower", path, "-o", folder / "out.plait"]


def traversing_onnx(folder: Path) -> list[object]:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret.bin").write_bytes(b"\0" * 24)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2, 3])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [tensor("x", onnx.TensorProto.FLOAT, [2, 3])],
        [tensor("y", onnx.TensorProto.FLOAT, [2, 3])],
        initializer=[weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (inner / "net.onnx").write_bytes(model.SerializeToString())
    return ["lower", inner / "net.onnx", "-o", folder / "out.plait"]


BAD = {
    "missing file": (lambda d: ["lower", d / "no.onnx", "-o", d / "out.plait"], ["no.onnx", "does not exist"]),
    "missing graph": (lambda d: ["verify", d / "no.plait"], ["no.plait", "does not exist"]),
    "misspelt example": (lambda d: ["lower", "resnet81"], ["did you mean 'resnet18'"]),
    "truncated onnx": (truncated_onnx, ["half.onnx"]),
    "path-traversing external data": (traversing_onnx, ["../secret.bin", "leaves the folder of the model"]),
    "unsupported op": (lambda d: ["lower", onnx_file(d / "x.onnx", "Foo", "acme"), "-o", d / "out.plait"], ["Foo", "the_node"]),
    "unknown pass": (lambda d: ["opt", "small_cnn", "-p", "fold-batchnorm"], ["fold-batchnorm", "fold-batch-norm"]),
    "unknown device": (lambda d: ["predict", "small_cnn", "--dim", "B=1", "--device", "a100-40"], ["a100-40", "a100-sxm4-40gb"]),
    "dim without value": (lambda d: ["predict", "small_cnn"], ["dim B", "no value", "--dim B="]),
    "dim that is not there": (lambda d: ["predict", "small_cnn", "--dim", "Q=2"], ["Q"]),
    "malformed dim": (lambda d: ["predict", "small_cnn", "--dim", "B"], ["--dim NAME=SIZE"]),
    "unknown target": (lambda d: ["compile", "small_cnn", "--target", "a10", "-o", d / "out.plait"], ["a10", "a100"]),
    "folder that is not there": (lambda d: ["lower", "small_cnn", "-o", d / "no" / "out.plait"], ["cannot write"]),
    "unknown input": (lambda d: ["run", "small_cnn", "-i", "img=x.npy"], ["img=x.npy", "image"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_one_clear_message(run: Run, tmp_path: Path, case: str) -> None:
    build, words = BAD[case]
    arguments = build(tmp_path)
    before = sorted(p for p, _, _ in os.walk(tmp_path))
    code, out, err = run(*arguments)
    assert code == 2, out + err
    for word in words:
        assert word in err, err
    assert "Traceback" not in err
    assert not (tmp_path / "out.plait").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert sorted(p for p, _, _ in os.walk(tmp_path)) == before


def test_bad_text_has_a_caret(run: Run) -> None:
    code, _, err = run("verify", "-", stdin=TEXT.replace("core.exp", "core.xep"))
    assert code == 2
    assert "<text>:4:8: error[I4]: unknown op 'core.xep'; did you mean 'core.exp'?" in err
    assert "^^^^^^^^" in err


def test_errors_as_json(run: Run) -> None:
    code, out, _ = run("verify", "nothing.plait", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "InputError"


def test_wrong_input_shape_and_dtype_at_run_time(run: Run, archive: Path, tmp_path: Path) -> None:
    for array, words in (
        (np.zeros((2, 4, 32, 32), np.float32), ["input image", "4"]),
        (np.zeros((2, 3, 32, 32), np.int64), ["input image", "int64"]),
    ):
        np.save(tmp_path / "x.npy", array)
        code, _, err = run("run", archive, "-i", f"image={tmp_path / 'x.npy'}")
        assert code == 2
        assert all(word in err for word in words), err


def test_the_quality_report(run: Run, archive: Path) -> None:
    arguments = ("compile", archive, "--target", "a100", "--dim", "B=2", "--report")
    code, out, _ = run(*arguments)
    assert code == 0
    assert out.startswith("@small_cnn: ")
    assert "roofline us" in out
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["totals"]["launches"] == sum(row["runs"] for row in found["kernels"])
    assert found["totals"]["macs"] > 0
    code, _, err = run("compile", archive, "--report")
    assert code == 2
    assert "--report is about GPU kernels" in err


def samples(archive: Path, path: Path, count: int = 24) -> Path:
    """Seeded samples for each input of a graph, as the quantising commands read them."""
    import plait
    from plait.ir.inputs import random_inputs

    graph = plait.load(archive)
    assert isinstance(graph, plait.Graph)
    np.savez(path, **random_inputs(graph, {"B": count}, 0))  # type: ignore[arg-type]  # named arrays
    return path


def test_quantize_writes_an_integer_graph(run: Run, archive: Path, tmp_path: Path) -> None:
    import plait
    from plait.ir import QuantType

    data, target = samples(archive, tmp_path / "samples.npz"), tmp_path / "int8.plait"
    code, out, err = run("quantize", archive, "--data", data, "-o", target, "--rule", "op:nn.linear=float")
    assert (code, err) == (0, "")
    assert "ops quantised" in out
    graph = plait.load(target)
    assert isinstance(graph, plait.Graph)
    inputs = {op.opname: {type(v.type) for v in op.operands[:2]} for op in graph.ops}
    assert inputs["nn.conv2d"] == {QuantType}
    assert QuantType not in inputs["nn.linear"]


def test_quantize_writes_onnx_with_pairs(run: Run, archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    code, _, err = run("quantize", archive, "-o", target, "--samples", 8, "--batch", 4)
    assert code == 0
    assert "no --data" in err
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_quant_report(run: Run, archive: Path, tmp_path: Path) -> None:
    data = samples(archive, tmp_path / "samples.npz")
    code, out, _ = run("quant-report", archive, "--data", data, "--scheme", "a8w4", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["bytes_after"] < report["bytes_before"] / 4
    assert {row["effective"] for row in report["rows"] if row["op"] == "nn.conv2d"} == {"int8 x int4"}
    code, out, _ = run("quant-report", archive, "--data", data)
    assert code == 0
    assert "first op below 10 dB" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--scheme", "int9"), "no scheme"),
        (("--scheme", "a8w9"), "2 to 8 bits"),
        (("--rule", "nowhere=float"), "no op has a module path"),
        (("--rule", "nowhere"), "PATTERN=SCHEME"),
        (("--observer", "medium"), "observer"),
        (("--data", "absent.npz"), "cannot read"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_quantising_with_bad_options(run: Run, archive: Path, arguments: tuple[str, str], says: str) -> None:
    code, _, err = run("quant-report", archive, "--samples", 4, "--batch", 2, *arguments)
    assert code == 2
    assert says in err


def test_calibration_data_that_does_not_fit(run: Run, archive: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", picture=np.zeros((4, 3, 8, 8), np.float32))
    code, _, err = run("quant-report", archive, "--data", tmp_path / "other.npz")
    assert code == 2
    assert "has no array" in err
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    code, _, err = run("quant-report", archive, "--data", tmp_path / "bad.npz")
    assert code == 2
    assert "cannot read" in err
