"""Two images through one encoder, and the square of their distance."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
left, right = rng.standard_normal((2, 16, 8, 8, 1)).astype(np.float32)
same = rng.integers(0, 2, 16).astype(np.float32)

encoder = keras.Sequential(name="encoder")
encoder.add(layers.Conv2D(3, 3, activation="tanh"))
encoder.add(layers.MaxPooling2D())
encoder.add(layers.Flatten())
encoder.add(layers.Dense(6, activation="tanh"))
a, b = keras.Input((8, 8, 1), name="a"), keras.Input((8, 8, 1), name="b")
difference = layers.subtract([encoder(a), encoder(b)])
square = layers.multiply([difference, difference])
model = keras.Model([a, b], layers.Dense(1, activation="sigmoid")(square))
model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["accuracy"])
# train
history = model.fit([left, right], same, batch_size=4, epochs=3, shuffle=False, verbose=0).history
results = {"history": history, "codes": encoder.predict(left, verbose=0)}
