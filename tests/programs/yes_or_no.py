"""A binary classifier, and how well it does."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)
kind = (x.mean(axis=(1, 2, 3)) > 0.5).astype(np.float32)

model = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(1)]
)
model.add(layers.Activation("sigmoid"))
measures = [
    keras.metrics.BinaryAccuracy(name="accuracy"),
    keras.metrics.Precision(name="precision"),
    keras.metrics.Recall(name="recall"),
    keras.metrics.AUC(name="auc", num_thresholds=20),
]
model.compile("adam", keras.losses.BinaryCrossentropy(), metrics=measures)
# train
history = model.fit(x, kind, batch_size=6, epochs=2, shuffle=False, verbose=0).history
scores = model.evaluate(x, kind, verbose=0, return_dict=True)
guessed = (model.predict(x, verbose=0) > 0.5).astype(int)
results = {"history": history, "scores": scores, "guessed": guessed}
