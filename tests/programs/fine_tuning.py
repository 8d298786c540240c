"""First the head, then the last layers too, at a low learning rate."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

image = keras.Input((8, 8, 1))
out = layers.Conv2D(3, 3, activation="relu", name="first")(image)
out = layers.BatchNormalization(name="norm")(out)
out = layers.Conv2D(3, 3, activation="relu", name="second")(out)
features = keras.Model(image, layers.Flatten()(out), name="features")
model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(features(image)))
# train
features.trainable = False
model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
head = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
features.trainable = True
for layer in features.layers[:-2]:
    layer.trainable = False
model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
tuned = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
names = [variable.name for variable in model.trainable_variables]
results = {"head": head, "tuned": tuned, "names": names}
