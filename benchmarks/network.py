"""The work that every benchmark gives every peer: the MNIST network, its weights and data; convolutions."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHAPES = [(3, 3, 1, 32), (32,), (3, 3, 32, 64), (64,), (1600, 10), (10,)]  # of the weights, in Keras' order
TRAINING_SAMPLES = 54_000  # what validation_split=0.1 leaves of the 60,000
DROPOUT = 0.5
EPSILON = 1e-7  # Adam's, as Keras has it; PyTorch's own default is 1e-8


def weights(seed: int = 0) -> list[np.ndarray]:
    """The same initial weights for all: Glorot's uniform distribution, and zeros for the biases."""
    rng = np.random.default_rng(seed)
    found = []
    for shape in SHAPES:
        receptive = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1]))) if len(shape) > 1 else 0
        found.append(rng.uniform(-limit, limit, shape).astype(np.float32))
    return found


def save_data(folder: Path, samples: int = TRAINING_SAMPLES) -> None:
    """Write the training images (float32, 0 to 1) and labels where each peer's process can read them."""
    from tinyconv.datasets import mnist

    (x, y), _ = mnist.load_data()
    np.save(folder / "x.npy", x[:samples, ..., np.newaxis].astype(np.float32) / 255)
    np.save(folder / "y.npy", y[:samples].astype(np.int64))


def load_data(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (samples, 28, 28, 1), and labels (samples,)."""
    return np.load(Path(folder, "x.npy")), np.load(Path(folder, "y.npy"))


def keras_model(keras: Any, dropout: float = DROPOUT) -> Any:
    """The seed's network, from Keras or from anything with Keras' names."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(10, activation="softmax"),
        ]
    )


class Convolution(NamedTuple):
    """One convolution: a batch of N square images of C channels, F filters of K x K."""

    N: int
    size: int
    C: int
    F: int
    K: int
    stride: int = 1
    padding: int = 0  # rows and columns of zeros on every side

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.K) // self.stride + 1

    @property
    def name(self) -> str:
        kind = "same" if self.padding else "valid"
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.C}→{self.F} {self.K}x{self.K}{stride} {kind}, {self.size}x{self.size}"

    @property
    def is_dense_3x3(self) -> bool:
        """Whether Winograd's method fits all three passes, and its sums are long enough to pay."""
        return self.K == 3 and self.stride == 1 and min(self.C, self.F) >= 32

    @property
    def flops(self) -> int:
        """Of one forward pass; dW and dX take as many each."""
        return 2 * self.N * self.out_size**2 * self.K**2 * self.C * self.F

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of x (NHWC), w (HWIO) and the output."""
        return {
            "x": (self.N, self.size, self.size, self.C),
            "w": (self.K, self.K, self.C, self.F),
            "out": (self.N, self.out_size, self.out_size, self.F),
        }

    @property
    def nbytes(self) -> int:
        """Of x, w and the output together."""
        return 4 * sum(int(np.prod(shape)) for shape in self.shapes.values())

    def arrays(self) -> dict[str, np.ndarray]:
        """x, w, b and dout: the same numbers in every process."""
        rng = np.random.default_rng(1)
        shapes = {**self.shapes, "b": (self.F,)}
        shapes["dout"] = shapes.pop("out")
        return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


PASSES = ("forward", "dW", "dX")

CONVOLUTIONS = (
    Convolution(32, 32, 3, 32, 3, padding=1),
    Convolution(32, 32, 32, 32, 3, padding=1),
    Convolution(32, 32, 64, 64, 3, padding=1),
    Convolution(32, 32, 64, 64, 3),
    Convolution(32, 16, 64, 64, 3, padding=1),
    Convolution(32, 16, 128, 128, 3, padding=1),
    Convolution(32, 8, 128, 128, 3, padding=1),
    Convolution(128, 13, 32, 64, 3),  # the larger one of the MNIST network
    Convolution(32, 16, 32, 64, 5, padding=2),
    Convolution(32, 64, 3, 64, 7, stride=2, padding=3),
    Convolution(32, 32, 64, 128, 3, stride=2, padding=1),
    Convolution(32, 32, 64, 128, 1),
    Convolution(32, 29, 17, 37, 3),
)
