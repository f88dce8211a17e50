"""The spike family: binary events, neurons, layers on first-spike times, and learning without gradients."""

from plait.ir.ops.spike.common import *  # noqa: F403
from plait.ir.ops.spike.events import *  # noqa: F403
from plait.ir.ops.spike.first_spikes import *  # noqa: F403
from plait.ir.ops.spike.learning import *  # noqa: F403
from plait.ir.ops.spike.neurons import *  # noqa: F403
