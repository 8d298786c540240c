"""Write what Keras computes into small files, so that parity is tested where Keras cannot be installed.

    python tests/golden/generate.py

Needs Keras and TensorFlow. The files describe themselves: ``tests/test_golden.py`` reads layers, arguments, inputs and
expected results from them and from nowhere else.

* ``layers.npz``: for each of LAYERS the input, the weights, the output, and every gradient.
* ``training.npz``: a small network trained for 20 steps with each of OPTIMIZERS from the same weights.
* ``mnist.npz``: ten steps of the whole MNIST network on the first 1,280 images that ship with tinyconv.
"""

import io
import json
import os
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent

LAYERS = [
    ("Conv2D", {"filters": 4, "kernel_size": 3}, (6, 5, 3)),
    ("Conv2D", {"filters": 3, "kernel_size": [3, 2], "strides": 2, "padding": "same", "activation": "relu"}, (7, 6, 2)),
    ("Conv2D", {"filters": 5, "kernel_size": 4, "padding": "same", "activation": "tanh"}, (5, 5, 1)),
    ("Conv2D", {"filters": 2, "kernel_size": 3, "dilation_rate": [2, 1], "use_bias": False}, (8, 6, 3)),
    ("Conv2D", {"filters": 6, "kernel_size": 1, "activation": "sigmoid"}, (1, 1, 4)),
    ("Conv2D", {"filters": 2, "kernel_size": 5, "strides": [3, 2], "padding": "same"}, (4, 9, 2)),
    ("MaxPooling2D", {"pool_size": 2}, (7, 6, 3)),
    ("MaxPooling2D", {"pool_size": [3, 2], "strides": [2, 1], "padding": "same"}, (6, 5, 2)),
    ("AveragePooling2D", {"pool_size": 3, "strides": 2}, (8, 7, 2)),
    ("AveragePooling2D", {"pool_size": 2, "padding": "same"}, (5, 5, 3)),
    ("GlobalAveragePooling2D", {}, (4, 3, 5)),
    ("Flatten", {}, (3, 2, 4)),
    ("Dense", {"units": 4, "activation": "softmax"}, (7,)),
    ("Dense", {"units": 3, "activation": "relu", "use_bias": False}, (5,)),
    ("Activation", {"activation": "softmax"}, (6,)),
    ("Activation", {"activation": "tanh"}, (3, 3, 2)),
    ("BatchNormalization", {}, (4, 3, 2)),
    ("BatchNormalization", {"center": False, "scale": False, "momentum": 0.5}, (6,)),
    ("LeakyReLU", {"negative_slope": 0.1}, (7,)),
    ("ELU", {"alpha": 1.5}, (7,)),
]

NETWORK = [
    ("Conv2D", {"filters": 4, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Conv2D", {"filters": 6, "kernel_size": 2, "padding": "same", "activation": "relu"}),
    ("AveragePooling2D", {"pool_size": 2}),
    ("Flatten", {}),
    ("Dense", {"units": 5, "activation": "softmax"}),
]
IMAGE = (10, 9, 2)
OPTIMIZERS = [
    ("Adam", {"learning_rate": 0.01}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.05}),
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
]

MNIST = [
    ("Conv2D", {"filters": 32, "kernel_size": [3, 3], "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": [2, 2]}),
    ("Conv2D", {"filters": 64, "kernel_size": [3, 3], "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": [2, 2]}),
    ("Flatten", {}),
    ("Dense", {"units": 10, "activation": "softmax"}),
]


def main():
    save("layers.npz", golden_layers())
    save("training.npz", golden_training())
    save("mnist.npz", golden_mnist())


def golden_layers():
    """Multiples of 1/8 everywhere, so that ties and zeros are exact ones in whatever order a sum is added up."""
    rng = np.random.default_rng(1)
    found = {"cases": text([[name, arguments] for name, arguments, _ in LAYERS])}
    for number, (name, arguments, shape) in enumerate(LAYERS):
        layer = getattr(keras.layers, name)(**arguments)
        x = eighths(rng, (2, *shape))
        layer.build(x.shape)
        weights = [eighths(rng, weight.shape) for weight in layer.get_weights()]
        if name == "BatchNormalization":
            weights[-1] = np.abs(weights[-1]) + 0.25  # a variance
        layer.set_weights(weights)
        found |= {f"{number}/weight_{i}": weight for i, weight in enumerate(layer.get_weights())}
        training = {"training": True} if name == "BatchNormalization" else {}
        with tf.GradientTape() as tape:
            image = tf.constant(x)
            tape.watch(image)
            out = layer(image, **training)
        dout = eighths(rng, out.shape)
        trained = [variable.value for variable in layer.trainable_variables]
        dx, *dweights = tape.gradient(out, [image, *trained], tf.constant(dout))
        found |= {f"{number}/x": x, f"{number}/out": out, f"{number}/dout": dout, f"{number}/dx": dx}
        found |= {f"{number}/dweight_{i}": gradient for i, gradient in enumerate(dweights)}
    return found


def golden_training():
    """Losses of 20 steps, and then the weights, an evaluation and the predictions."""
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((40, *IMAGE)).astype(np.float32), rng.integers(0, 5, 40)
    y = np.eye(5, dtype=np.float32)[labels]
    model = network(NETWORK, IMAGE)
    initial = [weights.astype(np.float32) for weights in model.get_weights()]
    found = {"network": text(NETWORK), "optimizers": text(OPTIMIZERS), "x": x, "y": y}
    found |= {f"initial_{i}": weights for i, weights in enumerate(initial)}
    for number, (name, arguments) in enumerate(OPTIMIZERS):
        model.set_weights(initial)
        model.compile(getattr(keras.optimizers, name)(**arguments), "categorical_crossentropy", metrics=["accuracy"])
        found[f"{number}/losses"] = train(model, x, y, 8, 20)
        found |= {f"{number}/final_{i}": weights for i, weights in enumerate(model.get_weights())}
        found[f"{number}/evaluation"] = np.array(model.evaluate(x, y, batch_size=16, verbose=0))
        found[f"{number}/predictions"] = model.predict(x, batch_size=16, verbose=0)
    return found


def golden_mnist():
    """The weights start from multiples of 1/256, which fit into a byte, of about the size of Glorot's."""
    from tinyconv.datasets import mnist

    (x, labels), _ = mnist.load_data()
    x, y = (x[:1280, :, :, None] / 255).astype(np.float32), np.eye(10, dtype=np.float32)[labels[:1280]]
    model = network(MNIST, (28, 28, 1))
    rng = np.random.default_rng(3)
    initial = [
        rng.integers(-limit, limit + 1, weights.shape).astype(np.int8)
        for weights, limit in zip(model.get_weights(), (37, 0, 21, 0, 15, 0), strict=True)
    ]
    found = {"network": text(MNIST)} | {f"initial_{i}": weights for i, weights in enumerate(initial)}
    model.set_weights([weights.astype(np.float32) / 256 for weights in initial])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    found["losses"] = train(model, x, y, 128, 10)
    found["evaluation"] = np.array(model.evaluate(x, y, batch_size=128, verbose=0))
    return found


def network(layers, shape):
    keras.utils.set_random_seed(4)
    return keras.Sequential([keras.Input(shape), *(getattr(keras.layers, name)(**given) for name, given in layers)])


def train(model, x, y, batch_size, steps):
    """The loss and the accuracy of each step's own batch; the batches go round the data."""
    found = []
    for step in range(steps):
        batch = np.arange(step * batch_size, (step + 1) * batch_size) % len(x)
        model.reset_metrics()
        found.append(model.train_on_batch(x[batch], y[batch]))
    return np.array(found)


def eighths(rng, shape):
    return (rng.integers(-8, 9, tuple(shape)) / 8).astype(np.float32)


def text(value):
    return np.array(json.dumps(value))


def save(name, arrays):
    """As np.savez_compressed, but the same bytes every time."""
    with zipfile.ZipFile(HERE / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())


if __name__ == "__main__":
    main()
