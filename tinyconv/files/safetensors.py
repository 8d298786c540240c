"""The safetensors format: a JSON header that names arrays, and their bytes. https://github.com/huggingface/safetensors

    8 bytes: length of the header, little-endian; the header, padded with spaces; the arrays, one after the other

What tinyconv writes is stricter than the format, so that no damage goes unnoticed: arrays stand in the order of their
names, and ``__metadata__`` holds the SHA-256 of their bytes. A reader that expects certain names and shapes then knows
what each byte must be. Any other safetensors library can read the files.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyconv.files import checked_json

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
LARGEST_HEADER = 4 << 20
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dumps(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Arrays, and further text about them, as the bytes of a file."""
    header: dict[str, Any] = {"__metadata__": {}}
    pieces, end = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        if little.dtype not in NAMES:
            raise TypeError(f"Array {name!r} cannot be saved. Expected float32. Received: {array.dtype}.")
        header[name] = {
            "dtype": NAMES[little.dtype],
            "shape": list(little.shape),
            "data_offsets": [end, end + little.nbytes],
        }
        pieces.append(little.tobytes())
        end += little.nbytes
    data = b"".join(pieces)
    header["__metadata__"] = {"format": "tinyconv", **(metadata or {}), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    checked_json.check_size(
        text, "The header that names the arrays", LARGEST_HEADER
    )  # what is written must be readable
    return struct.pack("<Q", len(text)) + text + data


def loads(content: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays (as read-only views of ``content``) and the metadata; a ValueError if anything is not as written."""
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else -1
    if not 2 <= length <= len(content) - 8:
        raise ValueError(f"{where} is not a complete safetensors file. Expected a header after the first 8 bytes.")
    header = checked_json.loads(content[8 : 8 + length], f"The header of {where}", LARGEST_HEADER)
    data = memoryview(content)[8 + length :]
    metadata = _metadata(header, where)
    if metadata.get("sha256") is None:
        raise ValueError(
            f"{where} has no SHA-256 in its metadata. Expected a file that tinyconv saved. "
            "Fix: read other files with the safetensors library and hand their arrays to set_weights."
        )
    arrays, end = {}, 0
    for name, entry in header.items():
        arrays[name], end = _array(name, entry, data, end, where)
    if end != len(data) or list(arrays) != sorted(arrays):
        raise ValueError(f"{where} is damaged: its header does not describe its {len(data):,} bytes of data.")
    if hashlib.sha256(data).hexdigest() != metadata["sha256"]:
        raise ValueError(f"{where} is damaged: the SHA-256 of its data is not the one in its metadata.")
    return arrays, metadata


def _metadata(header: Any, where: str) -> dict[str, str]:
    """The metadata, taken out of the header."""
    if not isinstance(header, dict):
        raise ValueError(f"{where} is damaged: its header is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{where} is damaged: its metadata is not an object of strings.")
    return metadata


def _array(name: str, entry: Any, data: memoryview, start: int, where: str) -> tuple[np.ndarray, int]:
    """One array, which must begin where the last one ended, and where it ends itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} is damaged: {name!r} has not just a dtype, a shape and data_offsets.")
    shape: Any = entry["shape"]
    dtype = DTYPES.get(entry["dtype"] if isinstance(entry["dtype"], str) else "")
    if dtype is None:
        raise ValueError(f"{where}: {name!r} has the dtype {entry['dtype']!r}. Expected one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"{where} is damaged: {name!r} has no valid shape.")
    end = start + math.prod(shape) * dtype.itemsize
    if entry["data_offsets"] != [start, end] or end > len(data):
        raise ValueError(f"{where} is damaged: the data of {name!r} are not where they must be.")
    return np.frombuffer(data[start:end], dtype).reshape(shape), end
