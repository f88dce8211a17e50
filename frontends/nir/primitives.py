"""The primitives of NIR: which of their fields are tensors, which are settings, and which keep state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Primitive:
    """One kind of node.

    Attributes:
        tensors: fields that hold parameters; each becomes a constant of the graph.
        settings: fields that shape the ops: sizes, strides, axes.
        states: names of what the node carries from step to step (a Delay that holds nothing
            back carries nothing).
        fires: whether it emits spikes, so that its last output is none of its states.
    """

    tensors: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    fires: bool = False


_CONVOLUTION = Primitive(("weight", "bias"), ("input_shape", "stride", "padding", "dilation", "groups"))
_POOLING = Primitive(settings=("kernel_size", "stride", "padding"))

#: By the name of the class in the package `nir`.
PRIMITIVES: dict[str, Primitive] = {
    "Input": Primitive(),
    "Output": Primitive(),
    "Affine": Primitive(("weight", "bias")),
    "Linear": Primitive(("weight",)),
    "Scale": Primitive(("scale",)),
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "SumPool2d": _POOLING,
    "AvgPool2d": _POOLING,
    "Flatten": Primitive(settings=("start_dim", "end_dim")),
    "Threshold": Primitive(("threshold",)),
    "Delay": Primitive(("delay",), states=("line",)),
    "I": Primitive(("r",), states=("v",)),
    "IF": Primitive(("r", "v_threshold", "v_reset"), states=("v",), fires=True),
    "LI": Primitive(("tau", "r", "v_leak"), states=("v",)),
    "LIF": Primitive(("tau", "r", "v_leak", "v_threshold", "v_reset"), states=("v",), fires=True),
    "CubaLI": Primitive(("tau_syn", "tau_mem", "r", "v_leak", "w_in"), states=("i", "v")),
    "CubaLIF": Primitive(
        ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"), states=("i", "v"), fires=True
    ),
}
