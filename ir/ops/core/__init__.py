"""The core family: elementwise, reductions, shape, indexing, random and control flow."""

from plait.ir.ops.core.complex import *  # noqa: F403
from plait.ir.ops.core.control import *  # noqa: F403
from plait.ir.ops.core.dynamic import *  # noqa: F403
from plait.ir.ops.core.elementwise import *  # noqa: F403
from plait.ir.ops.core.index import *  # noqa: F403
from plait.ir.ops.core.reduce import *  # noqa: F403
from plait.ir.ops.core.shape import *  # noqa: F403
