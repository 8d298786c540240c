"""Units dropped while training, none when asked."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(4, 3, activation="relu"),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(3, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
# train
predictions = model.predict(x, verbose=0)
twice = model.predict(x, verbose=0)
history = model.fit(x, y, batch_size=6, epochs=2, verbose=0, validation_split=0.25).history
results = {"predictions": predictions, "twice": twice, "measured": sorted(history), "epochs": len(history["loss"])}
