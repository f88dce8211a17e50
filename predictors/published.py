"""Published measurements that a prediction can be set beside."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedMeasurement:
    """One measurement of a whole model; memory in MB as its source prints it."""

    model: str
    batch: int
    device: str
    latency_ms: float
    memory_mb: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.latency_ms} ms, {self.memory_mb:,.0f} MB ({self.source})"


#: The one label of the DIPPM data set that is in the open (Panner Selvam and Brorsson,
#: Euro-Par 2023): its 10,508 labels were never published in a form that still exists.
DIPPM_EFFICIENTNET_B0 = PublishedMeasurement(
    model="efficientnet_b0",
    batch=32,
    device="a100-sxm4-40gb",
    latency_ms=80.49,
    memory_mb=4772.0,
    source=(
        "comment at the end of dippm.py, karthickai/dippm at 710b5a6, Apache-2.0; "
        "resolution, precision and framework are not stated"
    ),
)

MEASUREMENTS: tuple[PublishedMeasurement, ...] = (DIPPM_EFFICIENTNET_B0,)


def published(graph_name: str, device: str, batch: int | None) -> PublishedMeasurement | None:
    """The published measurement of a model of this name (case and punctuation aside), device and batch."""
    bare = _bare(graph_name)
    for row in MEASUREMENTS:
        if (bare, device, batch) == (_bare(row.model), row.device, row.batch):
            return row
    return None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
