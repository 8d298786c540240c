"""Save a model, load it, and train on."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
# train
model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
model.save("model.keras")
again = keras.models.load_model("model.keras")
same = np.allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
history = again.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
results = {"history": history, "same": same, "steps": int(again.optimizer.iterations)}
