"""Batches from generators: training, validation, evaluation and prediction, by numbers of steps."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)


def batches(size, weights=False):
    while True:
        for start in range(0, len(x), size):
            part = x[start : start + size], y[start : start + size]
            yield (*part, np.linspace(0.5, 1.5, size)) if weights else part


model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(3, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
)
# train
model.compile(keras.optimizers.RMSprop(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
steps = {"steps_per_epoch": 2, "validation_steps": 1, "epochs": 3, "verbose": 0}
history = model.fit(batches(4), validation_data=batches(12), **steps)
weighted = model.fit(batches(6, weights=True), steps_per_epoch=2, verbose=0)
scores = model.evaluate(batches(5), steps=2, verbose=0)
images = ((x[start : start + 4],) for start in range(0, 12, 4))
results = {
    "history": history.history,
    "weighted": weighted.history,
    "scores": scores,
    "predictions": model.predict(images, verbose=0),
    "pairs": model.predict(batches(4), steps=2, verbose=0),
}
