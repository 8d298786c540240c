"""The official files of data sets: read, proven by their SHA-256, and looked for in the folders where they may lie."""

import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyconv.checking.messages import received

ENVIRONMENT = "TINYCONV_DATA"  # a folder with a folder for each data set


@dataclass(frozen=True)
class OfficialFile:
    """What is known of a file: its bytes, its SHA-256, and the shape of the array in it, if there is a single one."""

    size: int
    sha256: str
    shape: tuple[int, ...] = ()


def read(path: Path, official: OfficialFile, title: str, fix: str) -> bytes:
    """The bytes of an official file, proven to be so before anything looks into them."""
    try:
        with path.open("rb") as file:
            content = file.read(official.size + 1)
    except OSError as error:
        raise OSError(f"Cannot read the {title} file {path}: {error.strerror}. {fix}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != official.sha256:
        raise OSError(
            f"The {title} file {path} is damaged. Expected SHA-256 {official.sha256}. Received: {digest}. {fix}"
        )
    return content


def read_idx(folder: Path, files: Mapping[str, OfficialFile], title: str, fix: str) -> list[np.ndarray]:
    """The arrays in gzipped IDX files."""
    return [parse_idx(read(folder / name, each, title, fix), name, each, title) for name, each in files.items()]


def parse_idx(compressed: bytes, name: str, official: OfficialFile, title: str) -> np.ndarray:
    """The uint8 array of a gzipped IDX file that must have the shape noted for it.

    IDX: two zero bytes, the type (8: unsigned bytes), the rank, each dimension as a big-endian 32-bit integer, the
    data in C order. Never decompresses more than the expected size, whatever the file claims.
    """
    shape = official.shape
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = len(header) + math.prod(shape)
    try:
        raw = zlib.decompressobj(wbits=31).decompress(compressed, size + 1)  # 31: with gzip's frame
    except zlib.error as error:
        raise OSError(f"The {title} file {name} is not a gzip file: {error}.") from error
    if not raw.startswith(header):
        raise OSError(
            f"The {title} file {name} has a wrong IDX header. Expected {header.hex(' ')} (uint8 {shape}). "
            f"Received: {raw[: len(header)].hex(' ')}."
        )
    if len(raw) != size:
        length = f"only {len(raw):,}" if len(raw) < size else "more"
        raise OSError(f"The {title} file {name} has a wrong length. Expected {size:,} bytes. Received: {length}.")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape).copy()


def cache_folder() -> Path:
    """Where data sets are kept for the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyconv" / "datasets"


def folders(name: str, data_dir: str | os.PathLike | None) -> list[Path]:
    """Where a data set's files may lie: the given folder, or that of the environment, of the user, or of Keras."""
    if data_dir is not None:
        if not isinstance(data_dir, str | os.PathLike) or not os.path.isdir(data_dir):
            raise ValueError(f"data_dir expects an existing folder. Received: {received(data_dir)}.")
        return [Path(data_dir)]
    own = os.environ.get(ENVIRONMENT)
    return [*([Path(own) / name] if own else []), cache_folder() / name, Path.home() / ".keras" / "datasets" / name]
