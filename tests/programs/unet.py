"""A small U-Net that finds bright pixels."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((6, 8, 8, 1), np.float32)
y = (x > 0.5).astype(np.float32)


def double(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return x


inputs = keras.Input((8, 8, 1))
down1 = double(inputs, 3)
down2 = double(layers.MaxPooling2D()(down1), 4)
bottom = double(layers.MaxPooling2D()(down2), 5)
up2 = layers.Conv2DTranspose(4, 2, strides=2, padding="same")(bottom)
up2 = double(layers.Concatenate()([up2, down2]), 4)
up1 = layers.Conv2DTranspose(3, 2, strides=2, padding="same")(up2)
up1 = double(layers.Concatenate()([up1, down1]), 3)
model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(up1))
model.compile("sgd", "binary_crossentropy", metrics=["binary_accuracy"])
# train
history = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history
results = {"history": history, "masks": model.predict(x, verbose=0)}
