"""A number from an image, with losses that bear outliers."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)
target = 10 * x.mean(axis=(1, 2, 3))

model = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, activation="softplus"), layers.Flatten(), layers.Dense(1)]
)
# train
results = {}
for loss in ("mse", "mae", keras.losses.Huber(delta=2.0)):
    model.compile(keras.optimizers.SGD(0.001, clipvalue=0.5), loss, metrics=["mae", "mse"])
    history = model.fit(x, target, batch_size=6, epochs=2, shuffle=False, verbose=0).history
    results[str(loss if isinstance(loss, str) else loss.name)] = history
results["predictions"] = model.predict(x, verbose=0)
