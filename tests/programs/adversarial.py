"""A generator and a discriminator, in turn."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
noise = rng.standard_normal((16, 4)).astype(np.float32)
real = rng.random((16, 4, 4, 1), np.float32)

generator = keras.Sequential(
    [
        keras.Input((4,)),
        layers.Dense(2 * 2 * 3),
        layers.Reshape((2, 2, 3)),
        layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid"),
    ],
    name="generator",
)
discriminator = keras.Sequential(
    [
        keras.Input((4, 4, 1)),
        layers.Conv2D(3, 3, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=0.2),
        layers.Flatten(),
        layers.Dense(1, activation="sigmoid"),
    ],
    name="discriminator",
)
model = keras.Sequential([generator, discriminator])
# train
losses = []
discriminator.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
discriminator.trainable = True
for _ in range(2):
    fake = generator.predict(noise, verbose=0)
    pictures = np.concatenate([real, fake])
    labels = np.concatenate([np.ones((16, 1)), np.zeros((16, 1))]).astype(np.float32)
    losses.append(float(discriminator.train_on_batch(pictures, labels)))
discriminator.trainable = False
model.compile(keras.optimizers.SGD(0.05), "binary_crossentropy")
yes = np.ones((16, 1), np.float32)
losses += [float(model.train_on_batch(noise, yes)) for _ in range(2)]
results = {"losses": losses, "pictures": generator.predict(noise, verbose=0)}
