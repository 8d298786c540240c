"""A learning rate that decays with every step."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=4, decay_rate=0.5, staircase=True)
model.compile(keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
# train
history = model.fit(x, y, batch_size=6, epochs=4, shuffle=False, verbose=0).history
rate = float(model.optimizer.learning_rate)
results = {"history": history, "rate": rate, "steps": int(model.optimizer.iterations)}
