"""Verification of generated CUDA kernels on a machine with no GPU and no system CUDA."""
