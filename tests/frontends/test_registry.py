"""Registering rules: one decorator for every frontend, and packages that bring rules of their own."""

import sys
import textwrap
import warnings

import onnx
import pytest
import torch

from plait.frontends import UnsupportedError, load_extensions, register
from plait.frontends.onnx import (
    lower_onnx,
    operators,  # noqa: F401  # the rules that the fixture puts back
)
from plait.frontends.onnx.registry import _RULES as ONNX_RULES
from plait.frontends.pytorch import (
    aten,  # noqa: F401  # the rules that the fixture puts back
    lower_torch,
)
from plait.frontends.pytorch.registry import _RULES as TORCH_RULES
from plait.frontends.report import Report, nearest_supported
from plait.ir import InputError, LoweringError
from plait.ir.ops import core, nn


@pytest.fixture(autouse=True)
def tables_as_they_were():
    torch_rules = dict(TORCH_RULES)
    onnx_rules = {key: list(entries) for key, entries in ONNX_RULES.items()}
    yield
    for table, before in ((TORCH_RULES, torch_rules), (ONNX_RULES, onnx_rules)):
        table.clear()
        table.update(before)


class Exponential(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.matrix_exp(x)


def test_a_packet_covers_its_overloads():
    with pytest.raises(UnsupportedError) as caught:
        lower_torch(Exponential(), (torch.ones(2, 2),))
    (entry,) = caught.value.entries
    assert entry.operator.startswith("aten.")
    assert entry.count == 1

    register(entry.operator.rpartition(".")[0])(lambda build, x, *rest: build.emit(nn.Relu(x)))
    graph = lower_torch(Exponential(), (torch.ones(2, 2),))
    assert [op.opname for op in graph.ops] == ["nn.relu"]


def test_a_pytorch_rule_is_not_replaced_by_accident():
    with pytest.raises(LoweringError, match="has a lowering rule already"):
        register("aten.relu.default")(lambda build, x: x)
    register("aten.relu.default", replace=True)(lambda build, x: build.emit(core.Neg(x)))
    graph = lower_torch(torch.nn.ReLU(), (torch.ones(2),))
    assert [op.opname for op in graph.ops] == ["core.neg"]


def test_an_onnx_operator_by_domain():
    @register("com.acme::Twice", since=1)
    def twice(call):
        return call.emit(core.Add(call.value(0), call.value(0)))

    text = '<ir_version: 8, opset_import: ["" : 13, "com.acme" : 1]> g (float[2] x) => (float[2] y) { y = com.acme.Twice(x) }'
    graph = lower_onnx(onnx.parser.parse_model(text))
    assert [op.opname for op in graph.ops] == ["core.add"]


@pytest.mark.parametrize("name", ["relu", "::Relu", "onnx::", "a b"])
def test_a_name_of_no_frontend(name):
    with pytest.raises(InputError, match="names no operator"):
        register(name)(lambda call: None)


def test_no_operator_at_all():
    with pytest.raises(InputError, match="was given no operator"):
        register()


def test_an_entry_point_is_loaded_once_before_the_first_lowering(tmp_path, monkeypatch):
    (tmp_path / "acme_rules.py").write_text(
        textwrap.dedent(
            """
            from plait.frontends import register
            from plait.ir.ops import core
            LOADED = []

            @register("com.acme::FromAPackage")
            def rule(call):
                LOADED.append(1)
                return call.emit(core.Neg(call.value(0)))
            """
        )
    )
    (tmp_path / "broken_rules.py").write_text("raise OSError('no licence')\n")
    record = tmp_path / "acme_plait-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plait\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[plait.lowerings]\nacme = acme_rules\nbroken = broken_rules\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_extensions.cache_clear()
    text = '<ir_version: 8, opset_import: ["" : 13, "com.acme" : 1]> g (float[2] x) => (float[2] y) { y = com.acme.FromAPackage(x) }'
    try:
        with pytest.warns(
            RuntimeWarning, match=r"'broken' \(broken_rules\) of acme-plait did not load: OSError"
        ):
            graph = lower_onnx(onnx.parser.parse_model(text))
        assert [op.opname for op in graph.ops] == ["core.neg"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lower_onnx(onnx.parser.parse_model(text))
        assert sys.modules["acme_rules"].LOADED == [1, 1]
    finally:
        load_extensions.cache_clear()
        sys.modules.pop("acme_rules", None)


def test_the_report_counts_and_orders():
    report = Report(lambda: ["onnx::Relu", "onnx::Conv"], "rule(call)", advice={"Drop": "call eval()"})
    assert not report
    for place in ("a", "b", "a"):
        report.add("com.acme::Relu6", place)
    report.add("onnx::Dropout", "c", "only in evaluation mode")
    error = report.error("the model", "net.onnx")
    assert [(e.operator, e.count, e.nearest) for e in error.entries] == [
        ("com.acme::Relu6", 3, "onnx::Relu"),
        ("onnx::Dropout", 1, None),
    ]
    text = str(error)
    assert text.startswith("net.onnx: 4 operators of 2 kinds in the model cannot be lowered")
    assert "com.acme::Relu6 x3 in a, b\n" in text
    assert "only in evaluation mode\n      call eval()" in text


def test_nearest_looks_past_the_domain():
    assert nearest_supported("com.acme::LayerNorm", ["onnx::LayerNormalization", "onnx::Relu"]) == (
        "onnx::LayerNormalization"
    )
    assert nearest_supported("onnx::Zzz", ["onnx::Relu"]) is None
