"""Predictors: latency, energy, peak memory and MIG profile of a graph, read from the IR alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plait.predictors.devices import DEVICES, Device, device, devices
from plait.predictors.mig import MigChoice, Profile, choose_profile, profiles

if TYPE_CHECKING:
    from plait.ir.graph import Graph
    from plait.predictors.prediction import Prediction

__all__ = [
    "DEVICES",
    "Device",
    "MigChoice",
    "Profile",
    "choose_profile",
    "device",
    "devices",
    "predict",
    "profiles",
]


def predict(
    graph: Graph,
    device: str | Device = "a100-sxm4-40gb",
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> Prediction:
    """Predict a graph on a device; options are those of `plait.predictors.roofline.predict_roofline`."""
    from plait.predictors.roofline import predict_roofline

    return predict_roofline(graph, device, dims, **options)
