"""A class and a number from one image."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)
size = x.mean(axis=(1, 2, 3))[:, None]

image = keras.Input((8, 8, 1), name="image")
features = layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(image))
kind = layers.Dense(3, activation="softmax", name="kind")(features)
bright = layers.Dense(1, name="bright")(features)
model = keras.Model(image, [kind, bright])
model.compile(
    keras.optimizers.SGD(0.05),
    loss={"kind": "sparse_categorical_crossentropy", "bright": "mse"},
    loss_weights={"kind": 1.0, "bright": 0.5},
    metrics={"kind": ["accuracy"], "bright": ["mae"]},
)
# train
history = model.fit(x, {"kind": y, "bright": size}, batch_size=6, epochs=2, shuffle=False, verbose=0).history
kinds, sizes = model.predict(x, verbose=0)
results = {"history": history, "kinds": kinds, "sizes": sizes}
