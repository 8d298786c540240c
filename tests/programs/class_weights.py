"""A rare class that counts more."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((24, 6), np.float32)
y = (rng.random(24) < 0.2).astype(int)

model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
# train
counts = np.bincount(y)
weights = {number: len(y) / (2 * count) for number, count in enumerate(counts)}
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, class_weight=weights, verbose=0).history
results = {"history": history, "counts": counts, "predictions": model.predict(x, verbose=0)}
