"""How a warp's addresses fall on memory: 32-byte sectors of global memory, banks of shared memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.report.classes import Kind

SECTOR = 32
_BANKS = 32
_BANK_BYTES = 4
_NO_SECTOR = -1


@dataclass
class Access:
    """What one memory instruction did in the executed warps.

    Attributes:
        requests: warps that executed it with at least one lane.
        measured: those of them whose addresses were known and looked at.
        sectors: 32-byte sectors that the measured requests touched (global memory).
        wavefronts: passes through the banks that they took (shared memory).
        lane_bytes: bytes that their lanes asked for.
    """

    kind: Kind
    requests: float = 0
    measured: int = 0
    sectors: int = 0
    wavefronts: int = 0
    lane_bytes: int = 0
    touched: list[np.ndarray] = field(default_factory=list, repr=False)

    @property
    def sectors_per_request(self) -> float | None:
        """Sectors of an average request; None where no address is known."""
        return self.sectors / self.measured if self.measured else None

    def measure(self, addresses: np.ndarray, active: np.ndarray, blocks: np.ndarray) -> None:
        """Take in one execution.

        Args:
            addresses: of the lanes in bytes, [warps, 32].
            active: which lanes take part, [warps, 32].
            blocks: number of the block of each warp, [warps].
        """
        self.measured += int(active.any(axis=1).sum())
        self.lane_bytes += int(active.sum()) * self.kind.bytes
        if self.kind.space == "global":
            self._measure_sectors(addresses, active, blocks)
        elif self.kind.space == "shared":
            self.wavefronts += bank_wavefronts(addresses, active, self.kind.bytes)

    def _measure_sectors(self, addresses: np.ndarray, active: np.ndarray, blocks: np.ndarray) -> None:
        rows = np.sort(np.where(active, addresses // SECTOR, _NO_SECTOR), axis=1)
        first = np.ones(rows.shape, bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        first &= rows != _NO_SECTOR
        self.sectors += int(first.sum())
        self.touched.append((rows + (blocks[:, None] << 48))[first])


def bank_wavefronts(addresses: np.ndarray, active: np.ndarray, size: int) -> int:
    """Passes that the 32 banks of 4 bytes need, summed over warps.

    Accesses of 8 and 16 bytes go in two and four parts of a warp.  Lanes that read
    one word share it.

    Args:
        addresses: in bytes, [warps, 32].
        active: which lanes take part, [warps, 32].
        size: bytes of each lane.
    """
    words = max(1, size // _BANK_BYTES)
    parts = addresses.reshape(-1, WARP // words)
    taking = np.repeat(active.reshape(-1, WARP // words), words, axis=1)
    word = (parts[:, :, None] // _BANK_BYTES + np.arange(words)).reshape(len(parts), WARP)
    key = np.where(taking, (word % _BANKS << 40) | word, -1)
    key.sort(axis=1)
    first = np.ones(key.shape, bool)
    first[:, 1:] = key[:, 1:] != key[:, :-1]
    first &= key >= 0
    row = np.broadcast_to(np.arange(len(key))[:, None], key.shape)[first]
    counts = np.bincount(row * _BANKS + (key[first] >> 40), minlength=len(key) * _BANKS)
    return int(counts.reshape(-1, _BANKS).max(axis=1).sum())
