"""A class for every pixel."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((6, 8, 8, 3), np.float32)
y = (3 * x.mean(axis=-1)).astype("int32")

model = keras.Sequential(
    [
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, strides=2, activation="relu", padding="same"),
        layers.Conv2D(6, 3, activation="relu", padding="same"),
        layers.Conv2DTranspose(4, 3, activation="relu", padding="same"),
        layers.Conv2DTranspose(4, 3, strides=2, activation="relu", padding="same"),
        layers.Conv2D(3, 3, activation="softmax", padding="same"),
    ]
)
model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
# train
history = model.fit(x, y, batch_size=3, epochs=2, shuffle=False, verbose=0).history
mask = model.predict(x[:1], verbose=0)[0].argmax(axis=-1)
results = {"history": history, "shape": mask.shape}
