"""Weights that cost something."""

import keras
import numpy as np
from keras import layers, regularizers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(3, 3, activation="relu", kernel_regularizer=regularizers.l2(0.01)),
        layers.Flatten(),
        layers.Dense(4, activation="relu", kernel_regularizer=regularizers.L1L2(l1=0.001, l2=0.01)),
        layers.Dense(3, activation="softmax", bias_regularizer="l1"),
    ]
)
model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
results = {"history": history, "score": model.evaluate(x, y, verbose=0), "weights": model.get_weights()}
