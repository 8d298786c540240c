"""Warm up, then follow a cosine; and pieces of constants."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

schedules = keras.optimizers.schedules
cosine = schedules.CosineDecay(0.0, decay_steps=8, warmup_target=0.05, warmup_steps=3)
pieces = schedules.PiecewiseConstantDecay([3, 6], [0.1, 0.05, 0.01])
model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(cosine), loss)
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
rates = [[float(schedule(step)) for step in range(10)] for schedule in (cosine, pieces)]
results = {"history": history, "rates": rates}
