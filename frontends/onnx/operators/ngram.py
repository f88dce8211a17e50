"""TfIdfVectorizer on whole numbers: counts of n-grams, with gaps up to a limit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import TensorType, Value
from plait.ir import types as t
from plait.ir.ops import core, linalg


def _grams(call: Call) -> list[np.ndarray]:
    """The n-grams of the pool as one array [count, n] for each n from 1 on."""
    pool = np.asarray(call.integers("pool_int64s") or (), np.int64)
    starts = [*(call.integers("ngram_counts") or ()), len(pool)]
    found = []
    for n, (first, last) in enumerate(pairwise(starts), 1):
        found.append(pool[first:last].reshape(-1, n))
    return found


@lowers("TfIdfVectorizer", since=9)
def count_ngrams(call: Call) -> Value:
    """[C] -> [max(ngram_indexes) + 1], or [N, C] -> [N, ...]; the result is f32.

    An n-gram is counted wherever its items stand `skip + 1` apart, for every skip up
    to the limit; single items have no gaps.  Mode TF gives the counts, IDF the weight
    of n-grams that occur, TFIDF weights times counts.
    """
    if "pool_strings" in call.attributes:
        raise call.unsupported("TfIdfVectorizer on strings")
    x = call.cast(call.value(0), t.i64)
    single = x.shaped.rank == 1
    if single:
        x = call.reshape(x, (1, *x.shaped.shape))
    rows, columns = x.shaped.shape
    if not isinstance(columns, int):
        raise call.error(f"rows have {columns} items", why="their number has to be known at compile time")
    shortest, longest = call.integer("min_gram_length", 1), call.integer("max_gram_length", 1)
    skips = call.integer("max_skip_count", 0)
    places = np.asarray(call.integers("ngram_indexes") or (), np.int64)
    width = int(places.max()) + 1 if places.size else 0
    grams = _grams(call)
    if sum(len(group) for group in grams) != len(places) or not width:
        raise call.error(
            f"{len(places)} ngram_indexes are given", why=f"the pool has {sum(map(len, grams))} n-grams"
        )
    total: Value | None = None
    first = 0
    for group in grams:
        n = group.shape[1]
        to_places = np.zeros((len(group), width), np.float32)
        to_places[np.arange(len(group)), places[first : first + len(group)]] = 1
        first += len(group)
        if not shortest <= n <= longest or not len(group):
            continue
        for gap in range(1, 2 if n == 1 else skips + 2):
            windows = columns - (n - 1) * gap
            if windows > 0:
                counts = _occurrences(call, x, group, gap, windows)
                placed = call.step(linalg.Matmul(counts, call.constant(to_places, "places")))
                total = placed if total is None else call.step(core.Add(total, placed))
    if total is None:
        total = call.full(0.0, t.f32, (rows, width))
    weighted = _weighted(call, total, width)
    return call.reshape(weighted, (width,)) if single else weighted


def _occurrences(call: Call, x: Value, group: np.ndarray, gap: int, windows: int) -> Value:
    """How often each n-gram of a group [G, n] stands in each row with a fixed gap: f32 [N, G]."""
    rows = x.shaped.shape[0]
    hit: Value | None = None
    for place in range(group.shape[1]):
        start = place * gap
        items = call.step(core.Slice(x, axes=(1,), starts=(start,), stops=(start + windows,)))
        wanted = call.constant(np.ascontiguousarray(group[:, place]), "items")
        same = call.step(core.Eq(call.reshape(items, (rows, windows, 1)), wanted))
        hit = same if hit is None else call.step(core.And(hit, same))
    assert hit is not None  # an n-gram has an item
    return call.step(core.Sum(call.cast(hit, t.f32), axes=(1,)))


def _weighted(call: Call, counts: Value, width: int) -> Value:
    mode = call.text("mode", "TF")
    given = call.attributes.get("weights")
    if mode == "TF":
        return counts
    weights = np.ones(width, np.float32)
    if given is not None:  # by place in the result, as ONNX Runtime and onnx's own evaluator read them
        weights[: len(given)] = np.asarray(list(given), np.float32)[:width]
    if mode == "IDF":
        found = call.step(core.Gt(counts, call.scalar_like(0.0, counts)))
        counts = call.step(core.Cast(found, out=TensorType(t.f32, counts.shaped.shape)))
    return call.step(core.Mul(counts, call.constant(weights, "weights")))
