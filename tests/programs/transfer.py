"""A trained base without its head, frozen, under a new head."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

base = keras.Sequential(
    [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()], name="base"
)
pretrained = keras.Sequential([base, layers.Dense(3, activation="softmax")])
model = keras.Sequential([base, layers.Dense(4, activation="relu"), layers.Dense(1)])
# train
pretrained.compile("sgd", "sparse_categorical_crossentropy")
pretrained.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
before = base.get_weights()
base.trainable = False
model.compile("sgd", "mse")
counts = [len(model.trainable_weights), len(model.non_trainable_weights)]
history = model.fit(x, y.astype("float32"), batch_size=6, epochs=2, shuffle=False, verbose=0).history
kept = all((a == b).all() for a, b in zip(before, base.get_weights(), strict=True))
results = {"history": history, "counts": counts, "kept": kept}
