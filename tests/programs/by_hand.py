"""A loop over batches of one's own, with a learning rate set by hand."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
# train
losses = []
for epoch in range(3):
    model.optimizer.learning_rate = 0.1 / (1 + epoch)
    for start in range(0, 12, 6):
        logs = model.train_on_batch(x[start : start + 6], y[start : start + 6], return_dict=True)
    losses.append(model.test_on_batch(x, y, return_dict=True)["loss"])
rate = float(model.optimizer.learning_rate)
results = {"losses": losses, "rate": rate, "scores": model.predict_on_batch(x[:3])}
