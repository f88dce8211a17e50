"""Kernels for NVIDIA GPUs that plait writes thread by thread."""
