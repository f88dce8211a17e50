"""Machine code of the kernels for a GPU, one image each, and how the host calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plait.ir.tensors import Buffer

CUBIN, PTX = "cubin", "ptx"


@dataclass(frozen=True)
class KernelImage:
    """One kernel for a GPU.

    Attributes:
        name: of the `__global__` function.
        cubin: ELF image for the architecture of the target.
        ptx: the same as text, which a driver compiles for a newer device.
        argument_types: TVM's names of the types of the parameters, `handle` for a pointer.
        launch_tags: what the host hands over behind the arguments, such as `blockIdx.x`, in order.
    """

    name: str
    cubin: bytes
    ptx: str
    argument_types: tuple[str, ...]
    launch_tags: tuple[str, ...]

    def calling(self) -> dict[str, list[str]]:
        """How it is called, as JSON can hold it."""
        return {"argument_types": list(self.argument_types), "launch_tags": list(self.launch_tags)}


def image_entries(images: Mapping[str, KernelImage]) -> dict[str, bytes]:
    """Entries of an archive for the images: one cubin and one PTX text for each kernel."""
    found: dict[str, bytes] = {}
    for name, image in images.items():
        found[f"{CUBIN}/{name}.{CUBIN}"] = image.cubin
        found[f"{PTX}/{name}.{PTX}"] = image.ptx.encode()
    return found


def read_images(calling: Mapping[str, Any], entries: Mapping[str, Buffer]) -> dict[str, KernelImage]:
    """The images of an archive.  Raises KeyError where an entry is missing."""
    return {
        name: KernelImage(
            name,
            bytes(entries[f"{CUBIN}/{name}.{CUBIN}"]),
            bytes(entries[f"{PTX}/{name}.{PTX}"]).decode(),
            tuple(entry["argument_types"]),
            tuple(entry["launch_tags"]),
        )
        for name, entry in calling.items()
    }
