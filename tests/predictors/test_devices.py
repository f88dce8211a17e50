"""The device table against the published figures."""

from __future__ import annotations

from dataclasses import fields

import pytest

from plait.ir import PredictError
from plait.predictors import DEVICES, device, devices
from plait.predictors.calibration import CALIBRATION
from plait.predictors.timing import Resources

BANDWIDTH_TDP = {
    "a100-sxm4-40gb": (1555.0, 400.0, 40960),
    "a100-sxm4-80gb": (2039.0, 400.0, 81920),
    "a100-pcie-40gb": (1555.0, 250.0, 40960),
    "a100-pcie-80gb": (1935.0, 300.0, 81920),
}


@pytest.mark.parametrize("name", DEVICES)
def test_figures_that_the_variants_differ_in(name: str) -> None:
    found = device(name)
    assert (found.dram_bandwidth_gb_s, found.tdp_w, found.memory_mb) == BANDWIDTH_TDP[name]


@pytest.mark.parametrize("found", devices(), ids=DEVICES)
def test_fp32_peak_is_two_flops_per_core_and_clock(found: object) -> None:
    chosen = device(found)  # type: ignore[arg-type]
    cores = chosen.sm_count * 64
    assert cores == 6912
    assert chosen.fp32_tflops == pytest.approx(2 * cores * chosen.boost_clock_mhz * 1e6 / 1e12, rel=0.01)
    assert chosen.fp16_tflops == 2 * chosen.tf32_tflops == 16 * chosen.fp32_tflops
    assert chosen.int8_tops == 2 * chosen.fp16_tflops


@pytest.mark.parametrize("found", devices(), ids=DEVICES)
def test_nothing_achieves_more_than_its_peak(found: object) -> None:
    chosen = device(found)  # type: ignore[arg-type]
    assert 0.8 < chosen.achieved_bandwidth_gb_s / chosen.dram_bandwidth_gb_s < 1.0
    assert all(0.5 < fraction < 1.0 for fraction in chosen.achieved_fraction.values())
    assert chosen.idle_w < chosen.active_floor_w < chosen.tdp_w


@pytest.mark.parametrize("found", devices(), ids=DEVICES)
def test_every_figure_names_its_source(found: object) -> None:
    chosen = device(found)  # type: ignore[arg-type]
    wanted = {item.name for item in fields(chosen)} - {"sources"}
    assert set(chosen.sources) == wanted
    assert all(chosen.sources.values())


def test_names_are_forgiving_about_case_and_underscores() -> None:
    assert device("A100_SXM4_40GB") is device("a100-sxm4-40gb")


def test_unknown_device_names_the_nearest() -> None:
    with pytest.raises(PredictError, match=r"did you mean 'a100-sxm4-40gb'\?") as caught:
        device("a100-sxm-40gb")
    assert "a100-pcie-80gb" in str(caught.value)


def test_unknown_arithmetic_mode() -> None:
    with pytest.raises(PredictError, match="no arithmetic mode 'tf23'; did you mean 'tf32'"):
        device("a100-sxm4-40gb").peak_tflops("tf23")


def test_tensor_core_products_reach_the_measured_rate() -> None:
    whole = Resources.of(device("a100-sxm4-40gb"))
    assert whole.rate_per_sm("tf32") * whole.sm_count / 1e6 == pytest.approx(123.7, rel=0.001)


def test_every_calibrated_constant_names_its_source() -> None:
    wanted = {item.name for item in fields(CALIBRATION)} - {"sources"}
    assert set(CALIBRATION.sources) == wanted
    assert all(CALIBRATION.sources.values())


def test_context_is_the_line_through_the_measured_slices() -> None:
    # MIGProfiler, ResNet-50 at batch 1, less 98 MiB of weights and 10 MiB of activations.
    for sms, framebuffer_mb in ((14, 1447.8), (28, 1513.3), (42, 1576.6), (98, 1805.9)):
        assert CALIBRATION.context_on(sms) == pytest.approx(framebuffer_mb - 108, abs=15)
