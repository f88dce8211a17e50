"""Passes on spiking networks: what is sparse is computed by its events."""

from plait.passes.spike import (
    choose_kernels,
    early_exit,
    fuse_pool,
    incremental,
    raise_products,
    skip_silent,
    waves_to_first_spikes,
)
from plait.passes.spike.pipeline import SPIKE

__all__ = [
    "SPIKE",
    "choose_kernels",
    "early_exit",
    "fuse_pool",
    "incremental",
    "raise_products",
    "skip_silent",
    "waves_to_first_spikes",
]
