"""Lowering of a NIR graph: one loop over time, whose state is that of the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.frontends.nir.builder import Builder
from plait.frontends.nir.fields import Shape
from plait.frontends.nir.layers import emit_layer, prepare_layer
from plait.frontends.nir.neurons import (
    State,
    delayed_output,
    holds_all_back,
    next_line,
    prepare_neuron,
    shown_state,
    states_of,
    step_neuron,
)
from plait.frontends.nir.record import write_records
from plait.frontends.nir.schedule import schedule
from plait.frontends.nir.shapes import infer_shapes
from plait.frontends.nir.structure import Node, Path, read_network
from plait.ir import Graph, IntLike, TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core

Shapes = Mapping[Path, Shape]


def lower(source: Any, where: str, steps: int | None, batch: int | None, dt: float, name: str) -> Graph:
    """See `plait.frontends.nir.lower_nir`."""
    network = read_network(source, where)
    taken, given = infer_shapes(network)
    graph = Graph(name)
    length: IntLike = graph.declare_dim("T") if steps is None else steps
    size: IntLike = graph.declare_dim("B") if batch is None else batch
    build = Builder(graph, network, size, dt)
    return _Lowering(build, taken, given, length).run(source)


class _Lowering:
    """One run.

    Attributes:
        states: what each node carries.
        values: the output of each node at the step under way.
        last: the output at the step before, of the nodes that lagged edges leave.
    """

    def __init__(self, build: Builder, taken: Shapes, given: Shapes, length: IntLike) -> None:
        self._build, self._network, self._length = build, build.network, length
        self._taken, self._given = taken, given
        nodes = self._network.nodes.values()
        delayed = {node.path for node in nodes if holds_all_back(build, node)}
        stateful = {node.path for node in nodes if states_of(build, node, (), False)}
        self._plan = schedule(self._network, stateful, delayed)
        sources = {source for source, _ in self._plan.lagged}
        self.states: dict[Path, tuple[State, ...]] = {
            node.path: states_of(build, node, given[node.path], node.path in sources) for node in nodes
        }
        self.values: dict[Path, Value] = {}
        self.last: dict[Path, Value] = {}

    def run(self, source: Any) -> Graph:
        build, graph, nodes = self._build, self._build.graph, self._network.nodes
        inputs, outputs = self._network.outer("Input"), self._network.outer("Output")
        carried = [(nodes[path], state) for path, states in self.states.items() for state in states]
        sequences = [graph.add_input(graph.free_name(node.label), self._sequence(node)) for node in inputs]
        initial = [
            graph.add_input(graph.free_name(f"{node.label}.{state.name}"), state.type)
            for node, state in carried
        ]
        for path in self._plan.order:
            prepare = prepare_neuron if nodes[path].primitive.states else prepare_layer
            prepare(build, nodes[path], self._taken[path])
        region = build.region(
            [
                *((f"{node.label}.now", build.signal(self._given[node.path])) for node in inputs),
                *((f"{node.label}.{state.name}.now", state.type) for node, state in carried),
            ]
        )
        with build.inside(region):
            held: dict[Path, dict[str, Value]] = {path: {} for path in nodes}
            for (node, state), value in zip(carried, region.params[len(inputs) :], strict=True):
                held[node.path][state.name] = value
            self._step(dict(zip((node.path for node in inputs), region.params)), held)
            shown = [self.values[node.path] for node in outputs]
            region.set_results([*shown, *(held[node.path][state.name] for node, state in carried)])
        loc = write_records(source, self._network, build.constants, build.dt)
        loop = core.Scan((*sequences, *initial), carries=len(initial), length=self._length, body=region)
        results = graph.add(loop, name="step", loc=loc).results
        for value, node in zip(results, outputs):
            graph.rename(value, graph.free_name(node.label))
        for value, (node, state) in zip(results[len(outputs) :], carried, strict=True):
            graph.rename(value, graph.free_name(f"{node.label}.{state.name}.last"))
        graph.set_outputs(results)
        graph.verify()
        return graph

    def _sequence(self, node: Node) -> TensorType:
        return TensorType(t.f32, (self._length, self._build.batch, *self._given[node.path]))

    # -- one step -------------------------------------------------------------------
    def _step(self, given: Mapping[Path, Value], held: dict[Path, dict[str, Value]]) -> None:
        """Compute the outputs of all nodes; `held` goes from the states before to those after."""
        build, nodes = self._build, self._network.nodes
        for path in {source for source, _ in self._plan.lagged}:
            self.last[path] = held[path][shown_state(nodes[path]) or "z"]
        delayed = [path for path in nodes if holds_all_back(build, nodes[path])]
        for path in delayed:
            self.values[path] = delayed_output(build, nodes[path], held[path]["line"], None)
        for path in self._plan.order:
            node = nodes[path]
            if path in given:
                self.values[path] = given[path]
            elif path not in self.values:
                self.values[path] = self._output(node, self._input(node), held[path])
        for path in delayed:
            held[path]["line"] = next_line(build, nodes[path], held[path]["line"], self._input(nodes[path]))
        for path, states in held.items():
            if "z" in states:
                states["z"] = self.values[path]

    def _output(self, node: Node, x: Value, states: dict[str, Value]) -> Value:
        """What a node puts out; `states` gets the next ones."""
        build = self._build
        if node.kind != "Delay":
            return (
                step_neuron(build, node, x, states) if node.primitive.states else emit_layer(build, node, x)
            )
        if "line" not in states:
            return x
        y = delayed_output(build, node, states["line"], x)
        states["line"] = next_line(build, node, states["line"], x)
        return y

    def _input(self, node: Node) -> Value:
        """The sum of what the edges into a node bring."""
        brought = [
            self.last[source] if (source, node.path) in self._plan.lagged else self.values[source]
            for source in self._network.sources(node.path)
        ]
        return self._build.total(node, brought)
