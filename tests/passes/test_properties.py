"""Random graphs keep their meaning, their text round trip and their locations under every pass."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.ir import parse
from plait.passes import DEFAULT, PASSES, first_divergence, optimize

PIPELINES = [DEFAULT, *(p for p in DEFAULT.split(","))]
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
fast = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=CHECKS)
thorough = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=CHECKS)


def check(pipeline: str, sample: object) -> None:
    graph, inputs = sample.graph, sample.inputs  # type: ignore[attr-defined]
    text = str(graph)
    after, _ = optimize(graph, pipeline, bundle_dir=None)
    assert str(graph) == text, "the caller's graph changed"
    divergence = first_divergence(graph, after, inputs, rtol=sample.rtol, atol=sample.atol)  # type: ignore[attr-defined]
    assert divergence is None, f"{divergence}\n{text}\n{after}"
    data = {name: constant.data for name, constant in after.constants.items()}
    assert str(parse(str(after), constants=data)) == str(after)
    for op in after.walk():
        assert op.loc.origins, f"{op!r} has lost its origins"
    _, again = optimize(after, pipeline, bundle_dir=None)
    if "," not in pipeline:
        assert not again.changed, f"{pipeline} is not idempotent: {again.rows[0].rules}\n{text}\n{after}"


@pytest.mark.parametrize("pipeline", PIPELINES, ids=["default", *PIPELINES[1:]])
def test_pass_keeps_meaning(pipeline: str, graph_strategy: st.SearchStrategy) -> None:
    @fast
    @given(graph_strategy)
    def run(sample: object) -> None:
        check(pipeline, sample)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES, ids=["default", *PIPELINES[1:]])
def test_pass_keeps_meaning_thoroughly(pipeline: str, graph_strategy: st.SearchStrategy) -> None:
    @thorough
    @given(graph_strategy)
    def run(sample: object) -> None:
        check(pipeline, sample)

    run()


def test_default_pipeline_holds_registered_passes() -> None:
    assert set(DEFAULT.split(",")) <= set(PASSES)


def test_random_graphs_trigger_every_pass(graph_strategy: st.SearchStrategy) -> None:
    seen: set[str] = set()

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=CHECKS, database=None)
    @given(graph_strategy)
    def run(sample: object) -> None:
        _, report = optimize(sample.graph, bundle_dir=None)  # type: ignore[attr-defined]
        seen.update(row.name for row in report.rows if row.status == "changed")

    run()
    # The random graphs have no spiking layers; tests/passes/spike has.
    assert seen == set(DEFAULT.split(",")) - {"fuse-first-spike-pool", "early-exit"}
