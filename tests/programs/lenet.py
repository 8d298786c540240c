"""LeNet: tanh and average pooling."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(3, 3, padding="same", activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Conv2D(4, 3, activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(8, activation="tanh"),
        layers.Dense(3, activation="softmax"),
    ]
)
model.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, validation_data=(x, y), verbose=0).history
results = {"history": history, "predictions": model.predict(x, verbose=0)}
