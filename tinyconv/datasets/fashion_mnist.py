"""Fashion-MNIST: 70,000 pictures of clothes, of 28 x 28 pixels.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms"
(2017), https://github.com/zalandoresearch/fashion-mnist, under the MIT licence.
"""

import os

import numpy as np

from tinyconv.datasets import official, tfds
from tinyconv.datasets.official import OfficialFile

FILES = {
    "train-images-idx3-ubyte.gz": OfficialFile(
        26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", (60000, 28, 28)
    ),
    "train-labels-idx1-ubyte.gz": OfficialFile(
        29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", (60000,)
    ),
    "t10k-images-idx3-ubyte.gz": OfficialFile(
        4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", (10000, 28, 28)
    ),
    "t10k-labels-idx1-ubyte.gz": OfficialFile(
        5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", (10000,)
    ),
}
TITLE, NAME = "Fashion-MNIST", "fashion-mnist"
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"


def load_data(
    *,
    data_dir: str | os.PathLike | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """``(x_train, y_train), (x_test, y_test)``: uint8 (60000, 28, 28), (60000,), and the same with 10000.

    From the four official files in the folder ``data_dir``; if it is None, in "fashion-mnist" in the folder that the
    environment's TINYCONV_DATA names, in the user's cache, or where Keras keeps them. Else TensorFlow Datasets
    downloads them, whose order is another one. Raises OSError for a file that is not the official one, and
    RuntimeError, with what to do, where the data are nowhere.
    """
    for folder in official.folders(NAME, data_dir):
        if data_dir is not None or any((folder / name).exists() for name in FILES):
            arrays = official.read_idx(folder, FILES, TITLE, f"The files are at {SOURCE}.")
            return (arrays[0], arrays[1]), (arrays[2], arrays[3])
    train, test = tfds.instead_of_files("fashion_mnist", TITLE, list(FILES), NAME, SOURCE)
    return _plain(*train), _plain(*test)


def _plain(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.reshape(x.shape[:3]), y.astype(np.uint8)
