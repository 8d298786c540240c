"""The networks beside the seed's: one description of each, for Keras and for anything with Keras' names.

``benchmarks/peers/torch_networks.py`` is the same in PyTorch. Every peer begins with the same weights, and has to give
the same outputs and the same losses in its first steps before a clock runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10
MOMENTUM, EPSILON = 0.99, 1e-3  # of batch normalisation, as Keras has them


class Network(NamedTuple):
    """A network, and how it is trained.

    ``mirrored``: whether PyTorch is given mirrored images and filters. Where a convolution with stride 2 has to pad an
    even image by one pixel, Keras puts it at the bottom and on the right, PyTorch at the top and on the left. Seen in a
    mirror they are the same, so that each pads in its own way, which costs it least.
    """

    name: str
    make: Callable[[Any], Any]  # from a module with Keras' names
    image: tuple[int, ...]
    batch: int
    steps: int  # in a turn: enough of them that a pass' beginning and end do not count
    mirrored: bool = False
    predicted: int = 256  # the largest batch at inference

    def data(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (samples, *image) from 0 to 1, and labels (samples,): the same in every process."""
        images, labels = (np.random.default_rng(seed) for seed in (2, 3))
        return images.random((samples, *self.image), np.float32), labels.integers(0, CLASSES, samples)


def vgg(keras: Any) -> Any:
    """Pairs of 3 x 3 convolutions that double their channels where pooling halves the image (Simonyan and Zisserman,
    2014), each with batch normalisation, as small as 32 x 32 pixels allow."""
    layers = keras.layers
    body = []
    for channels in (64, 128, 256):
        for _ in range(2):
            body += [layers.Conv2D(channels, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
        body.append(layers.MaxPooling2D(2))
    return keras.Sequential([keras.Input((32, 32, 3)), *body, layers.Flatten(), head(layers)])


def lenet(keras: Any) -> Any:
    """LeNet-5 with tanh and average pooling (LeCun et al., 1998), a softmax at its end."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="tanh"),
            layers.Dense(84, activation="tanh"),
            head(layers),
        ]
    )


def mlp(keras: Any) -> Any:
    """784-512-512-10."""
    layers = keras.layers
    hidden = [layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, head(layers)])


def tutorial(keras: Any) -> Any:
    """The network of TensorFlow's tutorial on convolutional networks, for CIFAR-10."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            head(layers),
        ]
    )


def strided(keras: Any) -> Any:
    """No pooling: strides halve the image, and the mean over its last positions decides (Springenberg et al., 2014)."""
    layers = keras.layers
    body = [layers.Conv2D(width, 3, strides=2, padding="same", activation="relu") for width in (32, 64, 128)]
    return keras.Sequential([keras.Input((32, 32, 3)), *body, layers.GlobalAveragePooling2D(), head(layers)])


def resnet(keras: Any) -> Any:
    """Three stages of one residual block (He et al., 2015). Where a block halves the image, its shortcut is a mean over
    2 x 2 pixels before a 1 x 1 convolution (He et al., 2018: "ResNet-D")."""
    image = keras.Input((32, 32, 3))
    x = normalised(keras, image, 16, 3)
    for channels, strides in ((16, 1), (32, 2), (64, 2)):
        x = residual(keras, x, channels, strides)
    return keras.Model(image, head(keras.layers)(keras.layers.GlobalAveragePooling2D()(x)))


def stem(keras: Any) -> Any:
    """How a ResNet begins on images of 224 x 224, and its first residual block."""
    image = keras.Input((224, 224, 3))
    x = normalised(keras, image, 64, 7, strides=2)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = residual(keras, x, 64, 1)
    return keras.Model(image, head(keras.layers)(keras.layers.GlobalAveragePooling2D()(x)))


def residual(keras: Any, x: Any, channels: int, strides: int) -> Any:
    """relu(f(x) + x), f being two normalised convolutions."""
    layers = keras.layers
    inner = normalised(keras, x, channels, 3, strides=strides)
    inner = normalised(keras, inner, channels, 3, relu=False)
    if strides > 1:
        x = normalised(keras, layers.AveragePooling2D(strides)(x), channels, 1, relu=False)
    return layers.ReLU()(layers.Add()([inner, x]))


def normalised(keras: Any, x: Any, channels: int, size: int, strides: int = 1, relu: bool = True) -> Any:
    """Convolution, batch normalisation, ReLU."""
    layers = keras.layers
    x = layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def head(layers: Any) -> Any:
    return layers.Dense(CLASSES, activation="softmax")


SMALL = (
    Network("VGG with batch norm", vgg, (32, 32, 3), 32, 3),
    Network("LeNet-5", lenet, (28, 28, 1), 128, 80),
    Network("MLP 784-512-512-10", mlp, (784,), 128, 80),
    Network("tutorial CNN", tutorial, (32, 32, 3), 128, 12),
    Network("strided net", strided, (32, 32, 3), 128, 20, mirrored=True),
    Network("small ResNet", resnet, (32, 32, 3), 128, 8, mirrored=True),
)
LARGE_IMAGES = Network("ResNet's stem on 224x224", stem, (224, 224, 3), 8, 3, mirrored=True, predicted=0)
NETWORKS = {network.name: network for network in (*SMALL, LARGE_IMAGES)}


class Answers(NamedTuple):
    """What a network computes, from the reference kernels: the first outputs, and the losses of some training steps,
    all on the first batch. And what its definition takes: multiplications and additions of matrix products and
    convolutions, one by one."""

    weights: list[np.ndarray]  # that every peer begins with, in Keras' order
    outputs: np.ndarray
    losses: list[float]
    inference: float = 0.0  # FLOPs for a sample
    training: float = 0.0  # FLOPs for a sample


def answers(network: Network, batch: int, steps: int = 2) -> Answers:
    """Weights as tinyconv draws them; the moving statistics of batch normalisation are not left at 0 and 1."""
    import tinyconv

    tinyconv.utils.set_random_seed(0)
    rng = np.random.default_rng(4)
    model = network.make(tinyconv)
    for layer in model.layers:
        if isinstance(layer, tinyconv.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, array.shape) for array in layer.get_weights()])
    weights = model.get_weights()
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    x, y = network.data(batch)
    outputs = model(x[:8])
    losses = [float(model.fit(x, y, batch_size=batch, verbose=0).history["loss"][0]) for _ in range(steps)]
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference", fuse=False)  # as it is defined
    forward, all_of_it = (
        sum(step.flops for step in model.plan.all_steps() if step.phase in phases) / model.plan.batch_size
        for phases in (("forward",), ("forward", "backward"))
    )
    return Answers(weights, outputs, losses, forward, all_of_it)
