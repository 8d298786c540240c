"""The best model of a run, from its file."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
# train
checkpoint = keras.callbacks.ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True)
history = model.fit(
    x, y, batch_size=6, epochs=4, shuffle=False, validation_split=0.25, callbacks=[checkpoint], verbose=0
).history
best = keras.models.load_model("best.keras")
results = {"history": history, "best": best.evaluate(x, y, verbose=0), "last": model.evaluate(x, y, verbose=0)}
