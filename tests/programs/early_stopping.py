"""Stop when nothing gets better, and go back to the best."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
# train
callbacks = [
    keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
    keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1),
]
run = model.fit(
    x[:16],
    y[:16],
    batch_size=6,
    epochs=8,
    shuffle=False,
    validation_data=(x[8:], y[8:]),
    callbacks=callbacks,
    verbose=0,
)
results = {"history": run.history, "epochs": run.epoch, "score": model.evaluate(x, y, verbose=0)}
