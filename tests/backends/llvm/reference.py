"""Dense semantics of the spiking kernels in torch, and shapes to try."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from plait.backends.llvm import Pool

torch.set_num_threads(1)

Result = tuple[NDArray[np.uint8], NDArray[np.float32]]


def dense_first_spikes(
    times: np.ndarray,
    weights: np.ndarray,
    threshold: float,
    steps: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Result:
    """Convolves the cumulative wave of every step; first step over the threshold, and the potential there."""
    maps = torch.from_numpy(times).permute(0, 3, 1, 2)
    kernel = torch.from_numpy(weights).permute(3, 2, 0, 1)
    waves = [
        torch.nn.functional.conv2d((maps <= t).float(), kernel, stride=stride, padding=padding)
        for t in range(steps)
    ]
    potential = torch.stack(waves)
    over = potential > threshold
    first = torch.where(over.any(0), over.int().argmax(0), steps)
    at_spike = potential.gather(0, first.clamp(max=steps - 1)[None])[0] * (first < steps)
    return (
        first.permute(0, 2, 3, 1).numpy().astype(np.uint8),
        at_spike.permute(0, 2, 3, 1).contiguous().numpy(),
    )


def ordered_first_spikes(
    times: np.ndarray, weights: np.ndarray, threshold: float, steps: int, padding: int
) -> Result:
    """f32 sums in the kernels' order: by step, then column, row and channel of the window (stride 1)."""
    samples, height, width, channels = times.shape
    padded = np.full((samples, height + 2 * padding, width + 2 * padding, channels), steps, np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = times
    rows, columns = weights.shape[:2]
    shape = (samples, height + 2 * padding - rows + 1, width + 2 * padding - columns + 1, weights.shape[3])
    first, at_spike = np.full(shape, steps, np.uint8), np.zeros(shape, np.float32)
    potential = np.zeros(shape, np.float32)
    for t in range(steps):
        for kx in range(columns):
            for ky in range(rows):
                for ci in range(channels):
                    spike = padded[:, ky : ky + shape[1], kx : kx + shape[2], ci] == t
                    potential[spike] += weights[ky, kx, ci]
        new = (potential > np.float32(threshold)) & (first == steps)
        first[new], at_spike[new] = t, potential[new]
    return first, at_spike


def inhibited(first: np.ndarray, potential: np.ndarray, steps: int) -> Result:
    """Keeps at each pixel the earliest spike, of these the largest potential, of these the lowest channel."""
    kept, kept_potential = np.full_like(first, steps), np.zeros_like(potential)
    for pixel in np.ndindex(*first.shape[:3]):
        order = sorted((int(first[pixel][c]), -float(potential[pixel][c]), c) for c in range(first.shape[3]))
        time, _, channel = order[0]
        if time < steps:
            kept[pixel][channel] = time
            kept_potential[pixel][channel] = potential[pixel][channel]
    return kept, kept_potential


def pooled(first: np.ndarray, potential: np.ndarray, steps: int, pool: Pool) -> Result:
    """Earliest spike of each window and channel, with the largest potential among the earliest."""
    samples, height, width, channels = first.shape
    (kh, kw), (sh, sw), (ph, pw) = pool.kernel, pool.stride, pool.padding
    shape = (samples, (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1, channels)
    out, out_potential = np.full(shape, steps, np.uint8), np.zeros(shape, np.float32)
    for y in range(shape[1]):
        for x in range(shape[2]):
            rows = slice(max(y * sh - ph, 0), max(y * sh - ph + kh, 0))
            columns = slice(max(x * sw - pw, 0), max(x * sw - pw + kw, 0))
            times = first[:, rows, columns].reshape(samples, -1, channels)
            values = potential[:, rows, columns].reshape(samples, -1, channels)
            if times.shape[1] == 0:
                continue
            earliest = times.min(1)
            best = np.where(times == earliest[:, None], values, -np.inf).max(1)
            out[:, y, x] = earliest
            out_potential[:, y, x] = np.where(earliest < steps, best, 0)
    return out, out_potential
