"""Strides in place of pooling."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(name="strided")
model.add(keras.Input((8, 8, 1)))
model.add(layers.Conv2D(4, 3, padding="same", activation="elu"))
model.add(layers.Conv2D(4, 3, strides=2, padding="same"))
model.add(layers.LeakyReLU(negative_slope=0.1))
model.add(layers.Conv2D(3, 3, dilation_rate=2, padding="same", activation="selu", kernel_initializer="lecun_normal"))
model.add(layers.GlobalAveragePooling2D())
model.add(layers.Activation("softmax"))
model.compile(keras.optimizers.Adam(0.01, clipnorm=1.0), "sparse_categorical_crossentropy")
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
lines = []
model.summary(print_fn=lambda text: lines.append(text))
shown = all(layer.name in "".join(lines) for layer in model.layers)
results = {"history": history, "shown": shown}
