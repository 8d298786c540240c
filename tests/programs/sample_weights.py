"""Samples of different weight."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)
weights = rng.random(12).astype(np.float32)

model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, sample_weight=weights, verbose=0).history
results = {"history": history, "score": model.evaluate(x, y, sample_weight=weights, verbose=0)}
