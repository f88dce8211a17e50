"""Multi-Instance GPU: the profiles of the A100 and the choice of the smallest that fits.

Geometry: NVIDIA, "Supported MIG Profiles"; SMs and usable memory: `nvidia-smi mig -lgip`
and NVIDIA/go-nvml.  A 7g instance has 98 of the 108 SMs, so it is not the full GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from plait.ir.errors import PredictError
from plait.predictors.devices import Device, device


@dataclass(frozen=True)
class Profile:
    """One GPU-instance profile.

    Args:
        compute_slices: of seven; the `1g` in `1g.5gb`.
        sm_count: SMs of the instance.
        usable_mb: memory that a process can allocate, MiB.
        memory_share: share of the DRAM slices, and so of the DRAM bandwidth.
        l2_share: share of the level-2 cache.
        max_instances: how many fit on one GPU.
        media_engines: has the JPEG and optical-flow engines (`+me`).
    """

    name: str
    compute_slices: int
    sm_count: int
    usable_mb: int
    memory_share: Fraction
    l2_share: Fraction
    max_instances: int
    copy_engines: int
    media_engines: bool = False

    def __str__(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        """The fields with shares as numbers."""
        return {
            "name": self.name,
            "compute_slices": self.compute_slices,
            "sm_count": self.sm_count,
            "usable_mb": self.usable_mb,
            "memory_share": float(self.memory_share),
            "l2_share": float(self.l2_share),
            "max_instances": self.max_instances,
            "copy_engines": self.copy_engines,
            "media_engines": self.media_engines,
        }


def _profiles(names: tuple[str, ...], usable_mb: tuple[int, int, int, int]) -> tuple[Profile, ...]:
    """The seven profiles, given their names and the usable memory of 1, 2, 4 and 8 memory slices."""
    eighth, quarter, half, whole = usable_mb

    def share(n: int) -> Fraction:
        return Fraction(n, 8)

    # The wide-memory 1g profile has a quarter of the memory: NVIDIA's table prints 1/8, its tool lists 1/4.
    return (
        Profile(names[0], 1, 14, eighth, share(1), share(1), 7, 1),
        Profile(names[1], 1, 14, eighth, share(1), share(1), 1, 1, media_engines=True),
        Profile(names[2], 1, 14, quarter, share(2), share(1), 4, 1),
        Profile(names[3], 2, 28, quarter, share(2), share(2), 3, 2),
        Profile(names[4], 3, 42, half, share(4), share(4), 2, 3),
        Profile(names[5], 4, 56, half, share(4), share(4), 1, 4),
        Profile(names[6], 7, 98, whole, share(8), share(8), 1, 7),
    )


_A100_40GB = _profiles(
    ("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"), (4864, 9856, 19968, 40192)
)
_A100_80GB = _profiles(
    ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    (9856, 19968, 40192, 80384),
)


def profiles(target: str | Device, *, media_engines: bool = False) -> tuple[Profile, ...]:
    """Profiles of a device, smallest first: by compute slices, then by memory.

    Profiles with media engines are left out unless asked for, and then come alone
    with the 7g profile, which has those engines too.
    """
    chosen = device(target)
    table = _A100_80GB if chosen.memory_mb > 40960 else _A100_40GB
    if media_engines:
        return tuple(p for p in table if p.media_engines or p.compute_slices == 7)
    return tuple(p for p in table if not p.media_engines)


def profile(target: str | Device, name: str) -> Profile:
    """The profile called `name` of a device.  Raises PredictError listing the profiles when there is none."""
    chosen = device(target)
    table = _A100_80GB if chosen.memory_mb > 40960 else _A100_40GB
    for candidate in table:
        if candidate.name == name:
            return candidate
    raise PredictError(
        f"{chosen.name} has no MIG profile '{name}'", why=f"it has {', '.join(p.name for p in table)}"
    )


@dataclass(frozen=True)
class Candidate:
    """One profile weighed: what the work needs there, and why it is refused (empty when it fits)."""

    profile: Profile
    needed_mb: float
    latency_ms: float | None
    refusal: str

    @property
    def fits(self) -> bool:
        return not self.refusal

    def to_dict(self) -> dict[str, Any]:
        return {
            "profile": self.profile.name,
            "sm_count": self.profile.sm_count,
            "usable_mb": self.profile.usable_mb,
            "needed_mb": self.needed_mb,
            "latency_ms": self.latency_ms,
            "fits": self.fits,
            "refusal": self.refusal,
        }


@dataclass(frozen=True)
class MigChoice:
    """The smallest profile that fits, or None with the reason why none does.

    Args:
        profile: its name, such as "2g.10gb".
        slice: its record: SMs, memory, copy engines.
        next_smaller: the profile just below the choice, None when the choice is the smallest.
        next_smaller_fails_because: what refuses it, None likewise.
        usable_mb: usable memory of the choice, MiB.
        latency_ms: predicted latency on the choice; None where no latency was asked for.
        alternatives: every profile weighed, smallest first.
        margin: share of the usable memory that is kept free.
    """

    profile: str | None
    slice: Profile | None
    reason: str
    next_smaller: str | None
    next_smaller_fails_because: str | None
    usable_mb: int | None
    latency_ms: float | None
    alternatives: tuple[Candidate, ...]
    margin: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "reason": self.reason,
            "next_smaller": self.next_smaller,
            "next_smaller_fails_because": self.next_smaller_fails_because,
            "usable_mb": self.usable_mb,
            "latency_ms": self.latency_ms,
            "margin": self.margin,
            "alternatives": [candidate.to_dict() for candidate in self.alternatives],
        }

    def __str__(self) -> str:
        if self.profile is None:
            return f"none: {self.reason}"
        below = (
            "none" if self.next_smaller is None else f"{self.next_smaller}: {self.next_smaller_fails_because}"
        )
        return f"{self.profile} because {self.reason}; smaller: {below}"


def choose_profile(
    target: str | Device,
    memory_mb: float | Callable[[Profile], float],
    *,
    latency_ms_on: Callable[[Profile], float] | None = None,
    latency_target_ms: float | None = None,
    margin: float = 0.10,
    media_engines: bool = False,
) -> MigChoice:
    """The smallest profile whose memory, and latency where a target is given, suffice.

    A profile is fit for memory when needed <= usable * (1 - margin), and for
    latency when latency <= target.

    Args:
        target: a device.
        memory_mb: needed MiB, as a number or per profile (the context grows with the SMs).
        latency_ms_on: predicted latency on a profile.
        latency_target_ms: the longest latency allowed.
        margin: share of the usable memory to keep free, 0 <= margin < 1.
        media_engines: offer only profiles with media engines.

    Raises:
        PredictError: for a margin outside 0..1, or a target without `latency_ms_on`.
    """
    if not 0.0 <= margin < 1.0:
        raise PredictError(f"margin is {margin}", why="it is a share of the memory, 0 <= margin < 1")
    if latency_target_ms is not None and latency_ms_on is None:
        raise PredictError(
            f"latency target {latency_target_ms} ms without predicted latencies", remedy="pass latency_ms_on="
        )
    chosen = device(target)
    weighed: list[Candidate] = []
    for candidate in profiles(chosen, media_engines=media_engines):
        needed = memory_mb(candidate) if callable(memory_mb) else memory_mb
        latency = None if latency_ms_on is None else latency_ms_on(candidate)
        refusal = _refusal(candidate, needed, latency, latency_target_ms, margin)
        weighed.append(Candidate(candidate, needed, latency, refusal))
    position = next((i for i, candidate in enumerate(weighed) if candidate.fits), None)
    if position is None:
        largest = weighed[-1]
        reason = f"no profile of {chosen.name} fits: {largest.profile} fails because {largest.refusal}"
        return MigChoice(None, None, reason, None, None, None, None, tuple(weighed), margin)
    best = weighed[position]
    below = weighed[position - 1] if position else None
    reason = f"{best.needed_mb:,.0f} MiB <= {best.profile.usable_mb:,} MiB usable less {margin:.0%} margin"
    if latency_target_ms is not None and best.latency_ms is not None:
        reason += f" and {best.latency_ms:.3g} ms <= {latency_target_ms:g} ms"
    return MigChoice(
        profile=best.profile.name,
        slice=best.profile,
        reason=reason,
        next_smaller=None if below is None else below.profile.name,
        next_smaller_fails_because=None if below is None else below.refusal,
        usable_mb=best.profile.usable_mb,
        latency_ms=best.latency_ms,
        alternatives=tuple(weighed),
        margin=margin,
    )


def _refusal(
    candidate: Profile, needed: float, latency: float | None, target: float | None, margin: float
) -> str:
    reasons = []
    if needed > candidate.usable_mb * (1.0 - margin):
        reasons.append(f"{needed:,.0f} MiB > {candidate.usable_mb:,} MiB usable less {margin:.0%} margin")
    if target is not None and latency is not None and latency > target:
        reasons.append(f"{latency:.3g} ms > {target:g} ms")
    return " and ".join(reasons)
