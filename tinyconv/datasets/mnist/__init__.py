"""MNIST: 70,000 handwritten digits of 28 x 28 pixels. The four official files lie in this folder (see SOURCE.md)."""

from pathlib import Path

import numpy as np

from tinyconv.datasets.official import OfficialFile, read_idx

FOLDER = Path(__file__).parent

FILES = {
    "train-images-idx3-ubyte.gz": OfficialFile(
        9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", (60000, 28, 28)
    ),
    "train-labels-idx1-ubyte.gz": OfficialFile(
        28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", (60000,)
    ),
    "t10k-images-idx3-ubyte.gz": OfficialFile(
        1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", (10000, 28, 28)
    ),
    "t10k-labels-idx1-ubyte.gz": OfficialFile(
        4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", (10000,)
    ),
}
FIX = "Reinstall tinyconv, or copy the file from its source distribution."


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``(x_train, y_train), (x_test, y_test)`` in the official order, as ``keras.datasets.mnist.load_data`` gives them.

    x_train uint8 (60000, 28, 28), 0 is paper and 255 ink; y_train uint8 (60000,), the digits 0 to 9; x_test and
    y_test the same with 10000. Needs no network. Raises OSError if a file is missing or not the official one.
    """
    x_train, y_train, x_test, y_test = read_idx(FOLDER, FILES, "MNIST", FIX)
    return (x_train, y_train), (x_test, y_test)
