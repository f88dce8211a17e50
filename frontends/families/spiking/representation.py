"""Representational similarity: what a network's stages and recordings of a brain tell of the same stimuli.

A representation [stimuli, features] becomes its dissimilarities, 1 - Pearson's correlation for each pair
of stimuli, and two sets of dissimilarities are compared by a rank correlation (Kriegeskorte, Mur and
Bandettini, Frontiers in Systems Neuroscience 2:4, 2008; Nili et al., PLoS Computational Biology 10(4),
2014).  Sets are `rsatoolbox.rdm.RDMs`, so all that rsatoolbox offers works on them; each has a name in
`rdm_descriptors["name"]`, and sets of one name (seeds of a network, say) count as one model, whose
correlation is the mean of theirs.  rsatoolbox is an optional package: pip install 'plait[neuro]'.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plait.frontends.families.spiking import events
from plait.frontends.families.spiking.networks import RankOrderNetwork
from plait.ir.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rsatoolbox.rdm import RDMs

#: Spearman's rho; Kendall's tau-a; Spearman's rho in the mean over orders of tied values.  The last two
#: do not favour models with ties (Nili et al., 2014; Schütt et al., eLife 12:e82566, 2023).
METHODS = ("spearman", "tau-a", "rho-a")


def _require_rsatoolbox(caller: str) -> Any:
    """The package `rsatoolbox`.  Raises InputError where it is not installed."""
    try:
        import rsatoolbox  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError(
            "rsatoolbox is not installed", where=caller, why=str(error), remedy="pip install 'plait[neuro]'"
        ) from error
    return rsatoolbox


class Stages(nn.Module):
    """First-spike times of every stage: image [B, 1, H, W] -> uint8 [B, C, H', W'] of code and layers.

    A layer's are those after its pooling, as the next layer sees them.  It runs as it is, and is what to
    hand to `plait.compile` for many images.
    """

    def __init__(self, network: RankOrderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The code, layer 1, layer 2, ..."""
        found = [events.encode(self.network, image)]
        for layer in range(len(self.network.configs)):
            found.append(events.layer_times(self.network, found[-1], layer))
        return tuple(found)


@torch.no_grad()
def representations(
    network: RankOrderNetwork,
    images: Tensor,
    *,
    run: Callable[[Tensor], Sequence[Tensor]] | None = None,
) -> dict[str, Tensor]:
    """What each stage of a network holds of images [B, 1, H, W]: float32 [B, features] by name, in order.

    "pixels" are the images, "code" the first-spike times of the encoded image, "layer 1", "layer 2", ...
    those of each layer after its pooling; a silent neuron has the time `network.steps`.  Images are run
    one at a time, which keeps memory small; `run` does it, by default `Stages(network)`, or that compiled
    for one image: plait.compile(Stages(network), (images[:1],)).
    """
    run = run or Stages(network)
    each = [[image, *run(image)] for image in images.split(1)]
    names = ["pixels", "code", *(f"layer {layer + 1}" for layer in range(len(network.configs)))]
    return {
        name: torch.cat([stages[index].flatten(1).to(torch.float32) for stages in each])
        for index, name in enumerate(names)
    }


def named_rdms(
    names: Sequence[str], vectors: npt.ArrayLike, descriptors: Mapping[str, Sequence[Any]] | None = None
) -> RDMs:
    """Sets of dissimilarities that are already known, such as recordings: one name a set.

    vectors [sets, pairs] are the upper triangles, row by row, or [sets, stimuli, stimuli] the matrices.
    `descriptors` are further descriptors of the sets, such as {"subject": [...]} for `noise_ceiling`.
    Raises InputError where the shape does not fit, a value is not finite or rsatoolbox is missing.
    """
    rsatoolbox = _require_rsatoolbox("named_rdms")
    values = np.array(vectors, dtype=np.float64)
    if values.ndim not in (2, 3) or len(values) != len(names):
        raise InputError(
            f"dissimilarities of shape {values.shape} for {len(names)} names",
            where="named_rdms",
            why="[sets, pairs] or [sets, stimuli, stimuli] is wanted, with one name a set",
            remedy="add an axis for a single set: vector[None]",
        )
    if not np.isfinite(values).all():
        raise InputError(
            "dissimilarities that are not finite", where="named_rdms", remedy="leave out those stimuli"
        )
    return rsatoolbox.rdm.RDMs(values, rdm_descriptors={"name": list(names), **(descriptors or {})})


def dissimilarities(features: Mapping[str, Tensor | npt.NDArray[Any]]) -> RDMs:
    """1 - Pearson's correlation of each pair of stimuli, for each representation [stimuli, features].

    Raises InputError for a stimulus whose features are all equal, which has no correlation with any
    other, for representations of different numbers of stimuli, and where rsatoolbox is missing.
    """
    rsatoolbox = _require_rsatoolbox("dissimilarities")
    vectors: list[npt.NDArray[np.float64]] = []
    for name, feature in features.items():
        values = np.asarray(feature, dtype=np.float64)
        if values.ndim != 2:
            raise InputError(
                f"a representation of shape {values.shape}; [stimuli, features] is wanted", where=name
            )
        flat = np.flatnonzero((values == values[:, :1]).all(axis=1))
        if len(flat):
            raise InputError(
                f"all features are equal for the stimuli {flat.tolist()[:10]}",
                where=name,
                why="a constant has no correlation",
                remedy="leave these stimuli out of the networks and of the recordings",
            )
        found = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(values), method="correlation")
        vectors.append(found.dissimilarities[0])
        if len(vectors[-1]) != len(vectors[0]):
            raise InputError(f"{len(values)} stimuli, unlike those before it", where=name)
    return named_rdms(list(features), np.stack(vectors))


def concatenate(sets: Sequence[RDMs]) -> RDMs:
    """All sets as one `RDMs`, of which only names are kept; equal names become one model."""
    _require_rsatoolbox("concatenate")
    names = [name for part in sets for name in part.rdm_descriptors["name"]]
    return named_rdms(names, np.concatenate([part.dissimilarities for part in sets]))


def _check(models: RDMs, data: RDMs, method: str, where: str) -> None:
    if method not in METHODS:
        raise InputError(
            f"no comparison is called {method!r}{did_you_mean(method, METHODS)}",
            where=where,
            remedy=f"one of {', '.join(METHODS)}",
        )
    if models.n_cond != data.n_cond:
        raise InputError(
            f"models of {models.n_cond} stimuli and data of {data.n_cond}",
            where=where,
            why="both are about the same stimuli in the same order",
        )


def _compare(models: RDMs, data: RDMs, method: str) -> npt.NDArray[np.float64]:
    """The mean over data sets and over the sets of each name; float64 [names]."""
    rsatoolbox = _require_rsatoolbox("compare")
    each = rsatoolbox.rdm.compare(models, data, method).mean(axis=1)
    names = models.rdm_descriptors["name"]
    order = list(dict.fromkeys(names))
    totals: npt.NDArray[np.float64] = np.zeros(len(order))
    np.add.at(totals, [order.index(name) for name in names], each)
    return totals / [list(names).count(name) for name in order]


def correlations(models: RDMs, data: RDMs, method: str = "spearman") -> dict[str, float]:
    """The correlation of each model with the data, the mean over data sets where they are several.

    Raises InputError for an unknown method or different numbers of stimuli.
    """
    _check(models, data, method, "correlations")
    names = dict.fromkeys(models.rdm_descriptors["name"])
    return {name: float(value) for name, value in zip(names, _compare(models, data, method), strict=True)}


@dataclass(frozen=True)
class NoiseCeiling:
    """Bounds of the correlation that the model which made the data would have with it."""

    lower: float
    upper: float


def noise_ceiling(data: RDMs, method: str = "spearman", *, by: str = "subject") -> NoiseCeiling:
    """The noise ceiling of several sets of dissimilarities (Nili et al., 2014).

    Upper: the mean correlation of each group of sets, such as a subject's sessions, with the mean of the
    ranks of all; lower: with that of the other groups.  `by` is the descriptor that tells groups.  For
    tau-a the mean of ranks need not be the best model, so that its upper bound is not strict.
    Raises InputError for one group: a single set of dissimilarities tells nothing of its noise.
    """
    rsatoolbox = _require_rsatoolbox("noise_ceiling")
    _check(data, data, method, "noise_ceiling")
    if by not in data.rdm_descriptors:
        raise InputError(
            f"no descriptor is called {by!r}{did_you_mean(by, data.rdm_descriptors)}",
            where="noise_ceiling",
            remedy="name the groups: named_rdms(names, vectors, {'subject': [...]})",
        )
    if len(set(data.rdm_descriptors[by])) < 2:
        raise InputError(
            f"no noise ceiling can be computed from one {by}",
            where="noise_ceiling",
            why="noise is what differs between repeated measurements, and there is one",
            remedy="give sets of several subjects or sessions, or compare with another brain's as reference",
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Noise ceiling for tau")  # told in the docstring
        lower, upper = rsatoolbox.inference.boot_noise_ceiling(data, method=method, rdm_descriptor=by)
    return NoiseCeiling(float(lower), float(upper))


@dataclass(frozen=True)
class Interval:
    """An estimate on all stimuli and the bounds of its interval."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two models, and the two-sided p of its being zero."""

    p: float


@dataclass(frozen=True)
class Bootstrap:
    """Correlations on all stimuli, `estimates` [models], and on redrawn ones, `draws` [draws, models]."""

    method: str
    names: tuple[str, ...]
    estimates: npt.NDArray[np.float64]
    draws: npt.NDArray[np.float64]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise InputError(
                f"no model is called {name!r}{did_you_mean(name, self.names)}", where="Bootstrap"
            )
        return self.names.index(name)

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """The percentile interval of a model's correlation.  Raises InputError for an unknown name."""
        column = self._index(name)
        lower, upper = np.quantile(self.draws[:, column], [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(self.estimates[column]), float(lower), float(upper))

    def difference(self, first: str, second: str, level: float = 0.95) -> Difference:
        """The first model's correlation less the second's, paired: both on the same draws.

        p is twice the smaller share of draws on one side of zero, (count + 1) / (draws + 1), so that it is
        never below 2 / (draws + 1).  Raises InputError for an unknown name.
        """
        one, two = self._index(first), self._index(second)
        drawn = self.draws[:, one] - self.draws[:, two]
        lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        estimate = float(self.estimates[one] - self.estimates[two])
        return Difference(estimate, float(lower), float(upper), min(1.0, 2 * (side + 1) / (len(drawn) + 1)))


def bootstrap(
    models: RDMs, data: RDMs, method: str = "spearman", *, draws: int = 1000, seed: int = 0
) -> Bootstrap:
    """Compare models with data on stimuli drawn anew with replacement, the same ones for every model.

    A stimulus drawn twice has no distance from itself: such pairs are left out, as they would be 0 in
    every model and count as agreement.  Its distances from others are there twice; these ties lower tau-a
    and rho-a of a draw a little, the less the more stimuli.  Draws of fewer than three different stimuli
    are drawn again.
    `seed` alone determines the draws.  Intervals are about stimuli: they tell how far a correlation
    would change with other stimuli, not with other subjects or seeds of a network.
    Raises InputError for an unknown method, different numbers of stimuli, or fewer than three.
    """
    _check(models, data, method, "bootstrap")
    stimuli = int(models.n_cond)
    if stimuli < 3 or draws < 1:
        raise InputError(f"{stimuli} stimuli and {draws} draws; at least 3 and 1", where="bootstrap")
    generator = np.random.default_rng(seed)
    rows: list[npt.NDArray[np.float64]] = []
    while len(rows) < draws:
        chosen = generator.integers(0, stimuli, stimuli)
        if len(np.unique(chosen)) < 3:
            continue
        # subsample_pattern marks the pairs of one stimulus with itself by NaN, and compare drops them.
        drawn, target = (part.subsample_pattern("index", chosen) for part in (models, data))
        rows.append(_compare(drawn, target, method))
    names = tuple(dict.fromkeys(models.rdm_descriptors["name"]))
    return Bootstrap(method, names, _compare(models, data, method), np.stack(rows))


__all__ = [
    "METHODS",
    "Bootstrap",
    "Difference",
    "Interval",
    "NoiseCeiling",
    "Stages",
    "bootstrap",
    "concatenate",
    "correlations",
    "dissimilarities",
    "named_rdms",
    "noise_ceiling",
    "representations",
]
