"""Augmentation as a block of layers in front of a network: at work in training, and only there."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 2), np.float32)
y = rng.integers(0, 3, 12)

# Ranges without a width, so that there is nothing to draw; and a flip, at a rate of learning of 0
turned = keras.Sequential([layers.RandomRotation((0.11, 0.11), fill_mode="constant", seed=1)], name="turned")
flipped = keras.Sequential(
    [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.2, 0.1), layers.RandomZoom(0.3)], name="flipped"
)


def network(augment):
    image = keras.Input((8, 8, 2))
    z = layers.Conv2D(4, 3, activation="relu")(augment(image))
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(z)))


model, still = network(turned), network(flipped)
# train
settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
model.compile(keras.optimizers.SGD(0.1), **settings)
still.compile(keras.optimizers.SGD(0.0), **settings)
run = {"batch_size": 6, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (x, y)}
history = model.fit(x, y, **run).history
seen = still.fit(x, y, **run).history
again = np.asarray(flipped(x, training=True))
results = {
    "history": history,
    "kept": [seen["val_loss"], seen["val_accuracy"]],
    "predictions": [model.predict(x, verbose=0), still.predict(x, verbose=0)],
    "shape": again.shape,
    "other": bool((again != x).any()),
    "same": bool((np.asarray(flipped(x, training=False)) == x).all()),
    "turned": np.asarray(turned(x, training=True)),
}
