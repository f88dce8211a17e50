"""How many blocks of a kernel one streaming multiprocessor (SM) holds at a time, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.ir.errors import InputError

if TYPE_CHECKING:
    from plait.backends.cuda.resources import KernelResources

#: Threads that execute one instruction together.
WARP = 32


@dataclass(frozen=True)
class DeviceLimits:
    """Limits of one streaming multiprocessor (SM); the defaults are those of sm_80.

    Shared memory is in bytes; granularities are units of allocation. Source: CUDA C++ Programming
    Guide, table of technical specifications per compute capability.
    """

    registers: int = 65536
    register_granularity: int = 256
    registers_per_thread: int = 255
    partitions: int = 4
    warps: int = 64
    blocks: int = 32
    threads_per_block: int = 1024
    shared_bytes: int = 164 * 1024
    shared_bytes_per_block: int = 163 * 1024
    shared_granularity: int = 128
    shared_reserved_per_block: int = 1024


SM_80 = DeviceLimits()


@dataclass(frozen=True)
class Occupancy:
    """Resident work of one SM.

    Attributes:
        blocks: resident blocks.
        warps: resident warps.
        fraction: `warps` over the most the SM can hold, 0 to 1.
        limited_by: "registers", "shared memory", "warps" or "blocks".
    """

    blocks: int
    warps: int
    fraction: float
    limited_by: str


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(
    resources: KernelResources,
    block: int | tuple[int, int, int],
    *,
    dynamic_shared_bytes: int = 0,
    limits: DeviceLimits = SM_80,
) -> Occupancy:
    """Blocks and warps of a kernel that one SM holds at a time.

    A warp takes registers in units of 256 out of one of four partitions; a block takes its static
    and dynamic shared memory and 1 KiB that the system reserves.

    Args:
        resources: of the kernel.
        block: threads of a block, as a number or as extents.
        dynamic_shared_bytes: size of the `extern __shared__` array.
        limits: of the SM.

    Raises:
        InputError: such a block cannot be launched at all.
    """
    threads = block if isinstance(block, int) else block[0] * block[1] * block[2]
    shared = resources.shared_bytes + dynamic_shared_bytes
    allowed = min(limits.threads_per_block, resources.max_threads)
    if not 0 < threads <= allowed:
        raise InputError(
            f"a block of {threads} threads cannot be launched", why=f"the kernel allows {allowed}"
        )
    if shared > limits.shared_bytes_per_block:
        raise InputError(
            f"a block with {shared} bytes of shared memory cannot be launched",
            why=f"the device allows {limits.shared_bytes_per_block}",
        )
    warps = -(-threads // WARP)
    warp_registers = _round_up(max(resources.registers, 1) * WARP, limits.register_granularity)
    partition_warps = limits.registers // limits.partitions // warp_registers
    if warp_registers * _round_up(warps, limits.partitions) > limits.registers:
        raise InputError(
            f"a block of {threads} threads with {resources.registers} registers each cannot be launched",
            why=f"there are registers for {partition_warps * limits.partitions} warps, the block has {warps}",
            remedy="bound the registers with __launch_bounds__",
        )
    # Of equal bounds the first is named.
    bounds = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": partition_warps * limits.partitions // warps,
        "shared memory": limits.shared_bytes
        // _round_up(shared + limits.shared_reserved_per_block, limits.shared_granularity),
    }
    limited_by = min(bounds, key=lambda name: bounds[name])
    blocks = bounds[limited_by]
    return Occupancy(blocks, blocks * warps, blocks * warps / limits.warps, limited_by)
