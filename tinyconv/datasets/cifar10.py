"""CIFAR-10: 60,000 colour photographs of ten kinds of things, of 32 x 32 pixels.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009),
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np

from tinyconv.datasets import official, tfds
from tinyconv.datasets.official import OfficialFile

ARCHIVE = "cifar-10-binary.tar.gz"
OFFICIAL = OfficialFile(170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd")
FOLDER = "cifar-10-batches-bin"  # in the archive
TRAINING, TEST = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
PIXELS = 3 * 32 * 32
MOST = 10_000  # images of a file
TITLE, NAME, SOURCE = "CIFAR-10", "cifar-10", "https://www.cs.toronto.edu/~kriz/cifar.html"
FIX = f"The binary version is at {SOURCE}."


def load_data(
    *,
    data_dir: str | os.PathLike | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``(x_train, y_train), (x_test, y_test)``: uint8 (50000, 32, 32, 3), (50000, 1), and the same with 10000.

    From the official archive "cifar-10-binary.tar.gz", or the six files in it, in the folder ``data_dir``; if it is
    None, in "cifar-10" in the folder that the environment's TINYCONV_DATA names, in the user's cache, or where Keras
    keeps its files. The python version is not read: it consists of pickles, which can do anything. Else TensorFlow
    Datasets downloads the data, whose order is another one. Raises OSError for a file that is not as it should be, and
    RuntimeError, with what to do, where the data are nowhere.
    """
    for folder in official.folders(NAME, data_dir):
        for place in (folder, folder / FOLDER):
            if any((place / name).exists() for name in (*TRAINING, *TEST)):
                return _from_files(place)
        if (folder / ARCHIVE).exists() or data_dir is not None:
            return _from_archive(folder / ARCHIVE)
    train, test = tfds.instead_of_files("cifar10", TITLE, [ARCHIVE], NAME, SOURCE)
    return _plain(*train), _plain(*test)


def _plain(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, y.astype(np.uint8)[:, None]


def _from_archive(path: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    content = official.read(path, OFFICIAL, TITLE, FIX)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in (*TRAINING, *TEST):
            file = archive.extractfile(f"{FOLDER}/{name}")
            assert file is not None  # it is the official archive
            found[name] = _parse(file.read(), name)
    return _joined(found)


def _from_files(folder: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """From the six files, of as many images as there are."""
    found = {}
    for name in (*TRAINING, *TEST):
        try:
            with (folder / name).open("rb") as file:
                found[name] = _parse(file.read(MOST * (PIXELS + 1) + 1), str(folder / name))
        except FileNotFoundError as error:
            raise OSError(f"Cannot read the {TITLE} file {folder / name}: it is not there. {FIX}") from error
    return _joined(found)


def _parse(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A file's images and labels. For each: a byte, its label; the 1024 red pixels, the green and the blue ones."""
    if not content or len(content) % (PIXELS + 1) or len(content) > MOST * (PIXELS + 1):
        raise OSError(
            f"The {TITLE} file {name} has a wrong length. Expected {PIXELS + 1} bytes for each of at most {MOST:,} "
            f"images. Received: {len(content):,} bytes. {FIX}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, PIXELS + 1)
    labels = rows[:, :1].copy()
    if labels.max() > 9:
        raise OSError(f"The {TITLE} file {name} is damaged. Expected labels to 9. Received: {labels.max()}. {FIX}")
    return np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _joined(
    found: dict[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    images, labels = (np.concatenate([found[name][part] for name in TRAINING]) for part in (0, 1))
    return (images, labels), found[TEST[0]]
