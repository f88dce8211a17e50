"""raise-quantized: graphs in QDQ form, from here or from ONNX, as ops on stored integers.

    after, report = optimize(graph, "raise-quantized,dead-code")

The rules stand in `raise_movement`, `raise_fixed` and `raise_rest`, which are its stages.
"""

from plait.passes.quantize import raise_fixed, raise_movement, raise_rest
from plait.passes.quantize.raise_base import RaiseQuantized

__all__ = ["RaiseQuantized", "raise_fixed", "raise_movement", "raise_rest"]
