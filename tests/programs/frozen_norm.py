"""Batch normalisation that is frozen goes by its moving statistics."""

import keras
import numpy as np
from keras import layers

rng = np.random.default_rng(0)
x = rng.random((12, 8, 8, 1), np.float32)
y = rng.integers(0, 3, 12)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(3, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm"),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(3, activation="softmax", name="head"),
    ]
)
# train
results = {}
for trainable in (True, False):
    model.get_layer("norm").trainable = trainable
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
    statistics = model.get_layer("norm").moving_mean.numpy()
    names = [variable.path for variable in model.get_layer("norm").trainable_weights]
    results[f"norm {trainable}"] = [history, statistics, len(names)]
results["counts"] = [len(model.trainable_weights), len(model.non_trainable_weights)]
results["training"] = np.asarray(model(x[:4], training=False))
