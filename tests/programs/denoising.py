"""A convolutional autoencoder that takes noise away."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)
noisy = np.clip(x + 0.2 * rng.standard_normal(x.shape).astype(np.float32), 0, 1)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(4, 3, activation="relu", padding="same"),
        layers.MaxPooling2D(2, padding="same"),
        layers.Conv2D(4, 3, activation="relu", padding="same"),
        layers.UpSampling2D(2),
        layers.Conv2D(1, 3, activation="sigmoid", padding="same"),
    ]
)
model.compile("adam", loss="binary_crossentropy")
# train
history = model.fit(noisy, x, batch_size=6, epochs=2, shuffle=False, validation_split=0.5, verbose=0).history
results = {"history": history, "clean": model.predict(noisy[:4], verbose=0)}
