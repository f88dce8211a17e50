"""Rewrite passes that say, for each op they looked at, why it stayed as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait.ir import Graph
from plait.passes.base import PassResult
from plait.passes.rewriter import RewritePass, Rewriter, Skip


@dataclass(frozen=True)
class RemarkingPass(RewritePass):
    """A set of rules whose result tells how often each applied, and of every op left over why it did not."""

    def run(self, graph: Graph) -> PassResult:
        result = super().run(graph)
        assert isinstance(result, PassResult)
        rewriter = Rewriter(graph, self.name)
        remarks = []
        for op in graph.walk():
            for rule in self.rules():
                if rule.matches(op):
                    # Rules ran until none applied, so that each says here why it does not.
                    outcome = rule.apply(op, rewriter, self)
                    if isinstance(outcome, Skip):
                        remarks.append(f"%{op.results[0].name}: {outcome.reason}")
        return replace(result, remarks=(*result.remarks, *dict.fromkeys(remarks)))


__all__ = ["RemarkingPass"]
