"""Depthwise and pointwise convolutions, bounded ReLUs."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)


def block(x, filters, strides):
    x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, strides=strides, padding="valid", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(filters, 1, padding="same", use_bias=False)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


image = keras.Input((8, 8, 1))
out = layers.Conv2D(3, 3, padding="same", use_bias=False)(image)
out = block(block(out, 4, 1), 5, 2)
out = layers.GlobalAveragePooling2D(keepdims=True)(out)
out = layers.Reshape((3,))(layers.Conv2D(3, 1)(out))
model = keras.Model(image, layers.Softmax()(out))
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
# train
history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
results = {"history": history, "predictions": model.predict(x, verbose=0)}
