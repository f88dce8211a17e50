"""Reading safetensors data where it lies, in memory or in a mapped file, without a copy."""

from __future__ import annotations

import json
from typing import TypeAlias

import numpy as np

Buffer: TypeAlias = "bytes | memoryview"

#: Element types of the format that numpy has; wider ones of plait are stored as these.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
_HEADER = 8  # bytes: the length of the JSON behind it, little endian


def read_tensors(packed: Buffer) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, over its memory and read only.

    Raises:
        ValueError: the header does not describe the data.
    """
    content = memoryview(packed).toreadonly()
    size = int.from_bytes(content[:_HEADER], "little")
    if len(content) < _HEADER + size:
        raise ValueError(f"the header of {size} bytes is cut")
    entries = json.loads(bytes(content[_HEADER : _HEADER + size]))
    data = content[_HEADER + size :]
    found: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        if not 0 <= start <= end <= len(data) or end - start != count * dtype.itemsize:
            raise ValueError(f"the data of {name} is cut")
        found[name] = np.frombuffer(data[start:end], dtype).reshape(shape)
    return found
