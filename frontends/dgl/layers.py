"""DGL layers whose own `forward` branches on data where a graph of ops cannot, written without branches.

Each function takes the place of the `forward` of its layer while a model is traced and
computes the same, but for checks of the values of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from dgl.nn.pytorch.conv.gatedgraphconv import GatedGraphConv
from dgl.nn.pytorch.conv.graphconv import EdgeWeightNorm
from dgl.nn.pytorch.conv.pnaconv import PNAConvTower

from plait.frontends.dgl import operators, readout

if TYPE_CHECKING:
    from plait.frontends.dgl.traced import Traced


def edge_weight_norm(self: Any, graph: Traced, edge_weight: torch.Tensor) -> torch.Tensor:
    """Weights [E] divided by (roots of) the weighted degrees; DGL first checks that they are positive.

    Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional
    Networks", equation 2 with weighted edges.
    """
    relation = graph.relation
    if self._norm == "none":
        return edge_weight
    incoming = operators.segment_reduce(relation.topology, relation.nodes, edge_weight, "sum") + self._eps
    if self._norm == "right":
        return edge_weight / operators.gather(relation.topology, incoming, "dst")
    turned = operators.reverse(relation.topology)
    outgoing = operators.segment_reduce(turned, relation.sources, edge_weight, "sum") + self._eps
    ends = (outgoing.pow(-0.5), "src"), (incoming.pow(-0.5), "dst")
    factors = [operators.gather(relation.topology, x, side) for x, side in ends]
    return factors[0] * factors[1] * edge_weight


def gated_graph_conv(
    self: Any, graph: Traced, feat: torch.Tensor, etypes: torch.Tensor | None = None
) -> torch.Tensor:
    """Gated graph network [N, out]: the messages of an edge's type, summed, drive a GRU.

    Li et al., "Gated Graph Sequence Neural Networks", section 3.2.  DGL picks the edges
    of each type; here each edge takes the message of its type out of those of all.
    """
    relation = graph.relation
    hidden = torch.nn.functional.pad(feat, (0, self._out_feats - feat.shape[1]))
    for _ in range(self._n_steps):
        if etypes is None:
            rows = operators.aggregate(
                relation.topology, relation.nodes, self.linears[0](hidden), None, "sum"
            )
        else:
            # A node's messages of all types lie behind one another: [N, types, out].
            by_type = torch.stack([linear(hidden) for linear in self.linears], 1)
            sent = operators.gather(relation.topology, by_type, "src")
            chosen = torch.nn.functional.one_hot(etypes.to(torch.int64), self._n_etypes).to(sent.dtype)
            messages = (sent * chosen.unsqueeze(-1)).sum(1)
            rows = operators.segment_reduce(relation.topology, relation.nodes, messages, "sum")
        hidden = self.gru(rows, hidden)
    return hidden


def aggregation_tower(
    self: Any, graph: Traced, node_feat: torch.Tensor, edge_feat: torch.Tensor | None = None
) -> torch.Tensor:
    """A tower of principal neighbourhood aggregation, scaled by the size of each node's graph: [N, out].

    Corso et al., "Principal Neighbourhood Aggregation for Graph Nets", section 2.
    """
    lengths = graph.batch_num_nodes().to(node_feat.dtype).reshape(-1, 1)
    with graph.local_scope():  # type: ignore[attr-defined]  # of DGLGraph
        graph.ndata["h"] = node_feat  # type: ignore[attr-defined]
        if edge_feat is not None and self.edge_feat_size > 0:
            graph.edata["a"] = edge_feat  # type: ignore[attr-defined]
        graph.update_all(self.message, self.reduce_func)
        neighbours = graph.ndata["h_neigh"]  # type: ignore[attr-defined]
    found = self.U(torch.cat([node_feat, neighbours], -1))
    found = found * readout.broadcast_nodes(graph, lengths.reciprocal().sqrt())
    return self.dropout(self.batchnorm(found))  # type: ignore[no-any-return]


#: By layer.
FORWARDS: dict[type[torch.nn.Module], Callable[..., torch.Tensor]] = {
    EdgeWeightNorm: edge_weight_norm,
    GatedGraphConv: gated_graph_conv,
    PNAConvTower: aggregation_tower,
}
