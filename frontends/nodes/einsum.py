"""Einsum as transposes, sums and batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plait.frontends.nodes.call import NodeCall
from plait.ir import IntLike, TensorType, Value
from plait.ir import dims as d
from plait.ir import types as t
from plait.ir.ops import core, linalg

#: Labels that stand for the axes of an ellipsis, from the right.
_ELLIPSIS = "0123456789"
Call = NodeCall[Any]


@dataclass(frozen=True)
class Term:
    """A tensor with a label for each axis."""

    value: Value
    labels: str


def einsum(call: Call) -> Value:
    """The inputs under the node's attribute `equation`.

    They are contracted from left to right; a label that nobody needs any more is summed.

    Raises:
        LoweringError: the equation does not fit the inputs.
    """
    terms, output = _parsed(call)
    sizes = _sizes(call, terms)
    terms = [_diagonal(call, term) for term in terms]
    total = terms[0]
    for position, term in enumerate(terms[1:], start=1):
        later = set(output).union(*(rest.labels for rest in terms[position + 1 :]))
        total = _contracted(call, total, term, later, sizes)
    total = _summed(call, total, set(output))
    order = [total.labels.index(label) for label in output]
    return call.transpose(total.value, order)


def _parsed(call: Call) -> tuple[list[Term], str]:
    equation = call.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    words = left.split(",")
    if len(words) != len(call.inputs):
        raise call.error(f"equation '{equation}' has {len(words)} terms for {len(call.inputs)} inputs")
    terms = []
    widest = 0
    for index, word in enumerate(words):
        extra = call.rank(index) - len(word.replace("...", ""))
        if extra < 0 or ("..." not in word and extra) or extra > len(_ELLIPSIS):
            raise call.error(f"term '{word}' does not fit an input of rank {call.rank(index)}")
        widest = max(widest, extra)
        terms.append(Term(call.value(index), word.replace("...", _ELLIPSIS[:extra][::-1])))
    dots = _ELLIPSIS[:widest][::-1]
    if arrow:
        return terms, right.replace("...", dots)
    text = "".join(term.labels for term in terms)
    once = sorted(label for label in set(text) if label.isalpha() and text.count(label) == 1)
    return terms, dots + "".join(once)


def _sizes(call: Call, terms: list[Term]) -> dict[str, IntLike]:
    """The dim of each label; 1 stretches."""
    sizes: dict[str, IntLike] = {}
    for term in terms:
        for label, dim in zip(term.labels, term.value.shaped.shape, strict=True):
            known = sizes.setdefault(label, dim)
            if known == 1:
                sizes[label] = dim
            elif dim not in (1, known):
                raise call.error(f"label '{label}' is both {known} and {dim}", why="one label has one size")
    return sizes


def _diagonal(call: Call, term: Term) -> Term:
    """A label that occurs twice in a term keeps the diagonal: off it, elements are masked and summed away."""
    repeated = next((label for label in term.labels if term.labels.count(label) > 1), None)
    if repeated is None:
        return term
    first = term.labels.index(repeated)
    second = term.labels.index(repeated, first + 1)
    x = term.value
    rank, size = x.shaped.rank, x.shaped.shape[first]

    def counter(axis: int) -> Value:
        shape = tuple(size if i == axis else 1 for i in range(rank))
        return call.step(core.Iota(axis=axis, out=TensorType(t.i64, shape)))

    on = call.step(core.Eq(counter(first), counter(second)))
    masked = call.step(core.Where(on, x, call.scalar_like(0, x)))
    kept = call.step(core.Sum(masked, axes=(second,)))
    return _diagonal(call, Term(kept, term.labels[:second] + term.labels[second + 1 :]))


def _summed(call: Call, term: Term, needed: set[str]) -> Term:
    """Sums over the labels that are not needed."""
    axes = tuple(i for i, label in enumerate(term.labels) if label not in needed)
    if not axes:
        return term
    kept = "".join(label for label in term.labels if label in needed)
    return Term(call.step(core.Sum(term.value, axes=axes)), kept)


def _contracted(call: Call, left: Term, right: Term, later: set[str], sizes: dict[str, IntLike]) -> Term:
    """The product of two terms as a batched matrix product [batch, rows, inner] x [batch, inner, columns]."""
    left = _summed(call, left, later | set(right.labels))
    right = _summed(call, right, later | set(left.labels))
    shared = [label for label in left.labels if label in right.labels]
    batch = [label for label in shared if label in later]
    inner = [label for label in shared if label not in later]
    rows = [label for label in left.labels if label not in shared]
    columns = [label for label in right.labels if label not in shared]
    labels = "".join([*batch, *rows, *columns])
    if not inner or not left.value.shaped.dtype.is_float:
        return _outer(call, left, right, labels, inner)

    def arranged(term: Term, groups: list[list[str]]) -> Value:
        order = [label for group in groups for label in group]
        x = call.transpose(term.value, [term.labels.index(label) for label in order])
        x = call.broadcast(x, [sizes[label] for label in order])
        return call.reshape(x, [d.product(sizes[label] for label in group) for group in groups])

    product = linalg.Matmul(arranged(left, [batch, rows, inner]), arranged(right, [batch, inner, columns]))
    y = call.reshape(call.step(product), [sizes[label] for label in labels])
    return Term(y, labels)


def _outer(call: Call, left: Term, right: Term, labels: str, inner: list[str]) -> Term:
    """An elementwise product on all labels, with `inner` summed afterwards."""
    order = labels + "".join(inner)

    def spread(term: Term) -> Value:
        present = [label for label in order if label in term.labels]
        x = call.transpose(term.value, [term.labels.index(label) for label in present])
        dims = dict(zip(present, x.shaped.shape, strict=True))
        return call.reshape(x, [dims.get(label, 1) for label in order])

    y = call.step(core.Mul(spread(left), spread(right)))
    if inner:
        y = call.step(core.Sum(y, axes=tuple(range(len(labels), len(order)))))
    return Term(y, labels)
