"""MNIST: 70,000 handwritten digits of 28 x 28 pixels. The four official files lie in this folder (see SOURCE.md)."""

import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent

# file: (bytes, SHA-256, shape of its array)
FILES = {
    "train-images-idx3-ubyte.gz": (
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        (60000, 28, 28),
    ),
    "train-labels-idx1-ubyte.gz": (
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        (60000,),
    ),
    "t10k-images-idx3-ubyte.gz": (
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        (10000, 28, 28),
    ),
    "t10k-labels-idx1-ubyte.gz": (
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        (10000,),
    ),
}


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``(x_train, y_train), (x_test, y_test)`` in the official order, as ``keras.datasets.mnist.load_data`` gives them.

    x_train uint8 (60000, 28, 28), 0 is paper and 255 ink; y_train uint8 (60000,), the digits 0 to 9; x_test and
    y_test the same with 10000. Needs no network. Raises OSError if a file is missing or not the official one.
    """
    x_train, y_train, x_test, y_test = (_parse(_read(name), name) for name in FILES)
    return (x_train, y_train), (x_test, y_test)


def _read(name: str) -> bytes:
    """The bytes of an official file, proven to be so by their SHA-256 before anything looks into them."""
    path = FOLDER / name
    size, sha256, _ = FILES[name]
    fix = "Reinstall tinyconv, or copy the file from its source distribution."
    try:
        with path.open("rb") as file:
            compressed = file.read(size + 1)
    except OSError as error:
        raise OSError(f"Cannot read the MNIST file {path}: {error.strerror}. {fix}") from error
    received = hashlib.sha256(compressed).hexdigest()
    if received != sha256:
        raise OSError(f"The MNIST file {path} is damaged. Expected SHA-256 {sha256}. Received: {received}. {fix}")
    return compressed


def _parse(compressed: bytes, name: str) -> np.ndarray:
    """The uint8 array of a gzipped IDX file that must have the shape noted for ``name``.

    IDX: two zero bytes, the type (8: unsigned bytes), the rank, each dimension as a big-endian 32-bit integer, the
    data in C order. Never decompresses more than the expected size, whatever the file claims.
    """
    shape = FILES[name][2]
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = len(header) + math.prod(shape)
    try:
        raw = zlib.decompressobj(wbits=31).decompress(compressed, size + 1)  # 31: with gzip's frame
    except zlib.error as error:
        raise OSError(f"The MNIST file {name} is not a gzip file: {error}.") from error
    if not raw.startswith(header):
        raise OSError(
            f"The MNIST file {name} has a wrong IDX header. Expected {header.hex(' ')} (uint8 {shape}). "
            f"Received: {raw[: len(header)].hex(' ')}."
        )
    if len(raw) != size:
        received = f"only {len(raw):,}" if len(raw) < size else "more"
        raise OSError(f"The MNIST file {name} has a wrong length. Expected {size:,} bytes. Received: {received}.")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape).copy()
