"""Passes on spiking networks: what is sparse is computed by its events."""

from plait.passes.spike import raise_products

__all__ = ["raise_products"]
