"""What cannot be lowered is said with the node, the reason and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir")

from plait.frontends.nir import initial_states, lower_nir  # noqa: E402
from plait.ir import InputError, LoweringError  # noqa: E402


def chain(*nodes: Any, shape: Any = (2,), out: Any = (2,)) -> Any:
    """x -> n0 -> n1 ... -> y, unchecked by NIR."""
    named = {"x": nir.Input(np.array(shape)), **{f"n{i}": node for i, node in enumerate(nodes)}}
    named["y"] = nir.Output(np.array(out))
    names = list(named)
    return nir.NIRGraph(named, list(zip(names, names[1:])), type_check=False)  # noqa: RUF007


def scale(size: int = 2) -> Any:
    return nir.Scale(np.ones(size))


def refused(source: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(LoweringError) as caught:
        lower_nir(source, **options)
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    assert caught.value.why or caught.value.remedy


def test_unknown_nodes_all_at_once() -> None:
    class LIFF(nir.NIRNode):
        def __init__(self) -> None:
            self.metadata: dict[str, Any] = {}

    class Softmax(LIFF):
        pass

    refused(
        chain(LIFF(), Softmax()), "2 nodes of no kind that NIR defines", "'n0' is LIFF; did you mean 'LIF'?",
        "'n1' is Softmax", "CubaLIF",
    )  # fmt: skip


def test_missing_shapes() -> None:
    refused(_open_input(), "node 'x' (Input): the node has no shape")
    loop = chain(scale())
    loop.nodes |= {"a": scale(), "v": nir.I(np.ones(2))}
    loop.edges += [("a", "v"), ("v", "a")]
    refused(loop, "node 'a' (Scale): no Input reaches the node")


def _open_input() -> Any:
    graph = chain(scale())
    graph.nodes["x"].input_type = {"input": None}
    return graph


def test_cycles_without_state() -> None:
    loop = chain(scale(), scale(), scale())
    loop.edges.append(("n1", "n0"))
    refused(loop, "a cycle without a neuron or a delay", "n0, n1", "put a neuron")
    loop.nodes["n1"] = nir.Delay(np.array([0.0, 1e-4]))
    lower_nir(loop)  # a delay holds one element back and lets a cycle of the other through its last output
    loop.nodes["n1"] = nir.Delay(np.array([0.0, 2e-5]))
    refused(loop, "a cycle without a neuron or a delay")
    itself = chain(scale())
    itself.edges.append(("n0", "n0"))
    refused(itself, "a cycle without a neuron or a delay of a step or more: n0")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (scale(3), "scale has shape [3] but the signal has [2]"),
        (nir.Threshold(np.ones((2, 2))), "threshold has shape [2, 2] but the signal has [2]"),
        (nir.Linear(np.ones((2, 3))), "weight has shape [2, 3] but the signal has [2]"),
        (nir.Affine(np.ones((2, 2)), np.ones(3)), "bias has shape [3] but the output has [2]"),
        (nir.I(np.ones(5)), "r has shape [5] but the signal has [2]"),
        (nir.Delay(np.ones(3)), "delay has shape [3] but the signal has [2]"),
        (nir.Conv1d(2, np.ones((2, 1, 3)), 1, 1, 1, 1, np.ones(2)), "weight has shape [2, 1, 3] and the signal [2]"),
        (nir.SumPool2d(*[np.array([2, 2])] * 3), "the signal has shape [2]"),
        (nir.Flatten(np.array([3]), 0), "input_type is [3] but the signal has [2]"),
        (nir.Flatten(None, 1), "start_dim 1 and end_dim -1"),
        (nir.Linear(np.ones((3, 2))), "node 'y' (Output): it declares [2] but gets [3]"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(node: Any, message: str) -> None:
    refused(chain(node), message)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (nir.Conv2d(None, np.ones((2, 3, 3, 3)), 1, 0, 1, 1, np.ones(2)), "2 channels"),
        (nir.Conv2d(None, np.ones((3, 1, 3, 3)), 1, 0, 1, 2, np.ones(3)), "with 2 groups"),
        (nir.Conv2d(None, np.ones((2, 2, 3, 3)), 1, 0, 1, 1, np.ones(3)), "bias has shape [3]"),
        (nir.Conv2d((9, 9), np.ones((2, 2, 3, 3)), 1, 0, 1, 1, np.ones(2)), "input_shape is [9, 9]"),
        (nir.Conv2d(None, np.ones((2, 2, 7, 3)), 1, 0, 1, 1, np.ones(2)), "a window of 7 does not fit 6"),
        (nir.Conv2d(None, np.ones((2, 2, 3, 3)), 2, "same", 1, 1, np.ones(2)), "padding is 'same'"),
        (nir.Conv2d(None, np.ones((2, 2, 3, 3)), 0, 0, 1, 1, np.ones(2)), "stride is (0, 0)"),
        (nir.Conv2d(None, np.ones((2, 2, 3, 3)), 1, -1, 1, 1, np.ones(2)), "padding is (-1, -1)"),
        (nir.AvgPool2d(np.array([2, 2, 2]), np.array([2, 2]), np.array([0, 0])), "kernel_size is"),
        (
            nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([2, 2])),
            "pad [2, 2] exceeds the window",
        ),
    ],
)
def test_windows_that_do_not_fit(node: Any, message: str) -> None:
    refused(chain(node, shape=(2, 6, 6), out=(2, 5, 5)), "node 'n0'", message)


def test_times() -> None:
    def lif(tau: float) -> Any:
        one = np.ones(2)
        return chain(nir.LIF(tau=one * tau, r=one, v_leak=one, v_threshold=one))

    refused(lif(5e-5), "node 'n0' (LIF): tau goes down to 5e-05 s with a step of 0.0001 s", "smaller dt")
    refused(lif(0.0), "time constants are positive")
    refused(lif(float("nan")), "tau")
    lower_nir(lif(5e-5), dt=5e-5)
    refused(chain(nir.Delay(np.array([0.0, -1.0]))), "delays are 0 or more")
    refused(chain(nir.Delay(np.array([0.0, 1e6]))), "NIR gives times in seconds")


def test_edges() -> None:
    graph = chain(scale())
    graph.nodes["scale"] = scale()
    graph.edges += [("n0", "scale"), ("n0", "scales")]
    refused(graph, "an edge names node 'scales', which is not there; did you mean 'scale'?")
    graph = chain(scale())
    graph.edges.append(graph.edges[0])
    refused(graph, "edge 'x' -> 'n0' is given twice")
    graph = chain(scale())
    graph.edges.pop(0)
    refused(graph, "node 'n0' (Scale): nothing feeds the node")
    graph = chain(scale())
    graph.edges.append(("n0", "x"))
    refused(graph, "an Input is fed by an edge")
    graph = chain(scale())
    graph.edges.append(("y", "n0"))
    refused(graph, "an Output feeds another node")
    graph = chain(scale(), nir.Linear(np.ones((3, 2))), out=(3,))
    graph.edges.append(("n1", "n0"))
    refused(graph, "node 'n0' (Scale): it takes [2], but 'n1' puts out [3]")
    refused(nir.NIRGraph({"x": nir.Input(np.array([1]))}, [], type_check=False), "no Output node")
    inner = nir.NIRGraph({"a": nir.Input(np.array([2])), "b": nir.Input(np.array([2])), "s": scale(),
                          "o": nir.Output(np.array([2]))}, [("a", "s"), ("b", "s"), ("s", "o")])  # fmt: skip
    refused(chain(inner), "nested graph 'n0', which has 2 Input nodes", "'n0.a'")


def test_parameters_and_metadata() -> None:
    refused(chain(nir.Scale(np.array(["a", "b"]))), "node 'n0' (Scale): scale holds <U1")
    graph = chain(nir.Scale(np.ones(2), metadata={"made by": object()}))
    refused(graph, "node 'n0' (Scale): metadata.made by holds builtins.object")


def test_sources_and_arguments(tmp_path: Path) -> None:
    refused(scale(), "cannot lower a nir.ir.linear.Scale", "from_list")
    with pytest.raises(InputError, match="does not exist"):
        lower_nir(tmp_path / "net.nir")
    (tmp_path / "net.nir").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="net.nir cannot be read"):
        lower_nir(tmp_path / "net.nir")
    nir.write(tmp_path / "node.nir", scale())
    with pytest.raises(InputError, match="holds a single Scale|cannot be read"):
        lower_nir(tmp_path / "node.nir")
    for options in ({"steps": 0}, {"batch": -1}, {"steps": 1.5}, {"dt": 0.0}, {"dt": float("nan")}):
        with pytest.raises(InputError, match=next(iter(options))):
            lower_nir(chain(scale()), **options)
    refused(chain(scale()), "dynamic is given", dynamic={"x": {0: "T"}})
    for inputs in ((), np.ones(3), (np.ones((3, 1, 2)), np.ones((4, 1, 2)))):
        with pytest.raises(InputError, match="example inputs"):
            lower_nir(chain(scale()), inputs)
    with pytest.raises(InputError, match="batch is open"):
        initial_states(lower_nir(chain(nir.I(np.ones(2)))))


def test_import_is_light() -> None:
    code = "import sys, plait.frontends.nir; print([m for m in ('nir', 'h5py', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
