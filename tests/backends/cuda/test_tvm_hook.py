"""Whole Relax executables for CUDA on the host, against torch."""

import inspect

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from plait.backends.cuda.nvrtc import compile_cuda  # noqa: E402
from plait.backends.cuda.resources import kernel_resources  # noqa: E402
from plait.backends.cuda.tvm_hook import LaunchRecord, emulated_cuda_device  # noqa: E402
from plait.backends.tvm.tvmscript import fast_tvmscript  # noqa: E402
from plait.ir.errors import CompileError  # noqa: E402

ORDERS = ("forward", "reversed", 11)
TARGET = {
    "kind": "cuda",
    "arch": "sm_80",
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
    "registers_per_block": 65536,
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def build(module):
    """The executable of a Relax module, scheduled by TVM's default pipeline for sm_80."""
    import tvm.relax.backend.cuda.pipeline
    from tvm import relax

    target = tvm.target.Target(TARGET, host="llvm")
    with target:
        return relax.build(module, target, relax_pipeline=relax.get_default_pipeline(target))


def classifier(weights):
    """conv2d, relu, matmul, layer_norm, softmax: [2,3,16,16] -> [16,40]."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 16, 16), "float32"))
    kernel, matrix, gamma, beta = (relax.const(weight) for weight in weights)
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.conv2d(x, kernel, padding=1))
            y = builder.emit(relax.op.nn.relu(y))
            y = builder.emit(relax.op.reshape(y, (16, 256)))
            y = builder.emit(relax.op.matmul(y, matrix))
            y = builder.emit(relax.op.nn.layer_norm(y, gamma, beta, axes=[-1]))
            y = builder.emit_output(relax.op.nn.softmax(y, -1))
        builder.emit_func_output(y)
    return builder.finalize()


def product(dtype, out_dtype):
    """softmax(x @ w): [128,128] @ [128,256]."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((128, 128), dtype))
    w = relax.Var("w", relax.TensorType((128, 256), dtype))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(x, w, out_dtype=out_dtype))
            y = builder.emit_output(relax.op.nn.softmax(y, -1))
        builder.emit_func_output(y)
    return builder.finalize()


def run(executable, *arrays):
    device = tvm.cuda(0)
    machine = tvm.relax.VirtualMachine(executable, device)
    return machine["main"](*(tvm.runtime.tensor(array, device) for array in arrays)).numpy()


def test_network_matches_torch_in_every_lane_order():
    rng = np.random.default_rng(0)
    shapes = ((8, 3, 3, 3), (256, 40), (40,), (40,))
    weights = [(0.2 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]
    x = rng.normal(size=(2, 3, 16, 16)).astype(np.float32)
    kernel, matrix, gamma, beta = map(torch.from_numpy, weights)
    hidden = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(x), kernel, padding=1)).reshape(16, 256)
    normed = torch.nn.functional.layer_norm(hidden @ matrix, (40,), gamma, beta)
    expected = torch.softmax(normed, -1).numpy()
    with emulated_cuda_device() as emulation:
        executable = build(classifier(weights))
        for order in ORDERS:
            emulation.lane_order = order
            emulation.clear_launches()
            np.testing.assert_allclose(run(executable, x), expected, atol=1e-6)
            launches = emulation.launches
            names = [launch.kernel for launch in launches]
            assert names == [
                "fused_conv2d_relu_kernel",
                "matmul_kernel",
                "layer_norm_kernel",
                "softmax_kernel",
            ]
            assert launches[-1] == LaunchRecord("softmax_kernel", (16, 1, 1), (256, 1, 1), 0)
        assert emulation.sources == [emulation.source]
        # The text that ran is the text that the assembler takes for sm_80.
        resources = kernel_resources(compile_cuda(emulation.source))
        assert set(names) <= set(resources)
        for launch in launches:
            assert np.prod(launch.block) <= resources[launch.kernel].max_threads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "out_dtype", "tolerance"),
    [("float16", "float32", 1e-6), ("float16", "float16", 5e-3), ("bfloat16", "bfloat16", 2e-2)],
)
def test_low_precision_products(dtype, out_dtype, tolerance):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(0)
    x, w = (0.1 * rng.normal(size=(128, 128))).astype(kind), rng.normal(size=(128, 256)).astype(kind)
    expected = torch.softmax(
        torch.tensor(x.astype(np.float32)) @ torch.tensor(w.astype(np.float32)), -1
    ).numpy()
    with fast_tvmscript(), emulated_cuda_device() as emulation:
        executable = build(product(dtype, out_dtype))
        assert ("wmma::mma_sync" in emulation.source) == (dtype == "float16")
        for order in ORDERS:
            emulation.lane_order = order
            np.testing.assert_allclose(run(executable, x, w).astype(np.float32), expected, atol=tolerance)
        if dtype == "float16":
            assert emulation.launches[0].dynamic_shared_bytes > 0


def test_registry_is_restored():
    names = ("target.build.cuda", "tvm_callback_cuda_compile", "device_api.cuda")
    present = {name: tvm.get_global_func(name, allow_missing=True) is not None for name in names}
    with emulated_cuda_device():
        assert all(tvm.get_global_func(name, allow_missing=True) is not None for name in names)
    after = {name: tvm.get_global_func(name, allow_missing=True) is not None for name in names}
    assert after == present
    # Builds give CUDA modules again.
    executable = build(product("float32", "float32"))
    kinds = []
    stack = [executable.mod]
    while stack:
        module = stack.pop()
        kinds.append(module.kind)
        stack.extend(module.imports)
    assert "cuda" in kinds


def test_broken_kernel_is_a_compile_error_of_the_run():
    """A barrier that only some threads reach, put into the text of a real executable."""
    with emulated_cuda_device() as emulation:
        original = emulation.build

        def sabotage(source, tags):
            return original(
                source.replace("__syncthreads();", "if (threadIdx.y == 0) __syncthreads();", 1), tags
            )

        emulation.build = sabotage
        executable = build(product("float32", "float32"))
        x, w = np.zeros((128, 128), np.float32), np.zeros((128, 256), np.float32)
        with pytest.raises(CompileError, match="divergent barrier"):
            run(executable, x, w)


def test_fast_tvmscript_gives_the_same_frames():
    def names(stack):
        return [(frame.filename, frame.function) for frame in stack]

    expected = names(inspect.stack())
    with fast_tvmscript():
        assert inspect.stack is not None
        found = inspect.stack()
    assert names(found) == expected
    assert found[0].frame is inspect.currentframe()
    assert "found = inspect.stack()" in found[0].code_context[0]
    assert names(inspect.stack()) == expected
