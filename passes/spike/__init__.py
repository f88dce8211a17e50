"""Passes on spiking networks: what is sparse is computed by its events."""
