"""An encoder and a decoder, trained as one."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

image = keras.Input((8, 8, 1))
code = layers.Dense(5, activation="relu", name="code")(layers.Flatten()(image))
encoder = keras.Model(image, code, name="encoder")
vector = keras.Input((5,))
picture = layers.Reshape((8, 8, 1))(layers.Dense(64, activation="sigmoid")(vector))
decoder = keras.Model(vector, picture, name="decoder")
model = keras.Model(image, decoder(encoder(image)), name="autoencoder")
model.compile("rmsprop", "mse")
# train
history = model.fit(x, x, batch_size=6, epochs=2, shuffle=False, verbose=0).history
codes = encoder.predict(x, verbose=0)
results = {"history": history, "codes": codes, "pictures": decoder.predict(codes, verbose=0)}
