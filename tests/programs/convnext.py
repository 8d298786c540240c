"""Large depthwise windows, layer normalisation and GELU."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)


def block(x, size):
    y = layers.DepthwiseConv2D(5, padding="same")(x)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Dense(4 * size)(y)
    y = keras.activations.gelu(y)
    y = layers.Dense(size)(y)
    return x + 0.5 * y


image = keras.Input((8, 8, 1))
out = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(4, 2, strides=2)(image))
out = block(out, 4)
out = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(out))
model = keras.Model(image, layers.Dense(3, activation="softmax")(out))
model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.01), "sparse_categorical_crossentropy")
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
results = {"history": history, "predictions": model.predict(x, verbose=0)}
