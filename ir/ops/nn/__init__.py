"""The nn family: convolutions, pooling, sampling, norms, attention, activations and dense layers."""

from plait.ir.ops.nn.activation import *  # noqa: F403
from plait.ir.ops.nn.conv import *  # noqa: F403
from plait.ir.ops.nn.detection import *  # noqa: F403
from plait.ir.ops.nn.linear import *  # noqa: F403
from plait.ir.ops.nn.norm import *  # noqa: F403
from plait.ir.ops.nn.pool import *  # noqa: F403
from plait.ir.ops.nn.sample import *  # noqa: F403
from plait.ir.ops.nn.window import *  # noqa: F403
