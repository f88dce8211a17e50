"""The order of the passes on spiking networks."""

from __future__ import annotations

#: Spikes first become events, then layers are joined and stop early, then each product gets its kernel.
#: Densities must be there before: see `annotate_density`.
SPIKE = (
    "raise-spike-products,waves-to-first-spikes,incremental-potentials,fuse-first-spike-pool,early-exit,"
    "choose-spike-kernels,skip-silent-rows"
)

__all__ = ["SPIKE"]
