"""MIG profiles and the choice among them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from plait.ir import PredictError
from plait.predictors import Profile, choose_profile, device, profiles
from plait.predictors.mig import profile

SMALL, LARGE = "a100-sxm4-40gb", "a100-sxm4-80gb"


def test_geometry_of_the_40gb_card() -> None:
    found = {
        p.name: (p.sm_count, p.usable_mb, p.memory_share, p.max_instances, p.copy_engines)
        for p in profiles(SMALL)
    }
    assert found == {
        "1g.5gb": (14, 4864, Fraction(1, 8), 7, 1),
        "1g.10gb": (14, 9856, Fraction(1, 4), 4, 1),
        "2g.10gb": (28, 9856, Fraction(1, 4), 3, 2),
        "3g.20gb": (42, 19968, Fraction(1, 2), 2, 3),
        "4g.20gb": (56, 19968, Fraction(1, 2), 1, 4),
        "7g.40gb": (98, 40192, Fraction(1), 1, 7),
    }


def test_geometry_of_the_80gb_card() -> None:
    assert [(p.name, p.usable_mb) for p in profiles(LARGE)] == [
        ("1g.10gb", 9856),
        ("1g.20gb", 19968),
        ("2g.20gb", 19968),
        ("3g.40gb", 40192),
        ("4g.40gb", 40192),
        ("7g.80gb", 80384),
    ]


def test_the_largest_slice_is_not_the_whole_gpu() -> None:
    assert profile(SMALL, "7g.40gb").sm_count < device(SMALL).sm_count


@pytest.mark.parametrize(
    ("memory_mb", "expected"),
    [
        (4864, "1g.5gb"),
        (4864.001, "1g.10gb"),
        (5000, "1g.10gb"),
        (9856, "1g.10gb"),
        (9857, "3g.20gb"),
        (10000, "3g.20gb"),
        (19968, "3g.20gb"),
        (19969, "7g.40gb"),
        (40192, "7g.40gb"),
    ],
)
def test_thresholds_are_inclusive_and_those_of_usable_memory(memory_mb: float, expected: str) -> None:
    choice = choose_profile(SMALL, memory_mb, margin=0.0)
    assert choice.profile is not None
    assert choice.profile == expected


def test_margin_moves_the_threshold() -> None:
    def chosen(memory_mb: float) -> str:
        found = choose_profile(SMALL, memory_mb, margin=0.25).profile
        assert found is not None
        return found

    assert chosen(4864 * 0.75) == "1g.5gb"
    assert chosen(4864 * 0.75 + 0.01) == "1g.10gb"


def test_nothing_fits() -> None:
    choice = choose_profile(SMALL, 40193, margin=0.0)
    assert choice.profile is None
    assert "no profile of a100-sxm4-40gb fits" in choice.reason
    assert "40,193 MiB > 40,192 MiB" in choice.reason
    assert [c.fits for c in choice.alternatives] == [False] * 6


def test_latency_target_rules_out_small_slices() -> None:
    choice = choose_profile(SMALL, 100.0, latency_ms_on=lambda p: 140.0 / p.sm_count, latency_target_ms=3.5)
    assert choice.profile is not None
    assert choice.profile == "3g.20gb"
    assert choice.latency_ms == 140.0 / 42
    assert choice.next_smaller is not None
    assert choice.next_smaller == "2g.10gb"
    assert choice.next_smaller_fails_because == "5 ms > 3.5 ms"
    assert "2g.10gb: 5 ms > 3.5 ms" in str(choice)


def test_latency_target_that_no_slice_meets() -> None:
    choice = choose_profile(SMALL, 100.0, latency_ms_on=lambda p: 10.0, latency_target_ms=9.0)
    assert choice.profile is None
    assert "10 ms > 9 ms" in choice.reason


def test_smallest_profile_has_no_smaller_one() -> None:
    choice = choose_profile(SMALL, 412.0)
    assert choice.profile is not None
    assert (choice.profile, choice.next_smaller, choice.next_smaller_fails_because) == (
        "1g.5gb",
        None,
        None,
    )
    assert choice.usable_mb == 4864


def test_memory_may_depend_on_the_profile() -> None:
    def needed(candidate: Profile) -> float:
        return 4000.0 + 40.0 * candidate.sm_count

    choice = choose_profile(SMALL, needed, margin=0.0)
    assert [c.needed_mb for c in choice.alternatives] == [4000.0 + 40.0 * n for n in (14, 14, 28, 42, 56, 98)]
    assert choice.profile is not None
    assert choice.profile == "1g.5gb"


def test_media_engines_are_offered_only_on_request() -> None:
    assert not any(p.media_engines for p in profiles(SMALL))
    choice = choose_profile(SMALL, 100.0, media_engines=True)
    assert choice.profile is not None
    assert choice.profile == "1g.5gb+me"
    larger = choose_profile(SMALL, 9000.0, media_engines=True)
    assert larger.profile is not None
    assert larger.profile == "7g.40gb"


def test_senseless_arguments() -> None:
    with pytest.raises(PredictError, match=r"margin is 1\.5"):
        choose_profile(SMALL, 1.0, margin=1.5)
    with pytest.raises(PredictError, match="without predicted latencies"):
        choose_profile(SMALL, 1.0, latency_target_ms=3.0)
    with pytest.raises(PredictError, match=r"no MIG profile '5g\.30gb'"):
        profile(SMALL, "5g.30gb")
