"""A learning rate for each epoch, by a function."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)


def rate_of(epoch, rate):
    return rate if epoch < 2 else rate * 0.5


model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
model.compile(keras.optimizers.RMSprop(0.01), "sparse_categorical_crossentropy")
# train
scheduler = keras.callbacks.LearningRateScheduler(rate_of)
history = model.fit(x, y, batch_size=6, epochs=4, shuffle=False, callbacks=[scheduler], verbose=0).history
results = {"history": history}
